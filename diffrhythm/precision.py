"""Which arithmetic suits this processor and a model. Pure, but for what the processor says of itself.

fp32 is the reference. bf16: the blocks in bfloat16. int8: their linears with 8-bit weights and inputs, the
rest of the blocks in bfloat16 (compiled.py). What is before and behind the blocks stays float32. Never
float16, which overflows and which no CPU here is fast at.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Literal, get_args

from diffrhythm.config import ModelConfig
from diffrhythm.errors import RequestError

Precision = Literal["fp32", "bf16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

OVERRIDE = "DIFFRHYTHM_PRECISION"
# Linux's names of a dot product of bfloat16: Intel's and AMD's AVX-512, Intel's AMX, Arm's.
BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
# oneDNN's variable for the instructions that it may use, and its values that allow products of bfloat16.
MAX_ISA = "ONEDNN_MAX_CPU_ISA"
BF16_ISAS = frozenset(
    {
        *("DEFAULT", "AVX2_VNNI_2", "AVX512_CORE_BF16", "AVX512_CORE_FP16", "AVX512_CORE_AMX"),
        *("AVX512_CORE_AMX_FP16", "AVX10_1_512", "AVX10_1_512_AMX", "AVX10_1_512_AMX_FP16"),
    }
)
# The same of int8. Without one, int8 takes as long as float32 or longer, and costs quality.
INT8_FLAGS = frozenset({"avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm"})
# Of weights in the blocks: below, songs are made in less time than compiling the passes takes.
LARGE = 100_000_000


def choose(cpu_flags: Collection[str], config: ModelConfig, *, int8_is_harmless: bool = False) -> Precision:
    """The arithmetic for a processor of these flags, the most exact of those that are fast on it.

    bf16 where it is native; else int8 where that is, which fp32 would take three times as long as; else fp32.
    int8_is_harmless: to this model, as tuning.py found: then it comes before bf16, which is slower.
    """
    has_bf16, has_int8 = (not flags.isdisjoint(cpu_flags) for flags in (BF16_FLAGS, INT8_FLAGS))
    if not is_large(config):
        return "fp32"
    if has_bf16 and not (has_int8 and int8_is_harmless):
        return "bf16"
    return "int8" if has_int8 else "fp32"


def is_large(config: ModelConfig) -> bool:
    """Whether compiling a model's passes pays."""
    return config.block_weights >= LARGE


def is_compiled(precision: Precision, cpu_flags: Collection[str]) -> bool:
    """Whether a large model is compiled (graphs.py) for this arithmetic, or calculated by torch.

    In float32 with vectors of 256 bits, torch is as fast, and begins at once on weights that all songs share.
    """
    return precision != "fp32" or "avx512f" in cpu_flags


def passes_are_compiled(precision: Precision, config: ModelConfig, cpu_flags: Collection[str]) -> bool:
    """The same of a model of any size: a small one is compiled only for what torch does not calculate in."""
    return precision != "fp32" or (is_large(config) and is_compiled(precision, cpu_flags))


def of_decoder(precision: Precision, cpu_flags: Collection[str]) -> Precision:
    """The decoder's arithmetic in a song of this one: bf16 where that is native and the song is not fp32."""
    return "bf16" if precision != "fp32" and has_native_bf16(cpu_flags) else "fp32"


def detect(
    config: ModelConfig, environ: Mapping[str, str] = os.environ, *, int8_is_harmless: bool = False
) -> Precision:
    """The arithmetic for this machine: DIFFRHYTHM_PRECISION where set, else by its processor (see choose).

    Raises RequestError for a value that is no precision.
    """
    asked = environ.get(OVERRIDE, "")
    if asked:
        return named(asked, OVERRIDE)
    return choose(cpu_flags(), config, int8_is_harmless=int8_is_harmless)


def named(name: str, where: str = "precision") -> Precision:
    """The precision of that name. Raises RequestError, saying `where`, for any other word."""
    for precision in PRECISIONS:
        if name == precision:
            return precision
    raise RequestError(f"precision {name!r}: {where}: choose one of {', '.join(PRECISIONS)}")


def has_native_bf16(flags: Collection[str], environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether products of bfloat16 have an instruction of their own here.

    flags: of the processor. environ: ONEDNN_MAX_CPU_ISA in it holds the kernels down, which then emulate
    what they may not use: on Ice Lake an emulated pass takes 17 times as long as one in float32.
    """
    held_to = environ.get(MAX_ISA, "").upper()
    return not BF16_FLAGS.isdisjoint(flags) and (not held_to or held_to in BF16_ISAS)


def cpu_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """What Linux says that the processor can do; nothing on other systems."""
    if not cpuinfo.exists():
        return frozenset()
    lines = cpuinfo.read_text(errors="replace").splitlines()
    # "flags" on x86, "Features" on Arm; the first processor speaks for all.
    found = (line.partition(":") for line in lines if line.startswith(("flags", "Features")))
    return frozenset(next((flags.split() for _, _, flags in found), ()))
