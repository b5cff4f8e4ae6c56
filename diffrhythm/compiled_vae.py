"""The autoencoder's decoder as graphs (graphs.py), for chunks of one number of frames.

c latent channels (64) · t latent frames (HOP samples each)
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import openvino
import torch
from numpy.polynomial import Chebyshev, Polynomial
from numpy.typing import NDArray
from openvino import opset13 as ops
from torch import Tensor, nn

from diffrhythm import graphs
from diffrhythm.chunks import Cut
from diffrhythm.graphs import Node
from diffrhythm.precision import Precision
from diffrhythm.vae import Coder, Decoder, DecoderBlock, Parts, ResidualUnit, Snake
from diffrhythm.vae_config import LATENT_CHANNELS

# Of the polynomial in u² that stands for sin²(πu)/u². So sin² is exact to 2.3e-10, by degree 5 to 2.2e-8.
SINE_DEGREE = 6


def compiled(decoder: Decoder, *, frames: int, precision: Precision, threads: int) -> Coder:
    """Return the decoder for latents [1, c, frames] in fp32 or bf16."""
    return _coder(decoder.layers, LATENT_CHANNELS, frames, precision, threads)


def parts(decoder: Decoder, cut: Cut, *, precision: Precision, threads: int) -> Parts:
    """Return the decoder in two parts, for a song that is cut like this, in fp32 or bf16."""
    coarse, fine = decoder.parts()
    width = decoder.coarse_width
    return Parts(
        _coder(coarse, LATENT_CHANNELS, cut.coarse, precision, threads),
        _coder(fine, width, cut.fine, precision, threads),
        width,
    )


def sine_squared(degree: int = SINE_DEGREE) -> NDArray[np.float64]:
    """Return the coefficients of P, lowest first: u²·P(u²) is sin²(πu) for |u| ≤ ½.

    P interpolates at Chebyshev points of u² in [0, ¼]. A factor of u² is kept apart, so that 0 stays 0.
    """

    def divided(v: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.pi**2 * np.sinc(np.sqrt(v)) ** 2

    polynomial = Chebyshev.interpolate(divided, degree, domain=[0, 0.25]).convert(kind=Polynomial)
    return np.asarray(polynomial.coef, np.float64)


def _coder(layers: nn.Module, channels: int, length: int, precision: Precision, threads: int) -> Coder:
    model = graph(layers, channels, length)
    request = graphs.compiled(model, precision=precision, threads=threads).create_infer_request()
    return partial(graphs.run, request)


def graph(layers: nn.Module, channels: int, length: int) -> openvino.Model:
    """Return the graph of layers of a decoder on [1, channels, length]."""
    x = ops.parameter([1, channels, length], np.float32)
    return openvino.Model([_behind(x, layers)], [x], "decoder")


def _behind(x: Node, layer: nn.Module) -> Node:
    """What the layer makes of x [1, channels, n]."""
    match layer:
        case nn.Sequential():
            for each in layer:
                x = _behind(x, each)
            return x
        case DecoderBlock():
            return _behind(x, layer.layers)
        case ResidualUnit():
            return ops.add(x, _behind(x, layer.layers))
        case Snake():
            return _snake(x, layer)
        case nn.ConvTranspose1d(stride=(int() as stride,), kernel_size=(int() as taps,)) if (
            taps == 2 * stride
        ):
            return _upsampled(x, layer, stride)
        case nn.Conv1d(padding=(int() as ends,)):
            x = ops.convolution(x, graphs.constant(layer.weight), [1], [ends], [ends], list(layer.dilation))
            return x if layer.bias is None else ops.add(x, _by_channel(layer.bias))
        case _:
            raise TypeError(f"no operation for {layer}")


def _snake(x: Node, layer: Snake) -> Node:
    """x + sin²(αx)/β by the period of sin² and a polynomial.

    OpenVINO computes the sine by a reference kernel, between reorders. The polynomial is one kernel with its
    neighbours. With it and _upsampled the published decoder takes 0.55 of the time (benchmarks/README.md).
    In float32 sin² is off by 1e-7·|αx|, and by 2e-7 near 0: two to four times what torch's own sine loses.
    """
    periods = ops.multiply(x, _by_channel(layer.alpha.double().exp() / math.pi))
    u = ops.subtract(periods, ops.round(periods, "half_to_even"))
    v = ops.multiply(u, u)
    lowest_first = [np.float32(coefficient) for coefficient in sine_squared()]
    wave = ops.constant(lowest_first[-1])
    for coefficient in lowest_first[-2::-1]:
        wave = ops.add(ops.multiply(wave, v), ops.constant(coefficient))
    gain = _by_channel((layer.beta.double().exp() + 1e-9).reciprocal())
    return ops.add(x, ops.multiply(ops.multiply(wave, v), gain))


def _upsampled(x: Node, layer: nn.ConvTranspose1d, stride: int) -> Node:
    """A transposed convolution of 2·stride taps: an ordinary one of two taps with stride times the channels.

    Phase r of output block q is weight[r] of position q and weight[stride + r] of position q − 1; there is
    one block more than positions. OpenVINO's own kernel is a plain product of matrices.
    """
    wide, narrow, _ = layer.weight.shape
    now, before = layer.weight[..., :stride], layer.weight[..., stride:]
    taps = torch.stack([before, now], dim=-1)  # [wide, narrow, stride, 2]
    kernel = taps.permute(2, 1, 0, 3).reshape(stride * narrow, wide, 2)
    x = ops.convolution(x, graphs.constant(kernel), [1], [1], [1], [1])
    if layer.bias is not None:
        x = ops.add(x, _by_channel(layer.bias.repeat(stride)))
    x = ops.depth_to_space(x, "blocks_first", stride)
    ends = int(layer.padding[0])
    return ops.slice(x, np.array([ends]), np.array([-ends]), np.array([1]), np.array([2]))


def _by_channel(values: Tensor) -> Node:
    """A constant [channels, 1]; bfloat16 stays so in memory."""
    return graphs.constant((values.float() if values.dtype == torch.float64 else values)[:, None])
