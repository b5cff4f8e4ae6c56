"""Counted by hand, by torch, and by what is known of the published sizes."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from diffrhythm import conditioning, cost, vae
from diffrhythm.config import ModelConfig
from diffrhythm.transformer import DiT
from diffrhythm.vae_config import HOP, SAMPLE_RATE, VaeConfig

FRAMES = 6


def test_a_pass_by_hand() -> None:
    config = ModelConfig(dim=64, depth=3, ff_mult=2, text_rows=8)
    ends = 2 * FRAMES * 64 * 64 * 2
    positions = 2 * (2 * FRAMES * 64 * 4 * 31)
    projections = 4 * (2 * FRAMES * 64 * 64)
    mlp = 3 * (2 * FRAMES * 64 * 128)
    attention = 2 * (2 * FRAMES * FRAMES * 64)
    assert cost.of_pass(config, FRAMES) == ends + positions + 3 * (projections + mlp + attention)


def test_a_decoder_by_hand() -> None:
    config = VaeConfig(channels=3, multiples=(2, 4), strides=(64, 32))
    first = 2 * FRAMES * 64 * 12 * 7
    wide = 2 * FRAMES * 12 * 6 * 64 + 3 * (2 * (32 * FRAMES) * 6 * 6 * 8)
    narrow = 2 * (32 * FRAMES) * 6 * 3 * 128 + 3 * (2 * (HOP * FRAMES) * 3 * 3 * 8)
    last = 2 * (HOP * FRAMES) * 3 * 2 * 7
    assert cost.of_decoder(config, FRAMES) == first + wide + narrow + last


def test_torch_counts_the_same_of_a_pass() -> None:
    config = ModelConfig(dim=64, depth=3, ff_mult=2, text_rows=8)
    model, frames = DiT(config).eval(), 10
    style = torch.ones(512)
    with torch.no_grad():
        song = conditioning.build(
            model,
            text_ids=torch.ones(frames, dtype=torch.long),
            style=style,
            negative_style=style,
            duration_frames=frames,
        )
        modulation = model.modulation(0.5, song.scalars)
        # Of attention torch counts only the plain way.
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            model.velocity(torch.zeros(1, frames, 64), modulation, song.conditional)
    assert counter.get_total_flops() == pytest.approx(cost.of_pass(config, frames), rel=1e-6)


def test_torch_counts_the_same_of_a_decoder() -> None:
    config = VaeConfig(channels=4, multiples=(2, 4), strides=(64, 32))
    decoder = vae.Vae(config, "cpu").decoder
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        decoder(torch.zeros(1, 64, FRAMES))
    assert counter.get_total_flops() == pytest.approx(cost.of_decoder(config, FRAMES), rel=1e-6)


def test_the_published_sizes_cost_what_is_known_of_them() -> None:
    assert cost.of_pass(ModelConfig.base(), 2048) == pytest.approx(5.0e12, rel=0.01)
    assert cost.of_pass(ModelConfig.full(), 6144) == pytest.approx(18.3e12, rel=0.01)
    frames = 2048
    a_second = cost.of_decoder(VaeConfig(), frames) / (frames * HOP / SAMPLE_RATE)
    assert a_second == pytest.approx(109e9, rel=0.01)


def test_passes_take_as_long_as_were_measured_on_two_cores_about() -> None:
    base = ModelConfig.base()
    assert cost.passes_s(base, 2048, 1, "bf16", 2) == pytest.approx(13.4, rel=0.15)
    assert cost.passes_s(base, 2048, 1, "fp32", 2) == pytest.approx(40.6, rel=0.15)
    assert cost.passes_s(base, 2048, 4, "fp32", 4) == pytest.approx(
        2 * cost.passes_s(base, 2048, 1, "fp32", 2)
    )
    assert cost.passes_s(base, 2048, 1, "fp32", 64) == cost.passes_s(base, 2048, 1, "fp32", 8)
