"""Stop a batch, or one song of it, so that the same command goes on later where it was."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable

from runner import processes
from runner.errors import RunnerError
from runner.songfolder import Outputs, find
from runner.status import Row, Survey, look

# The supervisor gives a child seconds to flush its checkpoint, and the kernel some to end it.
PATIENCE_S = 20.0
POLL_S = 0.1


def stop(outputs: Outputs, song: str | None = None, *, patience_s: float = PATIENCE_S) -> int:
    """Ask the parent to stop all or one song, and wait until it has.

    0 once it has ended; 1 if nothing of that name runs, or if it still runs after patience_s.
    """
    try:
        said = _stop_batch(outputs, patience_s) if song is None else _stop_song(outputs, song, patience_s)
    except RunnerError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(said, file=sys.stderr)
    return 0


def _stop_batch(outputs: Outputs, patience_s: float) -> str:
    now = _running_batch(outputs)
    assert now.batch is not None
    pid = now.batch.pid
    running = [row.song for row in now.own if row.state == "running"]
    _say(f"asked the batch (pid {pid}) to stop; {_waiting_for(running)}")
    _terminate(pid)
    if not _wait(lambda: not look(outputs, earlier=False).parent_alive, patience_s):
        raise RunnerError(
            f"{outputs.folder}: the batch (pid {pid}) still runs after {patience_s:g} s; "
            "`runner stop` again stops it without grace"
        )
    rows = look(outputs, earlier=False).own
    open_songs = sum(row.state in ("interrupted", "left", "queued") for row in rows)
    goes_on = f"; {open_songs} of {len(rows)} songs go on with the same command" if open_songs else ""
    return f"stopped{goes_on}"


def _stop_song(outputs: Outputs, song: str, patience_s: float) -> str:
    now = look(outputs)
    id = find(song, [row.song for row in now.rows])
    row = _row(now, id)
    if not now.parent_alive or row.state not in ("queued", "running"):
        raise RunnerError(f"{id}: does not run ({row.state}); `runner status` shows what does")
    path = outputs.song(id).stop
    try:
        outputs.song(id).prepare()  # a song that has not begun has no folder
        path.open("ab").close()
    except OSError as error:
        raise RunnerError(
            f"cannot ask for it: {error.strerror}: {path}; `runner stop` stops the whole batch"
        ) from error
    until = "it has saved its state" if row.attempt else "it is out of the queue"
    _say(f"asked {id} to stop; waiting until {until}")
    ended = _wait(lambda: not _is_open(look(outputs, earlier=False), id), patience_s)
    if not ended:
        does = "waits" if row.state == "queued" else "runs"
        raise RunnerError(
            f"{id}: still {does} after {patience_s:g} s; see `runner status {id}`, or stop the whole batch "
            "with `runner stop`"
        )
    path.unlink(missing_ok=True)  # it may have ended by itself
    state = _row(look(outputs, earlier=False), id).state
    return f"{id}: {state}" + ("; the same command goes on with it" if state == "interrupted" else "")


def _is_open(now: Survey, id: str) -> bool:
    """Does it run, or is it going to?"""
    return now.parent_alive and _row(now, id).state in ("queued", "running")


def _running_batch(outputs: Outputs) -> Survey:
    now = look(outputs, earlier=False)
    if now.batch is None:
        why = now.problems[0] if now.problems else "no batch has run here"
        raise RunnerError(f"{outputs.folder}: nothing to stop: {why}")
    if not now.parent_alive:
        how = "has ended" if now.batch.finished_wall is not None else "is dead; the same command goes on"
        raise RunnerError(f"{outputs.folder}: nothing to stop: the last batch (pid {now.batch.pid}) {how}")
    if not processes.has_open(now.batch.pid, outputs.lock):
        raise RunnerError(
            f"{outputs.folder}: nothing to stop: the batch that it tells of (pid {now.batch.pid}) has "
            "another folder; is this one a copy?"
        )
    return now


def _terminate(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        return  # it has just ended by itself
    except PermissionError as error:
        raise RunnerError(
            f"pid {pid}: the batch belongs to another user; stop it as that user, or with sudo"
        ) from error


def _wait(ended: Callable[[], bool], patience_s: float) -> bool:
    until = time.monotonic() + patience_s
    while not ended():
        if time.monotonic() >= until:
            return False
        time.sleep(POLL_S)
    return True


def _waiting_for(songs: list[str]) -> str:
    if not songs:
        return "waiting until it has ended"
    state = "has saved its state" if len(songs) == 1 else "have saved their state"
    return f"waiting until {', '.join(songs)} {state}"


def _row(now: Survey, id: str) -> Row:
    return next(row for row in now.rows if row.song == id)


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)
