"""What the parent of a batch costs while it watches: its share of one core, and its memory.

Example: python -m benchmarks.parent_cost --seconds 60
"""

from __future__ import annotations

import argparse
import os
import pty
import subprocess
import tempfile
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from benchmarks import machine, naughty
from runner import heartbeat
from runner.songfolder import Outputs
from tests.faults.batches import wait_for

VIEWS = ("quiet", "lines", "table")
# Loading and the start of the children are not watching.
SETTLE_S = 1.5
TICKS = os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=9.0, help="how long each parent is measured")
    parser.add_argument("--repeats", type=int, default=3, help="stretches that the time is divided into")
    parser.add_argument("--children", type=int, nargs="+", default=[1, 4], help="children at once")
    asked = parser.parse_args()
    machine.header("The parent while it watches children that make a step a second")
    for children in asked.children:
        for view in VIEWS:
            with tempfile.TemporaryDirectory() as name:
                shares, resident, peak = measure(Path(name), children, view, asked.seconds, asked.repeats)
            what = f"{children} at once, {view}:"
            machine.figure(f"{what} share of a core", shares, "%", aim=1)
            machine.figure(f"{what} resident memory", resident, "MB", aim=80)
            machine.figure(f"{what} at its peak", [peak], "MB", aim=80)


def measure(
    folder: Path, children: int, view: str, seconds: float, repeats: int
) -> tuple[list[float], list[float], float]:
    """Share of a core in each stretch, bytes resident after it, and their peak, of one parent."""
    steps = int(seconds + SETTLE_S) + 60  # more than are watched
    with parent(folder, [f"steps {steps} 1"] * children, view) as process:
        await_beats(Outputs(folder / "outputs"), children)
        time.sleep(SETTLE_S)
        shares, resident = [], []
        for _ in range(repeats):
            shares.append(cpu_share(process.pid, seconds / repeats))
            resident.append(status_bytes(process.pid, "VmRSS"))
        return shares, resident, status_bytes(process.pid, "VmHWM")


@contextmanager
def parent(folder: Path, scripts: list[str], view: str) -> Iterator[subprocess.Popen[str]]:
    """A batch that is stopped at the end; view: quiet, lines (no terminal), or table (on a terminal)."""
    controller, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (40, 120))
    threading.Thread(target=drain, args=(controller,), daemon=True).start()
    process = naughty.start(
        folder,
        scripts,
        workers=len(scripts),
        quiet=view == "quiet",
        stderr=terminal if view == "table" else subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait()
        os.close(terminal)


def drain(controller: int) -> None:
    """Read what is drawn, so that nobody waits for the terminal, until it is closed."""
    with suppress(OSError):
        while os.read(controller, 2**16):
            pass


def await_beats(outputs: Outputs, count: int) -> None:
    wait_for(lambda: sum(steps_made(song.heartbeat) > 0 for song in outputs.songs()) == count)


def steps_made(beat_file: Path) -> int:
    beat = heartbeat.read(beat_file)
    return 0 if isinstance(beat, heartbeat.NoBeat) else beat.step


def cpu_share(pid: int, seconds: float) -> float:
    """CPU time for time, over so many seconds."""
    began, used = time.monotonic(), cpu_s(pid)
    time.sleep(seconds)
    return (cpu_s(pid) - used) / (time.monotonic() - began)


def cpu_s(pid: int) -> float:
    """CPU seconds of all threads of pid so far.

    From its CPU clock, as clock_getcpuclockid(3) names it: /proc/PID/stat tells the same in hundredths of a
    second, too coarse for a share of 1 % of a few seconds.
    """
    return time.clock_gettime((~pid << 3) | 2)


def status_bytes(pid: int, key: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return float(line.split()[1]) * 1024
    raise SystemExit(f"/proc/{pid}/status: no {key}")


if __name__ == "__main__":
    main()
