"""A curve of what an attempt used, that stays short however long it lasts: the parent keeps one in memory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import reduce

# More than a chart of a phone's width shows.
MOST_POINTS = 240

# Seconds since the attempt began; bytes of private memory, in RAM at all, and in swap.
Point = tuple[float, int, int, int]


@dataclass(frozen=True, slots=True)
class Curve:
    """The highest readings of every every_s seconds, the newest last."""

    every_s: float = 1.0
    points: tuple[Point, ...] = ()


def extended(curve: Curve, point: Point) -> Curve:
    """With one more reading; with too many points every two become one."""
    last = curve.points[-1] if curve.points else None
    if last is not None and point[0] // curve.every_s <= last[0] // curve.every_s:
        highest = max(last[1], point[1]), max(last[2], point[2]), max(last[3], point[3])
        return replace(curve, points=(*curve.points[:-1], (last[0], *highest)))
    points = (*curve.points, point)
    if len(points) <= MOST_POINTS:
        return replace(curve, points=points)
    return reduce(extended, points, Curve(2 * curve.every_s))
