"""Make evening-arpeggio.ogg, the style clip of the example jobs: plucked chords over a soft low note.

python jobs/clips/make_evening_arpeggio.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

RATE = 24_000
BEAT_S = 0.3
# A minor, F, C, G as MIDI notes: four bars of twelve beats of 0.3 s are 14.4 s.
CHORDS = [(57, 60, 64, 69), (53, 57, 60, 65), (48, 55, 60, 64), (55, 59, 62, 67)]
PATTERN = (0, 1, 2, 3, 2, 1, 0, 2, 3, 2, 1, 2)


def arpeggio() -> NDArray[np.float64]:
    """The clip: [n] in [-0.7, 0.7] at RATE."""
    bar_s = BEAT_S * len(PATTERN)
    sound = np.zeros(int(RATE * bar_s * len(CHORDS)) + 1)
    for bar, chord in enumerate(CHORDS):
        add(sound, bar * bar_s, pluck(chord[0] - 12, decay=0.6, seconds=bar_s))
        for beat, which in enumerate(PATTERN):
            add(sound, bar * bar_s + beat * BEAT_S, pluck(chord[which], decay=3.0, seconds=1.5))
    return 0.7 * sound / np.abs(sound).max()


def pluck(note: int, *, decay: float, seconds: float) -> NDArray[np.float64]:
    """A string: eight harmonics, the higher ones fainter and sooner gone."""
    t = np.arange(int(RATE * seconds)) / RATE
    pitch = 440.0 * 2 ** ((note - 69) / 12)
    harmonics = [np.sin(2 * np.pi * pitch * k * t) * np.exp(-decay * k * t) / k**1.5 for k in range(1, 9)]
    return np.sum(harmonics, axis=0) * np.minimum(1, t / 0.004)  # 4 ms of rise, or it would click


def add(sound: NDArray[np.float64], at_s: float, note: NDArray[np.float64]) -> None:
    start = int(RATE * at_s)
    end = min(start + len(note), len(sound))
    sound[start:end] += note[: end - start]


if __name__ == "__main__":
    soundfile.write(Path(__file__).with_name("evening-arpeggio.ogg"), arpeggio(), RATE, subtype="VORBIS")
