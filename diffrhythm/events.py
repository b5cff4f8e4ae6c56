"""The one word that a song in the making says to the outside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Phase = Literal["load", "lyrics", "style", "encode", "sample", "decode", "write"]
PHASES: tuple[Phase, ...] = get_args(Phase)


@dataclass(frozen=True, slots=True)
class Event:
    """Something moved forward: a phase began, a solver step or a chunk of sound ended.

    step, steps: 0 ≤ step ≤ steps; solver steps while sampling, chunks while encoding or decoding, 0 of 0
    elsewhere.
    seconds: what this step took; 0 where a phase begins.
    t: position in [0, 1] of the flow, while sampling. passes: transformer passes of this song so far.
    latent_std: standard deviation of x_t, while sampling (a finished latent is near 1).
    note: a few words for people ("bf16 on 2 threads"), or empty.
    """

    phase: Phase
    step: int = 0
    steps: int = 0
    seconds: float = 0.0
    t: float | None = None
    passes: int = 0
    latent_std: float | None = None
    note: str = ""
