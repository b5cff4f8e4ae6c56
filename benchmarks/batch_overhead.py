"""What supervision costs for each song: batches of one-step songs against their children run bare.

Example: python -m benchmarks.batch_overhead --songs 20 --repeats 3
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import machine, naughty
from runner.songfolder import Outputs
from runner.supervise import TICK_S
from tests.faults.batches import CHILD, ROOT


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--songs", type=int, default=10, help="songs of a batch")
    parser.add_argument("--repeats", type=int, default=3, help="batches")
    asked = parser.parse_args()
    machine.header(f"Cost of a song's supervision, {asked.songs} songs one after another")
    walls, cpus, bare = [], [], []
    for _ in range(asked.repeats):
        with tempfile.TemporaryDirectory() as name:
            wall_s, cpu_s = batch_cost(Path(name), asked.songs)
            walls.append(wall_s / asked.songs)
            cpus.append(cpu_s / asked.songs)
            bare += bare_times(Outputs(Path(name, "outputs")))
    machine.figure("a song in a batch", walls, "s")
    machine.figure("its child alone", bare, "s")
    machine.figure("CPU of the parent for a song", cpus, "s")
    print(f"The parent looks every {TICK_S} s, so it notices up to so much later that a child has ended.")


def batch_cost(folder: Path, songs: int) -> tuple[float, float]:
    """Wall time and the parent's own CPU time of a whole batch, seconds."""
    process = naughty.start(folder, ["steps 1 0"] * songs, workers=1)
    said, _ = process.communicate()
    if process.returncode != 0:
        raise SystemExit(f"the batch failed with exit code {process.returncode}")
    cost = json.loads(said)
    return cost["wall_s"], cost["cpu_s"]


def bare_times(outputs: Outputs) -> list[float]:
    """Seconds of each child again, with nobody watching."""
    times = []
    for song in outputs.songs():
        began = time.perf_counter()
        subprocess.run([sys.executable, str(CHILD), str(song.attempts()[0].request)], check=True, cwd=ROOT)
        times.append(time.perf_counter() - began)
    return times


if __name__ == "__main__":
    main()
