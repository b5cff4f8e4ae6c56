"""The lines of a song's lyrics as a table: when, how densely, and what does not fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.cells import cell_len, set_cell_size

from runner.errors import one_line
from runner.messages import SongAnswer, SungLine

SCHEMA = 1

# Quick speech has about this many phones a second; a model that was taught by singing slurs them.
QUICK_PER_S = 15.0
# frames: those that a line takes of those that it has.
_HEADS = ("line", "time", "at", "frames", "sounds", "/s", "")
# With less, the phones are left out.
_LEAST = 12


def problem(line: SungLine) -> str:
    """What is wrong with how a line fits into its time, in frames, the worst first; "" for nothing."""
    if line.frame is None:
        return "not sung"
    if line.lost:
        return f"cut -{line.lost}"
    if line.takes > line.has:
        return f"too dense +{line.takes - line.has}"
    if line.late:
        return f"late +{line.late}"
    return "quick" if _is_quick(line) else ""


def sheet(lines: Sequence[SungLine], width: int) -> list[str]:
    """The lines as rows of a table no wider than width (60 or more), a head above them."""
    rows = [_HEADS, *map(_cells, lines)]
    texts = ["words", *(one_line(line.text) for line in lines)]
    phones = ["phones", *(" ".join(line.sounds) for line in lines)]
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    room = width - sum(widths) - 2 * (len(widths) - (not widths[-1]))
    for_texts, for_phones = _shares(room, max(map(cell_len, texts)), max(map(cell_len, phones)))
    shown = []
    for (*numbers, mark), text, sounds in zip(rows, texts, phones, strict=True):
        cells = [cell.rjust(wide) for cell, wide in zip(numbers, widths[:-1], strict=True)]
        cells += [mark.ljust(widths[-1])] if widths[-1] else []
        shown.append("  ".join([*cells, _clip(text, for_texts), _clip(sounds, for_phones)]).rstrip())
    return shown


def dense(lines: Sequence[SungLine]) -> list[SungLine]:
    """Those that have too little time; of what else is wrong with a line a warning tells."""
    return [line for line in lines if problem(line).startswith(("too dense", "quick"))]


def as_json(answers: Sequence[SongAnswer]) -> dict[str, Any]:
    """How songs would be made, line by line, for programs."""
    kept = ("song", "duration", "steps", "cfg", "sampler", "precision", "choice", "warnings")
    return {
        "schema": SCHEMA,
        "songs": [
            {key: getattr(answer, key) for key in kept}
            | {"lines": [asdict(line) | {"problem": problem(line)} for line in answer.lines]}
            for answer in answers
        ],
    }


def _is_quick(line: SungLine) -> bool:
    return line.per_s is not None and line.per_s > QUICK_PER_S


def _shares(room: int, texts: int, phones: int) -> tuple[int, int]:
    """Cells for words and for phones, of so many with a gap of two between them."""
    if room < 2 * _LEAST + 2:
        return min(texts, room), 0
    for_texts = min(texts, max(room // 2 - 1, room - 2 - phones))
    return for_texts, room - 2 - for_texts


def _clip(text: str, cells: int) -> str:
    if cell_len(text) <= cells:
        return text + " " * (cells - cell_len(text))
    return set_cell_size(text, cells - 1) + "…" if cells > 0 else ""


def _cells(line: SungLine) -> tuple[str, ...]:
    minutes, seconds = divmod(round(line.at_s, 2), 60)
    time = f"{minutes:.0f}:{seconds:05.2f}"
    if line.frame is None:
        return str(line.number), time, "", "", "", "", problem(line)
    return (
        str(line.number),
        time,
        str(line.frame),
        f"{line.takes}/{line.has}",
        str(len(line.sounds)),
        "" if line.per_s is None else f"{line.per_s:.1f}",
        problem(line),
    )
