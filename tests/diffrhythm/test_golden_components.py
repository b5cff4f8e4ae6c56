"""One pass taken apart: what each module gives against what the published one gives."""

import re
from collections.abc import Callable
from functools import cache

import golden
import pytest
import torch
from golden import ONE_PASS, GoldenSet, distance
from torch import Tensor, nn

from diffrhythm import conditioning
from diffrhythm.transformer import sinusoid

SETS = golden.sets("components")

# What stands in the model for the beginning of an array's name, `out.` aside.
MODULES = {
    r"text_block(\d+)": r"text_embed.text_blocks.\1",
    r"conv_pos": "input_embed.conv_pos_embed",
    r"block(\d+)": r"transformer_blocks.\1",
    r"fusion(\d+)": r"text_fusion_linears.\1",
}


def module_of(array: str) -> str:
    """The name under which outputs_of_one_pass has the array `out.<array>`."""
    for pattern, module in MODULES.items():
        array = re.sub(rf"^{pattern}(?=\.|$)", module, array)
    return array


@cache
def outputs_of_one_pass(one: GoldenSet) -> dict[str, Tensor]:
    """Every module's first output (the conditional one) in one pass, by the module's name.

    Besides `model`, the velocity, and `input_proj`, what goes into the convolution over the input.
    """
    model, arrays = one.model, one.arrays
    seen: dict[str, Tensor] = {}

    def note_output(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        def note(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            seen.setdefault(name, output)

        return note

    def note_projection(_module: nn.Module, inputs: tuple[Tensor]) -> None:
        seen["input_proj"] = inputs[0]

    hooks = [
        module.register_forward_hook(note_output(name)) for name, module in model.named_modules() if name
    ]
    hooks.append(model.input_embed.conv_pos_embed.register_forward_pre_hook(note_projection))
    try:
        song = conditioning.build(
            model,
            text_ids=arrays["in.text"],
            style=arrays["in.style"],
            negative_style=arrays["in.style"],
            known=arrays["in.cond"],
            duration_frames=arrays["in.duration"] * model.config.max_frames,
            start_time=arrays["in.start_time"],
        )
        modulation = model.modulation(arrays["in.time"], song.scalars)
        seen["model"] = model.velocity(arrays["in.x"], modulation, song.conditional)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def cases() -> list[object]:
    return [
        pytest.param(one, name.removeprefix("out."), id=f"{one}-{name.removeprefix('out.')}")
        for one in SETS
        for name in one.arrays
        if name.startswith("out.") and name != "out.text_embed_null"
    ]


def test_a_set_of_components_is_there() -> None:
    assert any("out.model" in one.arrays for one in SETS)


@pytest.mark.parametrize(("one", "array"), cases())
def test_a_module_gives_the_reference_output(one: GoldenSet, array: str) -> None:
    result = outputs_of_one_pass(one)[module_of(array)]
    if array.startswith("text_"):
        # These are kept of every 4th frame only.
        result = result[:, ::4]
    assert distance(result, one.arrays[f"out.{array}"]) < ONE_PASS


@pytest.mark.parametrize("one", SETS, ids=str)
def test_no_text_has_the_reference_embedding(one: GoldenSet) -> None:
    nothing = one.model.text_embed(torch.zeros_like(one.arrays["in.text"]))
    assert distance(nothing[:, ::4], one.arrays["out.text_embed_null"]) < ONE_PASS


@pytest.mark.parametrize("one", SETS, ids=str)
def test_the_rotary_table_is_the_reference_table(one: GoldenSet) -> None:
    table = one.model.rotary(one.arrays["rope.cos"].shape[0])
    assert distance(table.cos, one.arrays["rope.cos"]) < ONE_PASS
    assert distance(table.sin, one.arrays["rope.sin"]) < ONE_PASS


@pytest.mark.parametrize("one", SETS, ids=str)
def test_scalars_have_the_reference_sinusoids_and_embeddings(one: GoldenSet) -> None:
    times = one.arrays["time.in"]
    assert distance(sinusoid(times), one.arrays["time.sinus"]) < ONE_PASS
    names = {name.removeprefix("time.") for name in one.arrays if name.endswith("_embed") and "time." in name}
    assert {"time_embed", "start_time_embed"} <= names
    assert ("duration_time_embed" in names) == one.model.config.embeds_duration
    for name in names:
        result = one.model.get_submodule(name)(times)
        assert distance(result, one.arrays[f"time.{name}"]) < ONE_PASS, name
