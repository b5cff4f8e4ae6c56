"""Latents ↔ stereo sound at 44.1 kHz: the Oobleck autoencoder of Stable Audio, in chunks.

b batch · t latent frames (HOP samples each) · c latent channels (64) · n samples = HOP·t
Source: Evans et al., "Fast Timing-Conditioned Latent Audio Diffusion" (2024); parameter names are those of
its checkpoints with weight normalisation folded into the weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffrhythm.chunks import (
    PUBLISHED_CHUNK_FRAMES,
    PUBLISHED_OVERLAP_FRAMES,
    Cut,
    chunk_spans,
    coarse_blocks,
)
from diffrhythm.errors import BundleError
from diffrhythm.vae_config import AUDIO_CHANNELS, HOP, LATENT_CHANNELS, VaeConfig

Coder = Callable[[Tensor], Tensor]
OnChunk = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Parts:
    """A decoder in two parts (chunks.py).

    coarse: [b, c, t] → [b, width, rate·t]. fine: [b, width, rate·t] → [b, 2, HOP·t].
    """

    coarse: Coder
    fine: Coder
    width: int


# Of weights: below, a song is decoded in less time than compiling the decoder takes.
LARGE = 20_000_000


def decode(
    latents: Tensor,
    decoder: Coder,
    *,
    chunk_frames: int = PUBLISHED_CHUNK_FRAMES,
    overlap: int = PUBLISHED_OVERLAP_FRAMES,
    on_chunk: OnChunk | None = None,
) -> Tensor:
    """Sound of latents [b, t, c]: float32 [b, 2, HOP·t] on the CPU.

    decoder: [b, c, frames] → [b, 2, HOP·frames]. Each call sees at most chunk_frames frames, so memory does
    not grow with the song; neighbours share overlap frames, of which each gives up half.
    on_chunk(done, chunks) after each call.
    """
    latents = latents.transpose(1, 2)
    batch, _, frames = latents.shape
    audio = torch.empty(batch, AUDIO_CHANNELS, frames * HOP)
    chunks = chunk_spans(frames, chunk_frames, overlap)
    for done, chunk in enumerate(chunks, 1):
        sound = decoder(latents[..., chunk.start : chunk.stop])
        audio[..., (chunk.start + chunk.head) * HOP : chunk.stop * HOP] = sound[..., chunk.head * HOP :]
        if on_chunk:
            on_chunk(done, len(chunks))
    return audio


def decode_in_parts(latents: Tensor, parts: Parts, cut: Cut, *, on_chunk: OnChunk | None = None) -> Tensor:
    """Return the sound of latents [b, t, c]: float32 [b, 2, HOP·t] on the CPU, as of one call of the decoder.

    cut: of t frames. on_chunk(done, chunks) after each call of either part.
    """
    latents = latents.transpose(1, 2)
    batch, _, frames = latents.shape
    coarse_chunks, fine_chunks = cut.coarse_chunks, cut.fine_chunks
    calls = len(coarse_chunks) + len(fine_chunks)
    positions = torch.empty(batch, parts.width, frames * cut.rate)
    for done, chunk in enumerate(coarse_chunks, 1):
        found = parts.coarse(latents[..., chunk.start : chunk.stop])
        first, head = chunk.start * cut.rate, chunk.head * cut.rate
        positions[..., first + head : first + found.shape[-1]] = found[..., head:]
        if on_chunk:
            on_chunk(done, calls)
    audio = torch.empty(batch, AUDIO_CHANNELS, frames * HOP)
    samples = HOP // cut.rate
    for done, chunk in enumerate(fine_chunks, len(coarse_chunks) + 1):
        found = parts.fine(positions[..., chunk.start : chunk.stop])
        first, head = chunk.start * samples, chunk.head * samples
        audio[..., first + head : first + found.shape[-1]] = found[..., head:]
        if on_chunk:
            on_chunk(done, calls)
    return audio


def encode(
    audio: Tensor,
    encoder: Coder,
    *,
    chunk_frames: int = PUBLISHED_CHUNK_FRAMES,
    overlap: int = PUBLISHED_OVERLAP_FRAMES,
    on_chunk: OnChunk | None = None,
) -> Tensor:
    """Moments of sound [b, 2, n]: [b, n // HOP, 2c], the mean's channels first, then the scale's.

    encoder: [b, 2, samples] → [b, 2c, samples // HOP]. Chunks as in decode; the last one is the last
    chunk_frames·HOP samples, off the frame grid unless HOP divides n, as published.
    """
    batch, _, samples = audio.shape
    frames = samples // HOP
    chunks = chunk_spans(samples, chunk_frames * HOP, overlap * HOP)
    moments = torch.empty(batch, 2 * LATENT_CHANNELS, frames)
    for done, chunk in enumerate(chunks, 1):
        found = encoder(audio[..., chunk.start : chunk.stop])
        first, head = chunk.start // HOP, chunk.head // HOP
        moments[..., first + head : first + found.shape[-1]] = found[..., head:]
        if on_chunk:
            on_chunk(done, len(chunks))
    return moments.transpose(1, 2)


def draw_latents(moments: Tensor, noise: Tensor) -> Tensor:
    """Latents [b, t, c] from moments [b, t, 2c] and standard normal noise [b, t, c]."""
    mean, scale = moments.chunk(2, dim=-1)
    return mean + (F.softplus(scale) + 1e-4) * noise


class Snake(nn.Module):
    """x + sin²(αx)/β per channel; α and β stored as logarithms (Ziyin et al. 2020; BigVGAN's SnakeBeta)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        alpha = self.alpha.exp()[:, None]
        gain = (self.beta.exp()[:, None] + 1e-9).reciprocal()
        wave = (x * alpha).sin_()
        return torch.addcmul(x, wave, wave.mul(gain))


class ResidualUnit(nn.Module):
    """x plus what a dilated convolution (7 taps) and a pointwise one make of it."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            Snake(channels),
            nn.Conv1d(channels, channels, 7, dilation=dilation, padding=3 * dilation),
            Snake(channels),
            nn.Conv1d(channels, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)  # type: ignore[no-any-return]


class EncoderBlock(nn.Module):
    """[b, narrow, n] → [b, wide, n / stride]."""

    def __init__(self, narrow: int, wide: int, stride: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(ResidualUnit(narrow, dilation) for dilation in (1, 3, 9)),
            Snake(narrow),
            nn.Conv1d(narrow, wide, 2 * stride, stride, padding=math.ceil(stride / 2)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)  # type: ignore[no-any-return]


class DecoderBlock(nn.Module):
    """[b, wide, n] → [b, narrow, n · stride]."""

    def __init__(self, wide: int, narrow: int, stride: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            Snake(wide),
            nn.ConvTranspose1d(wide, narrow, 2 * stride, stride, padding=math.ceil(stride / 2)),
            *(ResidualUnit(narrow, dilation) for dilation in (1, 3, 9)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)  # type: ignore[no-any-return]


class Encoder(nn.Module):
    """Sound [b, 2, n] → moments [b, 2c, n // HOP]."""

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        widths = config.widths
        self.layers = nn.Sequential(
            nn.Conv1d(AUDIO_CHANNELS, widths[0], 7, padding=3),
            *(
                EncoderBlock(narrow, wide, stride)
                for narrow, wide, stride in zip(widths, widths[1:], config.strides, strict=False)
            ),
            Snake(widths[-1]),
            nn.Conv1d(widths[-1], 2 * LATENT_CHANNELS, 3, padding=1),
        )

    def forward(self, audio: Tensor) -> Tensor:
        return self.layers(audio)  # type: ignore[no-any-return]


class Decoder(nn.Module):
    """Latents [b, c, t] → sound [b, 2, HOP·t]."""

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        widths = config.widths[::-1]
        self._coarse_layers = 1 + coarse_blocks(config)
        self.coarse_width = widths[coarse_blocks(config)]
        self.layers = nn.Sequential(
            nn.Conv1d(LATENT_CHANNELS, widths[0], 7, padding=3),
            *(
                DecoderBlock(wide, narrow, stride)
                for wide, narrow, stride in zip(widths, widths[1:], config.strides[::-1], strict=False)
            ),
            Snake(widths[-1]),
            nn.Conv1d(widths[-1], AUDIO_CHANNELS, 7, padding=3, bias=False),
        )

    def parts(self) -> tuple[nn.Sequential, nn.Sequential]:
        """Return its layers in two parts, which share its weights: coarse and fine (chunks.py)."""
        layers = list(self.layers)
        first, rest = layers[: self._coarse_layers], layers[self._coarse_layers :]
        return nn.Sequential(*first), nn.Sequential(*rest)

    def forward(self, latents: Tensor) -> Tensor:
        return self.layers(latents)  # type: ignore[no-any-return]


def parts(decoder: Decoder) -> Parts:
    """Return the decoder in two parts, by torch."""
    coarse, fine = decoder.parts()
    return Parts(coarse, fine, decoder.coarse_width)


def is_large(decoder: Decoder) -> bool:
    """Whether compiling a decoder (compiled_vae.py) pays."""
    return sum(weight.numel() for weight in decoder.parameters()) >= LARGE


class Vae(nn.Module):
    """The pair. Made on any device, "meta" included; weights come by load_weights."""

    def __init__(self, config: VaeConfig, device: str = "meta") -> None:
        super().__init__()
        with torch.device(device):
            self.encoder = Encoder(config)
            self.decoder = Decoder(config)


def load_weights(vae: Vae, tensors: Mapping[str, Tensor]) -> None:
    """Gives the VAE its weights, without a copy, so that memory-mapped ones stay so.

    Raises BundleError if any is missing, unknown or of another shape.
    """
    wanted = {key: tuple(value.shape) for key, value in vae.state_dict().items()}
    given = {key: tuple(value.shape) for key, value in tensors.items()}
    for key in sorted(wanted.keys() | given.keys()):
        if wanted.get(key) != given.get(key):
            raise BundleError(
                f"VAE weight {key!r} has shape {given.get(key)}, expected {wanted.get(key)}: "
                "the VAE file does not fit bundle.json; get the bundle again"
            )
    vae.load_state_dict(dict(tensors), assign=True)
    vae.requires_grad_(False).eval()


def fold_weight_norm(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A checkpoint's tensors with each pair weight_g, weight_v made one weight: g · v / ‖v‖.

    The norm is over all dimensions but the first (Salimans and Kingma 2016, as in torch's weight_norm).
    """
    folded: dict[str, Tensor] = {}
    for key, value in tensors.items():
        if key.endswith("weight_v"):
            gain = tensors[f"{key[:-1]}g"]
            norm = torch.linalg.vector_norm(value, dim=tuple(range(1, value.ndim)), keepdim=True)
            folded[key.removesuffix("_v")] = value * (gain / norm)
        elif not key.endswith("weight_g"):
            folded[key] = value
    return folded
