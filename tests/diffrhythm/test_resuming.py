"""A run that is killed k times and goes on each time from its file is the uninterrupted one, bit for bit."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import golden
import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from diffrhythm import conditioning, grids
from diffrhythm.bundle import Bundle
from diffrhythm.config import ModelConfig
from diffrhythm.editing import Edit
from diffrhythm.generate import generate
from diffrhythm.presets import PRESETS
from diffrhythm.sampling import Before, OnStep, State, load_state, sample, save_state
from diffrhythm.solvers import SOLVERS

FRAMES = 24
STEPS = 8
CONFIG = ModelConfig(dim=64, depth=2, conv_layers=1, text_rows=12, max_frames=64)
MODEL = golden.model_of(CONFIG, weight_seed=7)


def noise(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


SONG = conditioning.build(
    MODEL,
    text_ids=torch.arange(FRAMES) % 12,
    style=noise(512, seed=1) / 512**0.5,
    negative_style=noise(512, seed=2) / 512**0.5,
    known=noise(1, FRAMES, 64, seed=3),
    duration_frames=FRAMES,
)
# What a run may have besides its solver; the grid bends as a tuned one may.
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "unguided": {"cfg": 0.0},
    "edit": {"spans": [(2, 9), (20, 24)]},
    "tuned": {"grid": (0.0, 0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 0.8, 1.0)},
    "window": {
        "before": Before(noise(1, FRAMES, 64, seed=5), 4, (grids.uniform(STEPS),), 16),
        "later": (STEPS, STEPS),
    },
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Bits hold for a number of threads, and passes as small as these only wait for a second one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Killed(Exception):
    """Stands for the signal that ends a child between two steps."""


Run = Callable[..., Any]  # on_step, resume → what was made


def killed(run: Run, checkpoint: Path, at: Sequence[int], change: OnStep = lambda state: None) -> Any:
    """What run makes when it is killed behind each of those steps, and goes on from the file every time.

    change: of the state, as foresight makes it before a state is kept.
    """
    resume = None
    for step in at:
        with pytest.raises(Killed):
            run(on_step=killer(checkpoint, step, change), resume=resume)
        resume = load_state(checkpoint)
    return run(on_step=change, resume=resume)


def killer(checkpoint: Path, step: int, change: OnStep) -> OnStep:
    def keep(state: State) -> State:
        state = change(state) or state
        save_state(checkpoint, state)
        if state.step == step:
            raise Killed
        return state

    return keep


def some_of(steps: range, k: int, *what: Any) -> list[int]:
    """k of the steps, always the same for the same case."""
    return sorted(random.Random(repr((k, *what))).sample(steps, k))


def run_of(**options: Any) -> Run:
    asked = {"steps": STEPS, "cfg": 2.0} | options
    return partial(sample, MODEL, SONG, noise(1, FRAMES, 64, seed=4), **asked)


@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sampler", SOLVERS)
def test_latents_of_every_solver_and_kind(sampler: str, kind: str, k: int, tmp_path: Path) -> None:
    run = run_of(sampler=sampler, **KINDS[kind])
    first = 1 + (STEPS if kind == "window" else 0)  # of all windows' steps
    at = some_of(range(first, first + STEPS), k, sampler, kind)
    print(f"killed behind {at}")
    assert torch.equal(killed(run, tmp_path / "state", at), run())


@pytest.mark.parametrize("preset", PRESETS)
def test_latents_of_every_preset(preset: str, tmp_path: Path) -> None:
    chosen = PRESETS[preset]
    run = run_of(sampler=chosen.sampler, steps=chosen.steps, cfg=chosen.cfg)
    at = some_of(range(1, chosen.steps + 1), 3, preset)
    assert torch.equal(killed(run, tmp_path / "state", at), run())


def test_latents_whose_grid_was_thinned_between_two_kills(tmp_path: Path) -> None:
    def thin(state: State) -> State | None:
        return state.thinned(4) if state.step == 3 else None

    run = run_of(sampler="sway")
    assert torch.equal(killed(run, tmp_path / "state", [2, 3, 4], thin), run(on_step=thin))


def test_latents_that_another_process_goes_on_with(tmp_path: Path) -> None:
    run = run_of(sampler="midpoint", spans=[(2, 9)])
    with pytest.raises(Killed):
        run(on_step=killer(tmp_path / "state", 3, lambda state: None))
    command = [sys.executable, __file__, str(tmp_path / "state"), str(tmp_path / "latents.npy")]
    subprocess.run(command, check=True, timeout=300)
    assert np.array_equal(np.load(tmp_path / "latents.npy"), run().numpy())


# ---------------------------------------------------------------- whole songs of the demo


def singing(model: Bundle, **changes: Any) -> Run:
    asked = {
        "lyrics": None,
        "style": "pop song, warm piano",
        "seed": 7,
        "steps": 4,
        "cfg": 3.0,
        "precision": "fp32",
    } | changes
    return partial(generate, model, **asked)


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({"duration": 4.0, "sampler": "heun"}, 4),
        ({"duration": 4.0, "sampler": "sway", "precision": "auto"}, 4),
        ({"duration": 11.0, "window": 5.0, "steps": 3}, 12),
    ],
    ids=["heun", "sway-auto", "windows"],
)
def test_a_song_killed_again_and_again(
    demo_bundle: Bundle, changes: dict[str, Any], steps: int, tmp_path: Path
) -> None:
    run = singing(demo_bundle, **changes)
    at = some_of(range(1, steps + 1), 3 if steps < 5 else 5, changes)
    whole, again = run(), killed(run, tmp_path / "state", at)
    assert np.array_equal(again.audio, whole.audio)
    assert (again.time_grid, again.passes) == (whole.time_grid, whole.passes)


def test_an_edit_killed_again_and_again(demo_bundle: Bundle, tmp_path: Path) -> None:
    source = np.sin(np.arange(4 * 44100) / 50) * 0.3
    soundfile.write(tmp_path / "source.wav", source, 44100)
    run = singing(demo_bundle, edit=Edit(tmp_path / "source.wav", ((1.0, 2.0),)))
    whole, again = run(), killed(run, tmp_path / "state", [1, 2, 4])
    assert np.array_equal(again.audio, whole.audio)


def go_on(checkpoint: Path, latents: Path) -> None:
    """The rest of the run that another process began."""
    torch.set_num_threads(1)
    run = run_of(sampler="midpoint", spans=[(2, 9)])
    np.save(latents, run(resume=load_state(checkpoint)).numpy())


if __name__ == "__main__":
    go_on(Path(sys.argv[1]), Path(sys.argv[2]))
