"""Windows over the frames of a long song."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffrhythm.errors import RequestError
from diffrhythm.windows import Window, cover


def test_a_song_that_fits_is_one_window_of_its_own_length() -> None:
    assert cover(100, window=100, overlap=20) == (Window(0, 100),)
    assert cover(1, window=100, overlap=20) == (Window(0, 1),)


def test_windows_that_fit_exactly_overlap_by_no_more_than_asked() -> None:
    assert cover(260, window=100, overlap=20) == (Window(0, 100), Window(80, 180, 20), Window(160, 260, 20))


def test_what_is_left_over_is_spread_over_the_overlaps() -> None:
    assert cover(200, window=100, overlap=20) == (Window(0, 100), Window(50, 150, 50), Window(100, 200, 50))


def test_windows_that_begin_on_a_step_may_reach_behind_the_song() -> None:
    made = cover(250, window=100, overlap=20, step=36)
    assert [(window.start, window.end, window.known) for window in made] == [
        (0, 100, 0), (72, 172, 28), (108, 208, 64), (180, 280, 28)
    ]  # fmt: skip


@given(
    frames=st.integers(1, 5000),
    window=st.integers(2, 3000),
    share=st.floats(0, 0.9),
    step_share=st.floats(0, 1),
)
def test_laws_of_windows(frames: int, window: int, share: float, step_share: float) -> None:
    """They cover the song in order, each knows all that it shares, and no fewer would do."""
    overlap = max(1, min(window - 1, round(share * window)))
    step = max(1, round(step_share * (window - overlap)))
    made = cover(frames, window=window, overlap=overlap, step=step)
    assert (made[0].start, made[0].known) == (0, 0)
    assert frames <= made[-1].end < frames + step
    assert all(each.start % step == 0 for each in made)
    assert all(each.end - each.start == min(window, frames) for each in made)
    for here, there in pairwise(made):
        assert here.end - there.start == there.known >= overlap
        assert there.end > here.end
    hop = (window - overlap) // step * step
    assert len(made) == 1 or window + (len(made) - 2) * hop < frames


@pytest.mark.parametrize(("frames", "window", "overlap"), [(0, 10, 2), (100, 10, 10), (100, 10, 0)])
def test_windows_that_cannot_be_are_refused(frames: int, window: int, overlap: int) -> None:
    with pytest.raises(RequestError, match="window"):
        cover(frames, window=window, overlap=overlap)
