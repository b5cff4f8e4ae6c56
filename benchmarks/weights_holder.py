"""Opens a transformer, lets it make one short step, and holds it: `weights_holder.py BUNDLE PRECISION`.

Prints the seconds of both as JSON on one line, then waits for the end of its input.
"""

from __future__ import annotations

import json
import sys
import time

import torch

from diffrhythm import bundle, compiled, conditioning, quantised, sampling
from diffrhythm.bundle import Bundle
from diffrhythm.compiled import Compiled
from diffrhythm.precision import named
from diffrhythm.transformer import DiT
from runner import processes

# Enough to read every weight, few enough that reading and not reckoning takes the time.
FRAMES = 16


def main(folder: str, precision: str) -> None:
    model = bundle.load(folder)
    began = time.perf_counter()
    transformer = model.open_transformer()
    passes = Compiled(
        transformer,
        frames=FRAMES,
        precision=named(precision),
        threads=torch.get_num_threads(),
        # As a song has them: mapped from the cache. Made in each process they are 1 GB more.
        quantised=quantised.linears(model, transformer, compiled.SENSITIVE_BLOCKS)
        if precision == "int8"
        else None,
    )
    opened = time.perf_counter()
    step(model, transformer, passes)
    processes.give_back()
    print(json.dumps({"open_s": opened - began, "first_s": time.perf_counter() - opened}), flush=True)
    sys.stdin.read()


def step(model: Bundle, transformer: DiT, passes: Compiled) -> None:
    style = torch.from_numpy(model.negative_style)
    song = conditioning.build(
        transformer,
        text_ids=torch.zeros(FRAMES, dtype=torch.int64),
        style=style,
        negative_style=style,
        duration_frames=FRAMES,
    )
    sampling.sample(passes, song, torch.randn(1, FRAMES, 64), steps=1, cfg=0.0)


if __name__ == "__main__":
    main(*sys.argv[1:])
