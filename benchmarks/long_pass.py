"""What one pass of a block of the published width takes beside its weights: memory and processor time.

Example: python -m benchmarks.long_pass --frames 2048 6144

Each figure is of a process of its own, with random weights and one block. Memory is the most that the process
had during the pass above what it had before, less what the same pass of 64 frames has.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import torch

from benchmarks import machine
from diffrhythm import conditioning
from diffrhythm.config import ModelConfig
from diffrhythm.sampling import Passes
from diffrhythm.transformer import DiT

FEW = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--frames", type=int, nargs="*", default=[2048, 6144])
    parser.add_argument(
        "--ways", nargs="*", default=["torch", "fp32", "bf16", "int8"], help="torch, or compiled"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(one(asked.one[0], int(asked.one[1]))))
        return
    machine.header("A pass of one block, 2048 wide")
    for way in asked.ways:
        base = apart(way, FEW)["bytes"]
        for frames in asked.frames:
            told = [apart(way, frames) for _ in range(asked.repeats)]
            machine.figure(f"{way}, {frames} frames: memory", [each["bytes"] - base for each in told], "MB")
            machine.figure("  processor time", [each["s"] for each in told], "s")


def apart(way: str, frames: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.long_pass", "--one", way, str(frames)]
    told: dict[str, float] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return told


def one(way: str, frames: int) -> dict[str, float]:
    """Bytes and seconds of a pass in this process."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = DiT(ModelConfig(depth=1, max_frames=6144)).requires_grad_(False).eval()
    style, x_t = torch.randn(512), torch.randn(1, frames, 64)
    song = conditioning.build(
        model,
        text_ids=torch.zeros(frames, dtype=torch.long),
        style=style,
        negative_style=style,
        duration_frames=frames,
    )
    passes: Passes = model if way == "torch" else compiled(model, frames, way)
    modulation = passes.modulation(0.3, song.scalars)
    before = in_status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    began = time.process_time()
    passes.velocity(x_t, modulation, song.conditional)
    return {"bytes": in_status("VmHWM") - before, "s": time.process_time() - began}


def compiled(model: DiT, frames: int, precision: str) -> Passes:
    from diffrhythm.compiled import Compiled
    from diffrhythm.precision import named

    return Compiled(model, frames=frames, precision=named(precision), threads=1)


def in_status(name: str) -> float:
    """Bytes that the kernel tells of this process under that name."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(f"{name}:"))) * 1024


if __name__ == "__main__":
    main()
