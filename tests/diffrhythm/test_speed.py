"""A machine's pace at a model's passes, and what it makes of a song."""

from __future__ import annotations

import pytest

from diffrhythm import cost
from diffrhythm.config import ModelConfig
from diffrhythm.precision import Precision
from diffrhythm.speed import DECODER_SLOWDOWN, forecast, measure
from diffrhythm.vae_config import VaeConfig

SMALL = ModelConfig(dim=64, depth=2, ff_mult=2, conv_layers=1, text_rows=8, max_frames=64)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_a_pace_is_measured_in_every_arithmetic(precision: Precision) -> None:
    assert 1e6 < measure(SMALL, precision, sample_s=0.0) < 1e15


def test_a_song_takes_its_passes_and_its_decoding() -> None:
    config, vae = ModelConfig.base(), VaeConfig()
    of_pass, of_decoder = cost.of_pass(config, 2048), cost.of_decoder(vae, 2048)
    assert forecast(config, vae, frames=2048, steps=0, flop_s=1e12) == pytest.approx(
        DECODER_SLOWDOWN * of_decoder / 1e12
    )
    eight, nine = (forecast(config, vae, frames=2048, steps=n, flop_s=1e12) for n in (8, 9))
    assert nine - eight == pytest.approx(2 * of_pass / 1e12)


def test_the_published_song_is_forecast_as_it_was_measured() -> None:
    """bf16 on two cores: 13.4 s a pass and 46 s for the decoder (benchmarks/README.md)."""
    config, vae = ModelConfig.base(), VaeConfig()
    flop_s = cost.of_pass(config, 2048) / 13.4
    assert forecast(config, vae, frames=2048, steps=12, flop_s=flop_s) == pytest.approx(
        24 * 13.4 + 46, rel=0.03
    )
