"""Single notes and drum hits, made of sines and of noise that is the same each time.

Every partial stays below 12 kHz, so nothing folds back; every sound has a peak of 1 and starts at once, so
that a note put on a frame's first sample is heard in that frame.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from diffrhythm.vae_config import HOP, SAMPLE_RATE

Samples = NDArray[np.float32]
_Wave = NDArray[np.float64]

_HIGHEST_PARTIAL_HZ = 12_000.0
# A tanh makes overtones of its own; what feeds it ends here so that those which fold are too weak to hear.
_HIGHEST_DRIVEN_HZ = 2_000.0
_CABINET_HZ = 4_500.0
# Half the frame rate: what all notes are multiples of.
TUNING = SAMPLE_RATE / HOP / 2


@dataclass(frozen=True, slots=True)
class Timbre:
    """How a pitched instrument sounds.

    partials: (frequency over the note's, amplitude). decay_s: time in which the fundamental falls to 1/e.
    damping: a partial at ratio r falls r**damping times as fast.
    drive: gain into a tanh; 0 leaves the sound clean.
    """

    partials: tuple[tuple[float, float], ...]
    attack_s: float
    release_s: float
    decay_s: float = math.inf
    damping: float = 0.0
    drive: float = 0.0


@lru_cache(maxsize=2048)
def sound(instrument: str, pitch: int = 0, frames: int = 1) -> Samples:
    """One note or hit, [samples], peak 1, mono; not to be written to.

    pitch: MIDI number, and frames: how long the key is down, both of no meaning to a drum. A note is longer
    than its frames by the instrument's release. Raises KeyError for an instrument that does not exist.
    """
    wave = DRUMS[instrument]() if instrument in DRUMS else _note(TIMBRES[instrument], hertz(pitch), frames)
    samples: Samples = (wave / np.abs(wave).max()).astype(np.float32)
    samples.flags.writeable = False
    return samples


def hertz(pitch: float) -> float:
    """Frequency of a MIDI number: 72 at 516.8 Hz, all others as near to its even steps as TUNING allows.

    On multiples of half the frame rate a held note has the same wave in every frame, or every second one, so
    that a latent need not say where in its period a note is. The white keys from the C below the middle one
    to the second G above it come out pure (24 : 27 : 30 : 32 : 36 : 40 : 45) but for the lowest D and B.
    """
    return TUNING * round(48 * math.exp2((pitch - 72) / 12))


def _note(timbre: Timbre, frequency: float, frames: int) -> _Wave:
    held = frames * HOP
    t = _seconds(held / SAMPLE_RATE + timbre.release_s)
    cycles = frequency * t
    highest = _HIGHEST_DRIVEN_HZ if timbre.drive else _HIGHEST_PARTIAL_HZ
    wave = np.zeros_like(t)
    for ratio, amplitude in timbre.partials:
        if ratio * frequency < highest:
            fade = np.exp(-t * ratio**timbre.damping / timbre.decay_s)
            wave += amplitude * fade * np.sin(2 * math.pi * ratio * cycles)
    if timbre.drive:
        wave = _band(np.tanh(timbre.drive * wave), 70.0, _CABINET_HZ)
    return wave * _key(t, held / SAMPLE_RATE, timbre.attack_s, timbre.release_s)


def _key(t: _Wave, held_s: float, attack_s: float, release_s: float) -> _Wave:
    """Loudness of a key pressed at 0 and let go at held_s: up along a sine, down along a cosine."""
    rise = np.sin(0.5 * math.pi * np.clip(t / attack_s, 0.0, 1.0))
    fall = np.cos(0.5 * math.pi * np.clip((t - held_s) / release_s, 0.0, 1.0))
    return np.asarray(rise * fall)


def _saw(count: int, slope: float = 1.0) -> tuple[tuple[float, float], ...]:
    """All harmonics, the n-th n**-slope as loud."""
    return tuple((float(n), n**-slope) for n in range(1, count + 1))


def _pulse(duty: float, count: int = 40) -> tuple[tuple[float, float], ...]:
    """The harmonics of a rectangle that is up for `duty` of its period."""
    return tuple((float(n), math.sin(math.pi * n * duty) / n) for n in range(1, count + 1))


def _power_chord() -> tuple[tuple[float, float], ...]:
    """Root, fifth and octave, each a saw."""
    return tuple((root * n, a) for root in (1.0, 1.5, 2.0) for n, a in _saw(16))


TIMBRES: Mapping[str, Timbre] = {
    "piano": Timbre(_saw(14, 1.3), attack_s=0.003, release_s=0.12, decay_s=0.9, damping=0.7),
    "e-piano": Timbre(((1, 1), (2, 0.25), (3, 0.08), (14, 0.12)), 0.004, 0.15, decay_s=1.1, damping=0.9),
    "guitar": Timbre(_saw(20, 1.0), attack_s=0.002, release_s=0.15, decay_s=0.7, damping=0.9),
    "guzheng": Timbre(_saw(24, 0.6), attack_s=0.001, release_s=0.25, decay_s=0.55, damping=0.6),
    "bass": Timbre(_saw(8, 1.4), attack_s=0.006, release_s=0.05, decay_s=0.8, damping=0.8),
    "double bass": Timbre(_saw(6, 1.7), attack_s=0.012, release_s=0.08, decay_s=0.45, damping=0.7),
    "sub": Timbre(((1, 1), (2, 0.15)), attack_s=0.006, release_s=0.03),
    "saw stab": Timbre(_saw(40), attack_s=0.003, release_s=0.05, decay_s=0.16, damping=0.35),
    "power chord": Timbre(_power_chord(), attack_s=0.003, release_s=0.03, decay_s=1.5, drive=4.0),
    "pad": Timbre(_saw(10, 1.8), attack_s=0.6, release_s=0.6),
    "strings": Timbre(_saw(16, 1.2), attack_s=0.4, release_s=0.6),
    "music box": Timbre(((1, 1), (3, 0.35), (6, 0.2)), 0.001, 0.3, decay_s=0.6, damping=1.0),
    "square": Timbre(_pulse(0.5), attack_s=0.002, release_s=0.004),
    "thin square": Timbre(_pulse(0.125), attack_s=0.002, release_s=0.004),
    "accordion": Timbre(_pulse(0.3, 24), attack_s=0.025, release_s=0.05),
    "flute": Timbre(((1, 1), (2, 0.35), (3, 0.12), (4, 0.04)), 0.05, 0.1),
}


def _kick() -> _Wave:
    t = _seconds(0.32)
    swept = 48.0 * t + 130.0 * 0.025 * (1 - np.exp(-t / 0.025))
    return np.asarray(np.sin(2 * math.pi * swept) * np.exp(-t / 0.1) * _key(t, 0.22, 0.001, 0.1))


def _snare() -> _Wave:
    t = _seconds(0.25)
    skin = np.sin(2 * math.pi * 185.0 * t) * np.exp(-t / 0.05)
    return 0.6 * skin + _noise(t, 1_000.0, 9_000.0) * np.exp(-t / 0.06)


def _hat() -> _Wave:
    t = _seconds(0.1)
    return _noise(t, 7_000.0, 14_000.0) * np.exp(-t / 0.02)


def _open_hat() -> _Wave:
    t = _seconds(0.3)
    return _noise(t, 6_000.0, 14_000.0) * np.exp(-t / 0.09)


def _ride() -> _Wave:
    t = _seconds(0.6)
    bell = sum(np.sin(2 * math.pi * f * t) for f in (3_170.0, 4_430.0, 5_870.0, 7_310.0))
    return (_noise(t, 5_000.0, 12_000.0) + 0.15 * np.asarray(bell)) * np.exp(-t / 0.16)


def _brush() -> _Wave:
    t = _seconds(0.3)
    return _noise(t, 1_500.0, 8_000.0) * np.exp(-t / 0.07) * _key(t, 0.2, 0.02, 0.1)


def _noise_tick() -> _Wave:
    return _game_noise(0.03, 11_025.0)


def _noise_crash() -> _Wave:
    return _game_noise(0.14, 5_512.5)


def _woodblock() -> _Wave:
    t = _seconds(0.15)
    return np.asarray(
        (np.sin(2 * math.pi * 1_050.0 * t) + 0.5 * np.sin(2 * math.pi * 1_730.0 * t)) * np.exp(-t / 0.025)
    )


DRUMS: Mapping[str, Callable[[], _Wave]] = {
    "kick": _kick,
    "snare": _snare,
    "hat": _hat,
    "open hat": _open_hat,
    "ride": _ride,
    "brush": _brush,
    "noise tick": _noise_tick,
    "noise crash": _noise_crash,
    "woodblock": _woodblock,
}


def _game_noise(seconds: float, rate_hz: float) -> _Wave:
    """One-bit noise that changes rate_hz times a second, as of an old game console; cut off, not faded."""
    t = _seconds(seconds)
    bits = np.sign(np.random.default_rng(0).standard_normal(int(seconds * rate_hz) + 1))
    return _band(bits[(t * rate_hz).astype(np.int64)], 100.0, _HIGHEST_PARTIAL_HZ) * _key(
        t, seconds - 0.005, 0.001, 0.004
    )


def _noise(t: _Wave, low_hz: float, high_hz: float) -> _Wave:
    return _band(np.random.default_rng(0).standard_normal(t.size), low_hz, high_hz)


def _band(wave: _Wave, low_hz: float, high_hz: float) -> _Wave:
    """What of a wave lies between two frequencies, falling 48 dB an octave outside."""
    f = np.fft.rfftfreq(wave.size, 1 / SAMPLE_RATE)
    with np.errstate(divide="ignore"):
        pass_band = 1 / (1 + (low_hz / f) ** 8) / (1 + (f / high_hz) ** 8)
    return np.fft.irfft(np.fft.rfft(wave) * pass_band, wave.size)


def _seconds(duration_s: float) -> _Wave:
    return np.arange(round(duration_s * SAMPLE_RATE)) / SAMPLE_RATE
