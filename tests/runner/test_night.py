from __future__ import annotations

from dataclasses import replace
from itertools import combinations, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.forecast import Forecast
from runner.night import ROUNDING_S, WORTH_STEPS, Plan, Song, least_steps, plan
from runner.verdict import MIN_DENSITY


def song(
    id: str, seconds: float = 0.0, *, steps: int = 10, around_s: float = 0.0, whole: bool = False, **of: bool
) -> Song:
    """Of so many seconds at all its steps. whole: it may not be thinned."""
    forecast = Forecast(step_s=(seconds - around_s) / steps, around_s=around_s)
    return Song(id, forecast, steps, least_steps(steps, may_thin=not whole), asked=steps, **of)


def told(made: Plan) -> list[tuple[str, float, float, int]]:
    """name, start, end and steps of those that land."""
    return [(p.song.id, p.start_s, p.end_s, p.steps) for p in made.places if p.lands]


def names(made: Plan) -> tuple[str, str, str]:
    """Which land, which are only begun, which are left."""
    begun = [place.song.id for place in made.places if not place.lands]
    return "".join(row[0] for row in told(made)), "".join(begun), "".join(s.id for s in made.left)


# ---------------------------------------------------------------- tables


@pytest.mark.parametrize(("steps", "least"), [(1, 1), (4, 4), (7, 4), (8, 4), (12, 6), (13, 7), (64, 32)])
def test_a_night_takes_at_most_half_of_the_steps_and_never_goes_below_the_floor(
    steps: int, least: int
) -> None:
    assert least_steps(steps, may_thin=True) == least
    assert least_steps(steps, may_thin=False) == steps


def test_without_an_end_all_are_made_in_the_order_of_their_files() -> None:
    made = plan([song("a", 30), song("b", 10), song("c", 20)], [0.0], None)
    assert told(made) == [("a", 0, 30, 10), ("b", 30, 40, 10), ("c", 40, 60, 10)]
    assert (made.left, made.spare_s) == ((), None)


def test_without_an_end_each_begins_where_a_place_becomes_free_first() -> None:
    made = plan([song("a", 30), song("b", 10), song("c", 20)], [0.0, 5.0], None)
    assert told(made) == [("a", 0, 30, 10), ("b", 5, 15, 10), ("c", 15, 35, 10)]


def test_the_shortest_come_first_where_there_is_an_end() -> None:
    assert names(plan([song("a", 30), song("b", 10), song("c", 20)], [0.0], 60)) == ("bca", "", "")


def test_what_goes_on_comes_before_what_begins_and_equal_ones_as_in_their_files() -> None:
    songs = [song("a", 10), song("b", 10), song("c", 30, begun=True), song("d", 10)]
    assert names(plan(songs, [0.0], 60)) == ("cabd", "", "")


def test_nobody_is_thinned_where_all_fit() -> None:
    made = plan([song("a", 30), song("b", 30)], [0.0], 60)
    assert [steps for *_, steps in told(made)] == [10, 10]


def test_one_is_thinned_no_more_than_lets_all_end_in_time_and_comes_last() -> None:
    made = plan([song("a", 30), song("b", 20), song("c", 10)], [0.0], 54)
    assert told(made) == [("c", 0, 10, 10), ("b", 10, 30, 10), ("a", 30, 54, 8)]


def test_the_thinned_come_last_though_they_take_less_time() -> None:
    made = plan([song("a", 30), song("b", 29, whole=True)], [0.0], 50)
    assert told(made) == [("b", 0, 29, 10), ("a", 29, 50, 7)]


def test_the_longest_time_left_over_on_any_place_is_told() -> None:
    made = plan([song("a", 30), song("b", 100, whole=True, keeps=False)], [0.0, 20.0], 50)
    assert (names(made), made.spare_s) == (("a", "", "b"), 30)


def test_the_thinned_share_their_loss() -> None:
    made = plan([song("a", 30), song("b", 30), song("c", 10)], [0.0], 48)
    assert told(made) == [("c", 0, 10, 10), ("a", 10, 28, 6), ("b", 28, 46, 6)]


def test_nobody_is_thinned_where_that_lets_no_more_songs_end() -> None:
    made = plan([song("a", 30), song("b", 100)], [0.0], 50)
    assert told(made) == [("a", 0, 30, 10)]


def test_who_may_not_be_thinned_is_not() -> None:
    assert names(plan([song("a", 30, whole=True)], [0.0], 29)) == ("", "a", "")
    assert told(plan([song("a", 30)], [0.0], 29)) == [("a", 0, 27, 9)]


def test_in_time_left_over_the_song_nearest_its_end_is_begun() -> None:
    songs = [song("a", 10), song("b", 100), song("c", 60), song("d", 90, begun=True)]
    made = plan(songs, [0.0], 30)
    assert names(made) == ("a", "d", "bc")
    begun = made.places[-1]
    assert (begun.start_s, begun.end_s, begun.steps, begun.lands) == (10, 30, 10, False)
    assert made.spare_s == 20


@pytest.mark.parametrize(
    ("changes", "left_s"),
    [({"keeps": False}, 25.0), ({}, 15.0 + WORTH_STEPS * 4.0 - 0.1)],
)
def test_a_song_is_not_begun_in_vain(changes: dict[str, bool], left_s: float) -> None:
    """Without a checkpoint that is kept, or no time for two steps."""
    assert names(plan([song("a", 55, around_s=15, **changes)], [0.0], left_s)) == ("", "", "a")


def test_several_at_once_are_packed_where_shortest_first_would_lose_one() -> None:
    songs = [song(str(seconds), seconds, whole=True) for seconds in (3, 4, 6, 7)]
    assert len(told(plan(songs, [0.0, 0.0], 10))) == 4


def test_a_place_that_becomes_free_late_takes_what_fits_then() -> None:
    made = plan([song("a", 30), song("b", 10)], [0.0, 45.0], 55)
    assert {(p.song.id, p.lane) for p in made.places} == {("a", 0), ("b", 0)}
    assert names(plan([song("a", 50), song("b", 10)], [0.0, 45.0], 55)) == ("ab", "", "")


def test_when_time_is_over_nothing_is_begun() -> None:
    assert names(plan([song("a", 10)], [0.0], 0.0)) == ("", "", "a")
    assert names(plan([song("a", 10)], [0.0], -5.0)) == ("", "", "a")


def test_what_takes_no_time_that_anybody_knows_of_lands() -> None:
    assert names(plan([song("a", 0.0)], [0.0], 1.0)) == ("a", "", "")


# ---------------------------------------------------------------- laws

SONGS = st.lists(
    st.builds(
        lambda step_s, around_s, steps, may_thin, begun, keeps: Song(
            "",
            Forecast(step_s, around_s),
            steps,
            least_steps(steps, may_thin=may_thin),
            asked=steps,
            begun=begun,
            keeps=keeps,
        ),
        st.integers(0, 8),
        st.integers(0, 10),
        st.integers(1, 14),
        st.booleans(),
        st.booleans(),
        st.booleans(),
    ),
    max_size=6,
).map(lambda songs: [replace(each, id=str(n)) for n, each in enumerate(songs)])
LANES = st.lists(st.integers(0, 60).map(float), min_size=1, max_size=3)
ENDS = st.integers(-5, 250).map(float)
laws = settings(max_examples=300, derandomize=True, database=None, deadline=None)


def whole_s(each: Song) -> float:
    return each.forecast.seconds(each.steps)


def least_s(each: Song) -> float:
    return each.forecast.seconds(each.least)


def in_order(seconds: list[float], free_at: list[float], end_s: float) -> int:
    """How many end in time if each begins where a place is free first, and those that do not fit are left."""
    free, count = list(free_at), 0
    for each in seconds:
        lane = free.index(min(free))
        if free[lane] + each <= end_s + ROUNDING_S:
            free[lane] += each
            count += 1
    return count


@given(SONGS, LANES, ENDS)
@laws
def test_no_plan_lasts_longer_than_the_night(songs: list[Song], free_at: list[float], end_s: float) -> None:
    made = plan(songs, free_at, end_s)
    assert sorted(s.id for s in (*(p.song for p in made.places), *made.left)) == [s.id for s in songs]
    ends = list(free_at)
    for place in made.places:
        assert place.start_s == pytest.approx(ends[place.lane])
        assert place.song.least <= place.steps <= place.song.steps
        assert place.end_s <= end_s + ROUNDING_S
        if place.lands:
            assert place.end_s - place.start_s == pytest.approx(place.song.forecast.seconds(place.steps))
        else:
            assert place.song.keeps
            assert place.steps == place.song.steps
        ends[place.lane] = place.end_s


@given(SONGS, LANES, ENDS)
@laws
def test_only_the_last_of_a_place_is_begun_without_landing(
    songs: list[Song], free_at: list[float], end_s: float
) -> None:
    made = plan(songs, free_at, end_s)
    for lane in range(len(free_at)):
        lands = [place.lands for place in made.places if place.lane == lane]
        assert all(lands[:-1])


@given(SONGS, st.integers(0, 60).map(float), ENDS)
@laws
def test_one_after_the_other_as_many_land_as_can_at_all(songs: list[Song], free: float, end_s: float) -> None:
    """By trying every choice of them; so never fewer than in the order of their files."""
    landed = len(told(plan(songs, [free], end_s)))
    most = max(
        len(few)
        for count in range(len(songs) + 1)
        for few in combinations(songs, count)
        if not few or free + sum(map(least_s, few)) <= end_s + ROUNDING_S
    )
    assert landed == most
    assert landed >= in_order([whole_s(each) for each in songs], [free], end_s)


@given(SONGS, LANES, ENDS)
@laws
def test_side_by_side_never_fewer_land_than_shortest_first(
    songs: list[Song], free_at: list[float], end_s: float
) -> None:
    landed = len(told(plan(songs, free_at, end_s)))
    assert landed >= in_order(sorted(map(least_s, songs)), free_at, end_s)
    assert landed >= in_order(sorted(map(whole_s, songs)), free_at, end_s)


@given(SONGS, LANES, ENDS)
@laws
def test_nobody_is_thinned_unless_that_lets_more_land(
    songs: list[Song], free_at: list[float], end_s: float
) -> None:
    made = plan(songs, free_at, end_s)
    if any(place.is_thinned for place in made.places):
        whole = [replace(each, least=each.steps) for each in songs]
        assert len(told(made)) > len(told(plan(whole, free_at, end_s)))


@given(SONGS, ENDS, st.integers(0, 50))
@laws
def test_more_time_never_means_fewer_songs(songs: list[Song], end_s: float, more_s: int) -> None:
    assert len(told(plan(songs, [0.0], end_s + more_s))) >= len(told(plan(songs, [0.0], end_s)))


@given(SONGS, ENDS)
@laws
def test_as_few_are_thinned_as_any_choice_would(songs: list[Song], end_s: float) -> None:
    """One after the other, by trying all."""
    made = plan(songs, [0.0], end_s)
    landed, thinned = len(told(made)), sum(place.is_thinned for place in made.places)
    best = min(
        sum(thin)
        for few in combinations(songs, landed)
        for thin in product((False, True), repeat=landed)
        if not few or sum(least_s(s) if t else whole_s(s) for s, t in zip(few, thin, strict=True)) <= end_s
    )
    assert thinned == best


@given(SONGS, LANES, ENDS)
@laws
def test_the_same_songs_make_the_same_plan(songs: list[Song], free_at: list[float], end_s: float) -> None:
    assert plan(songs, free_at, end_s) == plan(list(songs), tuple(free_at), end_s)


def test_a_thousand_songs_are_planned_at_once() -> None:
    """As at every turn of a long night; it would take minutes if all choices were tried."""
    songs = [song(str(n), 10.0 + n % 7, steps=12) for n in range(1000)]
    made = plan(songs, [0.0, 0.0], 3000.0)
    assert len(told(made)) > 500
    assert min(place.steps for place in made.places) >= MIN_DENSITY
