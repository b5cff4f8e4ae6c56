from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.foresight import sampling_s, steps_that_fit
from runner.verdict import MIN_DENSITY


@pytest.mark.parametrize(
    ("step_s", "elapsed_s", "timeout_s", "remaining", "t", "kept"),
    [
        # 90 s of 100 s are for steps, the rest for the decoder.
        (1.0, 0.0, 100.0, 90, 0.0, None),
        (1.0, 0.0, 100.0, 91, 0.0, 90),
        (1.0, 50.0, 100.0, 60, 0.25, 40),
        (2.5, 0.0, 100.0, 64, 0.0, 36),
        # Time is over, or will never do: the floor, four steps over the whole way.
        (1.0, 95.0, 100.0, 32, 0.0, MIN_DENSITY),
        (1.0, 500.0, 100.0, 32, 0.5, 2),
        (1000.0, 0.0, 100.0, 32, 0.25, 3),
        (1000.0, 0.0, 100.0, 32, 0.97, 1),
        # Nothing can be saved of what is at the floor already.
        (1000.0, 0.0, 100.0, 4, 0.0, None),
        (1000.0, 0.0, 100.0, 1, 0.9, None),
        (1000.0, 0.0, 100.0, 0, 1.0, None),
        # A step too short to be measured.
        (0.0, 0.0, 100.0, 1000, 0.0, None),
    ],
)
def test_the_steps_that_fit(
    step_s: float, elapsed_s: float, timeout_s: float, remaining: int, t: float, kept: int | None
) -> None:
    fitting = steps_that_fit(
        step_s=step_s, elapsed_s=elapsed_s, timeout_s=timeout_s, remaining=remaining, t=t
    )
    assert fitting == kept


@given(
    step_s=st.floats(0, 1e4),
    elapsed_s=st.floats(0, 1e5),
    timeout_s=st.floats(0.001, 1e5),
    remaining=st.integers(0, 1000),
    t=st.floats(0, 1),
)
def test_laws_of_foresight(
    step_s: float, elapsed_s: float, timeout_s: float, remaining: int, t: float
) -> None:
    """Only fewer steps, never below the floor, all that fit, none above the floor that do not."""
    kept = steps_that_fit(step_s=step_s, elapsed_s=elapsed_s, timeout_s=timeout_s, remaining=remaining, t=t)
    floor = max(1, math.ceil((1 - t) * MIN_DENSITY - 1e-9))
    left_s = sampling_s(timeout_s) - elapsed_s
    if kept is None:
        assert remaining <= floor or step_s == 0 or remaining * step_s <= left_s * (1 + 1e-9)
        return
    assert floor <= kept < remaining
    assert kept == floor or kept * step_s <= left_s * (1 + 1e-9)
    assert (kept + 1) * step_s > left_s * (1 - 1e-9)
