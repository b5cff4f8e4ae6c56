"""Points of time between noise (t = 0) and song (t = 1). Pure arithmetic; nothing here knows the model.

A whole grid of n steps has n + 1 points, the first 0 and the last 1. A tail is what is left of a grid
behind a point t: increasing, all above t, ending at exactly 1.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise

from diffrhythm.errors import RequestError

# Above this sway the grid runs backwards near t = 1: dt'/dt = 1 + s (1 - pi/2) there.
LARGEST_SWAY = 2 / (math.pi - 2)
# Points nearer than this may be one and the same in float32, which the solvers compute in.
LEAST_STEP = 1e-6


def uniform(steps: int) -> tuple[float, ...]:
    """The grid of `steps` equal steps; of 0 steps: the point 0 alone.

    Raises RequestError for a negative number.
    """
    if steps < 0:
        raise RequestError(f"{steps} steps: steps: ask for 0 (bare noise) or more")
    if steps == 0:
        return (0.0,)
    return tuple(i / steps for i in range(steps + 1))


def sway(time_grid: Sequence[float], s: float) -> tuple[float, ...]:
    """`time_grid` bent by t + s (cos(pi t / 2) - 1 + t); s < 0 gives the noise side more points.

    -1 <= s < 1.75. Raises RequestError outside. Source: F5-TTS, arXiv 2410.06885.
    """
    if not -1 <= s < LARGEST_SWAY:
        raise RequestError(f"sway {s}: sway: has to be from -1 to {LARGEST_SWAY:.3f}, or time runs backwards")
    # cos(pi t / 2), written as a sine because that is exactly 0 at t = 1, which has to stay 1.
    return tuple(t + s * (math.sin(math.pi * (1 - t) / 2) - 1 + t) for t in time_grid)


def left(time_grid: Sequence[float], t: float) -> float:
    """The share of a whole grid's steps that lie behind t, parts of a step counted in.

    0 <= t <= 1. Of a grid of no steps nothing is left.
    """
    steps = len(time_grid) - 1
    i = bisect_right(time_grid, t) - 1
    if i >= steps:
        return 0.0
    walked = i + (t - time_grid[i]) / (time_grid[i + 1] - time_grid[i])
    return 1 - walked / steps


def thin(t: float, tail: Sequence[float], steps: int) -> tuple[float, ...]:
    """`tail` behind t in at most `steps` steps, spread as the tail was; a shorter tail stays as it is.

    Raises RequestError for fewer than one step, or a tail that is none.
    """
    check_tail(t, tail)
    if steps < 1:
        raise RequestError(f"{steps} steps: time grid: a grid cannot be thinned below one step")
    if len(tail) <= steps:
        return tuple(tail)
    points = (t, *tail)
    return (*(_between(points, i * len(tail) / steps) for i in range(1, steps)), 1.0)


def check(time_grid: Sequence[float]) -> None:
    """Raises RequestError unless `time_grid` is a whole grid (or the point 0 alone)."""
    if not time_grid or time_grid[0] != 0:
        raise RequestError(f"time grid {_shown(time_grid)}: time grid: has to begin at 0, where the noise is")
    if len(time_grid) > 1:
        check_tail(0.0, time_grid[1:])


def check_tail(t: float, tail: Sequence[float]) -> None:
    """Raises RequestError unless `tail` is increasing, above t, and ends at 1; behind t = 1 it is empty."""
    if t == 1 and not tail:
        return
    points = (t, *tail)
    # Negated so that NaN, which compares false, is refused too.
    if not tail or tail[-1] != 1 or not all(b - a >= LEAST_STEP for a, b in pairwise(points)):
        raise RequestError(
            f"time grid {_shown(tail)} behind t = {t}: time grid: points have to increase and end at 1"
        )


def _between(points: Sequence[float], index: float) -> float:
    """The point at a fractional index, linear between its neighbours."""
    below = int(index)
    share = index - below
    return points[below] if share == 0 else points[below] * (1 - share) + points[below + 1] * share


def _shown(points: Sequence[float]) -> str:
    """The points for a message, cut where there are many."""
    text = ", ".join(f"{point:g}" for point in points[:6])
    return f"({text}{', …' if len(points) > 6 else ''})"
