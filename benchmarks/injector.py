"""Strikes from outside at a batch under way: at a child, its files, the parent, or all at once."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil

from benchmarks import strikes
from benchmarks.strikes import KINDS, Planned
from runner import heartbeat, processes
from runner.messages import Heartbeat
from runner.songfolder import Outputs, SongFolder
from tests.faults.batches import wait_for

Parent = subprocess.Popen[str]
# A parent gives its children grace, and the kernel time to end them; more than that is a hang.
PARENT_ENDS_S = 60.0
# Between a first Ctrl-C and an impatient second.
IMPATIENT_S = 0.3


class Injector:
    """Strikes each song of planned once, as soon as its beat says that it has come to its step."""

    def __init__(self, planned: Sequence[Planned], outputs: Outputs, ledger: Path) -> None:
        self.pending = [song for song in planned if song.kind and KINDS[song.kind].by != "child"]
        self._outputs, self._ledger = outputs, ledger

    def look(self, parent: Parent) -> None:
        for song in list(self.pending):
            beat = heartbeat.read(self._outputs.song(song.id).heartbeat)
            if not isinstance(beat, Heartbeat) or beat.phase != "sample" or beat.step < song.at_step:
                continue
            self.pending.remove(song)
            if heartbeat.sender_lives(beat):
                self._strike(song, beat, parent)
            if parent.poll() is not None:
                return

    def _strike(self, song: Planned, beat: Heartbeat, parent: Parent) -> None:
        assert song.kind is not None
        strike, began = strikes.now(song.kind, song.id, beat.attempt), time.monotonic()
        match KINDS[song.kind].by:
            case "beat":
                with suppress(ProcessLookupError):  # it has just ended
                    os.kill(beat.pid, AT_CHILD[song.kind])
            case "folder":
                AT_FOLDER[song.kind](self._outputs.song(song.id), beat)
            case _:
                AT_PARENT[song.kind](parent, self._outputs, song)
                strike = replace(strike, took_s=time.monotonic() - began)
        strikes.note(self._ledger, strike)


AT_CHILD = {"child-kill": signal.SIGKILL, "child-stop": signal.SIGSTOP}


# ---------------------------------------------------------------- at its files


def ask_to_stop(folder: SongFolder, beat: Heartbeat) -> None:
    folder.stop.touch()


def tear_beat(folder: SongFolder, beat: Heartbeat) -> None:
    content = folder.heartbeat.read_bytes()
    folder.heartbeat.write_bytes(content[: len(content) // 2])


def litter(folder: SongFolder, beat: Heartbeat) -> None:
    """Half-written files, as a child leaves them that is killed while it writes."""
    checkpoint = folder.folder / "attempts" / str(beat.attempt) / "checkpoint.safetensors"
    for path in (folder.heartbeat, folder.manifest, checkpoint):
        half_write(path, beat.pid)


def half_write(path: Path, pid: int) -> None:
    path.with_name(f".{path.name}.{pid}-0badcafe.tmp").write_bytes(b"half a")


AT_FOLDER: dict[str, Callable[[SongFolder, Heartbeat], None]] = {
    "stop-file": ask_to_stop,
    "beat-torn": tear_beat,
    "litter": litter,
}


# ---------------------------------------------------------------- at the parent


def kill_parent(parent: Parent, outputs: Outputs, song: Planned) -> None:
    """While it writes how its songs stand, and until its children have died with it."""
    children = [child.pid for child in psutil.Process(parent.pid).children() if _is_song(child)]
    parent.kill()
    parent.wait()
    half_write(outputs.batch, parent.pid)
    wait_for(lambda: all(processes.identity(pid) is None for pid in children))


def _is_song(child: psutil.Process) -> bool:
    """Not an orphan that came to the parent and is about to be ended: no death signal binds it."""
    try:
        return any(word.endswith("request.json") for word in child.cmdline())
    except psutil.Error:
        return False


def end_parent(number: signal.Signals, *, twice: bool = False) -> Callable[[Parent, Outputs, Planned], None]:
    def end(parent: Parent, outputs: Outputs, song: Planned) -> None:
        parent.send_signal(number)
        if twice:
            with suppress(subprocess.TimeoutExpired):
                parent.wait(IMPATIENT_S)
            parent.send_signal(number)
        parent.wait(PARENT_ENDS_S)

    return end


def stop_parent(parent: Parent, outputs: Outputs, song: Planned) -> None:
    os.kill(parent.pid, signal.SIGSTOP)
    time.sleep(song.seconds)
    os.kill(parent.pid, signal.SIGCONT)


def sleep_all(parent: Parent, outputs: Outputs, song: Planned) -> None:
    """Parent and children stand still and go on, in whatever order, as on a machine that sleeps."""
    os.kill(parent.pid, signal.SIGSTOP)
    children = [who.pid for who in processes.marked(f"{outputs.folder.resolve()}//")]
    # Whoever stands still already was struck before, and must not be woken.
    awake = [parent.pid, *(pid for pid in children if _runs(pid))]
    for pid in awake:
        _send(pid, signal.SIGSTOP)
    time.sleep(song.seconds)
    random.Random(song.name).shuffle(awake)
    for pid in awake:
        _send(pid, signal.SIGCONT)


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_STOPPED
    except psutil.NoSuchProcess:
        return False


def _send(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


AT_PARENT: dict[str, Callable[[Parent, Outputs, Planned], None]] = {
    "parent-kill": kill_parent,
    "parent-term": end_parent(signal.SIGTERM),
    "parent-int": end_parent(signal.SIGINT),
    "parent-term-twice": end_parent(signal.SIGTERM, twice=True),
    "parent-stop": stop_parent,
    "sleep": sleep_all,
}
