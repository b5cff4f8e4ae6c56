"""Sampling from noise to the end against the published sampler's, with its trajectories and its edits.

The reference counts grid points: its N steps are N - 1 here.
"""

from typing import Any

import golden
import pytest
import torch
from golden import ONE_RUN, GoldenSet, distance
from torch import Tensor

from diffrhythm import conditioning
from diffrhythm.conditioning import Conditioning
from diffrhythm.sampling import State, sample

SETS = golden.sets("sample")
CASES = [pytest.param(one, name, id=f"{one}-{name}") for one in SETS for name in one.cases]
TRAJECTORIES = [
    pytest.param(one, name, id=f"{one}-{name}")
    for one in SETS
    for name, case in one.cases.items()
    if "trajectory_key" in case
]


def song_of(one: GoldenSet, inputs: str) -> Conditioning:
    arrays = one.arrays
    return conditioning.build(
        one.model,
        text_ids=arrays[f"{inputs}.text"],
        style=arrays[f"{inputs}.style"],
        negative_style=arrays[f"{inputs}.neg"],
        known=arrays.get(f"{inputs}.cond"),
        # The duration that the model is told is not always the number of frames that are made.
        duration_frames=arrays[f"{inputs}.song_duration"] * one.model.config.max_frames,
        start_time=arrays[f"{inputs}.start_time"],
    )


def run(one: GoldenSet, case: dict[str, Any], states: list[State]) -> Tensor:
    return sample(
        one.model,
        song_of(one, case["inputs"]),
        one.arrays[case["noise_key"]],
        steps=case["steps"] - 1,
        cfg=case["cfg_strength"],
        grid=one.arrays[case["time_grid_key"]].tolist(),
        spans=[(start, end) for start, end in case["latent_pred_segments"]],
        on_step=states.append,
    )


def test_sets_of_samples_are_there() -> None:
    assert CASES
    assert TRAJECTORIES


@pytest.mark.parametrize(("one", "name"), CASES)
def test_a_sampling_run_gives_the_reference_latents(one: GoldenSet, name: str) -> None:
    case = one.cases[name]
    states: list[State] = []
    latents = run(one, case, states)
    assert distance(latents[:, :: case.get("frame_stride", 1)], one.arrays[case["out_key"]]) < ONE_RUN
    assert float(latents.norm()) == pytest.approx(case["out_norm"], rel=ONE_RUN)
    assert len(states) == case["function_evaluations"]
    assert (states[-1].passes if states else 0) == case["transformer_passes"]


@pytest.mark.parametrize(("one", "name"), TRAJECTORIES)
def test_every_state_on_the_way_is_the_reference_state(one: GoldenSet, name: str) -> None:
    case = one.cases[name]
    states: list[State] = []
    run(one, case, states)
    reference = one.arrays[case["trajectory_key"]]
    assert torch.equal(one.arrays[case["noise_key"]], reference[0])
    for state, x_t in zip(states, reference[1:], strict=True):
        assert distance(state.x_t, x_t) < ONE_RUN
