"""The choice among arithmetics that were measured."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffrhythm.arithmetic import (
    ERROR_BUDGET,
    PUBLISHED,
    TIE,
    Candidate,
    Choice,
    choose,
    reason,
    within_memory,
)
from diffrhythm.precision import ARITHMETICS, PRECISION_OF, Arithmetic

SECONDS = st.floats(0.01, 1000, allow_nan=False)
ERRORS = st.none() | st.floats(0, 1)
OTHERS = tuple(name for name in ARITHMETICS if name != PUBLISHED)

# Two cores of Ice Lake with AVX-512 and VNNI: bf16 would be emulated.
EMULATED = [
    Candidate(PUBLISHED, 19.8, 0.0),
    Candidate("fp32", 19.8, 1e-6),
    Candidate("bf16", 170.5, 0.003),
    Candidate("int8", 9.8, 0.014),
]


@st.composite
def candidates(draw: st.DrawFn) -> list[Candidate]:
    """The published way and some others, in any order."""
    names = draw(st.lists(st.sampled_from(OTHERS), unique=True))
    others = [Candidate(name, draw(SECONDS), draw(ERRORS)) for name in names]
    return draw(st.permutations([Candidate(PUBLISHED, draw(SECONDS), 0.0), *others]))


@given(candidates())
def test_auto_is_never_slower_than_the_published_way(found: list[Candidate]) -> None:
    published = next(each for each in found if each.name == PUBLISHED)
    assert choose(found).seconds <= published.seconds


@given(candidates())
def test_auto_is_within_the_error_budget(found: list[Candidate]) -> None:
    error = choose(found).error
    assert error is not None
    assert error <= ERROR_BUDGET


@given(candidates())
def test_nothing_within_the_budget_is_faster_than_auto_by_more_than_a_tie(found: list[Candidate]) -> None:
    chosen = choose(found)
    fitting = [each for each in found if each.error is not None and each.error <= ERROR_BUDGET]
    assert all(chosen.seconds <= (1 + TIE) * each.seconds for each in fitting)


@given(candidates(), st.randoms())
def test_the_order_of_the_candidates_does_not_matter(found: list[Candidate], random: object) -> None:
    assert choose(found) == choose(found[::-1])


@given(candidates(), st.sets(st.sampled_from(OTHERS)))
def test_what_harms_the_model_is_not_taken(found: list[Candidate], refused: set[Arithmetic]) -> None:
    assert choose(found, refused=refused).name not in refused


@given(candidates())
def test_who_names_a_precision_gets_the_fastest_of_it(found: list[Candidate]) -> None:
    for precision in {PRECISION_OF[each.name] for each in found}:
        chosen = choose(found, precision=precision)
        alike = [each.seconds for each in found if PRECISION_OF[each.name] == precision]
        assert chosen.seconds == min(alike)
        assert PRECISION_OF[chosen.name] == precision


def test_an_emulated_arithmetic_is_left_alone() -> None:
    assert choose(EMULATED).name == "int8"
    assert choose(EMULATED, refused={"int8"}).name == PUBLISHED
    assert choose(EMULATED, precision="bf16").name == "bf16"


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [(10.0, PUBLISHED), (9.6, PUBLISHED), (9.5, "fp32"), (5.0, "fp32"), (10.4, PUBLISHED)],
)
def test_of_two_that_are_as_fast_the_more_exact_one_is_taken(seconds: float, chosen: str) -> None:
    found = [Candidate(PUBLISHED, 10.0, 0.0), Candidate("fp32", seconds, 1e-6)]
    assert choose(found).name == chosen


@pytest.mark.parametrize(("error", "chosen"), [(ERROR_BUDGET, "int8"), (0.031, PUBLISHED), (None, PUBLISHED)])
def test_what_is_too_inexact_or_unknown_is_not_taken(error: float | None, chosen: str) -> None:
    found = [Candidate(PUBLISHED, 10.0, 0.0), Candidate("int8", 1.0, error)]
    assert choose(found).name == chosen


@pytest.mark.parametrize(("passes", "chosen"), [(8, PUBLISHED), (24, PUBLISHED), (62, "fp32")])
def test_the_time_of_opening_is_shared_by_the_passes(passes: int, chosen: str) -> None:
    found = [Candidate(PUBLISHED, 35.0, 0.0), Candidate("fp32", 32.5, 1e-6, open_s=20.0)]
    assert choose(found, passes=passes).name == chosen


@pytest.mark.parametrize(
    ("has", "chosen"), [(10, "int8"), (5, "bf16"), (4, "bf16"), (3, PUBLISHED), (0, PUBLISHED)]
)
def test_what_needs_more_memory_than_there_is_is_not_taken(has: int, chosen: Arithmetic) -> None:
    order: tuple[Arithmetic, ...] = ("int8", "bf16", PUBLISHED)
    needs = {"int8": 9, "bf16": 4, PUBLISHED: 100}
    found = within_memory(
        lambda refused: Choice(next(name for name in order if name not in refused)),
        lambda choice: needs[choice.passes],
        has,
    )
    assert found.passes == chosen


def test_without_the_published_way_there_is_nothing_to_compare_with() -> None:
    with pytest.raises(ValueError, match=r"no figures of torch-fp32 among \['int8'\]"):
        choose([Candidate("int8", 1.0, 0.0)])


def test_the_reason_names_both_speeds() -> None:
    int8 = EMULATED[3]
    assert reason(int8, EMULATED) == (
        "9.8 s a pass, 2 times as fast as the published way (19.8 s), error 1.4 %"
    )
    slow = [Candidate(PUBLISHED, 19.8, 0.0), Candidate("int8", 9.8, 0.05)]
    assert reason(slow[0], slow) == (
        "the published way, 19.8 s a pass; the fastest other is int8 with 9.8 s (error 5 %)"
    )
    assert reason(slow[0], slow[:1]) == ("the published way; nothing else was measured")
