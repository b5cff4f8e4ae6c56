"""Points of time between noise (t = 0) and song (t = 1). Pure arithmetic; nothing here knows the model.

A whole grid of n steps has n + 1 points, the first 0 and the last 1. A tail is what is left of a grid
behind a point t: increasing, all above t, ending at exactly 1.
"""

from __future__ import annotations

import math
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


def unsway(t: float, s: float) -> float:
    """The point that `sway` moves to t, in [0, 1]."""
    if s == 0:
        return t
    low, high = 0.0, 1.0
    for _ in range(60):  # as near as floats are
        middle = (low + high) / 2
        low, high = (middle, high) if sway((middle,), s)[0] < t else (low, middle)
    return high


def remaining(t: float, density: float, s: float = 0.0) -> tuple[float, ...]:
    """The tail behind t, as dense as a whole grid of `density` steps under sway s; at least one step.

    0 <= t < 1, density > 0. Raises RequestError outside.
    """
    if not 0 <= t < 1 or not density > 0:
        raise RequestError(
            f"density {density} from t = {t}: time grid: t must lie in [0, 1), density above 0"
        )
    start = unsway(t, s)
    # The small allowance keeps (1 - 0.9) * 10 = 1.0000000000000002 from becoming two steps.
    steps = max(1, math.ceil((1 - start) * density - 1e-9))
    return (*sway([start + (1 - start) * i / steps for i in range(1, steps)], s), 1.0)


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


def density(time_grid: Sequence[float], position: int, s: float = 0.0) -> float:
    """Steps that a whole grid under sway s would have at the pace of what is left behind `position`.

    At the end, or for a grid of no steps, the pace of the whole grid.
    """
    steps_left = len(time_grid) - 1 - position
    if steps_left == 0:
        return float(len(time_grid) - 1)
    return steps_left / (1 - unsway(time_grid[position], s))


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
