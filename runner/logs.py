"""Logs as people read them: a night's, entry by entry, or a song's attempts', byte by byte; and followed."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from typing import BinaryIO

from runner import journal
from runner.errors import RunnerError, UsageError
from runner.files import opened
from runner.journal import Entry
from runner.processes import boot_id
from runner.songfolder import Attempt, Outputs, SongFolder, find
from runner.status import look, parent_lives
from runner.words import Level

POLL_S = 0.25
CHUNK_BYTES = 2**16


def show(outputs: Outputs, song: str, *, follow: bool = False, attempt: int | None = None) -> int:
    """Print the log of the song's newest attempt, or of the one asked for, on stdout.

    follow: go on, over retries, until the song ends. 0, or 1 if there is no such song or attempt; 130 for
    one that Ctrl-C ended.
    """
    try:
        folder = outputs.song(find(song, [row.song for row in look(outputs).rows]))
        waits = follow and attempt is None and not folder.attempts() and _running(outputs, folder.id)
        chosen = None if waits else _choose(folder, attempt)
    except RunnerError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    pause = _sleep if follow and attempt is None else None
    said = False
    try:
        for part in read(folder, chosen, running=lambda: _running(outputs, folder.id), pause=pause):
            _put(folder, part)
            said = said or isinstance(part, bytes)
    except KeyboardInterrupt:
        return 130
    if not said:
        print("it had nothing to say; `runner logs` tells what happened when", file=sys.stderr)
    return 0


def level_of(name: str | None) -> Level:
    """The level of that name; info without. Raises UsageError for any other."""
    for level in journal.LEVELS:
        if level == (name or "info"):
            return level
    raise UsageError(f"--level {name!r}: there is none such; take one of {', '.join(journal.LEVELS)}")


def show_night(outputs: Outputs, level: Level, *, follow: bool = False, json: bool = False) -> int:
    """Print the newest night's log from that level up on stdout, as it stands or as JSON lines.

    follow: go on until the batch ends. 0, or 1 if there is none; 130 for one that Ctrl-C ended.
    """
    write = journal.json_line if json else journal.line
    pause = _sleep if follow else None
    try:
        for entry in read_night(outputs, running=lambda: _lives(outputs), pause=pause):
            for chosen in journal.chosen([entry], level):
                print(write(chosen), flush=True)
    except FileNotFoundError:
        print(f"{outputs.log}: nothing here yet; `runner batch` writes it", file=sys.stderr)
        return 1
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        raise RunnerError(f"{outputs.log}: cannot be read ({error.strerror}); make it readable") from error
    except KeyboardInterrupt:
        return 130
    return 0


def read_night(
    outputs: Outputs, *, running: Callable[[], bool], pause: Callable[[], None] | None = None
) -> Iterator[Entry]:
    """The newest night's entries; with pause, those to come, too, until running() is over."""
    entries, position = journal.read(outputs)
    yield from journal.newest_night(entries)
    while pause is not None:
        going_on = running()  # asked first: its last words are read below
        lines, position = journal.read_on(outputs.log, position)
        yield from journal.parse(lines)
        if not going_on:
            return
        pause()


def _lives(outputs: Outputs) -> bool:
    """Is there a process that may still write to the night's log? It does after its batch has ended."""
    batch = look(outputs, earlier=False).batch
    return batch is not None and parent_lives(batch, boot_id())


def _choose(folder: SongFolder, number: int | None) -> Attempt:
    attempts = folder.attempts()
    if not attempts:
        raise RunnerError(f"{folder.id}: has not begun, so it has no log; `runner logs -f` waits for it")
    if number is None:
        return attempts[-1]
    for attempt in attempts:
        if attempt.number == number:
            return attempt
    known = ", ".join(str(attempt.number) for attempt in attempts)
    raise RunnerError(f"{folder.id}: has no attempt {number}; there are {known}")


def read(
    folder: SongFolder,
    attempt: Attempt | None,
    *,
    running: Callable[[], bool],
    pause: Callable[[], None] | None = None,
) -> Iterator[Attempt | bytes]:
    """The attempt, then what its log holds; with pause, what comes after it, too, until running() is over.

    pause() is called when all that there is has been read. Each further attempt is given before its log.
    """
    if attempt is not None:
        yield attempt
    position = 0
    while True:
        # Asked first: what was written before the song ended is read below, once it has.
        going_on = pause is not None and running()
        upcoming = _next(folder, attempt) if pause is not None else None
        if attempt is not None:
            for chunk in _rest(attempt, position):
                position += len(chunk)
                yield chunk
        if upcoming is not None:
            attempt, position = upcoming, 0
            yield attempt
        elif going_on and pause is not None:
            pause()
        else:
            return


def _next(folder: SongFolder, attempt: Attempt | None) -> Attempt | None:
    past = 0 if attempt is None else attempt.number
    return next((later for later in folder.attempts() if later.number > past), None)


def _rest(attempt: Attempt, position: int) -> Iterator[bytes]:
    try:
        with opened(attempt.log) as file:
            file.seek(position)
            yield from _chunks(file)
    except FileNotFoundError:
        return  # its child is just being started
    except OSError as error:
        raise RunnerError(f"{attempt.log}: cannot be read ({error.strerror}); make it readable") from error


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    while chunk := file.read(CHUNK_BYTES):
        yield chunk


def _put(folder: SongFolder, part: Attempt | bytes) -> None:
    """Which attempt is for people, its words are the data."""
    if isinstance(part, bytes):
        sys.stdout.buffer.write(part)
        sys.stdout.buffer.flush()
    else:
        print(f"--- {folder.id}, attempt {part.number}: {part.log}", file=sys.stderr, flush=True)


def _sleep() -> None:
    time.sleep(POLL_S)


def _running(outputs: Outputs, song: str) -> bool:
    states = {row.song: row.state for row in look(outputs, earlier=False).rows}
    return states.get(song) in ("queued", "running")
