"""A long song's frames in windows, each as long as a song that the model makes at once. Pure arithmetic.

Windows overlap: what one begins with has been made by those before it, and guides it as the known part of a
song guides an edit.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from diffrhythm.errors import RequestError


@dataclass(frozen=True, slots=True)
class Window:
    """Frames `start` to before `end` of a song, the first `known` of which the windows before have made."""

    start: int
    end: int
    known: int = 0


def cover(frames: int, *, window: int, overlap: int, step: int = 1) -> tuple[Window, ...]:
    """As few windows of so many frames as cover the song with this overlap or more; one, where it fits.

    They begin on multiples of `step`, so that the last may reach up to step - 1 frames behind the song. What
    is left over is spread: each but the first knows about as many frames. Raises RequestError unless
    0 < overlap, 0 < step ≤ window - overlap and the song has a frame.
    """
    if frames < 1 or overlap < 1 or not 0 < step <= window - overlap:
        raise RequestError(
            f"{frames} frames in windows of {window} that share {overlap} and begin every {step}: window: "
            "windows have to be longer than what they share"
        )
    if frames <= window:
        return (Window(0, frames),)
    hop = (window - overlap) // step * step
    hops = -(-(frames - window) // hop)
    starts = [-(-i * (frames - window) // (hops * step)) * step for i in range(hops + 1)]
    known = [0, *(window - (there - here) for here, there in pairwise(starts))]
    return tuple(Window(start, start + window, of) for start, of in zip(starts, known, strict=True))
