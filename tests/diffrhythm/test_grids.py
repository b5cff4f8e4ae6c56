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


@given(st.integers(1, 100), st.data())
def test_what_is_left_at_a_point_is_the_share_of_the_steps_behind_it(steps: int, data: st.DataObject) -> None:
    position = data.draw(st.integers(0, steps))
    for grid in (grids.uniform(steps), grids.sway(grids.uniform(steps), -1)):
        assert grids.left(grid, grid[position]) == pytest.approx(1 - position / steps)


def test_what_is_left_within_a_step_is_a_part_of_it() -> None:
    assert grids.left((0.0, 0.1, 0.5, 1.0), 0.2) == pytest.approx(1 - 1.25 / 3)
    assert grids.left((0.0,), 0.0) == 0


@given(POSITIONS, st.integers(1, 64), st.integers(1, 80))
def test_a_thinned_tail_is_a_tail_of_no_more_steps_than_allowed(t: float, length: int, steps: int) -> None:
    tail = (*(t + (1 - t) * i / length for i in range(1, length)), 1.0)
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
