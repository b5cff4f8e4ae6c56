"""What fewer steps, other solvers, grids, arithmetic and tricks cost, against songs of 128 steps in fp32.

Each way of sampling makes the same songs (held-out lyrics, a style each, fixed seeds) and is compared with
the 128-step Euler song of the same guidance: in its latents, in its sound, and in whether words and style are
heard (training/listening.py). Then: from which t on an early estimate is worth hearing, and how much worse a
degraded song is. Only a model trained on the songs by program can tell.

Example: python -m benchmarks.quality --model demo --songs 3 --json quality.json

Three songs of 20 s by the demo model take about seven minutes on two cores, each further one two more.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import multiprocessing
import os
import statistics
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, astuple, dataclass, field, replace
from functools import cached_property, partial
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks import machine, nearness, tricks
from benchmarks.listening import lrc, round_trips
from diffrhythm import bundle, conditioning, sampling, solvers, style, vae
from diffrhythm.bundle import Bundle, frames_of
from diffrhythm.compiled import Compiled
from diffrhythm.conditioning import Conditioning
from diffrhythm.errors import DiffRhythmError
from diffrhythm.generate import Request, inspect, seeded_noise
from diffrhythm.lyrics import Alignment
from diffrhythm.precision import Precision
from diffrhythm.presets import PRESETS, Preset, auto
from diffrhythm.sampling import Passes, State
from diffrhythm.transformer import DiT
from training import listening, text
from training.songs import compose

SCHEMA = 1
REFERENCE_STEPS = 128
# Of what is asked without a word about guidance. Other guidances are judged on one song alone: each needs a
# reference of its own, which takes as long as eight songs.
CFG = PRESETS["standard"].cfg
OTHER_CFGS = (0.0, 1.0, 2.0, 3.0)
# What every way's time is compared with.
PLAIN_STEPS = 16
EULER_STEPS = (4, 8, 16, 32, 64)
FEW_STEPS = (8, 16)
# Solvers of one evaluation a step; grids and steps that each is tried on.
MULTISTEP = ("ab2", "dpm2")
BENT = "sway -1"
BENT_STEPS = (4, 6, 7, 8, 10, 11, 12, 16, 24, 28, 32, 64)
# Where a late null pass serves two steps; each saves as many passes as the steps next to it in BENT_STEPS.
HELD_STEPS = (8, 12, 28)
OTHER_GRIDS = {"sway -0.5": (8, 12, 16, 24), "EPSS": (7, 12, 16)}
# Passes of a guided song: solvers of several evaluations a step are compared with Euler at equal cost.
EQUAL_PASSES = (32,)
# What is degraded; and the runs whose estimates are heard, every which step.
DEGRADED_PRESET = PRESETS["standard"]
EARLY_EVERY = {"standard": 1, "high": 4}
EARLY_T = (0.3, 0.5, 0.7, 0.9)
NEAR_DB = (2.0, 3.0, 4.0, 6.0)
# Far from the seeds of the songs that a model was trained on. A song has a line for so many seconds.
FIRST_SEED = 9000
LONGEST_LINE_S = 8.0
# Songs by program of each style that the ear is taught with, and their frames.
TAUGHT_SONGS = 8
TAUGHT_FRAMES = 216


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="demo", help="demo, or a bundle's folder or name")
    parser.add_argument("--songs", type=int, default=3, help="songs that each way makes")
    parser.add_argument("--seconds", type=float, default=20.0, help="length of a song")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count(), help="songs at a time, sharing the cores"
    )
    parser.add_argument("--only", default="", help="ways alone whose name has this in it")
    parser.add_argument("--json", type=Path, help="where to write all figures")
    parser.add_argument("--plot", type=Path, help="a picture of error against passes (needs matplotlib)")
    asked = parser.parse_args()
    if asked.plot and importlib.util.find_spec("matplotlib") is None:
        parser.error("--plot needs matplotlib, which is no dependency of ours: pip install matplotlib")
    machine.header(f"Quality: {asked.songs} songs of {asked.seconds:g} s by {asked.model}")
    try:
        reports = judge_all(asked.model, asked.songs, asked.seconds, asked.workers, asked.only)
    except DiffRhythmError as error:
        raise SystemExit(str(error)) from error
    rows, early, degraded = merged(reports)
    show_rows(rows)
    if not asked.only:
        show_early(early, rows)
        show_degraded(degraded)
    if asked.json:
        about = {name: vars(asked)[name] for name in ("model", "songs", "seconds")}
        asked.json.write_text(as_json(about, rows, early, degraded), encoding="utf-8")
    if asked.plot:
        plot(rows, asked.plot)


# ---------------------------------------------------------------- ways to make a song


@dataclass(frozen=True, slots=True)
class Recipe:
    """A way of sampling. sampler, grid, trick: names in tricks.py."""

    steps: int
    sampler: str = "euler"
    grid: str = tricks.UNIFORM
    cfg: float = CFG
    precision: Precision = "fp32"
    trick: str = tricks.PLAIN

    @property
    def name(self) -> str:
        parts = [f"{self.sampler} {self.steps}"]
        if self.grid != tricks.UNIFORM:
            parts.append(self.grid)
        if self.cfg != CFG:
            parts.append(f"cfg {self.cfg:g}")
        if self.precision != "fp32":
            parts.append(self.precision)
        if self.trick:
            parts.append(self.trick)
        return ", ".join(parts)

    @property
    def presets(self) -> tuple[str, ...]:
        """Names of the presets that come to this."""
        return tuple(name for name, recipe in preset_recipes().items() if recipe == self)


def preset_recipes() -> dict[str, Recipe]:
    return {name: preset_recipe(preset) for name, preset in {**PRESETS, "auto": auto(0.0, "any")}.items()}


def preset_recipe(preset: Preset) -> Recipe:
    sway = solvers.named(preset.sampler).sway
    if sway:
        return Recipe(preset.steps, grid=f"sway {sway:g}", cfg=preset.cfg)
    return Recipe(preset.steps, preset.sampler, cfg=preset.cfg)


def recipes() -> list[Recipe]:
    """Every way to be judged, none twice."""
    asked = [
        *preset_recipes().values(),
        *(Recipe(steps) for steps in EULER_STEPS),
        *equal_passes(),
        *(Recipe(steps, sampler) for sampler in MULTISTEP for steps in FEW_STEPS),
        *(Recipe(steps, grid=BENT) for steps in BENT_STEPS),
        *(Recipe(steps, sampler, BENT) for sampler in MULTISTEP for steps in FEW_STEPS),
        *(Recipe(steps, grid=grid) for grid, each in OTHER_GRIDS.items() for steps in each),
        Recipe(REFERENCE_STEPS),
        Recipe(PLAIN_STEPS, precision="bf16"),
        Recipe(PLAIN_STEPS, precision="int8"),
        *(Recipe(PLAIN_STEPS, trick=trick) for trick in tricks.TRICKS),
        *(Recipe(steps, grid=BENT, trick=tricks.HELD) for steps in HELD_STEPS),
        *(Recipe(steps, cfg=cfg) for cfg in OTHER_CFGS for steps in (PLAIN_STEPS, REFERENCE_STEPS)),
    ]
    return list(dict.fromkeys(asked))


def equal_passes() -> Iterator[Recipe]:
    """The library's other solvers, with as many passes as Euler's in few steps."""
    for name, solver in solvers.SOLVERS.items():
        for passes in EQUAL_PASSES:
            if solver.evaluations > 1:
                yield Recipe(passes // (2 * solver.evaluations), name)


# ---------------------------------------------------------------- a song, and what is made of it


@dataclass(frozen=True, slots=True)
class Song:
    """What a song is asked to be. style: what its prompt was written for. alignment: of its lyrics."""

    request: Request
    style: str
    alignment: Alignment


def song(number: int, seconds: float) -> Song:
    """A song of held-out lyrics, which lie as those of training do, and a held-out prompt."""
    names = sorted(text.PROMPTS)
    name = names[(3 * number + 8) % len(names)]  # 3 steps on, so that few songs are of unlike styles
    frames = frames_of(seconds)
    tries = (compose(FIRST_SEED + 100 * number + i, name, "heldout", frames).alignment for i in range(100))
    alignment = next(each for each in tries if len(each.placed) > seconds / LONGEST_LINE_S)
    prompt = text.prompt(name, np.random.default_rng(FIRST_SEED + number), "heldout")
    request = Request(lrc(alignment), style=prompt, duration=seconds, seed=number, precision="fp32")
    return Song(request, name, alignment)


@dataclass(frozen=True, slots=True)
class Made:
    """latents: [1, t, c]. passes: of the transformer, parts of one included. cpu_s: of sampling alone.

    states: after each step, where the library itself made the song.
    """

    latents: Tensor
    passes: float
    cpu_s: float
    states: tuple[State, ...] = ()


@dataclass(frozen=True, slots=True)
class Take:
    """A song listened to. latents: [1, t, c]. levels: see nearness. The rest: see Figures."""

    latents: Tensor
    levels: listening.Floats
    vowels: float
    consonants: float
    style: float


@dataclass(frozen=True, slots=True)
class Figures:
    """A song against a reference, or means of several. error: of the latents, relative. mel_db: of the sound.

    vowels, consonants: shares that are heard as what they should be (songs by program: about 0.4; chance
    0.03). style: share of songs heard as the style asked for (chance 0.1). See listening.teach.
    """

    error: float
    mel_db: float
    vowels: float
    consonants: float
    style: float


def figures(take: Take, reference: Take) -> Figures:
    return Figures(
        nearness.error(take.latents, reference.latents),
        nearness.mel_db(take.levels, reference.levels),
        take.vowels,
        take.consonants,
        take.style,
    )


def mean(each: Sequence[Figures]) -> Figures:
    return Figures(*(statistics.mean(values) for values in zip(*map(astuple, each), strict=True)))


@dataclass
class Studio:
    """A model and a song. What several ways share is made once, when it is first needed.

    ears: None where nothing is listened to.
    """

    bundle: Bundle
    song: Song
    ears: listening.Ears | None
    lowered: dict[Precision, Passes] = field(default_factory=dict)
    finished: dict[Recipe, Made] = field(default_factory=dict)
    takes: dict[bytes, Take] = field(default_factory=dict)

    @cached_property
    def decoder(self) -> vae.Coder:
        return self.bundle.open_vae().decoder

    @cached_property
    def model(self) -> DiT:
        return self.bundle.open_transformer().float()

    def passes(self, precision: Precision) -> Passes:
        """The model's in that precision: torch's own are the reference."""
        if precision == "fp32":
            return self.model
        if precision not in self.lowered:
            self.lowered[precision] = Compiled(
                self.model,
                frames=self.conditioning.latent_shape[1],
                precision=precision,
                threads=torch.get_num_threads(),
            )
        return self.lowered[precision]

    @cached_property
    def conditioning(self) -> Conditioning:
        """Of the song."""
        plan = inspect(self.bundle, self.song.request)
        return conditioning.build(
            self.model,
            text_ids=torch.from_numpy(plan.alignment.ids),
            style=torch.from_numpy(style.embed(self.song.request.style or "", self.bundle)),
            negative_style=torch.from_numpy(self.bundle.negative_style),
            duration_frames=plan.frames,
        )

    def noise(self, take: int = 0) -> Tensor:
        """x_0 of the song, or of another take of it: [1, t, c]."""
        return seeded_noise(self.song.request.seed + 1000 * take, self.conditioning.latent_shape[1])

    def made(self, recipe: Recipe) -> Made:
        """The song by this recipe."""
        if recipe not in self.finished:
            self.finished[recipe] = cook(self, recipe)
        return self.finished[recipe]

    def reference(self, cfg: float = CFG) -> Take:
        """The song in 128 Euler steps of fp32."""
        return self.take(self.made(Recipe(REFERENCE_STEPS, cfg=cfg)).latents)

    def take(self, latents: Tensor) -> Take:
        """Latents of the song, decoded and listened to; the same ones once."""
        key = latents.numpy().tobytes()
        if key not in self.takes:
            assert self.ears is not None
            sound = self.sound(latents)
            phones = self.ears.phones(sound, self.song.alignment)
            self.takes[key] = Take(
                latents,
                nearness.levels(sound),
                vowels=phones["vowels"],
                consonants=phones["consonants"],
                style=float(self.ears.style(sound) == self.song.style),
            )
        return self.takes[key]

    def sound(self, latents: Tensor) -> listening.Sound:
        """Latents of the song, decoded."""
        return vae.decode(latents, self.decoder)[0].numpy()


def cook(studio: Studio, recipe: Recipe) -> Made:
    """The song by this recipe, made anew: plain ones by the library's own sampling."""
    studio.passes(recipe.precision), studio.conditioning  # not a part of the time
    began = time.process_time()  # several songs share the cores: wall time would tell of the others
    sampler = {tricks.UNIFORM: "euler", BENT: "sway"}.get(recipe.grid)
    if sampler and recipe == Recipe(recipe.steps, grid=recipe.grid):
        states = run(studio, recipe.steps, sampler)
        latents, passes = states[-1].x_t, float(states[-1].passes)
    else:
        states = ()
        latents, passes = walked(studio, recipe)
    return Made(latents, passes, time.process_time() - began, states)


def walked(studio: Studio, recipe: Recipe) -> tuple[Tensor, float]:
    """The song by this recipe, and its passes."""
    song, model = studio.conditioning, studio.passes(recipe.precision)
    trick, solver = tricks.TRICKS[recipe.trick], tricks.SOLVERS[recipe.sampler]
    passes = tricks.Passes(model, song, trick.passes())
    grid = tricks.GRIDS[recipe.grid](recipe.steps)
    latents = tricks.walk(trick.guide(passes, recipe.cfg), studio.noise(), grid, solver)
    return latents, passes.count


def run(
    studio: Studio,
    steps: int,
    sampler: str,
    *,
    take: int = 0,
    resume: State | None = None,
    passes: Passes | None = None,
) -> tuple[State, ...]:
    """The states after each step of the library's own sampling, by the reference's passes or by these."""
    states: list[State] = []
    sampling.sample(
        passes or studio.model,
        studio.conditioning,
        studio.noise(take),
        steps=steps,
        cfg=CFG,
        sampler=sampler,
        on_step=states.append,
        resume=resume,
    )
    return tuple(states)


# ---------------------------------------------------------------- judging


@dataclass(frozen=True, slots=True)
class Task:
    """What one process does at a time. is_whole: its estimates and degraded songs are heard as well."""

    model: str
    number: int
    seconds: float
    threads: int
    ears: listening.Ears
    recipes: tuple[Recipe, ...]
    is_whole: bool


@dataclass(frozen=True, slots=True)
class Row:
    """What a recipe came to. time: its CPU seconds over those of Euler's 16 steps."""

    recipe: Recipe
    songs: int
    passes: float
    time: float
    figures: Figures


@dataclass(frozen=True, slots=True)
class Early:
    """An estimate after a step of a preset's run, against that run's own finished song."""

    preset: str
    step: int
    t: float
    figures: Figures


@dataclass(frozen=True, slots=True)
class Degraded:
    """A song that is not what was asked, against that of 128 steps. steps: those that count for it."""

    how: str
    steps: int
    figures: Figures


@dataclass(frozen=True, slots=True)
class Report:
    """Of one song."""

    rows: list[Row]
    early: list[Early]
    degraded: list[Degraded]


def judge_all(model: str, songs: int, seconds: float, workers: int, only: str = "") -> list[Report]:
    """Of each song, and of the first one again with other guidances; several at a time.

    only: ways whose name has this in it, and nothing else; empty: all.
    """
    opened = bundle.load(model)
    opened.check_duration(seconds)
    ears = listening.teach(TAUGHT_SONGS, TAUGHT_FRAMES, partial(round_trips, opened))
    threads = max(1, (os.cpu_count() or 1) // workers)
    wanted = [recipe for recipe in recipes() if only in recipe.name]
    guided = tuple(recipe for recipe in wanted if recipe.cfg == CFG)
    others = tuple(recipe for recipe in wanted if recipe.cfg != CFG)
    tasks = [
        Task(model, 0, seconds, threads, ears, others, is_whole=False),
        *(Task(model, number, seconds, threads, ears, guided, is_whole=not only) for number in range(songs)),
    ]
    reports = []
    # Not forked: torch's threads do not survive it.
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), die_with_parent) as pool:
        for report in pool.map(judge, tasks):
            reports.append(report)
            print(f"{len(reports)} of {len(tasks)} done", file=sys.stderr, flush=True)
    return reports


def die_with_parent() -> None:
    """Lets this process end when its parent is killed, which would else leave it at work for minutes."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def judge(task: Task) -> Report:
    torch.set_num_threads(task.threads)
    asked = song(task.number, task.seconds)
    studio = Studio(bundle.load(task.model), asked, task.ears)
    with torch.no_grad():
        rows = list(judged(studio, task.recipes))
        if not task.is_whole:
            return Report(rows, [], [])
        early = [point for name in EARLY_EVERY for point in estimates(studio, name)]
        return Report(rows, early, list(degradations(studio)))


def judged(studio: Studio, recipes: Sequence[Recipe]) -> Iterator[Row]:
    for sampler in tricks.SOLVERS:  # a process's first pass is slower, and so are imports
        cook(studio, Recipe(1, sampler))
    standard_s = studio.made(Recipe(PLAIN_STEPS)).cpu_s
    for recipe in recipes:
        made = studio.made(recipe)
        heard = figures(studio.take(made.latents), studio.reference(recipe.cfg))
        yield Row(recipe, 1, made.passes, made.cpu_s / standard_s, heard)


def estimates(studio: Studio, preset: str) -> Iterator[Early]:
    """Of the preset's run; see EARLY_EVERY."""
    states = studio.made(preset_recipes()[preset]).states
    finished = studio.take(states[-1].x_t)
    every = EARLY_EVERY[preset]
    for state in states[every - 1 :: every]:
        yield Early(preset, state.step, state.t, figures(studio.take(state.estimate()), finished))


def degradations(studio: Studio) -> Iterator[Degraded]:
    """What a standard song becomes when its attempts end early; and yardsticks: another take, noise."""
    for how, steps, latents in degraded_songs(studio):
        yield Degraded(how, steps, figures(studio.take(latents), studio.reference()))


def degraded_songs(studio: Studio) -> Iterator[tuple[str, int, Tensor]]:
    """How, in how many steps that count for it, and the latents."""
    steps, sampler = DEGRADED_PRESET.steps, DEGRADED_PRESET.sampler
    whole = studio.made(preset_recipe(DEGRADED_PRESET)).states
    fewer = (steps // 2, max(4, steps // 4))  # as the runner halves them (runner/verdict.py)
    yield f"{steps} steps, as asked", steps, whole[-1].x_t
    for density in fewer:
        yield f"begun again with {density} steps", density, run(studio, density, sampler)[-1].x_t
    for t, density in product((0.5, 0.25), fewer):
        # As a retry of this density resumes it (runner/worker.py).
        last = run(studio, steps, sampler, resume=checkpoint(whole, t).thinned(density))[-1]
        yield f"resumed at t = {t:g} or later, on as if in {density} steps", last.step, last.x_t
    for state in (checkpoint(whole, t) for t in EARLY_T):
        yield f"estimate at t = {state.t:.2f}", state.step, state.estimate()
    yield "another seed, as asked", steps, run(studio, steps, sampler, take=1)[-1].x_t
    yield "bare noise", 0, studio.noise()


def checkpoint(states: Sequence[State], t: float) -> State:
    """The first state from t on."""
    return next(state for state in states if state.t >= t)


# ---------------------------------------------------------------- all songs together


def merged(reports: Sequence[Report]) -> tuple[list[Row], list[Early], list[Degraded]]:
    """Means over the songs, in the order of the recipes; of times the median."""
    rows = [row for report in reports for row in report.rows]
    by_recipe = [[row for row in rows if row.recipe == recipe] for recipe in recipes()]
    return (
        [
            Row(
                each[0].recipe,
                songs=len(each),
                passes=statistics.mean(row.passes for row in each),
                time=statistics.median(row.time for row in each),
                figures=mean([row.figures for row in each]),
            )
            for each in by_recipe
            if each
        ],
        [
            replace(each[0], figures=mean([early.figures for early in each]))
            for each in zip(*(report.early for report in reports if report.early), strict=True)
        ],
        [
            replace(each[0], figures=mean([degraded.figures for degraded in each]))
            for each in zip(*(report.degraded for report in reports if report.degraded), strict=True)
        ],
    )


# ---------------------------------------------------------------- what is told


MEASURES = ("error", "mel dB", "vowels", "consonants", "style")


def measured(figures: Figures) -> tuple[str, ...]:
    return (
        f"{figures.error:.3f}",
        f"{figures.mel_db:.2f}",
        f"{figures.vowels:.0%}",
        f"{figures.consonants:.0%}",
        f"{figures.style:.0%}",
    )


def show_rows(rows: Sequence[Row]) -> None:
    print(
        f"\n## Ways to make a song, against {REFERENCE_STEPS} Euler steps in fp32 of the same guidance\n\n"
        f"cfg {CFG:g} unless said. Of benchmarks/tricks.py: ab2, dpm2, EPSS, guided in, held, reused.\n"
    )
    print(heading("way", "presets", "songs", "passes", *MEASURES, f"CPU time / euler {PLAIN_STEPS}"))
    for row in rows:
        presets = ", ".join(row.recipe.presets)
        cells = (row.recipe.name, presets, f"{row.songs}", f"{row.passes:.4g}")
        print(line(*cells, *measured(row.figures), f"{row.time:.2f}"))


def show_early(early: Sequence[Early], rows: Sequence[Row]) -> None:
    print("\n## Where an early estimate is worth hearing: against the finished song of the same run\n")
    print(heading("run", "step", "t", *MEASURES))
    for each in early:
        print(line(each.preset, f"{each.step}", f"{each.t:.3f}", *measured(each.figures)))
    rough = next(row.figures.mel_db for row in rows if row.recipe == Recipe(min(EULER_STEPS)))
    print("\nFrom which t on an estimate is\n")
    print(heading("", *EARLY_EVERY))
    for name, limit in (*((f"within {db:g} dB", db) for db in NEAR_DB), (ROUGH.format(rough), rough)):
        print(line(name, *(shown(near_from(early, preset, limit)) for preset in EARLY_EVERY)))
    for name, measure in (("of its style as often as the finished songs", "style"), (VOWELS, "vowels")):
        print(line(name, *(shown(good_from(early, preset, measure)) for preset in EARLY_EVERY)))


ROUGH = "within {:.2f} dB, as a song in 4 plain steps is of that in 128"
VOWELS = "of vowels heard as often as the finished songs, or 5 % less often"


def near_from(early: Sequence[Early], preset: str, limit: float) -> float | None:
    """From which t on the estimates of the preset's run are within the limit, decibels."""
    return nearness.near_from([(e.t, e.figures.mel_db) for e in early if e.preset == preset], limit)


def good_from(early: Sequence[Early], preset: str, measure: str) -> float | None:
    """From which t on they reach the finished songs in a measure that is a share."""
    shares = [(e.t, getattr(e.figures, measure)) for e in early if e.preset == preset]
    finished = shares[-1][1]
    return nearness.near_from([(t, finished - share) for t, share in shares], 0.05)


def shown(t: float | None) -> str:
    return "never" if t is None else f"{t:.3f}"


def show_degraded(degraded: Sequence[Degraded]) -> None:
    print(f"\n## How much worse a degraded song is: against {REFERENCE_STEPS} steps\n")
    print(heading("song", "steps", *MEASURES))
    for each in degraded:
        print(line(each.how, f"{each.steps}", *measured(each.figures)))


def heading(*cells: str) -> str:
    return f"{line(*cells)}\n{line(*(['---'] * len(cells)))}"


def line(*cells: str) -> str:
    """A row of a table in Markdown."""
    return f"| {' | '.join(cells)} |"


def as_json(
    about: dict[str, object], rows: Sequence[Row], early: Sequence[Early], degraded: Sequence[Degraded]
) -> str:
    """All figures."""
    told = {
        "schema": SCHEMA,
        **about,
        "model_hash": bundle.load(str(about["model"])).hash,
        "reference_steps": REFERENCE_STEPS,
        "ways": [{"name": row.recipe.name, "presets": row.recipe.presets, **asdict(row)} for row in rows],
        "early": [asdict(each) for each in early],
        "degraded": [asdict(each) for each in degraded],
    }
    return json.dumps(told, ensure_ascii=False, indent=2)


def plot(rows: Sequence[Row], path: Path) -> None:
    """Error against passes, each family of ways a line of its own."""
    pyplot = importlib.import_module("matplotlib.pyplot")
    families: dict[str, list[Row]] = {}
    for row in rows:
        if row.recipe.cfg == CFG:
            families.setdefault(family(row.recipe), []).append(row)
    figure, axes = pyplot.subplots(figsize=(9, 6), layout="constrained")
    axes.set_prop_cycle(color=pyplot.get_cmap("tab20").colors)  # more families than the usual ten colours
    for name, each in families.items():
        points = sorted((row.passes, row.figures.error) for row in each if row.figures.error > 0)
        axes.loglog(*zip(*points, strict=True), marker="o", label=name)
    axes.set(xlabel="passes", ylabel=f"error of the latents against {REFERENCE_STEPS} steps")
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=150)


def family(recipe: Recipe) -> str:
    """What of a recipe's name does not count steps."""
    return recipe.name.replace(f" {recipe.steps}", "", 1)


if __name__ == "__main__":
    main()
