"""Where things lie in the report's pictures."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner import charts
from runner.charts import Axis, Made

AXIS = Axis(1000.0, 1100.0)
PHASES = {"lyrics": 1.0, "load": 4.0, "sample": 60.0, "decode": 18.0, "write": 2.0}


def made(**changes: Any) -> Made:
    values: dict[str, Any] = {
        "number": 1,
        "began": 1000.0,
        "ended": 1100.0,
        "cause": None,
        "sampled": None,
        "phases": PHASES,
        "memory": (),
    }
    return Made(**values | changes)


def test_an_attempt_that_made_its_song_was_prepared_sampled_and_decoded() -> None:
    parts = charts.segments(made(), AXIS)
    assert [(part.kind, part.left, part.width) for part in parts] == [
        ("prepare", 0.0, 20.0),
        ("sample", 20.0, 60.0),
        ("decode", 80.0, 20.0),
    ]


@pytest.mark.parametrize(
    ("sampled", "expected"),
    [
        (None, [("lost", 0.0, 100.0)]),
        ((1010.0, 1060.0), [("prepare", 0.0, 10.0), ("sample", 10.0, 50.0), ("lost", 60.0, 40.0)]),
        ((900.0, 9000.0), [("sample", 0.0, 100.0)]),
        ((9000.0, 900.0), [("prepare", 0.0, 100.0)]),
    ],
)
def test_one_that_made_none_shows_how_far_it_came(
    sampled: tuple[float, float] | None, expected: list[tuple[str, float, float]]
) -> None:
    parts = charts.segments(made(cause="stalled", sampled=sampled), AXIS)
    assert [(part.kind, part.left, part.width) for part in parts] == expected


numbers = st.floats(-1e9, 1e9)


@given(numbers, numbers, st.none() | st.tuples(numbers, numbers), numbers, st.none() | st.just("crash"))
def test_whatever_the_files_say_every_stretch_lies_on_the_axis(
    began: float, ended: float, sampled: tuple[float, float] | None, took: float, cause: str | None
) -> None:
    attempt = made(began=began, ended=ended, sampled=sampled, phases={"sample": took}, cause=cause)
    for part in charts.segments(attempt, AXIS):
        assert 0 <= part.left <= part.left + part.width <= 100.01
        assert part.width > 0


@given(st.floats(-1e6, 4e9), st.floats(1, 300 * 86_400))
def test_a_time_axis_has_few_ticks_at_round_times(began: float, length: float) -> None:
    axis = Axis(began, began + length)
    ticks = axis.ticks()
    assert len(ticks) <= 6
    assert all(0 <= at <= 100 for at, _ in ticks)
    assert [at for at, _ in ticks] == sorted(at for at, _ in ticks)


def test_an_hour_is_ticked_every_quarter() -> None:
    noon = time.mktime((2026, 11, 26, 12, 0, 0, 0, 0, -1))
    assert Axis(noon - 60, noon + 3540).ticks() == [
        (1.67, "12:00"),
        (26.67, "12:15"),
        (51.67, "12:30"),
        (76.67, "12:45"),
    ]
    assert Axis(noon, noon).ticks() == Axis(0.0, 1e15).ticks() == []


def test_memory_of_songs_side_by_side_is_added_up() -> None:
    one = made(memory=((0.0, 100, 0, 0), (50.0, 300, 0, 40)))
    two = made(began=1050.0, memory=((0.0, 200, 0, 0),))
    together = charts.memory([one, two], AXIS)
    assert together is not None
    assert (together.private_bytes, together.swap_bytes) == (500, 40)
    assert together.private == f"M0 100V80H{0.5 * charts.WIDE:g}V0H1000V100Z"
    assert charts.memory([made()], AXIS) is None


def test_an_outline_is_as_many_bars_and_never_nothing() -> None:
    assert charts.bars([0, 50, 100]) == "M1 49V51M3 26V74M5 2V98"
    assert charts.bars([0, 0]) == "M1 49V51M3 49V51"


def reading(at: float, **changes: Any) -> dict[str, Any]:
    return {"at": at, "cpu_s": at / 2, "anon": 2 * 10**9, "swap": 0, "major_faults": 0} | changes


def test_readings_behind_a_kill_become_curves_of_what_they_tell() -> None:
    found = charts.sparks([reading(float(i), major_faults=90 * i, swap=10**9) for i in range(10)])
    assert [(spark.name, spark.words) for spark in found] == [
        ("processor", "0.5 cores at the end, over 9 s"),
        ("memory", "3.0 GB at the end, over 9 s"),
        ("swap", "1.0 GB at the end"),
        ("read back from disk", "90 pages a second at the end"),
    ]
    assert all(re.fullmatch(r"M[\d.]+ [\d.]+(L[\d.]+ [\d.]+)+", spark.line) for spark in found)
    assert [spark.name for spark in charts.sparks([reading(float(i)) for i in range(3)])] == [
        "processor",
        "memory",
    ]


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(["at", "cpu_s", "anon", "swap", "major_faults"]),
            st.none() | st.floats() | st.sampled_from([True, "9", -1, 10**400, [1]]),
        ),
        max_size=8,
    )
)
def test_whatever_stands_where_readings_should_be_does_no_harm(evidence: list[dict[str, Any]]) -> None:
    for spark in charts.sparks(evidence):
        assert re.fullmatch(r"M[-\d. L]+", spark.line)
