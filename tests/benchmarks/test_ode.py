"""The comparison of the chosen arithmetic with the published way: its verdict, its figures, its processes."""

import json
import os
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import ode, ode_report, published_way
from benchmarks.ode_report import Comparison, Measured
from diffrhythm import arithmetic, conditioning, machine_profile
from diffrhythm.arithmetic import PUBLISHED, Candidate
from diffrhythm.config import ModelConfig
from diffrhythm.precision import ARITHMETICS, Arithmetic
from diffrhythm.transformer import DiT

SMALL = ModelConfig(dim=64, depth=4, ff_mult=2, conv_layers=1, text_rows=20, max_frames=4096)
WITHIN, BEYOND = arithmetic.ERROR_BUDGET, 1.1 * arithmetic.ERROR_BUDGET
MUCH = 1 + 2 * arithmetic.TIE
LITTLE = 1 + arithmetic.TIE / 2


def measured(pass_s: float, *, probe_s: float = 0.1) -> Measured:
    return Measured(
        threads=2,
        open_s=1.0,
        passes_s=(pass_s, 2 * pass_s),
        peak_rss_bytes=10**9,
        probe_s=probe_s,
        limit=1e11,
    )


FOUND = Comparison(
    published=measured(40.0),
    ways={"int8": measured(10.0), "fp32": measured(30.0, probe_s=0.2)},
    chosen="int8",
    reason="four times as fast",
    errors={"int8": 0.02, "fp32": 1e-6},
    profile_s={"int8": 8.0},
    pass_flops=10**12,
    passes=24,
    published_passes=62,
)


# ---------------------------------------------------------------- the verdict


@pytest.mark.parametrize(
    ("chosen_s", "published_s", "others", "against"),
    [
        (10, 40, (), 0),
        (10, 10, (), 0),
        (10 * LITTLE, 10, (), 0),  # two measurements of the same differ by as much
        (10 * MUCH, 10, (), 1),
        (10, 40, (("fp32", 20, 0.0),), 0),
        (10 * LITTLE, 40, (("fp32", 10, 0.0),), 0),
        (10 * MUCH, 40, (("fp32", 10, 0.0),), 1),
        (10 * MUCH, 40, (("int8", 10, WITHIN),), 1),
        (10 * MUCH, 40, (("int8", 10, BEYOND),), 0),  # too inexact to be chosen
        (10 * MUCH, 40, (("int8-static", 10, None),), 0),
        (10 * MUCH, 10, (("fp32", 10, 0.0), ("int8", 9, WITHIN)), 3),
    ],
)
def test_a_choice_is_wrong_where_a_way_that_may_be_taken_is_faster(
    chosen_s: float,
    published_s: float,
    others: tuple[tuple[Arithmetic, float, float | None], ...],
    against: int,
) -> None:
    candidates = [Candidate("bf16", chosen_s, 0.001), *(Candidate(*each) for each in others)]
    assert len(ode_report.objections("bf16", candidates, published_s)) == against


@given(
    st.lists(
        st.tuples(st.floats(0.01, 100), st.floats(0, 0.1)),
        min_size=len(ARITHMETICS),
        max_size=len(ARITHMETICS),
    )
)
def test_nothing_speaks_against_a_choice_where_the_profile_told_the_truth(
    figures: list[tuple[float, float]],
) -> None:
    candidates = [
        Candidate(name, seconds, 0.0 if name == PUBLISHED else error)
        for name, (seconds, error) in zip(ARITHMETICS, figures, strict=True)
    ]
    published_s = next(each.seconds for each in candidates if each.name == PUBLISHED)
    chosen = arithmetic.choose(candidates)
    assert ode_report.objections(chosen.name, candidates, published_s) == []


def test_an_objection_names_both_ways_and_their_seconds() -> None:
    (line,) = ode_report.objections("int8", [Candidate("int8", 170.5, 0.01)], 19.8)
    assert line == "int8 takes 170 s a pass, the published way 19.8 s: 8.61 times that"


# ---------------------------------------------------------------- figures


def test_a_way_is_compared_as_if_the_machine_had_been_as_fast_as_for_the_published_way() -> None:
    assert FOUND.comparable_s("fp32") == pytest.approx(15)  # 30 s while everything took twice as long
    assert FOUND.times_faster("fp32") == pytest.approx((40 / 15, 40 / 15 * 62 / 24))
    assert FOUND.objections() == []
    assert len(replace(FOUND, chosen="fp32").objections()) == 1


def test_the_table_has_a_row_for_each_way_and_the_forecast_beside_the_measurement() -> None:
    head, _, published, int8, fp32 = ode_report.table(FOUND)
    rows = [dict(zip(head.split(" | "), line.split(" | "), strict=True)) for line in (published, int8, fp32)]
    assert [row["| way"] for row in rows] == ["| published way", "| int8, chosen", "| fp32"]
    assert [row["pass s"] for row in rows] == ["40.00", "10.00", "30.00"]
    assert [row["profile s"] for row in rows] == ["–", "8.00", "–"]
    assert [row["measured / profile"] for row in rows] == ["–", "1.25", "–"]
    assert [row["ODE s"] for row in rows] == ["2480", "240", "720"]
    assert rows[1]["of the limit"] == "100% of 100 GFLOP/s"


@pytest.mark.parametrize(("chosen", "word"), [("int8", "right"), ("fp32", "WRONG")])
def test_the_verdict_begins_with_the_choice_and_its_reason(chosen: Arithmetic, word: str) -> None:
    first, second = ode_report.verdict(replace(FOUND, chosen=chosen))
    assert first == f"auto takes {chosen}: four times as fast"
    assert second.startswith(word)


def test_the_json_has_the_figures_of_the_choice_at_the_top() -> None:
    told = json.loads(ode_report.as_json(FOUND, {"asked": {"frames": "2048"}}))
    assert (told["chosen"], told["pass_s"], told["published_pass_s"]) == ("int8", 10.0, 40.0)
    assert (told["ode_s"], told["published_ode_s"]) == (240.0, 2480.0)
    assert told["ways"]["int8"]["profile_s"] == 8.0
    assert told["ways"]["fp32"]["profile_s"] is None


def test_operators_that_take_next_to_nothing_are_drawn_as_one() -> None:
    assert ode_report.gathered({"mm": 9.8, "add": 0.1, "mul": 0.1}) == pytest.approx(
        {"mm": 9.8, ode_report.OTHERS: 0.2}
    )


# ---------------------------------------------------------------- measuring


def test_the_chosen_arithmetic_is_measured_first_and_none_twice() -> None:
    names = ode.measured_names("fp32", False, ["int8", "fp32"], calibrated=False)
    assert names == ["fp32", "int8"]


def test_a_model_without_ranges_of_its_own_is_not_measured_with_static_ones() -> None:
    assert ode.measured_names("fp32", False, ["int8-static"], calibrated=False) == ["fp32"]
    assert ode.measured_names("fp32", False, ["int8-static"], calibrated=True) == ["fp32", "int8-static"]


def test_variables_are_changed_for_a_process_and_then_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SET", "before")
    monkeypatch.delenv("UNSET", raising=False)
    with ode.changed({"SET": None, "UNSET": "now"}):
        assert (os.environ.get("SET"), os.environ.get("UNSET")) == (None, "now")
    assert (os.environ.get("SET"), os.environ.get("UNSET")) == ("before", None)


@pytest.mark.parametrize("is_null", [False, True])
def test_the_published_way_gives_the_velocity_of_the_model(is_null: bool) -> None:
    model = DiT(SMALL).requires_grad_(False).eval()
    machine_profile.random_weights(model, torch.Generator().manual_seed(0))
    for block in model.transformer_blocks:
        for norm in (block.input_layernorm, block.post_attention_layernorm):
            norm.weight.uniform_(0.5, 2)
    ids, style, negative = ode.asked_song(model, 24)
    song = conditioning.build(model, text_ids=ids, style=style, negative_style=negative, duration_frames=24)
    x_t = torch.randn(1, 24, 64, generator=torch.Generator().manual_seed(2))
    made = published_way.velocity(
        model,
        x_t,
        0.3,
        text_ids=torch.zeros_like(ids) if is_null else ids,
        style=negative if is_null else style,
        duration_frames=24,
    )
    expected = model.velocity(
        x_t, model.modulation(0.3, song.scalars), song.null if is_null else song.conditional
    )
    torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-5)
    assert expected.std() > 1e-3
