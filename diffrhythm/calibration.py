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

import math
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from diffrhythm import conditioning, files, guidance, precision, smoothquant, style, tuning
from diffrhythm.bundle import Bundle
from diffrhythm.calibration_file import FILE as FILE
from diffrhythm.calibration_file import Evidence, content, saved, sizes
from diffrhythm.conditioning import Conditioning
from diffrhythm.config import ModelConfig
from diffrhythm.errors import BundleError, RequestError
from diffrhythm.generate import Request, inspect, seeded_noise
from diffrhythm.presets import CPU_CFG
from diffrhythm.smoothquant import BUDGET, COSTS, INPUT_OF, INPUTS, Calibration, Dynamic, Form, Input
from diffrhythm.transformer import Block, Constants, DiT
from diffrhythm.tuning import PIECES as PIECES

# Of each song, and its steps: two passes each.
FRAMES = 256
STEPS = 6
# Frames of a pass whose activations are kept whole.
ROWS = 8
# The dynamic form that the static one is compared with: numbers that share a scale, blocks in float.
GROUP = 128
DYNAMIC_SPARED = frozenset({0})

_BLOCKS = "blocks"
_SQUARES = "squares."


def why_not(config: ModelConfig, *, is_calibrated: bool, int8_is_worth_trying: bool) -> str:
    """Return why a model is not calibrated unless somebody asks for it; nothing where it is."""
    if is_calibrated:
        return "calibrated already"
    if not precision.is_large(config):
        return "the model is too small for int8 to be faster"
    if not int8_is_worth_trying:
        return "int8 cannot be faster on this processor"
    return ""


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
# Tensors on their way through the blocks: "h.0" is what entered with the first probe, "3.h.0" the same with
# block 3 in int8, and what begins with _SQUARES is a finished figure.
Passed = dict[str, Tensor]
Through = Callable[[int, Block, Passed], Passed]


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
    errors, weights = studio.errors_of_linears(inputs), sizes(here.config)
    # No slower than the dynamic form, whose first block is in float.
    most_cost = cost(dynamic_forms(here.config), weights)
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
    made = content(smoothquant.arranged(inputs, forms).inputs, evidence)
    files.replace(here.folder / FILE, made)
    shutil.rmtree(work, ignore_errors=True)
    return evidence


def _everywhere(form: Form, config: ModelConfig) -> dict[str, Form]:
    return dict.fromkeys(sizes(config), form)


def dynamic_forms(config: ModelConfig) -> dict[str, Form]:
    """Those of a model that is not calibrated."""
    return {
        name: "float" if int(name.partition(".")[0]) in DYNAMIC_SPARED else "dynamic"
        for name in sizes(config)
    }


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
                files.replace(path, saved(kept))
                self.report("factors and steps", i + 1, self.here.config.depth)
            made |= kept
        return made

    def error(self, what: str, calibration: Calibration | None) -> float:
        """Of the velocity in int8, static by this calibration or dynamic: relative, mean of the probes."""
        key = "dynamic" if calibration is None else calibration.digest[:16]
        modules = dynamic_modules if calibration is None else partial(modules_of, calibration)
        probes = self._probes()

        def through(i: int, block: Block, passed: Passed) -> Passed:
            with smoothquant.replaced(block, modules(i, block)):
                return _all_behind(i, block, probes, passed)

        left = self._walk(key, f"velocity, {what}", self._entering(probes, "h"), through)
        return self._off(probes, left, "h")

    def errors_of_linears(self, inputs: Mapping[str, Input]) -> dict[str, dict[Form, float]]:
        """What each linear alone adds to the velocity's error in each form.

        Each block is measured at the velocity, all of it static, and its error is shared out by what each of
        its linears alone does to what leaves the block.
        """
        everywhere = partial(_everywhere, config=self.here.config)
        static, dynamic = (Calibration(inputs, everywhere(each)) for each in ("static", "dynamic"))
        plain = smoothquant.arranged(inputs, everywhere("dynamic"))
        probes = self._probes()[:2]

        def through(i: int, block: Block, passed: Passed) -> Passed:
            entering = {name: tensor for name, tensor in passed.items() if name.startswith("h.")}
            # Also what left each static block before, which goes on through the exact ones.
            left = _all_behind(
                i, block, probes, {n: t for n, t in passed.items() if ".h." in n or n in entering}
            )
            modules = modules_of(static, i, block)
            with smoothquant.replaced(block, modules):
                made = _all_behind(i, block, probes, entering)
            left |= {f"{i}.{name}": tensor for name, tensor in made.items()}
            for name in INPUT_OF:
                # Alone at its input, a dynamic linear has the channels as they are.
                way = plain if len(INPUTS[INPUT_OF[name]]) == 1 else dynamic
                squares = []
                for module in (modules[name], modules_of(way, i, block, (name,))[name]):
                    with smoothquant.replaced(block, {name: module}):
                        squares.append(_squares(_all_behind(i, block, probes, entering), left))
                left[f"{_SQUARES}{i}.{name}"] = torch.tensor(squares, dtype=torch.float64)
            return left | {n: t for n, t in passed.items() if n.startswith(_SQUARES)}

        left = self._walk("linears", "velocity, block by block", self._entering(probes, "h"), through)
        found: dict[str, dict[Form, float]] = {}
        for i in range(self.here.config.depth):
            of_block = self._off(probes, left, f"{i}.h")
            squares = {name: left[f"{_SQUARES}{i}.{name}"].tolist() for name in INPUT_OF}
            total = sum(each[0] for each in squares.values())
            for name, (of_static, of_dynamic) in squares.items():
                found[f"{i}.{name}"] = {
                    "static": of_block * math.sqrt(of_static / total) if total else 0.0,
                    "dynamic": of_block * math.sqrt(of_dynamic / total) if total else 0.0,
                    "float": 0.0,
                }
        return found

    def _walk(self, key: str, what: str, passed: Passed, through: Through) -> Passed:
        """What comes of the tensors through all blocks, from the block on that was reached before."""
        path = self.work / f"walk-{key}.safetensors"
        begun = 0
        kept = _reached(path)
        if kept is not None:
            begun, passed = kept
        for i, block in enumerate(self._model.transformer_blocks):
            if i >= begun:
                assert isinstance(block, Block)
                passed = through(i, block, passed)
                content = {name: tensor.contiguous() for name, tensor in passed.items()}
                files.replace(path, save(content, {_BLOCKS: str(i + 1)}))
                self.report(what, i + 1, self.here.config.depth)
        return passed

    def _entering(self, probes: Sequence[Probe], name: str) -> Passed:
        """What enters the first block: [1, t, d] each, by the number of the probe."""
        made = {}
        for number, probe in enumerate(probes):
            row = self._model.modulation(probe.t, probe.scalars).row
            made[f"{name}.{number}"] = self._model.input_embed(probe.x_t, probe.constants.inputs + row)
        return made

    def _off(self, probes: Sequence[Probe], left: Passed, name: str) -> float:
        """Relative error of the velocity of what left the last block, mean of the probes."""
        errors = []
        for number, probe in enumerate(probes):
            modulation = self._model.modulation(probe.t, probe.scalars)
            made = self._model.velocity_behind(left[f"{name}.{number}"], modulation)
            errors.append(tuning.relative(made, probe.velocity))
        return sum(errors) / len(errors)

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
            with recording(self._model) as seen:
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
def recording(model: DiT) -> Iterator[dict[str, Tensor]]:
    """What enters the blocks' linears while a pass runs, by "block.input.what".

    largest: [k], of the absolute values of each channel. rows: [n, k], a sample of frames. shares: [n], how
    many frames each of them stands for.
    """
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


# ---------------------------------------------------------------- passes, block by block


def modules_of(
    calibration: Calibration, number: int, block: Block, names: Collection[str] = tuple(INPUT_OF)
) -> dict[str, nn.Module]:
    """What stands in place of these linears of a block, by a calibration."""
    made = {name: calibration.module(number, block, name, GROUP) for name in names}
    return {name: module for name, module in made.items() if module is not None}


def dynamic_modules(number: int, block: Block) -> dict[str, nn.Module]:
    """What stands in place of a block's linears in the dynamic form of a model that is not calibrated."""
    if number in DYNAMIC_SPARED:
        return {}
    return {name: Dynamic(smoothquant.weight_of(block, name), GROUP) for name in INPUT_OF}


def _all_behind(number: int, block: Block, probes: Sequence[Probe], passed: Passed) -> Passed:
    """What leaves a block, with what the text adds there; names end in the number of their probe."""
    made = {}
    for name, h in passed.items():
        constants = probes[int(name.rpartition(".")[2])].constants
        out: Tensor = block(h, constants.rotary)
        made[name] = out + constants.fusion[number] if number < len(constants.fusion) else out
    return made


def _squares(made: Passed, exact: Passed) -> float:
    return sum(float((tensor - exact[name]).square().sum()) for name, tensor in made.items())


def _reached(path: Path) -> tuple[int, Passed] | None:
    """How many blocks were walked through, and what left the last; None where none was."""
    try:
        with safe_open(path, framework="pt") as file:
            blocks = int((file.metadata() or {})[_BLOCKS])
            return blocks, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, ValueError):
        return None
