"""The compiled passes against torch's own."""

from functools import cache

import golden
import pytest
import torch
from torch import Tensor, nn

from diffrhythm import conditioning, packed
from diffrhythm.compiled import Compiled
from diffrhythm.conditioning import Conditioning
from diffrhythm.config import ModelConfig
from diffrhythm.precision import PRECISIONS, Precision
from diffrhythm.sampling import Passes, State, sample
from diffrhythm.transformer import DiT

CONFIG = ModelConfig(dim=128, depth=4, conv_layers=1, text_rows=12, max_frames=256)
FRAMES = 64
# Relative errors that arithmetic may make in a song: of rounding alone, of 8 bits of mantissa, of int8. Which
# kernel calculates is the library's choice, so bf16 may also be as exact as float32.
MOST: dict[Precision, float] = {"fp32": 1e-5, "bf16": 0.03, "int8": 0.08}
LEAST: dict[Precision, float] = {"fp32": 0.0, "bf16": 0.0, "int8": 5e-3}


def model() -> DiT:
    return golden.model_of(CONFIG, weight_seed=7)


@cache
def song() -> Conditioning:
    generator = torch.Generator().manual_seed(0)
    style, negative = (torch.randn(512, generator=generator) for _ in range(2))
    return conditioning.build(
        model(),
        text_ids=torch.arange(FRAMES) % 12,
        style=style / style.norm(),
        negative_style=negative / negative.norm(),
        duration_frames=FRAMES,
    )


@cache
def compiled(precision: Precision) -> Compiled:
    return Compiled(model(), frames=FRAMES, precision=precision, threads=1)


def latents(passes: Passes, resume: State | None = None) -> list[State]:
    """The states of eight guided steps, or of what is left of them."""
    states: list[State] = []
    noise = torch.randn(1, FRAMES, 64, generator=torch.Generator().manual_seed(1))
    sample(passes, song(), noise, steps=8, cfg=4.0, on_step=states.append, resume=resume)
    return states


def last(passes: Passes) -> Tensor:
    return latents(passes)[-1].x_t


@pytest.mark.parametrize("precision", PRECISIONS)
def test_compiled_passes_make_the_same_song_within_their_rounding(precision: Precision) -> None:
    made = last(compiled(precision))
    assert made.dtype == torch.float32
    assert LEAST[precision] <= golden.distance(made, last(model())) < MOST[precision]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_resumed_song_is_bit_for_bit_the_uninterrupted_one(precision: Precision) -> None:
    whole = latents(compiled(precision))
    anew = Compiled(model(), frames=FRAMES, precision=precision, threads=1)
    assert torch.equal(latents(anew, resume=whole[2])[-1].x_t, whole[-1].x_t)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_frames_pass_the_mlps_in_pieces_with_the_same_numbers(
    monkeypatch: pytest.MonkeyPatch, precision: Precision
) -> None:
    whole = last(compiled(precision))
    monkeypatch.setattr("diffrhythm.compiled.MLP_FRAMES", 24)
    pieces = last(Compiled(model(), frames=FRAMES, precision=precision, threads=1))
    assert golden.distance(pieces, whole) < 1e-5


def test_the_two_kinds_of_pass_do_not_mix() -> None:
    passes = compiled("fp32")
    x_t = torch.randn(1, FRAMES, 64, generator=torch.Generator().manual_seed(2))
    modulation = passes.modulation(0.3, song().scalars)
    with torch.no_grad():
        for constants in (song().conditional, song().null, song().conditional):
            found, exact = (each.velocity(x_t, modulation, constants) for each in (passes, model()))
            assert golden.distance(found, exact) < 1e-5


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16])
def test_weights_are_taken_in_the_type_that_they_are_stored_in(stored: torch.dtype) -> None:
    rounded = model()
    for block in rounded.transformer_blocks:
        block.to(stored)
    mixed = Compiled(rounded, frames=FRAMES, precision="fp32", threads=1)
    for block in rounded.transformer_blocks:
        block.float()
    assert golden.distance(last(mixed), last(rounded)) < MOST["fp32"]


def test_what_a_pass_gives_is_its_own() -> None:
    passes = compiled("fp32")
    x_t = torch.zeros(1, FRAMES, 64)
    modulation = passes.modulation(0.3, song().scalars)
    with torch.no_grad():
        first = passes.velocity(x_t, modulation, song().conditional)
        kept = first.clone()
        passes.velocity(x_t + 1, modulation, song().conditional)
    assert torch.equal(first, kept)


def test_linears_that_are_quantised_already_are_taken_as_they_are() -> None:
    whole = model()
    doubled = {
        linear: (steps, 2 * scale)
        for linear in whole.transformer_blocks[1].modules()
        if isinstance(linear, nn.Linear)
        for steps, scale in [packed.quantise(linear.weight)]
    }
    louder = Compiled(whole, frames=FRAMES, precision="int8", threads=1, quantised=doubled)
    assert golden.distance(last(louder), last(compiled("int8"))) > MOST["int8"]
