"""How long a worker takes from its start to the end of its first step, and which part of that is imports.

Example: python -m benchmarks.first_step --job jobs/english.yaml --runs 5
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import imports, machine
from runner import check, manifest
from runner.messages import QueuedSong
from runner.songfolder import SongFolder
from runner.spec import load
from runner.supervise import House, Job, supervise
from tests.faults.batches import ROOT

WORKER = str(Path(__file__).with_name("timed_worker.py"))
# What lies between the moments that timed_worker.py tells of.
PARTS = (
    "interpreter, to its first line",
    "the runner's own imports, to the first beat",
    "import of torch and the model's code, bundle",
    "lyrics",
    "style",
    "load of the transformer",
    "conditioning, first step and its checkpoint",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--job", type=Path, default=ROOT / "jobs" / "english.yaml", help="its first song")
    parser.add_argument("--runs", type=int, default=5, help="workers, each way")
    asked = parser.parse_args()
    job = first_job(asked.job)
    machine.header(f"From spawn to first step: {job.song.id}, {job.answer.duration:g} s, warm page cache")
    run(job)  # warms the page cache
    plain, timed = [], []
    for _ in range(asked.runs):  # in turns: what slows the machine slows both
        plain.append(run(job))
        timed.append(run(job, "-X", "importtime"))
    machine.figure("spawn to first step", [told.total_s for told in plain], "s", aim=3)
    for number, part in enumerate(PARTS):
        machine.figure(f"  {part}", [told.parts_s[number] for told in plain], "s")
    print("of which imports, with -X importtime, which makes them slower:")
    machine.figure("spawn to first step", [told.total_s for told in timed], "s")
    machine.figure("  imports", [import_s(told) for told in timed], "s")
    machine.figure("  their share", [import_s(told) / told.total_s for told in timed], "%")
    print(f"    {imports.words(imports.by_package(timed[-1].imports), 8)}")


@dataclass(frozen=True, slots=True)
class Told:
    """What a worker told until its first step: its seconds, in all and of each of PARTS, and its imports."""

    total_s: float
    parts_s: list[float]
    imports: list[imports.Import]


def import_s(told: Told) -> float:
    return sum(each.self_s for each in told.imports)


def first_job(file: Path) -> Job:
    song = load([file])[0]
    (answer,) = check.check([song])
    return Job(song, answer, manifest.fingerprint(song, answer))


def run(job: Job, *options: str) -> Told:
    """One worker, ended after its first step. options: of its Python."""
    with tempfile.TemporaryDirectory() as name:
        folder = SongFolder(Path(name, "outputs", job.song.id))
        folder.folder.mkdir(parents=True)
        house = House(mark=f"{name}|{os.getpid()}", worker=(sys.executable, "-P", *options, WORKER))
        spawned = asyncio.run(sing_a_step(job, folder, house))
        return told(spawned, folder.attempts()[0].log.read_text().splitlines())


async def sing_a_step(job: Job, folder: SongFolder, house: House) -> float:
    """The moment of the worker's spawn, on the monotonic clock."""
    spawned = 0.0

    def say(song: QueuedSong) -> None:
        nonlocal spawned
        spawned = time.monotonic()  # the last thing before the spawn

    making = asyncio.create_task(supervise(job, folder, house, say))
    while not making.done() and not (folder.attempts() and made_a_step(folder)):
        await asyncio.sleep(0.1)
    house.stopping.set()
    await making
    return spawned


def made_a_step(folder: SongFolder) -> bool:
    log = folder.attempts()[-1].log
    return log.exists() and "beat sample 1 " in log.read_text()


def told(spawned: float, log: Sequence[str]) -> Told:
    """spawned: on the monotonic clock. log: of the worker, its beats and imports in their order."""
    end = next((n for n, line in enumerate(log) if line.startswith("beat sample 1 ")), None)
    if end is None:
        raise SystemExit("\n".join(["the worker made no step:", *log]))
    moments = [float(line.split()[3]) for line in log[: end + 1] if line.startswith("beat ")]
    parts_s = [after - before for before, after in zip([spawned, *moments], moments, strict=False)]
    if len(parts_s) != len(PARTS):
        raise SystemExit(f"the worker beat {len(parts_s)} times before its first step, not {len(PARTS)}")
    return Told(moments[-1] - spawned, parts_s, imports.parse_all(log[:end]))


if __name__ == "__main__":
    main()
