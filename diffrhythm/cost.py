"""What a model's work costs in floating point operations and in memory, by its sizes. Pure arithmetic.

Operations: products of matrices and convolutions, a multiplication and an addition as two; what works on each
number alone is left out. They say how much longer one thing takes than another, not how long. Memory: a
little more than was measured, since too little of it costs a night and too much a place beside another song.

t latent frames · d model width
"""

from __future__ import annotations

from collections.abc import Mapping

from diffrhythm.config import CONV_GROUPS, ModelConfig
from diffrhythm.precision import Precision
from diffrhythm.vae_config import AUDIO_CHANNELS, HOP, LATENT_CHANNELS, VaeConfig

# Bytes of private memory, of the interpreter and the libraries, espeak's and jieba's dictionaries included.
PROCESS_BYTES = 500 * 2**20
# What a pass keeps, in activations as wide as the model: of its constants and within a block (README of
# benchmarks/: 3.4 GB while sampling in bf16, of which 2.6 GB are there before the first pass).
PASS_ACTIVATIONS = 48
# What the decoder keeps of one chunk, in activations at the rate of samples: by torch in fp32, and compiled,
# which has bytes for each weight besides, its float32 copies while it is compiled included. Of 64 frames of
# the published size 993 and 760 MB, of which 572 MB are there when it is compiled, on Zen 3
# (benchmarks/decoder.py --memory).
TORCH_DECODER_ACTIVATIONS = 15
DECODER_ACTIVATIONS = 5
DECODER_WEIGHT_BYTES = 7.5
# The whole song in float32: decoded, levelled, encoded.
SOUND_COPIES = 3
# A weight that is packed for compiled passes. fp32 and int8: 4.71 and 1.70 GB in a process that holds the
# published size, of which 0.31 GB are there without packed weights, on Zen 3 (python -m
# benchmarks.full_size --bundle full --precision int8 --processes 1 2 4 --steps 0).
WEIGHT_BYTES: Mapping[Precision, float] = {"fp32": 4.1, "bf16": 2.0, "int8": 1.3}
# Taps of the two convolutions over the frames, as published.
POSITION_TAPS = 31
# Of the decoder's first and last convolution, and of the dilated one in each of its residual units.
TAPS = 7
RESIDUAL_UNITS = 3


def of_pass(config: ModelConfig, frames: int) -> int:
    """Of one velocity of a song of so many frames, without what is computed once a song."""
    t, d = frames, config.dim
    ends = 2 * (2 * t * config.latent_channels * d)
    positions = 2 * (2 * t * d * (d // CONV_GROUPS) * POSITION_TAPS)
    linears = 2 * t * config.block_weights
    attention = config.depth * 2 * (2 * t * t * d)
    return ends + positions + linears + attention


def of_decoder(config: VaeConfig, frames: int) -> int:
    """Of the sound of so many frames."""
    widths = config.widths[::-1]
    rate = frames
    total = 2 * rate * LATENT_CHANNELS * widths[0] * TAPS
    for wide, narrow, stride in zip(widths, widths[1:], config.strides[::-1], strict=False):
        total += 2 * rate * wide * narrow * 2 * stride
        rate *= stride
        total += RESIDUAL_UNITS * 2 * rate * narrow * narrow * (TAPS + 1)
    return total + 2 * rate * widths[-1] * AUDIO_CHANNELS * TAPS


def decoder_weights(config: VaeConfig) -> int:
    """Return how many weights the convolutions of the decoder have."""
    widths = config.widths[::-1]
    total = LATENT_CHANNELS * widths[0] * TAPS + widths[-1] * AUDIO_CHANNELS * TAPS
    for wide, narrow, stride in zip(widths, widths[1:], config.strides[::-1], strict=False):
        total += wide * narrow * 2 * stride + RESIDUAL_UNITS * narrow * narrow * (TAPS + 1)
    return total


def private_bytes(
    config: ModelConfig,
    vae: VaeConfig,
    *,
    frames: int,
    at_once: int,
    chunk_frames: int,
    precision: Precision,
    compiled: bool,
    decoder: Precision,
) -> int:
    """Memory that a song's process has for itself at its peak, about.

    frames: of the song; at_once: of the longest window; chunk_frames: of one call of the decoder. compiled:
    the passes are, so that their weights are packed anew; else they stay in the file, which all songs share.
    """
    weights = int(config.block_weights * WEIGHT_BYTES[precision]) if compiled else 0
    a_pass = PASS_ACTIVATIONS * at_once * config.dim * 4
    activation = min(chunk_frames, frames) * HOP * vae.channels * 4
    chunk = int(DECODER_ACTIVATIONS * activation + DECODER_WEIGHT_BYTES * decoder_weights(vae))
    if decoder == "fp32":
        chunk = max(chunk, TORCH_DECODER_ACTIVATIONS * activation)  # by one or the other
    sound = SOUND_COPIES * frames * HOP * AUDIO_CHANNELS * 4
    return PROCESS_BYTES + max(weights + a_pass, chunk) + sound


def mapped_bytes(config: ModelConfig, *, compiled: bool) -> int:
    """Weights of the blocks that stay in their file, mapped, and have to be in memory at each pass."""
    return 0 if compiled else config.block_weights * 4
