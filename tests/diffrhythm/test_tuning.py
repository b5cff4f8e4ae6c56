"""Grids found by dynamic programming, walked before they are believed, and kept with their evidence."""

import json
import os
import shutil
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch

from diffrhythm import bundle, files, grids, sampling, tuning
from diffrhythm.bundle import Bundle
from diffrhythm.errors import BundleError, RequestError
from diffrhythm.tuning import Grid, Lowered, Tuning


@pytest.fixture
def small(demo_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """A copy of the demo, tuned on short songs in few steps, with a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(tuning, "SECONDS", 2.0)
    monkeypatch.setattr(tuning, "REFERENCE_STEPS", 12)
    return bundle.load(shutil.copytree(demo_bundle.folder, tmp_path / "demo"))


def silent(what: str, step: int, steps: int) -> None:
    pass


# ---------------------------------------------------------------- finding a grid


def test_a_straight_flow_has_no_error_in_any_step() -> None:
    times = (0.0, 0.3, 0.6, 1.0)
    x = torch.tensor(times)[:, None, None] * torch.ones(1, 2, 3) + 1
    errors = tuning.step_errors(times, x, torch.ones(3, 2, 3))
    later = np.triu_indices(4, 1)
    assert errors[later] == pytest.approx(0, abs=1e-12)
    assert np.isinf(errors[np.tril_indices(4)]).all()


def test_an_error_is_what_a_step_misses_relative_to_where_it_should_end() -> None:
    x = torch.tensor([1.0, 2.0, 4.0])[:, None, None]
    v = torch.tensor([2.0, 4.0])[:, None, None]
    assert tuning.step_errors((0.0, 0.5, 1.0), x, v)[0] == pytest.approx([np.inf, 0, (1 / 4) ** 2])


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 7])
def test_the_best_grid_is_the_best_of_all_there_are(steps: int) -> None:
    points = 8
    times = grids.uniform(points - 1)
    errors = np.random.default_rng(steps).random((points, points))
    errors[np.tril_indices(points)] = np.inf

    def total(path: tuple[int, ...]) -> float:
        return float(sum(errors[path[i], path[i + 1]] for i in range(len(path) - 1)))

    ways = [(0, *inner, points - 1) for inner in combinations(range(1, points - 1), steps - 1)]
    best = min(ways, key=total)
    assert tuning.best_grid(errors, times, steps) == tuple(times[i] for i in best)


@pytest.mark.parametrize("steps", [0, 4])
def test_a_grid_cannot_have_more_steps_than_its_points_allow(steps: int) -> None:
    with pytest.raises(RequestError, match="choose 1 to 3"):
        tuning.best_grid(np.zeros((4, 4)), grids.uniform(3), steps)


# ---------------------------------------------------------------- tuning


def test_a_model_is_tuned_and_says_by_what(small: Bundle) -> None:
    assert tuning.found(small) is None
    made = tuning.tune(small, songs=1, steps=[6, 3], report=silent)
    assert tuning.found(bundle.load(small.folder)) == made
    assert [len(grid.points) for grid in made.grids] == [4, 7]
    assert all(0 < grid.error < 1 and 0 < grid.swayed_error < 1 for grid in made.grids)
    assert made.int8 is None  # nobody has a model of this size in it
    assert not list((small.folder.parent / "cache").rglob("*.safetensors"))


def test_stopped_work_goes_on_where_it_was_and_finds_the_same(
    small: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, int, int]] = []

    def stop_at(count: int) -> tuning.Report:
        def report(what: str, step: int, steps: int) -> None:
            told.append((what, step, steps))
            if len(told) == count:
                raise KeyboardInterrupt

        return report

    for count in (7, 14):
        with pytest.raises(KeyboardInterrupt):
            tuning.tune(small, songs=1, steps=[4], report=stop_at(count))
    made = tuning.tune(small, songs=1, steps=[4], report=stop_at(0))
    assert len(told) == 12 + 4 + 4  # each step once
    assert tuning.tune(small, songs=1, steps=[4], report=silent) == made


def test_a_damaged_state_is_made_again(small: Bundle) -> None:
    def stop(what: str, step: int, steps: int) -> None:
        if step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tuning.tune(small, songs=1, steps=[4], report=stop)
    states = sorted((small.folder.parent / "cache").rglob("*.safetensors"))
    states[2].write_bytes(b"garbage")
    seen: list[int] = []
    tuning.tune(small, songs=1, steps=[4], report=lambda what, step, steps: seen.append(step))
    assert seen[0] == 3


def test_a_folder_that_cannot_be_written_to_is_told_before_the_work(
    small: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "FILE", "no such folder/tuning.json")
    monkeypatch.delattr(sampling, "sample")
    with pytest.raises(BundleError, match="copy the bundle"):
        tuning.tune(small, songs=1, steps=[4], report=silent)


@pytest.mark.parametrize(("songs", "steps"), [(0, [4]), (4, [4]), (1, []), (1, [1]), (1, [12])])
def test_numbers_that_make_no_sense_are_refused(small: Bundle, songs: int, steps: list[int]) -> None:
    with pytest.raises(RequestError, match="choose"):
        tuning.tune(small, songs=songs, steps=steps, report=silent)


# ---------------------------------------------------------------- what was found


def tuned(here: Bundle, **changes: object) -> None:
    """Writes a tuning of two grids: a better one of two steps, one of three that is no better."""
    told = Tuning(
        model=here.hash,
        precision="fp32",
        cfg=4.0,
        songs=1,
        reference_steps=12,
        grids=[
            Grid(points=[0, 0.3, 1], error=0.1, swayed_error=0.2),
            Grid(points=[0, 0.3, 0.4, 1], error=0.199, swayed_error=0.2),
        ],
        int8=None,
    )
    content = json.loads(told.model_dump_json(by_alias=True)) | changes
    (here.folder / tuning.FILE).write_text(json.dumps(content))


def test_only_a_grid_that_is_clearly_better_stands(small: Bundle) -> None:
    tuned(small)
    found = tuning.found(small)
    assert found is not None
    assert found.grid(2, 4.0) == (0.0, 0.3, 1.0)
    assert found.grid(3, 4.0) is None
    assert found.grid(12, 4.0) is None


def test_a_grid_is_for_the_guidance_that_it_was_found_at(small: Bundle) -> None:
    tuned(small)
    found = tuning.found(small)
    assert found is not None
    assert found.grid(2, 3.0) is None


def test_int8_is_harmless_where_it_adds_less_than_half_of_what_the_steps_miss() -> None:
    assert Lowered(error=0.04, of_steps=0.1).is_harmless
    assert not Lowered(error=0.05, of_steps=0.1).is_harmless


def test_int8_is_judged_for_as_many_steps_as_it_was_tried_in_and_fewer(small: Bundle) -> None:
    tuned(small, int8={"error": 0.04, "of_steps": 0.1})
    found = tuning.found(small)
    assert found is not None
    assert [found.int8_is_harmless(steps) for steps in (8, 12, 28)] == [True, True, False]


def test_one_model_is_tuned_once_at_a_time(small: Bundle) -> None:
    lock = files.cache_folder() / "tuning" / f"{small.hash}.lock"
    with files.alone(lock), pytest.raises(BundleError, match="is being tuned already"):
        tuning.tune(small, songs=1, steps=[4], report=silent)


def test_the_demo_of_the_program_is_not_written_to(demo_bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="tune the copy"):
        tuning.tune(demo_bundle, songs=1, steps=[4], report=silent)


def test_what_was_found_for_another_model_is_not_taken(small: Bundle) -> None:
    tuned(small, model="0" * 64)
    assert tuning.found(small) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": 2},
        {"grids": [{"points": [0, 1.5], "error": 0.1, "swayed_error": 0.1}]},
        {"grids": [{"points": [0, 1], "error": -0.1, "swayed_error": 0.1}]},
        {"stray": 1},
    ],
    ids=str,
)
def test_a_damaged_tuning_is_an_error_that_says_what_to_do(small: Bundle, changes: dict[str, object]) -> None:
    tuned(small, **changes)
    with pytest.raises(BundleError, match="delete it, and tune again"):
        tuning.found(small)


def test_garbage_is_no_tuning(small: Bundle) -> None:
    for content in (b"", b"\xff{", b"[" * 100_000, b" " * (2**20 + 1)):
        (small.folder / tuning.FILE).write_bytes(content)
        with pytest.raises(BundleError, match="delete it"):
            tuning.found(small)


def test_what_is_no_file_is_no_tuning(small: Bundle) -> None:
    path = small.folder / tuning.FILE
    path.mkdir()
    with pytest.raises(BundleError, match=r"no tuning, but .* delete it"):
        tuning.found(small)
    path.rmdir()
    os.mkfifo(path)
    with pytest.raises(BundleError, match="no tuning, but 0 bytes"):
        tuning.found(small)
    path.unlink()
    path.symlink_to(path.name)
    with pytest.raises(BundleError, match=r"cannot read .* delete it"):
        tuning.found(small)
