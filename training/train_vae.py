"""Trains the small autoencoder: sound → latents that are few and forgiving → the same sound to the ear.

The loss is the distance of magnitudes at several resolutions (Yamamoto et al. 2020, arXiv 1910.11480), a
little of the waveform's own, and the divergence of the latents from a standard normal (Kingma and Welling
2013). There is no adversary: it would take most of the time that there is.

    python -m training.train_vae songs work/vae --minutes 35

Stopped and started again, it goes on from its last checkpoint, which is at most a minute old.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
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
from training.songs import FRAMES

# Nearly all is done at 43 and 21.5 Hz, where it costs little; one stride of 1024 leads there.
CONFIG = VaeConfig(channels=2, multiples=(128, 128), strides=(1024, 2))
HALF = HOP // 2

# Songs that the linear beginning is made from, components of a half-frame that it keeps, softplus⁻¹ of the
# latents' first deviation.
STUDIED = 24
KEPT_HALVES = 128
FIRST_DEVIATION = -2.5

CROP_FRAMES = 24
BATCH = 6
LEARNING_RATE = 7e-4
WARMUP = 30
DIVERGENCE = 2e-2
WAVEFORM = 1.0
WINDOWS = (2048, 512, 128)
_FLOOR = 1e-3


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


def fresh(seed: int, songs: dataset.Dataset) -> vae.Vae:
    """A model to be trained. It begins as the best linear one: what it does not keep is of least energy.

    Half-frames are projected on their principal components, and four of these in turn, windowed so that
    neighbours add up; what the layers add to that is small at first.
    """
    torch.manual_seed(seed)
    model = vae.Vae(CONFIG, "cpu")
    stretches = windowed(_sound_of(songs), HALF)
    halves = principal(stretches, KEPT_HALVES)
    coefficients = stretches @ halves.T
    gain = 1 / float(coefficients.std())
    rows = windowed(coefficients.T.contiguous() * gain, 2)
    frames = principal(rows, LATENT_CHANNELS)
    # Between all latents alike, which spends the flow's effort on what is hardly heard, and each at its
    # energy.
    loud = (rows @ frames.T).std(dim=0).sqrt()
    weight = model.get_parameter
    with torch.no_grad():
        _quieten(model)
        _through(weight("encoder.layers.0.weight"), torch.eye(2)[..., None])
        _through(weight("encoder.layers.1.layers.4.weight"), _atoms(halves, 2) * gain)
        _through(weight("encoder.layers.2.layers.4.weight"), _atoms(frames, KEPT_HALVES))
        _through(weight("encoder.layers.4.weight"), torch.diag(1 / loud)[..., None])
        weight("encoder.layers.4.weight")[LATENT_CHANNELS:].zero_()
        weight("encoder.layers.4.bias")[LATENT_CHANNELS:].fill_(FIRST_DEVIATION)
        _through(weight("decoder.layers.0.weight"), torch.diag(loud)[..., None])
        _through(weight("decoder.layers.1.layers.1.weight"), _atoms(frames, KEPT_HALVES))
        _through(weight("decoder.layers.2.layers.1.weight"), _atoms(halves, 2) / gain)
        _through(weight("decoder.layers.4.weight"), torch.eye(2)[..., None])
    return model


def _quieten(model: vae.Vae) -> None:
    """Lets every layer pass on little but what the linear weights do."""
    for part in model.modules():
        if isinstance(part, vae.ResidualUnit):
            part.get_parameter("layers.3.weight").mul_(0.1)
        elif isinstance(part, vae.Snake):
            part.alpha.fill_(math.log(0.25))
        elif isinstance(part, nn.Conv1d | nn.ConvTranspose1d) and part.bias is not None:
            part.bias.zero_()


def _through(weight: Tensor, linear: Tensor) -> None:
    """Puts `linear` [a, b, taps] in the middle of weight [a or more, b or more, taps or more].

    Channels beside it are drawn, small; from them into its outputs and in its other taps there is nothing.
    """
    outputs, inputs, taps = linear.shape
    start = (weight.shape[2] - taps) // 2
    weight.mul_(0.5)
    weight[:outputs].zero_()
    weight[:outputs, :inputs, start : start + taps] = linear


def principal(rows: Tensor, count: int) -> Tensor:
    """The `count` directions of most energy of rows [n, dimensions], orthonormal: [count, dimensions]."""
    if len(rows) < rows.shape[1]:
        # Of few rows the same, found among their mixtures, since these have fewer dimensions.
        mixtures: Tensor = torch.linalg.eigh((rows @ rows.T).double()).eigenvectors
        vectors = F.normalize(rows.T.double() @ mixtures, dim=0)
    else:
        vectors = torch.linalg.eigh((rows.T @ rows).double()).eigenvectors
    return vectors[:, -count:].flip(1).T.float().contiguous()


def windowed(channels: Tensor, hop: int) -> Tensor:
    """Stretches of two hops, one a hop, of channels [c, n]: [n / hop − 1, 2 c hop].

    They are under a window whose square, a hop apart, adds up to 1.
    """
    stretches = channels.unfold(1, 2 * hop, hop) * _sine(2 * hop)
    return stretches.transpose(0, 1).flatten(1)


def _atoms(directions: Tensor, channels: int) -> Tensor:
    """Directions of windowed stretches as kernels: [count, channels, taps]."""
    kernels = directions.reshape(len(directions), channels, -1)
    return kernels * _sine(kernels.shape[-1])


def _sine(taps: int) -> Tensor:
    return torch.sin(math.pi * (torch.arange(taps) + 0.5) / taps)


def _sound_of(songs: dataset.Dataset) -> Tensor:
    """[2, n]: the first songs, one after the other."""
    return torch.from_numpy(dataset.sound(np.concatenate(list(songs.audio[:STUDIED]), axis=1)))


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
    """[BATCH, 2, CROP_FRAMES · HOP] from anywhere in the songs, louder or softer, sides swapped or not."""
    picked = []
    for _ in range(BATCH):
        song = generator.integers(len(songs.audio))
        # On frames, as songs are: notes have the same wave in each (training.instruments.hertz).
        start = HOP * int(generator.integers(FRAMES - CROP_FRAMES))
        crop = songs.audio[song, :: generator.choice((1, -1)), start : start + CROP_FRAMES * HOP]
        picked.append(
            torch.from_numpy(crop.astype(np.float32)) * (generator.uniform(0.7, 1.1) / dataset.FULL_SCALE)
        )
    return torch.stack(picked)


def train(songs: Path, folder: Path, minutes: float, seed: int = 0) -> None:
    """Trains until `minutes` have been spent on it in all.

    Leaves folder/vae.pt, the checkpoint, folder/settled.pt, what is shipped, and folder/losses.jsonl.
    """
    data = dataset.read(songs)
    model = fresh(seed, data)
    average = Average(model, 0.995)
    optimiser = torch.optim.AdamW(model.parameters(), LEARNING_RATE, betas=(0.9, 0.98), weight_decay=1e-3)
    parts: checkpoints.Parts = {"model": model, "ema": average, "optimiser": optimiser}
    spent, step = checkpoints.load(folder / "vae.pt", parts)
    generator = np.random.default_rng([seed, step])
    torch.manual_seed(seed + step)
    began = saved = time.monotonic()
    while (elapsed := spent + time.monotonic() - began) < 60 * minutes:
        share = elapsed / (60 * minutes)
        rate = (
            LEARNING_RATE * min(1.0, (step + 1) / WARMUP) * (0.02 + 0.98 * math.cos(math.pi / 2 * share) ** 2)
        )
        for group in optimiser.param_groups:
            group["lr"] = rate
        with torch.autocast("cpu", torch.bfloat16):
            found = losses(model, crops(data, generator))
        optimiser.zero_grad()
        torch.autograd.backward(found.total)
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        average.update(model)
        step += 1
        if step % 10 == 0:
            checkpoints.log(folder, _facts(step, spent + time.monotonic() - began, found, norm.item()))
        if time.monotonic() - saved > checkpoints.EVERY_S:
            saved = time.monotonic()
            checkpoints.save(folder / "vae.pt", parts, CONFIG.to_dict(), spent + saved - began, step)
    checkpoints.save(folder / "vae.pt", parts, CONFIG.to_dict(), spent + time.monotonic() - began, step)
    settled = {"ema": settle(average.weights, data), "config": CONFIG.to_dict()}
    torch.save(settled, folder / "settled.pt")


def settle(weights: Mapping[str, Tensor], songs: dataset.Dataset) -> dict[str, Tensor]:
    """The same autoencoder with latents of deviation 1 over all, and an encoder that draws nothing."""
    model = vae.Vae(CONFIG)
    vae.load_weights(model, weights)
    found = []
    for audio in songs.audio[:STUDIED]:
        with torch.inference_mode():
            sound = torch.from_numpy(dataset.sound(audio))[None]
            found.append(vae.encode(sound, model.encoder).chunk(2, dim=-1)[0])
    deviation = torch.cat(found).square().mean().sqrt()
    out, into = "encoder.layers.4", "decoder.layers.0"
    scaled = {name: weight.clone() for name, weight in weights.items()}
    for name in (f"{out}.weight", f"{out}.bias"):
        scaled[name][:LATENT_CHANNELS] /= deviation
        scaled[name][LATENT_CHANNELS:] = 0
    scaled[f"{out}.bias"][LATENT_CHANNELS:] = -20
    scaled[f"{into}.weight"] *= deviation
    return scaled


def _facts(step: int, seconds: float, found: Losses, norm: float) -> dict[str, float]:
    """What is logged of a step."""
    return {
        "step": step,
        "seconds": round(seconds, 1),
        **{
            name: round(getattr(found, name).item(), 4)
            for name in ("log", "linear", "waveform", "divergence")
        },
        "norm": round(norm, 3),
    }


def main(songs: Path, folder: Path, minutes: float = 35.0, seed: int = 0) -> None:
    """Train the autoencoder on rendered songs."""
    folder.mkdir(parents=True, exist_ok=True)
    train(songs, folder, minutes, seed)


if __name__ == "__main__":
    typer.run(main)
