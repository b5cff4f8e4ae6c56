"""The names of arithmetics, and what a processor says that it can calculate in.

A user asks for a precision. fp32 is the reference. bf16: the blocks in bfloat16. int8: their linears with
8-bit weights and inputs, the rest of the blocks in bfloat16 where that is native, else in float32
(compiled.py). What is before and behind the blocks stays float32. Never float16, which overflows and which
few CPUs are fast at.

An arithmetic is a precision and what calculates it. Which one is fast on a machine is measured
(machine_profile.py) and then chosen (arithmetic.py). The processor's flags only say what is worth trying.
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

# torch-fp32: by torch, the published way. The others are compiled by OpenVINO. int8: activations are
# quantised as they come. int8-static: with ranges that a calibration of the model's own weights found
# (calibration.py).
Arithmetic = Literal["torch-fp32", "fp32", "bf16", "int8", "int8-static"]
ARITHMETICS: tuple[Arithmetic, ...] = get_args(Arithmetic)
PRECISION_OF: Mapping[Arithmetic, Precision] = {
    "torch-fp32": "fp32",
    "fp32": "fp32",
    "bf16": "bf16",
    "int8": "int8",
    "int8-static": "int8",
}

OVERRIDE = "DIFFRHYTHM_PRECISION"
# Linux's names of a dot product of bfloat16: Intel's and AMD's AVX-512, Intel's AMX, Arm's.
BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
# The same of int8. Without one, int8 takes as long as float32 or longer, and costs quality.
INT8_FLAGS = frozenset({"avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm"})
# oneDNN's variable for the instructions that it may use, and its values that allow products of bfloat16.
MAX_ISA = "ONEDNN_MAX_CPU_ISA"
BF16_ISAS = frozenset(
    {
        *("DEFAULT", "AVX2_VNNI_2", "AVX512_CORE_BF16", "AVX512_CORE_FP16", "AVX512_CORE_AMX"),
        *("AVX512_CORE_AMX_FP16", "AVX10_1_512", "AVX10_1_512_AMX", "AVX10_1_512_AMX_FP16"),
    }
)
# Of weights in the blocks: below, songs are made in less time than compiling the passes takes.
LARGE = 100_000_000


def worth_trying(flags: Collection[str], environ: Mapping[str, str] = os.environ) -> tuple[Arithmetic, ...]:
    """Return the arithmetics that may be fast on a processor of these flags, the published way first."""
    int8: tuple[Arithmetic, ...] = () if INT8_FLAGS.isdisjoint(flags) else ("int8-static", "int8")
    bf16: tuple[Arithmetic, ...] = ("bf16",) if has_native_bf16(flags, environ) else ()
    return ("torch-fp32", *int8, *bf16, "fp32")


def has_native_bf16(flags: Collection[str], environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether products of bfloat16 have an instruction of their own here.

    flags: of the processor. environ: ONEDNN_MAX_CPU_ISA in it holds the kernels down, which then emulate
    what they may not use: on Ice Lake an emulated pass takes 17 times as long as one in float32.
    """
    held_to = environ.get(MAX_ISA, "").upper()
    return not BF16_FLAGS.isdisjoint(flags) and (not held_to or held_to in BF16_ISAS)


def is_large(config: ModelConfig) -> bool:
    """Return whether compiling a model's passes pays."""
    return config.block_weights >= LARGE


def asked(name: str, environ: Mapping[str, str] = os.environ) -> Precision | None:
    """Return the precision of this name; of auto the one in DIFFRHYTHM_PRECISION, None where that is unset.

    Raises RequestError for a value that is no precision.
    """
    if name != "auto":
        return named(name)
    override = environ.get(OVERRIDE, "")
    return named(override, OVERRIDE) if override else None


def named(name: str, where: str = "precision") -> Precision:
    """Return the precision of that name. Raises RequestError, naming `where`, for any other word."""
    for precision in PRECISIONS:
        if name == precision:
            return precision
    raise RequestError(f"precision {name!r}: {where}: choose one of {', '.join(PRECISIONS)}")


def cpu_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Return what Linux says that the processor can do; nothing on other systems."""
    if not cpuinfo.exists():
        return frozenset()
    lines = cpuinfo.read_text(errors="replace").splitlines()
    # "flags" on x86, "Features" on Arm; the first processor speaks for all.
    found = (line.partition(":") for line in lines if line.startswith(("flags", "Features")))
    return frozenset(next((flags.split() for _, _, flags in found), ()))
