"""Beats: a child says how far it is, anybody reads it, and knows whether the child still lives."""

from __future__ import annotations

import math
import os
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from runner.errors import ForeignFileError
from runner.files import read_message, write_message
from runner.messages import Heartbeat
from runner.processes import Identity, is_alive, me

ALIVE_EVERY_S = 1.0
# A thread that wakes this late was asleep with its process or its machine.
LATE_S = 5.0
# No machine has been awake for longer.
LONGEST_S = 1e9


@dataclass(frozen=True, slots=True)
class NoBeat:
    """Why there is no beat to read: none yet, or a file that is torn, foreign or newer."""

    reason: str


def read(path: Path) -> Heartbeat | NoBeat:
    try:
        return read_message(path, Heartbeat)
    except FileNotFoundError:
        return NoBeat("no heartbeat yet")
    except (ForeignFileError, OSError) as error:
        return NoBeat(str(error))


def relay(path: Path, by: Identity) -> None:
    """Make a beat of another machine one of this one: by whom it came here, its times by this clock.

    What counts is when it was heard here, never what clock the other machine has.
    """
    beat, now = read_message(path, Heartbeat), time.monotonic()
    here = replace(
        beat,
        pid=by.pid,
        pid_started=by.started,
        boot_id=by.boot_id,
        alive_mono=now,
        progress_mono=now - _before(beat, beat.progress_mono),
        phase_mono=now - _before(beat, beat.phase_mono) if beat.phase_mono else 0.0,
    )
    write_message(path, here, durable=False)


def _before(beat: Heartbeat, mono: float) -> float:
    """So many seconds before the beat; whatever it says, a number that a clock can show."""
    return min(max(0.0, float(beat.alive_mono) - float(mono)), LONGEST_S)


def sender(beat: Heartbeat) -> Identity:
    return Identity(beat.pid, beat.pid_started, beat.boot_id)


def sender_lives(beat: Heartbeat) -> bool:
    return is_alive(sender(beat))


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process has used so far: CPU seconds, bytes now in memory, in swap, and in both without what it
    shares with others, major faults.
    """

    cpu_s: float
    rss: int
    swap: int
    private: int
    major_faults: int


def own_usage() -> Usage:
    times = os.times()
    status = {}
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(("VmRSS:", "VmSwap:", "RssAnon:")):
            status[line.split(":")[0]] = int(line.split()[1]) * 1024
    faults = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[9])
    swap = status.get("VmSwap", 0)
    private = status.get("RssAnon", 0) + swap
    return Usage(times.user + times.system, status.get("VmRSS", 0), swap, private, faults)


class Pulse:
    """The child's side: progress beats when something moved, alive beats from a thread in between."""

    def __init__(self, path: Path, *, song: str, attempt: int, density: int) -> None:
        who = me()
        now = time.monotonic()
        self.lost_s = 0.0  # time in which this process was not served
        self._path = path
        self._lock = threading.Lock()
        self._beat = Heartbeat(
            seq=0,
            song=song,
            attempt=attempt,
            pid=who.pid,
            pid_started=who.started,
            boot_id=who.boot_id,
            phase="load",
            step=0,
            steps=0,
            density=density,
            passes=0,
            t=None,
            wall=time.time(),
            progress_mono=now,
            alive_mono=now,
            cpu_s=0.0,
            step_s=None,
            eta_s=None,
            rss=0,
            swap=0,
            major_faults=0,
            latent_std=None,
            note="",
            phase_mono=now,
        )
        self.progress()

    def progress(self, **changes: Any) -> Heartbeat:
        """Say that something moved. Raises OSError (a full disk) to its caller: that song cannot go on.

        A number that is not finite goes out as None: the outcome, not the beat, tells of it.
        """
        now = time.monotonic()
        if changes.get("phase", self._beat.phase) != self._beat.phase:
            changes = self._turned(now) | changes
        return self._send(progress_mono=now, **changes)

    def _turned(self, now: float) -> dict[str, Any]:
        """What a new phase changes: the one that ends is told by its time, paces are of one phase alone."""
        beat = self._beat
        spent_s = {**beat.spent_s, beat.phase: beat.spent_s.get(beat.phase, 0.0) + now - beat.phase_mono}
        return {"phase_mono": now, "spent_s": spent_s, "paces_s": [], "fastest_s": None}

    def start(self) -> None:
        threading.Thread(target=self._stay_alive, name="pulse", daemon=True).start()

    def _stay_alive(self) -> None:
        while True:
            before = time.monotonic()
            time.sleep(ALIVE_EVERY_S)
            gap = time.monotonic() - before
            if gap > LATE_S:
                self.lost_s += gap - ALIVE_EVERY_S
            with suppress(OSError):  # the next progress beat meets the same disk and says so
                self._send()

    def _send(self, **changes: Any) -> Heartbeat:
        with self._lock:
            usage = asdict(own_usage())
            self._beat = replace(
                self._beat,
                seq=self._beat.seq + 1,
                wall=time.time(),
                alive_mono=time.monotonic(),
                **usage,
                **{name: _finite(value) for name, value in changes.items()},
            )
            write_message(self._path, self._beat, durable=False)
            return self._beat


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
