"""The autoencoder in the form in which it is published: attributes as in Stable Audio's code, TorchScript.

Written here to prove that such a file is read rightly; small, with random weights.
"""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from diffrhythm.vae_config import HOP

Norm = Literal["hooked", "parametrized", "none"]

CHANNELS = 2
MULTIPLES = (1, 2, 4, 8, 16)
STRIDES = (2, 4, 4, 8, 8)


class SnakeBeta(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(0.3 * torch.randn(channels))
        self.beta = nn.Parameter(0.3 * torch.randn(channels))

    def forward(self, x: Tensor) -> Tensor:
        alpha = torch.exp(self.alpha)[None, :, None]
        beta = torch.exp(self.beta)[None, :, None]
        return x + (1.0 / (beta + 1e-9)) * torch.sin(x * alpha).pow(2)


class Residual(nn.Module):
    def __init__(self, channels: int, dilation: int, norm: Norm) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            SnakeBeta(channels),
            normed(nn.Conv1d(channels, channels, 7, padding=3 * dilation, dilation=dilation), norm),
            SnakeBeta(channels),
            normed(nn.Conv1d(channels, channels, 1), norm),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x) + x


class Block(nn.Module):
    """narrower → wider where it encodes, wider → narrower where it decodes."""

    def __init__(self, before: int, after: int, stride: int, norm: Norm, *, encodes: bool) -> None:
        super().__init__()
        kind = nn.Conv1d if encodes else nn.ConvTranspose1d
        resampling = [
            SnakeBeta(before),
            normed(kind(before, after, 2 * stride, stride=stride, padding=math.ceil(stride / 2)), norm),
        ]
        residual = [Residual(before if encodes else after, dilation, norm) for dilation in (1, 3, 9)]
        self.layers = nn.Sequential(*(residual + resampling if encodes else resampling + residual))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Side(nn.Module):
    """The encoder or the decoder."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class PublishedVae(nn.Module):
    def __init__(self, norm: Norm, last: nn.Module) -> None:
        super().__init__()
        widths = [CHANNELS * multiple for multiple in (1, *MULTIPLES)]
        steps = list(zip(widths, widths[1:], STRIDES, strict=False))
        self.encoder = Side(
            [
                normed(nn.Conv1d(2, widths[0], 7, padding=3), norm),
                *(Block(narrow, wide, stride, norm, encodes=True) for narrow, wide, stride in steps),
                SnakeBeta(widths[-1]),
                normed(nn.Conv1d(widths[-1], 128, 3, padding=1), norm),
            ]
        )
        self.decoder = Side(
            [
                normed(nn.Conv1d(64, widths[-1], 7, padding=3), norm),
                *(Block(wide, narrow, stride, norm, encodes=False) for narrow, wide, stride in steps[::-1]),
                SnakeBeta(widths[0]),
                normed(nn.Conv1d(widths[0], 2, 7, padding=3, bias=False), norm),
                last,
            ]
        )

    def encode_export(self, audio: Tensor) -> Tensor:
        return self.encoder(audio)

    def decode_export(self, latents: Tensor) -> Tensor:
        return self.decoder(latents)


class Wrapped(nn.Module):
    """The pair inside another module, as an exporter may have it."""

    def __init__(self, model: PublishedVae) -> None:
        super().__init__()
        self.model = model

    def encode_export(self, audio: Tensor) -> Tensor:
        return self.model.encode_export(audio)

    def decode_export(self, latents: Tensor) -> Tensor:
        return self.model.decode_export(latents)


class Compiled(nn.Module):
    """The pair ready to be compiled; a weight norm cannot be."""

    def __init__(self, model: PublishedVae) -> None:
        super().__init__()
        self.encoder, self.decoder = model.encoder, model.decoder

    @torch.jit.export
    def encode_export(self, audio: Tensor) -> Tensor:
        return self.encoder(audio)

    @torch.jit.export
    def decode_export(self, latents: Tensor) -> Tensor:
        return self.decoder(latents)


def normed(layer: nn.Module, norm: Norm) -> nn.Module:
    """layer with its weight as gain and direction, in one of torch's two ways, gains other than the norm."""
    if norm == "none":
        return layer
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        layer = (nn.utils.weight_norm if norm == "hooked" else nn.utils.parametrizations.weight_norm)(layer)
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if name.endswith(("weight_g", "original0")):
                parameter.mul_(1 + 0.2 * torch.randn_like(parameter))
    return layer


def vae(norm: Norm = "none", last: nn.Module | None = None) -> PublishedVae:
    torch.manual_seed(3)
    return PublishedVae(norm, last or nn.Identity()).eval().requires_grad_(False)


def traced(module: nn.Module, path: Path) -> Path:
    """Writes module as TorchScript, by tracing, which keeps both weight norms as they are."""
    examples = {"decode_export": torch.randn(1, 64, 4), "encode_export": torch.randn(1, 2, 4 * HOP)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.trace_module(module, examples, check_trace=False), path)
    return path


def scripted(module: nn.Module, path: Path) -> Path:
    """Writes module as TorchScript, its exported methods compiled."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(module), path)
    return path
