"""Weights by a rule instead of learnt, for models of any size.

Such a model cannot sing. It hums a chord whose partials follow the latents, so style, lyrics and seed are all
heard, and its numbers stay in range, which those of a network just begun do not.
"""

from __future__ import annotations

import math
import zlib

import numpy as np
from numpy.typing import NDArray

from diffrhythm.config import ModelConfig
from diffrhythm.vae_config import VaeConfig

Weights = dict[str, NDArray[np.float32]]

# The input projection takes [x_t 64, known 64, text 512, style 512, time 512].
_STYLE_COLUMNS = slice(640, 1152)
# A style is a unit vector among inputs of deviation 1: made as loud as they are.
_STYLE_GAIN = math.sqrt(512)
# Keeps finished latents at a deviation near 1 with guidance 3 to 4.
_VELOCITY_GAIN = 0.16
# Residual units only colour what passes through them.
_RESIDUAL_GAIN = 0.1
# Snake's β as a logarithm: x + sin²(x)/8, a touch of even harmonics.
_SOFT = math.log(8)
# Bring the decoder's inner signals near 1, where Snake colours them, and a song's peak to half of full scale.
_INPUT_GAIN = 1 / 8
_OUTPUT_GAIN = 1 / 16


def transformer_weights(config: ModelConfig) -> Weights:
    """Each weight from a generator of its own, seeded by its name; n is nearly normal, mean 0, deviation 1.

    Text table: n. GRN: 0.3 n. Other matrices and kernels: n / √(inputs). Gains of norms: 1 + 0.1 n. Biases:
    0.02 n. Then the style's columns of the input are raised and the velocity lowered.
    """
    import torch

    from diffrhythm.transformer import DiT

    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in DiT(config).state_dict().items()}
    weights = {name: _transformer_weight(name, shape) for name, shape in shapes.items()}
    weights["input_embed.proj.weight"][:, _STYLE_COLUMNS] *= np.float32(_STYLE_GAIN)
    for name in ("proj_out.weight", "proj_out.bias"):
        weights[name] *= np.float32(_VELOCITY_GAIN)
    return weights


def vae_weights(config: VaeConfig) -> Weights:
    """An autoencoder that hums: its decoder is laid out as additive synthesis.

    The first convolution smooths each latent channel over 7 frames. The first two upsamplings multiply
    by waves of 43 and 172 Hz and their multiples, the other three only interpolate, so the sum is a chord of
    harmonics of 43 Hz below 700 Hz, each following some mixture of latents. The encoder is random.
    """
    from diffrhythm.vae import Vae

    shapes = {name: tuple(tensor.shape) for name, tensor in Vae(config).state_dict().items()}
    weights = {name: _vae_weight(name, shape) for name, shape in shapes.items()}
    weights["decoder.layers.0.weight"] *= _rounded(_hann(7) * _INPUT_GAIN)
    for block, stride in enumerate(reversed(config.strides), 1):
        name = f"decoder.layers.{block}.layers.1.weight"
        weights[name] *= _carriers(block, stride, weights[name].shape[1]) * _rounded(_hann(2 * stride))
    _mix_sides(weights[f"decoder.layers.{len(config.strides) + 2}.weight"])
    return weights


def _mix_sides(output: NDArray[np.float32]) -> None:
    """Makes the right side of the last kernel [2, channels, taps] mostly the left: mono keeps both."""
    left, right = output * np.float32(_OUTPUT_GAIN)
    output[0], output[1] = left, left + np.float32(0.25) * right


def _transformer_weight(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    n = _draw(name, shape)
    if name == "text_embed.text_embed.weight":
        return n
    if ".grn." in name:
        return n * np.float32(0.3)
    if len(shape) > 1:
        return n * np.float32(1 / math.sqrt(math.prod(shape[1:])))
    if name.endswith("norm.weight"):
        return 1 + np.float32(0.1) * n
    return n * np.float32(0.02)


def _vae_weight(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    if name.endswith("alpha"):
        return np.zeros(shape, np.float32)
    if name.endswith("beta"):
        return np.full(shape, _SOFT, np.float32)
    if name.endswith("bias"):
        return np.zeros(shape, np.float32)
    if name.startswith("decoder") and not _is_residual(name):
        # Kernels get their shape in time later: one number for each pair of channels.
        inputs = shape[0] if ".layers.1.weight" in name else shape[1]
        pair = _draw(name, (*shape[:2], 1)) * np.float32(1 / math.sqrt(inputs))
        return np.broadcast_to(pair, shape).copy()
    gain = _RESIDUAL_GAIN if name.startswith("decoder") else 1.0
    return _draw(name, shape) * np.float32(gain / math.sqrt(math.prod(shape[1:])))


def _is_residual(name: str) -> bool:
    return name.count("layers.") == 3


def _carriers(block: int, stride: int, channels: int) -> NDArray[np.float32]:
    """[1, channels, 2·stride]: the wave that each channel of an upsampling is multiplied with.

    Waves repeat with the stride, so that one frame's goes on into the next. Behind the first upsampling one
    sample is 1/172 s, behind the second 1/1378 s.
    """
    cycles = {1: (0, 2, 4), 2: (1, 2, 3)}.get(block, (0,))
    k = np.arange(2 * stride)
    waves = [
        np.cos(2 * np.pi * cycles[o % len(cycles)] * k / stride + o * np.pi / 4) for o in range(channels)
    ]
    return _rounded(np.stack(waves) if block in (1, 2) else np.ones((channels, 2 * stride)))[None]


def _hann(length: int) -> NDArray[np.float64]:
    """A window that adds up to a constant when laid half a length apart."""
    return np.sin(np.pi * (np.arange(length) + 0.5) / length) ** 2


def _rounded(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """values to six digits, where every C library agrees on sines."""
    return (np.round(values * 2**20) / 2**20).astype(np.float32)


def _draw(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Nearly normal numbers of that name, mean 0, deviation 1."""
    return np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape, np.float32)
