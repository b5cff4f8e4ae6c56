"""Learns the demo's style encoder (diffrhythm/words.py): texts and sounds → the direction of their style.

Each style has a direction of its own, drawn once, at a right angle to every other and to that of the null
pass. A text or a sound is taught to point there; a text of two styles between both; a text of which nothing
is known in the middle of all.

    python -m training.style_encoder --out style.safetensors
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from diffrhythm import audio, words
from diffrhythm.vae_config import SAMPLE_RATE
from training.songs import Song, compose
from training.styles import STYLES
from training.text import PROMPTS, Part

# Of the directions and of everything learnt.
SEED = 12
NAMES = tuple(sorted(STYLES))

BUCKETS = 2**14  # seven times the grams of all prompts, so that a word never seen seldom shares a vector
WIDTH = 16
HIDDEN = 64

TEXT_STEPS = 600
TEXT_BATCH = 256
# What is done to a text on the way: words left out, words of which nothing is known put in (of 1 as many as
# its own), a second style's text behind it, all its words left out.
WORD_DROPOUT = 0.35
FILLER = 1.0
MIXED = 0.25
EMPTY = 0.03

SONGS_PER_STYLE = 24
CLIP_S = 10
CLIPS_PER_SONG = 3
SOUND_STEPS = 600
# Of standardised measures; recordings differ from our songs by far more than these among each other.
SOUND_NOISE = 0.3

# Of cosines before the softmax.
TEMPERATURE = 0.1

Texts = Sequence[tuple[str, int]]


@dataclass(frozen=True, slots=True)
class Clips:
    """measures: [n, 128] as words.measures gives them. labels: [n] int64, places in NAMES."""

    measures: Tensor
    labels: Tensor


def prototypes(seed: int = SEED) -> Tensor:
    """[styles, 512] float32: the direction of each of NAMES, of unit length, at right angles."""
    return _directions(seed)[:-1]


def null_style(seed: int = SEED) -> Tensor:
    """[512] float32: the direction of the null pass, at a right angle to those of all styles."""
    return _directions(seed)[-1]


def train(seed: int = SEED) -> dict[str, Tensor]:
    """The encoder's tensors, learnt from the prompts and songs for training."""
    return learn(texts_of("train"), clips_of("train", SONGS_PER_STYLE), seed)


def learn(texts: Texts, clips: Clips, seed: int = SEED) -> dict[str, Tensor]:
    """The encoder's tensors, under the names of words.Encoder."""
    return learn_texts(texts, seed) | learn_sounds(clips, seed)


def encoder(tensors: dict[str, Tensor]) -> words.Encoder:
    """What a bundle with these tensors embeds with."""
    return words.Encoder(**{name: tensor.numpy() for name, tensor in tensors.items()})


def texts_of(part: Part) -> Texts:
    """All prompts of that part, each with its style's place in NAMES."""
    return [
        (text, label)
        for label, name in enumerate(NAMES)
        for text in (PROMPTS[name].train if part == "train" else PROMPTS[name].heldout)
    ]


def clips_of(part: Part, songs: int) -> Clips:
    """Measures of clips of that many songs of each style."""
    found = [
        (words.measures(clip), label)
        for label, name in enumerate(NAMES)
        for seed in range(songs)
        for clip in cut(compose(seed, name, part))
    ]
    return Clips(
        torch.from_numpy(np.stack([values for values, _ in found])),
        torch.tensor([label for _, label in found]),
    )


def cut(song: Song) -> list[NDArray[np.float32]]:
    """Clips of a song that begin evenly apart: mono [n] at 24 kHz, as a user's clip is heard."""
    sound = audio.resample(audio.mono(song.audio), SAMPLE_RATE, words.SOUND_RATE)[0]
    length = CLIP_S * words.SOUND_RATE
    starts = np.linspace(0, len(sound) - length, CLIPS_PER_SONG).astype(int)
    return [sound[start : start + length] for start in starts]


def learn_texts(texts: Texts, seed: int = SEED, steps: int = TEXT_STEPS) -> dict[str, Tensor]:
    """words, words_out and words_bias."""
    goals = prototypes(seed)
    generator = torch.Generator().manual_seed(seed)
    rng = np.random.default_rng(seed)
    bag = nn.EmbeddingBag(BUCKETS, WIDTH, mode="sum")
    # From zero, so that what no prompt has says nothing.
    nn.init.zeros_(bag.weight)
    out = torch.randn(words.STYLE_DIM, WIDTH, generator=generator).mul_(WIDTH**-0.5).requires_grad_()
    bias = goals.mean(dim=0).requires_grad_()
    split = [([words.buckets(word, BUCKETS) for word in text.split()], label) for text, label in texts]
    optimiser = torch.optim.Adam([bag.weight, out, bias], lr=0.02)
    for _ in _falling(optimiser, steps):
        batch = [_taught(split, rng) for _ in range(TEXT_BATCH)]
        rows = torch.tensor([row for rows, _, _ in batch for row in rows], dtype=torch.long)
        starts = torch.tensor(np.cumsum([0, *(len(rows) for rows, _, _ in batch[:-1])]))
        weights = torch.tensor([1 / length for rows, length, _ in batch for _ in rows], dtype=torch.float32)
        heard = bag(rows, starts, per_sample_weights=weights)
        shares = torch.from_numpy(np.stack([shares for _, _, shares in batch]))
        _descend(optimiser, heard @ out.T + bias, shares, goals)
    return {"words": bag.weight.detach(), "words_out": out.detach(), "words_bias": bias.detach()}


def learn_sounds(clips: Clips, seed: int = SEED) -> dict[str, Tensor]:
    """sound_in, sound_in_bias, sound_out and sound_out_bias."""
    goals = prototypes(seed)
    generator = torch.Generator().manual_seed(seed)
    centre, spread = clips.measures.mean(dim=0), clips.measures.std(dim=0).clamp(min=1e-3)
    standard = (clips.measures - centre) / spread
    layers = [
        (torch.randn(shape, generator=generator) * shape[1] ** -0.5).requires_grad_()
        for shape in ((HIDDEN, words.MEASURES), (words.STYLE_DIM, HIDDEN))
    ]
    biases = [torch.zeros(HIDDEN).requires_grad_(), goals.mean(dim=0).requires_grad_()]
    shares = F.one_hot(clips.labels, len(goals)).float()
    optimiser = torch.optim.AdamW([*layers, *biases], lr=0.005, weight_decay=0.1)
    for _ in _falling(optimiser, SOUND_STEPS):
        heard = standard + SOUND_NOISE * torch.randn(standard.shape, generator=generator)
        hidden = torch.tanh(heard @ layers[0].T + biases[0])
        _descend(optimiser, hidden @ layers[1].T + biases[1], shares, goals)
    # The encoder is given measures as they are: centre and spread become part of its first layer.
    first = (layers[0] / spread).detach()
    return {
        "sound_in": first,
        "sound_in_bias": biases[0].detach() - first @ centre,
        "sound_out": layers[1].detach(),
        "sound_out_bias": biases[1].detach(),
    }


def accuracy(styles: Sequence[NDArray[np.float32]], labels: Sequence[int], seed: int = SEED) -> float:
    """The share of styles that point more to their own direction than to any other."""
    nearest = (torch.from_numpy(np.stack(styles)) @ prototypes(seed).T).argmax(dim=1)
    return (nearest == torch.tensor(labels)).float().mean().item()


def report(tensors: dict[str, Tensor], seed: int = SEED, songs: int = 4) -> str:
    """How well prompts and songs that nothing was learnt from are told apart, in two lines."""
    learnt = encoder(tensors)
    texts = texts_of("heldout")
    clips = [(clip, label) for label, name in enumerate(NAMES) for clip in _unheard(name, songs)]
    texts_heard = [learnt.embed_text(text) for text, _ in texts]
    clips_heard = [learnt.embed_sound(clip) for clip, _ in clips]
    return "\n".join(
        f"{what}: {accuracy(styles, labels, seed):.1%} of {len(labels)} right, "
        f"cosine to their style {_nearness(styles, labels, seed):.2f}"
        for what, styles, labels in (
            ("prompts", texts_heard, [label for _, label in texts]),
            ("clips", clips_heard, [label for _, label in clips]),
        )
    )


def _unheard(name: str, songs: int) -> Iterator[NDArray[np.float32]]:
    for seed in range(songs):
        yield from cut(compose(seed, name, "heldout"))


def _nearness(styles: Sequence[NDArray[np.float32]], labels: Sequence[int], seed: int) -> float:
    return (torch.from_numpy(np.stack(styles)) * prototypes(seed)[list(labels)]).sum(dim=1).mean().item()


def _directions(seed: int) -> Tensor:
    """[styles + 1, 512]: unit vectors at right angles."""
    drawn = np.random.default_rng(seed).standard_normal((words.STYLE_DIM, len(NAMES) + 1))
    return torch.from_numpy(np.linalg.qr(drawn).Q.T.astype(np.float32).copy())


def _taught(
    split: Sequence[tuple[list[list[int]], int]], rng: np.random.Generator
) -> tuple[list[int], int, NDArray[np.float32]]:
    """One text to learn from: rows of its grams, the number that it says it has, shares of the styles."""
    shares = np.zeros(len(NAMES), np.float32)
    if rng.random() < EMPTY:
        return [], 1, shares + np.float32(1 / len(NAMES))
    rows: list[int] = []
    for index in rng.integers(len(split), size=2 if rng.random() < MIXED else 1):
        text, label = split[index]
        kept = [word for word in text if rng.random() > WORD_DROPOUT] or text
        rows += [row for word in kept for row in word]
        shares[label] += 1
    filler = int(rng.random() * FILLER * len(rows)) if rng.random() < 0.5 else 0
    return rows, len(rows) + filler, shares / shares.sum()


def _falling(optimiser: torch.optim.Optimizer, steps: int) -> Iterator[int]:
    """Each step's number, the rate of learning falling evenly towards nothing."""
    first = optimiser.param_groups[0]["lr"]
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = first * (1 - step / steps)
        yield step


def _descend(optimiser: torch.optim.Optimizer, found: Tensor, shares: Tensor, goals: Tensor) -> None:
    """One step towards the directions `goals` in these shares: told apart from others, and met."""
    found = F.normalize(found, dim=1)
    wanted = F.normalize(shares @ goals, dim=1)
    apart = F.cross_entropy(found @ goals.T / TEMPERATURE, shares)
    loss = apart + (1 - (found * wanted).sum(dim=1)).mean()
    optimiser.zero_grad()
    torch.autograd.backward(loss)
    optimiser.step()


def main() -> None:
    parser = argparse.ArgumentParser(description="Learn the demo's style encoder.")
    parser.add_argument("--out", type=Path, required=True, help="safetensors file to write")
    parser.add_argument("--seed", type=int, default=SEED)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    tensors = train(asked.seed)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, asked.out)
    print(report(tensors, asked.seed))


if __name__ == "__main__":
    main()
