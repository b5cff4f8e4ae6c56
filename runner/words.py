"""What is said of a song and of a batch: cells of the table, and lines where there is no terminal."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from rich.cells import cell_len, set_cell_size

from runner.messages import FINAL_STATES, Phase, SongState
from runner.probes import Memory
from runner.status import Row, Survey, left_s

PHASES: dict[Phase, str] = {
    "load": "loading",
    "lyrics": "lyrics",
    "style": "style",
    "encode": "encoding",
    "sample": "sampling",
    "decode": "decoding",
    "write": "writing",
}
# Of its ceiling, a song's memory is worth a word.
NEAR = 0.9
# With less than this free no attempt begins (see admission), and a machine without swap ends somebody.
SHORT_BYTES = 512 * 2**20
# Less than this in swap is what nobody needs.
SWAPPED_BYTES = 64 * 2**20

Level = Literal["debug", "info", "warning", "error"]
# What a song's end is worth; any other is news.
_LEVELS: dict[SongState, Level] = {"failed": "error", "degraded": "warning", "interrupted": "warning"}


@dataclass(frozen=True, slots=True)
class Change:
    """Something that happened in a batch. song: "" where it is of all of them. debug: a song goes on."""

    level: Level
    song: str
    text: str


def labels(rows: Sequence[Row]) -> dict[str, str]:
    """What to call each song: its name alone where no other has it, as `logs` and `stop` understand it."""
    times = Counter(_name(row.song) for row in rows)
    return {row.song: _name(row.song) if times[_name(row.song)] == 1 else row.song for row in rows}


def _name(song: str) -> str:
    return song.rpartition("/")[2]


def state_words(row: Row) -> str:
    if _waits(row):
        return "waiting"
    if row.state != "running":
        return row.state
    if row.phase is not None:
        return PHASES[row.phase]
    if row.made:
        return "finishing"
    return "waiting" if row.ended and row.ended[-1].attempt == row.attempt else "starting"


def health_words(row: Row) -> str:
    if row.health is None:
        return ""
    if row.health in ("slow", "stalled") and row.quiet_s is not None:
        return f"{row.health} {span(row.quiet_s)}"
    return "ok" if row.health == "healthy" else row.health


def remark(row: Row) -> str:
    """The one thing worth saying besides."""
    if row.state == "done":
        return row.file or ""
    if row.state == "degraded":
        return row.note
    if row.health == "gone":
        return "its process died without a word"
    if _waits(row):
        return row.note
    if row.state == "running":
        return _remark_of_running(row)
    return row.why or row.note


def _remark_of_running(row: Row) -> str:
    """What threatens it; else why the last attempt ended, and what is changed in this one."""
    if row.private and row.ceiling and is_near_ceiling(row):
        return f"memory near its ceiling: {size(row.private)} of {size(row.ceiling)}"
    if not row.ended:
        return row.note
    cause = row.ended[-1].cause
    return f"{cause}; {row.note}; {row.why}" if row.note else f"{cause}: {row.why}"


def is_near_ceiling(row: Row) -> bool:
    """Has it nearly as much memory of its own as it may have?"""
    return bool(row.private and row.ceiling and row.private >= NEAR * row.ceiling)


def wants_a_look(row: Row) -> bool:
    """Is it worth a person's look, now or in the morning?"""
    return not row.earlier and (
        row.state in ("failed", "interrupted")
        or row.health in ("stalled", "orphaned", "gone")
        or is_near_ceiling(row)
    )


def time_words(row: Row) -> str:
    """What is left of a healthy song, what is wrong with another, what a finished one took."""
    if row.health in ("slow", "stalled", "orphaned", "gone"):
        return health_words(row)
    if row.state == "running":
        return health_words(row) if row.eta_s is None else f"{span(row.eta_s)} left"
    return "" if row.seconds is None else span(row.seconds)


def headline(now: Survey, width: int) -> str:
    """What the batch does since when, what memory there is; as much as fits, the first words in any case."""
    first, *others = _headlines(now)
    return _joined(first, others, width)


def _headlines(now: Survey) -> list[str]:
    batch = now.batch
    if batch is None:
        return [""]
    began = clock(batch.started_wall, now.taken_wall)
    if now.parent_alive and batch.stopping:
        return ["stopping: songs save their state", f"since {began}", f"pid {batch.pid}"]
    if now.parent_alive:
        end = "" if batch.until_wall is None else f" until {clock(batch.until_wall, now.taken_wall)}"
        at_once = f"{batch.workers} at once"
        return [f"batch runs since {began}{end}", *machine_words(now.memory), at_once, f"pid {batch.pid}"]
    if batch.finished_wall is not None:
        return [f"batch ended {clock(batch.finished_wall, now.taken_wall)}", f"began {began}"]
    heard = max((row.heard_wall or 0.0 for row in now.own), default=0.0)
    last = [f"last heard {clock(heard, now.taken_wall)}"] if heard >= batch.started_wall else []
    return ["batch died without a word; the same command goes on", f"began {began}", *last]


def machine_words(memory: Memory) -> list[str]:
    """RAM that is free, with a warning when it is short, and what is in swap."""
    words = []
    if memory.available is not None:
        free = f"{size(memory.available)} of memory free"
        words.append(f"MEMORY IS SHORT: {free}" if memory.available < SHORT_BYTES else free)
    if memory.swapped is not None and memory.swapped >= SWAPPED_BYTES:
        words.append(f"{size(memory.swapped)} in swap")
    return words


def batch_line(now: Survey, width: int, *, unicode: bool) -> str:
    """Songs finished of all as a bar, when all will be, what needs a look first, and what the others do; as
    much as fits.
    """
    first = f"{_finished(now)} of {len(now.own)} songs"
    cells = min(20, width // 4) if width >= 40 else 0
    picture = f"{bar(_finished(now), len(now.own), cells, unicode=unicode)} " if cells else ""
    elapsed = _elapsed(now)
    took = f"{elapsed} so far" if now.parent_alive else f"in {elapsed}"
    others = [*left_words(now), *counts(now.own), *([took] if elapsed else [])]
    return _joined(f"{picture}{first}", others, width)


def left_words(now: Survey) -> list[str]:
    """About how long the batch still takes, and until when."""
    seconds = left_s(now)
    if seconds is None:
        return []
    return [f"about {span(seconds)} left ({clock(now.taken_wall + seconds, now.taken_wall)})"]


def _joined(first: str, others: Sequence[str], width: int) -> str:
    """first, and behind commas those of the others that width has room for."""
    line = first
    for part in others:
        if cell_len(line) + cell_len(part) + 2 <= width:
            line += f", {part}"
    return line


def batch_words(now: Survey) -> list[str]:
    """Songs finished of all, the time so far, how many stand how."""
    elapsed = _elapsed(now)
    return [f"{_finished(now)} of {len(now.own)} songs", *([elapsed] if elapsed else []), *counts(now.own)]


def _finished(now: Survey) -> int:
    return sum(row.state in FINAL_STATES for row in now.own)


def _elapsed(now: Survey) -> str:
    if now.batch is None or not (now.parent_alive or now.batch.finished_wall is not None):
        return ""
    return span((now.batch.finished_wall or now.taken_wall) - now.batch.started_wall)


def counts(rows: Sequence[Row]) -> list[str]:
    """How many songs stand how, what needs a look first."""
    order: list[SongState] = ["failed", "degraded", "interrupted", "running", "queued", "left", "done"]
    times = Counter(row.state for row in rows)
    return [f"{times[state]} {state}" for state in order if times[state]]


def bar(done: int, all: int, cells: int, *, unicode: bool) -> str:
    full, empty = ("━", "─") if unicode else ("#", "-")
    filled = cells * min(max(done, 0), all) // all if all > 0 else 0
    return full * filled + empty * (cells - filled)


def sparkline(paces_s: Sequence[float], fastest_s: float | None, *, unicode: bool) -> str:
    """Times as a picture, by the fastest of them: that is low, four times as long is the full height."""
    least = fastest_s or min(paces_s, default=0.0)
    if least <= 0:
        return ""
    marks = "▁▂▃▄▅▆▇█" if unicode else "__--==##"
    return "".join(marks[max(0, round(min(8.0, 2 * pace / least)) - 1)] for pace in paces_s)


def size(count: int) -> str:
    """Bytes: 850 MB, 2.4 GB."""
    return f"{count / 1e9:.1f} GB" if count >= 10**9 else f"{count / 1e6:.0f} MB"


def span(seconds: float) -> str:
    """A duration in at most seven characters."""
    if seconds < 10:
        return f"{max(seconds, 0.0):.1f} s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d}"


def memory_words(row: Row) -> str:
    """RAM, and what is in swap besides: 850 MB, 3.1+0.4 GB; with a mark near the ceiling."""
    if not row.rss:
        return ""
    mark = "!" if is_near_ceiling(row) else ""
    if row.swap and row.swap >= SWAPPED_BYTES:
        return f"{row.rss / 1e9:.1f}+{row.swap / 1e9:.1f} GB{mark}"
    return f"{size(row.rss)}{mark}"


def try_words(row: Row) -> str:
    """Which try of those allowed: of a song under way, and of others if it took more than one."""
    if not row.attempt or row.state == "queued":
        return ""
    if not row.allowed:  # of a version that did not tell
        return str(row.retries + 1)
    return f"{row.tries}/{row.allowed}" if row.state == "running" or row.tries > 1 else ""


def clock(wall: float, now_wall: float) -> str:
    """The time of day, with its weekday if that is another one."""
    try:
        then, now = time.localtime(wall), time.localtime(now_wall)
    except (OverflowError, OSError, ValueError):  # a damaged file's: of no year that a clock shows, no number
        return "?"
    return time.strftime("%H:%M" if then[:3] == now[:3] else "%a %H:%M", then)


def shown(text: str, unicode: bool) -> str:
    """One line of printable characters that the terminal can show: worker messages may hold anything."""
    line = "".join(c if c.isprintable() else " " for c in text)
    return line.encode("utf-8" if unicode else "ascii", "replace").decode()


def clip(text: str, width: int, *, unicode: bool, tail: int = 0) -> str:
    """text in at most width cells; of a cut one the last tail cells stay."""
    if cell_len(text) <= width:
        return text
    mark = "…" if unicode else ".."
    room = width - cell_len(mark)
    if room < 1:
        return set_cell_size(text, width)
    end = text[len(text) - min(tail, room) :]
    while cell_len(end) > room:  # a character may be two cells wide
        end = end[1:]
    return set_cell_size(text, max(0, room - cell_len(end))) + mark + end


def advice(rows: Sequence[Row]) -> list[str]:
    """What to do about songs that are not as asked, one line for each kind."""
    states = {row.state for row in rows}
    lines = []
    if "failed" in states:
        failed = next(row.song for row in rows if row.state == "failed")
        lines.append(f"failed: `runner logs {failed}` shows more; the same command tries again")
    if "degraded" in states:
        lines.append("degraded: the same command with --redo-degraded makes them again")
    if states & {"interrupted", "left"}:
        lines.append("not finished: the same command goes on")
    return lines


def plain(previous: Survey | None, current: Survey) -> list[str]:
    """What changed, in lines with the time of day: for people without a terminal.

    A song speaks when it begins, at each phase, at each tenth of its steps, when its health turns, when an
    attempt ends, and when it ends; a batch of twenty songs in some hundred lines.
    """
    stamp = time.strftime("%H:%M:%S", time.localtime(current.taken_wall))
    told = changes(previous, current)
    return [f"{stamp} {each.song}: {each.text}" if each.song else f"{stamp} {each.text}" for each in told]


def changes(previous: Survey | None, current: Survey) -> Iterator[Change]:
    """What is new in a batch since the survey before, None for its first."""
    rows = {} if previous is None else {row.song: row for row in previous.own}
    if previous is None and current.own:
        yield Change("info", "", f"{len(current.own)} songs: {', '.join(counts(current.own))}")
    for row in current.own:
        yield from (Change(level, row.song, text) for level, text in _changes(rows.get(row.song), row))
    known = () if previous is None else previous.problems
    for problem in current.problems:
        if problem not in known:
            yield Change("warning", "", f"cannot read {problem}")


def _changes(before: Row | None, row: Row) -> Iterator[tuple[Level, str]]:
    if before is None:
        if row.state == "running":
            yield "info", _begun(row)
        return
    for end in row.ended[len(before.ended) :]:
        yield "warning", f"attempt {end.attempt} ended: {end.cause}: {end.message}"
    if _waits(row) and row.attempt == before.attempt and row.note != before.note:
        yield "info", row.note
        return
    if row.state != "running":
        if row.state != before.state:
            yield _LEVELS.get(row.state, "info"), _ended(row)
        return
    if row.attempt != before.attempt or before.state != "running":
        yield "info", _begun(row)
    elif _milestone(row) != _milestone(before) and row.phase is not None:
        yield "debug", _progress(row)
    if row.health in ("slow", "stalled", "orphaned", "gone") and row.health != before.health:
        words = f"{health_words(row)}, in phase {row.phase}" if row.phase else health_words(row)
        yield "warning", words


def _waits(row: Row) -> bool:
    """For a place, memory or disk, and says so."""
    unheard = row.state in ("queued", "running") and row.phase is None and not row.health
    return unheard and row.note.startswith("waits ")  # an attempt that has just begun has a note, too


def _milestone(row: Row) -> tuple[Phase | None, int]:
    """Changes with the phase and with every tenth of its steps."""
    return row.phase, 10 * row.step // row.steps if row.steps else 0


def _begun(row: Row) -> str:
    note = f" ({row.note})" if row.note else ""
    return f"attempt {row.attempt} began{note}" if row.attempt else f"began{note}"


def _progress(row: Row) -> str:
    step = f" {row.step}/{row.steps}" if row.steps else ""
    pace = "" if row.step_s is None else f", {span(row.step_s)} a step"
    left = "" if row.eta_s is None else f", {span(row.eta_s)} left"
    return f"{state_words(row)}{step}{pace}{left}"


def _ended(row: Row) -> str:
    took = "" if row.seconds is None else f" in {span(row.seconds)}"
    said = remark(row)
    file = f": {row.file}" if row.file and said != row.file else ""
    return f"{row.state}{took}{': ' if said else ''}{said}{file}"
