"""What a model's work costs in floating point operations, by its sizes. Pure arithmetic.

Products of matrices and convolutions, a multiplication and an addition as two; what works on each number
alone is left out. They say how much longer one thing takes than another, not how long.

t latent frames · d model width
"""

from __future__ import annotations

from collections.abc import Mapping

from diffrhythm.config import CONV_GROUPS, ModelConfig
from diffrhythm.precision import Precision
from diffrhythm.vae_config import AUDIO_CHANNELS, LATENT_CHANNELS, VaeConfig

# Of one core in the passes of a large model, a second, about: those of an EPYC (benchmarks/README.md).
CORE_FLOP_S: Mapping[Precision, float] = {"fp32": 60e9, "bf16": 190e9, "int8": 250e9}
# More cores than this do not make a song much faster.
MOST_CORES = 8
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


def passes_s(config: ModelConfig, frames: int, passes: int, precision: Precision, cores: int) -> float:
    """About how many seconds so many passes take on so many cores; the same on every run, and on no machine
    exactly.
    """
    return passes * of_pass(config, frames) / (CORE_FLOP_S[precision] * min(cores, MOST_CORES))


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
