"""A phase that the model half tells of is known wherever the runner speaks or decides of phases."""

from __future__ import annotations

from typing import get_args

from diffrhythm.events import PHASES
from runner import messages, verdict, words


def test_every_phase_is_known_by_name_words_and_patience() -> None:
    assert get_args(messages.Phase) == PHASES
    assert set(words.PHASES) == set(PHASES)
    assert set(verdict.PHASE_STALL_S) == set(PHASES)
