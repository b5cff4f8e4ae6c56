"""The night's log, outputs/runner.log: a line for each thing that happens, with its time and level.

    2026-03-04T23:41:07+01:00 warning [night/rain] attempt 1 ended: timeout: not finished within 40 min

What is no such line (a traceback) belongs to the line before. Writing never ends or holds up a batch.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from json import dumps
from pathlib import Path
from typing import cast, get_args

from runner.errors import ForeignFileError
from runner.files import opened, write_bytes
from runner.messages import Batch
from runner.songfolder import Outputs
from runner.status import Survey
from runner.words import Change, Level, changes, clock, shown

SCHEMA = 1
LEVELS: tuple[Level, ...] = get_args(Level)

# A night of twenty songs is some 30 kB: a month of them, and as much three times over in older files.
LOG_BYTES = 2**20
OLDER = 3

BEGAN = "batch began"
_LINE = re.compile(rf"(\d{{4}}-\d\d-\d\dT\S+) ({'|'.join(LEVELS)}) +(?:\[(.+?/[^/\]]+)\] )?(.*)")


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing in the log. time: ISO 8601 with its zone, "" where the log does not say. text: its lines."""

    time: str
    level: Level
    song: str
    text: str


@dataclass(slots=True)
class Journal:
    """The log while a batch writes it. problem: why lines of it are missing; "" if none is."""

    outputs: Outputs
    problem: str = ""
    last: Survey | None = None

    def tell(self, now: Survey) -> None:
        """Write what has happened since the last survey; with the first, that the batch began."""
        news = list(changes(self.last, now))
        if self.last is None and now.batch is not None:
            with suppress(OSError, ForeignFileError):  # as large as it is, it can still be written
                rotate(self.outputs.cron_log)
            news.insert(0, Change("info", "", _begun(now.batch)))
        self.last = now
        self.note(*news)

    def note(self, *news: Change, trace: str = "") -> None:
        """Write these. trace: lines that go with the last of them."""
        if not news or not self.outputs.folder.is_dir():
            return  # it was never made, or has been moved away: that is told elsewhere
        try:
            append(self.outputs.log, "".join(f"{line(entry_of(each))}\n" for each in news) + trace)
        except (OSError, ForeignFileError) as error:
            words = error.strerror if isinstance(error, OSError) else str(error)
            self.problem = f"{self.outputs.log}: {words}: lines of this night's log are missing"


def _begun(batch: Batch) -> str:
    end = "" if batch.until_wall is None else f", until {clock(batch.until_wall, batch.started_wall)}"
    return f"{BEGAN} (pid {batch.pid}), {batch.workers} at once{end}"


def entry_of(change: Change) -> Entry:
    now = datetime.fromtimestamp(time.time(), UTC).astimezone().isoformat(timespec="seconds")
    return Entry(now, change.level, change.song, shown(change.text, unicode=True).strip())


def line(entry: Entry) -> str:
    """As it stands in the log, for people: of what came from elsewhere only what a terminal can show."""
    song = f"[{entry.song}] " if entry.song else ""
    head = f"{entry.time} {entry.level:<7} {song}" if entry.time else ""
    return "\n".join(shown(part, unicode=True) for part in f"{head}{entry.text}".split("\n"))


def json_line(entry: Entry) -> str:
    return dumps({"schema": SCHEMA, **asdict(entry)})


def append(log: Path, text: str) -> None:
    """Add text to a log, which is set aside when it has grown too large.

    Raises OSError, or ForeignFileError for what is no ordinary file.
    """
    with suppress(OSError, ForeignFileError):
        rotate(log)
    handle = _open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        content = text.encode(errors="replace")
        if os.write(handle, content) < len(content):
            os.write(handle, b"\n")  # the next line begins a line of its own, if there is room for any
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    finally:
        os.close(handle)


def rotate(log: Path) -> None:
    """Set a log that is larger than LOG_BYTES aside as LOG.1, that as LOG.2, and so on, OLDER of them.

    By copying: whoever has it open, such as cron's shell, goes on in the emptied file.
    """
    with os.fdopen(_open(log, os.O_RDWR), "r+b") as file:
        size = file.seek(0, os.SEEK_END)
        if size <= LOG_BYTES:
            return
        file.seek(max(0, size - 2 * LOG_BYTES))  # of one that ran wild, the end
        content = file.read()
        for number in range(OLDER, 1, -1):
            with suppress(FileNotFoundError):
                _older(log, number - 1).replace(_older(log, number))
        write_bytes(_older(log, 1), content)
        file.truncate(0)


def _open(log: Path, flags: int) -> int:
    """The log itself: what a link leads to is not ours to write, and a pipe would hold us up for ever."""
    handle = os.open(log, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise ForeignFileError("is no ordinary file; remove it")
    return handle


def _older(log: Path, number: int) -> Path:
    return log.with_name(f"{log.name}.{number}")


# ---------------------------------------------------------------- reading


def parse(lines: Iterable[str]) -> list[Entry]:
    """The entries of a log's lines. What stands before the first is an error that has no time."""
    blocks: list[tuple[re.Match[str] | None, list[str]]] = []
    for each in lines:
        head = _LINE.fullmatch(each)
        if head is not None:
            blocks.append((head, [head[4]]))
        elif blocks:
            blocks[-1][1].append(each)
        else:
            blocks.append((None, [each]))
    return [_entry(head, "\n".join(texts)) for head, texts in blocks]


def _entry(head: re.Match[str] | None, text: str) -> Entry:
    if head is None:
        return Entry("", "error", "", text)
    return Entry(head[1], cast(Level, head[2]), head[3] or "", text)


def newest_night(entries: Sequence[Entry]) -> Sequence[Entry]:
    """From where the last batch began; all if none did."""
    began = [n for n, each in enumerate(entries) if not each.song and each.text.startswith(BEGAN)]
    return entries[began[-1] :] if began else entries


def read(outputs: Outputs) -> tuple[list[Entry], int]:
    """What the log and the one before it hold, and up to which byte of the log that is.

    Raises FileNotFoundError where there is no log, OSError or ForeignFileError for one that cannot be read.
    """
    before = b""
    with suppress(OSError, ForeignFileError), opened(_older(outputs.log, 1)) as file:
        before = file.read(2 * LOG_BYTES)
    lines, position = read_on(outputs.log, 0)
    return parse([*_lines(before), *lines]), position


def read_on(log: Path, position: int) -> tuple[list[str], int]:
    """The whole lines of a log from a byte on, and where they end; from the start of one that was emptied."""
    with opened(log) as file:
        size = os.fstat(file.fileno()).st_size
        start = position if position <= size else 0
        start = max(start, size - 4 * LOG_BYTES)
        file.seek(start)
        content = file.read(size - start)
    whole = content[: content.rfind(b"\n") + 1]
    return _lines(whole), start + len(whole)


def _lines(content: bytes) -> list[str]:
    return [each for each in content.decode(errors="replace").split("\n") if each]


def chosen(entries: Iterable[Entry], level: Level) -> Iterator[Entry]:
    """Those of a level and of worse ones."""
    return (each for each in entries if LEVELS.index(each.level) >= LEVELS.index(level))
