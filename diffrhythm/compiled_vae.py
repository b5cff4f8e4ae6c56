"""The autoencoder's decoder as a graph (graphs.py), for chunks of one number of frames.

c latent channels (64) · t latent frames (HOP samples each)
"""

from __future__ import annotations

from functools import partial

import numpy as np
import openvino
from openvino import opset13 as ops
from torch import nn

from diffrhythm import graphs
from diffrhythm.graphs import Node
from diffrhythm.precision import Precision
from diffrhythm.vae import Coder, Decoder, DecoderBlock, ResidualUnit, Snake
from diffrhythm.vae_config import LATENT_CHANNELS


def compiled(decoder: Decoder, *, frames: int, precision: Precision, threads: int) -> Coder:
    """The decoder for latents [1, c, frames] in fp32 or bf16."""
    latents = ops.parameter([1, LATENT_CHANNELS, frames], np.float32)
    model = openvino.Model([_behind(latents, decoder.layers)], [latents], "decoder")
    request = graphs.compiled(model, precision=precision, threads=threads).create_infer_request()
    return partial(graphs.run, request)


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
            wave = ops.sin(ops.multiply(x, graphs.constant(layer.alpha.exp()[:, None])))
            gain = graphs.constant((layer.beta.exp()[:, None] + 1e-9).reciprocal())
            return ops.add(x, ops.multiply(ops.multiply(wave, wave), gain))
        case nn.ConvTranspose1d():
            ends = list(layer.padding)
            x = ops.convolution_backprop_data(
                x, graphs.constant(layer.weight), list(layer.stride), pads_begin=ends, pads_end=ends
            )
        case nn.Conv1d(padding=(int() as ends,)):
            x = ops.convolution(x, graphs.constant(layer.weight), [1], [ends], [ends], list(layer.dilation))
        case _:
            raise TypeError(f"no operation for {type(layer).__name__}")
    return x if layer.bias is None else ops.add(x, graphs.constant(layer.bias[:, None]))
