"""How far one song is from another of the same seed, in latents and in sound, and from when on it is near.

b batch · t latent frames · c latent channels (64) · w windows · m mel bands
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from training.listening import Floats, Sound, log_mel


def error(latents: Tensor, reference: Tensor) -> float:
    """RMS of the difference over the RMS of the reference, of latents [b, t, c]."""
    return float((latents - reference).norm() / reference.norm())


def levels(sound: Sound) -> Floats:
    """log_mel of each channel of a song [2, n]: [2, w, m]."""
    return np.stack([log_mel(channel) for channel in sound])


def mel_db(heard: Floats, reference: Floats) -> float:
    """listening.mel_distance of two songs by their levels, so that a reference's are made once."""
    return float(np.abs(heard - reference).mean())


def near_from(points: Sequence[tuple[float, float]], limit: float) -> float | None:
    """The least t from which on every point's distance is at most `limit`; None where the last is above.

    points: (t, distance), in the order of t.
    """
    least = None
    for t, distance in reversed(points):
        if not distance <= limit:  # NaN is near to nothing
            break
        least = t
    return least
