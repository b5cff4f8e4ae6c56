"""Trains the small autoencoder: sound → latents that are few and forgiving → the same sound to the ear.

The loss is the distance of magnitudes at several resolutions (Yamamoto et al. 2020, arXiv 1910.11480), a
little of the waveform's own, and the divergence of the latents from a standard normal (Kingma and Welling
2013). There is no adversary: it would take most of the time that there is.

    python -m training.train_vae songs work/vae --minutes 35

Stopped and started again, it goes on from its last checkpoint, which is at most a minute old.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import typer
from torch import Tensor, nn
from torch.nn import functional as F

from diffrhythm import vae
from diffrhythm.vae_config import HOP, LATENT_CHANNELS, VaeConfig
from training import checkpoints, dataset
from training.averaging import Average

# A quarter of the decoder's work is done at the rate of samples, by few channels; one stride of 64 leaves it.
CONFIG = VaeConfig(channels=8, multiples=(16, 24, 32), strides=(64, 4, 8))

CROP_FRAMES = 24
BATCH = 6
LEARNING_RATE = 6e-4
WARMUP = 100
DIVERGENCE = 1e-2
WAVEFORM = 1.0
WINDOWS = (4096, 2048, 1024, 512, 128)
_FLOOR = 1e-3
_SAVE_EVERY_S = 60.0


@dataclass(frozen=True, slots=True)
class Losses:
    """Of one batch: magnitudes in log and linear scale, waveform, divergence in nats per latent number."""

    log: Tensor
    linear: Tensor
    waveform: Tensor
    divergence: Tensor

    @property
    def total(self) -> Tensor:
        return self.log + self.linear + WAVEFORM * self.waveform + DIVERGENCE * self.divergence


def fresh(seed: int) -> vae.Vae:
    """A model to be trained; its last upsampling begins as a bank of filters, one a channel."""
    torch.manual_seed(seed)
    model = vae.Vae(CONFIG, "cpu")
    with torch.no_grad():
        for stack in (model.encoder.layers, model.decoder.layers):
            for unit in (unit for block in stack for unit in block.modules()):
                if isinstance(unit, vae.ResidualUnit):
                    unit.layers[3].weight.mul_(0.3)  # type: ignore[operator,union-attr]
        _to_filters(model.encoder.layers[1].layers[4].weight)  # type: ignore[union-attr,arg-type,index]
        last = model.decoder.layers[len(CONFIG.strides)]
        filters = last.layers[1].weight  # type: ignore[union-attr,index]
        _to_filters(filters)  # type: ignore[arg-type]
    return model


def _to_filters(weight: Tensor) -> None:
    """weight [bands, narrow, taps]: each band a windowed wave of its own frequency, mixed to or from narrow."""
    bands, narrow, taps = weight.shape
    k = torch.arange(taps) + 0.5
    window = torch.sin(math.pi * k / taps)
    band = torch.arange(bands)
    # Waves and their quarter-turned fellows, spread over all frequencies that the stride leaves apart.
    turn = (band % 2) * math.pi / 2
    frequency = (torch.div(band, 2, rounding_mode="floor") + 0.5) / bands
    waves = window * torch.cos(2 * math.pi * frequency[:, None] * (k - taps / 2) + turn[:, None])
    mix = torch.randn(bands, narrow, 1) / math.sqrt(narrow)
    weight.copy_(mix * waves[:, None] * math.sqrt(2 / taps))


def moments(model: vae.Vae, audio: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of the latents, [b, c, t] each."""
    mean, scale = model.encoder(audio).float().chunk(2, dim=1)
    return mean, F.softplus(scale) + 1e-4


def losses(model: vae.Vae, audio: Tensor) -> Losses:
    """Of audio [b, 2, n] against what comes back of it. The inner layers calculate in bfloat16."""
    mean, deviation = moments(model, audio)
    latents = mean + deviation * torch.randn_like(mean)
    made = model.decoder(latents).float()
    divergence = 0.5 * (mean.square() + deviation.square() - 1) - deviation.log()
    log, linear = spectral_distance(made, audio)
    return Losses(log, linear, F.l1_loss(made, audio) / audio.abs().mean(), divergence.mean())


def spectral_distance(made: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
    """Mean distance of the magnitudes of [b, 2, n], in nepers, and as a share of audio's mean magnitude."""
    logs, linears = [], []
    for window in WINDOWS:
        a, b = _magnitudes(made, window), _magnitudes(audio, window)
        logs.append(F.l1_loss((a + _FLOOR).log(), (b + _FLOOR).log()))
        linears.append(F.l1_loss(a, b) / b.mean())
    return torch.stack(logs).mean(), torch.stack(linears).mean()


def _magnitudes(audio: Tensor, window: int) -> Tensor:
    spectrum = torch.stft(
        audio.flatten(0, 1),
        window,
        window // 4,
        window=torch.hann_window(window),
        normalized=True,
        return_complex=True,
    )
    return (spectrum.real.square() + spectrum.imag.square() + 1e-8).sqrt()


def crops(songs: dataset.Dataset, generator: np.random.Generator) -> Tensor:
    """A batch of [BATCH, 2, CROP_FRAMES · HOP] from anywhere in the songs, louder or softer, sides swapped."""
    picked = []
    for _ in range(BATCH):
        song = generator.integers(len(songs.audio))
        start = generator.integers(dataset.SAMPLES - CROP_FRAMES * HOP)
        crop = songs.audio[song, :: generator.choice((1, -1)), start : start + CROP_FRAMES * HOP]
        picked.append(torch.from_numpy(crop.astype(np.float32)) * (generator.uniform(0.7, 1.1) / 32767))
    return torch.stack(picked)


def train(songs: Path, folder: Path, minutes: float, seed: int = 0) -> None:
    """Trains until `minutes` have been spent on it in all, and leaves folder/vae.pt and folder/losses.jsonl."""
    model = fresh(seed)
    average = Average(model, 0.998)
    optimiser = torch.optim.AdamW(model.parameters(), LEARNING_RATE, betas=(0.9, 0.98), weight_decay=1e-3)
    parts: checkpoints.Parts = {"model": model, "ema": average, "optimiser": optimiser}
    spent, step = checkpoints.load(folder / "vae.pt", parts)
    generator = np.random.default_rng([seed, step])
    torch.manual_seed(seed + step)
    data = dataset.read(songs)
    began = saved = time.monotonic()
    while spent + time.monotonic() - began < 60 * minutes:
        share = (spent + time.monotonic() - began) / (60 * minutes)
        rate = LEARNING_RATE * min(1.0, (step + 1) / WARMUP) * (0.02 + 0.98 * math.cos(math.pi / 2 * share) ** 2)
        for group in optimiser.param_groups:
            group["lr"] = rate
        with torch.autocast("cpu", torch.bfloat16):
            found = losses(model, crops(data, generator))
        optimiser.zero_grad()
        found.total.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        average.update(model)
        step += 1
        if step % 10 == 0:
            _log(folder, step, spent + time.monotonic() - began, found, norm.item())
        if time.monotonic() - saved > _SAVE_EVERY_S:
            saved = time.monotonic()
            checkpoints.save(folder / "vae.pt", parts, CONFIG.to_dict(), spent + saved - began, step)
    checkpoints.save(folder / "vae.pt", parts, CONFIG.to_dict(), spent + time.monotonic() - began, step)


def _log(folder: Path, step: int, seconds: float, found: Losses, norm: float) -> None:
    facts = {
        "step": step,
        "seconds": round(seconds, 1),
        **{name: round(getattr(found, name).item(), 4) for name in ("log", "linear", "waveform", "divergence")},
        "norm": round(norm, 3),
    }
    line = json.dumps(facts)
    print(line, flush=True)
    with (folder / "losses.jsonl").open("a") as file:
        file.write(line + "\n")


def main(songs: Path, folder: Path, minutes: float = 35.0, seed: int = 0) -> None:
    """Train the autoencoder on rendered songs."""
    folder.mkdir(parents=True, exist_ok=True)
    train(songs, folder, minutes, seed)


if __name__ == "__main__":
    typer.run(main)
