"""Foresight: a child that knows its own pace makes the rest of its grid fit the time it has. Pure."""

from __future__ import annotations

import math

from runner.verdict import MIN_DENSITY

# After so many measured steps the pace is trusted; the first is often slower (cold caches).
MEASURED_STEPS = 2
# Decoding and writing have to fit, too: on two cores the decoder takes 0.25 to 1 s for each second of
# sound and the transformer many times that, so a tenth of the attempt's time is ample; of a short time
# loudness, encoding and the last beats take their seconds.
RESERVE = 0.1
RESERVE_S = 5.0


def sampling_s(timeout_s: float) -> float:
    """How much of an attempt's time sampling may have used when it ends."""
    return timeout_s - max(RESERVE * timeout_s, min(RESERVE_S, timeout_s / 2))


def steps_that_fit(
    *, step_s: float, elapsed_s: float, timeout_s: float, remaining: int, t: float
) -> int | None:
    """How many of the remaining steps to keep so that the song ends in time; None: all of them fit.

    step_s: this song's measured seconds a step. Never fewer than the floor of MIN_DENSITY steps over
    [0, 1] leaves for what remains after t, and at least one.
    """
    left_s = max(0.0, sampling_s(timeout_s) - elapsed_s)
    if remaining * step_s <= left_s:
        return None
    floor = max(1, math.ceil((1 - t) * MIN_DENSITY - 1e-9))
    kept = max(floor, int(left_s / step_s))
    return kept if kept < remaining else None
