from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.foresight import (
    DOUBT,
    RESERVE_S,
    Decoder,
    Shown,
    decode_s,
    decoder_of_nearest,
    decoder_shown,
    decoding_s,
    much_slower,
    pace,
    sampling_s,
    steps_that_fit,
)
from runner.verdict import MIN_DENSITY


@pytest.mark.parametrize(
    ("sample_s", "left_s", "remaining", "t", "kept"),
    [
        (90.0, 90.0, 90, 0.0, None),
        (91.0, 90.0, 91, 0.0, 90),
        (60.0, 40.0, 60, 0.25, 40),
        (160.0, 90.0, 64, 0.0, 36),
        # Time is over, or will never do: the floor, four steps over the whole way.
        (32.0, -5.0, 32, 0.0, MIN_DENSITY),
        (32.0, -400.0, 32, 0.5, 2),
        (32000.0, 90.0, 32, 0.25, 3),
        (32000.0, 90.0, 32, 0.97, 1),
        # Nothing can be saved of what is at the floor already.
        (4000.0, 90.0, 4, 0.0, None),
        (1000.0, 90.0, 1, 0.9, None),
        (0.0, -1.0, 0, 1.0, None),
        # Steps too short to be measured.
        (0.0, 90.0, 1000, 0.0, None),
    ],
)
def test_the_steps_that_fit(
    sample_s: float, left_s: float, remaining: int, t: float, kept: int | None
) -> None:
    assert steps_that_fit(sample_s=sample_s, left_s=left_s, remaining=remaining, t=t) == kept


@given(
    step_s=st.floats(0, 1e4), left_s=st.floats(-1e5, 1e5), remaining=st.integers(0, 1000), t=st.floats(0, 1)
)
def test_laws_of_foresight(step_s: float, left_s: float, remaining: int, t: float) -> None:
    """Only fewer steps, never below the floor, all that fit, none above the floor that do not."""
    kept = steps_that_fit(sample_s=remaining * step_s, left_s=left_s, remaining=remaining, t=t)
    floor = max(1, math.ceil((1 - t) * MIN_DENSITY - 1e-9))
    if kept is None:
        assert remaining <= floor or step_s == 0 or remaining * step_s <= left_s * (1 + 1e-9)
        return
    assert floor <= kept < remaining
    assert kept == floor or kept * step_s <= left_s * (1 + 1e-9)
    assert (kept + 1) * step_s > left_s * (1 - 1e-9)


def test_decoding_and_writing_are_kept_free_with_a_doubt() -> None:
    assert sampling_s(100.0, 40.0) == pytest.approx(100 - 40 * (1 + DOUBT))


def test_the_last_seconds_are_kept_free_where_decoding_takes_less() -> None:
    assert sampling_s(100.0, 0.1) == 100 - RESERVE_S
    assert sampling_s(1.0, 0.1) == 0.5


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ([3.0], 3.0),
        ([9.0, 2.0], 2.0),  # warming up
        ([2.0, 9.0], 2.0),  # held up
        ([9.0, 2.0, 2.1], 2.1),
        ([9.0, 2.0, 2.0, 2.0, 30.0, 2.0], 2.0),
        ([2.0] * 9 + [5.0] * 5, 5.0),  # slower from here on
    ],
)
def test_the_pace_is_that_of_the_newest_without_the_odd_one(seconds: list[float], expected: float) -> None:
    assert pace(seconds) == expected


def test_a_song_like_the_one_before_is_foreseen_exactly() -> None:
    chunks = [5.0, 2.0, 2.1, 2.0]  # the first opened the decoder
    shown = decoder_shown(chunks, decoded_s=12.0, pass_s=13.4, pass_flops=5e12, decode_flops=14e12)
    assert shown is not None
    assert shown.around_s == pytest.approx(12 - 4 * 2)
    again = decode_s(shown, pass_s=13.4, pass_flops=5e12, decode_flops=14e12)
    assert again == pytest.approx(12.0)
    # The machine is half as fast now, and the song twice as long.
    longer = decode_s(shown, pass_s=26.8, pass_flops=5e12, decode_flops=28e12)
    assert longer == pytest.approx(4 * 8 + 4)


@pytest.mark.parametrize(("chunks", "pass_s"), [([], 1.0), ([1.0], 0.0), ([0.0, 0.0], 1.0)])
def test_what_took_no_time_shows_nothing(chunks: list[float], pass_s: float) -> None:
    assert decoder_shown(chunks, decoded_s=9.0, pass_s=pass_s, pass_flops=1, decode_flops=1) is None


SONGS = [
    Shown("demo", "fp32", 10.0, Decoder(0.1, 0)),
    Shown("demo", "fp32", 40.0, Decoder(0.2, 0)),
    Shown("demo", "bf16", 20.0, Decoder(0.3, 0)),
    Shown("full", "fp32", 20.0, Decoder(0.4, 0)),
    Shown("demo", "fp32", 40.0, Decoder(0.5, 0)),
]


@pytest.mark.parametrize(
    ("precision", "duration", "speed"), [("fp32", 12.0, 0.1), ("fp32", 30.0, 0.5), ("bf16", 95.0, 0.3)]
)
def test_the_decoder_is_that_of_the_nearest_duration_and_of_several_the_newest(
    precision: str, duration: float, speed: float
) -> None:
    found = decoder_of_nearest(SONGS, model_hash="demo", precision=precision, duration=duration)
    assert found == Decoder(speed, 0)


def test_another_model_or_arithmetic_shows_nothing() -> None:
    assert decoder_of_nearest(SONGS, model_hash="demo", precision="int8", duration=20.0) is None
    assert decoder_of_nearest(SONGS, model_hash="other", precision="fp32", duration=20.0) is None
    assert decoder_of_nearest([], model_hash="demo", precision="fp32", duration=20.0) is None


@pytest.mark.parametrize(
    ("chunks", "left", "foreseen_s", "expected"),
    [
        ([8.0], 3, 12.0, 9.0),  # the first opened the decoder
        ([8.0], 3, None, 24.0),
        ([8.0, 2.0], 2, 12.0, 4.0),
        ([8.0, 2.0, 2.5], 1, 12.0, 2.5),
        ([8.0], 0, 12.0, 0.0),
    ],
)
def test_what_is_left_of_decoding(
    chunks: list[float], left: int, foreseen_s: float | None, expected: float
) -> None:
    assert decoding_s(chunks, left, foreseen_s) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("pass_s", "expected_s", "slower"),
    [
        ([10.0, 10.0], 4.0, 2.5),
        ([10.0, 10.0], 5.0, 2.0),
        ([10.0, 10.0], 5.1, None),
        ([30.0, 4.0], 4.0, None),  # the first step warms up
        ([30.0], 4.0, None),
        ([10.0, 10.0], None, None),
        ([10.0, 10.0], 0.0, None),
    ],
)
def test_a_pace_of_twice_the_profile_s_puts_it_in_doubt(
    pass_s: list[float], expected_s: float | None, slower: float | None
) -> None:
    assert much_slower(pass_s, expected_s) == slower
