"""Noise → song: the loop over the grid, with a state after every step that can be kept and resumed.

b batch · t latent frames · c latent channels (64)
x_0 noise · x_1 song · x_t between · v velocity · time_grid the points of t
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from diffrhythm import files, grids, guidance, solvers
from diffrhythm.conditioning import Conditioning, Span, in_spans, with_spans
from diffrhythm.errors import CheckpointError, NotFiniteError, RequestError, RunawayError
from diffrhythm.transformer import Constants, Modulation

# A latent on its way has a standard deviation near 1 (noise 1.0, training latents 0.95 to 1.02). Random
# weights with guidance 4 reach 3.7, and guidance grows it about in proportion; a runaway grows without end,
# so a wide bound costs it a step or two and never stops a song that could still be heard.
LARGEST_STD = 50.0
# A full-length song's state is 3 MB; this bounds what a damaged file can make us read.
LARGEST_CHECKPOINT_BYTES = 256 * 2**20
# And the JSON in it, a few kilobytes: Python makes fifty times as much of brackets.
LARGEST_STATE = 2**22
CHECKPOINT_SCHEMA = 2
# What the names of the solver's tensors begin with in a checkpoint.
MEMORY = "memory."


@dataclass(frozen=True, slots=True)
class Before:
    """The windows of a long song that were made before the one at hand.

    latents: [b, t', c] of all their frames; the last `known` of them are the first of the window at hand.
    grids: that each of them walked. passes: of all of them.
    """

    latents: Tensor
    known: int
    grids: tuple[tuple[float, ...], ...]
    passes: int


@dataclass(frozen=True, slots=True)
class State:
    """A run after `position` steps of its grid: all that is needed to go on.

    x_t: [b, t, c] float32. velocity: the last one evaluated, like x_t; zero before the first step. time_grid:
    whole, as it now stands. begun: the grid as it was at first. passes: transformer passes so far. memory:
    the solver's. before, later: of a song in windows (windows.py), what was made before this one, and the
    steps of each to come.
    """

    x_t: Tensor
    velocity: Tensor
    position: int
    time_grid: tuple[float, ...]
    begun: tuple[float, ...]
    conditioning_hash: str
    passes: int = 0
    memory: solvers.Memory = field(default_factory=dict)
    before: Before | None = None
    later: tuple[int, ...] = ()

    @property
    def window(self) -> int:
        """Windows made before this one."""
        return len(self.before.grids) if self.before else 0

    @property
    def t(self) -> float:
        """The point of time that x_t belongs to, in [0, 1]."""
        return self.time_grid[self.position]

    @property
    def reached(self) -> float:
        """The t of the frames that are least far: 0 until the last window has begun."""
        return 0.0 if self.later else self.t

    @property
    def walked(self) -> tuple[float, ...]:
        """The grid of this window as far as it is done, or that of one before if that had fewer steps."""
        grids_before = self.before.grids if self.before else ()
        return min((*grids_before, self.time_grid[: self.position + 1]), key=len)

    @property
    def step(self) -> int:
        """Solver steps done, in all windows."""
        return self._steps_before + self.position

    @property
    def steps(self) -> int:
        """Solver steps of all windows, of the grids as they now stand."""
        return self._steps_before + len(self.time_grid) - 1 + sum(self.later)

    @property
    def _steps_before(self) -> int:
        return sum(len(grid) - 1 for grid in self.before.grids) if self.before else 0

    @property
    def density(self) -> float:
        """Steps that the grid would have had at the pace of what is left; at its end, as many as it has, or
        the next window has.
        """
        steps_left = len(self.time_grid) - 1 - self.position
        if steps_left == 0:
            return float(self.later[0]) if self.later else float(len(self.time_grid) - 1)
        return steps_left / grids.left(self.begun, self.t)

    @property
    def latent_std(self) -> float:
        """The largest standard deviation among the batch's x_t."""
        return float(self.x_t.flatten(1).std(dim=1).max())

    def estimate(self) -> Tensor:
        """Where the flow would end if it went straight on: x_1 ≈ x_t + (1 - t) v, [b, t, c]."""
        return self.x_t + (1 - self.t) * self.velocity

    def with_tail(self, points: Sequence[float]) -> State:
        """The same state with `points` in place of what is left of the grid.

        Raises RequestError unless they increase from above t to 1.
        """
        tail = tuple(float(point) for point in points)
        grids.check_tail(self.t, tail)
        return replace(self, time_grid=self.time_grid[: self.position + 1] + tail)

    def thinned(self, density: float) -> State:
        """The same state with what is left of the grid, and those of later windows, as dense as that; itself
        where they are no denser.
        """
        later = tuple(min(steps, max(1, math.floor(density))) for steps in self.later)
        state = self if later == self.later else replace(self, later=later)
        if self.t < 1 and density < self.density - 1e-6:
            # The small allowance keeps (1 - 0.9) * 10 = 1.0000000000000002 from becoming two steps.
            steps = max(1, math.ceil(grids.left(self.begun, self.t) * density - 1e-9))
            return state.with_tail(grids.thin(self.t, self.time_grid[self.position + 1 :], steps))
        return state

    def spread(self, steps: int) -> State:
        """The same state with at most so many steps left, shared out over this window and those to come.

        Each keeps at least one.
        """
        left = len(self.time_grid) - 1 - self.position
        if steps >= left + sum(self.later):
            return self
        here = max(1, round(left * steps / (left + sum(self.later)))) if left else 0
        each, more = divmod(max(0, steps - here), len(self.later)) if self.later else (0, 0)
        later = tuple(max(1, each + (i < more)) for i in range(len(self.later)))
        tail = grids.thin(self.t, self.time_grid[self.position + 1 :], here) if left else ()
        return replace(self.with_tail(tail), later=later)

    def joined(self, latents: Tensor) -> Tensor:
        """`latents` [b, t, c] of this window behind those made before it: [b, t' + t - known, c]."""
        if self.before is None:
            return latents
        return torch.cat([self.before.latents, latents[:, self.before.known :]], dim=1)

    def passed_on(self, known: int) -> Before:
        """What this window, which is finished, and those before it are to the next one, which knows so many
        frames.
        """
        made, grids_before = self.joined(self.x_t), self.before.grids if self.before else ()
        return Before(made, known, (*grids_before, self.time_grid), self.passes)


class Passes(Protocol):
    """What computes velocities: a DiT, or what is compiled of one."""

    def modulation(self, t: float | Tensor, scalars: Tensor) -> Modulation:
        """See DiT.modulation."""
        ...

    def velocity(self, x_t: Tensor, modulation: Modulation, constants: Constants) -> Tensor:
        """See DiT.velocity."""
        ...


# Called after every step; may give the same state with another grid to go on with.
OnStep = Callable[[State], State | None]


def sample(
    model: Passes,
    conditioning: Conditioning,
    noise: Tensor,
    *,
    steps: int,
    cfg: float,
    sampler: str = "euler",
    grid: Sequence[float] | None = None,
    spans: Sequence[Span] | None = None,
    on_step: OnStep | None = None,
    resume: State | None = None,
    before: Before | None = None,
    later: tuple[int, ...] = (),
) -> Tensor:
    """The song's latents: [b, t, c] float32.

    noise: [b, t, c], x at t = 0. steps: solver steps, on the sampler's own grid or on `grid`; 0 gives the
    bare noise. cfg: guidance w in p + (p - q) w, below 1e-5 one pass does. spans: frames to make new; the
    known latent guides in all others, and there the result is the known latent, exactly. on_step: called
    after every step, with a state that is finite. resume: goes on from that state, on its own grid. before,
    later: of a song of which this is a window; every state carries them.

    Raises RequestError for what cannot be sampled, CheckpointError for a state of another song,
    NotFiniteError and RunawayError at the step where x_t goes wrong, before on_step sees it.
    """
    if not math.isfinite(cfg):
        raise RequestError(f"guidance {cfg}: cfg: give a number, such as 4")
    solver = solvers.named(sampler)
    asked = conditioning if spans is None else with_spans(conditioning, spans)
    time_grid = grids.sway(grids.uniform(steps), solver.sway) if grid is None else _points(grid, steps)
    start = _start(asked, noise.float(), time_grid, before, later)
    state = start if resume is None else _resumed(resume, start)
    with torch.no_grad():
        while state.position < len(state.time_grid) - 1:
            state = _advance(model, asked, state, solver, cfg)
            _check_numbers(state)
            state = (on_step(state) if on_step else None) or state
    return state.x_t if spans is None else _with_known(state.x_t, asked, spans)


def passes_left(state: State, *, cfg: float, sampler: str) -> int:
    """Transformer passes that what is left of the state's grid takes."""
    return (state.steps - state.step) * passes_a_step(sampler, cfg)


def passes_a_step(sampler: str, cfg: float) -> int:
    """Transformer passes of one solver step. Raises RequestError for a sampler that there is none of."""
    return _passes(solvers.named(sampler), cfg)


def save_state(path: Path, state: State) -> None:
    """Writes a checkpoint, whole or not at all: temporary file, fsync, rename. Raises OSError."""
    tensors = {"x_t": state.x_t, "velocity": state.velocity}
    if state.before is not None:
        tensors["before"] = state.before.latents
    tensors |= {f"{MEMORY}{name}": tensor for name, tensor in state.memory.items()}
    about = {
        "schema": CHECKPOINT_SCHEMA,
        "position": state.position,
        "time_grid": state.time_grid,
        "conditioning_hash": state.conditioning_hash,
        "passes": state.passes,
        "begun": state.begun,
        "later": state.later,
    }
    if state.before is not None:
        about["before"] = {name: getattr(state.before, name) for name in ("known", "grids", "passes")}
    data = save(
        {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, {"state": json.dumps(about)}
    )
    files.replace(path, data)


def load_state(path: Path) -> State:
    """The state that `save_state` wrote. Raises CheckpointError for a file that is absent or not whole."""
    try:
        size = path.stat().st_size
        if not path.is_file():  # a pipe would make us wait for ever
            raise CheckpointError(_damaged(path, "no file"))
        if size > LARGEST_CHECKPOINT_BYTES:
            raise CheckpointError(_damaged(path, f"{size} bytes are more than any checkpoint has"))
        with safe_open(path, framework="pt") as file:
            told = (file.metadata() or {})["state"]
            if len(told) > LARGEST_STATE:
                raise CheckpointError(_damaged(path, f"{len(told)} characters are more than any state has"))
            about = json.loads(told)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
        state = _state(about, tensors)
    except (
        OSError,
        SafetensorError,
        ValueError,
        KeyError,
        TypeError,
        OverflowError,
        RecursionError,
        RequestError,
    ) as error:
        raise CheckpointError(_damaged(path, f"{type(error).__name__}: {error}")) from error
    return state


def _points(grid: Sequence[float], steps: int) -> tuple[float, ...]:
    """`grid` as plain numbers, checked."""
    points = tuple(float(point) for point in grid)
    grids.check(points)
    if len(points) != steps + 1:
        raise RequestError(f"{steps} steps on {len(points)} points: time grid: n steps have n + 1 points")
    return points


def _start(
    conditioning: Conditioning,
    noise: Tensor,
    time_grid: tuple[float, ...],
    before: Before | None,
    later: tuple[int, ...],
) -> State:
    """The state before the first step."""
    shape = conditioning.latent_shape
    if noise.dim() != 3 or noise.shape[1:] != shape[1:] or shape[0] not in (1, noise.shape[0]):
        raise RequestError(
            f"noise of shape {list(noise.shape)}: sampling: this song takes {list(shape)}, or a batch of it"
        )
    x_0 = noise.to(conditioning.all_new.device)
    return State(
        x_0,
        torch.zeros_like(x_0),
        0,
        time_grid,
        time_grid,
        conditioning.hash,
        passes=before.passes if before else 0,
        before=before,
        later=later,
    )


def _resumed(state: State, start: State) -> State:
    """`state`, where it belongs to the run that would begin with `start`."""
    if state.conditioning_hash != start.conditioning_hash:
        raise CheckpointError("checkpoint of another song or model: resume: begin this song afresh")
    if state.x_t.shape != start.x_t.shape:
        raise CheckpointError(
            f"checkpoint of shape {list(state.x_t.shape)} for {list(start.x_t.shape)}: resume: "
            "begin this song afresh"
        )
    device = start.x_t.device
    return replace(
        state,
        x_t=state.x_t.to(device),
        velocity=state.velocity.to(device),
        memory={name: tensor.to(device) for name, tensor in state.memory.items()},
        before=None
        if state.before is None
        else replace(state.before, latents=state.before.latents.to(device)),
    )


def _advance(
    model: Passes, conditioning: Conditioning, state: State, solver: solvers.Solver, cfg: float
) -> State:
    """The state one solver step later."""

    def velocity(t: Tensor, x_t: Tensor) -> Tensor:
        modulation = model.modulation(t, conditioning.scalars)
        p = model.velocity(x_t, modulation, conditioning.conditional)
        if not guidance.is_on(cfg):
            return p
        return guidance.combine(p, model.velocity(x_t, modulation, conditioning.null), cfg)

    t, t_next = state.time_grid[state.position : state.position + 2]
    step = solver.step(velocity, state.x_t, t, t_next, state.memory)
    return replace(
        state,
        x_t=step.x,
        velocity=step.v,
        memory=step.memory,
        position=state.position + 1,
        passes=state.passes + _passes(solver, cfg),
    )


def _passes(solver: solvers.Solver, cfg: float) -> int:
    return solver.evaluations * (2 if guidance.is_on(cfg) else 1)


def _check_numbers(state: State) -> None:
    where = f"step {state.step} of {state.steps}, t = {state.t:.3f}"
    if not bool(torch.isfinite(state.x_t).all()):
        raise NotFiniteError(f"NaN or infinity in the latent: {where}: use a safer precision, such as fp32")
    if state.latent_std > LARGEST_STD:
        raise RunawayError(
            f"latent with a standard deviation of {state.latent_std:.3g} (a song has 1): {where}: "
            "use a safer precision or less guidance"
        )


def _with_known(x_1: Tensor, conditioning: Conditioning, spans: Sequence[Span]) -> Tensor:
    """x_1 in the spans, elsewhere the known latent itself."""
    if conditioning.known is None:
        return x_1
    return torch.where(in_spans(conditioning, spans), x_1, conditioning.known)


def _state(about: dict[str, object], tensors: dict[str, Tensor]) -> State:
    """The state that a checkpoint's parts make. Raises ValueError, KeyError, TypeError or RequestError."""
    if about["schema"] != CHECKPOINT_SCHEMA:
        raise ValueError(f"schema {about['schema']}, not {CHECKPOINT_SCHEMA}")
    position, passes = about["position"], about["passes"]
    points, conditioning_hash = about["time_grid"], about["conditioning_hash"]
    begun_points = about["begun"]
    if type(position) is not int or type(passes) is not int:
        raise TypeError("position or passes is no whole number")
    if not (
        isinstance(points, list) and isinstance(begun_points, list) and isinstance(conditioning_hash, str)
    ):
        raise TypeError("time grid or hash of another type")
    time_grid, begun = (tuple(float(point) for point in each) for each in (points, begun_points))
    grids.check(time_grid)
    grids.check(begun)
    if len(begun) == 1 < len(time_grid):
        raise ValueError(f"a grid of {len(time_grid)} points that began without steps")
    if not 0 <= position < len(time_grid) or passes < 0:
        raise ValueError(f"position {position} in a grid of {len(time_grid)} points after {passes} passes")
    x_t, velocity = tensors.pop("x_t"), tensors.pop("velocity")
    if x_t.dim() != 3 or x_t.shape != velocity.shape or not x_t.numel():
        raise ValueError(f"latents of shapes {list(x_t.shape)} and {list(velocity.shape)}")
    if not all(_is_sound(tensor) for tensor in (x_t, velocity, *tensors.values())):
        raise ValueError("numbers that are not float32 or not finite")
    before = _before(about, tensors, x_t)
    later = _whole_numbers(about["later"])
    if not all(name.startswith(MEMORY) for name in tensors):
        raise ValueError(f"tensors of unknown names: {', '.join(tensors)}")
    memory = {name.removeprefix(MEMORY): tensor for name, tensor in tensors.items()}
    return State(x_t, velocity, position, time_grid, begun, conditioning_hash, passes, memory, before, later)


def _before(about: dict[str, object], tensors: dict[str, Tensor], x_t: Tensor) -> Before | None:
    """The windows before, taken out of the checkpoint's parts; None where there were none."""
    if "before" not in about and "before" not in tensors:
        return None
    told, latents = about["before"], tensors.pop("before")
    if not isinstance(told, dict) or not isinstance(told["grids"], list):
        raise TypeError("windows before of another type")
    grids_before = tuple(tuple(float(point) for point in grid) for grid in told["grids"])
    for grid in grids_before:
        grids.check(grid)
    known, passes = _whole_numbers([told["known"], told["passes"]])
    if not grids_before or latents.dim() != 3 or latents.shape[::2] != x_t.shape[::2]:
        raise ValueError("windows before that are none, or of another shape")
    if not known <= min(latents.shape[1], x_t.shape[1]):
        raise ValueError(f"{known} known frames of {latents.shape[1]}")
    return Before(latents, known, grids_before, passes)


def _whole_numbers(values: object) -> tuple[int, ...]:
    """Raises TypeError or ValueError unless they are a list of numbers from 1."""
    if not isinstance(values, list) or not all(type(value) is int for value in values):
        raise TypeError("no list of whole numbers")
    if not all(value >= 1 for value in values):
        raise ValueError("a number below 1")
    return tuple(values)


def _is_sound(tensor: Tensor) -> bool:
    return tensor.dtype == torch.float32 and bool(torch.isfinite(tensor).all())


def _damaged(path: Path, why: str) -> str:
    return f"checkpoint cannot be used ({why}): {path}: delete it; the song begins afresh"
