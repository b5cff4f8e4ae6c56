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
    ("flags", "chosen"),
    [
        ({"fpu", "avx2", "fma", "f16c"}, "fp32"),
        # Laptops of 2021 and later, servers of 2019: dot products of int8 and none of bf16.
        ({"fpu", "avx2", "avx_vnni"}, "int8"),
        ({"fpu", "avx2", "avx512f", "avx512_vnni"}, "int8"),
        ({"avx512_vnni", "avx512_bf16"}, "bf16"),
        ({"avx512f", "avx512_bf16"}, "bf16"),
        ({"amx_tile", "amx_bf16"}, "bf16"),
        ({"asimd", "bf16"}, "bf16"),
        # Half precision alone is no reason to leave fp32.
        ({"avx512_fp16", "f16c", "fphp"}, "fp32"),
        (set(), "fp32"),
    ],
)
def test_the_most_exact_of_the_fast_is_chosen(flags: set[str], chosen: str) -> None:
    assert precision.choose(flags, LARGE) == chosen


def test_int8_that_is_known_to_be_harmless_comes_before_bf16_where_it_is_native() -> None:
    assert precision.choose({"avx512_vnni", "avx512_bf16"}, LARGE, int8_is_harmless=True) == "int8"
    assert precision.choose({"amx_bf16"}, LARGE, int8_is_harmless=True) == "bf16"
    assert precision.choose({"avx2"}, LARGE, int8_is_harmless=True) == "fp32"


def test_a_small_model_is_not_compiled_unasked() -> None:
    assert precision.choose({"avx512_bf16"}, SMALL) == "fp32"
    assert precision.is_large(LARGE)
    assert not precision.is_large(SMALL)


def test_fp32_is_compiled_only_for_vectors_wider_than_torch_uses() -> None:
    assert not precision.is_compiled("fp32", {"avx2"})
    assert precision.is_compiled("fp32", {"avx2", "avx512f"})
    assert precision.is_compiled("int8", {"avx2", "avx_vnni"})


@pytest.mark.parametrize(
    ("asked", "flags", "decoder"),
    [
        ("bf16", {"avx512_bf16"}, "bf16"),
        ("int8", {"avx512_bf16"}, "bf16"),
        ("int8", {"avx_vnni"}, "fp32"),
        ("fp32", {"avx512_bf16"}, "fp32"),
    ],
)
def test_a_decoder_is_never_in_int8(asked: precision.Precision, flags: set[str], decoder: str) -> None:
    assert precision.of_decoder(asked, flags) == decoder


def test_the_weights_of_the_blocks_are_counted() -> None:
    with torch.device("meta"):
        blocks = DiT(SMALL).transformer_blocks
    matrices = [weight.numel() for weight in blocks.parameters() if weight.ndim == 2]
    assert SMALL.block_weights == sum(matrices)


def test_the_environment_overrides_the_processor() -> None:
    assert precision.detect(SMALL, {"DIFFRHYTHM_PRECISION": "int8"}) == "int8"
    found = precision.detect(LARGE, {"DIFFRHYTHM_PRECISION": ""})
    assert found == precision.choose(precision.cpu_flags(), LARGE)


def test_a_wrong_word_in_the_environment_is_refused_by_name() -> None:
    with pytest.raises(RequestError, match="'fp16': DIFFRHYTHM_PRECISION: choose one of fp32, bf16, int8"):
        precision.detect(SMALL, {"DIFFRHYTHM_PRECISION": "fp16"})


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
