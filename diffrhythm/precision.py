"""Which arithmetic this processor is good at, and a model made to use it.

fp32 is the reference. bf16: weights and products of the blocks and of the input convolution in bfloat16; the
time, the norms, the embeddings and the sum that runs through the blocks stay float32. int8: the blocks'
linears with 8-bit weights and inputs quantised on the way; all else float32. Never float16, which overflows
and which no CPU here is fast at.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import nn
from torch.ao.quantization import per_channel_dynamic_qconfig, quantize_dynamic

from diffrhythm.errors import RequestError
from diffrhythm.transformer import Block, DiT

Precision = Literal["fp32", "bf16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

OVERRIDE = "DIFFRHYTHM_PRECISION"
# Linux's names of a dot product of bfloat16: Intel's and AMD's AVX-512, Intel's AMX, Arm's.
BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
# Where a pass spends its time; the rest runs once per song or is small.
LOWERED = ("transformer_blocks.", "input_embed.conv_pos_embed.")
# torch's int8 engines, the fastest first (measured on AVX512-VNNI).
INT8_ENGINES = ("x86", "fbgemm", "onednn", "qnnpack")


def choose(cpu_flags: Collection[str]) -> Precision:
    """The arithmetic for a processor of these flags: bf16 where it is native, else fp32."""
    return "fp32" if BF16_FLAGS.isdisjoint(cpu_flags) else "bf16"


def detect(environ: Mapping[str, str] = os.environ) -> Precision:
    """The arithmetic for this machine: DIFFRHYTHM_PRECISION where set, else by its processor.

    Raises RequestError for a value that is no precision.
    """
    asked = environ.get(OVERRIDE, "")
    return named(asked, OVERRIDE) if asked else choose(cpu_flags())


def named(name: str, where: str = "precision") -> Precision:
    """The precision of that name. Raises RequestError, saying `where`, for any other word."""
    for precision in PRECISIONS:
        if name == precision:
            return precision
    raise RequestError(f"precision {name!r}: {where}: choose one of {', '.join(PRECISIONS)}")


def cpu_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """What Linux says that the processor can do; nothing on other systems."""
    if not cpuinfo.exists():
        return frozenset()
    lines = cpuinfo.read_text(errors="replace").splitlines()
    # "flags" on x86, "Features" on Arm; the first processor speaks for all.
    found = (line.partition(":") for line in lines if line.startswith(("flags", "Features")))
    return frozenset(next((flags.split() for _, _, flags in found), ()))


def apply(model: DiT, precision: str) -> DiT:
    """The same model, changed in place to calculate in `precision`; weights already in it are not copied.

    Raises RequestError for an unknown precision, or a model in int8: what was rounded off does not come back.
    """
    if _is_int8(model):
        raise RequestError(f"precision {precision}: this model is int8 already: load its weights again")
    wanted = named(precision)
    if wanted == "int8":
        _use_int8_engine()
        # Before the rest and one after the other, so that never more than one block is there twice.
        for block in model.transformer_blocks:
            _quantise(block.float())
    for name, weight in model.named_parameters():
        in_bf16 = wanted == "bf16" and name.startswith(LOWERED)
        weight.data = weight.data.to(torch.bfloat16 if in_bf16 else torch.float32)
    return model


def _is_int8(model: DiT) -> bool:
    block = model.transformer_blocks[0]
    return isinstance(block, Block) and not isinstance(block.mlp.up_proj, nn.Linear)


def _use_int8_engine() -> None:
    """torch keeps the engine for the whole process and does not always choose one itself."""
    for engine in INT8_ENGINES:
        if engine in torch.backends.quantized.supported_engines:
            torch.backends.quantized.engine = engine
            return
    raise RequestError("int8: precision: this build of torch has no int8 engine; choose bf16 or fp32")


def _quantise(block: nn.Module) -> None:
    """Puts int8 linears, one scale per output channel, in the place of the block's."""
    with warnings.catch_warnings():
        # torch 2.11, which torchaudio ties us to, still has it and warns that a later one will not.
        warnings.filterwarnings("ignore", "torch.ao.quantization is deprecated", DeprecationWarning)
        quantize_dynamic(block, {nn.Linear: per_channel_dynamic_qconfig}, inplace=True)  # type: ignore[no-untyped-call]
