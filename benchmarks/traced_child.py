"""A child whose memory is taken away: works on its pages, or a file's, in steps, and beats after each.

traced_child.py BEATS --private 160 --touches 200000        steps that touch private pages at random
traced_child.py BEATS --file weights --touches 200000       pages of a file that it maps
traced_child.py BEATS --file weights --load                 reads all of the file once, from its start
"""

from __future__ import annotations

import argparse
import mmap
import random
import time
from pathlib import Path

from runner.heartbeat import Pulse

MIB = 1 << 20
# Bytes of the same random places for every step: what a step costs must not depend on the drawing.
PLACES = 1 << 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("beats", type=Path)
    parser.add_argument("--private", type=int, default=0, help="MiB of memory of its own")
    parser.add_argument("--file", type=Path, help="weights to map")
    parser.add_argument("--hot", type=int, default=0, help="MiB of it that are worked on; 0: all")
    parser.add_argument("--touches", type=int, default=0, help="pages that a step touches")
    parser.add_argument("--compute", type=float, default=0.0, help="seconds of computing in a step")
    parser.add_argument("--warm", action="store_true", help="have all of the file in memory first")
    parser.add_argument("--alone", action="store_true", help="read no pages of the file around a wanted one")
    parser.add_argument("--load", action="store_true", help="only read all of it, once, then rest")
    parser.add_argument("--group", type=Path, action="append", default=[], help="control group to join")
    asked = parser.parse_args()
    for group in asked.group:
        Path(group, "cgroup.procs").write_text("0")
    pulse = Pulse(asked.beats, song="night/song", attempt=1, density=32)
    pulse.start()
    memory = mapped(asked.file, warm=asked.warm) if asked.file else private(asked.private)
    if asked.alone:
        memory.madvise(mmap.MADV_RANDOM)
    if asked.load:
        touch(memory, range(0, len(memory), mmap.PAGESIZE), len(memory) // mmap.PAGESIZE)
        time.sleep(3600)
    size = asked.hot * MIB or len(memory)
    places = [random.randrange(size) for _ in range(PLACES)]
    step = 0
    while True:
        began = time.monotonic()
        touch(memory, places, asked.touches)
        compute(asked.compute)
        step += 1
        step_s = round(time.monotonic() - began, 3)
        pulse.progress(phase="sample", step=step, steps=10**6, step_s=step_s)


def private(mib: int) -> mmap.mmap:
    memory = mmap.mmap(-1, mib * MIB, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for start in range(0, len(memory), mmap.PAGESIZE):
        memory[start] = 1 + start % 251
    return memory


def mapped(file: Path, *, warm: bool) -> mmap.mmap:
    flags = mmap.MAP_SHARED | (mmap.MAP_POPULATE if warm else 0)
    with file.open("rb") as opened:
        return mmap.mmap(opened.fileno(), 0, flags=flags, prot=mmap.PROT_READ)


def touch(memory: mmap.mmap, places: list[int] | range, count: int) -> int:
    """Read that many of the places, from the first on and again from the first."""
    total = 0
    for number in range(count):
        total += memory[places[number % len(places)]]
    return total


def compute(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


if __name__ == "__main__":
    main()
