"""Static int8 for one model, found on a few songs of its own: factors, steps, and which linears to spare.

Short songs are made in a few steps of float32, and what enters each linear is recorded. From that follow the
factors and steps of smoothquant.py. Then the error of the velocity is measured, of the static form and of the
dynamic one, at several times and in both kinds of pass. Where it is above the budget, the linears that add
most to it for what it costs become dynamic or stay in floating point.

All of this is calculated in float32 by torch, with int8 emulated, so that it gives the same on a processor
without int8. What was found lies beside the model's description, with its evidence. Intermediate results are
kept, so that the work continues where it was stopped.

t latent frames · d model width · n rows of activations · k channels of an input
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from diffrhythm import conditioning, files, guidance, smoothquant, style, tuning
from diffrhythm.bundle import Bundle
from diffrhythm.conditioning import Conditioning
from diffrhythm.config import ModelConfig
from diffrhythm.errors import BundleError, RequestError
from diffrhythm.generate import Request, inspect, seeded_noise
from diffrhythm.presets import CPU_CFG
from diffrhythm.smoothquant import BUDGET, COSTS, INPUT_OF, INPUTS, Calibration, Dynamic, Form, Input
from diffrhythm.transformer import Block, Constants, DiT
from diffrhythm.tuning import PIECES

FILE = "calibration.safetensors"
# Of each song, and its steps: two passes each.
FRAMES = 256
STEPS = 6
# Frames of a pass whose activations are kept whole.
ROWS = 8
# The dynamic form that the static one is compared with: numbers that share a scale, blocks in float.
GROUP = 128
DYNAMIC_SPARED = frozenset({0})

_MAX_BYTES = 2**26
_EVIDENCE = "evidence"


# ---------------------------------------------------------------- what was found


Error = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Evidence(BaseModel):
    """What a calibration was found by, and how good it is. model: the bundle's hash.

    frames: of each song. times: of its passes, in [0, 1]. error, dynamic_error: of the velocity, relative to
    float32, in the forms that were chosen and in the dynamic one; static_error: with every linear static.
    linears: what each linear alone adds to it in each form. forms: that were chosen.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    format: Literal[1] = Field(default=1, alias="schema")
    model: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    songs: Annotated[int, Field(ge=1)]
    frames: Annotated[int, Field(ge=1)]
    times: list[float]
    error: Error
    dynamic_error: Error
    static_error: Error
    linears: dict[str, dict[Form, Error]]
    forms: dict[str, Form]


def found(here: Bundle) -> Calibration | None:
    """What was found for this very model; None where it was never calibrated, or has changed since.

    Raises BundleError for a file that cannot be read.
    """
    path = here.folder / FILE
    try:
        if not path.is_file() and (path.exists() or path.is_symlink()):
            raise _damaged(path, "not a file")
        if path.stat().st_size > _MAX_BYTES:
            raise _damaged(path, f"{path.stat().st_size} bytes")
        with safe_open(path, framework="pt") as file:
            evidence = Evidence.model_validate_json((file.metadata() or {}).get(_EVIDENCE, ""))
            if evidence.model != here.hash:
                return None
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _damaged(path, f"cannot read: {error.strerror}") from error
    except SafetensorError as error:
        raise _damaged(path, str(error)) from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise _damaged(path, f"{'.'.join(map(str, first['loc'])) or 'the whole'}: {first['msg']}") from error
    inputs = _inputs(tensors, here.config)
    if inputs is None or _linears(here.config).keys() != evidence.forms.keys():
        raise _damaged(path, "tensors of another model")
    return Calibration(inputs, evidence.forms, evidence.error, evidence.dynamic_error)


def _inputs(tensors: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Input] | None:
    """The inputs of a file; None where they are not those of a model of these sizes."""
    wanted: dict[str, tuple[int, ...]] = {}
    for name, width in _widths(config).items():
        wanted[f"{name}.factors"], wanted[f"{name}.step"] = (width,), ()
    if {name: tuple(tensor.shape) for name, tensor in tensors.items()} != wanted:
        return None
    if not all(t.dtype == torch.float32 and bool((t.isfinite() & (t > 0)).all()) for t in tensors.values()):
        return None
    return {
        name: Input(tensors[f"{name}.factors"], float(tensors[f"{name}.step"])) for name in _widths(config)
    }


def _widths(config: ModelConfig) -> dict[str, int]:
    """Channels of each input of the blocks."""
    inner = config.ff_mult * config.dim
    return {
        f"{i}.{name}": inner if name == "gated" else config.dim
        for i in range(config.depth)
        for name in INPUTS
    }


def _linears(config: ModelConfig) -> dict[str, int]:
    """Weights of each linear of the blocks."""
    return {
        f"{i}.{name}": config.dim**2 * (1 if name.startswith("self_attn.") else config.ff_mult)
        for i in range(config.depth)
        for name in INPUT_OF
    }


def _damaged(path: Path, what: str) -> BundleError:
    return BundleError(f"no calibration ({what}): {path}; delete it, and calibrate again")


# ---------------------------------------------------------------- which form suits each linear


def cost(forms: Mapping[str, Form], weights: Mapping[str, int]) -> float:
    """Return the time of all linears in these forms, relative to all of them static."""
    return sum(COSTS[forms[name]] * size for name, size in weights.items()) / sum(weights.values())


def relaxed(
    errors: Mapping[str, Mapping[Form, float]],
    weights: Mapping[str, int],
    forms: Mapping[str, Form],
    *,
    measured: float,
    budget: float,
    most_cost: float,
) -> dict[str, Form]:
    """Return forms that keep to the budget, or come as near to it as most_cost allows.

    errors: that each linear alone adds in each form. Those of different linears are independent, so that
    their squares add up; they are scaled to give `measured`, the error in `forms`. weights: numbers of each
    linear. Each time the linear is changed that takes away most of the error for what it costs.
    """
    chosen = dict(forms)
    total = sum(errors[name][form] ** 2 for name, form in forms.items())
    left = total
    while left > 0 and measured**2 * left / total > budget**2:
        room = (most_cost - cost(chosen, weights)) * sum(weights.values())
        ways = [
            ((errors[name][now] ** 2 - errors[name][form] ** 2) / price, name, form)
            for name, now in chosen.items()
            for form in COSTS
            if 0 < (price := (COSTS[form] - COSTS[now]) * weights[name]) <= room
        ]
        gain, name, form = max(ways, default=(0.0, "", "float"))
        if gain <= 0:
            break
        left -= errors[name][chosen[name]] ** 2 - errors[name][form] ** 2
        chosen[name] = form
    return chosen


# ---------------------------------------------------------------- calibrating

# report(what, step, steps): what is being done, and how far it is.
Report = Callable[[str, int, int], None]
# What stands in place of the linears of the block of this number, by name.
Modules = Callable[[int, Block], Mapping[str, nn.Module]]


@dataclass(frozen=True, slots=True)
class Probe:
    """One pass whose velocity is known. x_t, velocity: [1, t, c]."""

    x_t: Tensor
    t: float
    scalars: Tensor
    constants: Constants
    velocity: Tensor


def calibrate(here: Bundle, *, songs: int, report: Report) -> Evidence:
    """Record the songs, find what suits the model, measure it, and write it into the bundle's folder.

    Continues where it was stopped. Raises BundleError where that folder cannot be written to, RequestError
    for a number of songs that there are not.
    """
    if not 1 <= songs <= len(PIECES):
        raise RequestError(f"{songs} songs: --songs: choose 1 to {len(PIECES)}")
    tuning.check_writable(here, FILE, "calibrate")
    work = files.cache_folder() / "calibration" / f"{here.hash}-{songs}-{FRAMES}"
    try:
        with files.alone(work.with_suffix(".lock"), wait=False), torch.no_grad():
            work.mkdir(exist_ok=True)
            return _calibrate(here, songs, work, report)
    except BlockingIOError as error:
        raise BundleError(f"{here.name} is being calibrated already: {work}; wait for that") from error


def _calibrate(here: Bundle, songs: int, work: Path, report: Report) -> Evidence:
    studio = Studio(here, songs, work, report)
    inputs = studio.inputs()
    forms = _everywhere("static", here.config)
    static = error = studio.error("static", smoothquant.arranged(inputs, forms))
    dynamic = studio.error("dynamic", None)
    errors, weights = studio.errors_of_linears(inputs), _linears(here.config)
    # No slower than the dynamic form, whose first block is in float.
    most_cost = cost(_dynamic_forms(here.config), weights)
    while error > BUDGET:
        before = forms
        forms = relaxed(errors, weights, before, measured=error, budget=BUDGET, most_cost=most_cost)
        if forms == before:
            break
        mixed = sum(form != "static" for form in forms.values())
        error = studio.error(f"static but for {mixed} linears", smoothquant.arranged(inputs, forms))
    evidence = Evidence(
        model=here.hash,
        songs=songs,
        frames=studio.frames,
        times=list(studio.times[:-1]),
        error=error,
        dynamic_error=dynamic,
        static_error=static,
        linears=errors,
        forms=forms,
    )
    write(here, smoothquant.arranged(inputs, forms).inputs, evidence)
    shutil.rmtree(work, ignore_errors=True)
    return evidence


def _everywhere(form: Form, config: ModelConfig) -> dict[str, Form]:
    return dict.fromkeys(_linears(config), form)


def _dynamic_forms(config: ModelConfig) -> dict[str, Form]:
    """Those of a model that is not calibrated."""
    return {
        name: "float" if int(name.partition(".")[0]) in DYNAMIC_SPARED else "dynamic"
        for name in _linears(config)
    }


def write(here: Bundle, inputs: Mapping[str, Input], evidence: Evidence) -> None:
    """Put a calibration beside the bundle's description, whole or not at all. Raises OSError."""
    files.replace(here.folder / FILE, _saved(inputs, {_EVIDENCE: evidence.model_dump_json(by_alias=True)}))


def _saved(inputs: Mapping[str, Input], about: dict[str, str] | None = None) -> bytes:
    factors = {f"{name}.factors": each.factors.contiguous() for name, each in inputs.items()}
    return save(factors | {f"{name}.step": torch.tensor(each.step) for name, each in inputs.items()}, about)


@dataclass
class Studio:
    """Makes the songs, and measures with them. work: where what was done is kept."""

    here: Bundle
    songs: int
    work: Path
    report: Report
    _conditionings: dict[int, Conditioning] = field(default_factory=dict)

    @property
    def times(self) -> tuple[float, ...]:
        """The grid of every song."""
        return tuning.swayed(STEPS)

    @property
    def frames(self) -> int:
        return self._song(0).latent_shape[1]

    def inputs(self) -> dict[str, Input]:
        """The factors and step of every input."""
        passes = [self._recorded(number, step) for number in range(self.songs) for step in range(STEPS)]
        made: dict[str, Input] = {}
        for i, block in enumerate(self._model.transformer_blocks):
            assert isinstance(block, Block)
            path = self.work / f"inputs-{i}.safetensors"
            kept = _inputs_of_block(path, i)
            if kept is None:
                kept = {f"{i}.{name}": _input(f"{i}.{name}", block, passes) for name in INPUTS}
                files.replace(path, _saved(kept))
                self.report("factors and steps", i + 1, self.here.config.depth)
            made |= kept
        return made

    def error(self, what: str, calibration: Calibration | None) -> float:
        """Of the velocity in int8, static by this calibration or dynamic: relative, mean of the probes."""
        modules = _dynamic if calibration is None else partial(_modules, calibration)
        path = self.work / f"error-{'dynamic' if calibration is None else calibration.digest[:16]}.json"
        kept = _number(path)
        if kept is None:
            kept = self._error(what, modules)
            files.replace(path, json.dumps(kept).encode())
        return kept

    def errors_of_linears(self, inputs: Mapping[str, Input]) -> dict[str, dict[Form, float]]:
        """What each linear alone adds to the velocity's error in each form.

        Each block is measured at the velocity, all of it static, and its error is shared out by what each of
        its linears alone does to what leaves the block.
        """
        path = self.work / "linears.json"
        if not path.is_file():
            files.replace(path, json.dumps(self._errors_of_linears(inputs)).encode())
        found: dict[str, dict[Form, float]] = json.loads(path.read_bytes())
        return found

    def _error(self, what: str, modules: Modules) -> float:
        probes = self._probes()
        hs = [_enter(self._model, probe) for probe in probes]
        for i, block in self._blocks(f"velocity, {what}"):
            with smoothquant.replaced(block, modules(i, block)):
                hs = _all_behind(i, block, probes, hs)
        errors = [_off(self._model, h, probe) for h, probe in zip(hs, probes, strict=True)]
        return sum(errors) / len(errors)

    def _errors_of_linears(self, inputs: Mapping[str, Input]) -> dict[str, dict[Form, float]]:
        everywhere = partial(_everywhere, config=self.here.config)
        all_static, all_dynamic = (Calibration(inputs, everywhere(each)) for each in ("static", "dynamic"))
        plain = smoothquant.arranged(inputs, everywhere("dynamic"))
        probes = self._probes()[:2]
        hs = [_enter(self._model, probe) for probe in probes]
        # What left each static block, taken through the exact blocks behind it; squares at each block's end.
        taken: list[list[Tensor]] = []
        local: dict[str, dict[Form, float]] = {}
        for i, block in self._blocks("velocity, block by block"):
            through = partial(_all_behind, i, block, probes)
            exact = through(hs)
            taken = [through(each) for each in taken]
            static = _modules(all_static, i, block)
            with smoothquant.replaced(block, static):
                taken.append(through(hs))
            for name in INPUT_OF:
                # Alone at its input, a dynamic linear has the channels as they are.
                dynamic = plain if len(INPUTS[INPUT_OF[name]]) == 1 else all_dynamic
                local[f"{i}.{name}"] = {"float": 0.0}
                for way in (static, _modules(dynamic, i, block, (name,))):
                    form: Form = "static" if way is static else "dynamic"
                    with smoothquant.replaced(block, {name: way[name]}):
                        local[f"{i}.{name}"][form] = _squares(through(hs), exact)
            hs = exact
        found = {}
        for i, each in enumerate(taken):
            of_block = sum(_off(self._model, h, probe) for h, probe in zip(each, probes, strict=True))
            squares = sum(local[f"{i}.{name}"]["static"] for name in INPUT_OF)
            scale = (of_block / len(probes)) ** 2 / squares if squares else 0.0
            for name in INPUT_OF:
                found[f"{i}.{name}"] = {
                    form: math.sqrt(scale * square) for form, square in local[f"{i}.{name}"].items()
                }
        return found

    def _blocks(self, what: str) -> Iterator[tuple[int, Block]]:
        for i, block in enumerate(self._model.transformer_blocks):
            assert isinstance(block, Block)
            yield i, block
            self.report(what, i + 1, self.here.config.depth)

    def _probes(self) -> list[Probe]:
        """Passes of both kinds, at two times of each song: of three songs, at all of their times."""
        probes = []
        for number in range(self.songs):
            song = self._song(number)
            for step in (number % STEPS, (number + STEPS // 2) % STEPS):
                recorded = load_file(self._recorded(number, step))
                for kind, constants in (("conditional", song.conditional), ("null", song.null)):
                    x_t, velocity = recorded["x_t"], recorded[f"{kind}.velocity"]
                    probes.append(Probe(x_t, self.times[step], song.scalars, constants, velocity))
        return probes

    def _recorded(self, number: int, step: int) -> Path:
        """File of what happened in both passes of a step of a song."""
        path = self.work / f"song-{number}-{step}.safetensors"
        if not _is_whole(path):
            if step == 0:
                x_t = seeded_noise(number, self.frames)
            else:
                x_t = load_file(self._recorded(number, step - 1))["x_next"]
            files.replace(path, save(self._record(self._song(number), step, x_t)))
            self.report(f"song {number + 1}", step + 1, STEPS)
        return path

    def _record(self, song: Conditioning, step: int, x_t: Tensor) -> dict[str, Tensor]:
        t, t_next = self.times[step : step + 2]
        modulation = self._model.modulation(t, song.scalars)
        made = {"x_t": x_t}
        for kind, constants in (("conditional", song.conditional), ("null", song.null)):
            with _recording(self._model) as seen:
                velocity = self._model.velocity(x_t, modulation, constants)
            made[f"{kind}.velocity"] = velocity
            made |= {f"{kind}.{name}": tensor for name, tensor in seen.items()}
        v = guidance.combine(made["conditional.velocity"], made["null.velocity"], CPU_CFG)
        made["x_next"] = x_t + (t_next - t) * v
        return {name: tensor.contiguous() for name, tensor in made.items()}

    @cached_property
    def _model(self) -> DiT:
        return self.here.open_transformer().float()

    def _song(self, number: int) -> Conditioning:
        if number not in self._conditionings:
            piece, seconds = PIECES[number], self.here.fitting_duration(tuning.SECONDS)
            plan = inspect(self.here, Request(piece.lyrics, style=piece.style, duration=seconds))
            self._conditionings[number] = conditioning.build(
                self._model,
                text_ids=torch.from_numpy(plan.alignment.ids)[:FRAMES],
                style=torch.from_numpy(style.embed(piece.style, self.here)),
                negative_style=torch.from_numpy(self.here.negative_style),
                duration_frames=plan.frames,
            )
        return self._conditionings[number]


# ---------------------------------------------------------------- recording


@contextmanager
def _recording(model: DiT) -> Iterator[dict[str, Tensor]]:
    """Of each input of the blocks, while a pass runs: "largest" [k] and "rows" [n, k], see `_input`."""
    seen: dict[str, Tensor] = {}

    def note(name: str, module: nn.Module, given: tuple[Tensor]) -> None:
        x = given[0].flatten(0, -2)
        magnitudes = x.abs()
        # Evenly spaced frames, and the one with the largest number of all.
        chosen = torch.arange(ROWS) * len(x) // ROWS
        loudest = magnitudes.amax(dim=1).argmax()
        seen[f"{name}.largest"] = magnitudes.amax(dim=0)
        seen[f"{name}.rows"] = x[torch.cat([chosen, loudest[None]])]
        seen[f"{name}.shares"] = torch.tensor([len(x) / ROWS] * ROWS + [1.0])

    hooks = [
        block.get_submodule(linears[0]).register_forward_pre_hook(partial(note, f"{i}.{name}"))
        for i, block in enumerate(model.transformer_blocks)
        for name, linears in INPUTS.items()
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _input(name: str, block: Block, passes: Sequence[Path]) -> Input:
    """The factors and step of an input, "block.input", from what was recorded of these passes."""
    seen: dict[str, list[Tensor]] = {"largest": [], "rows": [], "shares": []}
    for path in passes:
        with safe_open(path, framework="pt") as file:
            for kind in ("conditional", "null"):
                for what, tensors in seen.items():
                    tensors.append(file.get_tensor(f"{kind}.{name}.{what}"))
    linears = INPUTS[name.partition(".")[2]]
    return smoothquant.calibrated(
        torch.stack(seen["largest"]).amax(dim=0),
        torch.cat(seen["rows"]),
        torch.cat(seen["shares"]),
        [smoothquant.weight_of(block, linear) for linear in linears],
    )


def _inputs_of_block(path: Path, number: int) -> dict[str, Input] | None:
    """What is kept of a block's inputs; None where it is not there yet."""
    try:
        kept = load_file(path)
        names = [f"{number}.{name}" for name in INPUTS]
        return {name: Input(kept[f"{name}.factors"], float(kept[f"{name}.step"])) for name in names}
    except (OSError, SafetensorError, KeyError):
        return None


def _is_whole(path: Path) -> bool:
    try:
        with safe_open(path, framework="pt") as file:
            return "x_next" in file.keys()  # noqa: SIM118  # not a mapping
    except (OSError, SafetensorError):
        return False


def _number(path: Path) -> float | None:
    try:
        return float(json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


# ---------------------------------------------------------------- passes, block by block


def _modules(
    calibration: Calibration, number: int, block: Block, names: Collection[str] = tuple(INPUT_OF)
) -> dict[str, nn.Module]:
    """What stands in place of these linears of a block."""
    made = {name: calibration.module(number, block, name, GROUP) for name in names}
    return {name: module for name, module in made.items() if module is not None}


def _dynamic(number: int, block: Block) -> dict[str, nn.Module]:
    if number in DYNAMIC_SPARED:
        return {}
    return {name: Dynamic(smoothquant.weight_of(block, name), GROUP) for name in INPUT_OF}


def _enter(model: DiT, probe: Probe) -> Tensor:
    """What enters the first block: [1, t, d]."""
    row = model.modulation(probe.t, probe.scalars).row
    h: Tensor = model.input_embed(probe.x_t, probe.constants.inputs + row)
    return h


def _behind(number: int, block: Block, h: Tensor, probe: Probe) -> Tensor:
    """What leaves a block, with what the text adds there."""
    out: Tensor = block(h, probe.constants.rotary)
    return out + probe.constants.fusion[number] if number < len(probe.constants.fusion) else out


def _all_behind(number: int, block: Block, probes: Sequence[Probe], hs: Sequence[Tensor]) -> list[Tensor]:
    return [_behind(number, block, h, probe) for h, probe in zip(hs, probes, strict=True)]


def _squares(made: Sequence[Tensor], exact: Sequence[Tensor]) -> float:
    return sum(float((a - b).square().sum()) for a, b in zip(made, exact, strict=True))


def _off(model: DiT, h: Tensor, probe: Probe) -> float:
    """Relative error of the velocity of what leaves the last block."""
    made = model.velocity_behind(h, model.modulation(probe.t, probe.scalars))
    return tuning.relative(made, probe.velocity)
