"""Two songs at once on a core each, against one after the other on both: how much of the machine is used.

Example: python -m benchmarks.scaling --duration 20 --preset draft --repeats 3

Both ways are batches of `runner batch`, so all of a song counts, from its start to its writing.
"""

from __future__ import annotations

import argparse
import time

from benchmarks import machine, night
from runner import processes

# Songs side by side should get as much done as one with all cores, or more.
AIM = 0.95
JOB = """\
model: {model}
defaults:
  style: pop song, warm piano
  duration: {duration}
  preset: {preset}
  threads: {threads}
  foresight: false
  timeout: 10h
songs:
"""
SONG = "  - {{name: song-{number}, seed: {number}}}\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="demo", help="a model's name or a bundle's folder")
    parser.add_argument("--songs", type=int, default=2, help="at once")
    parser.add_argument("--duration", type=float, default=20)
    parser.add_argument("--preset", default="draft")
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    model = night.named(asked.model)
    cores = processes.usable_cores()
    machine.header(f"{asked.songs} songs of {asked.duration:g} s, {asked.preset}, {model}, {cores} cores")
    together: list[float] = []
    apart: list[float] = []
    for _ in range(asked.repeats):  # by turns, so that both meet the same machine
        for times, at_once in ((apart, 1), (together, asked.songs)):
            job = JOB.format(
                model=model,
                duration=f"{asked.duration:g}",
                preset=asked.preset,
                threads=max(1, cores // at_once),
            )
            times.append(batch_s(job, asked.songs, workers=at_once))
    machine.figure("one after the other, all cores each", apart, "s")
    machine.figure("at once, the cores shared out", together, "s")
    gains = [one / both for one, both in zip(apart, together, strict=True)]
    machine.figure(f"songs an hour, at once to one by one (aim ≥ {AIM:.0%})", gains, "%")


def batch_s(job: str, songs: int, *, workers: int) -> float:
    """Seconds of a batch of so many songs, so many of them at once."""
    lines = "".join(SONG.format(number=number) for number in range(1, songs + 1))
    began = time.perf_counter()
    with night.made(job + lines, workers=workers):
        return time.perf_counter() - began


if __name__ == "__main__":
    main()
