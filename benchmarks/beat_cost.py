"""What a child pays at every step: a beat, a line of the step log, a checkpoint; with and without fsync.

Example: python -m benchmarks.beat_cost --folder outputs --repeats 300
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save

from benchmarks import machine
from diffrhythm import grids
from diffrhythm.sampling import State, save_state
from runner.files import write_bytes, write_message
from runner.heartbeat import Pulse, own_usage

LINE = {"step": 7, "steps": 16, "t": 0.4375, "seconds": 1.2345, "passes": 14, "latent_std": 1.0123}
# Latent frames of the demo's 30 s, of the published model's 95 s and of the long one's 285 s.
FRAMES = {"30 s": 646, "95 s": 2048, "285 s": 6144}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path.cwd(), help="where to write: the disk counts")
    parser.add_argument("--repeats", type=int, default=200, help="writes of each kind")
    asked = parser.parse_args()
    machine.header(f"Cost of a step's traces, on {file_system(asked.folder)}")
    with tempfile.TemporaryDirectory(dir=asked.folder, prefix=".bench-") as name:
        measure_beats(Path(name), asked.repeats)
        measure_lines(Path(name, "steps.jsonl"), asked.repeats)
        for length, frames in FRAMES.items():
            measure_checkpoints(Path(name, "checkpoint"), length, frames, asked.repeats)


def file_system(folder: Path) -> str:
    """Type of the file system that folder is on, such as ext4."""
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    path = str(folder.resolve())
    holding = [(place, kind) for place, kind in mounts if os.path.commonpath([place, path]) == place]
    return max(holding, key=lambda mount: len(mount[0]))[1]


def measure_beats(folder: Path, repeats: int) -> None:
    pulse = Pulse(folder / "heartbeat.json", song="night/song", attempt=1, density=16)
    beat = pulse.progress()
    times = seconds(lambda: pulse.progress(phase="sample", step=7, steps=16, t=0.4375), repeats)
    machine.figure("beat (Pulse.progress, no fsync)", times, "ms", aim=1)
    machine.figure("    of which reading its own usage", seconds(own_usage, repeats), "ms")
    durable = seconds(lambda: write_message(folder / "durable.json", beat, durable=True), repeats)
    machine.figure("beat with fsync", durable, "ms")


def measure_lines(log: Path, repeats: int) -> None:
    machine.figure("line of the step log", seconds(lambda: append(log, sync=False), repeats), "ms")
    machine.figure("line with fsync", seconds(lambda: append(log, sync=True), repeats), "ms")


def append(log: Path, *, sync: bool) -> None:
    """A line as the worker writes it."""
    with log.open("a") as file:
        file.write(json.dumps(LINE) + "\n")
        if sync:
            file.flush()
            os.fsync(file.fileno())


def measure_checkpoints(file: Path, length: str, frames: int, repeats: int) -> None:
    x_t = torch.randn(1, frames, 64)
    state = State(x_t, torch.randn_like(x_t), 7, grids.uniform(16), grids.uniform(16), "0" * 64)
    data = save({"x_t": state.x_t, "velocity": state.velocity})
    times = seconds(lambda: save_state(file, state), repeats // 4)
    machine.figure(f"checkpoint of {length} ({len(data) / 1e6:.1f} MB)", times, "ms")
    bare = seconds(lambda: write_bytes(file, data, durable=False), repeats // 4)
    machine.figure("    its bytes without fsync", bare, "ms")


def seconds(act: Callable[[], object], repeats: int) -> list[float]:
    """What each of so many acts took, after one that is not counted."""
    act()
    times = []
    for _ in range(max(1, repeats)):
        began = time.perf_counter()
        act()
        times.append(time.perf_counter() - began)
    return times


if __name__ == "__main__":
    main()
