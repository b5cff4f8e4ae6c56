"""How a song made in overlapping windows sounds where they meet, against what it sounds like inside.

Example: python -m benchmarks.seams --songs 4

Songs have the lyrics and styles of the demo model's training (training/songs.py), but are longer than a
window. Each is made in windows that know what was made before (windows.py), and, for comparison, in windows
that do not, cut together or faded into each other: what a measure finds where nothing holds a song together.

jump: of 100 places inside, how many change their spectrum less from one 23 ms to the next than a seam does
(a seam like any place: 50). level: dB between the 2 s before and behind. chords: cosine between the pitch
classes of the 8 s before and behind. beat: how far the beats behind are off those before, in beats (at
random: 0.25). Inside means at places a second or more from a seam.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks import machine
from benchmarks.listening import lrc
from diffrhythm import audio, bundle, conditioning, sampling, vae
from diffrhythm.generate import Request, inspect, seeded_noise
from diffrhythm.style import embed
from diffrhythm.transformer import DiT
from diffrhythm.vae_config import HOP, SAMPLE_RATE
from diffrhythm.windows import Window, cover
from training import text
from training.listening import STEP, log_mel
from training.songs import compose
from training.styles import STYLES

Way = tuple[float, float, int, int, str]
Floats = NDArray[np.float64]
Sound = NDArray[np.float32]

FIRST_SEED = 70_000
PER_S = SAMPLE_RATE / STEP
# Seconds of a window and of its overlap at least, frames that windows begin on multiples of, seams, how
# windows meet. The demo's beats have 12, 18 or 24 frames: 72 is a multiple of all.
WAYS: tuple[Way, ...] = (
    (20, 2, 1, 2, "cut together"),
    (20, 2, 1, 2, "faded"),
    (20, 2, 1, 2, "known"),
    (20, 8, 1, 2, "known"),
    (20, 6.6, 72, 2, "cut together"),
    (20, 6.6, 72, 2, "known"),
    (40, 8, 72, 1, "known"),
)


@dataclass(frozen=True, slots=True)
class Song:
    lyrics: str
    style: str
    prompt: str
    seed: int


@dataclass(frozen=True, slots=True)
class Figures:
    """Of seams, and of places inside; see the top."""

    jump: list[float]
    level: tuple[list[float], list[float]]
    chords: tuple[list[float], list[float]]
    beat: tuple[list[float], list[float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--songs", type=int, default=4)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="folder for the songs as flac")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    model = bundle.load(asked.model)
    machine.header(f"Seams of {asked.songs} songs: {model.name}, {asked.steps} steps")
    print(
        "| window | overlap | begins on | windows | jump | level | inside | chords | inside | beat | inside |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for way in WAYS:
        show(way, [measured(model, number, way, asked.steps, asked.keep) for number in range(asked.songs)])


def song(number: int, seconds: float) -> Song:
    style, seed = sorted(STYLES)[(3 * number + 1) % len(STYLES)], FIRST_SEED + number
    made = compose(seed, style, "heldout", round(seconds * SAMPLE_RATE / HOP))
    prompt = text.prompt(style, np.random.default_rng(seed), "heldout")
    return Song(lrc(made.alignment), style, prompt, seed)


def show(way: Way, each: Sequence[Figures]) -> None:
    def mean(of: Callable[[Figures], list[float]]) -> float:
        return float(np.mean([value for figures in each for value in of(figures)]))

    window_s, overlap_s, step, _, meeting = way
    cells = [
        f"{window_s:g} s",
        f"{overlap_s:g} s",
        f"{step}",
        meeting,
        f"{mean(lambda f: f.jump):.0f}",
        *(f"{mean(lambda f, i=i: f.level[i]):.1f} dB" for i in (0, 1)),  # type: ignore[misc]
        *(f"{mean(lambda f, i=i: f.chords[i]):.2f}" for i in (0, 1)),  # type: ignore[misc]
        *(f"{mean(lambda f, i=i: f.beat[i]):.2f}" for i in (0, 1)),  # type: ignore[misc]
    ]
    print(f"| {' | '.join(cells)} |", flush=True)


# ---------------------------------------------------------------- what is made


def measured(model: bundle.Bundle, number: int, way: Way, steps: int, folder: Path | None) -> Figures:
    window_s, overlap_s, step, seams, meeting = way
    at_once, overlap = bundle.frames_of(window_s), int(overlap_s * SAMPLE_RATE / HOP)
    frames = at_once + seams * ((at_once - overlap) // step * step)
    windows = cover(frames, window=at_once, overlap=overlap, step=step)
    seconds = (frames - 0.5) * HOP / SAMPLE_RATE
    one = song(number, seconds)
    mono = made(model, one, seconds, windows, meeting, steps).mean(axis=0)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{one.style}-{window_s:g}-{overlap_s:g}-{meeting.replace(' ', '-')}.flac"
        audio.write(folder / name, np.stack([mono, mono]) / np.abs(mono).max(), "flac")
    # Where the sound of one window ends and that of the next begins.
    borders = [window.start + window.known for window in windows[1:]]
    return figures(mono, [2 * border for border in borders], 2 * STYLES[one.style].beat_frames)


def made(
    model: bundle.Bundle, one: Song, seconds: float, windows: Sequence[Window], meeting: str, steps: int
) -> Sound:
    """[2, n]."""
    request = Request(one.lyrics, one.prompt, duration=seconds, window=model.longest, seed=one.seed)
    ids = torch.from_numpy(inspect(model, request).alignment.ids)
    style = torch.from_numpy(embed(one.prompt, model))
    transformer, noise = model.open_transformer().float(), seeded_noise(one.seed, len(ids))
    latents: list[Tensor] = []
    for window in windows:
        here, frames = slice(window.start, window.end), window.end - window.start
        known = torch.zeros(1, frames, 64)
        given = meeting == "known" and window.known > 0
        if given:
            known[:, : window.known] = torch.cat(latents, dim=1)[:, window.start :]
        song = conditioning.build(
            transformer,
            text_ids=ids[here],
            style=style,
            negative_style=torch.from_numpy(model.negative_style),
            known=known if given else None,
            duration_frames=frames,
        )
        spans = [(window.known, frames)] if given else None
        found = sampled(transformer, song, noise[:, here], steps, spans)
        latents.append(found if meeting == "faded" else found[:, window.known :])
    if meeting == "faded":
        return faded([decoded(model, each) for each in latents], windows)
    return decoded(model, torch.cat(latents, dim=1))


def sampled(
    model: DiT,
    song: conditioning.Conditioning,
    noise: Tensor,
    steps: int,
    spans: Sequence[conditioning.Span] | None,
) -> Tensor:
    return sampling.sample(model, song, noise, steps=steps, cfg=4.0, sampler="sway", spans=spans)


def decoded(model: bundle.Bundle, latents: Tensor) -> Sound:
    with torch.inference_mode():
        sound: Sound = vae.decode(latents, model.open_vae().decoder)[0].numpy()
    return sound


def faded(sounds: Sequence[Sound], windows: Sequence[Window]) -> Sound:
    """Each sound rising, of equal power, over what it shares with the one before."""
    whole = np.zeros((2, windows[-1].end * HOP), np.float32)
    for sound, window in zip(sounds, windows, strict=True):
        rise = np.sin(np.linspace(0, np.pi / 2, window.known * HOP, dtype=np.float32))
        shared = slice(window.start * HOP, (window.start + window.known) * HOP)
        whole[:, shared] *= np.sqrt(1 - rise**2)
        sound[:, : window.known * HOP] *= rise
        whole[:, window.start * HOP : window.end * HOP] += sound
    return whole


# ---------------------------------------------------------------- what is measured


def figures(mono: Sound, seams: Sequence[int], beat: int) -> Figures:
    """seams: in steps of 1024 samples. beat: in the same."""
    mels = log_mel(mono)
    margin = round(8 * PER_S)
    inside = [
        at
        for at in range(margin, len(mels) - margin, round(PER_S / 4))
        if all(abs(at - seam) > PER_S for seam in seams)
    ]
    jumps = np.concatenate([[0.0], np.abs(np.diff(mels, axis=0)).mean(axis=1)])

    def jump(at: int) -> float:
        return float(jumps[at - 3 : at + 4].max())

    others = np.array([jump(at) for at in inside])
    tones, onsets = chroma(mono), np.maximum(np.diff(mels, axis=0, prepend=mels[:1]), 0).mean(axis=1)
    return Figures(
        jump=[100 * float((others < jump(seam)).mean()) for seam in seams],
        level=pair(lambda at: level(mono, at), seams, inside),
        chords=pair(lambda at: alike(tones, at), seams, inside),
        beat=pair(lambda at: off_beat(onsets, at, beat), seams, inside),
    )


def pair(
    measure: Callable[[int], float], seams: Sequence[int], inside: Sequence[int]
) -> tuple[list[float], list[float]]:
    return [measure(at) for at in seams], [measure(at) for at in inside]


def level(mono: Sound, at: int) -> float:
    n, span = at * STEP, 2 * SAMPLE_RATE
    before, behind = (float(np.mean(part**2)) for part in (mono[n - span : n], mono[n : n + span]))
    return float(abs(10 * np.log10((behind + 1e-9) / (before + 1e-9))))


def chroma(mono: Sound) -> Floats:
    """[w, 12]: power of each pitch class between 100 and 1600 Hz, in 8192 samples every 1024."""
    size = 8192
    padded = np.pad(mono, (size // 2, size))
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::STEP][: len(mono) // STEP]
    power = np.abs(np.fft.rfft(frames * np.hanning(size), axis=1)) ** 2
    hertz = np.fft.rfftfreq(size, 1 / SAMPLE_RATE)
    heard = (hertz > 100) & (hertz < 1600)
    classes = np.round(12 * np.log2(hertz[heard] / 440)).astype(int) % 12
    return np.stack([power[:, heard][:, classes == each].sum(axis=1) for each in range(12)], axis=1)


def alike(tones: Floats, at: int) -> float:
    span = round(8 * PER_S)
    before, behind = (np.sqrt(part.sum(axis=0)) for part in (tones[at - span : at], tones[at : at + span]))
    return float(before @ behind / (np.linalg.norm(before) * np.linalg.norm(behind) + 1e-12))


def off_beat(onsets: Floats, at: int, beat: int) -> float:
    """Beats between those of the 8 s behind `at` and those of the 8 s before, 0 to 0.5."""
    span = round(8 * PER_S) // beat * beat
    turns = np.exp(-2j * np.pi * np.arange(at - span, at + span) / beat)
    spun = onsets[at - span : at + span] * turns[: len(onsets[at - span : at + span])]
    return float(abs(np.angle(spun[span:].sum() / spun[:span].sum())) / (2 * np.pi))


if __name__ == "__main__":
    main()
