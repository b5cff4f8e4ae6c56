"""A pass and a whole song's ODE at the published size, against the published way of computing them.

The reference is what the published code computes: fp32, 31 Euler steps, both passes of guidance in each. Its
whole ODE is reckoned from a few measured steps. Each way runs in a process of its own; the reference's main
operator, a product of 2048 x 2048 x 2048 in fp32, is timed before and after each, and tells how much slower
the machine was meanwhile.

The limit of a way is what OpenVINO reaches, in its arithmetic or in fp32, on products that stay in the cache,
timed before and after, too; a pass has its share of that by the operations it needs (diffrhythm/cost.py).
OpenVINO counts each kind of its nodes in a pass of its own, with the kernel's name, which tells the
instruction set. --avx2 holds that down, but for kernels called gemm_mlas, which choose for themselves.

Example: python -m benchmarks.ode --bundle full-size --precision int8 --json ode.json --plot ode.png

The bundle is made by benchmarks/full_size.py where it is not there yet: random weights of the published
sizes, 5 GB. Errors are those of arithmetic alone, since random weights know nothing of solvers: both run the
same grid, on fewer frames.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import os
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import TypeVar, get_args

import numpy as np
import openvino
import torch
from openvino import opset13 as ops
from torch import Tensor
from torch.nn import functional as F

from benchmarks import full_size, machine, nearness
from diffrhythm import bundle, compiled, conditioning, cost, graphs, packed, sampling
from diffrhythm.compiled import Compiled
from diffrhythm.conditioning import Conditioning
from diffrhythm.generate import seeded_noise
from diffrhythm.precision import PRECISIONS, Precision
from diffrhythm.presets import PRESETS, Preset
from diffrhythm.sampling import Passes, State
from diffrhythm.transformer import DiT

SCHEMA = 1
REFERENCE = PRESETS["reference"]
# Of the reference's steps, those that are measured.
MEASURED_STEPS = 3
PROBED = 2048
PROBES = 5
# Operators that are listed one by one.
LISTED = 12
# The share of a pass from which on an operator is drawn for itself, and what the others are called.
DRAWN = 0.02
OTHERS = "others"
# Numbers a side of products that stay in the cache, and how many of them follow each other.
CACHED = 512
CACHED_PRODUCTS = 16
# Holds the instruction set of OpenVINO's own oneDNN and of torch's, of torch's other kernels, of MKL.
AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}


@dataclass(frozen=True, slots=True)
class Way:
    """How a song is sampled. precision: compiled; None: by torch in fp32. measured: steps that are timed."""

    precision: Precision | None
    preset: Preset
    measured: int
    threads: int


@dataclass(frozen=True, slots=True)
class Timed:
    """What a way took. probe_s: see probe. limit: operations a second, see limit. operators, nodes: seconds
    of a pass in each of torch's and of OpenVINO's, by name.
    """

    load_s: float
    step_s: list[float]
    passes: int
    steps: int
    peak_rss_bytes: int
    probe_s: float
    limit: float
    operators: Mapping[str, float]
    nodes: Mapping[str, float]

    @property
    def pass_s(self) -> float:
        """Of one pass: the median step's share."""
        return statistics.median(self.step_s) / (self.passes / self.steps)

    @property
    def ode_s(self) -> float:
        """Of the whole grid: measured steps, and the median for each that was not."""
        return sum(self.step_s) + statistics.median(self.step_s) * (self.steps - len(self.step_s))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, required=True, help="folder of the bundle, made if absent")
    parser.add_argument("--precision", choices=get_args(Precision), nargs="+", default=list(PRECISIONS))
    parser.add_argument("--preset", choices=list(PRESETS), default="standard")
    parser.add_argument("--frames", type=int, default=2048)
    parser.add_argument("--measured", type=int, help="steps that are timed of each way, in place of all")
    parser.add_argument("--error-frames", type=int, default=128, help="of songs whose latents are compared")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--avx2", action="store_true", help="no instructions beyond AVX2, see above")
    parser.add_argument("--json", type=Path, help="where to write all figures")
    parser.add_argument("--plot", type=Path, help="a picture of a pass by operators (needs matplotlib)")
    asked = parser.parse_args()
    if asked.plot and importlib.util.find_spec("matplotlib") is None:
        parser.error("--plot needs matplotlib, which is no dependency of ours: pip install matplotlib")
    if asked.avx2:
        os.environ.update(AVX2)  # for the processes that measure
    folder = asked.bundle.resolve()
    if not (folder / bundle.ABOUT).is_file():
        full_size.make(folder, torch.float32)
    machine.header(f"The ODE at the published size, {asked.frames} frames, {asked.threads} threads")
    preset = PRESETS[asked.preset]
    least = min(asked.measured or MEASURED_STEPS, MEASURED_STEPS)
    reference = apart(timed, folder, Way(None, REFERENCE, least, asked.threads), asked.frames)
    measured = min(asked.measured or preset.steps, preset.steps)
    ways = [Way(precision, preset, measured, asked.threads) for precision in asked.precision]
    found = {str(way.precision): apart(timed, folder, way, asked.frames) for way in ways}
    exact = apart(latents, folder, Way(None, preset, preset.steps, asked.threads), asked.error_frames)
    errors = {
        str(way.precision): nearness.error(apart(latents, folder, way, asked.error_frames), exact)
        for way in ways
    }
    pass_flops = cost.of_pass(bundle.load(str(folder)).config, asked.frames)
    show(reference, found, errors, pass_flops)
    if asked.json:
        asked.json.write_text(as_json(vars(asked), reference, found, errors, pass_flops), encoding="utf-8")
    if asked.plot:
        plot({"reference": reference, **found}, asked.plot)


# ---------------------------------------------------------------- measuring


T = TypeVar("T")


def apart(job: Callable[[Path, Way, int], T], folder: Path, way: Way, frames: int) -> T:
    """What the job gives, in a process of its own, so that its memory is its own too."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(job, folder, way, frames).result()


def timed(folder: Path, way: Way, frames: int) -> Timed:
    torch.set_num_threads(way.threads)
    before, limit_before = probe(), limit(way)
    began = time.perf_counter()
    model, passes = opened(folder, way, frames)
    load_s = time.perf_counter() - began
    song = asked_song(model, frames)
    run(passes, song, way, 1)  # a process's first pass is slower: weights are read, kernels chosen
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], acc_events=True) as profile:
        states, step_s = run(passes, song, way, way.measured)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    passes_a_step = states[-1].passes // len(states)
    return Timed(
        load_s,
        step_s,
        passes=passes_a_step * way.preset.steps,
        steps=way.preset.steps,
        peak_rss_bytes=peak,
        probe_s=min(before, probe()),
        limit=max(limit_before, limit(way)),
        operators=operators_of(profile, states[-1].passes),
        nodes={} if way.precision is None else nodes_of(model, frames, way.precision, way.threads),
    )


def latents(folder: Path, way: Way, frames: int) -> Tensor:
    """The finished latents of a song: [1, t, c]."""
    torch.set_num_threads(way.threads)
    model, passes = opened(folder, way, frames)
    return run(passes, asked_song(model, frames), way, way.preset.steps)[0][-1].x_t


def opened(folder: Path, way: Way, frames: int) -> tuple[DiT, Passes]:
    model = bundle.load(str(folder)).open_transformer()
    if way.precision is None:
        return model, model.float()
    return model, Compiled(model, frames=frames, precision=way.precision, threads=way.threads)


def asked_song(model: DiT, frames: int) -> Conditioning:
    """Lyrics and styles by a seed."""
    generator = torch.Generator().manual_seed(1)
    style, negative = F.normalize(torch.randn(2, model.config.style_dim, generator=generator), dim=-1)
    ids = torch.randint(1, model.config.text_rows, (frames,), generator=generator)
    return conditioning.build(
        model, text_ids=ids, style=style, negative_style=negative, duration_frames=frames
    )


class Enough(Exception):
    """As many steps as are measured are done."""


def run(model: Passes, song: Conditioning, way: Way, steps: int) -> tuple[list[State], list[float]]:
    """The states after the first steps of the way's grid, and the seconds of each."""
    states: list[State] = []
    moments = [time.perf_counter()]

    def noted(state: State) -> None:
        moments.append(time.perf_counter())
        states.append(state)
        if len(states) == steps:
            raise Enough

    with suppress(Enough):
        sampling.sample(
            model,
            song,
            seeded_noise(0, song.latent_shape[1]),
            steps=way.preset.steps,
            cfg=way.preset.cfg,
            sampler=way.preset.sampler,
            on_step=noted,
        )
    return states, [after - before for before, after in pairwise(moments)]


def probe() -> float:
    """Seconds of the reference's main operator, the least of several."""
    a, b = torch.ones(PROBED, PROBED), torch.ones(PROBED, PROBED)
    F.linear(a, b)
    seconds = []
    for _ in range(PROBES):
        began = time.perf_counter()
        F.linear(a, b)
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def limit(way: Way) -> float:
    """Operations a second of products that stay in the cache, the most of several."""
    x = torch.randn(CACHED, CACHED, generator=torch.Generator().manual_seed(1))
    seconds = []
    for precision in {"fp32", way.precision or "fp32"}:
        products = cached_products(F.normalize(x), precision)
        request = graphs.compiled(products, precision=precision, threads=way.threads).create_infer_request()
        for _ in range(PROBES):
            began = time.perf_counter()
            graphs.run(request, x)
            seconds.append(time.perf_counter() - began)
    return CACHED_PRODUCTS * 2 * CACHED**3 / min(seconds)


def cached_products(weight: Tensor, precision: Precision) -> openvino.Model:
    """Products of x [n, n] with the weight [n, n], one behind the other, as compiled.py has them."""
    x = ops.parameter(list(weight.shape), np.float32)
    y = x
    steps, scale = packed.quantise(weight)
    for _ in range(CACHED_PRODUCTS):
        if precision == "int8":
            stored = ops.multiply(graphs.constant(steps), graphs.constant(scale[:, None]))
        else:
            stored = graphs.constant(weight)
        y = ops.matmul(y, stored, False, True)
    return openvino.Model([y], [x], "products")


def nodes_of(model: DiT, frames: int, precision: Precision, threads: int) -> dict[str, float]:
    """Seconds of a pass that each kind of OpenVINO's nodes took, with its kernel's name, the longest first.

    Of a pass of its own: counting takes time.
    """
    graph = compiled.graph(model, frames, precision, compiled.SENSITIVE_BLOCKS, {})
    counted = graphs.properties(precision, threads) | {"PERF_COUNT": True}
    request = openvino.Core().compile_model(graph, "CPU", counted).create_infer_request()
    inputs = {i: np.ones(list(each.shape), np.float32) for i, each in enumerate(graph.inputs)}
    request.infer(inputs)
    request.infer(inputs)
    times: dict[str, float] = {}
    for node in request.profiling_info:
        name = f"{node.node_type} {node.exec_type}"
        times[name] = times.get(name, 0.0) + node.real_time.total_seconds()
    return dict(sorted(times.items(), key=lambda item: -item[1])[:LISTED])


def operators_of(profile: torch.profiler.profile, passes: int) -> dict[str, float]:
    """Seconds of a pass that each of torch's operators took for itself, the longest first.

    What is compiled is one that torch does not see.
    """
    times = {each.key: each.self_cpu_time_total / 1e6 / passes for each in profile.key_averages()}
    return dict(sorted(times.items(), key=lambda item: -item[1])[:LISTED])


# ---------------------------------------------------------------- what is told


def show(reference: Timed, found: Mapping[str, Timed], errors: Mapping[str, float], pass_flops: int) -> None:
    print(
        "\n| way | load s | pass s | times faster | of the limit | ODE s | times faster | peak GB | error "
        "| probe ms |\n|---|---|---|---|---|---|---|---|---|---|"
    )
    rows = {f"reference, fp32, {REFERENCE.steps} steps (reckoned)": reference, **found}
    for name, each in rows.items():
        by_pass, by_ode = times_faster(reference, each)
        error = f"{errors[name]:.4f}" if name in errors else "–"
        print(
            f"| {name} | {each.load_s:.1f} | {each.pass_s:.2f} | {by_pass:.2f} "
            f"| {share(each, pass_flops):.0%} of {each.limit / 1e9:.0f} GFLOP/s | {each.ode_s:.0f} | "
            f"{by_ode:.1f} | {each.peak_rss_bytes / 1e9:.1f} | {error} | {each.probe_s * 1e3:.0f} |"
        )
    for name, each in rows.items():
        print(f"\n{name}, ms of a pass by torch's operators: {operators(each.operators)}")
        if each.nodes:
            print(f"  by OpenVINO's nodes and kernels: {operators(each.nodes)}")


def times_faster(reference: Timed, each: Timed) -> tuple[float, float]:
    """Of a pass and of the ODE, each reckoned to the same speed of the machine."""
    slower = each.probe_s / reference.probe_s
    return reference.pass_s / each.pass_s * slower, reference.ode_s / each.ode_s * slower


def share(each: Timed, pass_flops: int) -> float:
    """Of the limit, that a pass reaches."""
    return pass_flops / each.pass_s / each.limit


def operators(seconds: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {1e3 * each:.0f}" for name, each in seconds.items())


def as_json(
    asked: Mapping[str, object],
    reference: Timed,
    found: Mapping[str, Timed],
    errors: Mapping[str, float],
    pass_flops: int,
) -> str:
    """All figures; those of the fastest way at the top."""
    best = min(found, key=lambda name: found[name].ode_s)
    told = {
        "schema": SCHEMA,
        "way": best,
        "reference_pass_s": reference.pass_s,
        "pass_s": found[best].pass_s,
        "reference_ode_s": reference.ode_s,
        "reference_ode_is_extrapolated_from_steps": len(reference.step_s),
        "ode_s": found[best].ode_s,
        "ode_is_extrapolated_from_steps": len(found[best].step_s),
        "peak_rss_bytes": found[best].peak_rss_bytes,
        "latent_error": errors[best],
        "share_of_limit": share(found[best], pass_flops),
        "pass_flops": pass_flops,
        "asked": {name: asked[name] for name in ("preset", "frames", "error_frames", "threads", "avx2")},
        "reference": asdict(reference),
        "ways": {name: asdict(each) | {"latent_error": errors[name]} for name, each in found.items()},
    }
    return json.dumps(told, indent=2)


def plot(ways: Mapping[str, Timed], path: Path) -> None:
    """A bar for each way: seconds of a pass by operators, above it how many times faster it is."""
    pyplot = importlib.import_module("matplotlib.pyplot")
    parts = [gathered(each.nodes or each.operators) for each in ways.values()]
    kinds = sorted({kind for part in parts for kind in part}, key=lambda kind: (kind == OTHERS, kind))
    reference = next(iter(ways.values()))
    figure, axes = pyplot.subplots(figsize=(11, 6), layout="constrained")
    axes.set_prop_cycle(color=pyplot.get_cmap("tab20").colors)
    tops = [0.0] * len(parts)
    for kind in kinds:
        heights = [part.get(kind, 0.0) for part in parts]
        axes.bar(list(ways), heights, bottom=tops, label=kind)
        tops = [top + height for top, height in zip(tops, heights, strict=True)]
    for place, (each, top) in enumerate(zip(ways.values(), tops, strict=True)):
        by_pass, by_ode = times_faster(reference, each)
        words = f"{by_pass:.1f} x a pass\n{by_ode:.1f} x the ODE"
        axes.annotate(words, (place, top), ha="center", va="bottom")
    axes.set(ylabel="seconds of a pass", ylim=(0, 1.15 * max(tops)))
    figure.legend(fontsize="small", loc="outside right upper")
    figure.savefig(path, dpi=150)


def gathered(seconds: Mapping[str, float]) -> dict[str, float]:
    """The same with what takes next to nothing in one."""
    least = DRAWN * sum(seconds.values())
    drawn = {kind: each for kind, each in seconds.items() if each >= least}
    return drawn | {OTHERS: sum(seconds.values()) - sum(drawn.values())}


if __name__ == "__main__":
    main()
