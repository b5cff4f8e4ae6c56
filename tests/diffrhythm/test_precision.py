from pathlib import Path

import pytest
import torch

from diffrhythm import precision
from diffrhythm.config import ModelConfig
from diffrhythm.errors import RequestError
from diffrhythm.transformer import DiT

SMALL = ModelConfig(dim=320, depth=4, ff_mult=2)
LARGE = ModelConfig.base()


@pytest.mark.parametrize(
    ("flags", "tried"),
    [
        ({"avx2", "fma", "f16c"}, ("torch-fp32", "fp32")),
        # Laptops of 2021 and later, servers of 2019: dot products of int8 and none of bf16.
        ({"avx2", "avx_vnni"}, ("torch-fp32", "int8-static", "int8", "fp32")),
        ({"avx512f", "avx512_vnni"}, ("torch-fp32", "int8-static", "int8", "fp32")),
        ({"avx512_vnni", "avx512_bf16"}, ("torch-fp32", "int8-static", "int8", "bf16", "fp32")),
        ({"amx_tile", "amx_bf16"}, ("torch-fp32", "bf16", "fp32")),
        ({"asimd", "bf16"}, ("torch-fp32", "bf16", "fp32")),
        ({"avx512_fp16", "f16c", "fphp"}, ("torch-fp32", "fp32")),
        (set(), ("torch-fp32", "fp32")),
    ],
)
def test_flags_say_what_is_worth_trying(flags: set[str], tried: tuple[str, ...]) -> None:
    assert precision.worth_trying(flags, {}) == tried


def test_kernels_that_are_held_down_are_not_tried_in_what_they_would_emulate() -> None:
    flags = {"avx512_bf16"}
    assert "bf16" not in precision.worth_trying(flags, {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"})


def test_the_published_size_is_large_and_the_demo_is_not() -> None:
    assert precision.is_large(LARGE)
    assert not precision.is_large(SMALL)


def test_the_weights_of_the_blocks_are_counted() -> None:
    with torch.device("meta"):
        blocks = DiT(SMALL).transformer_blocks
    matrices = [weight.numel() for weight in blocks.parameters() if weight.ndim == 2]
    assert SMALL.block_weights == sum(matrices)


def test_the_environment_stands_for_auto_alone() -> None:
    assert precision.asked("auto", {"DIFFRHYTHM_PRECISION": "int8"}) == "int8"
    assert precision.asked("fp32", {"DIFFRHYTHM_PRECISION": "int8"}) == "fp32"
    assert precision.asked("auto", {"DIFFRHYTHM_PRECISION": ""}) is None
    assert precision.asked("auto", {}) is None


def test_a_wrong_word_in_the_environment_is_refused_by_name() -> None:
    with pytest.raises(RequestError, match="'fp16': DIFFRHYTHM_PRECISION: choose one of fp32, bf16, int8"):
        precision.asked("auto", {"DIFFRHYTHM_PRECISION": "fp16"})


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


@pytest.mark.parametrize(
    ("flags", "held_to", "native"),
    [
        ({"avx512f", "avx512_bf16"}, "", True),
        ({"amx_bf16"}, "DEFAULT", True),
        ({"avx512_bf16"}, "avx512_core_bf16", True),
        ({"avx512_bf16"}, "AVX512_CORE_VNNI", False),
        ({"avx512f", "avx512_vnni"}, "", False),
        ({"avx2"}, "AVX512_CORE_BF16", False),
    ],
)
def test_bf16_is_native_only_where_its_instruction_may_be_used(
    flags: set[str], held_to: str, native: bool
) -> None:
    assert precision.has_native_bf16(flags, {"ONEDNN_MAX_CPU_ISA": held_to}) is native
