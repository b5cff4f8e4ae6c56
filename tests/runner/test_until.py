from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.errors import UsageError
from runner.jobfile import MAX_WAIT_S
from runner.until import Until, clocks, point, until

# Clocks go forward on the last Sunday of March, 02:00, and back on that of October, 03:00.
BERLIN = "CET-1CEST,M3.5.0,M10.5.0/3"


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Sets the time zone of this process, until the test ends."""

    def choose(name: str) -> None:
        monkeypatch.setenv("TZ", name)
        time.tzset()

    yield choose
    monkeypatch.undo()
    time.tzset()


def utc(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("text", "now", "end"),
    [
        ("07:00", "2026-11-26T22:00", "2026-11-27T06:00"),
        ("7:00", "2026-11-26T22:00", "2026-11-27T06:00"),
        (" 07:00 ", "2026-11-26T05:59", "2026-11-26T06:00"),
        ("07:00", "2026-11-26T06:00", "2026-11-27T06:00"),  # not this very moment
        ("00:00", "2026-11-26T22:30", "2026-11-26T23:00"),
        ("23:59", "2026-12-31T23:30", "2027-01-01T22:59"),
        ("8h", "2026-11-26T22:00", "2026-11-27T06:00"),
        ("7h30m", "2026-11-26T22:00", "2026-11-27T05:30"),
        ("90s", "2026-11-26T22:00", "2026-11-26T22:01:30"),
        ("2026-11-27T07:00", "2026-11-26T22:00", "2026-11-27T06:00"),
        ("2026-11-27 07:00", "2026-11-26T22:00", "2026-11-27T06:00"),
        ("2026-11-27T07:00Z", "2026-11-26T22:00", "2026-11-27T07:00"),
        ("2026-11-27T07:00+05:30", "2026-11-26T22:00", "2026-11-27T01:30"),
        # The night in which clocks go forward has an hour less, the one in which they go back an hour more.
        ("07:00", "2026-03-28T22:00", "2026-03-29T05:00"),
        ("07:00", "2026-10-24T21:00", "2026-10-25T06:00"),
        ("8h", "2026-03-28T22:00", "2026-03-29T06:00"),
        # 02:30 does not come that night, and twice in the other.
        ("02:30", "2026-03-28T22:00", "2026-03-29T01:30"),
        ("02:30", "2026-10-24T22:00", "2026-10-25T00:30"),
        ("02:30", "2026-10-25T00:45", "2026-10-25T01:30"),
        ("02:30", "2026-10-25T01:45", "2026-10-26T01:30"),
    ],
)
def test_what_people_write_is_a_point_of_time(
    zone: Callable[[str], None], text: str, now: str, end: str
) -> None:
    zone(BERLIN)
    assert point(text, utc(now)) == utc(end)


@pytest.mark.parametrize("name", ["UTC0", BERLIN, "IST-5:30", "LHST-10:30LHDT-11,M10.1.0,M4.1.0"])
def test_a_time_of_day_is_the_next_one_that_the_clock_shows(zone: Callable[[str], None], name: str) -> None:
    zone(name)
    for hours in range(0, 366 * 24, 5):
        now = utc("2026-01-01T00:17") + 3600.0 * hours
        end = point("07:00", now)
        assert 0 < end - now <= 25 * 3600
        assert time.strftime("%H:%M:%S", time.localtime(end)) == "07:00:00"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "soon",
        "25:00",
        "07:60",
        "7",
        "90",
        "07",
        "-8h",
        "0h",
        "31d",
        "721h",
        "8h 30m",
        "2026-11-27",
        "20261127",
        "2026-13-27T07:00",
        "2026-11-25T07:00",
        "2027-11-27T07:00",
        "9999-12-31T23:59-23:59",
        "07:00:00",
        "٠٧:٠٠",
        "07:00\n08:00",
    ],
)
def test_what_is_no_point_of_time_to_come_is_one_line_that_says_what_to_write(text: str) -> None:
    with pytest.raises(UsageError, match=r"write a time of day such as 07:00") as caught:
        point(text, utc("2026-11-26T22:00"))
    assert caught.value.exit_code == 2
    (line,) = str(caught.value).splitlines()
    assert line.startswith("--until ")


@given(st.text(max_size=20))
def test_whatever_is_written_is_a_point_within_a_month_or_a_usage_error(text: str) -> None:
    now = utc("2026-11-26T22:00")
    with suppress(UsageError):
        assert now < point(text, now) <= now + MAX_WAIT_S


# ---------------------------------------------------------------- how long it is until then

NIGHT = Until(wall=1000.0, boot=300.0)


@pytest.mark.parametrize(
    ("wall", "boot", "left_s"),
    [
        (900.0, 200.0, 100.0),
        (950.0, 250.0, 50.0),
        (1000.0, 300.0, 0.0),
        (4600.0, 3900.0, -3600.0),  # the machine slept past it, and both clocks know
        (4600.0, 250.0, -3600.0),  # it was paused by its host: only the wall's clock was set right
        (850.0, 250.0, 50.0),  # the clock was put back by 100: that buys no time
        (-8000.0, 299.0, 1.0),
        (970.0, 220.0, 30.0),  # the clock was put forward by 50: its time counts
    ],
)
def test_the_clock_by_which_there_is_less_left_counts(wall: float, boot: float, left_s: float) -> None:
    assert NIGHT.left_s(wall, boot) == left_s


@given(st.lists(st.tuples(st.floats(0, 1e5), st.floats(-1e6, 1e6)), max_size=20))
def test_however_the_clock_is_set_a_night_ends_after_as_many_seconds_at_the_latest(
    changes: list[tuple[float, float]],
) -> None:
    """changes: seconds that pass, and by how much somebody then sets the clock on the wall."""
    wall, boot = 900.0, 200.0
    for passed_s, set_s in changes:
        wall, boot = wall + passed_s + set_s, boot + passed_s
        left_s = NIGHT.left_s(wall, boot)
        assert left_s <= 300.0 - boot
        assert left_s <= 1000.0 - wall


def test_a_point_of_time_holds_on_both_clocks() -> None:
    end = until("8h")
    wall, boot = clocks()
    assert end.left_s(wall, boot) == pytest.approx(8 * 3600, abs=60)
    assert end.wall - wall == pytest.approx(end.boot - boot, abs=60)
