"""What a child foresees of its song after two steps, against what came, by phase.

Example: python -m benchmarks.foresight --durations 10 20 40 --presets draft standard high --threads 1

The songs of a batch are told how fast the decoder was in those before them; with --fresh each is in outputs
of its own, and has only the table of runner/foresight.py. What else the machine does, no child foresees.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks import machine, night
from runner.files import read_json
from runner.foresight import MEASURED_STEPS
from runner.songfolder import SongFolder

AIM = 0.15
JOB = """\
model: {model}
defaults:
  style: pop song, warm piano
  foresight: false
  timeout: 10h
  threads: {threads}
songs:
"""
SONG = """\
  - name: {name}
    seed: {seed}
    duration: {duration}
    {how}
    lyrics: |
      [00:01.00]Lights are low along the harbour
"""


@dataclass(frozen=True, slots=True)
class Compared:
    """Seconds foreseen and come of each phase of a song; its decoder's speed as handed over and as found."""

    name: str
    foreseen: dict[str, float]
    came: dict[str, float]
    speed: float | None
    found: float | None


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="demo", help="a model's name or a bundle's folder")
    parser.add_argument("--durations", type=float, nargs="+", default=[10, 20, 40])
    parser.add_argument("--presets", nargs="+", default=["draft", "standard", "high"])
    parser.add_argument("--steps", type=int, help="of every song, in place of its preset's")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--fresh", action="store_true", help="every song in outputs of its own")
    asked = parser.parse_args()
    if asked.steps is not None and asked.steps <= MEASURED_STEPS:
        parser.error(f"--steps: more than {MEASURED_STEPS}, or nothing is left to foresee")
    head = JOB.format(model=night.named(asked.model), threads=asked.threads)
    steps = "" if asked.steps is None else f"\n    steps: {asked.steps}"
    songs = [
        SONG.format(
            name=f"{duration:g}s-{preset}",
            seed=seed,
            duration=f"{duration:g}",
            how=f"preset: {preset}\n    precision: {asked.precision}{steps}",
        )
        for seed, (duration, preset) in enumerate(
            (duration, preset) for duration in asked.durations for preset in asked.presets
        )
    ]
    machine.header(f"Foresight after {MEASURED_STEPS} steps, {asked.model}, {asked.threads} threads")
    batches = [[song] for song in songs] if asked.fresh else [songs]
    show([each for batch in batches for each in sung(head, batch)])


def sung(head: str, songs: Sequence[str]) -> list[Compared]:
    """What was foreseen and what came, of each song of a batch, in the order they were made."""
    with night.made(head + "".join(songs)) as outputs:
        in_order = sorted(outputs.songs(), key=lambda song: song.manifest.stat().st_mtime)
        return [compared(song) for song in in_order]


def compared(song: SongFolder) -> Compared:
    made: dict[str, Any] = read_json(song.manifest)
    log = [json.loads(line) for line in song.attempts()[-1].steps.read_text().splitlines()]
    after = log[MEASURED_STEPS - 1]
    came = {
        "sample": log[-1]["wall"] - after["wall"],
        "decode": made["phases"]["decode"],
        "write": made["phases"]["write"],
    }
    found = made["decoder"] and made["decoder"]["speed"]
    return Compared(song.folder.name, after["left"], came, made["request"]["decoder_speed"], found)


def show(songs: Sequence[Compared]) -> None:
    print("\n| song | sampling s, foreseen → came | decode s | write s | all s | decoder, told → found |")
    print("|---|---|---|---|---|---|", flush=True)
    for song in songs:
        cells = [told(song.foreseen[phase], song.came[phase]) for phase in ("sample", "decode", "write")]
        cells.append(told(sum(song.foreseen.values()), sum(song.came.values())))
        speed = "table" if song.speed is None else f"{song.speed:.2f}"
        print(f"| {song.name} | {' | '.join(cells)} | {speed} → {song.found or 0:.2f} |")
    for words, phases in (
        ("sampling", ["sample"]),
        ("decode", ["decode"]),
        ("all", ["sample", "decode", "write"]),
    ):
        errors = [
            abs(sum(song.foreseen[phase] for phase in phases) / sum(song.came[phase] for phase in phases) - 1)
            for song in songs
        ]
        machine.figure(f"error of {words}", errors, "%", aim=100 * AIM)


def told(foreseen: float, came: float) -> str:
    return f"{foreseen:.2f} → {came:.2f} ({foreseen / came - 1:+.0%})"


if __name__ == "__main__":
    main()
