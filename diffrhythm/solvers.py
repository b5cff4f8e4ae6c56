"""One update rule each: x at the next point of time. None knows the model.

The rules of higher order are torchdiffeq's own, one call for one interval of the grid. Euler's, which most
songs are made with, stands here and gives the same bits (test_solvers): importing torchdiffeq brings scipy
along, which takes 0.4 s of every song (benchmarks/first_step.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from diffrhythm.errors import RequestError

# velocity(t, x) → v. t: float32 scalar in [0, 1]; x, v: [b, t, c].
Velocity = Callable[[Tensor, Tensor], Tensor]
# What a solver carries from one step to the next, by name; a checkpoint keeps it.
Memory = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Step:
    """A step's end: x there, the last velocity that was evaluated on the way, what the next step may use."""

    x: Tensor
    v: Tensor
    memory: Memory = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Solver:
    """An update rule. evaluations: of the velocity in one step. order: of the error, in steps. sway: of the
    grid that suits it, see grids.sway.
    """

    evaluations: int
    order: int
    step: Callable[[Velocity, Tensor, float, float, Memory], Step]
    sway: float = 0.0


def named(name: str) -> Solver:
    """The solver of that name. Raises RequestError for a name that there is none of."""
    if name not in SOLVERS:
        raise RequestError(f"sampler {name!r}: sampler: choose one of {', '.join(SOLVERS)}")
    return SOLVERS[name]


def euler_step(velocity: Velocity, x_t: Tensor, t: float, t_next: float, memory: Memory) -> Step:
    """x at t_next by the explicit Euler rule; see one_step."""
    start, end = torch.tensor([t, t_next], dtype=torch.float32, device=x_t.device)
    v = velocity(start, x_t)
    return Step(x=x_t + (end - start) * v, v=v)


def one_step(method: str, velocity: Velocity, x_t: Tensor, t: float, t_next: float, memory: Memory) -> Step:
    """x at t_next by torchdiffeq's `method`, which starts afresh in each step and needs no memory.

    x_t: [b, t, c] float32. 0 <= t < t_next <= 1.
    """
    from torchdiffeq import odeint

    evaluated: list[Tensor] = []

    def noted(time: Tensor, x: Tensor) -> Tensor:
        evaluated[:] = [velocity(time, x)]
        return evaluated[0]

    interval = torch.tensor([t, t_next], dtype=torch.float32, device=x_t.device)
    # Cloned out of odeint's table of all points, which would otherwise be kept alive.
    x_next = odeint(noted, x_t, interval, method=method)[1].clone()
    return Step(x=x_next, v=evaluated[0])


SOLVERS: Mapping[str, Solver] = {
    "euler": Solver(evaluations=1, order=1, step=euler_step),
    # Euler's rule with most steps near the noise: as good in three quarters of them (docs/quality.md).
    "sway": Solver(evaluations=1, order=1, step=euler_step, sway=-1.0),
    "midpoint": Solver(evaluations=2, order=2, step=partial(one_step, "midpoint")),
    "heun": Solver(evaluations=2, order=2, step=partial(one_step, "heun2")),
    # torchdiffeq's rk4 is Kutta's 3/8 rule, not the classical one.
    "rk4": Solver(evaluations=4, order=4, step=partial(one_step, "rk4")),
}
