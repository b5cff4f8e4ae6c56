import json
import math
import os
import resource
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import golden
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from diffrhythm import conditioning, grids, sampling
from diffrhythm.conditioning import Conditioning
from diffrhythm.config import ModelConfig
from diffrhythm.errors import CheckpointError, NotFiniteError, RequestError, RunawayError
from diffrhythm.sampling import Before, State, load_state, sample, save_state
from diffrhythm.solvers import SOLVERS
from diffrhythm.transformer import DiT

FRAMES = 24
CONFIG = ModelConfig(dim=64, depth=2, conv_layers=1, text_rows=12, max_frames=64)
MODEL = golden.model_of(CONFIG, weight_seed=7)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


NOISE = random(2, FRAMES, 64, seed=4)
KNOWN = random(1, FRAMES, 64, seed=3)


def song(model: DiT = MODEL, known: Tensor | None = KNOWN, style_seed: int = 1) -> Conditioning:
    return conditioning.build(
        model,
        text_ids=torch.arange(FRAMES) % 12,
        style=random(512, seed=style_seed) / 512**0.5,
        negative_style=random(512, seed=2) / 512**0.5,
        known=known,
        duration_frames=FRAMES,
    )


def run(model: DiT = MODEL, **options: Any) -> Tensor:
    """Six guided steps, but for `options`."""
    return sample(model, song(model), NOISE, **({"steps": 6, "cfg": 2.0} | options))


def states_of(**options: Any) -> list[State]:
    states: list[State] = []
    run(**options, on_step=states.append)
    return states


class Killed(Exception):
    """Stands for the signal that ends a child between two steps."""


def kill_behind(step: int, checkpoint: Path) -> Callable[[State], None]:
    def on_step(state: State) -> None:
        save_state(checkpoint, state)
        if state.step == step:
            raise Killed

    return on_step


@pytest.mark.parametrize("killed_behind", [1, 3, 5, 6])
@pytest.mark.parametrize("sampler", SOLVERS)
def test_a_killed_and_resumed_run_is_the_uninterrupted_one_bit_for_bit(
    sampler: str, killed_behind: int, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "checkpoint.safetensors"
    spans = [(2, 9)]
    whole = run(sampler=sampler, spans=spans)
    with pytest.raises(Killed):
        run(sampler=sampler, spans=spans, on_step=kill_behind(killed_behind, checkpoint))
    resumed = run(sampler=sampler, spans=spans, resume=load_state(checkpoint), steps=1)
    assert torch.equal(resumed, whole)


def test_a_resumed_run_tells_the_same_story() -> None:
    whole = states_of()
    again = states_of(resume=whole[2])
    assert [(state.step, state.steps, state.t, state.passes) for state in again] == [
        (state.step, state.steps, state.t, state.passes) for state in whole[3:]
    ]


def test_a_resume_on_a_thinner_tail_walks_the_tail() -> None:
    state = states_of()[1]
    thinned = state.with_tail((2 / 3, 1.0))
    again = states_of(resume=thinned)
    assert [each.t for each in again] == pytest.approx([2 / 3, 1])
    assert (thinned.step, thinned.steps) == (2, 4)
    assert thinned.density == pytest.approx(3)
    by_hand = run(grid=(0, 1 / 6, 2 / 6, 1 - 2 / 6, 1), steps=4)
    assert golden.distance(run(resume=thinned), by_hand) < golden.ONE_PASS


def test_a_swaying_sampler_has_most_of_its_steps_near_the_noise() -> None:
    states = states_of(sampler="sway")
    assert [state.t for state in states] == pytest.approx(grids.sway(grids.uniform(6), -1)[1:])
    assert [state.density for state in states] == pytest.approx([6] * 6)
    assert [len(state.thinned(3).time_grid) - 1 - state.step for state in states[:-1]] == [3, 2, 2, 1, 1]
    assert states[1].thinned(6) is states[1]


def test_a_grid_of_any_bend_is_as_dense_as_it_was_begun_and_is_thinned_along_its_bend() -> None:
    grid = (0.0, 0.01, 0.03, 0.1, 0.2, 0.5, 1.0)
    states = states_of(grid=grid)
    assert [state.density for state in states] == pytest.approx([6] * 6)
    assert all(state.thinned(6) is state for state in states)
    assert states[1].thinned(3).time_grid == pytest.approx((0.0, 0.01, 0.03, 0.2, 1.0))
    assert states[1].thinned(3).density == pytest.approx(3)


def test_a_run_goes_on_from_the_state_that_on_step_gives() -> None:
    seen: list[float] = []

    def on_step(state: State) -> State | None:
        seen.append(state.t)
        return state.with_tail((0.75, 1.0)) if state.step == 3 else None

    latents = run(on_step=on_step)
    assert seen == pytest.approx([1 / 6, 2 / 6, 3 / 6, 0.75, 1])
    assert torch.equal(latents, run(grid=(0, 1 / 6, 2 / 6, 3 / 6, 0.75, 1), steps=5))


@pytest.mark.parametrize("tail", [(), (0.9,), (0.5, 1.0), (0.9, 0.8, 1.0), (float("nan"), 1.0), (1.0, 1.1)])
def test_points_that_are_no_tail_are_refused(tail: tuple[float, ...]) -> None:
    with pytest.raises(RequestError, match="time grid"):
        states_of()[2].with_tail(tail)


def windowed(later: tuple[int, ...] = (6, 6)) -> list[State]:
    """The states of the second of four windows, the first of which took 6 steps."""
    before = Before(random(2, FRAMES, 64), 4, (grids.uniform(6),), 12)
    return states_of(before=before, later=later)


def test_a_window_counts_what_was_before_it_and_what_is_to_come() -> None:
    states = windowed()
    assert [(state.window, state.step, state.steps) for state in states] == [
        (1, step, 24) for step in range(7, 13)
    ]
    assert [state.passes for state in states] == [14, 16, 18, 20, 22, 24]
    assert {state.reached for state in states} == {0.0}
    assert [state.reached for state in windowed(later=())] == [state.t for state in states]
    assert {round(state.density) for state in states} == {6}


def test_thinning_a_window_thins_those_to_come() -> None:
    states = windowed()
    assert [(len(state.thinned(3).time_grid) - 1, state.thinned(3).later) for state in states] == [
        (1 + 3, (3, 3)), (2 + 2, (3, 3)), (3 + 2, (3, 3)), (4 + 1, (3, 3)), (5 + 1, (3, 3)), (6, (3, 3))
    ]  # fmt: skip
    assert states[-1].thinned(3).density == 3
    assert states[1].thinned(6) is states[1]


@pytest.mark.parametrize(
    ("position", "steps", "here", "later"),
    [
        (1, 17, 5, (6, 6)),
        (1, 16, 5, (6, 5)),
        (1, 8, 2, (3, 3)),
        (4, 7, 1, (3, 3)),
        (1, 1, 1, (1, 1)),
        (6, 12, 0, (6, 6)),
        (6, 5, 0, (3, 2)),
    ],
)
def test_steps_are_shared_out_over_the_windows_left(
    position: int, steps: int, here: int, later: tuple[int, ...]
) -> None:
    state = windowed()[position - 1].spread(steps)
    assert (len(state.time_grid) - 1 - state.position, state.later) == (here, later)
    assert state.time_grid[-1] == 1


def test_a_song_walked_in_windows_tells_its_coarsest() -> None:
    last = windowed()[-1]
    assert last.walked == grids.uniform(6)
    assert replace(last, before=last.passed_on(4)).walked == grids.uniform(6)
    coarse = Before(NOISE, 4, (grids.uniform(3), grids.uniform(6)), 18)
    assert replace(last, before=coarse).walked == grids.uniform(3)


def test_windows_are_joined_where_the_second_begins_to_be_new() -> None:
    last = windowed()[-1]
    assert last.before is not None
    joined = last.joined(last.x_t)
    assert joined.shape[1] == 2 * FRAMES - 4
    assert torch.equal(joined[:, :FRAMES], last.before.latents)
    assert torch.equal(joined[:, FRAMES:], last.x_t[:, 4:])
    passed = last.passed_on(7)
    assert torch.equal(passed.latents, joined)
    assert (passed.known, len(passed.grids), passed.passes) == (7, 2, 24)


def test_a_checkpoint_holds_the_windows_before(tmp_path: Path) -> None:
    state = windowed()[2]
    save_state(tmp_path / "checkpoint", state)
    loaded = load_state(tmp_path / "checkpoint")
    assert state.before is not None
    assert loaded.before is not None
    assert torch.equal(loaded.before.latents, state.before.latents)
    assert replace(loaded.before, latents=NOISE) == replace(state.before, latents=NOISE)
    assert loaded.later == (6, 6)


def test_windows_before_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    state = windowed()[2]
    assert state.before is not None
    for wrong in (
        replace(state, later=(0,)),
        replace(state, before=replace(state.before, known=FRAMES + 1)),
        replace(state, before=replace(state.before, known=0)),
        replace(state, before=replace(state.before, grids=())),
        replace(state, before=replace(state.before, grids=((0.0, 0.5),))),
        replace(state, before=replace(state.before, latents=state.before.latents[..., :3])),
        replace(state, before=replace(state.before, latents=state.before.latents * float("nan"))),
    ):
        save_state(tmp_path / "checkpoint", wrong)
        with pytest.raises(CheckpointError, match="delete it"):
            load_state(tmp_path / "checkpoint")


def test_passes_count_both_kinds_and_every_evaluation() -> None:
    assert [states_of(sampler=sampler)[-1].passes for sampler in SOLVERS] == [12, 12, 24, 24, 48]
    assert states_of(cfg=0.0)[-1].passes == 6


@pytest.mark.parametrize("cfg", [2.0, 0.0])
@pytest.mark.parametrize("sampler", SOLVERS)
def test_the_passes_left_are_those_that_come(sampler: str, cfg: float) -> None:
    states = states_of(sampler=sampler, cfg=cfg, steps=8)
    foreseen = [sampling.passes_left(state, cfg=cfg, sampler=sampler) for state in states]
    assert foreseen == [states[-1].passes - state.passes for state in states]


def test_the_passes_left_follow_a_thinned_grid() -> None:
    thinned = states_of(sampler="sway", steps=8)[1].thinned(4)
    again = states_of(sampler="sway", steps=8, resume=thinned)
    foreseen = sampling.passes_left(thinned, cfg=2.0, sampler="sway")
    assert foreseen == again[-1].passes - thinned.passes


def test_without_guidance_the_negative_style_does_not_matter() -> None:
    other = replace(song(), null=song(style_seed=5).conditional)
    plain = sample(MODEL, song(), NOISE, steps=2, cfg=0.0)
    assert torch.equal(plain, sample(MODEL, other, NOISE, steps=2, cfg=0.0))
    assert not torch.equal(plain, sample(MODEL, other, NOISE, steps=2, cfg=1.0))


def test_no_steps_give_the_bare_noise() -> None:
    assert torch.equal(run(steps=0), NOISE)


def test_the_same_noise_gives_the_same_song() -> None:
    assert torch.equal(run(), run())


def test_frames_outside_the_spans_end_as_the_known_latent_exactly() -> None:
    latents = run(spans=[(2, 9), (20, 99)])
    kept = [*range(2), *range(9, 20)]
    assert torch.equal(latents[:, kept], KNOWN[:, kept].expand(2, -1, -1))
    assert not torch.isclose(latents[:, 2:9], KNOWN[:, 2:9]).any(dim=-1).all()


def test_no_spans_at_all_keep_the_whole_known_latent() -> None:
    assert torch.equal(run(spans=[]), KNOWN.expand(2, -1, -1))


def test_the_known_latent_inside_a_span_does_not_matter() -> None:
    other = KNOWN.clone()
    other[:, 2:9] = 7
    changed = sample(MODEL, song(known=other), NOISE, steps=3, cfg=2.0, spans=[(2, 9)])
    assert torch.equal(changed, run(steps=3, spans=[(2, 9)]))


def test_the_estimate_is_the_end_of_a_straight_flow() -> None:
    whole = run(steps=1)
    assert torch.equal(states_of(steps=1)[0].estimate(), whole)
    state = states_of()[2]
    one_more = sample(MODEL, song(), state.x_t, steps=1, cfg=2.0)
    straight = state.x_t + 0.5 * state.velocity
    assert torch.equal(state.estimate(), straight)
    assert not torch.equal(straight, one_more)


def test_noise_is_not_changed_in_place() -> None:
    noise = NOISE.clone()
    sample(MODEL, song(), noise, steps=2, cfg=2.0)
    assert torch.equal(noise, NOISE)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": -1}, "-1 steps"),
        ({"steps": 3, "grid": (0.0, 0.5, 1.0)}, "n steps have n"),
        ({"steps": 1, "grid": (0.0, 0.5)}, "end at 1"),
        ({"cfg": float("nan")}, "guidance nan"),
        ({"sampler": "ab2000"}, "ab2000"),
        ({"spans": [(5, 2)]}, "span"),
    ],
)
def test_what_cannot_be_sampled_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        run(**options)


@pytest.mark.parametrize("shape", [(FRAMES, 64), (1, FRAMES - 1, 64), (1, FRAMES, 63)])
def test_noise_of_another_shape_than_the_song_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(RequestError, match="noise of shape"):
        sample(MODEL, song(), random(*shape), steps=1, cfg=2.0)


def broken(factor: float) -> DiT:
    """A model whose velocities are multiplied by `factor` from t = 0.5 on."""
    model = golden.model_of(CONFIG, weight_seed=7)
    times: list[float] = []
    model.time_embed.register_forward_pre_hook(lambda _module, inputs: times.append(float(inputs[0])))
    model.proj_out.register_forward_hook(
        lambda _module, _inputs, v: v * factor if times[-1] >= 0.499 else None
    )
    return model


@pytest.mark.parametrize(
    ("factor", "error"),
    [
        (float("nan"), NotFiniteError),
        (float("inf"), NotFiniteError),
        (1e3, RunawayError),
        (1e30, RunawayError),
    ],
)
def test_numbers_gone_wrong_end_the_run_at_their_step_before_they_are_kept(
    factor: float, error: type[Exception], tmp_path: Path
) -> None:
    checkpoint = tmp_path / "checkpoint.safetensors"
    model = broken(factor)
    with pytest.raises(error, match="step 4 of 6"):
        run(model, on_step=lambda state: save_state(checkpoint, state))
    kept = load_state(checkpoint)
    assert kept.step == 3
    assert bool(torch.isfinite(kept.x_t).all())
    assert torch.equal(run(resume=kept), run())


def test_a_latent_that_could_still_be_heard_is_no_runaway() -> None:
    assert max(state.latent_std for state in states_of(cfg=10.0)) < sampling.LARGEST_STD / 3


def test_one_runaway_in_a_batch_is_found() -> None:
    noise = NOISE.clone()
    noise[1] *= 100
    with pytest.raises(RunawayError):
        sample(MODEL, song(), noise, steps=2, cfg=2.0)


def test_a_checkpoint_holds_all_of_a_state(tmp_path: Path) -> None:
    state = replace(states_of()[2], memory={"v_before": random(2, FRAMES, 64)})
    save_state(tmp_path / "checkpoint", state)
    loaded = load_state(tmp_path / "checkpoint")
    assert torch.equal(loaded.x_t, state.x_t)
    assert torch.equal(loaded.velocity, state.velocity)
    assert torch.equal(loaded.memory["v_before"], state.memory["v_before"])
    assert replace(loaded, x_t=NOISE, velocity=NOISE, memory={}) == replace(
        state, x_t=NOISE, velocity=NOISE, memory={}
    )


def test_a_checkpoint_that_cannot_be_written_leaves_the_last_one_and_nothing_else(tmp_path: Path) -> None:
    first, second = states_of()[:2]
    save_state(tmp_path / "checkpoint", first)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            save_state(tmp_path / "checkpoint", second)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert load_state(tmp_path / "checkpoint").step == 1
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_a_checkpoint_cut_anywhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    save_state(path, states_of()[0])
    data = path.read_bytes()
    for length in (0, 1, 7, 8, 9, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(CheckpointError, match="delete it"):
            load_state(path)


@pytest.mark.parametrize(
    "content", [b"garbage", b"\xff" * 4096, b"{}", (2**60).to_bytes(8, "little") + b"{}"]
)
def test_garbage_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "checkpoint").write_bytes(content)
    with pytest.raises(CheckpointError, match="cannot be used"):
        load_state(tmp_path / "checkpoint")


def test_an_absent_checkpoint_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(CheckpointError):
            load_state(path)


def test_a_file_too_large_to_be_a_checkpoint_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    with path.open("wb") as file:
        file.truncate(sampling.LARGEST_CHECKPOINT_BYTES + 1)
    with pytest.raises(CheckpointError, match="more than any checkpoint"):
        load_state(path)


ABOUT = {
    "schema": 2,
    "position": 1,
    "time_grid": [0.0, 0.5, 1.0],
    "begun": [0.0, 0.5, 1.0],
    "later": [],
    "conditioning_hash": "x",
    "passes": 2,
}


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 1},
        {"position": 3},
        {"position": -1},
        {"position": "1"},
        {"position": True},
        {"time_grid": [0.0, 0.5]},
        {"time_grid": [0.0, 0.5, math.nan, 1.0]},
        {"time_grid": ["a"]},
        {"time_grid": 5},
        {"begun": 5},
        {"begun": [0.0, 0.5]},
        {"passes": None},
        {"passes": -1},
        {"time_grid": [0.0, 10**400, 1.0]},
        {"begun": [[[0.0]]]},
        {"begun": [0.0]},
        {"conditioning_hash": 5},
    ],
    ids=str,
)
def test_a_checkpoint_that_says_nonsense_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    tensors = {"x_t": torch.zeros(1, 4, 64), "velocity": torch.zeros(1, 4, 64)}
    save_file(tensors, tmp_path / "good", {"state": json.dumps(ABOUT)})
    assert load_state(tmp_path / "good").t == 0.5
    save_file(tensors, tmp_path / "bad", {"state": json.dumps(ABOUT | change)})
    with pytest.raises(CheckpointError):
        load_state(tmp_path / "bad")


@pytest.mark.parametrize(
    "tensors",
    [
        {"x_t": torch.zeros(1, 4, 64)},
        {"x_t": torch.zeros(1, 4, 64), "velocity": torch.zeros(1, 5, 64)},
        {"x_t": torch.zeros(4, 64), "velocity": torch.zeros(4, 64)},
        {"x_t": torch.zeros(0, 4, 64), "velocity": torch.zeros(0, 4, 64)},
        {"x_t": torch.zeros(1, 0, 64), "velocity": torch.zeros(1, 0, 64)},
        {"x_t": torch.zeros(1, 4, 64).half(), "velocity": torch.zeros(1, 4, 64)},
        {"x_t": torch.full((1, 4, 64), math.nan), "velocity": torch.zeros(1, 4, 64)},
        {"x_t": torch.zeros(1, 4, 64), "velocity": torch.full((1, 4, 64), math.inf)},
        {"x_t": torch.zeros(1, 4, 64), "velocity": torch.zeros(1, 4, 64), "stray": torch.zeros(1)},
    ],
)
def test_a_checkpoint_of_other_tensors_is_refused(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    save_file(tensors, tmp_path / "bad", {"state": json.dumps(ABOUT)})
    with pytest.raises(CheckpointError):
        load_state(tmp_path / "bad")


def test_a_checkpoint_of_another_song_is_refused() -> None:
    state = states_of()[0]
    with pytest.raises(CheckpointError, match="another song"):
        sample(MODEL, song(style_seed=5), NOISE, steps=6, cfg=2.0, resume=state)
    with pytest.raises(CheckpointError, match="another song"):
        run(spans=[(0, 5)], resume=state)


def test_a_checkpoint_of_another_batch_is_refused() -> None:
    state = states_of()[0]
    with pytest.raises(CheckpointError, match="shape"):
        sample(MODEL, song(), NOISE[:1], steps=6, cfg=2.0, resume=state)


def test_a_checkpoint_of_deep_brackets_and_a_pipe_are_refused(tmp_path: Path) -> None:
    tensors = {"x_t": torch.zeros(1, 4, 64), "velocity": torch.zeros(1, 4, 64)}
    save_file(tensors, tmp_path / "deep", {"state": "[" * 50_000})
    save_file(tensors, tmp_path / "wide", {"state": "[]," * 2_000_000})
    os.mkfifo(tmp_path / "pipe")
    for name in ("deep", "wide", "pipe"):
        with pytest.raises(CheckpointError, match="delete it"):
            load_state(tmp_path / name)
