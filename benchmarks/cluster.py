"""What a batch on a cluster costs the machine that it was called on, by songs and by nodes.

Each node is a set of Ray's processes on this machine, each song a naughty child (tests/faults/child.py)
that makes steps of half a second. What is measured is the batch's own process. The songs share these
cores with it, so that the time on the clock says nothing of a cluster, and the seconds of CPU do.

Example: python -m benchmarks.cluster --songs 50 200 --nodes 1 4 --json cluster.json
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import machine
from runner.files import read_json
from tests.faults.batches import CHILD, ROOT, job

# Songs at once on each node, so that a song's second is not spent waiting for a place.
PLACES = 4


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one batch. cpu_s: of its process, all threads. peak_bytes: resident. done: songs made."""

    songs: int
    nodes: int
    cpu_s: float
    wall_s: float
    peak_bytes: int
    done: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--songs", type=int, nargs="+", default=[50, 200])
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--seconds", type=float, default=1.0, help="of a song")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    parser.add_argument("--batch", nargs=2, help=argparse.SUPPRESS)  # address, outputs
    asked = parser.parse_args()
    if asked.batch:
        address, folder = asked.batch
        print(json.dumps(batch(address, asked.songs[0], asked.seconds, Path(folder))))
        return
    machine.header("A batch of naughty songs on a Ray cluster of processes on this machine")
    costs = [cost for nodes in asked.nodes for cost in measured(nodes, asked.songs, asked.seconds)]
    print(f"{'nodes':>5} {'songs':>6} {'made':>6} {'CPU s':>8} {'MB':>6} {'s on the clock':>15}")
    for cost in costs:
        print(
            f"{cost.nodes:>5} {cost.songs:>6} {cost.done:>6} {cost.cpu_s:>8.2f} "
            f"{cost.peak_bytes / 1e6:>6.0f} {cost.wall_s:>15.1f}"
        )
    for nodes in asked.nodes:
        of_nodes = [cost for cost in costs if cost.nodes == nodes]
        if len(of_nodes) > 1:
            cpu_s, kib = slopes(of_nodes)
            print(f"{nodes} nodes: {1000 * cpu_s:.1f} s of CPU and {kib:.0f} MB for 1,000 songs more")
    if asked.json:
        asked.json.write_text(json.dumps([asdict(cost) for cost in costs], indent=2) + "\n")


def measured(nodes: int, songs: Sequence[int], seconds: float) -> Iterator[Cost]:
    """The costs of batches of so many songs, one after the other, on a cluster of so many nodes."""
    with cluster(nodes) as address:
        for count in songs:
            with tempfile.TemporaryDirectory() as name:
                command = [sys.executable, "-m", "benchmarks.cluster", "--batch", address, name]
                command += ["--songs", str(count), "--seconds", str(seconds)]
                told = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
                states = [song["state"] for song in read_json(Path(name, "batch.json"))["songs"]]
            yield Cost(count, nodes, done=states.count("done"), **told)


@contextmanager
def cluster(nodes: int) -> Iterator[str]:
    """Its address."""
    from ray.cluster_utils import Cluster

    os.environ["PYTHONPATH"] = str(ROOT)
    made = Cluster()
    store = {"object_store_memory": 80 * 2**20}
    made.add_node(num_cpus=0, include_dashboard=False, **store)
    for number in range(nodes):
        made.add_node(num_cpus=PLACES, node_ip_address=f"127.0.1.{number + 1}", **store)
    try:
        yield str(made.address)
    finally:
        made.shutdown()


def batch(address: str, songs: int, seconds: float, folder: Path) -> dict[str, Any]:
    """Run in a process of its own, whose cost is the figure."""
    from runner.batch import Options, run
    from runner.songfolder import Outputs
    from runner.supervise import House

    house = House(mark="", worker=(sys.executable, "-S", str(CHILD)))
    script = f"steps {max(1, round(2 * seconds))} 0.5"
    jobs = [job(script, name=f"song-{number}", threads=1) for number in range(songs)]
    began, before = time.monotonic(), _cpu_s()
    run(jobs, Outputs(folder), Options(cluster=address), show=lambda: None, house=house)
    return {
        "cpu_s": _cpu_s() - before,
        "wall_s": time.monotonic() - began,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def slopes(costs: Sequence[Cost]) -> tuple[float, float]:
    """Seconds of CPU and megabytes for a song more: from the smallest batch to the largest."""
    small, large = min(costs, key=lambda cost: cost.songs), max(costs, key=lambda cost: cost.songs)
    more = large.songs - small.songs
    return (large.cpu_s - small.cpu_s) / more, 1000 * (large.peak_bytes - small.peak_bytes) / 1e6 / more


if __name__ == "__main__":
    main()
