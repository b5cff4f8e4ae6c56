"""Distances between songs, and from when on they are small."""

import numpy as np
import pytest
import torch

from benchmarks import nearness
from training.listening import mel_distance


def test_error_is_the_size_of_the_difference_over_that_of_the_reference() -> None:
    reference = torch.full((1, 5, 4), -2.0)
    assert nearness.error(reference, reference) == 0
    assert nearness.error(reference * 1.25, reference) == pytest.approx(0.25)
    assert nearness.error(torch.zeros_like(reference), reference) == pytest.approx(1)


def test_a_sound_is_as_far_by_its_levels_as_training_measures_it() -> None:
    a, b = np.random.default_rng(0).normal(0, 0.1, (2, 2, 8192)).astype(np.float32)
    distance = nearness.mel_db(nearness.levels(a), nearness.levels(b))
    assert distance == pytest.approx(mel_distance(a, b))
    assert distance > 0


@pytest.mark.parametrize(
    ("distances", "least"),
    [
        ((5, 3, 2, 1), 0.75),
        ((1, 1, 1, 1), 0.25),
        ((1, 5, 1, 1), 0.75),  # one that was near by chance does not count
        ((1, 1, 1, 5), None),
        ((1, 1, float("nan"), 1), 1.0),
        ((2, 2, 2, 2), 0.25),  # the limit itself is near
        ((), None),
    ],
)
def test_near_from_is_where_all_that_follows_is_near(distances: tuple[float, ...], least: float) -> None:
    points = list(zip((0.25, 0.5, 0.75, 1.0), distances, strict=False))
    assert nearness.near_from(points, 2) == least
