"""What int8 loses in each block: songs with one block spared at a time, against the same in fp32.

Example: python -m benchmarks.sensitivity --model demo --songs 3

Errors are of finished latents, relative, and of log-mel levels in dB; both with the standard preset.
"""

from __future__ import annotations

import argparse
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from benchmarks import machine, nearness
from benchmarks.quality import Studio, run, song
from diffrhythm import bundle
from diffrhythm.bundle import Bundle
from diffrhythm.compiled import Compiled
from diffrhythm.precision import Precision
from diffrhythm.presets import PRESETS
from diffrhythm.sampling import Passes

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
    asked = parser.parse_args()
    model = bundle.load(asked.model)
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


def made(studio: Studio, passes: Passes | None = None) -> Tensor:
    """The latents of a standard song, by the reference's passes or by these."""
    return run(studio, PRESET.steps, PRESET.sampler, passes=passes)[-1].x_t


if __name__ == "__main__":
    main()
