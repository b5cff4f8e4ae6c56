"""Time grids for one model, found by its own songs: short steps where its flow bends, long ones elsewhere.

A few songs are made in many steps. From those, the error of every possible step is known at first order, and
dynamic programming finds the grid of so many steps whose errors are the least together (in the manner of
Optimal Stepping, arXiv 2503.21774). That is a guess: each grid is then walked, and stands only where its
songs end nearer to those of many steps than the swayed grid's do. int8 is judged in the same way.

What was found lies beside the model's description, with its evidence. All states on the way are kept, so that
the work goes on where it was stopped.

n steps of the reference · t latent frames · c latent channels (64)
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor

from diffrhythm import conditioning, files, grids, precision, sampling, solvers, style
from diffrhythm.bundle import DEMO, Bundle
from diffrhythm.conditioning import Conditioning
from diffrhythm.errors import BundleError, CheckpointError, RequestError
from diffrhythm.generate import Request, choice, inspect, passes, seeded_noise
from diffrhythm.precision import Precision
from diffrhythm.presets import CPU_CFG
from diffrhythm.sampling import Passes, State
from diffrhythm.transformer import DiT

FILE = "tuning.json"
STEPS = (6, 8, 10, 12, 16)
# Of the songs that all others are compared with.
REFERENCE_STEPS = 64
# The steps whose songs int8 is judged on, and the share of their own error that it may add.
JUDGED_STEPS = 12
HARMLESS = 0.5
# Of each song, where the model makes any duration.
SECONDS = 20.0
# A grid that is better by less than this may be so by chance of its songs.
LEAST_GAIN = 0.02

_MAX_BYTES = 2**20

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Piece:
    """A song that models are tuned on."""

    lyrics: str
    style: str


PIECES = (
    Piece(
        "[00:01.00]Morning comes over the water\n[00:04.50]Carry me home on the tide\n"
        "[00:08.00]All of the lamps in the harbour\n[00:11.50]Burn till the dark has gone by\n",
        "pop song, warm piano, female voice",
    ),
    Piece(
        "[00:01.00]月光落在窗前\n[00:04.50]风把你的名字吹远\n[00:08.00]我在河边等一天\n[00:11.50]等春天再出现\n",
        "folk ballad, acoustic guitar",
    ),
    Piece(
        "[00:01.00]Run with the lights of the city\n[00:03.50]Nobody sleeps in this town\n"
        "[00:06.00]Hold on to me and be ready\n[00:08.50]We are not going to slow down\n",
        "energetic rock, electric guitar, drums",
    ),
)


# ---------------------------------------------------------------- what was found


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Grid(_Part):
    """points: of the grid. error, swayed_error: of its songs' latents, and of those on the swayed grid of as
    many steps, relative to the reference's; means over the songs.
    """

    points: list[float]
    error: Annotated[float, Field(ge=0)]
    swayed_error: Annotated[float, Field(ge=0)]

    @model_validator(mode="after")
    def _sound(self) -> Grid:
        try:
            grids.check(self.points)
        except RequestError as error:
            raise ValueError(str(error)) from error
        return self

    @property
    def is_better(self) -> bool:
        return self.error < (1 - LEAST_GAIN) * self.swayed_error


class Lowered(_Part):
    """What int8 adds to a song. error: of its latents, to those of the same steps in the tuning's precision.
    of_steps: of those steps themselves, to the reference.
    """

    error: Annotated[float, Field(ge=0)]
    of_steps: Annotated[float, Field(ge=0)]

    @property
    def is_harmless(self) -> bool:
        return self.error < HARMLESS * self.of_steps


class Tuning(_Part):
    """tuning.json. model: the bundle's hash. precision: of all runs. int8: None where it was not judged."""

    format: Literal[1] = Field(default=1, alias="schema")
    model: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    precision: Precision
    cfg: float
    songs: Annotated[int, Field(ge=1)]
    reference_steps: Annotated[int, Field(ge=1)]
    grids: list[Grid]
    int8: Lowered | None

    def grid(self, steps: int, cfg: float) -> tuple[float, ...] | None:
        """The points of so many steps; None where the swayed grid is as good, or was not compared at this
        guidance.
        """
        if cfg != self.cfg:
            return None
        better = (each for each in self.grids if len(each.points) == steps + 1 and each.is_better)
        return next((tuple(each.points) for each in better), None)

    def int8_is_harmless(self, steps: int) -> bool:
        """Whether int8 adds little to what so many steps miss; of what more of them miss it would be more."""
        return self.int8 is not None and self.int8.is_harmless and steps <= JUDGED_STEPS


def found(here: Bundle) -> Tuning | None:
    """What was found for this very model; None where it was never tuned, or has changed since.

    Raises BundleError for a file that cannot be read.
    """
    path = here.folder / FILE
    try:
        size = path.stat().st_size
        if size > _MAX_BYTES or not path.is_file():
            raise BundleError(f"no tuning, but {size} bytes: {path}; delete it, and tune again")
        tuning = Tuning.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BundleError(
            f"cannot read ({error.strerror}): {path}; make it readable, or delete it and tune again"
        ) from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise BundleError(f"{where}: {first['msg']}: {path}; delete it, and tune again") from error
    return tuning if tuning.model == here.hash else None


# ---------------------------------------------------------------- finding a grid


def step_errors(times: Sequence[float], x: Tensor, v: Tensor) -> Floats:
    """What each step along a trajectory would be off by: [n + 1, n + 1], from point i to point j > i.

    times: of its n + 1 points. x: [n + 1, t, c] there. v: [n, t, c], velocities at all but the last. Errors
    are squares, relative to what is at point j; infinite where j <= i.
    """
    count = len(times)
    errors = np.full((count, count), np.inf)
    for i in range(count - 1):
        for j in range(i + 1, count):
            reached = x[i] + (times[j] - times[i]) * v[i]
            errors[i, j] = float((reached - x[j]).square().mean() / x[j].square().mean())
    return errors


def best_grid(errors: Floats, times: Sequence[float], steps: int) -> tuple[float, ...]:
    """The grid of so many steps on these points whose errors are the least together.

    errors: as step_errors gives. Raises RequestError for no step, or more than there are.
    """
    last = len(times) - 1
    if not 1 <= steps <= last:
        raise RequestError(f"{steps} steps on {last + 1} points: tune: choose 1 to {last}")
    # least[j]: of all ways to point j in the steps so far; ways: the point before, for each number of steps.
    least = np.full(last + 1, np.inf)
    least[0] = 0
    ways = []
    for _ in range(steps):
        sums = least[:, None] + errors
        ways.append(sums.argmin(axis=0))
        least = sums.min(axis=0)
    path = [last]
    for before in reversed(ways):
        path.append(int(before[path[-1]]))
    return tuple(times[i] for i in reversed(path))


# ---------------------------------------------------------------- tuning

# report(what, step, steps): which song in which way, and how far it is.
Report = Callable[[str, int, int], None]


def tune(here: Bundle, *, songs: int, steps: Sequence[int], report: Report) -> Tuning:
    """Makes the songs, finds the grids, walks them, and writes what was found into the bundle's folder.

    Goes on where it was stopped. Raises BundleError where that folder cannot be written to, RequestError for
    numbers of songs or steps that make no sense.
    """
    if not 1 <= songs <= len(PIECES):
        raise RequestError(f"{songs} songs: --songs: choose 1 to {len(PIECES)}")
    if not steps or not all(1 < each < REFERENCE_STEPS for each in steps):
        raise RequestError(f"steps {list(steps)}: --steps: choose from 2 to {REFERENCE_STEPS - 1}")
    check_writable(here, FILE, "tune")
    work = files.cache_folder() / "tuning" / here.hash
    try:
        with files.alone(work.with_suffix(".lock"), wait=False):
            return _tune(here, songs, steps, work, report)
    except BlockingIOError as error:
        raise BundleError(f"{here.name} is being tuned already: {work}; wait for that") from error


def _tune(here: Bundle, songs: int, steps: Sequence[int], work: Path, report: Report) -> Tuning:
    studio = Studio(here, work, report)
    own = choice(here, studio.frames).precision
    numbers = range(songs)
    errors = np.mean([studio.step_errors(number, own) for number in numbers], axis=0)
    judged = []
    for count in sorted(set(steps)):
        points = best_grid(errors, swayed(REFERENCE_STEPS), count)
        error, swayed_error = (
            float(np.mean([studio.error(number, grid, own) for number in numbers]))
            for grid in (points, swayed(count))
        )
        judged.append(Grid(points=list(points), error=error, swayed_error=swayed_error))
    tuning = Tuning(
        model=here.hash,
        precision=own,
        cfg=CPU_CFG,
        songs=songs,
        reference_steps=REFERENCE_STEPS,
        grids=judged,
        int8=_int8(studio, numbers, own),
    )
    files.replace(here.folder / FILE, tuning.model_dump_json(by_alias=True, indent=1).encode())
    shutil.rmtree(studio.work, ignore_errors=True)
    return tuning


def swayed(steps: int) -> tuple[float, ...]:
    """The grid of so many steps that presets have where a model is not tuned."""
    return grids.sway(grids.uniform(steps), solvers.named("sway").sway)


def _int8(studio: Studio, numbers: Sequence[int], own: Precision) -> Lowered | None:
    """What int8 adds; None for models that nobody would have in it, and where all runs are in it already."""
    if own == "int8" or not precision.is_large(studio.here.config):
        return None
    grid = swayed(JUDGED_STEPS)
    # One precision after the other: only one is in memory.
    ends = [studio.end(number, grid, own) for number in numbers]
    lowered = [studio.end(number, grid, "int8") for number in numbers]
    added = [relative(made, exact) for made, exact in zip(lowered, ends, strict=True)]
    of_steps = [studio.error(number, grid, own) for number in numbers]
    return Lowered(error=float(np.mean(added)), of_steps=float(np.mean(of_steps)))


def relative(made: Tensor, exact: Tensor) -> float:
    """Error of latents, relative to the exact ones."""
    return float((made - exact).norm() / exact.norm())


def check_writable(here: Bundle, name: str, verb: str) -> None:
    """Raise BundleError where a file of this name cannot be put into the bundle's folder.

    verb: what it is for, for the message.
    """
    if here.folder == DEMO:
        raise BundleError(f"the demo is a part of the program: {DEMO}; copy its folder, and {verb} the copy")
    probe = here.folder / f".{name}.probe"
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise BundleError(
            f"cannot write ({error.strerror}): {here.folder}; copy the bundle, and {verb} the copy"
        ) from error


@dataclass
class Studio:
    """Makes the pieces in many ways. work: where every state is kept, a folder for each way.

    The model is in memory in one precision at a time.
    """

    here: Bundle
    work: Path
    report: Report
    _passes: dict[Precision, Passes] = field(default_factory=dict)
    _songs: dict[int, Conditioning] = field(default_factory=dict)

    def step_errors(self, number: int, own: Precision) -> Floats:
        """Of the piece's reference; see there."""
        states = self._states(number, swayed(REFERENCE_STEPS), own)
        x = torch.cat([self._noise(number), *(state.x_t for state in states)])
        # The velocity that a state has was evaluated where its step began.
        v = torch.cat([state.velocity for state in states])
        return step_errors(swayed(REFERENCE_STEPS), x, v)

    def error(self, number: int, grid: tuple[float, ...], own: Precision) -> float:
        """Of the piece on this grid, to its reference."""
        return relative(self.end(number, grid, own), self.end(number, swayed(REFERENCE_STEPS), own))

    def end(self, number: int, grid: tuple[float, ...], lowered: Precision) -> Tensor:
        """The piece's latents on this grid: [1, t, c]."""
        try:
            last = sampling.load_state(_file(self._folder(number, grid, lowered), len(grid) - 1))
        except CheckpointError:  # it is not walked yet
            last = self._states(number, grid, lowered)[-1]
        return last.x_t

    def _states(self, number: int, grid: tuple[float, ...], lowered: Precision) -> list[State]:
        """All states of the piece on this grid but the one it begins with."""
        folder = self._folder(number, grid, lowered)
        folder.mkdir(parents=True, exist_ok=True)
        steps = len(grid) - 1
        kept = _kept(folder, steps)
        if len(kept) == steps:
            return kept

        def keep(state: State) -> None:
            sampling.save_state(_file(folder, state.position), state)
            self.report(f"song {number + 1}, {steps} steps, {lowered}", state.position, steps)

        sampling.sample(
            self._opened(lowered),
            self._song(number),
            self._noise(number),
            steps=steps,
            cfg=CPU_CFG,
            grid=grid,
            on_step=keep,
            resume=kept[-1] if kept else None,
        )
        return _kept(folder, steps)

    def _folder(self, number: int, grid: tuple[float, ...], lowered: Precision) -> Path:
        way = f"{self._song(number).hash} {CPU_CFG} {lowered} {grid}"
        return self.work / hashlib.sha256(way.encode()).hexdigest()[:16]

    def _opened(self, lowered: Precision) -> Passes:
        if lowered not in self._passes:
            self._passes.clear()
            arithmetic = choice(self.here, self.frames, lowered).passes
            self._passes[lowered] = passes(self.here, self._model, frames=self.frames, arithmetic=arithmetic)
        return self._passes[lowered]

    @property
    def frames(self) -> int:
        """Latent frames of each piece."""
        return self._song(0).latent_shape[1]

    @cached_property
    def _model(self) -> DiT:
        return self.here.open_transformer()

    def _song(self, number: int) -> Conditioning:
        if number not in self._songs:
            piece, seconds = PIECES[number], self.here.fitting_duration(SECONDS)
            plan = inspect(self.here, Request(piece.lyrics, style=piece.style, duration=seconds))
            self._songs[number] = conditioning.build(
                self._model,
                text_ids=torch.from_numpy(plan.alignment.ids),
                style=torch.from_numpy(style.embed(piece.style, self.here)),
                negative_style=torch.from_numpy(self.here.negative_style),
                duration_frames=plan.frames,
            )
        return self._songs[number]

    def _noise(self, number: int) -> Tensor:
        return seeded_noise(number, self._song(number).latent_shape[1])


def _kept(folder: Path, steps: int) -> list[State]:
    """The states that are kept, from the first on, up to the first that is missing or damaged."""
    states = []
    for position in range(1, steps + 1):
        try:
            states.append(sampling.load_state(_file(folder, position)))
        except CheckpointError:
            break
    return states


def _file(folder: Path, position: int) -> Path:
    return folder / f"{position:03}.safetensors"
