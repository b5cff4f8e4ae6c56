"""How long a frozen child lives: from its SIGSTOP to its death, against the `stall` of its job.

Example: python -m benchmarks.freeze_to_kill --stall 0.5 2 10 --repeats 5
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import machine
from runner import heartbeat
from runner.messages import Heartbeat, QueuedSong
from runner.songfolder import SongFolder
from runner.supervise import TICK_S, House, supervise
from tests.faults.batches import CHILD, job

STEP_S = 0.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--stall", type=float, nargs="+", default=[0.5, 1.0, 2.0, 4.0], help="stall of the jobs, seconds"
    )
    parser.add_argument("--repeats", type=int, default=3, help="children for each stall")
    asked = parser.parse_args()
    machine.header(f"From a child's freeze to its death (steps of {STEP_S} s, a look every {TICK_S} s)")
    for stall_s in asked.stall:
        lived = [asyncio.run(freeze_to_death(stall_s)) for _ in range(asked.repeats)]
        machine.figure(f"stall {stall_s:g} s: freeze to death", lived, "s")
        machine.figure("    later than the stall by", [s - stall_s for s in lived], "s")


async def freeze_to_death(stall_s: float) -> float:
    """Seconds that one child lives on after it was frozen in the middle of its steps."""
    with tempfile.TemporaryDirectory() as name:
        folder = SongFolder(Path(name, "outputs", "night", "song"))
        folder.folder.mkdir(parents=True)
        frozen = job(f"steps 100000 {STEP_S}", stall_s=stall_s, attempts=1)
        house = House(mark=f"{name}|{os.getpid()}", worker=(sys.executable, str(CHILD)))
        making = asyncio.create_task(supervise(frozen, folder, house, silent))
        pid = await pid_at_work(folder)
        died = death_of(pid)
        os.kill(pid, signal.SIGSTOP)
        began = time.monotonic()
        await died
        lived_s = time.monotonic() - began
        ended = await making
        if ended.state != "failed" or "hung" not in ended.note:
            raise SystemExit(f"the frozen child ended otherwise: {ended.state}: {ended.note}")
        return lived_s


def silent(song: QueuedSong) -> None:
    """Nobody looks on."""


async def pid_at_work(folder: SongFolder) -> int:
    """The child's pid, at some moment after its tenth step."""
    while True:
        beat = heartbeat.read(folder.heartbeat)
        if isinstance(beat, Heartbeat) and beat.step >= 10:
            await asyncio.sleep(random.uniform(0, 2 * TICK_S))  # a moment, no secret  # nosec B311
            return beat.pid
        await asyncio.sleep(STEP_S)


def death_of(pid: int) -> asyncio.Future[None]:
    """Done at the moment when pid ends, be it a zombie still."""
    loop = asyncio.get_running_loop()
    died: asyncio.Future[None] = loop.create_future()
    handle = os.pidfd_open(pid)

    def tell() -> None:
        loop.remove_reader(handle)
        os.close(handle)
        died.set_result(None)

    loop.add_reader(handle, tell)
    return died


if __name__ == "__main__":
    main()
