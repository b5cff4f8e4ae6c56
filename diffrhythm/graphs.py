"""Graphs of tensor operations, compiled by OpenVINO for the processor that they are on.

OpenVINO picks the kernels. It is asked for bfloat16 only where the processor has that: with AVX-512 alone it
would emulate it, many times slower than float32.
"""

from __future__ import annotations

from typing import Any

import openvino
import torch
from openvino import opset13 as ops
from torch import Tensor

from diffrhythm.precision import Precision, cpu_flags, has_native_bf16

# A node of a graph; openvino's own types say no more.
Node = Any

# Numbers of an activation's row that share a scale in int8.
INT8_GROUP = 128


def compiled(model: openvino.Model, *, precision: Precision, threads: int) -> Any:
    """The graph in this arithmetic: an openvino.CompiledModel."""
    return openvino.Core().compile_model(model, "CPU", properties(precision, threads))


def properties(precision: Precision, threads: int) -> dict[str, Any]:
    """Return OpenVINO's properties, by its own names.

    What int8 leaves is in bfloat16 where that is native, else in float32.
    """
    in_bf16 = precision != "fp32" and has_native_bf16(cpu_flags())
    return {
        "INFERENCE_PRECISION_HINT": "bf16" if in_bf16 else "f32",
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": INT8_GROUP if precision == "int8" else 0,
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        # Or each of several songs would choose the same cores.
        "ENABLE_CPU_PINNING": False,
        "PERFORMANCE_HINT": "LATENCY",
    }


def run(request: Any, *inputs: Tensor) -> Tensor:
    """Return the graph's one output for its first inputs. request: openvino.InferRequest."""
    given = {i: each.contiguous().numpy() for i, each in enumerate(inputs)}
    found = request.infer(given, share_inputs=True)
    return torch.from_numpy(next(iter(found.values())))


def constant(values: Tensor) -> Node:
    """In float32, of what memory holds in its own type; mapped weights are not copied."""
    values = values.detach().contiguous()
    if values.dtype == torch.bfloat16:  # which numpy does not have
        raw = values.view(torch.int16).numpy()
        stored = ops.constant(openvino.Tensor(raw, values.shape, openvino.Type.bf16))
    else:
        stored = ops.constant(values.numpy(), shared_memory=True)
    return stored if values.dtype == torch.float32 else ops.convert(stored, "f32")
