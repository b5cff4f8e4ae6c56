"""What int8 loses in each block: songs with one block spared at a time, against the same in fp32.

Example: python -m benchmarks.sensitivity --model demo --songs 3

Errors are of finished latents, relative, and of log-mel levels in dB; both with the standard preset.

--forms: static int8 against dynamic in place of that, of a model that is calibrated, and with the consonants
that are heard (benchmarks/quality.py). int8 is emulated in float32, so that a processor without it gives the
same figures; what int8 leaves is in float32, too.
"""

from __future__ import annotations

import argparse
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from benchmarks import machine, nearness
from benchmarks.listening import round_trips
from benchmarks.quality import TAUGHT_FRAMES, TAUGHT_SONGS, Studio, figures, run, song
from diffrhythm import bundle, calibration, calibration_file, smoothquant
from diffrhythm.bundle import Bundle
from diffrhythm.compiled import Compiled
from diffrhythm.precision import Precision
from diffrhythm.presets import PRESETS
from diffrhythm.sampling import Passes
from diffrhythm.transformer import Block, DiT
from training import listening

PRESET = PRESETS["standard"]


@dataclass(frozen=True, slots=True)
class Way:
    """Arithmetic of the blocks, but for those spared, which are in bf16."""

    precision: Precision
    spared: Collection[int] = ()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="demo", help="demo, or a bundle's folder or name")
    parser.add_argument("--songs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20.0, help="length of a song")
    parser.add_argument("--forms", action="store_true", help="static int8 against dynamic")
    asked = parser.parse_args()
    model = bundle.load(asked.model)
    if asked.forms:
        machine.header(f"int8 by its form: {asked.songs} songs of {asked.seconds:g} s by {model.name}")
        show_forms(model, asked.songs, asked.seconds)
        return
    machine.header(f"int8, block by block: {asked.songs} songs of {asked.seconds:g} s by {model.name}")
    blocks = range(model.config.depth)
    ways = {
        "bf16": Way("bf16"),
        "int8": Way("int8"),
        **{f"int8, block {i} spared": Way("int8", (i,)) for i in blocks},
    }
    with torch.no_grad():
        found = [lost(model, number, asked.seconds, ways) for number in range(asked.songs)]
    print("\n| way | error | mel dB |\n| --- | --- | --- |")
    for name in ways:
        error, mel_db = np.mean([each[name] for each in found], axis=0)
        print(f"| {name} | {error:.3f} | {mel_db:.2f} |")


def lost(
    model: Bundle, number: int, seconds: float, ways: Mapping[str, Way]
) -> dict[str, tuple[float, float]]:
    """Of each way, the error of a song's latents and of its levels."""
    studio = Studio(model, song(number, seconds), ears=None)
    exact = made(studio)
    levels = nearness.levels(studio.sound(exact))
    found = {}
    for name, way in ways.items():
        passes = Compiled(
            studio.model,
            frames=exact.shape[1],
            precision=way.precision,
            threads=torch.get_num_threads(),
            spared=way.spared,
        )
        latents = made(studio, passes)
        heard = nearness.levels(studio.sound(latents))
        found[name] = nearness.error(latents, exact), nearness.mel_db(heard, levels)
    return found


# ---------------------------------------------------------------- static and dynamic


@torch.no_grad()
def show_forms(model: Bundle, songs: int, seconds: float) -> None:
    """Print what songs lose in each form of int8, means of the songs."""
    ears = listening.teach(TAUGHT_SONGS, TAUGHT_FRAMES, partial(round_trips, model))
    ways, velocity = forms(model)
    rows: dict[str, list[tuple[float, float, float]]] = {name: [] for name in ("fp32", *ways)}
    for number in range(songs):
        studio = Studio(model, song(number, seconds), ears)
        exact = studio.take(made(studio))
        print(f"song {number + 1}: made in fp32", flush=True)
        rows["fp32"].append((0.0, 0.0, exact.consonants))
        for name, way in ways.items():
            found = figures(studio.take(made(studio, way)), exact)
            rows[name].append((found.error, found.mel_db, found.consonants))
    print("\n| form | velocity | latents | mel dB | consonants |\n| --- | --- | --- | --- | --- |")
    for name, each in rows.items():
        error, mel_db, consonants = np.mean(each, axis=0)
        print(f"| {name} | {velocity.get(name, 0):.1%} | {error:.1%} | {mel_db:.2f} | {consonants:.0%} |")


def forms(model: Bundle) -> tuple[dict[str, DiT], dict[str, float]]:
    """The passes of each form, emulated; and the error of their velocity that calibrating measured."""
    found = calibration_file.found(model)
    if found is None:
        raise SystemExit(f"not calibrated: {model.folder}: --forms: runner models calibrate FOLDER")
    dynamic, mixed = (model.open_transformer().float() for _ in range(2))
    for i in range(model.config.depth):
        _put(dynamic, i, calibration.dynamic_modules(i, _block(dynamic, i)))
        _put(mixed, i, calibration.modules_of(found, i, _block(mixed, i)))
    count = sum(form != "static" for form in found.forms.values())
    calibrated = f"static int8, {count} of {len(found.forms)} linears dynamic or float"
    plain = "dynamic int8, block 0 in float"
    velocity = {plain: found.dynamic_error, calibrated: found.error}
    return {plain: dynamic, calibrated: mixed}, velocity


def _block(model: DiT, number: int) -> Block:
    block = model.transformer_blocks[number]
    assert isinstance(block, Block)
    return block


def _put(model: DiT, number: int, modules: Mapping[str, torch.nn.Module]) -> None:
    for name, module in modules.items():
        smoothquant.put(_block(model, number), name, module)


def made(studio: Studio, passes: Passes | None = None) -> Tensor:
    """The latents of a standard song, by the reference's passes or by these."""
    return run(studio, PRESET.steps, PRESET.sampler, passes=passes)[-1].x_t


if __name__ == "__main__":
    main()
