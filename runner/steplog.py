"""The step log of an attempt: one line a step, which a worker writes and anybody reads, with suspicion."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from runner.errors import ForeignFileError
from runner.files import opened

# Some thousand lines of about 200 bytes: more steps than any song has.
TAIL_BYTES = 2**18


@dataclass(frozen=True, slots=True)
class Step:
    """A step of steps, those of earlier attempts included, where it came to in t, and its time.

    wall: when it ended, in seconds since 1970; 0: not told.
    """

    step: int
    steps: int
    t: float
    seconds: float
    wall: float = 0.0


def read(log: Path) -> tuple[Step, ...]:
    """The newest steps, oldest first; lines that are torn or hold something else are passed over."""
    with suppress(OSError, ForeignFileError):
        return tuple(_steps(tail(log, TAIL_BYTES)))
    return ()


def tail(log: Path, most_bytes: int) -> str:
    """The end of a log, with the newest of its lines. Raises OSError or ForeignFileError as `opened`."""
    with opened(log) as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - most_bytes))
        return file.read(most_bytes).decode(errors="replace")


def _steps(text: str) -> Iterator[Step]:
    for line in text.splitlines():
        with suppress(ValueError, KeyError, TypeError, OverflowError, RecursionError):
            told = json.loads(line)
            number, of, wall = int(told["step"]), int(told["steps"]), float(told.get("wall", 0.0))
            found = Step(number, of, float(told["t"]), float(told["seconds"]), wall)
            if _is_one(found):
                yield found


def _is_one(step: Step) -> bool:
    times = (step.seconds, step.wall)
    return (
        0 <= step.t <= 1
        and 0 <= step.step <= step.steps < 10**6
        and all(0 <= each < math.inf for each in times)
    )
