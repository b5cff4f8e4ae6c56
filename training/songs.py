"""Songs by program: lines of lyrics, a melody for their syllables, a voice, and what plays with it.

Everything of a song follows from its seed. Lines begin so that their first vowel falls on a beat or between
two, vowels come SYLLABLE_FRAMES apart, and the accompaniment has its bars from the first frame on, so what is
to be learnt is exact to the frame.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from diffrhythm.lyrics import Alignment, Line, align, held
from diffrhythm.phonemes import Inventory, to_ids
from diffrhythm.phonemes.inventory import is_vowel
from diffrhythm.vae_config import HOP, SAMPLE_RATE
from training.styles import STYLES, SYLLABLE_FRAMES, Style, accompany, melody
from training.text import Language, Part, song_lines
from training.voice import SINGERS, sing

FRAMES = 648  # 30.1 s, a whole number of bars in every style

# RMS of the voice while it sings, and of everything else.
VOICE_LEVEL = 0.13
ACCOMPANIMENT_LEVEL = 0.07
LOUDEST = 0.95
# What of the songs has no words, and what of those with words is Chinese.
INSTRUMENTAL = 0.08
CHINESE = 0.4


@dataclass(frozen=True, slots=True)
class Song:
    """audio: float32 [2, frames · HOP]. voice: the singer alone, [frames · HOP], at its level in audio.

    alignment: where the lines are, its ids one a frame. style: its name.
    """

    audio: NDArray[np.float32]
    voice: NDArray[np.float32]
    alignment: Alignment
    style: str


def compose(seed: int, style: str | None = None, part: Part = "train", frames: int = FRAMES) -> Song:
    """The song of this seed, in this style or in one that the seed chooses; lyrics of that part."""
    rng = np.random.default_rng([zlib.crc32(part.encode()), seed])
    name = style or str(rng.choice(sorted(STYLES)))
    chosen = STYLES[name]
    language: Language = "zh" if rng.random() < CHINESE else "en"
    texts = [] if rng.random() < INSTRUMENTAL else song_lines(rng, language, 16, part)
    alignment = align(
        _placed(texts, frames, rng), inventory(), frames=frames, syllable_frames=SYLLABLE_FRAMES
    )
    return _performed(alignment, chosen, rng)


def performance(alignment: Alignment, style: str, seed: int) -> Song:
    """These lines, sung and played by program."""
    return _performed(alignment, STYLES[style], np.random.default_rng(seed))


@cache
def inventory() -> Inventory:
    """The phones of the demo model."""
    return Inventory.demo()


def sung_frames(alignment: Alignment) -> list[str | None]:
    """The phone of each frame of the song."""
    frames: list[str | None] = [None] * len(alignment.ids)
    for placed in alignment.placed:
        phones = placed.phones.phones[: placed.end - placed.start]
        frames[placed.start : placed.start + len(phones)] = phones
    return frames


def _placed(texts: Sequence[str], frames: int, rng: np.random.Generator) -> list[Line]:
    """Lines one after the other, none cut by the end, each vowel on a frame that music happens on."""
    lines = []
    beat = 2 * SYLLABLE_FRAMES
    at = int(rng.integers(1, 5)) * beat
    for number, text in enumerate(texts, 1):
        phones = to_ids(text, inventory())
        length = len(held(phones.phones, SYLLABLE_FRAMES)) + 1
        start = at - consonants_first(phones.phones)
        if start + length > frames:
            break
        lines.append(Line((start + 0.5) * HOP / SAMPLE_RATE, text, number))
        step = SYLLABLE_FRAMES if rng.random() < 0.2 else beat
        # A breath, or a bar without words.
        rest = beat if rng.random() < 0.8 else 4 * beat
        at = -(-(at + length + rest) // step) * step
    return lines


def consonants_first(phones: Sequence[str]) -> int:
    """How many phones come before the first vowel; 0 without one."""
    return next((i for i, phone in enumerate(phones) if is_vowel(phone)), 0)


def _performed(alignment: Alignment, style: Style, rng: np.random.Generator) -> Song:
    frames = len(alignment.ids)
    tonic = int(rng.choice(style.tonics))
    progression = style.progressions[int(rng.integers(len(style.progressions)))]
    phones = sung_frames(alignment)
    onsets = [
        i
        for i, phone in enumerate(phones)
        if phone is not None and is_vowel(phone) and (i == 0 or phones[i - 1] != phone)
    ]
    notes = melody(style, tonic, progression, onsets, rng)
    voice = sing(phones, _pitches(phones, onsets, notes), SINGERS[style.singer])
    band = accompany(style, tonic, progression, frames, rng)
    sung = np.repeat([phone is not None for phone in phones], HOP)
    voice = voice * np.float32(VOICE_LEVEL / _rms(voice[sung])) if sung.any() else voice
    mix = voice + band * np.float32(ACCOMPANIMENT_LEVEL / _rms(band))
    gain = np.float32(min(1.0, LOUDEST / float(np.abs(mix).max())))
    return Song(mix * gain, voice * gain, alignment, style.name)


def _pitches(
    phones: Sequence[str | None], onsets: Sequence[int], notes: Sequence[float]
) -> NDArray[np.float64]:
    """Hz of each frame: a note from its vowel on, and before the first vowel of a line already."""
    pitch = np.zeros(len(phones))
    for onset, note in zip(onsets, notes, strict=True):
        pitch[onset] = note
    current = notes[0] if notes else 220.0
    for i in range(len(phones)):
        if pitch[i]:
            current = pitch[i]
        elif phones[i] is not None and (i == 0 or phones[i - 1] is None):
            current = next((note for onset, note in zip(onsets, notes, strict=True) if onset > i), current)
        pitch[i] = current
    return pitch


def _rms(sound: NDArray[np.float32]) -> float:
    return float(np.sqrt(np.mean(np.square(sound, dtype=np.float64)))) or 1.0
