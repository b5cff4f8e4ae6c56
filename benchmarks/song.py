"""Where the time of a song goes: one song of each model by `runner batch`, phase by phase, from its manifest.

Example: python -m benchmarks.song --models demo full-size --durations 40 95 --preset standard

A bundle of the published size with random weights is made by benchmarks/full_size.py. The total is that
of the child's process, with its start and its imports.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from benchmarks import machine, night
from runner import processes
from runner.files import read_json

# In a song's order, as people call them.
PHASES = {
    "load": "model loading",
    "lyrics": "lyrics",
    "style": "style",
    "sample": "ODE",
    "decode": "VAE",
    "write": "writing",
}
JOB = """\
model: {model}
songs:
  - name: song
    style: pop song, warm piano
    lyrics: |
      [00:01.00]Lights are low along the harbour
      [00:06.00]Every ship has gone to sleep
    duration: {duration:g}
    preset: {preset}
    precision: {precision}
    threads: {threads}
    seed: 1
    foresight: false
    timeout: 10h
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=["demo"], help="names or folders of bundles")
    parser.add_argument("--durations", type=float, nargs="+", default=[40], help="of each model's song")
    parser.add_argument("--preset", default="standard")
    parser.add_argument("--steps", type=int, help="in place of the preset's")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--threads", type=int, default=processes.usable_cores())
    asked = parser.parse_args()
    if len(asked.models) != len(asked.durations):
        parser.error("give as many --durations as --models")
    machine.header(f"Where a song's time goes, {asked.threads} threads")
    songs = {}
    for model, duration in zip(asked.models, asked.durations, strict=True):
        job = JOB.format(
            model=night.named(model),
            duration=duration,
            preset=asked.preset,
            precision=asked.precision,
            threads=asked.threads,
        )
        with night.made(job if asked.steps is None else f"{job}    steps: {asked.steps}\n") as outputs:
            songs[f"{model}, {duration:g} s"] = read_json(outputs.song("night/song").manifest)
    show(songs)


def show(songs: Mapping[str, Mapping[str, Any]]) -> None:
    """songs: by what to call them, their manifests."""
    print(f"\n| seconds | {' | '.join(songs)} |\n|---|{'---|' * len(songs)}")
    rows = {
        words: [made["phases"].get(phase, 0.0) for made in songs.values()] for phase, words in PHASES.items()
    }
    rows["start, imports, end"] = [made["seconds"] - sum(made["phases"].values()) for made in songs.values()]
    rows["total"] = [made["seconds"] for made in songs.values()]
    for words, seconds in rows.items():
        print(f"| {words} | {' | '.join(f'{each:.2f}' for each in seconds)} |")
    told = (
        f"{len(made['time_grid']) - 1} steps, {made['passes']} passes, {made['precision']}"
        for made in songs.values()
    )
    print(f"| made in | {' | '.join(told)} |")


if __name__ == "__main__":
    main()
