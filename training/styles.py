"""Ten styles: the band of each, and the line that its singer sings.

Everything begins on a latent frame. A style has one figure per bar from the first bar to the last, few keys
and few sounds, so that two seconds of it tell which it is, and a small model can learn it. All notes are
white keys, of which instruments.hertz has most pure.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffrhythm.vae_config import HOP
from training.instruments import Samples, hertz, sound

# From vowel to vowel within a line.
SYLLABLE_FRAMES = 6

MAJOR = (0, 2, 4, 5, 7, 9, 11)
LYDIAN = (0, 2, 4, 6, 7, 9, 11)
MIXOLYDIAN = (0, 2, 4, 5, 7, 9, 10)
MINOR = (0, 2, 3, 5, 7, 8, 10)
MAJOR_PENTATONIC = (0, 2, 4, 7, 9)
MINOR_PENTATONIC = (0, 3, 5, 7, 10)

Singer = Literal["low", "high"]


class Hit(NamedTuple):
    """One sound of the band: `frame` counts from the bar's start; a drum has no pitch or length."""

    instrument: str
    gain: float
    frame: int
    pitch: int = 0
    frames: int = 1


@dataclass(frozen=True, slots=True)
class Bar:
    """What the band reads of one bar.

    chord: MIDI numbers from the root up. tune: semitones of the singer's scale over tonic. figure: which of
    a style's two figures this song uses.
    """

    tonic: int
    tune: tuple[int, ...]
    chord: tuple[int, ...]
    figure: int


@dataclass(frozen=True, slots=True)
class Style:
    """What makes songs of a kind alike.

    beat_frames: 24, 18 or 12, for 53.8, 71.8 or 107.7 beats a minute. harmony: semitones of the seven notes
    that chords are built of, every other one, chord_notes of them. tune: semitones of the singer's scale.
    tonics: MIDI numbers. progressions: a degree of harmony (1 to 7) per bar, repeated to the song's end.
    register: lowest and highest MIDI number sung. level: RMS of the accompaniment. band: the sounds of a bar.
    """

    name: str
    beat_frames: int
    beats_per_bar: int
    harmony: tuple[int, ...]
    tune: tuple[int, ...]
    tonics: tuple[int, ...]
    progressions: tuple[tuple[int, ...], ...]
    singer: Singer
    register: tuple[int, int]
    level: float
    band: Callable[[Bar], Iterator[Hit]]
    chord_notes: int = 3

    @property
    def bar_frames(self) -> int:
        return self.beat_frames * self.beats_per_bar


def accompany(
    style: Style, tonic: int, progression: Sequence[int], frames: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """The band alone, [2, frames * HOP], with the style's level as RMS unless that would peak above 0.9.

    The generator chooses the song's figure and how loud each instrument is, within 1.5 dB.
    """
    figure = int(rng.integers(2))
    tracks: dict[str, Samples] = defaultdict(lambda: np.zeros(frames * HOP, np.float32))
    for start in range(0, frames, style.bar_frames):
        bar = Bar(tonic, style.tune, chord_at(style, tonic, progression, start), figure)
        for hit in style.band(bar):
            _add(tracks[hit.instrument], hit, start + hit.frame)
    mix = np.zeros((2, frames * HOP), np.float32)
    for instrument, track in tracks.items():
        loudness = 10 ** (rng.uniform(-1.5, 1.5) / 20)
        for channel, side in enumerate(_sides(instrument)):
            mix[channel] += np.float32(loudness * side) * track
    rms = math.sqrt(float(np.vdot(mix, mix)) / mix.size)
    mix *= np.float32(min(style.level / rms, 0.9 / float(np.abs(mix).max())))
    return mix


def melody(
    style: Style, tonic: int, progression: Sequence[int], onsets: Sequence[int], rng: np.random.Generator
) -> list[float]:
    """Frequency in Hz of each syllable, given the frame at which its vowel begins, ascending.

    Onsets further apart than SYLLABLE_FRAMES end a phrase. A phrase rises and falls in one arch, moves by at
    most two notes of the style's scale at a time, has notes of the chord on strong beats, and ends on one;
    for these alone it may move further.
    """
    notes = _singable(style, tonic)
    sung: list[int] = []
    for phrase in _phrases(onsets):
        for place, onset in enumerate(phrase):
            within = (place + 0.5) / len(phrase)
            height = (0.25 + 0.55 * math.sin(math.pi * within)) * (len(notes) - 1)
            choices = list(range(len(notes)))
            if is_strong(style, onset) or place == len(phrase) - 1:
                chord = {pitch % 12 for pitch in chord_at(style, tonic, progression, onset)}
                choices = [i for i in choices if notes[i] % 12 in chord]
            if place > 0:
                reach = max(2, min(abs(i - sung[-1]) for i in choices))
                choices = [i for i in choices if abs(i - sung[-1]) <= reach]
            sung.append(_choose(choices, sung, height, rng))
    return [hertz(notes[i]) for i in sung]


def chord_at(style: Style, tonic: int, progression: Sequence[int], frame: int) -> tuple[int, ...]:
    """The MIDI numbers of the chord that sounds at a frame, from its root up."""
    degree = progression[frame // style.bar_frames % len(progression)] - 1
    steps = range(degree, degree + 2 * style.chord_notes, 2)
    return tuple(tonic + 12 * (step // 7) + style.harmony[step % 7] for step in steps)


def is_strong(style: Style, onset: int) -> bool:
    """Whether a syllable is the one nearest to the start of a bar or, where beats are even, to its middle."""
    strong = style.bar_frames if style.beats_per_bar % 2 else style.bar_frames // 2
    return (onset + SYLLABLE_FRAMES // 2) % strong < SYLLABLE_FRAMES


def _singable(style: Style, tonic: int) -> list[int]:
    """The MIDI numbers of the style's scale within its register, ascending."""
    low, high = style.register
    return [pitch for pitch in range(low, high + 1) if (pitch - tonic) % 12 in style.tune]


def _phrases(onsets: Sequence[int]) -> Iterator[list[int]]:
    phrase: list[int] = []
    for onset in onsets:
        if phrase and onset - phrase[-1] > SYLLABLE_FRAMES:
            yield phrase
            phrase = []
        phrase.append(onset)
    if phrase:
        yield phrase


def _choose(choices: Sequence[int], sung: Sequence[int], height: float, rng: np.random.Generator) -> int:
    """One of some notes, likely if near the arch, a step from the last one, and not among the last two."""
    last = sung[-1] if sung else round(height)
    weights = [
        math.exp(-abs(i - height) / 1.5 - 0.6 * abs(abs(i - last) - 1)) * (0.3 if i in sung[-2:] else 1.0)
        for i in choices
    ]
    return int(rng.choice(choices, p=np.array(weights) / sum(weights)))


def _add(track: Samples, hit: Hit, frame: int) -> None:
    """Mix a sound into a track; what reaches over the end is cut."""
    room = track[frame * HOP :]
    samples = sound(hit.instrument, hit.pitch, hit.frames)[: room.size]
    room[: samples.size] += np.float32(hit.gain) * samples


def _sides(instrument: str) -> tuple[float, float]:
    """Gain in the left and right channel, of constant power."""
    angle = (1 + _PANS.get(instrument, 0.0)) * math.pi / 4
    return math.cos(angle), math.sin(angle)


# From -1, left, to 1, right; what is not named is in the middle, as is the voice.
_PANS: Mapping[str, float] = {
    "piano": -0.3,
    "e-piano": -0.35,
    "guitar": -0.2,
    "guzheng": -0.35,
    "saw stab": 0.3,
    "power chord": -0.25,
    "pad": -0.3,
    "strings": 0.3,
    "music box": 0.25,
    "thin square": 0.35,
    "accordion": 0.2,
    "flute": 0.4,
    "hat": 0.3,
    "open hat": 0.25,
    "ride": 0.4,
    "brush": -0.2,
    "noise tick": -0.3,
    "woodblock": 0.3,
}


def _within_octave(pitches: Sequence[int], low: int) -> list[int]:
    """The pitches moved by octaves to lie within the one that starts at `low`, ascending."""
    return sorted(low + (pitch - low) % 12 for pitch in pitches)


def _low(pitch: int, low: int) -> int:
    return low + (pitch - low) % 12


def _beats(drum: str, gain: float, frames: Sequence[int]) -> Iterator[Hit]:
    return (Hit(drum, gain, frame) for frame in frames)


def _chords(
    instrument: str, gain: float, at: Sequence[int], pitches: Sequence[int], frames: int
) -> Iterator[Hit]:
    return (Hit(instrument, gain, frame, pitch, frames) for frame in at for pitch in pitches)


def _pop(bar: Bar) -> Iterator[Hit]:
    """Piano chords in eighths over drums and bass."""
    yield from _chords("piano", 0.3, range(0, 48, 6), _within_octave(bar.chord, 60), 5)
    yield from _chords(
        "bass", 0.6, ((0, 18, 24, 42), (0, 12, 24, 36))[bar.figure], [_low(bar.chord[0], 36)], 6
    )
    yield from _beats("kick", 0.8, (0, 24, 30))
    yield from _beats("snare", 0.5, (12, 36))
    yield from _beats("hat", 0.2, range(0, 48, 6))


def _folk(bar: Bar) -> Iterator[Hit]:
    """A guitar alone, picked."""
    strings = [*_within_octave(bar.chord, 60), _within_octave(bar.chord, 60)[0] + 12]
    picked = ((0, 1, 2, 3, 2, 1, 2, 1), (0, 2, 1, 3, 0, 2, 1, 2))[bar.figure]
    for place, string in enumerate(picked):
        yield Hit("guitar", 0.5, 6 * place, strings[string], 14)
    yield Hit("guitar", 0.7, 0, _low(bar.chord[0], 40), 22)
    yield Hit("guitar", 0.6, 24, _low(bar.chord[0], 48), 22)


def _techno(bar: Bar) -> Iterator[Hit]:
    """A kick on each beat, hats in sixteenths, stabs and a sub between the beats."""
    yield from _beats("kick", 1.0, (0, 12, 24, 36))
    yield from _beats("hat", 0.18, range(0, 48, 3))
    yield from _beats("open hat", 0.25, (6, 18, 30, 42))
    stabs = ((6, 18, 30, 42), (6, 15, 30, 39))[bar.figure]
    yield from _chords("saw stab", 0.4, stabs, _within_octave(bar.chord, 60), 3)
    yield from _chords("sub", 0.45, (6, 18, 30, 42), [_low(bar.chord[0], 33)], 5)


def _jazz(bar: Bar) -> Iterator[Hit]:
    """A swung ride, brushes on two and four, a walking bass, seventh chords on an electric piano."""
    yield from _beats("ride", 0.28, (0, 18, 30, 36, 54, 66))
    yield from _beats("brush", 0.3, (18, 54))
    for beat, step in enumerate(((0, 1, 2, 1), (0, 2, 1, 2))[bar.figure]):
        yield Hit("double bass", 0.8, 18 * beat, _low(bar.chord[step], 48), 16)
    yield from _chords("e-piano", 0.3, (0, 30), _within_octave(bar.chord, 60), 12)


def _rock(bar: Bar) -> Iterator[Hit]:
    """Distorted fifths in eighths over heavy drums."""
    yield from _chords("power chord", 0.4, range(0, 48, 6), [_low(bar.chord[0], 48)], 5)
    yield from _chords("bass", 0.4, range(0, 48, 6), [_low(bar.chord[0], 36)], 5)
    yield from _beats("kick", 0.9, ((0, 18, 24), (0, 6, 24, 30))[bar.figure])
    yield from _beats("snare", 1.0, (12, 36))
    yield from _beats("open hat", 0.3, (0, 12, 24, 36))


def _lullaby(bar: Bar) -> Iterator[Hit]:
    """A music box that rocks in three over a soft bass."""
    combs = [*_within_octave(bar.chord, 84), _within_octave(bar.chord, 84)[0] + 12]
    played = ((0, 1, 2, 1, 3, 1), (3, 2, 1, 2, 0, 2))[bar.figure]
    for frame, comb in zip((0, 12, 18, 30, 36, 48), played, strict=True):
        yield Hit("music box", 0.5, frame, combs[comb], 10)
    yield Hit("double bass", 0.5, 0, _low(bar.chord[0], 40), 48)


def _ambient(bar: Bar) -> Iterator[Hit]:
    """Pads from bar to bar, no beat."""
    yield from _chords("pad", 0.3, (0,), _within_octave(bar.chord, 60), 90)
    yield from _chords("strings", 0.08, (0,), _within_octave(bar.chord, (67, 72)[bar.figure]), 90)
    yield Hit("pad", 0.5, 0, _low(bar.chord[0], 38), 90)


def _chiptune(bar: Bar) -> Iterator[Hit]:
    """Square waves: chords run through a note at a time, a bass in octaves, noise for drums."""
    tones = [*_within_octave(bar.chord, 72), _within_octave(bar.chord, 72)[0] + 12]
    run = ((0, 1, 2, 3), (3, 2, 1, 0))[bar.figure]
    for place in range(16):
        yield Hit("thin square", 0.4, 3 * place, tones[run[place % 4]], 3)
    for place in range(8):
        yield Hit("square", 0.35, 6 * place, _low(bar.chord[0], 41) + 12 * (place % 2), 4)
    yield from _beats("noise tick", 0.2, range(0, 48, 6))
    yield from _beats("noise crash", 0.35, (12, 36))


def _waltz(bar: Bar) -> Iterator[Hit]:
    """An accordion's oom-pah-pah."""
    root = _low(bar.chord[0], 36)
    yield Hit("accordion", 0.5, 0, root + 12, 9)
    yield Hit("bass", 0.6, 0, root, 9)
    yield from _chords(
        "accordion", 0.3, ((12, 24), (12, 18, 24))[bar.figure], _within_octave(bar.chord, 60), 5
    )


def _guofeng(bar: Bar) -> Iterator[Hit]:
    """A zither's pentatonic run and plucked fifths, a held flute, a woodblock."""
    root, fifth = _low(bar.chord[0], 62), _low(bar.chord[2], 62)
    ladder = [pitch for pitch in range(root, root + 24) if (pitch - bar.tonic) % 12 in bar.tune]
    for place in range(4):
        yield Hit("guzheng", 0.5, 3 * place, ladder[(place, 3 - place)[bar.figure]], 9)
    for frame, pitch in ((12, ladder[5]), (24, root), (30, fifth), (36, ladder[5]), (42, fifth)):
        yield Hit("guzheng", 0.6, frame, pitch, 12)
    yield Hit("guzheng", 0.6, 0, root - 24, 24)
    yield Hit("flute", 0.22, 0, _low(bar.chord[2], 79), 22)
    yield Hit("flute", 0.22, 24, _low(bar.chord[0], 79), 22)
    yield from _beats("woodblock", 0.25, (12, 36))


_ALL = (
    Style(
        name="pop",
        beat_frames=12,
        beats_per_bar=4,
        harmony=MAJOR,
        tune=MAJOR,
        tonics=(48,),
        progressions=((1, 5, 6, 4), (6, 4, 1, 5)),
        singer="high",
        register=(60, 72),
        level=0.1,
        band=_pop,
    ),
    Style(
        name="folk",
        beat_frames=24,
        beats_per_bar=2,
        harmony=MAJOR,
        tune=MAJOR_PENTATONIC,
        tonics=(48,),
        progressions=((1, 4, 1, 5), (1, 6, 4, 5)),
        singer="low",
        register=(55, 69),
        level=0.08,
        band=_folk,
    ),
    Style(
        name="techno",
        beat_frames=12,
        beats_per_bar=4,
        harmony=MINOR,
        tune=MINOR_PENTATONIC,
        tonics=(45,),
        progressions=((1, 1, 6, 7), (1, 1, 1, 6)),
        singer="low",
        register=(57, 69),
        level=0.12,
        band=_techno,
    ),
    Style(
        name="jazz",
        beat_frames=18,
        beats_per_bar=4,
        harmony=MAJOR,
        tune=MAJOR,
        tonics=(48,),
        progressions=((1, 6, 4, 5), (4, 5, 1, 6)),
        singer="low",
        register=(60, 72),
        level=0.08,
        band=_jazz,
        chord_notes=4,
    ),
    Style(
        name="rock",
        beat_frames=12,
        beats_per_bar=4,
        harmony=MINOR,
        tune=MINOR_PENTATONIC,
        tonics=(45,),
        progressions=((1, 6, 7, 1), (1, 7, 6, 7)),
        singer="low",
        register=(57, 69),
        level=0.12,
        band=_rock,
    ),
    Style(
        name="lullaby",
        beat_frames=18,
        beats_per_bar=3,
        harmony=MAJOR,
        tune=MAJOR,
        tonics=(48,),
        progressions=((1, 4, 5, 1), (1, 6, 4, 5)),
        singer="high",
        register=(60, 72),
        level=0.06,
        band=_lullaby,
    ),
    Style(
        name="ambient",
        beat_frames=24,
        beats_per_bar=4,
        harmony=LYDIAN,
        tune=LYDIAN,
        tonics=(53,),
        progressions=((1, 2), (1, 5)),
        singer="high",
        register=(60, 72),
        level=0.08,
        band=_ambient,
        chord_notes=4,
    ),
    Style(
        name="chiptune",
        beat_frames=12,
        beats_per_bar=4,
        harmony=MIXOLYDIAN,
        tune=MIXOLYDIAN,
        tonics=(55,),
        progressions=((1, 7, 4, 1), (1, 4, 7, 4)),
        singer="high",
        register=(62, 74),
        level=0.09,
        band=_chiptune,
    ),
    Style(
        name="waltz",
        beat_frames=12,
        beats_per_bar=3,
        harmony=MINOR,
        tune=MINOR,
        tonics=(45,),
        progressions=((1, 6, 7, 1), (1, 3, 7, 6)),
        singer="low",
        register=(60, 72),
        level=0.08,
        band=_waltz,
    ),
    Style(
        name="guofeng",
        beat_frames=24,
        beats_per_bar=2,
        harmony=MAJOR,
        tune=MAJOR_PENTATONIC,
        tonics=(48,),
        progressions=((1, 6, 1, 5), (6, 1, 5, 6)),
        singer="high",
        register=(60, 74),
        level=0.08,
        band=_guofeng,
    ),
)
STYLES: Mapping[str, Style] = {style.name: style for style in _ALL}
