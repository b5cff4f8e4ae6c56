"""One block of the published size in each arithmetic: time, error, and which kernels ran.

Example: python -m benchmarks.static_int8 --frames 2048 --rounds 5

Weights and activations are random. Ways are interleaved, and the least of the rounds counts. "off" is the
relative error of what the block adds, to torch's float32; "off its emulation" is to the same int8 calculated
by torch in float32, which is exact. A processor without dot products of int8 adds pairs of products in 16
bits, and differs from that.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from typing import Any

import openvino
import torch
from torch import Tensor, nn

from benchmarks import machine
from diffrhythm import calibration, compiled, graphs, smoothquant
from diffrhythm.config import ModelConfig
from diffrhythm.precision import Precision
from diffrhythm.smoothquant import Calibration
from diffrhythm.transformer import Block, DiT


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--frames", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--bits", type=int, default=8, help="of the weights: 7 leaves room for a sum of two")
    asked = parser.parse_args()
    machine.header(f"One block in int8, {asked.frames} frames, {torch.get_num_threads()} threads")
    model = _model(ModelConfig(depth=1))
    h = torch.randn(1, asked.frames, model.config.dim, generator=torch.Generator().manual_seed(1))
    scales = measured(model, h)
    ways = {
        "compiled fp32": _compiled(model, h, "fp32", None, asked.bits),
        "dynamic int8": _compiled(model, h, "int8", None, asked.bits),
        "static int8": _compiled(model, h, "int8", scales, asked.bits),
    }
    exact, block = _torch(model, h), model.transformer_blocks[0]
    assert isinstance(block, Block)
    emulated = {"dynamic int8": calibration.GROUP, "static int8": None}
    times = {name: float("inf") for name in ("torch fp32", *ways)}
    for _ in range(asked.rounds):
        times["torch fp32"] = min(times["torch fp32"], _seconds(lambda: _torch(model, h)))
        for name, (run, _) in ways.items():
            times[name] = min(times[name], _seconds(run))
    print("\n| way | ms | off | off its emulation |\n| --- | --- | --- | --- |")
    print(f"| torch fp32 | {1e3 * times['torch fp32']:.0f} | | |")
    for name, (run, _) in ways.items():
        made, off = run(), ""
        if name in emulated:
            with smoothquant.replaced(block, _emulation(block, scales, emulated[name], asked.bits)):
                off = f"{_off(made, _torch(model, h), h):.2%}"
        print(f"| {name} | {1e3 * times[name]:.0f} | {_off(made, exact, h):.2%} | {off} |")
    for name, (_, request) in ways.items():
        print(f"\n{name}:")
        for kernel, seconds in _kernels(request).items():
            print(f"  {1e3 * seconds:7.1f} ms  {kernel}")


def measured(model: DiT, h: Tensor) -> Calibration:
    """Static int8 of every linear, its steps from this very input."""
    crude, block = smoothquant.crude(model), model.transformer_blocks[0]
    assert isinstance(block, Block)
    with calibration.recording(model) as seen:
        _torch(model, h)
    inputs = {}
    for name, linears in smoothquant.INPUTS.items():
        largest, rows, shares = (seen[f"0.{name}.{what}"] for what in ("largest", "rows", "shares"))
        weights = [smoothquant.weight_of(block, linear) for linear in linears]
        inputs[f"0.{name}"] = smoothquant.calibrated(largest, rows, shares, weights)
    return smoothquant.arranged(inputs, crude.forms)


def _model(config: ModelConfig) -> DiT:
    with torch.device("meta"):
        model = DiT(config)
    model.to_empty(device="cpu").requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for weight in model.parameters():
        if weight.ndim > 1:
            weight.normal_(0, weight[0].numel() ** -0.5, generator=generator)
        else:
            weight.fill_(1.0)
    # Positions take their time, and add nothing.
    for conv in model.input_embed.conv_pos_embed.conv1d:
        for weight in conv.parameters():
            weight.zero_()
    return model


def _torch(model: DiT, h: Tensor) -> Tensor:
    h = h + model.input_embed.conv_pos_embed(h)
    out: Tensor = model.transformer_blocks[0](h, model.rotary(h.shape[1]))
    return out


def _compiled(
    model: DiT, h: Tensor, precision: Precision, scales: Calibration | None, bits: int
) -> tuple[Callable[[], Tensor], Any]:
    block = model.transformer_blocks[0]
    assert isinstance(block, Block)
    weights = {
        name: smoothquant.weight_of(block, name) if scales is None else scales.weight(0, block, name)
        for name in smoothquant.INPUT_OF
    }
    quantised = {block.get_submodule(name): _quantised(weight, bits) for name, weight in weights.items()}
    graph = compiled.graph(model, h.shape[1], precision, (), quantised, scales)
    properties = graphs.properties(precision, torch.get_num_threads()) | {"PERF_COUNT": True}
    request = openvino.Core().compile_model(graph, "CPU", properties).create_infer_request()
    return lambda: graphs.run(request, h), request


def _quantised(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    most = 2 ** (bits - 1) - 1
    scale = weight.abs().amax(dim=1) / most
    return (weight / scale[:, None]).round().to(torch.int8), scale


def _emulation(block: Block, scales: Calibration, group: int | None, bits: int) -> Mapping[str, nn.Module]:
    made: dict[str, nn.Module] = {}
    for name, read in smoothquant.INPUT_OF.items():
        weight, found = smoothquant.weight_of(block, name), scales.inputs[f"0.{read}"]
        module = smoothquant.Static(weight, found) if group is None else smoothquant.Dynamic(weight, group)
        steps, scale = _quantised(weight * found.factors if group is None else weight, bits)
        module.weight = steps * scale[:, None]
        made[name] = module
    return made


def _off(made: Tensor, exact: Tensor, h: Tensor) -> float:
    return float((made - exact).norm() / (exact - h).norm())


def _seconds(run: Callable[[], Tensor]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def _kernels(request: Any) -> dict[str, float]:
    """Seconds by type of node and kernel, the longest first."""
    found: dict[str, float] = {}
    for node in request.profiling_info:
        if node.status == node.Status.EXECUTED:
            name = f"{node.node_type} {node.exec_type}"
            found[name] = found.get(name, 0.0) + node.real_time.total_seconds()
    return dict(sorted(found.items(), key=lambda item: -item[1])[:8])


if __name__ == "__main__":
    main()
