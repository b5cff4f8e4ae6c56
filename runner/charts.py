"""Where things lie in the report's pictures: pure geometry, from readings to numbers and SVG paths."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, TypeGuard

from runner.curve import Point
from runner.words import size

# The boxes that curves are drawn in; the page stretches them.
WIDE, HIGH = 1000, 100
SPARK_WIDE, SPARK_HIGH = 120, 32
# Steps between two ticks of a time axis.
_TICKS_S = (60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400)
_MOST_TICKS = 5
_LONGEST_AXIS_S = 366 * 86_400

Kind = Literal["prepare", "sample", "decode", "lost"]


@dataclass(frozen=True, slots=True)
class Made:
    """One attempt on the clock of the wall: all in seconds since 1970, or of what a phase took.

    sampled: when its first step began and its last one ended. phases: of one that made its song.
    """

    number: int
    began: float
    ended: float
    cause: str | None
    sampled: tuple[float, float] | None
    phases: dict[str, float]
    memory: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of an attempt; from and how wide in percent of the axis."""

    kind: Kind
    left: float
    width: float
    words: str


@dataclass(frozen=True, slots=True)
class Axis:
    """The time that a chart covers, in seconds since 1970."""

    began: float
    ended: float

    def percent(self, wall: float) -> float:
        """Where on the axis that is; what lies outside is at its end."""
        share = (wall - self.began) / max(self.ended - self.began, 1e-9)
        return round(100 * min(max(share, 0.0), 1.0), 2)

    def ticks(self) -> list[tuple[float, str]]:
        """Round times of day and where they are, few enough to be read on a phone."""
        length = self.ended - self.began
        if not 0 < length <= _LONGEST_AXIS_S:
            return []
        step = next((each for each in _TICKS_S if length / each <= _MOST_TICKS), length)
        offset = time.localtime(self.began).tm_gmtoff
        first = math.ceil((self.began + offset) / step) * step - offset
        walls = (first + i * step for i in range(_MOST_TICKS + 1))
        return [
            (self.percent(wall), time.strftime("%H:%M", time.localtime(wall)))
            for wall in walls
            if wall <= self.ended
        ]


def segments(made: Made, axis: Axis) -> list[Segment]:
    """What the attempt did when, as far as it is known; none of it is shorter than nothing."""
    cuts = _cuts(made)
    return [
        Segment(kind, axis.percent(start), round(axis.percent(end) - axis.percent(start), 2), words)
        for (start, kind, words), (end, _, _) in pairwise([*cuts, (made.ended, "lost", "")])
        if axis.percent(end) > axis.percent(start)
    ]


def _cuts(made: Made) -> list[tuple[float, Kind, str]]:
    """When each stretch begins, in order."""
    if made.cause is None:
        behind = made.phases.get("decode", 0.0) + made.phases.get("write", 0.0)
        decode = max(made.began, made.ended - behind)
        sample = max(made.began, decode - made.phases.get("sample", 0.0))
        return [
            (made.began, "prepare", "preparing"),
            (sample, "sample", "sampling"),
            (decode, "decode", "decoding"),
        ]
    if made.sampled is None:
        return [(made.began, "lost", made.cause)]
    first = min(max(made.sampled[0], made.began), made.ended)
    last = min(max(made.sampled[1], first), made.ended)
    return [(made.began, "prepare", "preparing"), (first, "sample", "sampling"), (last, "lost", made.cause)]


@dataclass(frozen=True, slots=True)
class Memory:
    """Of all songs together over time: areas for the page to fill, and the highest of each in bytes."""

    private: str
    swap: str
    private_bytes: int
    swap_bytes: int


def memory(attempts: Iterable[Made], axis: Axis) -> Memory | None:
    """None where nobody kept a curve."""
    private, swap = [0] * (WIDE // 4), [0] * (WIDE // 4)
    for made in attempts:
        for index, point in _held(made, axis, len(private)).items():
            private[index] += point[1]
            swap[index] += point[3]
    most = max(private)
    if most <= 0:
        return None
    return Memory(_area(private, most), _area(swap, most), most, max(swap))


def _held(made: Made, axis: Axis, columns: int) -> dict[int, Point]:
    """The highest point of the attempt in each column that it reaches into."""
    held: dict[int, Point] = {}
    ends = [*(point[0] for point in made.memory[1:]), made.ended - made.began]
    for point, end in zip(made.memory, ends, strict=False):
        first, last = (
            min(int(axis.percent(made.began + at) / 100 * columns), columns - 1)
            for at in (point[0], max(end, point[0]))
        )
        for index in range(first, last + 1):
            if index not in held or held[index][1] < point[1]:
                held[index] = point
    return held


def _area(values: Sequence[int], most: int) -> str:
    """A path below the values, from edge to edge of the box."""
    return f"M0 {HIGH}V{_height(values[0], most)}{''.join(_edge(values, most))}V{HIGH}Z"


def _height(value: int, most: int) -> str:
    return f"{HIGH - HIGH * value / most:.3g}"


def _edge(values: Sequence[int], most: int) -> Iterable[str]:
    """Steps of the area's upper edge; where it stays level, one."""
    width = WIDE / len(values)
    for i, (before, value) in enumerate(pairwise(values), start=1):
        if value != before:
            yield f"H{i * width:g}V{_height(value, most)}"
    yield f"H{WIDE}"


def bars(outline: Sequence[int]) -> str:
    """A song's outline as bars that grow up and down from the middle, in a box 100 high, each 2 wide."""
    most = max(*outline, 1)
    return "".join(
        f"M{2 * i + 1} {50 - half}V{50 + half}"
        for i, half in enumerate(max(1, round(48 * value / most)) for value in outline)
    )


@dataclass(frozen=True, slots=True)
class Spark:
    """A small curve with its name and, in words, what it came to."""

    name: str
    line: str
    words: str


def sparks(evidence: Sequence[dict[str, Any]]) -> list[Spark]:
    """Of the readings behind a kill: what the child computed and held, and what it cost the disk."""
    samples = [sample for sample in evidence if is_number(sample.get("at"))]
    if len(samples) < 3:
        return []
    at = [float(sample["at"]) for sample in samples]
    seconds = f"over {at[-1] - at[0]:.0f} s"
    memory = [_sum(sample, "anon", "swap") for sample in samples]
    swap = [_sum(sample, "swap") for sample in samples]
    cores, faults = _rates(samples, at, "cpu_s"), _rates(samples, at, "major_faults")
    return [
        _spark("processor", at[1:], cores, 1.0, f"{cores[-1]:.1f} cores at the end, {seconds}"),
        _spark("memory", at, memory, 1e6, f"{size(round(memory[-1]))} at the end, {seconds}"),
        *([_spark("swap", at, swap, 1e6, f"{size(round(swap[-1]))} at the end")] if max(swap) > 0 else []),
        *(
            [
                _spark(
                    "read back from disk", at[1:], faults, 1.0, f"{faults[-1]:.0f} pages a second at the end"
                )
            ]
            if max(faults) >= 1
            else []
        ),
    ]


def _spark(name: str, at: Sequence[float], values: Sequence[float], least: float, words: str) -> Spark:
    """least: what fills the height at the least, so that next to nothing looks like it."""
    length, most = max(at[-1] - at[0], 1e-9), max(*values, least)
    points = [
        f"{SPARK_WIDE * (x - at[0]) / length:.1f} {2 + (SPARK_HIGH - 4) * (1 - max(y, 0) / most):.1f}"
        for x, y in zip(at, values, strict=True)
    ]
    return Spark(name, "M" + "L".join(points), words)


def _rates(samples: Sequence[dict[str, Any]], at: Sequence[float], key: str) -> list[float]:
    """By how much a counter grew a second, between every two samples."""
    values = [_sum(sample, key) for sample in samples]
    return [
        max(0.0, b - a) / max(end - start, 1e-3)
        for (a, b), (start, end) in zip(pairwise(values), pairwise(at), strict=True)
    ]


def _sum(sample: dict[str, Any], *keys: str) -> float:
    return sum(float(sample[key]) for key in keys if is_number(sample.get(key)))


def is_number(value: object) -> TypeGuard[float]:
    """Is it a number that a person could mean? No yes or no, no infinity."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15
