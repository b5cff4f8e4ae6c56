"""A curve stays short, and forgets no summit."""

from __future__ import annotations

from functools import reduce
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from runner.curve import MOST_POINTS, Curve, Point, extended

BYTES = st.integers(0, 2**40)


def of(points: list[Point]) -> Curve:
    return reduce(extended, points, Curve())


@given(st.lists(st.tuples(st.floats(0, 90), BYTES, BYTES, BYTES), max_size=1500))
def test_it_is_short_in_order_and_as_high_as_what_was_read(gaps: list[Point]) -> None:
    now, points = 0.0, []
    for gap, *used in gaps:
        now += gap
        points.append((now, *used))
    curve = of(points)
    assert len(curve.points) <= MOST_POINTS
    assert all(before[0] < after[0] for before, after in pairwise(curve.points))
    for value in (1, 2, 3):
        assert max((p[value] for p in curve.points), default=0) == max((p[value] for p in points), default=0)


def test_two_looks_a_second_are_one_point_until_a_night_makes_them_fewer() -> None:
    minute = of([(i / 2, i, i, 0) for i in range(120)])
    assert [point[:2] for point in minute.points[:3]] == [(0.0, 1), (1.0, 3), (2.0, 5)]
    night = of([(i / 2, i, i, 0) for i in range(2 * 8 * 3600)])
    assert MOST_POINTS // 2 < len(night.points) <= MOST_POINTS
    assert night.every_s == 128
