"""What a night's plan foresees of songs, against what they took: by reckoning, and by one song made before.

Example: python -m benchmarks.forecast --durations 10 20 40 --presets draft standard high --threads 1

One song is made first, the last of the list, so that the others are foreseen by it; then all of them are made
one after the other, and each is compared with what the plan said before they began.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks import machine, night
from benchmarks.foresight import SONG
from runner.files import read_json
from runner.songfolder import Outputs
from tests.faults.batches import ROOT

AIM = 0.15
HEAD = """\
model: {model}
defaults:
  style: pop song, warm piano
  timeout: 10h
  threads: {threads}
songs:
"""


@dataclass(frozen=True, slots=True)
class Compared:
    """Seconds of a song: as reckoned, as foreseen by one that was made, as they came."""

    name: str
    reckoned: float
    foreseen: float
    came: float


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="demo", help="a model's name or a bundle's folder")
    parser.add_argument("--durations", type=float, nargs="+", default=[10, 20, 40])
    parser.add_argument("--presets", nargs="+", default=["draft", "standard", "high"])
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    head = HEAD.format(model=night.named(asked.model), threads=asked.threads)
    songs = [
        SONG.format(name=f"{duration:g}s-{preset}", seed=7, duration=f"{duration:g}", how=f"preset: {preset}")
        for duration in asked.durations
        for preset in asked.presets
    ]
    machine.header(f"A night's forecast, {asked.model}, {asked.threads} threads")
    show(compared(head, songs))


def compared(head: str, songs: list[str]) -> list[Compared]:
    with night.made(head + songs[-1]) as outputs:
        place = outputs.folder.parent
        (place / "night.yaml").write_text(head + "".join(songs), encoding="utf-8")
        reckoned = planned(place / "night.yaml", Outputs(place / "none"))
        foreseen = planned(place / "night.yaml", outputs)
        command(place / "night.yaml", outputs, "--quiet")
        came = {song.folder.name: read_json(song.manifest)["seconds"] for song in outputs.songs()}
    return [Compared(name, reckoned[name], foreseen[name], came[name]) for name in foreseen]


def planned(job: os.PathLike[str], outputs: Outputs) -> Mapping[str, float]:
    """Seconds of every song that is still to be made, by its name."""
    said = json.loads(command(job, outputs, "--plan", "--json", "--quiet"))
    return {song["song"].rpartition("/")[2]: song["seconds"] for song in said["songs"]}


def command(job: os.PathLike[str], outputs: Outputs, *options: str) -> str:
    """What `runner batch` with one song at once says."""
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "runner.cli",
            "batch",
            job,
            "--out",
            outputs.folder,
            "--workers",
            "1",
            *options,
        ],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout


def show(songs: list[Compared]) -> None:
    print("\n| song | reckoned s | foreseen s | came s | reckoned off by | foreseen off by |")
    print("|---|---|---|---|---|---|")
    for song in songs:
        off = f"{song.reckoned / song.came - 1:+.0%} | {song.foreseen / song.came - 1:+.0%}"
        print(f"| {song.name} | {song.reckoned:.1f} | {song.foreseen:.1f} | {song.came:.1f} | {off} |")
    machine.figure("error, reckoned", [abs(s.reckoned / s.came - 1) for s in songs], "%")
    machine.figure("error, foreseen", [abs(s.foreseen / s.came - 1) for s in songs], "%", aim=100 * AIM)
    came = sum(song.came for song in songs)
    machine.figure("error of all together", [abs(sum(s.foreseen for s in songs) / came - 1)], "%")


if __name__ == "__main__":
    main()
