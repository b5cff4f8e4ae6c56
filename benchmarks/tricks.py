"""Ways to spend fewer passes, most of them none of the library's: what is worth building is found out here.

b batch · t latent frames · c latent channels (64) · d model width
p conditional velocity · q null velocity · v what becomes of them
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from diffrhythm import grids, guidance, sampling, solvers
from diffrhythm.conditioning import Conditioning
from diffrhythm.solvers import Memory, Solver, Step, Velocity
from diffrhythm.transformer import Constants, DiT, Modulation

# A pass, and how much of one it cost: (model, x_t, modulation, constants) → (velocity [b, t, c], share).
Pass = Callable[[sampling.Passes, Tensor, Modulation, Constants], tuple[Tensor, float]]


class Passes:
    """The two kinds of pass of one song. count: passes so far; one of a part of the blocks is that part."""

    def __init__(self, model: sampling.Passes, song: Conditioning, run: Pass) -> None:
        self._model, self._song, self._run = model, song, run
        self.count = 0.0

    def conditional(self, t: Tensor, x_t: Tensor) -> Tensor:
        return self._counted(t, x_t, self._song.conditional)

    def null(self, t: Tensor, x_t: Tensor) -> Tensor:
        return self._counted(t, x_t, self._song.null)

    def _counted(self, t: Tensor, x_t: Tensor, constants: Constants) -> Tensor:
        modulation = self._model.modulation(t, self._song.scalars)
        v, cost = self._run(self._model, x_t, modulation, constants)
        self.count += cost
        return v


# ---------------------------------------------------------------- fewer null passes

# (passes, cfg) → the velocity that a solver sees.
Guide = Callable[[Passes, float], Velocity]


def always(passes: Passes, cfg: float) -> Velocity:
    """As the library guides: both passes each time, one where there is no guidance."""

    def velocity(t: Tensor, x_t: Tensor) -> Tensor:
        p = passes.conditional(t, x_t)
        return guidance.combine(p, passes.null(t, x_t), cfg) if guidance.is_on(cfg) else p

    return velocity


def within(first: float, end: float) -> Guide:
    """Guidance for first <= t < end alone. Source: Kynkäänniemi et al., arXiv 2404.07724."""

    def guide(passes: Passes, cfg: float) -> Velocity:
        def velocity(t: Tensor, x_t: Tensor) -> Tensor:
            p = passes.conditional(t, x_t)
            if not (guidance.is_on(cfg) and first <= float(t) < end):
                return p
            return guidance.combine(p, passes.null(t, x_t), cfg)

        return velocity

    return guide


def held(every: int, after: float = 0.0) -> Guide:
    """From t = `after` on one null pass for `every` evaluations: between them the last p - q goes on."""

    def guide(passes: Passes, cfg: float) -> Velocity:
        difference: Tensor | None = None
        age = 0

        def velocity(t: Tensor, x_t: Tensor) -> Tensor:
            nonlocal difference, age
            p = passes.conditional(t, x_t)
            age += 1
            if difference is None or float(t) < after or age >= every:
                difference, age = p - passes.null(t, x_t), 0
            return p + difference * cfg

        return velocity

    return guide


# ---------------------------------------------------------------- fewer blocks in a pass


def whole(
    model: sampling.Passes, x_t: Tensor, modulation: Modulation, constants: Constants
) -> tuple[Tensor, float]:
    """Every block."""
    return model.velocity(x_t, modulation, constants), 1.0


@dataclass(frozen=True, slots=True)
class _Kept:
    """Of the last whole pass of a kind: what left its first block, what the middle ones added to that."""

    first: Tensor
    middle: Tensor
    is_fresh: bool = True


def reusing(threshold: float) -> Pass:
    """Every other pass of a kind at most takes over what the middle blocks added in the pass before it.

    It does so where what leaves the first block has changed by less than `threshold`, relatively. In the
    manner of the first-block cache of ParaAttention, which compares in the same place.
    """
    kept: dict[int, _Kept] = {}

    def run(
        model: sampling.Passes, x_t: Tensor, modulation: Modulation, constants: Constants
    ) -> tuple[Tensor, float]:
        assert isinstance(model, DiT)
        depth, kind = len(model.transformer_blocks), id(constants)
        first = _behind(model, 0, model.input_embed(x_t, constants.inputs + modulation.row), constants)
        before = kept.get(kind)
        if before and before.is_fresh and _change(first, before.first) < threshold:
            kept[kind] = replace(before, is_fresh=False)
            h, cost = first + before.middle, 2 / depth
        else:
            h, cost = first, 1.0
            for i in range(1, depth - 1):
                h = _behind(model, i, h, constants)
            kept[kind] = _Kept(first, h - first)
        h = _behind(model, depth - 1, h, constants)
        v: Tensor = model.proj_out(model.norm_out(h, modulation.scale, modulation.shift))
        return v, cost

    return run


def _behind(model: DiT, i: int, h: Tensor, constants: Constants) -> Tensor:
    """What leaves block i, its text added."""
    out: Tensor = model.transformer_blocks[i](h, constants.rotary)
    return out + constants.fusion[i] if i < len(constants.fusion) else out


def _change(h: Tensor, before: Tensor) -> float:
    return float((h - before).norm() / before.norm())


@dataclass(frozen=True, slots=True)
class Trick:
    """How a song's velocities come about. passes: makes a pass that knows nothing of other songs."""

    guide: Guide = always
    passes: Callable[[], Pass] = lambda: whole


PLAIN = ""
HELD = "p − q held from t = 0.4"
TRICKS: Mapping[str, Trick] = {
    PLAIN: Trick(),
    "guided in t < 0.5": Trick(within(0.0, 0.5)),
    "guided in 0.25 ≤ t < 0.75": Trick(within(0.25, 0.75)),
    "guided from t = 0.25": Trick(within(0.25, 1.0)),
    "p − q held, every 2nd step": Trick(held(2)),
    HELD: Trick(held(2, after=0.4)),
    "blocks reused, change < 0.1": Trick(passes=lambda: reusing(0.1)),
    "blocks reused, change < 0.3": Trick(passes=lambda: reusing(0.3)),
}


# ---------------------------------------------------------------- a better step for one evaluation


def ab2_step(velocity: Velocity, x_t: Tensor, t: float, t_next: float, memory: Memory) -> Step:
    """x at t_next by the rule of Adams and Bashforth of order 2 for uneven steps; Euler's at first."""
    start, end = torch.tensor([t, t_next], dtype=torch.float32, device=x_t.device)
    v = velocity(start, x_t)
    slope = v
    if memory:
        slope = v + (v - memory["v"]) * (end - start) / (2 * (start - memory["t"]))
    return Step(x=x_t + (end - start) * slope, v=v, memory={"v": v, "t": start})


def dpm2_step(velocity: Velocity, x_t: Tensor, t: float, t_next: float, memory: Memory) -> Step:
    """x at t_next by DPM-Solver++(2M), which follows the estimate of the song in the time log(t / (1 - t)).

    That time is infinite at both ends, so the first two steps and the last are Euler's. Source: Lu et al.,
    arXiv 2211.01095, with the flow's signal t and noise 1 - t.
    """
    start, end = torch.tensor([t, t_next], dtype=torch.float64, device=x_t.device)
    v = velocity(start.float(), x_t)
    song = x_t + (1 - start).float() * v
    target = song
    if memory and memory["t"] > 0 and t_next < 1:
        step, before = torch.logit(end) - torch.logit(start), torch.logit(start) - torch.logit(memory["t"])
        target = song + (song - memory["song"]) * (step / (2 * before)).float()
    kept = (1 - end) / (1 - start)
    x_next = kept.float() * x_t + (end - start * kept).float() * target
    return Step(x=x_next, v=v, memory={"song": song, "t": start})


def walk(velocity: Velocity, x_0: Tensor, grid: Sequence[float], solver: Solver) -> Tensor:
    """x at the grid's end, as sampling.sample walks, of whatever velocity."""
    x_t = x_0
    memory: Memory = {}
    for t, t_next in pairwise(grid):
        step = solver.step(velocity, x_t, t, t_next, memory)
        x_t, memory = step.x, step.memory
    return x_t


# Rules alone; where steps lie is said apart.
SOLVERS: Mapping[str, Solver] = {
    **{name: solver for name, solver in solvers.SOLVERS.items() if not solver.sway},
    "ab2": Solver(evaluations=1, order=2, step=ab2_step),
    "dpm2": Solver(evaluations=1, order=2, step=dpm2_step),
}


# ---------------------------------------------------------------- where the steps lie

# Of 32 equal steps, the ends of those that are left when there are fewer, for each number of steps.
# Source: Fast F5-TTS, arXiv 2505.19931, which found them for speech.
_PRUNED: Mapping[int, Sequence[int]] = {
    6: (0, 2, 4, 6, 8, 16, 32),
    7: (0, 2, 4, 6, 8, 16, 24, 32),
    10: (0, 2, 4, 6, 8, 12, 16, 20, 24, 28, 32),
    12: (0, 2, 4, 6, 8, 10, 12, 14, 16, 20, 24, 28, 32),
    16: (*range(9), 10, 12, 14, 16, 20, 24, 28, 32),
}


def pruned(steps: int) -> tuple[float, ...]:
    """The grid of EPSS in so many steps, which are one of its numbers."""
    return tuple(point / 32 for point in _PRUNED[steps])


def swayed(s: float) -> Callable[[int], tuple[float, ...]]:
    """Grids by grids.sway."""
    return lambda steps: grids.sway(grids.uniform(steps), s)


UNIFORM = "uniform"
GRIDS: Mapping[str, Callable[[int], tuple[float, ...]]] = {
    UNIFORM: grids.uniform,
    **{f"sway {s:g}": swayed(s) for s in (-1.0, -0.5)},
    "EPSS": pruned,
}
