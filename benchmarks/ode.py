"""Check what `auto` chooses on this machine against the published way: passes of the published size.

Exits with 1 where a pass in the chosen arithmetic takes longer than the published way, or than another
measured one within the error budget, by more than figures of one machine differ (diffrhythm/arithmetic.py).
Takes five to ten minutes on two cores and up to 10 GB of memory; no model has to be installed.

The published way (benchmarks/published_way.py) runs with torch's own number of threads and the C library's
own settings. Ours run with the settings that the runner gives its children. Each way has a process of its
own: one pass to warm up, then steps of two passes, of which the least counts. Times of a whole ODE are
calculated from that: 31 Euler steps for the published way, a preset's steps for ours. The error is that of
one velocity; without --bundle, weights are random, and so are lyrics and styles.

The machine profile is what a song would use; where none is kept, it is measured first. Its forecast of a
pass stands beside what was measured.

A product of 2048 x 2048 x 2048 in fp32 is timed before and after each way. It shows how much slower the
machine was meanwhile, and times are compared as if it had not been. The limit of a way is what OpenVINO
reaches, in its arithmetic or in fp32, on products that stay in the cache; a pass has its share of that by
the operations it needs (diffrhythm/cost.py).

Example: python -m benchmarks.ode --all --json ode.json
"""

from __future__ import annotations

import argparse
import importlib.util
import multiprocessing
import os
import resource
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np
import openvino
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from benchmarks import machine, ode_report, processor, published_way
from benchmarks.ode_report import Comparison, Measured
from diffrhythm import (
    bundle,
    compiled,
    conditioning,
    cost,
    graphs,
    machine_profile,
    precision,
    sampling,
)
from diffrhythm.arithmetic import PUBLISHED, Choice
from diffrhythm.bundle import Bundle
from diffrhythm.config import ModelConfig
from diffrhythm.generate import choice as choice_of
from diffrhythm.generate import passes as passes_of
from diffrhythm.generate import seeded_noise
from diffrhythm.machine_profile import Profile
from diffrhythm.precision import ARITHMETICS, PRECISION_OF, Arithmetic, Precision
from diffrhythm.presets import PRESETS
from diffrhythm.sampling import Passes
from diffrhythm.transformer import DiT
from diffrhythm.vae_config import VaeConfig
from runner.processes import KEEPING

REFERENCE = PRESETS["reference"]
# Operators that are listed one by one.
LISTED = 12
# Instruction sets to hold a machine to: oneDNN's name (OpenVINO's own and torch's), those of torch's other
# kernels and of MKL. OpenVINO's kernels called gemm_mlas choose for themselves.
ISAS = {
    "AVX2": ("avx2", "AVX2"),
    "AVX512_CORE": ("avx512", "AVX512"),
    "AVX512_CORE_VNNI": ("avx512", "AVX512"),
    "AVX512_CORE_BF16": ("avx512", "AVX512"),
}

P = ParamSpec("P")
T = TypeVar("T")
# Calculates one velocity: [1, t, c].
Pass = Callable[[], Tensor]


@dataclass(frozen=True, slots=True)
class Work:
    """What is measured of each way.

    folder: of the bundle; None: random weights of the published size. steps: of two passes each. operators:
    whether to note where the time of a pass goes.
    """

    folder: Path | None
    frames: int
    steps: int
    operators: bool


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, help="folder of a model, in place of random weights")
    parser.add_argument("--frames", type=int, default=2048)
    parser.add_argument("--measured", type=int, default=1, help="steps of two passes, after the first pass")
    parser.add_argument("--all", action="store_true", help="measure all that is worth trying here")
    parser.add_argument("--also", nargs="+", choices=ARITHMETICS, default=[], help="measure these, too")
    parser.add_argument("--preset", choices=list(PRESETS), default="standard", help="of our ODE")
    parser.add_argument("--threads", type=int, help="of every way, in place of its own number")
    parser.add_argument("--profile-again", action="store_true", help="measure the machine profile again")
    parser.add_argument("--isa", choices=list(ISAS), help="hold all ways to this instruction set")
    parser.add_argument("--operators", action="store_true", help="show where the time goes; a minute each")
    parser.add_argument("--json", type=Path, help="where to write all figures")
    parser.add_argument("--plot", type=Path, help="a picture of a pass by operators (needs matplotlib)")
    asked = parser.parse_args()
    if asked.plot and importlib.util.find_spec("matplotlib") is None:
        parser.error("--plot needs matplotlib, which is no dependency of ours: pip install matplotlib")
    if "int8-static" in asked.also and asked.bundle is None:
        parser.error("--also int8-static needs the ranges of a model's own weights: give --bundle")
    os.environ.update(held_to(asked.isa))  # for the processes that measure
    began = time.perf_counter()
    machine.header(f"The chosen arithmetic against the published way, {asked.frames} frames")
    found = compared(asked)
    print(f"\nmeasured in {time.perf_counter() - began:.0f} s\n")
    for line in (*ode_report.table(found), "", *ode_report.parts(found), *ode_report.verdict(found)):
        print(line)
    if asked.json:
        told = {name: str(value) for name, value in vars(asked).items()} | machine.facts()
        asked.json.write_text(ode_report.as_json(found, {"asked": told}), encoding="utf-8")
    if asked.plot:
        ode_report.plot(found, asked.plot)
    raise SystemExit(1 if found.objections() else 0)


def compared(asked: argparse.Namespace) -> Comparison:
    """Measure the published way, then what `auto` chooses, then what else is asked for."""
    work = Work(
        asked.bundle and asked.bundle.resolve(),
        asked.frames,
        asked.measured,
        operators=bool(asked.operators or asked.plot),
    )
    model = opened_bundle(work)
    config = ModelConfig.base() if model is None else model.config
    profile = apart(
        machine_profile.ensure,
        config,
        VaeConfig() if model is None else model.vae_config,
        again=asked.profile_again,
        report=say,
        environ=KEEPING,
    )
    say(f"profile: other programs took {profile.busy:.0%} of the processor while it was measured")
    choice = chosen(model, profile, work.frames)
    names = measured_names(choice.passes, asked.all, asked.also, calibrated=model is not None)
    say("measuring the published way")
    exact, published = apart(measure_published, work, asked.threads, environ=dict.fromkeys(KEEPING))
    ways, errors, profile_s = {}, {}, {}
    for name in names:
        say(f"measuring {name}")
        timing = profile.timing(name)
        threads = asked.threads or (timing and timing.threads) or machine_profile.usable_cores()
        made, ways[name] = apart(measure, work, name, threads, environ=KEEPING)
        errors[name] = float(np.linalg.norm(made - exact) / np.linalg.norm(exact))
        if timing is not None:
            profile_s[name] = timing.pass_s(work.frames)
    preset = PRESETS[asked.preset]
    return Comparison(
        published=published,
        ways=ways,
        chosen=choice.passes,
        reason=choice.reason,
        errors=errors,
        profile_s=profile_s,
        pass_flops=cost.of_pass(config, work.frames),
        passes=preset.steps * sampling.passes_a_step(preset.sampler, preset.cfg),
        published_passes=REFERENCE.steps * sampling.passes_a_step(REFERENCE.sampler, REFERENCE.cfg),
    )


def chosen(model: Bundle | None, profile: Profile, frames: int) -> Choice:
    """Return what `auto` takes for this model, or for one of the published size that is not installed."""
    return machine_profile.settle(profile, frames=frames) if model is None else choice_of(model, frames)


def measured_names(
    choice: Arithmetic, everything: bool, also: list[Arithmetic], *, calibrated: bool
) -> list[Arithmetic]:
    """Return the arithmetics to measure, the chosen one first, each once.

    calibrated: whether a model's own ranges may be there, which int8-static needs.
    """
    wanted = [choice, *also, *(precision.worth_trying(precision.cpu_flags()) if everything else ())]
    return [name for name in dict.fromkeys(wanted) if calibrated or name != "int8-static"]


def say(what: str) -> None:
    """Print what is going on, at once."""
    print(what, flush=True)


# ---------------------------------------------------------------- processes


def apart(job: Callable[P, T], *args: Any, environ: Mapping[str, str | None], **keywords: Any) -> T:
    """Return what the job returns, in a process of its own with these variables; None: without that one."""
    with changed(environ), ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(job, *args, **keywords).result()


@contextmanager
def changed(environ: Mapping[str, str | None]) -> Iterator[None]:
    """Change variables of the environment until the block ends."""
    before = {name: os.environ.get(name) for name in environ}
    try:
        for name, value in environ.items():
            _put(name, value)
        yield
    finally:
        for name, value in before.items():
            _put(name, value)


def _put(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value


def held_to(isa: str | None) -> dict[str, str]:
    """Return the variables that hold torch, MKL and OpenVINO to an instruction set; None: to nothing."""
    if isa is None:
        return {}
    aten, mkl = ISAS[isa]
    return {precision.MAX_ISA: isa, "ATEN_CPU_CAPABILITY": aten, "MKL_ENABLE_INSTRUCTIONS": mkl}


# ---------------------------------------------------------------- measuring


@torch.inference_mode()
def measure_published(work: Work, threads: int | None) -> tuple[NDArray[np.float32], Measured]:
    """Return a velocity and what the published way took. threads: None: torch's own number."""
    if threads is not None:
        torch.set_num_threads(threads)
    model = opened(work)

    def ready() -> list[Pass]:
        ids, style, negative = asked_song(model, work.frames)
        begin = partial(published_way.velocity, model.float(), noise(work), 0.0, duration_frames=work.frames)
        return [
            partial(begin, text_ids=ids, style=style),
            partial(begin, text_ids=torch.zeros_like(ids), style=negative),
        ]

    return timed(ready, work, "fp32")


@torch.inference_mode()
def measure(work: Work, name: Arithmetic, threads: int) -> tuple[NDArray[np.float32], Measured]:
    """Return a velocity and what it took in this arithmetic, the way that a song is calculated."""
    torch.set_num_threads(threads)
    model = opened(work)

    def ready() -> list[Pass]:
        ids, style, negative = asked_song(model, work.frames)
        song = conditioning.build(
            model, text_ids=ids, style=style, negative_style=negative, duration_frames=work.frames
        )
        passes = opened_passes(model, work, name)
        modulation = passes.modulation(0.0, song.scalars)
        return [
            partial(passes.velocity, noise(work), modulation, each) for each in (song.conditional, song.null)
        ]

    velocity, found = timed(ready, work, PRECISION_OF[name])
    if work.operators and name != PUBLISHED:
        found = replace(found, nodes=nodes_of(model, work.frames, PRECISION_OF[name], threads))
    return velocity, found


def timed(
    ready: Callable[[], list[Pass]], work: Work, lowered: Precision
) -> tuple[NDArray[np.float32], Measured]:
    """Return the first pass's velocity, and what the passes after it took."""
    probe_before, limit_before = processor.probe(), processor.limit(lowered)
    began = time.perf_counter()
    passes = ready()
    open_s = time.perf_counter() - began
    velocity = passes[0]().numpy()  # a process's first pass is slower: weights are read, kernels chosen
    activities = [torch.profiler.ProfilerActivity.CPU]
    with (
        torch.profiler.profile(activities=activities, acc_events=True)
        if work.operators
        else nullcontext() as profiler
    ):
        passes_s = tuple(seconds_of(each) for _ in range(work.steps) for each in passes)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return velocity, Measured(
        threads=torch.get_num_threads(),
        open_s=open_s,
        passes_s=passes_s,
        peak_rss_bytes=peak,
        probe_s=min(probe_before, processor.probe()),
        limit=max(limit_before, processor.limit(lowered)),
        operators=operators_of(profiler, len(passes_s)) if profiler else {},
    )


def opened_bundle(work: Work) -> Bundle | None:
    return None if work.folder is None else bundle.load(str(work.folder))


def opened(work: Work) -> DiT:
    """Return the bundle's transformer, or one of the published size with random weights."""
    model = opened_bundle(work)
    if model is not None:
        return model.open_transformer()
    with torch.device("meta"):
        made = DiT(ModelConfig.base())
    made.to_empty(device="cpu").requires_grad_(False).eval()
    machine_profile.random_weights(made, torch.Generator().manual_seed(0))
    return made


def opened_passes(model: DiT, work: Work, name: Arithmetic) -> Passes:
    """Return what calculates a song's passes in this arithmetic."""
    of = opened_bundle(work)
    if of is not None:
        return passes_of(of, model, frames=work.frames, arithmetic=name)
    if name == PUBLISHED:
        return model.float()
    return compiled.Compiled(
        model, frames=work.frames, precision=PRECISION_OF[name], threads=torch.get_num_threads()
    )


def asked_song(model: DiT, frames: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return ids of phones [t], a style and a negative style [512], by a seed."""
    generator = torch.Generator().manual_seed(1)
    style, negative = F.normalize(torch.randn(2, model.config.style_dim, generator=generator), dim=-1)
    ids = torch.randint(1, model.config.text_rows, (frames,), generator=generator)
    return ids, style, negative


def noise(work: Work) -> Tensor:
    """Return what a song begins with: [1, t, c]."""
    return seeded_noise(0, work.frames)


def seconds_of(run: Pass) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def nodes_of(model: DiT, frames: int, lowered: Precision, threads: int) -> dict[str, float]:
    """Return seconds of a pass in each kind of OpenVINO's nodes, by its kernel's name, the longest first.

    Of a pass of its own, since counting takes time.
    """
    graph = compiled.graph(model, frames, lowered, compiled.SENSITIVE_BLOCKS, {})
    counted = graphs.properties(lowered, threads) | {"PERF_COUNT": True}
    request = openvino.Core().compile_model(graph, "CPU", counted).create_infer_request()
    inputs = {i: np.ones(list(each.shape), np.float32) for i, each in enumerate(graph.inputs)}
    request.infer(inputs)
    request.infer(inputs)
    times: dict[str, float] = {}
    for node in request.profiling_info:
        name = f"{node.node_type} {node.exec_type}"
        times[name] = times.get(name, 0.0) + node.real_time.total_seconds()
    return longest(times)


def operators_of(profiler: torch.profiler.profile, passes: int) -> dict[str, float]:
    """Return seconds of a pass in each of torch's operators itself, the longest first.

    What is compiled is one that torch does not see.
    """
    return longest({each.key: each.self_cpu_time_total / 1e6 / passes for each in profiler.key_averages()})


def longest(seconds: Mapping[str, float]) -> dict[str, float]:
    """Return the longest few, the longest first."""
    return dict(sorted(seconds.items(), key=lambda item: -item[1])[:LISTED])


if __name__ == "__main__":
    main()
