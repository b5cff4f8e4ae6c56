"""A night in minutes: hundreds of short songs under the parent of `runner batch`, many struck by faults.

Example: python -m benchmarks.faults --songs 500 --json faults.json

A parent that was ended is started again with the same command, as cron would, until every song has its final
state. Then each song's end is held against what was done to it. Exits with 1 if a song is lost, a process or
a half-written file left, a child killed without a reason, an end not explained, or the parent has grown.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import shutil
import signal
import statistics
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import psutil
import soundfile

from benchmarks import machine, naughty, strikes, toll
from benchmarks.injector import Injector, Parent
from benchmarks.strikes import KINDS, Planned
from benchmarks.toll import Found, Sample, Seen, Toll, Tried
from runner import check, manifest
from runner.errors import ForeignFileError
from runner.files import read_json, read_message
from runner.messages import FINAL_STATES, Batch
from runner.past import read_outcome
from runner.songfolder import Attempt, Outputs, SongFolder
from runner.supervise import Job
from tests.faults import batches

WORKER = [sys.executable, "-m", "benchmarks.stricken"]
# A step takes 0.03 s: whoever is this late is not late because the machine is busy.
STALL_S = 3.0
LOOK_EVERY_S = 0.03
SAMPLE_EVERY_S = 0.5
# No song changes its state for so long: the parent hangs.
HUNG_S = 300.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--songs", type=int, default=500, help="songs, those of --real included")
    parser.add_argument("--rate", type=float, default=0.4, help="share of the songs that get a fault")
    parser.add_argument("--seed", type=int, default=0, help="which songs get which faults, and when")
    parser.add_argument("--workers", type=int, default=8, help="songs at once")
    parser.add_argument("--real", type=int, help="songs made by the demo model (4; 0 without torch)")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=tuple(KINDS), help="only these faults")
    parser.add_argument("--json", type=Path, help="write the report here, too")
    asked = parser.parse_args()
    real = (4 if importlib.util.find_spec("torch") else 0) if asked.real is None else asked.real
    planned = strikes.plan(asked.songs - real, rate=asked.rate, seed=asked.seed, real=real, kinds=asked.kinds)
    machine.header(f"{len(planned)} songs, {asked.rate:.0%} of them with a fault, {asked.workers} at once")
    place, began = Path(tempfile.mkdtemp(prefix="faults-")), time.monotonic()
    found = night(planned, place, workers=asked.workers)
    seconds = time.monotonic() - began
    print(words(found, seconds))
    if asked.json:
        asked.json.write_text(json.dumps(report(found, seconds, vars(asked)), indent=1, default=str))
    if found.clean:
        shutil.rmtree(place)
    else:
        print(f"\nAll files are kept in {place}")
    return 0 if found.clean else 1


def night(planned: list[Planned], place: Path, *, workers: int) -> Toll:
    """What the songs planned come to, made in the folder place."""
    # In the background of a shell Ctrl-C is ignored, and those that are started inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    outputs, ledger, seen = Outputs(place / "outputs"), place / "ledger.jsonl", Seen()
    jobs = make_jobs(planned, ledger)
    real = [job for song, job in zip(planned, jobs, strict=True) if song.real]
    if real:
        seen.reference = make_reference(real[0], place / "reference")
    injector = Injector(planned, outputs, ledger)
    while not seen.odd and not (seen.exits and has_ended(outputs)):
        with (place / "parent.log").open("a") as log:
            parent = naughty.start_jobs(place, jobs, stderr=log.fileno(), workers=workers, worker=WORKER)
        try:
            see(parent, injector, outputs, seen)
        finally:
            parent.kill()  # where this one is stopped itself; it does nothing to one that has ended
            parent.communicate()
    look_around(outputs, seen)
    found = [
        look_back(outputs.song(song.id), job, real=song.real) for song, job in zip(planned, jobs, strict=True)
    ]
    return toll.judge(planned, list(strikes.read(ledger)), found, seen)


# ---------------------------------------------------------------- the jobs


def make_jobs(planned: list[Planned], ledger: Path) -> list[Job]:
    real = iter(real_jobs([song for song in planned if song.real]))
    return [next(real) if song.real else naughty_job(song, ledger) for song in planned]


def naughty_job(song: Planned, ledger: Path) -> Job:
    return batches.job(
        strikes.script(song, ledger),
        name=song.name,
        stall_s=STALL_S,
        timeout_s=strikes.SLOW_TIMEOUT_S if song.kind == "slow" else 300.0,
        memory_bytes=strikes.CEILING_BYTES if song.kind == "glutton" else None,
    )


def real_jobs(planned: list[Planned]) -> list[Job]:
    """One and the same song of the demo model for each."""
    songs = [
        batches.job("[00:00.00]low tide\n", name=song.name, seed=5, duration=2.0, stall_s=60.0).song
        for song in planned
    ]
    songs = [replace(song, steps=16, timeout_s=600.0) for song in songs]
    answers = check.check(songs) if songs else []
    return [
        Job(song, answer, manifest.fingerprint(song, answer))
        for song, answer in zip(songs, answers, strict=True)
    ]


def make_reference(job: Job, place: Path) -> str:
    """The sound of the song as it comes without faults."""
    place.mkdir()
    with naughty.start_jobs(place, [job], workers=1, worker=WORKER) as parent:
        parent.communicate()
    made = look_back(Outputs(place / "outputs").song(job.song.id), job, real=True)
    if made.sound is None:
        raise SystemExit(
            f"the real song cannot be made here, even without faults; see {place}, or use --real 0"
        )
    return made.sound


# ---------------------------------------------------------------- while they are made


def see(parent: Parent, injector: Injector, outputs: Outputs, seen: Seen) -> None:
    """Strike and sample until the parent has ended; then nobody may be left, unless it was killed."""
    next_sample = 0.0
    while parent.poll() is None:
        if time.monotonic() >= next_sample:
            next_sample = time.monotonic() + SAMPLE_EVERY_S
            seen.samples += sample(parent.pid)
        injector.look(parent)
        if hangs(outputs):
            seen.odd.append(f"the parent (pid {parent.pid}) hangs: no song changed for {HUNG_S:.0f} s")
            parent.kill()
        time.sleep(LOOK_EVERY_S)
    seen.exits.append(parent.returncode)
    if parent.returncode == -signal.SIGKILL:
        return
    seen.orphans += batches.survivors(outputs)
    if read_message(outputs.batch, Batch).finished_wall is None:
        seen.odd.append(f"a parent ended by itself with exit code {parent.returncode}; see parent.log")


def sample(pid: int) -> list[Sample]:
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        return [Sample(pid, process.num_fds(), process.memory_info().rss)]
    return []


def hangs(outputs: Outputs) -> bool:
    return outputs.batch.exists() and time.time() - outputs.batch.stat().st_mtime > HUNG_S


def has_ended(outputs: Outputs) -> bool:
    return all(song.state in FINAL_STATES for song in read_message(outputs.batch, Batch).songs)


# ---------------------------------------------------------------- afterwards


def look_around(outputs: Outputs, seen: Seen) -> None:
    """What is left beside the songs, and files that nobody can read."""
    seen.orphans += batches.survivors(outputs)
    for path in batches.torn(outputs):
        (seen.leftovers if path.suffix == ".tmp" else seen.torn).append(str(path))
    for path in outputs.folder.rglob("*.json"):
        if path.name != "heartbeat.json" and not is_whole(path):
            seen.torn.append(str(path))
    if outputs.log.exists():
        seen.odd.append(f"a defect of the runner: {outputs.log.read_text().splitlines()[-1]}")
    for song in read_message(outputs.batch, Batch).songs:
        if song.state != batches.state(outputs.song(song.song)):
            seen.odd.append(f"{song.song}: {song.state} in batch.json, but not in its folder")


def is_whole(path: Path) -> bool:
    try:
        return bool(read_json(path))
    except ForeignFileError:
        return False


def look_back(folder: SongFolder, job: Job, *, real: bool) -> Found:
    done = manifest.finished(folder, job.fingerprint)
    return Found(
        song=folder.id,
        state=batches.state(folder),  # type: ignore[arg-type]
        whole=done is not None,
        tries=tuple(look_back_at(attempt) for attempt in folder.attempts()),
        sound=sound(folder.audio("wav")) if real and done else None,
    )


def sound(file: Path) -> str:
    """SHA-256 of its samples."""
    samples, _ = soundfile.read(file, dtype="int16")
    return hashlib.sha256(samples.tobytes()).hexdigest()


def look_back_at(attempt: Attempt) -> Tried:
    outcome = read_outcome(attempt)
    return Tried(
        attempt=attempt.number,
        began=attempt.request.stat().st_mtime,
        ended=attempt.outcome.stat().st_mtime if outcome else None,
        cause=outcome.cause if outcome else "lost",
    )


# ---------------------------------------------------------------- the report


def words(found: Toll, seconds: float) -> str:
    """For people: the table, the counts, what is wrong."""
    counts = ("lost", "orphans", "false_kills", "wrong", "unequal", "torn", "leftovers", "leaks")
    lines = ["", toll.table(found), ""]
    lines.append(f"{found.songs} songs, {found.faults} struck, {found.runs} parents, {seconds:.0f} s")
    lines.append(", ".join(f"{name.replace('_', ' ')} {getattr(found, name)}" for name in counts))
    if found.growth:
        (fds, fds_later), (rss, rss_later) = found.growth.fds, found.growth.rss
        lines.append(
            f"longest-lived parent, first and last quarter: {fds:.0f} and {fds_later:.0f} descriptors, "
            f"{rss / 1e6:.1f} and {rss_later / 1e6:.1f} MB"
        )
    return "\n".join([*lines, *(f"- {problem}" for problem in found.problems)])


def report(found: Toll, seconds: float, asked: dict[str, Any]) -> dict[str, Any]:
    """For programs: complete."""
    content: dict[str, Any] = {"schema": 1, **machine.facts(), "asked": asked, "seconds": round(seconds, 1)}
    content |= asdict(found)
    for row in content["by_kind"].values():
        detected = row["detection_s"]
        row["detection_median_s"] = round(statistics.median(detected), 3) if detected else None
        row["detection_worst_s"] = round(max(detected), 3) if detected else None
    return content


if __name__ == "__main__":
    sys.exit(main())
