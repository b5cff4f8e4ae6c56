"""What is compared with what, and that a song is degraded as the runner degrades it."""

import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch

from benchmarks import quality, tricks
from benchmarks.quality import Early, Figures, Recipe
from diffrhythm import grids
from diffrhythm.lyrics import parse_lrc
from diffrhythm.presets import PRESETS
from diffrhythm.sampling import State
from diffrhythm.solvers import SOLVERS


def state(position: int, steps: int = 16) -> State:
    x_t = torch.zeros(1, 2, 64)
    return State(x_t, x_t, position, grids.uniform(steps), grids.uniform(steps), "")


def test_every_preset_solver_precision_and_trick_is_judged_once() -> None:
    recipes = quality.recipes()
    assert len(set(recipes)) == len(recipes)
    assert {name for recipe in recipes for name in recipe.presets} == {*PRESETS, "auto"}
    assert {recipe.sampler for recipe in recipes} == set(tricks.SOLVERS)
    assert {recipe.grid for recipe in recipes} == set(tricks.GRIDS)
    assert {recipe.precision for recipe in recipes} == {"fp32", "bf16", "int8"}
    assert {recipe.trick for recipe in recipes} == set(tricks.TRICKS)
    assert len({recipe.name for recipe in recipes}) == len(recipes)


def test_other_solvers_take_as_many_passes_as_they_are_compared_at() -> None:
    for recipe in quality.equal_passes():
        assert 2 * recipe.steps * SOLVERS[recipe.sampler].evaluations in quality.EQUAL_PASSES


def test_a_family_is_what_differs_in_steps_alone() -> None:
    assert quality.family(Recipe(8, "ab2", "EPSS")) == quality.family(Recipe(16, "ab2", "EPSS"))
    assert quality.family(Recipe(8)) != quality.family(Recipe(8, grid="EPSS"))


def test_a_song_is_resumed_from_the_first_state_that_has_come_so_far() -> None:
    states = [state(position) for position in range(1, 17)]
    assert quality.checkpoint(states, 0.5).position == 8
    assert quality.checkpoint(states, 0.51).position == 9


@pytest.mark.parametrize(("density", "tail"), [(8, 4), (4, 2), (1, 1)])
def test_a_retry_walks_what_is_left_as_thinly_as_its_density_says(density: int, tail: int) -> None:
    resumed = state(8).thinned(density)
    assert resumed.time_grid[:9] == grids.uniform(16)[:9]
    assert resumed.steps - resumed.step == tail


def test_a_retry_that_is_no_thinner_leaves_the_grid_as_it_is() -> None:
    assert state(8).thinned(16).time_grid == grids.uniform(16)
    assert state(8).thinned(20).time_grid == grids.uniform(16)


def early(t: float, mel_db: float, style: float) -> Early:
    return Early("draft", round(4 * t), t, Figures(0.0, mel_db, 0.4, 0.4, style))


def test_estimates_are_good_from_where_they_stay_as_good_as_the_song() -> None:
    found = [early(0.25, 3, 0.75), early(0.5, 2, 0.25), early(0.75, 1, 0.75), early(1, 0, 0.75)]
    assert quality.near_from(found, "draft", 2) == 0.5
    assert quality.good_from(found, "draft", "style") == 0.75
    assert quality.good_from(found, "draft", "vowels") == 0.25


def test_songs_are_the_same_each_time_with_lines_that_a_reader_understands() -> None:
    first, again = quality.song(0, 6.0), quality.song(0, 6.0)
    assert first.request == again.request
    lines = parse_lrc(first.request.lyrics or "").lines
    assert [line.text for line in lines] == [each.line.text for each in first.alignment.placed]
    assert all(line.seconds < 6 for line in lines)
    assert quality.song(1, 6.0).style != first.style


PARENT = """
import multiprocessing, os, time
from concurrent.futures import ProcessPoolExecutor
from benchmarks.quality import die_with_parent
if __name__ == "__main__":
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), die_with_parent) as pool:
        print(pool.submit(os.getpid).result(), flush=True)
        pool.submit(time.sleep, 60).result()
"""


def test_a_worker_ends_with_a_parent_that_is_killed() -> None:
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True, cwd=root
    ) as parent:
        assert parent.stdout is not None
        worker = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
        worker.wait(timeout=30)
    assert not worker.is_running()
