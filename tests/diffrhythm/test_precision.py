from pathlib import Path

import golden
import pytest
import torch
from torch import Tensor

from diffrhythm import conditioning, precision
from diffrhythm.config import ModelConfig
from diffrhythm.errors import RequestError
from diffrhythm.sampling import sample
from diffrhythm.transformer import DiT

CONFIG = ModelConfig(dim=128, depth=4, conv_layers=1, text_rows=12, max_frames=256)
FRAMES = 64


def latents(name: str) -> Tensor:
    """Eight guided steps in this precision."""
    dit = precision.apply(golden.model_of(CONFIG, weight_seed=7), name)
    generator = torch.Generator().manual_seed(0)
    style, negative = (torch.randn(512, generator=generator) for _ in range(2))
    song = conditioning.build(
        dit,
        text_ids=torch.arange(FRAMES) % 12,
        style=style / style.norm(),
        negative_style=negative / negative.norm(),
        duration_frames=FRAMES,
    )
    return sample(dit, song, torch.randn(1, FRAMES, 64, generator=generator), steps=8, cfg=4.0)


def linear_of(dit: DiT) -> torch.nn.Module:
    return dit.get_submodule("transformer_blocks.1.mlp.down_proj")


@pytest.mark.parametrize(
    ("flags", "chosen"),
    [
        ({"fpu", "avx2", "avx512f", "avx512_vnni"}, "fp32"),
        ({"avx512f", "avx512_bf16"}, "bf16"),
        ({"amx_tile", "amx_bf16"}, "bf16"),
        ({"asimd", "bf16"}, "bf16"),
        # Half precision alone is no reason to leave fp32.
        ({"avx512_fp16", "f16c", "fphp"}, "fp32"),
        (set(), "fp32"),
    ],
)
def test_bf16_is_chosen_only_where_it_is_native(flags: set[str], chosen: str) -> None:
    assert precision.choose(flags) == chosen


def test_the_environment_overrides_the_processor() -> None:
    assert precision.detect({"DIFFRHYTHM_PRECISION": "int8"}) == "int8"
    assert precision.detect({"DIFFRHYTHM_PRECISION": ""}) == precision.choose(precision.cpu_flags())


def test_a_wrong_word_in_the_environment_is_refused_by_name() -> None:
    with pytest.raises(RequestError, match="'fp16': DIFFRHYTHM_PRECISION: choose one of fp32, bf16, int8"):
        precision.detect({"DIFFRHYTHM_PRECISION": "fp16"})


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        ("processor\t: 0\nvmx flags\t: x\nflags\t\t: fpu avx2 \n\nflags\t: other\n", {"fpu", "avx2"}),
        ("processor : 0\nFeatures : fp asimd bf16\n", {"fp", "asimd", "bf16"}),
        ("nothing of the kind\n", set()),
    ],
)
def test_flags_are_those_of_the_first_processor(tmp_path: Path, text: str, flags: set[str]) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    assert precision.cpu_flags(tmp_path / "cpuinfo") == flags


def test_a_system_without_cpuinfo_has_no_flags(tmp_path: Path) -> None:
    assert precision.cpu_flags(tmp_path / "cpuinfo") == frozenset()


def test_fp32_changes_nothing() -> None:
    dit = golden.model_of(CONFIG, weight_seed=7)
    before = {name: weight.data_ptr() for name, weight in dit.named_parameters()}
    precision.apply(dit, "fp32")
    assert before == {name: weight.data_ptr() for name, weight in dit.named_parameters()}


def test_bf16_is_for_the_blocks_and_the_input_convolution_alone() -> None:
    dit = precision.apply(golden.model_of(CONFIG, weight_seed=7), "bf16")
    in_bf16 = {name for name, weight in dit.named_parameters() if weight.dtype == torch.bfloat16}
    assert {name.split(".")[0] for name in in_bf16} == {"transformer_blocks", "input_embed"}
    assert "input_embed.proj.weight" not in in_bf16
    assert all(weight.dtype in (torch.bfloat16, torch.float32) for weight in dit.parameters())


def test_weights_kept_in_half_precision_are_widened() -> None:
    dit = golden.model_of(CONFIG, weight_seed=7).half()
    precision.apply(dit, "fp32")
    assert {weight.dtype for weight in dit.parameters()} == {torch.float32}


@pytest.mark.parametrize(("name", "most"), [("bf16", 0.02), ("int8", 0.08)])
def test_a_lower_precision_stays_near_the_reference_and_is_not_it(name: str, most: float) -> None:
    error = golden.distance(latents(name), latents("fp32"))
    assert 1e-4 < error < most


def test_latents_are_float32_in_every_precision() -> None:
    assert {latents(name).dtype for name in precision.PRECISIONS} == {torch.float32}


def test_int8_keeps_the_blocks_linears_in_a_quarter_of_the_memory() -> None:
    dit = precision.apply(golden.model_of(CONFIG, weight_seed=7), "int8")
    weight = linear_of(dit).weight()  # type: ignore[operator]
    assert weight.dtype == torch.qint8
    assert weight.qscheme() == torch.per_channel_affine


def test_a_model_in_int8_cannot_be_changed_again() -> None:
    dit = precision.apply(golden.model_of(CONFIG, weight_seed=7), "int8")
    with pytest.raises(RequestError, match="int8 already"):
        precision.apply(dit, "fp32")


def test_an_unknown_precision_leaves_the_model_alone() -> None:
    dit = golden.model_of(CONFIG, weight_seed=7)
    with pytest.raises(RequestError, match="fp16"):
        precision.apply(dit, "fp16")
    assert isinstance(linear_of(dit), torch.nn.Linear)
