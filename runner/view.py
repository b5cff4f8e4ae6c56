"""What people see of a batch: a table and a bar on a terminal, short lines elsewhere, a result at the end.

Nothing is told by colour alone, and every character has an ASCII stand-in.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

from rich.cells import cell_len, set_cell_size
from rich.console import Console, Group, RenderableType
from rich.text import Text

from runner.messages import SongState
from runner.songfolder import Outputs, SongFolder
from runner.status import Row, Survey, Try, look, tries
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
    is_near_ceiling,
    labels,
    memory_words,
    plain,
    remark,
    shown,
    size,
    span,
    sparkline,
    state_words,
    time_words,
    try_words,
    wants_a_look,
)

if TYPE_CHECKING:
    from rich.live import Live

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
PACES = 32  # step times of an attempt, where there is a line for each
SONG_CELLS = (16, 28)  # a song's name is not cut shorter than this for the sake of a column, nor longer,
NARROW, NARROW_SONG_CELLS = 60, 8  # but on a terminal of fewer than so many cells, where gaps are of one, too
REMARK_CELLS = 24  # with fewer it has a line of its own
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
def live(
    outputs: Outputs, *, quiet: bool = False, tell: Callable[[Survey], None] = lambda now: None
) -> Iterator[Callable[[], None]]:
    """The view of a batch by its own parent, on stderr: call what it gives about once a second.

    Where nothing can be written any more (a closed terminal, `| head`) it falls silent: the songs go on.
    tell: hears of every look, whatever is shown.
    """
    view = screen(console(sys.stderr))
    broken = quiet
    now: Survey | None = None

    def show() -> None:
        nonlocal broken, now
        now = look(outputs, earlier=False, before=now)
        tell(now)
        if not broken:
            try:
                view.show(now)
            except OSError:
                broken = True

    try:
        yield show
    finally:
        with suppress(OSError):
            view.close()


def screen(out: Console, *, keep: bool = False, song: SongFolder | None = None) -> Picture | Lines:
    """A table that stays in place on a terminal, else lines of what changed. keep: leave the last table.

    song: in place of the table, all that is known of one song.
    """
    return Picture(out, keep, song) if out.is_interactive and out.file.isatty() else Lines(out)


class Picture:
    """A table, drawn over the last one. It has no refreshing thread: the parent of a batch forks."""

    def __init__(self, out: Console, keep: bool, song: SongFolder | None) -> None:
        self._out, self._keep, self._song = out, keep, song
        self._width = out.width
        self._live = self._begun()

    def _begun(self) -> Live:
        from rich.live import Live

        return Live(console=self._out, auto_refresh=False, transient=not self._keep)

    def show(self, now: Survey) -> None:
        width, height, unicode = self._out.width, self._out.height - 1, _unicode(self._out)
        if width < self._width:  # the terminal has broken its lines, so that nobody knows how many there are
            self._live.stop()
            self._out.clear()
            self._live = self._begun()
        self._width = width
        self._live.start()
        if self._song is None:
            drawn = render(now, width, unicode=unicode, height=height)
        else:
            drawn = _one(self._song, now, width, unicode, height)
        self._live.update(drawn, refresh=True)

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


def print_survey(out: Console, now: Survey, song: SongFolder | None = None) -> None:
    """All songs as a table, or one with all that is known of it."""
    unicode = _unicode(out)
    out.print(
        render(now, out.width, unicode=unicode) if song is None else _one(song, now, out.width, unicode)
    )


def _one(
    song: SongFolder, now: Survey, width: int, unicode: bool, height: int | None = None
) -> RenderableType:
    row = next((row for row in now.rows if row.song == song.id), None)
    if row is None:
        return _line(f"{song.id}: is no longer there", "", width, unicode)
    return detail(row, tries(song, row), width, unicode=unicode, height=height)


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
    # Beside the rows: headline, heads, what is hidden, the batch, and the line above those of earlier runs.
    room = None if height is None else max(1, height - len(problems) - 4 - bool(earlier))
    rows, below = _room_for([*now.own, *fitting(earlier, EARLIER_ROWS)], room, width, unicode)
    kept = {row.song for row in rows}
    hidden = [row for row in now.rows if row.song not in kept]
    lines = _table(rows, below, width, unicode)
    if now.batch is not None:
        lines.insert(0, _line(headline(now, width), "bold", width, unicode))
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
    return Group(*(lines if height is None else lines[-max(1, height) :]))


def fitting(rows: Sequence[Row], room: int | None) -> list[Row]:
    """The rows that matter most, in their order: what runs, what went wrong, what is next, what is done."""
    if room is None or len(rows) <= room:
        return list(rows)
    kept = sorted(range(len(rows)), key=lambda index: (_urgency(rows[index]), index))[:room]
    return [rows[index] for index in sorted(kept)]


def _urgency(row: Row) -> int:
    order: list[SongState] = ["running", "failed", "interrupted", "degraded", "queued", "left", "done"]
    return order.index(row.state) + len(order) * row.earlier


def _room_for(
    rows: Sequence[Row], room: int | None, width: int, unicode: bool
) -> tuple[list[Row], list[Row]]:
    """The songs that get a line, and those of them whose remark gets one below, as it has no column.

    Of scarce lines a third at most are of remarks.
    """
    below = [row for row in rows if not row.earlier and row.state != "done" and remark(row)]
    if below and any(column.head == "remark" for column in _plan(_columns(rows, unicode, width), width)[0]):
        below = []
    if room is None:
        return list(rows), below
    kept = fitting(rows, max(1, room - min(len(below), room // 3)))
    songs = {row.song for row in kept}
    return kept, fitting([row for row in below if row.song in songs], room - len(kept))


def _table(rows: Sequence[Row], below: Sequence[Row], width: int, unicode: bool) -> list[Text]:
    """Heads, a line a song, and one more for the remark of those below."""
    columns, widths = _plan(_columns(rows, unicode, width), width)
    lines = [_row([(column.head, "dim") for column in columns], widths, _gap(width))]
    commented = {row.song for row in below}
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
        lines.append(_row(cells, widths, _gap(width)))
        if row.song in commented:
            lines.append(_line(f"    {remark(row)}", "dim", width, unicode))
    return lines if rows else []


def _tail(column: _Column, row: Row, width: int) -> int:
    """How much of its end a cut cell keeps: a song what tells it from others, a file its name, a sentence
    nothing."""
    if column.head == "song":
        return _own_end(row.song)
    return width if row.state == "done" else 0


def _own_end(name: str) -> int:
    """Cells of a name's end that tell the song from others: its take, or as what it was made again."""
    return min(max(4, len(name) - name.find(".")), 12) if "." in name else 4


def _columns(rows: Sequence[Row], unicode: bool, width: int) -> list[_Column]:
    names = labels(rows)
    least = SONG_CELLS[0] if width >= NARROW else NARROW_SONG_CELLS

    def column(head: str, rank: int, cell: Callable[[Row], str], least: int | None = None) -> _Column:
        return _Column(head, rank, tuple(shown(cell(row), unicode) for row in rows), least)

    return [
        column("", 0, lambda row: "!" if wants_a_look(row) else ""),
        column(
            "song",
            0,
            lambda row: clip(names[row.song], SONG_CELLS[1], unicode=unicode, tail=_own_end(row.song)),
            least,
        ),
        column("state", 0, state_words),
        column("step", 1, lambda row: f"{row.step}/{row.steps}" if row.steps else ""),
        column("", 5, lambda row: bar(row.step, row.steps, BAR_CELLS, unicode=unicode) if row.steps else ""),
        column("time", 2, time_words),
        column("pace", 4, lambda row: sparkline(row.paces_s, row.fastest_s, unicode=unicode)),
        column("a step", 8, lambda row: "" if row.step_s is None else span(row.step_s)),
        column("memory", 6, memory_words),
        column("try", 3, try_words),
        column("remark", 7, remark, REMARK_CELLS),
    ]


def _plan(columns: Sequence[_Column], width: int) -> tuple[list[_Column], list[int]]:
    """The columns that fit into width, and how wide each is."""
    taken: dict[int, int] = {}
    gap = _gap(width)
    for index in sorted(range(len(columns)), key=lambda index: columns[index].rank):
        column = columns[index]
        needed = column.width if column.least is None else min(column.width, column.least)
        if needed and (column.rank == 0 or sum(taken.values()) + gap * len(taken) + needed <= width):
            taken[index] = needed
    for index in sorted(taken):  # what is left goes to those that were cut, the song first
        free = width - sum(taken.values()) - gap * (len(taken) - 1)
        taken[index] = min(columns[index].width, taken[index] + max(0, free))
    return [columns[index] for index in sorted(taken)], [taken[index] for index in sorted(taken)]


def _gap(width: int) -> int:
    return GAP if width >= NARROW else 1


def _row(cells: Sequence[tuple[str, str]], widths: Sequence[int], gap: int) -> Text:
    line = Text(no_wrap=True, overflow="crop")
    for (text, style), width in zip(cells, widths, strict=True):
        line.append(set_cell_size(text, width), style)
        line.append(" " * gap)
    line.rstrip()
    return line


def _line(text: str, style: str, width: int, unicode: bool) -> Text:
    return Text(clip(shown(text, unicode), width, unicode=unicode), style, no_wrap=True, overflow="crop")


def _style(column: _Column, row: Row) -> str:
    if column.head == "time":
        return STYLES.get(row.health or "", "")
    if column.head == "memory":
        return "yellow" if is_near_ceiling(row) else ""
    return STYLES.get(row.state, "") if column.head in ("state", "song") else ""


# ---------------------------------------------------------------- one song, the end


def detail(
    row: Row, attempts: Sequence[Try], width: int, *, unicode: bool, height: int | None = None
) -> RenderableType:
    """All that is known of one song; no line of its attempts is wider than width, longer words are folded.

    height: at most so many lines, without the oldest attempts.
    """
    pace = sparkline(row.paces_s, row.fastest_s, unicode=unicode)
    facts = [
        ("song", row.song),
        ("state", ", ".join(filter(None, (state_words(row), health_words(row))))),
        ("step", f"{row.step} of {row.steps}  {_bar(row, unicode)}" if row.steps else ""),
        ("a step", "  ".join(filter(None, ("" if row.step_s is None else span(row.step_s), pace)))),
        ("left", "" if row.eta_s is None else f"about {span(row.eta_s)}"),
        ("steps", _steps(row)),
        ("memory", _memory(row)),
        ("try", f"{row.tries} of {row.allowed}" if row.attempt and row.allowed else ""),
        ("note", "" if row.state == "failed" else row.note),
        ("why", row.why if row.state == "failed" else ""),
        ("time", "" if row.seconds is None else span(row.seconds)),
        ("phases", ", ".join(f"{PHASES[phase]} {span(took_s)}" for phase, took_s in row.spent_s.items())),
        ("file", row.file or ""),
        ("log", f"{attempts[-1].log}" if attempts else ""),
    ]
    lines = [
        Text.assemble((f"{name:<8}", "dim"), shown(value, unicode), overflow="fold")
        for name, value in facts
        if value
    ]
    told = attempts if height is None else attempts[-max(1, (height - len(lines) - 1) // 2) :]
    return Group(*lines, *(_attempts(row, told, width, unicode) if attempts else []))


def _bar(row: Row, unicode: bool) -> str:
    return bar(row.step, row.steps, BAR_CELLS, unicode=unicode)


def _memory(row: Row) -> str:
    if not row.rss:
        return ""
    own = f"; {size(row.private)} of its own" if row.private else ""
    ceiling = f", of {size(row.ceiling)} at the most" if own and row.ceiling else ""
    swapped = f", {size(row.swap)} in swap" if row.swap else ""
    near = ": NEAR ITS CEILING" if is_near_ceiling(row) else ""
    return f"{size(row.rss)}{swapped}{own}{ceiling}{near}"


def _attempts(row: Row, attempts: Sequence[Try], width: int, unicode: bool) -> Iterator[Text]:
    """Of how many steps over all each is, how it ended, after what time, where, its steps' times, and why."""
    heads = ("attempt", "steps", "ended", "time", "step", "t", "pace")
    cells = [_attempt(row, each, unicode) for each in attempts]
    widths = [max(map(cell_len, column)) for column in zip(heads, *cells, strict=True)]
    for line, each in zip((heads, *cells), (None, *attempts), strict=True):
        drawn = _row([(text, "dim" if each is None else "") for text in line], widths, _gap(width))
        drawn.truncate(width)
        yield drawn
        if each is not None and each.ended is not None:
            yield Text(shown(f"  {each.ended.message}", unicode), "dim", overflow="fold")


def _attempt(row: Row, each: Try, unicode: bool) -> tuple[str, ...]:
    end, newest = each.ended, each.attempt == row.attempt
    last = each.steps[-1] if each.steps else None
    elapsed_s = end.elapsed_s if end else row.elapsed_s if newest else None
    density = end.density if end else row.density if newest else None
    times_s = [step.seconds for step in each.steps]
    return (
        str(each.attempt),
        str(density or ""),
        end.cause if end else "runs" if row.state == "running" else row.state,
        "" if elapsed_s is None else span(elapsed_s),
        f"{last.step}/{last.steps}" if last else "",
        f"{last.t:.2f}" if last else "",
        sparkline(times_s[-PACES:], min(times_s, default=None), unicode=unicode),
    )


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
