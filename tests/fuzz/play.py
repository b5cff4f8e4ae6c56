"""Plays inputs to one reader in a process of its own, and holds the laws over each.

    python -m tests.fuzz.play TARGET SEED FIRST COUNT FOLDER    # COUNT = 1: one input again

Every input has a deadline, the process a bound on its memory, and nothing may be opened for writing outside
FOLDER. Failures are kept in FOLDER/failures; the last line on stdout is a report as JSON. An input that hangs
beyond Python's reach, or crashes the process, still lies in FOLDER/input, its number in FOLDER/at.
"""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

from tests.fuzz.targets import Target, lawful, printable, targets, warnings_of

DEADLINE_S = 20.0
# Above what the process has when all is imported and a good input is read.
MORE_BYTES = 3 * 2**29
MOST_KEPT = 200


class OutOfTimeError(BaseException):
    """The deadline of an input. Of no family that anything catches."""


class _Guard:
    """Notes what is opened for writing, made, renamed or removed outside folder while it is armed."""

    def __init__(self, folder: Path) -> None:
        self.folder = f"{folder.resolve()}/"
        self.armed = False
        self.outside: list[str] = []
        sys.addaudithook(self._heed)

    def _heed(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.armed:
            return
        if event == "open":
            path, _, flags = arguments
            written = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
            paths = [path] if written and path != "/dev/null" else []
        elif event in ("os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.chmod"):
            paths = [arguments[0]]
        elif event in ("os.rename", "os.link", "os.symlink"):
            paths = list(arguments[:2])
        else:
            return
        for path in paths:
            if isinstance(path, str | bytes) and not os.path.realpath(os.fsdecode(path)).startswith(
                self.folder
            ):
                self.outside.append(f"{event} {os.fsdecode(path)!r}")


def play(name: str, seed: int, first: int, count: int, folder: Path) -> dict[str, Any]:
    """Inputs first … first + count − 1 of a target; what came of them."""
    target = targets()[name]
    place = folder / "input"
    os.environ |= {"XDG_CACHE_HOME": str(folder / "cache"), "TMPDIR": str(folder)}
    tempfile.tempdir = str(folder)
    warnings.simplefilter("ignore")  # torch's and numpy's, of tensors that cannot be written to
    guard = _Guard(folder)
    _quiet_torch(target, name)
    _fresh(place)
    target.make(place, None)
    target.read(place)  # whatever it imports on first use is in memory now
    _bound_memory()
    counts: Counter[str] = Counter()
    failures: list[dict[str, Any]] = []
    slowest, hungriest = (0.0, -1), (0, -1)
    for index in range(first, first + count):
        folder.joinpath("at").write_text(str(index))
        _fresh(place)
        target.make(place, Random(f"{name} {seed} {index}"))
        began, peak = time.monotonic(), _peak_mib()
        said, problem = _play_one(target, place, guard)
        slowest = max(slowest, (round(time.monotonic() - began, 3), index))
        hungriest = max(hungriest, (_peak_mib() - peak, index))
        counts[said] += 1
        if problem:
            kept = folder / "failures" / f"{name}-{seed}-{index}"
            if len(failures) < MOST_KEPT:
                _keep(place, kept, problem)
                failures.append({"input": f"{name} {seed} {index}", "kept": str(kept), "problem": problem})
            counts["failures"] += 1
    return {
        "target": name,
        "seed": seed,
        "counts": dict(counts.most_common()),
        "peak_mib": _peak_mib(),
        "slowest": slowest,
        "hungriest": hungriest,
        "failures": failures,
    }


def _play_one(target: Target, place: Path, guard: _Guard) -> tuple[str, str]:
    """What the reader answered, and what law that breaks, if any."""
    guard.outside.clear()
    try:
        with _deadline():
            guard.armed = True
            try:
                value = target.read(place)
            finally:
                guard.armed = False
        for line in warnings_of(value):
            printable(line)
    except target.errors as error:
        said = type(error).__name__
        try:
            lawful(error)
        except (AssertionError, UnicodeError) as law:
            return said, f"{said}: {law}"
    except (Exception, OutOfTimeError) as error:  # noqa: BLE001 — that is what is looked for
        return type(error).__name__, "".join(traceback.format_exception(error, limit=-12))[-6000:]
    else:
        said = "a value"
    return said, f"writes outside: {guard.outside[:5]}" if guard.outside else ""


@contextmanager
def _deadline() -> Iterator[None]:
    """Raises OutOfTimeError; ends the process where that does not get through to Python."""

    def raise_it(number: int, frame: object) -> None:
        raise OutOfTimeError(f"{DEADLINE_S:g} s")

    signal.signal(signal.SIGALRM, raise_it)
    faulthandler.dump_traceback_later(2 * DEADLINE_S, exit=True)
    signal.setitimer(signal.ITIMER_REAL, DEADLINE_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()


def _peak_mib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def _bound_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    bound = pages * resource.getpagesize() + MORE_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (bound, resource.RLIM_INFINITY))


def _quiet_torch(target: Target, name: str) -> None:
    if name in ("checkpoint", "bundle", "published"):
        import torch

        torch.set_num_threads(1)


def _fresh(place: Path) -> None:
    if place.is_dir():
        shutil.rmtree(place)
    place.mkdir(parents=True)


def _keep(place: Path, kept: Path, problem: str) -> None:
    """The input as a folder, what is odd in it as it is; and what went wrong."""
    shutil.rmtree(kept, ignore_errors=True)
    kept.parent.mkdir(exist_ok=True)
    place.rename(kept)
    kept.with_suffix(".txt").write_text(problem, errors="backslashreplace")


def main(name: str, seed: str, first: str, count: str, folder: str) -> None:
    faulthandler.enable()
    Path(folder).mkdir(parents=True, exist_ok=True)
    print(json.dumps(play(name, int(seed), int(first), int(count), Path(folder).resolve())))


if __name__ == "__main__":
    main(*sys.argv[1:])
