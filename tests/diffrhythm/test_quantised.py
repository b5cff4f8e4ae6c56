"""The int8 copy of a model's linears: made once, mapped after that, never trusted blindly."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from diffrhythm import files, packed, quantised, smoothquant
from diffrhythm.bundle import Bundle
from diffrhythm.smoothquant import Calibration, Input
from diffrhythm.transformer import Block, DiT

SPARED = {0}


@pytest.fixture
def model(demo_bundle: Bundle) -> DiT:
    return demo_bundle.open_transformer()


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return files.cache_folder() / "int8"


def test_every_linear_but_those_of_spared_blocks_is_quantised(demo_bundle: Bundle, model: DiT) -> None:
    found = quantised.linears(demo_bundle, model, SPARED)
    wanted = [
        module
        for block in list(model.transformer_blocks)[1:]
        for module in block.modules()
        if isinstance(module, nn.Linear)
    ]
    assert set(found) == set(wanted)
    for linear, (steps, scale) in found.items():
        assert isinstance(linear, nn.Linear)
        exact_steps, exact_scale = packed.quantise(linear.weight.float())
        assert torch.equal(steps, exact_steps)
        assert torch.equal(scale, exact_scale)


def test_a_second_song_reads_what_the_first_one_made(
    demo_bundle: Bundle, model: DiT, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = quantised.linears(demo_bundle, model, SPARED)
    monkeypatch.delattr(packed, "quantise")
    second = quantised.linears(demo_bundle, model, SPARED)
    assert all(torch.equal(second[linear][0], steps) for linear, (steps, _) in first.items())


@pytest.mark.parametrize("content", [b"", b"garbage", None], ids=["empty", "garbage", "of other blocks"])
def test_a_file_that_is_none_of_the_model_is_made_anew(
    demo_bundle: Bundle, model: DiT, kept: Path, content: bytes | None
) -> None:
    quantised.linears(demo_bundle, model, {1})
    (file,) = kept.glob("*.safetensors")
    if content is not None:
        file.write_bytes(content)
    before = file.read_bytes()
    assert quantised.linears(demo_bundle, model, SPARED)
    assert file.read_bytes() != before


def test_a_cache_that_cannot_be_written_is_a_warning(
    demo_bundle: Bundle, model: DiT, kept: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept.parent.mkdir(parents=True)
    kept.write_text("in the way")
    with caplog.at_level(logging.WARNING):
        assert quantised.linears(demo_bundle, model, SPARED)
    assert "int8 weights not cached" in caplog.text


def test_what_a_killed_maker_left_is_removed(demo_bundle: Bundle, model: DiT, kept: Path) -> None:
    quantised.linears(demo_bundle, model, SPARED)
    (file,) = kept.glob("*.safetensors")
    left = file.with_name(f".{file.name}.1-abcd.tmp")
    file.rename(left)
    quantised.linears(demo_bundle, model, SPARED)
    assert file.exists()
    assert not left.exists()


def calibration(model: DiT) -> Calibration:
    """Factors of 2 everywhere; one linear in float, one dynamic."""
    crude = smoothquant.crude(model)
    inputs = {name: Input(2 * each.factors, each.step) for name, each in crude.inputs.items()}
    return Calibration(inputs, dict(crude.forms) | {"0.mlp.up_proj": "float", "1.mlp.up_proj": "dynamic"})


def test_a_calibrated_model_has_its_factors_in_the_weights(demo_bundle: Bundle, model: DiT) -> None:
    found = quantised.linears(demo_bundle, model, SPARED, calibration(model))
    first, second = list(model.transformer_blocks)[:2]
    assert isinstance(first, Block)
    assert isinstance(second, Block)
    assert first.mlp.up_proj not in found
    assert second.mlp.up_proj in found
    steps, scale = found[first.self_attn.q_proj]
    exact_steps, exact_scale = packed.quantise(2 * first.self_attn.q_proj.weight.float())
    assert torch.equal(steps, exact_steps)
    assert torch.equal(scale, exact_scale)


def test_calibrating_replaces_what_was_kept_before(demo_bundle: Bundle, model: DiT, kept: Path) -> None:
    plain = quantised.linears(demo_bundle, model, SPARED)
    (before,) = kept.glob("*.safetensors")
    made = quantised.linears(demo_bundle, model, SPARED, calibration(model))
    (after,) = kept.glob("*.safetensors")
    assert after != before
    # What songs have mapped stays theirs.
    assert all(bool(steps.abs().sum() > 0) for steps, _ in plain.values())
    assert len(made) > len(plain)


def test_another_calibration_does_not_take_the_weights_of_the_first(demo_bundle: Bundle, model: DiT) -> None:
    first = calibration(model)
    second = replace(first, inputs={n: Input(3 * each.factors, 1.0) for n, each in first.inputs.items()})
    block = model.transformer_blocks[0]
    assert isinstance(block, Block)
    scales = [
        quantised.linears(demo_bundle, model, SPARED, each)[block.self_attn.q_proj][1]
        for each in (first, second)
    ]
    assert torch.allclose(scales[1], 3 * scales[0], rtol=1e-5)
