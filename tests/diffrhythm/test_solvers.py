import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torchdiffeq import odeint

from diffrhythm import grids, solvers
from diffrhythm.errors import RequestError
from diffrhythm.solvers import SOLVERS, Velocity

X_0 = torch.tensor([[[1.0, -2.0]]])
# torchdiffeq's names of our solvers.
METHODS = {"euler": "euler", "sway": "euler", "midpoint": "midpoint", "heun": "heun2", "rk4": "rk4"}


def integrate(name: str, velocity: Velocity, x: Tensor, steps: int) -> Tensor:
    points = grids.uniform(steps)
    for t, t_next in pairwise(points):
        x = solvers.named(name).step(velocity, x, t, t_next, {}).x
    return x


def growth(_t: Tensor, x: Tensor) -> Tensor:
    """x at t = 1 is e times x at t = 0."""
    return x


def wave(t: Tensor, x: Tensor) -> Tensor:
    return torch.sin(3 * x) + t * t


@pytest.mark.parametrize("name", SOLVERS)
def test_a_constant_field_is_integrated_exactly(name: str) -> None:
    end = integrate(name, lambda _t, x: torch.full_like(x, 0.5), X_0, 4)
    assert torch.equal(end, X_0 + 0.5)


@pytest.mark.parametrize("name", SOLVERS)
def test_half_the_step_divides_the_error_by_two_to_the_order(name: str) -> None:
    x_0, end = X_0.double(), X_0.double() * math.e
    errors = [float((integrate(name, growth, x_0, steps) - end).norm()) for steps in (4, 8)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(solvers.named(name).order, abs=0.3)


@pytest.mark.parametrize("name", SOLVERS)
def test_one_call_for_each_interval_is_one_call_for_the_grid(name: str) -> None:
    time_grid = torch.tensor(grids.uniform(7), dtype=torch.float32)
    assert torch.equal(integrate(name, wave, X_0, 7), odeint(wave, X_0, time_grid, method=METHODS[name])[-1])


@pytest.mark.parametrize("name", SOLVERS)
def test_a_step_evaluates_as_often_as_it_says_and_gives_the_last_velocity(name: str) -> None:
    given: list[Tensor] = []

    def velocity(t: Tensor, x: Tensor) -> Tensor:
        given.append(wave(t, x))
        return given[-1]

    step = solvers.named(name).step(velocity, X_0, 0.0, 0.5, {})
    assert len(given) == solvers.named(name).evaluations
    assert torch.equal(step.v, given[-1])


def test_an_unknown_sampler_is_refused_with_the_known_ones() -> None:
    with pytest.raises(RequestError, match=r"'eular'.*euler, sway, midpoint, heun, rk4"):
        solvers.named("eular")
