"""What listens to a song: is there a voice where the lyrics are, does it sing their words, is the music of
the style asked for; and how near one sound is to another.

Each measure is held against songs by program, of which the truth is known (tests/training/test_listening.py).
None of them hears whether a song is good.

t latent frames · w windows, two a latent frame · m mel bands · n samples
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from diffrhythm import audio, words
from diffrhythm.lyrics import Alignment, Line, Placed, align, held
from diffrhythm.phonemes import segments, to_ids
from diffrhythm.phonemes.inventory import is_vowel
from diffrhythm.vae_config import HOP, SAMPLE_RATE
from training import text
from training.songs import compose, consonants_first, inventory, performance, sung_frames
from training.styles import STYLES, SYLLABLE_FRAMES
from training.voice import MARKS, as_sung

Sound = NDArray[np.float32]
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Sounds = Literal["vowels", "consonants"]
Through = Callable[[Sequence[Sound]], list[Sound]]

WINDOW = 2048
STEP = HOP // 2
BANDS = 40
# Of the mel bands; what singers' formants and consonants lie between.
LOWEST_HZ = 80.0
HIGHEST_HZ = 8000.0
# Where a voice is louder than most of what plays with it.
VOICE_HZ = (300.0, 4000.0)

# Cepstral numbers of a window: the envelope of a vowel, and not the overtones of its note. With 40 bands 6 to
# 10 do equally well, 16 begin to hear the note.
CEPSTRUM = 10
# Windows that one singing may be early or late against another: one latent frame.
SLACK = 2
# Of a song's mean level in its loudest band: below it, nothing is heard.
_FLOOR = 1e-4
# Added to the power in a band before its logarithm is taken: 70 dB below a sine of full scale.
_QUIET = 1e-7

# Of distances between sounds, dB below a sine of full scale: about the rustle of 16 bits after a loud song.
HEARD_DB = -70.0
RESOLUTIONS = (4096, 2048, 1024, 512, 128)

# Added to every measure's own spread within a kind: what a recording or a decoder does to sound.
_SHRINKAGE = 0.3
# Of a phone, to be known by: the rarest are left out.
FEWEST_FRAMES = 12


# ---------------------------------------------------------------- spectra


def mel_power(mono: Sound) -> Floats:
    """[w, m] of a sound [n], WINDOW samples every STEP: power in bands of equal width on the mel scale."""
    power: Floats = _power(mono, WINDOW, STEP)[: len(mono) // STEP] @ _mel_weights()
    return power


def log_mel(mono: Sound) -> Floats:
    """mel_power in dB over HEARD_DB, nothing below 0."""
    return _decibels(mel_power(mono))


def cepstra(power: Floats) -> Floats:
    """[w, CEPSTRUM] of mel_power: the shape of its logarithm, less the mean over the windows.

    The zeroth, which is loudness, is left out.
    """
    bands = power.shape[1]
    order = np.arange(1, CEPSTRUM + 1)
    waves = np.cos(np.pi / bands * np.outer(np.arange(bands) + 0.5, order)) * np.sqrt(2 / bands)
    shapes = np.log(power) @ waves
    evened: Floats = shapes - shapes.mean(axis=0)
    return evened


def _power(mono: Sound, window: int, step: int) -> Floats:
    """[w, window // 2 + 1], windows centred on multiples of step; 1 is a sine of full scale."""
    padded = np.pad(mono, window // 2)
    cut = np.lib.stride_tricks.sliding_window_view(padded, window)[::step]
    shape = np.hanning(window)
    power: Floats = np.abs(np.fft.rfft(cut * shape, axis=1)) ** 2 / (shape.sum() / 2) ** 2
    return power


def _decibels(power: Floats) -> Floats:
    floor = 10 ** (HEARD_DB / 10)
    decibels: Floats = 10 * np.log10((power + floor) / floor)
    return decibels


@cache
def _mel_weights() -> Floats:
    """[WINDOW // 2 + 1, BANDS]: triangles whose weights add up to 1."""
    hertz = np.array([LOWEST_HZ, HIGHEST_HZ, *np.fft.rfftfreq(WINDOW, 1 / SAMPLE_RATE)])
    lowest, highest, *mels = 2595 * np.log10(1 + hertz / 700)
    place = (np.array(mels) - lowest) / (highest - lowest) * (BANDS + 1)
    weights = np.maximum(0, 1 - np.abs(place[:, None] - np.arange(1, BANDS + 1)))
    normed: Floats = weights / weights.sum(axis=0)
    return normed


# ---------------------------------------------------------------- is there a voice?


def voice_rise(sound: Sound, alignment: Alignment) -> float:
    """How many dB more a song [2, n] has between 300 and 4000 Hz, both channels alike, in lines than in gaps.

    A band may be louder in one than in the other too: compare with the song of the same seed without lyrics.
    Raises ValueError where there is no line or no gap.
    """
    low, high = (round(hz * HOP / SAMPLE_RATE) for hz in VOICE_HZ)
    frames = audio.mono(sound)[0, : len(alignment.ids) * HOP].reshape(-1, HOP)
    power = np.abs(np.fft.rfft(frames * np.hanning(HOP), axis=1))[:, low:high] ** 2
    level = power.sum(axis=1) + 1e-9
    sung = _sung(alignment)
    return float(10 * np.log10(level[sung].mean() / level[~sung].mean()))


def _sung(alignment: Alignment) -> Flags:
    """[t]: whether a frame belongs to a line. Raises ValueError where all do, or none."""
    sung: Flags = alignment.ids != 0
    if sung.all() or not sung.any():
        raise ValueError("a song without a line, or without a gap, has nothing to compare: give both")
    return sung


# ---------------------------------------------------------------- does it sing its words?


def renditions(alignment: Alignment, style: str, *, seed: int, others: int = 4) -> Floats:
    """mel_power [1 + others, w, m] of the program's voice alone: these lyrics, and others in their place.

    Each other line is one of those held out, of the same language, as long as the line it stands for or
    nearly so, and its first vowel comes when that line's does: nothing but the words tells them apart. Each
    rendition has a melody of its own. It is vowels that tell most lines apart.
    """
    rng = np.random.default_rng(seed)
    sung = [alignment, *_rivals(alignment, others, rng)]
    return np.stack([mel_power(performance(each, style, seed + i).voice) for i, each in enumerate(sung)])


def line_distances(sound: Sound, alignment: Alignment, voices: Floats) -> Floats:
    """[lines, voices] of a song [2, n]: how far each line sounds from each of the renditions.

    What plays in the song's gaps is added to each rendition, at the level that it has in the song, so that
    song and rendition differ by the voice; their cepstra are laid on each other with SLACK windows to give.
    A line that the song's end cuts is left out.
    """
    heard = mel_power(audio.mono(sound)[0])
    sung = np.repeat(_sung(alignment), HOP // STEP)
    heard, voices = heard[: len(sung)], voices[:, : len(sung)]
    line, gap = heard[sung].mean(axis=0), heard[~sung].mean(axis=0)
    floor = _FLOOR * line.max() + 1e-12
    # A song with no voice at all is compared as well, with a faint one.
    sung_power = max(line.sum() - gap.sum(), 0.05 * line.sum())
    spans = [slice(each.start * HOP // STEP, each.end * HOP // STEP) for each in _whole(alignment)]
    distances = np.empty((len(spans), len(voices)))
    for number, voice in enumerate(voices):
        mixed = voice * (sung_power / max(voice[sung].mean(axis=0).sum(), 1e-12)) + gap
        for place, span in enumerate(spans):
            distances[place, number] = warped(cepstra(heard[span] + floor), cepstra(mixed[span] + floor))
    return distances


def own_nearer(distances: Floats) -> float:
    """The share of pairs of own and other line in which the own is nearer; half of them by chance."""
    return float((distances[:, :1] < distances[:, 1:]).mean())


def own_nearest(distances: Floats) -> float:
    """The share of lines nearer to their own rendition than to any other; one in so many by chance."""
    return float((distances.argmin(axis=1) == 0).mean())


def warped(a: Floats, b: Floats, slack: int = SLACK) -> float:
    """Mean distance of a [w, k] and b [w, k] along the best path through b.

    Each window of a meets one of b, at most slack earlier or later; from one window to the next b moves on by
    0, 1 or 2.
    """
    shifts = np.arange(-slack, slack + 1)
    total = np.zeros(len(shifts))
    beyond = np.array([np.inf])
    for i, window in enumerate(a):
        at = i + shifts
        inside = (at >= 0) & (at < len(b))
        costs = np.full(len(shifts), np.inf)
        costs[inside] = np.linalg.norm(window - b[at[inside]], axis=1)
        if i > 0:
            later, earlier = np.concatenate([total[1:], beyond]), np.concatenate([beyond, total[:-1]])
            total = np.minimum(total, np.minimum(later, earlier))
        total = total + costs
    return float(total.min() / len(a))


def _whole(alignment: Alignment) -> list[Placed]:
    return [each for each in alignment.placed if each.end - each.start > len(each.phones.phones)]


def _rivals(alignment: Alignment, others: int, rng: np.random.Generator) -> list[Alignment]:
    """Alignments with every line replaced by another one."""
    chosen = [_rivals_of(placed, others, rng) for placed in alignment.placed]
    return [
        align(lines, inventory(), frames=len(alignment.ids), syllable_frames=SYLLABLE_FRAMES)
        for lines in ([rivals[i] for rivals in chosen] for i in range(others))
    ]


def _rivals_of(placed: Placed, others: int, rng: np.random.Generator) -> list[Line]:
    """That many lines most alike in length from their first vowel on, laid vowel on vowel."""
    before, after = _around_first_vowel(placed.phones.phones)
    language: text.Language = "zh" if segments(placed.line.text)[0][1] == "zh" else "en"
    candidates = [
        (abs(rival_after - after), rng.random(), rival, rival_before)
        for rival, rival_before, rival_after in _candidates(language)
        if rival != placed.line.text
    ]
    starts = placed.start + before
    return [
        Line(max(starts - rival_before + 0.5, 0) * HOP / SAMPLE_RATE, rival, placed.line.number)
        for _, _, rival, rival_before in sorted(candidates)[:others]
    ]


@cache
def _candidates(language: text.Language) -> tuple[tuple[str, int, int], ...]:
    """Lines held out, each with its frames before its first vowel and from there on."""
    found = []
    for line in text.lines(language, "heldout"):
        phones = held(to_ids(line, inventory()).phones, SYLLABLE_FRAMES)
        found.append((line, *_around_first_vowel(phones)))
    return tuple(found)


def _around_first_vowel(phones: Sequence[str]) -> tuple[int, int]:
    before = consonants_first(phones)
    return before, len(phones) - before


# ---------------------------------------------------------------- what an ear hears


@dataclass(frozen=True, slots=True)
class Ear:
    """Tells kinds of sound apart by numbers measured on them: linear discriminants.

    names: of the kinds. weights [names, measures] and bias [names].
    """

    names: tuple[str, ...]
    weights: Floats
    bias: Floats

    def hear(self, measured: Floats) -> str:
        """The kind that measures [k], or several of one sound [n, k], are most like."""
        scores = np.atleast_2d(measured) @ self.weights.T + self.bias
        return self.names[int(scores.sum(axis=0).argmax())]


@dataclass(frozen=True, slots=True)
class Ears:
    """Ears for styles, and for which vowel and which consonant is sung."""

    styles: Ear
    sung: Mapping[Sounds, Ear]

    def style(self, sound: Sound) -> str:
        """The style that a song [2, n] at 44.1 kHz sounds most like."""
        return self.styles.hear(measures(sound))

    def phones(self, sound: Sound, alignment: Alignment) -> dict[Sounds, float]:
        """The shares of a song's vowels and consonants that are heard as what they should be."""
        frames = phone_measures(sound)
        shares: dict[Sounds, float] = {}
        for sounds, ear in self.sung.items():
            runs = [run for run in sung_runs(alignment, sounds) if run[0] in ear.names]
            shares[sounds] = float(np.mean([ear.hear(frames[span]) == phone for phone, span in runs]))
        return shares


def teach(songs: int, frames: int, through: Through = list) -> Ears:
    """Ears taught by that many songs by program of each style, with training's words.

    through: what these went through before they are heard. Taught by the songs themselves and not by what an
    autoencoder returns of them, an ear for styles knew three in ten songs again behind one that makes them
    noisier: it would judge the autoencoder, and not what is sampled.
    """
    styles: dict[str, list[Floats]] = {}
    phones: dict[Sounds, dict[str, list[Floats]]] = {"vowels": {}, "consonants": {}}
    for name in sorted(STYLES):
        composed = [compose(seed, name, frames=frames) for seed in range(songs)]
        sounds = through([song.audio for song in composed])
        styles[name] = [measures(sound) for sound in sounds]
        for song, sound in zip(composed, sounds, strict=True):
            of_frames = phone_measures(sound)
            for kind, groups in phones.items():
                for phone, span in sung_runs(song.alignment, kind):
                    groups.setdefault(phone, []).extend(of_frames[span])
    known = {
        kind: {phone: each for phone, each in groups.items() if len(each) >= FEWEST_FRAMES}
        for kind, groups in phones.items()
    }
    return Ears(discriminants(styles), {kind: discriminants(groups) for kind, groups in known.items()})


def measures(sound: Sound) -> Floats:
    """[128] of a song [2, n]: mean and spread of the levels of mel bands, as a style clip's are."""
    mono = audio.resample(audio.mono(sound), SAMPLE_RATE, words.SOUND_RATE)[0]
    return words.measures(mono).astype(np.float64)


def phone_measures(sound: Sound) -> Floats:
    """[t, 3 · CEPSTRUM] of a song [2, n]: cepstra at each latent frame's start, middle and end."""
    shapes = cepstra(mel_power(audio.mono(sound)[0]) + _QUIET)
    return np.concatenate([shapes[0::2], shapes[1::2], np.roll(shapes, -2, axis=0)[0::2]], axis=1)


def sung_runs(alignment: Alignment, sounds: Sounds) -> list[tuple[str, slice]]:
    """Each vowel, or consonant, of a song as it is sung, and its frames."""
    runs = []
    at = 0
    for phone, same in groupby(sung_frames(alignment)):
        length = len(list(same))
        if phone is not None and phone not in MARKS and is_vowel(phone) == (sounds == "vowels"):
            runs.append((as_sung(phone), slice(at, at + length)))
        at += length
    return runs


def discriminants(groups: Mapping[str, Sequence[Floats]]) -> Ear:
    """Fisher's, with one spread for all kinds. groups: measures [k] of several sounds of each."""
    means = np.stack([np.mean(group, axis=0) for group in groups.values()])
    apart = np.concatenate([group - mean for group, mean in zip(groups.values(), means, strict=True)])
    spread = apart.T @ apart / len(apart)
    within = spread + _SHRINKAGE**2 * np.eye(len(spread))
    weights = np.linalg.solve(within, means.T).T
    return Ear(tuple(groups), weights, -0.5 * np.einsum("sm,sm->s", weights, means))


# ---------------------------------------------------------------- how near are two sounds?


def mel_distance(made: Sound, sound: Sound) -> float:
    """Mean distance in dB of the levels in mel bands of two songs [2, n], channel by channel."""
    pairs = zip(made, sound, strict=True)
    return float(np.mean([np.abs(log_mel(a) - log_mel(b)).mean() for a, b in pairs]))


def spectral_distance(made: Sound, sound: Sound) -> float:
    """Mean distance in dB of the spectra of two songs [2, n] at RESOLUTIONS, channel by channel."""
    return float(
        np.mean(
            [
                np.abs(_decibels(_power(a, size, size // 2)) - _decibels(_power(b, size, size // 2))).mean()
                for size in RESOLUTIONS
                for a, b in zip(made, sound, strict=True)
            ]
        )
    )


def si_sdr(made: Sound, sound: Sound) -> float:
    """Scale-invariant ratio of signal to distortion in dB (Le Roux et al. 2019, arXiv 1811.02508).

    Within ±60. It asks for the waveform itself: a decoder that keeps the sound and not its phases scores low.
    """
    a, b = made.ravel().astype(np.float64), sound.ravel().astype(np.float64)
    alike = float(a @ b) ** 2 / max(float(a @ a) * float(b @ b), 1e-12)
    return float(10 * np.log10(max(alike, 1e-6) / max(1 - alike, 1e-6)))


def baselines(sound: Sound, another: Sound, rng: np.random.Generator) -> Mapping[str, Sound]:
    """What a song [2, n] can be compared with to read a distance. another: of the same style and length."""
    return {
        "8 bits a sample": (np.round(sound * 127) / 127).astype(np.float32),
        "low-passed at 4 kHz": _lowpassed(sound, 4000.0),
        "one latent frame later": np.pad(sound, ((0, 0), (HOP, 0)))[:, :-HOP],
        "another song of its style": another,
        "noise of its spectrum": _scattered(sound, rng),
        "silence": np.zeros_like(sound),
    }


def _lowpassed(sound: Sound, hertz: float) -> Sound:
    spectrum = np.fft.rfft(sound, axis=1)
    spectrum[:, round(hertz * sound.shape[1] / SAMPLE_RATE) :] = 0
    return np.fft.irfft(spectrum, sound.shape[1], axis=1).astype(np.float32)


def _scattered(sound: Sound, rng: np.random.Generator) -> Sound:
    """The song's own frequencies, each at its level, at random times."""
    spectrum = np.fft.rfft(sound, axis=1)
    turned = np.abs(spectrum) * np.exp(2j * np.pi * rng.random(spectrum.shape))
    return np.fft.irfft(turned, sound.shape[1], axis=1).astype(np.float32)
