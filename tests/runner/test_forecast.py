from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner import forecast as of
from runner.forecast import Forecast, forecast
from runner.foresight import WRITE_S, Decoder, Shown
from runner.messages import SongAnswer

# A pass takes a second on one thread; decoding as much as four of them.
ANSWER = SongAnswer(
    "night/rain",
    [],
    [],
    duration=100.0,
    precision="bf16",
    model_hash="m",
    passes=2,
    pass_flops=1000,
    decode_flops=4000,
    pass_s=1.0,
    threads=1,
    decoder_speed=1.0,
    decoder_around_s=3.0,
)
SHOWN = Shown("m", "bf16", 100.0, Decoder(2.0, 5.0), threads=1, flop_s=500.0, around_s=20.0)


def foreseen(*songs: Shown, threads: int = 1, threads_: int = 1, **changes: Any) -> Forecast:
    """threads_: of the machine's profile."""
    changes["threads"] = threads_
    return forecast(replace(ANSWER, **changes), songs, precision="bf16", threads=threads)


def test_without_a_song_made_here_the_profile_of_the_machine_tells() -> None:
    made = foreseen()
    assert (made.step_s, made.by, made.margin) == (2.0, 0, of.PROFILE_MARGIN)
    assert made.around_s == pytest.approx(of.AROUND_S + 4.0 + 3.0 + 100 * WRITE_S)
    assert made.seconds(12) == pytest.approx(made.around_s + 24.0)


@pytest.mark.parametrize(("threads", "step_s"), [(1, 8.0), (2, 4.0), (4, 2.0), (64, 2.0)])
def test_fewer_threads_than_the_profile_s_take_longer_and_more_do_not_help(
    threads: int, step_s: float
) -> None:
    assert foreseen(threads=threads, pass_s=1.0, threads_=4).step_s == step_s


def test_a_song_that_was_made_tells_of_passes_decoder_and_all_around() -> None:
    made = foreseen(SHOWN)
    assert (made.step_s, made.by, made.margin) == (4.0, 1, of.FEW_MARGIN)
    assert made.around_s == pytest.approx(20.0 + 2 * 4 / 2 + 5.0 + 100 * WRITE_S)


def test_work_is_scaled_to_the_song_and_its_windows() -> None:
    """Half as much in a pass, and three windows."""
    made = foreseen(SHOWN, pass_flops=500, passes=6)
    assert made.step_s == pytest.approx(6 * 1.0)


@pytest.mark.parametrize("changes", [{"model_hash": "another"}, {"precision": "int8"}, {"flop_s": None}])
def test_what_another_model_or_arithmetic_shows_is_nothing_to_this_one(changes: dict[str, Any]) -> None:
    assert foreseen(replace(SHOWN, **changes)).by == 0


def test_songs_on_as_many_threads_count_and_others_only_where_there_are_none() -> None:
    two = replace(SHOWN, threads=2, flop_s=600.0)
    assert foreseen(SHOWN, two, threads=2).step_s == pytest.approx(2 * 1000 / 600)
    assert foreseen(two, threads=1).step_s == pytest.approx(2 * 1000 / 300)


def test_of_many_songs_the_middle_of_the_nearest_and_then_the_newest_counts() -> None:
    far = [replace(SHOWN, duration=10.0, flop_s=1.0)] * 20
    older = [replace(SHOWN, flop_s=2.0)] * 20
    newest = [replace(SHOWN, flop_s=flop_s) for flop_s in (90.0, 100.0, 110.0, 5000.0, 100.0)]
    made = foreseen(*far, *older, *newest)
    assert (made.by, made.step_s) == (of.TOLD_BY, pytest.approx(20.0))


def test_the_margin_is_as_wide_as_the_songs_differ() -> None:
    made = foreseen(SHOWN, replace(SHOWN, flop_s=1000.0))
    assert made.margin == pytest.approx(0.5)
    assert foreseen(*[SHOWN] * of.FEW).margin == of.MEASURED_MARGIN


def test_what_a_song_that_goes_on_has_made_is_not_made_again() -> None:
    made = forecast(ANSWER, [], precision="bf16", threads=1, left=0.25)
    assert made.seconds(12) == pytest.approx(made.around_s + 3 * 2.0)
    assert made.seconds(13) == pytest.approx(made.around_s + 4 * 2.0)


@pytest.mark.parametrize(
    ("limit_s", "steps"), [(1000.0, 12), (34.0, 12), (33.9, 11), (20.0, 5), (15.0, 4), (0.0, 4)]
)
def test_the_most_steps_within_a_limit(limit_s: float, steps: int) -> None:
    assert Forecast(2.0, 10.0).steps_within(limit_s, most=12, least=4) == steps


def test_a_song_of_fewer_steps_than_the_floor_keeps_them() -> None:
    assert Forecast(2.0, 10.0).steps_within(0.0, most=2, least=4) == 2


def test_an_answer_without_a_profile_foresees_next_to_nothing_and_is_unsure() -> None:
    made = forecast(SongAnswer("a", [], [], duration=10.0), [], precision="fp32", threads=1)
    assert (made.step_s, made.margin) == (0.0, of.UNKNOWN_MARGIN)


WILD = st.one_of(st.none(), st.floats(1e-300, 1e300))


@given(
    st.lists(st.builds(replace, st.just(SHOWN), flop_s=WILD, around_s=WILD, threads=st.integers(0, 10**9))),
    st.integers(1, 1000),
    st.floats(0, 1),
)
def test_whatever_manifests_say_a_forecast_is_made_and_more_steps_never_take_less(
    songs: list[Shown], threads: int, left: float
) -> None:
    made = forecast(ANSWER, songs, precision="bf16", threads=threads, left=left)
    assert made.seconds(4) <= made.seconds(12)
    assert made.margin >= of.MEASURED_MARGIN
    assert not math.isnan(made.around_s)
