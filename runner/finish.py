"""The end of a batch, however it came: told to the night's log, and as JSON to a command of the user's."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BufferedRandom
from pathlib import Path
from typing import Any

from runner import processes
from runner.errors import RunnerError, UsageError, one_line
from runner.journal import Journal
from runner.songfolder import Outputs
from runner.status import Survey, look
from runner.words import Change, Level, counts, remark, span

SCHEMA = 1
# For a mail or a request to a server that is slow, and no night is held up by one that hangs.
TIMEOUT_S = 60.0


@dataclass(slots=True)
class End:
    """How a batch ended. problem: why it could not begin or go on, if so. journal: the night's log. report:
    the page that it has written, if it has.
    """

    journal: Journal
    exit_code: int = 0
    problem: str = ""
    report: Path | None = None


@contextmanager
def told(outputs: Outputs, command: Sequence[str] = ()) -> Iterator[End]:
    """The end of the block, which sets its exit_code, is written down, and told to command.

    An error that ends the block is told like the rest, and goes on. What goes wrong here is a warning on
    stderr and changes no exit code.
    """
    end = End(Journal(outputs))
    try:
        yield end
    except RunnerError as error:
        end.exit_code, end.problem = error.exit_code, str(error)
        raise
    except KeyboardInterrupt:
        end.exit_code = 128 + signal.SIGINT
        raise
    except SystemExit as exit:
        end.exit_code = exit.code if isinstance(exit.code, int) else 1
        raise
    except Exception as error:
        end.exit_code, end.problem = 1, one_line(f"a defect of the runner ({type(error).__name__}: {error})")
        raise
    finally:
        _close(end, outputs, command)


def _close(end: End, outputs: Outputs, command: Sequence[str]) -> None:
    now = _own(look(outputs, earlier=False)) if outputs.folder.is_dir() else None
    if now is not None:
        end.journal.tell(now)
    end.journal.note(*_last_words(end, now))
    warnings = [end.journal.problem] if now is not None and end.journal.problem else []
    if command:
        failure = run(command, summary(outputs, now, end))
        if failure:
            warnings.append(failure)
            end.journal.note(Change("warning", "", failure))
    for warning in warnings:
        with suppress(OSError):
            print(one_line(warning), file=sys.stderr)


def _own(now: Survey) -> Survey | None:
    """The survey if its batch is this process's; None where this one has not begun."""
    batch, me = now.batch, processes.me()
    if batch is None:
        return None
    mine = (batch.pid, batch.pid_started, batch.boot_id) == (me.pid, me.started, me.boot_id)
    return now if mine else None


def _last_words(end: End, now: Survey | None) -> Iterator[Change]:
    for problem in filter(None, end.problem.split("\n")):
        yield Change("error", "", problem)
    if now is not None:
        stopped = end.exit_code > 128
        level: Level = "warning" if stopped else "error" if end.exit_code else "info"
        yield Change(level, "", f"batch ended with exit code {end.exit_code}: {_words(now)}")


def _words(now: Survey) -> str:
    seconds = _seconds(now)
    return ", ".join([*counts(now.own), *([] if seconds is None else [f"in {span(seconds)}"])]) or "no songs"


def _seconds(now: Survey) -> float | None:
    batch = now.batch
    if batch is None or batch.finished_wall is None:
        return None
    return max(0.0, batch.finished_wall - batch.started_wall)


# ---------------------------------------------------------------- --on-finish


def parse(command: str | None) -> list[str]:
    """The words of a command, as a shell would take them apart. Raises UsageError where it could not."""
    if command is None:
        return []
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise UsageError(f"--on-finish {command!r}: {error}; close the quotes") from error
    if not words:
        raise UsageError("--on-finish: the command is empty; give one, such as 'mail -s songs you'")
    return words


def summary(outputs: Outputs, now: Survey | None, end: End) -> dict[str, Any]:
    """What the command reads. now: None for a batch that has not begun, which has no songs to tell of."""
    folder = outputs.folder.absolute()
    rows = now.own if now is not None else ()
    batch = now.batch if now is not None else None
    return {
        "schema": SCHEMA,
        "summary": end.problem or (_words(now) if now is not None else "stopped before it began"),
        "exit_code": end.exit_code,
        "problem": end.problem,
        "states": dict(Counter(row.state for row in rows)),
        "started": None if batch is None else _iso(batch.started_wall),
        "seconds": None if now is None or (took := _seconds(now)) is None else round(took, 3),
        "outputs": str(folder),
        "log": str(folder / outputs.log.name),
        "report": None if end.report is None else str(end.report.absolute()),
        "songs": [
            {
                "song": row.song,
                "state": row.state,
                "file": None if row.file is None else os.path.abspath(row.file),  # noqa: PTH100
                "why": "" if row.state == "done" else remark(row),
                "seconds": row.seconds,
            }
            for row in rows
        ],
    }


def _iso(wall: float) -> str | None:
    with suppress(OSError, OverflowError, ValueError):
        return datetime.fromtimestamp(wall, UTC).astimezone().isoformat(timespec="seconds")
    return None


def run(command: Sequence[str], content: dict[str, Any], *, timeout_s: float = TIMEOUT_S) -> str:
    """Run the command with content as JSON on its stdin; what went wrong, or "".

    It has a session of its own, so that no Ctrl-C for us ends it, and files in place of pipes, so that
    nothing that it leaves running can hold us; in memory, since a full disk may be what is to be told. It is
    the user's own, and gets all of our environment.
    """
    with _memory("summary") as paper, _memory("said") as said:
        paper.write(f"{json.dumps(content, indent=2)}\n".encode())
        paper.seek(0)
        try:
            process = subprocess.Popen(
                command, stdin=paper, stdout=said, stderr=subprocess.STDOUT, start_new_session=True
            )
        except OSError as error:
            return f"--on-finish: {command[0]}: {error.strerror}; nobody was told"
        try:
            code = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return f"--on-finish: {command[0]}: ended after {timeout_s:g} s without an end of its own"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        return f"--on-finish: {command[0]}: {_ending(code, said)}" if code else ""


def _memory(name: str) -> BufferedRandom:
    return os.fdopen(os.memfd_create(name), "w+b")


def _ending(code: int, said: BufferedRandom) -> str:
    how = f"ended by signal {-code}" if code < 0 else f"exit code {code}"
    said.seek(max(0, said.seek(0, os.SEEK_END) - 4096))
    lines = said.read().decode(errors="replace").split("\n")
    last = next((each.strip() for each in reversed(lines) if each.strip()), "")
    return f"{how}: {last}" if last else how
