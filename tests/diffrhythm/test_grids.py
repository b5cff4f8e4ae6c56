from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffrhythm import grids
from diffrhythm.errors import RequestError

POSITIONS = st.floats(0, 0.99)
DENSITIES = st.floats(0.5, 200)


def test_n_steps_have_n_plus_one_points() -> None:
    assert grids.uniform(4) == (0.0, 0.25, 0.5, 0.75, 1.0)


def test_no_steps_have_the_noise_alone() -> None:
    assert grids.uniform(0) == (0.0,)


@given(st.integers(0, 1000))
def test_a_uniform_grid_is_whole(steps: int) -> None:
    grids.check(grids.uniform(steps))


@given(st.integers(1, 128), st.floats(-0.999, 1.75))
def test_a_swayed_grid_is_whole(steps: int, s: float) -> None:
    grids.check(grids.sway(grids.uniform(steps), s))


def test_the_strongest_sway_is_one_minus_the_cosine() -> None:
    # 1 - cos(60°), 1 - cos(45°)
    assert grids.sway((2 / 3, 1 / 2), -1) == pytest.approx((0.5, 1 - 0.5**0.5))


@pytest.mark.parametrize("s", [-1.01, 1.76, float("nan")])
def test_a_sway_that_runs_backwards_is_refused(s: float) -> None:
    with pytest.raises(RequestError, match="sway"):
        grids.sway((0.0, 1.0), s)


def test_the_remaining_steps_are_as_many_as_the_density_asks_for() -> None:
    assert grids.remaining(0.5, 8) == pytest.approx((0.625, 0.75, 0.875, 1.0))
    assert len(grids.remaining(0.5, 7)) == 4
    assert grids.remaining(0.0, 31) == pytest.approx(grids.uniform(31)[1:])


def test_rounding_makes_no_extra_step() -> None:
    assert (1 - 0.7) * 10 > 3
    assert len(grids.remaining(0.7, 10)) == 3


@given(POSITIONS, DENSITIES)
def test_what_remains_is_a_tail_in_equal_steps_no_longer_than_asked(t: float, density: float) -> None:
    tail = grids.remaining(t, density)
    grids.check_tail(t, tail)
    steps = [b - a for a, b in pairwise((t, *tail))]
    assert max(steps) - min(steps) < 1e-12
    assert len(tail) == 1 or max(steps) <= 1 / density + 1e-9


@given(POSITIONS, DENSITIES)
def test_half_the_density_needs_about_half_the_steps(t: float, density: float) -> None:
    whole, half = len(grids.remaining(t, density)), len(grids.remaining(t, density / 2))
    assert half in (whole // 2, whole // 2 + 1)


@given(st.floats(0, 1), st.sampled_from([-1.0, -0.5, 0.0, 1.0]))
def test_a_sway_can_be_undone(t: float, s: float) -> None:
    (moved,) = grids.sway((t,), s)
    assert grids.sway((grids.unsway(moved, s),), s)[0] == pytest.approx(moved, abs=1e-12)


@given(st.integers(1, 100), st.data())
def test_what_remains_under_a_sway_is_the_rest_of_the_swayed_grid(steps: int, data: st.DataObject) -> None:
    grid = grids.sway(grids.uniform(steps), -1)
    position = data.draw(st.integers(0, steps - 1))
    assert grids.remaining(grid[position], steps, -1) == pytest.approx(grid[position + 1 :], abs=1e-9)
    assert grids.density(grid, position, -1) == pytest.approx(steps)


@pytest.mark.parametrize(("t", "density"), [(1.0, 8), (-0.1, 8), (0.5, 0), (0.5, float("nan"))])
def test_nothing_remains_of_an_impossible_place_or_density(t: float, density: float) -> None:
    with pytest.raises(RequestError, match="density"):
        grids.remaining(t, density)


@given(POSITIONS, st.integers(1, 64), st.integers(1, 80))
def test_a_thinned_tail_is_a_tail_of_no_more_steps_than_allowed(t: float, length: int, steps: int) -> None:
    tail = grids.remaining(t, length / (1 - t))
    thinned = grids.thin(t, tail, steps)
    grids.check_tail(t, thinned)
    assert len(thinned) == min(steps, len(tail))


def test_an_even_tail_is_thinned_evenly() -> None:
    assert grids.thin(0.5, (0.6, 0.7, 0.8, 0.9, 1.0), 2) == pytest.approx((0.75, 1.0))


def test_a_thinned_tail_keeps_its_bend() -> None:
    swayed = grids.sway(grids.uniform(8), -1)
    assert grids.thin(0.0, swayed[1:], 4) == pytest.approx(grids.sway(grids.uniform(4), -1)[1:])


def test_a_tail_cannot_be_thinned_to_nothing() -> None:
    with pytest.raises(RequestError, match="thinned"):
        grids.thin(0.5, (1.0,), 0)


@given(st.integers(1, 100), st.data())
def test_the_density_of_a_uniform_grid_is_its_number_of_steps(steps: int, data: st.DataObject) -> None:
    position = data.draw(st.integers(0, steps))
    assert grids.density(grids.uniform(steps), position) == pytest.approx(steps)


def test_the_density_is_that_of_what_is_left() -> None:
    assert grids.density((0.0, 0.1, 0.2, 0.6, 1.0), 2) == pytest.approx(2.5)


@pytest.mark.parametrize(
    "time_grid",
    [
        (),
        (0.1, 1.0),
        (0.0, 0.5),
        (0.0, 0.6, 0.5, 1.0),
        (0.0, 0.5, 0.5, 1.0),
        (0.0, 0.5, 0.5 + 1e-9, 1.0),
        (0.0, float("nan"), 1.0),
        (0.0, 0.5, 1.1),
    ],
)
def test_what_is_no_grid_is_refused(time_grid: tuple[float, ...]) -> None:
    with pytest.raises(RequestError, match="time grid"):
        grids.check(time_grid)


def test_behind_the_end_only_nothing_is_a_tail() -> None:
    grids.check_tail(1.0, ())
    with pytest.raises(RequestError):
        grids.check_tail(1.0, (1.0,))
    with pytest.raises(RequestError):
        grids.check_tail(0.5, ())
