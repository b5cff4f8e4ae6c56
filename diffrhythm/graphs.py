"""Graphs of tensor operations, compiled by OpenVINO for the processor that they are on.

OpenVINO picks the kernels: where a processor has no bfloat16 or no int8 products, they calculate in float32.
"""

from __future__ import annotations

from typing import Any

import openvino
import torch
from openvino import opset13 as ops
from torch import Tensor

from diffrhythm.precision import Precision

# A node of a graph; openvino's own types say no more.
Node = Any

# Numbers of an activation's row that share a scale in int8.
INT8_GROUP = 128


def compiled(model: openvino.Model, *, precision: Precision, threads: int) -> Any:
    """The graph in this arithmetic: an openvino.CompiledModel."""
    return openvino.Core().compile_model(model, "CPU", properties(precision, threads))


def properties(precision: Precision, threads: int) -> dict[str, Any]:
    """What OpenVINO is told to compile for, by its own names."""
    return {
        "INFERENCE_PRECISION_HINT": "f32" if precision == "fp32" else "bf16",
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": INT8_GROUP if precision == "int8" else 0,
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        # Or each of several songs would choose the same cores.
        "ENABLE_CPU_PINNING": False,
        "PERFORMANCE_HINT": "LATENCY",
    }


def run(request: Any, x: Tensor) -> Tensor:
    """The graph's one output for x as its first input. request: openvino.InferRequest."""
    found = request.infer({0: x.contiguous().numpy()}, share_inputs=True)
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
