"""What people see of a batch: a table and a bar on a terminal, short lines elsewhere, a result at the end.

Nothing is told by colour alone, and every character has an ASCII stand-in.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TextIO

from rich.cells import cell_len, set_cell_size
from rich.console import Console, Group, RenderableType
from rich.text import Text

from runner.messages import SongState
from runner.songfolder import Outputs
from runner.status import Row, Survey, look
from runner.words import (
    PHASES,
    advice,
    bar,
    batch_line,
    batch_words,
    clip,
    counts,
    headline,
    health_words,
    labels,
    memory_words,
    plain,
    remark,
    shown,
    span,
    state_words,
    time_words,
)

STYLES: dict[str, str] = {
    "done": "green",
    "degraded": "yellow",
    "failed": "red",
    "interrupted": "yellow",
    "queued": "dim",
    "left": "dim",
    "slow": "yellow",
    "stalled": "red",
    "orphaned": "red",
    "gone": "red",
}
BAR_CELLS = 10
SONG_CELLS = (16, 28)  # a song's name is not cut shorter than this for the sake of a column, nor longer
REMARK_CELLS = 14  # the longest cause of an end
GAP = 2
EARLIER_ROWS = 20  # of months of nights, those that want a look first


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Raise it: rich would end the process, and with it the batch whose view was closed."""
        raise BrokenPipeError


def console(file: TextIO) -> Console:
    return _Console(file=file, highlight=False, markup=False, emoji=False)


def speaks_unicode(encoding: str, environ: Mapping[str, str]) -> bool:
    """Can the terminal show more than ASCII?

    Python takes LANG=C for UTF-8 (and sets LC_CTYPE=C.UTF-8 itself), the terminal may not.
    """
    ctype = environ.get("LC_CTYPE", "")
    own = "" if ctype == "C.UTF-8" else ctype
    locale = environ.get("LC_ALL") or own or environ.get("LANG") or ""
    return "utf" in encoding.lower() and "utf" in locale.lower()


@contextmanager
def live(outputs: Outputs, *, quiet: bool = False) -> Iterator[Callable[[], None]]:
    """The view of a batch by its own parent, on stderr: call what it gives about once a second.

    Where nothing can be written any more (a closed terminal, `| head`) it falls silent: the songs go on.
    """
    view = screen(console(sys.stderr))
    broken = quiet
    now: Survey | None = None

    def show() -> None:
        nonlocal broken, now
        if not broken:
            now = look(outputs, earlier=False, before=now)
            try:
                view.show(now)
            except OSError:
                broken = True

    try:
        yield show
    finally:
        with suppress(OSError):
            view.close()


def screen(out: Console, *, keep: bool = False) -> Picture | Lines:
    """A table that stays in place on a terminal, else lines of what changed. keep: leave the last table."""
    return Picture(out, keep=keep) if out.is_interactive and out.file.isatty() else Lines(out)


class Picture:
    """A table, drawn over the last one. It has no refreshing thread: the parent of a batch forks."""

    def __init__(self, out: Console, *, keep: bool) -> None:
        from rich.live import Live

        self._out = out
        self._live = Live(console=out, auto_refresh=False, transient=not keep)

    def show(self, now: Survey) -> None:
        self._live.start()
        table = render(now, self._out.width, unicode=_unicode(self._out), height=self._out.height - 1)
        self._live.update(table, refresh=True)

    def close(self) -> None:
        self._live.stop()


class Lines:
    """Short lines of what has changed since the last time."""

    def __init__(self, out: Console) -> None:
        self._out = out
        self._last: Survey | None = None

    def show(self, now: Survey) -> None:
        lines = plain(self._last, now)
        self._last = now
        for line in lines:
            self._out.print(Text(shown(line, _unicode(self._out))), soft_wrap=True)

    def close(self) -> None:
        """Nothing stays open."""


def summary(outputs: Outputs) -> None:
    """Print how a batch ended, on stderr."""
    now = look(outputs, earlier=False)
    out = console(sys.stderr)
    with suppress(OSError):
        out.print(final_table(now, unicode=_unicode(out)))


def print_survey(out: Console, now: Survey, song: str | None = None) -> None:
    """All songs as a table, or one with all that is known of it."""
    unicode = _unicode(out)
    if song is None:
        out.print(render(now, out.width, unicode=unicode))
    else:
        out.print(detail(next(row for row in now.rows if row.song == song), unicode=unicode))


def _unicode(out: Console) -> bool:
    return speaks_unicode(out.encoding, os.environ)


# ---------------------------------------------------------------- the table


@dataclass(frozen=True, slots=True)
class _Column:
    head: str
    rank: int  # columns go from the highest down when there is no room
    cells: tuple[str, ...]
    least: int | None = None  # it may be cut to this width; None: all or nothing

    @property
    def width(self) -> int:
        """As wide as its widest cell; 0 if all are empty."""
        widest = max(map(cell_len, self.cells), default=0)
        return max(widest, cell_len(self.head)) if widest else 0


def render(now: Survey, width: int, *, unicode: bool, height: int | None = None) -> RenderableType:
    """One row a song and the batch as a bar; no line is wider than width.

    height: at most so many lines, without the songs that matter least.
    """
    problems = now.problems if height is None else now.problems[:3]
    earlier = [row for row in now.rows if row.earlier]
    rows = fitting([*now.own, *fitting(earlier, EARLIER_ROWS)], height and max(1, height - len(problems) - 4))
    hidden = [row for row in now.rows if row not in rows]
    lines = _table(rows, width, unicode)
    if now.batch is not None:
        lines.insert(0, _line(headline(now), "bold", width, unicode))
    if hidden:
        lines.append(_line(f"and {len(hidden)} more: {', '.join(counts(hidden))}", "dim", width, unicode))
    if now.batch is not None:
        lines.append(_line(batch_line(now, width, unicode=unicode), "", width, unicode))
    for problem in problems:
        whole = shown(f"cannot read {problem}", unicode)
        cut = height is not None
        lines.append(
            _line(whole, "yellow", width, unicode) if cut else Text(whole, "yellow", overflow="fold")
        )
    return Group(*lines)


def fitting(rows: Sequence[Row], room: int | None) -> list[Row]:
    """The rows that matter most, in their order: what runs, what went wrong, what is next, what is done."""
    if room is None or len(rows) <= room:
        return list(rows)
    kept = sorted(range(len(rows)), key=lambda index: (_urgency(rows[index]), index))[:room]
    return [rows[index] for index in sorted(kept)]


def _urgency(row: Row) -> int:
    order: list[SongState] = ["running", "failed", "interrupted", "degraded", "queued", "left", "done"]
    return order.index(row.state) + len(order) * row.earlier


def _table(rows: Sequence[Row], width: int, unicode: bool) -> list[Text]:
    columns, widths = _plan(_columns(rows, unicode), width)
    lines = [_row([(column.head, "dim") for column in columns], widths)]
    for index, row in enumerate(rows):
        if row.earlier and index and not rows[index - 1].earlier:
            lines.append(_line("from earlier runs", "dim", width, unicode))
        cells = [
            (
                clip(column.cells[index], wide, unicode=unicode, tail=_tail(column, row, wide)),
                _style(column, row),
            )
            for column, wide in zip(columns, widths, strict=True)
        ]
        lines.append(_row(cells, widths))
    return lines if rows else []


def _tail(column: _Column, row: Row, width: int) -> int:
    """How much of its end a cut cell keeps: a song its take, a file its name, a sentence nothing."""
    if column.head == "song":
        return 4
    return width if row.state == "done" else 0


def _columns(rows: Sequence[Row], unicode: bool) -> list[_Column]:
    names = labels(rows)

    def column(head: str, rank: int, cell: Callable[[Row], str], least: int | None = None) -> _Column:
        return _Column(head, rank, tuple(shown(cell(row), unicode) for row in rows), least)

    return [
        column(
            "song",
            0,
            lambda row: clip(names[row.song], SONG_CELLS[1], unicode=unicode, tail=4),
            SONG_CELLS[0],
        ),
        column("state", 0, state_words),
        column("step", 1, lambda row: f"{row.step}/{row.steps}" if row.steps else ""),
        column("", 4, lambda row: bar(row.step, row.steps, BAR_CELLS, unicode=unicode) if row.steps else ""),
        column("time", 2, time_words),
        column("a step", 7, lambda row: "" if row.step_s is None else span(row.step_s)),
        column("memory", 6, memory_words),
        column("try", 3, lambda row: str(row.retries + 1) if row.attempt and row.state != "queued" else ""),
        column("", 5, remark, REMARK_CELLS),
    ]


def _plan(columns: Sequence[_Column], width: int) -> tuple[list[_Column], list[int]]:
    """The columns that fit into width, and how wide each is."""
    taken: dict[int, int] = {}
    for index in sorted(range(len(columns)), key=lambda index: columns[index].rank):
        column = columns[index]
        needed = column.width if column.least is None else min(column.width, column.least)
        if needed and (column.rank == 0 or sum(taken.values()) + GAP * len(taken) + needed <= width):
            taken[index] = needed
    for index in sorted(taken):  # what is left goes to those that were cut, the song first
        free = width - sum(taken.values()) - GAP * (len(taken) - 1)
        taken[index] = min(columns[index].width, taken[index] + max(0, free))
    return [columns[index] for index in sorted(taken)], [taken[index] for index in sorted(taken)]


def _row(cells: Sequence[tuple[str, str]], widths: Sequence[int]) -> Text:
    line = Text(no_wrap=True, overflow="crop")
    for (text, style), width in zip(cells, widths, strict=True):
        line.append(set_cell_size(text, width), style)
        line.append(" " * GAP)
    line.rstrip()
    return line


def _line(text: str, style: str, width: int, unicode: bool) -> Text:
    return Text(clip(shown(text, unicode), width, unicode=unicode), style, no_wrap=True, overflow="crop")


def _style(column: _Column, row: Row) -> str:
    if column.head == "time":
        return STYLES.get(row.health or "", "")
    return STYLES.get(row.state, "") if column.head in ("state", "song") else ""


# ---------------------------------------------------------------- one song, the end


def detail(row: Row, *, unicode: bool) -> RenderableType:
    """All that is known of one song."""
    facts = [
        ("song", row.song),
        ("state", ", ".join(filter(None, (row.state, row.phase and PHASES[row.phase], health_words(row))))),
        ("step", f"{row.step} of {row.steps}" if row.steps else ""),
        ("a step", "" if row.step_s is None else span(row.step_s)),
        ("left", "" if row.eta_s is None else span(row.eta_s)),
        ("steps", _steps(row)),
        ("memory", memory_words(row)),
        ("attempt", str(row.attempt) if row.attempt else ""),
        *((f"  {end.attempt}", f"{end.cause}: {end.message}") for end in row.ended),
        ("why", row.why if row.state == "failed" else ""),
        ("note", row.note),
        ("time", "" if row.seconds is None else span(row.seconds)),
        ("file", row.file or ""),
        ("log", f"runner logs {row.song}" if row.attempt else ""),
    ]
    lines = [f"{name:<8}{value}" for name, value in facts if value]
    return Text("\n".join(shown(line, unicode) for line in lines), overflow="fold")


def _steps(row: Row) -> str:
    if row.asked is None:
        return ""
    fewer = row.density is not None and row.density < row.asked
    return f"{row.density} instead of {row.asked}" if fewer else str(row.asked)


def final_table(now: Survey, *, unicode: bool = False) -> RenderableType:
    """How each song of the batch ended, its time, retries and file; then words for what is not as asked."""
    rows = now.own
    heads = ("result", "time", "retries", "file")
    cells = [(row.state, time_words(row), str(row.retries or ""), row.file or row.song) for row in rows]
    widths = [max(map(len, column)) for column in zip(heads, *cells, strict=True)]
    lines = [Text("  ".join(f"{head:<{width}}" for head, width in zip(heads, widths, strict=True)), "dim")]
    for row, values in zip(rows, cells, strict=True):
        padded = [f"{value:<{width}}" for value, width in zip(values[:3], widths[:3], strict=True)]
        name = Text(shown(values[3], unicode))
        lines.append(
            Text("  ").join([Text(padded[0], STYLES.get(row.state, "")), *map(Text, padded[1:]), name])
        )
    for line in lines:
        line.rstrip()
        line.overflow = "fold"
    said = [Text(shown(f"{row.song}: {row.state}: {remark(row)}", unicode)) for row in rows if _odd(row)]
    return Group(*(lines if rows else []), *said, *map(Text, advice(rows)), Text(", ".join(batch_words(now))))


def _odd(row: Row) -> bool:
    return row.state in ("degraded", "failed", "interrupted") and bool(remark(row))
