"""Grids against the published sampler's in float32, which is what ours are integrated in."""

import re
from pathlib import Path

import golden
import numpy as np
import pytest

from diffrhythm import grids

GRIDS = [
    pytest.param(path, name, id=f"{place}-{name}")
    for place, path in golden.files("time_grids.npz")
    for name in np.load(path).files
    if ".fp32." in name
]


@pytest.mark.parametrize(("path", "name"), GRIDS)
def test_a_grid_is_the_reference_grid_to_float32_rounding(path: Path, name: str) -> None:
    found = re.fullmatch(r"s(\d+)\.fp32\.(?:uniform|sway(.+))", name)
    assert found
    points = grids.uniform(int(found[1]) - 1)
    if found[2]:
        points = grids.sway(points, float(found[2]))
    reference = np.load(path)[name]
    assert points[-1] == 1.0
    # One rounding of a number near 1 is 6e-8; the reference's own sway rounds three of them.
    assert np.abs(np.asarray(points) - reference).max() <= 2e-7
