"""Trains the small transformer: noise → latents of a song, given its lyrics and style.

Flow matching on straight paths (Lipman et al. 2022, arXiv 2210.02747): at x_t = (1 − t) x_0 + t x_1 the model
learns x_1 − x_0. Times are drawn more often from the middle (Esser et al. 2024, arXiv 2403.03206). Lyrics and
style are left out of some songs, so that there is a null pass for guidance, and of some a part of the latent
is known, so that songs can be edited. Matrices are trained with Muon, the rest with AdamW.

    python -m training.train_dit songs work --minutes 55

needs work/vae/settled.pt and work/style.safetensors. Stopped and started again, it goes on from its last
checkpoint, which is at most a minute old.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from diffrhythm import vae, words
from diffrhythm.config import ModelConfig
from diffrhythm.transformer import Constants, DiT
from diffrhythm.vae_config import VaeConfig
from training import checkpoints, dataset, style_encoder
from training.averaging import Average
from training.songs import FRAMES, inventory
from training.text import prompt

CONFIG = ModelConfig(dim=320, depth=4, ff_mult=2, conv_layers=1, text_rows=len(inventory()))

# Songs of one batch, all of one length in frames; each batch draws a length.
BATCH = 8
LENGTHS = (216, 324, 432, 648)
LENGTH_ODDS = (0.35, 0.3, 0.25, 0.1)
# Shares of songs: without lyrics and style, without style alone, with a part of the latent known.
NULL = 0.12
STYLELESS = 0.04
KNOWN = 0.15

MATRIX_RATE = 3e-3
OTHER_RATE = 1.5e-3
WARMUP = 60
WEIGHT_DECAY = 0.01
AVERAGED_STEPS = 0.995


@dataclass(frozen=True, slots=True)
class Songs:
    """latents: [songs, frames, c] float32. ids: [songs, frames] int64. styles: a name each."""

    latents: Tensor
    ids: Tensor
    styles: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Batch:
    """x_1 [b, t, c], ids [b, t], style [b, 512], known [b, t, c] with 0 where nothing is known."""

    x_1: Tensor
    ids: Tensor
    style: Tensor
    known: Tensor


def fresh(seed: int) -> DiT:
    """A model to be trained. It begins with no velocity, and hears a style as loud as the rest."""
    torch.manual_seed(seed)
    model = DiT(CONFIG)
    with torch.no_grad():
        model.text_embed.text_embed.weight.mul_(0.5)
        # A style is a unit vector among inputs of deviation 1.
        first = 2 * CONFIG.latent_channels + CONFIG.text_dim
        model.input_embed.proj.weight[:, first : first + CONFIG.style_dim].mul_(math.sqrt(CONFIG.style_dim))
        model.proj_out.weight.zero_()
        nn.init.zeros_(model.proj_out.bias)
        for block in model.transformer_blocks:
            block.get_parameter("self_attn.o_proj.weight").mul_(0.5)
            block.get_parameter("mlp.down_proj.weight").mul_(0.5)
    return model


def velocity(model: DiT, x_t: Tensor, t: Tensor, batch: Batch) -> Tensor:
    """What conditioning.build and a pass come to, with gradients and a time per song: [b, t, c]."""
    text = model.text_embed(batch.ids)
    inputs = model.input_embed.constant_part(text, batch.style) + model.input_embed.known_part(batch.known)
    constants = Constants(inputs, model.fuse_text(text), model.rotary(x_t.shape[1]))
    nothing = torch.zeros(1)
    return model.velocity(x_t, model.modulation(t, model.embed_scalars(nothing, nothing)), constants)


def loss(model: DiT, batch: Batch, generator: torch.Generator) -> Tensor:
    """Mean square of what the velocity is off."""
    count = len(batch.x_1)
    # One time from each of as many equal shares of the odds: less noise than independent ones.
    share = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    t = torch.sigmoid(math.sqrt(2) * torch.erfinv(2 * share.clamp(1e-4, 1 - 1e-4) - 1))
    x_0 = torch.randn(batch.x_1.shape, generator=generator)
    x_t = torch.lerp(x_0, batch.x_1, t[:, None, None])
    return (velocity(model, x_t, t, batch).float() - (batch.x_1 - x_0)).square().mean()


def batch_of(songs: Songs, encoder: words.Encoder, rng: np.random.Generator) -> Batch:
    """Beginnings of songs of one length, each with a style prompt of its own."""
    length = int(rng.choice(LENGTHS, p=LENGTH_ODDS))
    picked = rng.integers(len(songs.styles), size=BATCH)
    x_1, ids = songs.latents[picked, :length], songs.ids[picked, :length].clone()
    styles = [encoder.embed_text(prompt(songs.styles[song], rng)) for song in picked]
    style, null = torch.from_numpy(np.stack(styles)), style_encoder.null_style()
    known = torch.zeros_like(x_1)
    for i in range(BATCH):
        chance = rng.random()
        if chance < NULL:
            ids[i], style[i] = 0, null
        elif chance < NULL + STYLELESS:
            style[i] = null
        if rng.random() < KNOWN:
            start = int(rng.integers(length // 2))
            end = start + int(rng.integers(length // 4, length // 2))
            known[i] = x_1[i]
            known[i, start:end] = 0
    return Batch(x_1, ids, style, known)


def encoded(folder: Path, vae_file: Path) -> Songs:
    """The rendered songs as latents; kept beside the songs for the next time."""
    data = dataset.read(folder)
    kept = folder / "latents.npy"
    if kept.exists() and kept.stat().st_mtime > vae_file.stat().st_mtime:
        latents = np.load(kept)
    else:
        latents = _encode(data, load_vae(vae_file))
        np.save(kept, latents)
    # Songs rendered since then are left out.
    count = len(latents)
    return Songs(torch.from_numpy(latents), torch.from_numpy(data.ids[:count]), data.styles[:count])


def load_vae(file: Path) -> vae.Vae:
    """The trained autoencoder of this checkpoint, ready for use."""
    state = torch.load(file, weights_only=True)
    model = vae.Vae(VaeConfig.from_dict(state["config"]))
    vae.load_weights(model, state["ema"])
    return model


def _encode(data: dataset.Dataset, autoencoder: vae.Vae) -> NDArray[np.float32]:
    rows = []
    for audio in data.audio:
        sound = torch.from_numpy(dataset.sound(audio))[None]
        with torch.inference_mode():
            mean, _ = vae.encode(sound, autoencoder.encoder, chunk_frames=FRAMES).chunk(2, dim=-1)
        rows.append(mean[0].numpy())
    return np.stack(rows)


def optimisers(model: DiT) -> dict[str, torch.optim.Optimizer]:
    """Muon for the matrices inside the model, AdamW for its ends, kernels, gains and biases."""
    inner = ("transformer_blocks", "text_embed.text_blocks", "text_fusion_linears")
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, weight in model.named_parameters():
        (matrices if name.startswith(inner) and weight.ndim == 2 else others).append(weight)
    return {
        "muon": torch.optim.Muon(
            matrices, lr=MATRIX_RATE, weight_decay=WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw"
        ),
        "adamw": torch.optim.AdamW(others, lr=OTHER_RATE, betas=(0.9, 0.98), weight_decay=WEIGHT_DECAY),
    }


def rate(share: float, step: int) -> float:
    """Of the full learning rate, at this share of the time: a warm-up, then level, then down to nothing."""
    return min(1.0, (step + 1) / WARMUP) * min(1.0, (1 - share) / 0.4 + 0.01)


def train(songs_folder: Path, folder: Path, minutes: float, seed: int = 0) -> None:
    """Trains until `minutes` have been spent on it in all, and leaves folder/dit/dit.pt and losses.jsonl."""
    songs = encoded(songs_folder, folder / "vae" / "settled.pt")
    encoder = style_encoder.encoder(load_file(folder / "style.safetensors"))
    out = folder / "dit"
    out.mkdir(exist_ok=True)
    model = fresh(seed)
    average = Average(model, AVERAGED_STEPS)
    used = optimisers(model)
    base = {name: [group["lr"] for group in optimiser.param_groups] for name, optimiser in used.items()}
    parts: checkpoints.Parts = {"model": model, "ema": average, **used}
    spent, step = checkpoints.load(out / "dit.pt", parts)
    rng = np.random.default_rng([seed, step])
    generator = torch.Generator().manual_seed(seed + step)
    began = saved = time.monotonic()
    recent: list[float] = []
    while (elapsed := spent + time.monotonic() - began) < 60 * minutes:
        scale = rate(elapsed / (60 * minutes), step)
        for name, optimiser in used.items():
            for group, full in zip(optimiser.param_groups, base[name], strict=True):
                group["lr"] = full * scale
        with torch.autocast("cpu", torch.bfloat16):
            found = loss(model, batch_of(songs, encoder, rng), generator)
        for optimiser in used.values():
            optimiser.zero_grad()
        torch.autograd.backward(found)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser in used.values():
            optimiser.step()
        average.update(model)
        step += 1
        recent.append(found.item())
        if step % 20 == 0:
            checkpoints.log(
                out, {"step": step, "seconds": round(elapsed, 1), "loss": round(float(np.mean(recent)), 4)}
            )
            recent = []
        if time.monotonic() - saved > checkpoints.EVERY_S:
            saved = time.monotonic()
            checkpoints.save(out / "dit.pt", parts, CONFIG.to_dict(), spent + saved - began, step)
    checkpoints.save(out / "dit.pt", parts, CONFIG.to_dict(), spent + time.monotonic() - began, step)


def main(songs: Path, folder: Path, minutes: float = 55.0, seed: int = 0) -> None:
    """Train the transformer on rendered songs, their latents and the style encoder's styles."""
    train(songs, folder, minutes, seed)


if __name__ == "__main__":
    typer.run(main)
