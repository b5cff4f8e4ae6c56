"""A singing voice: the phone and the note of each latent frame → sound.

A phone is cut into parts (the closure, burst and breath of a stop; the glide, vowel and nasal of a final). A
part has a target: four formants and how loud its three sources are. Pulses at the note and breath go through
the formants, friction through a band of its own; targets glide into each other over hundredths of a second.
Filtering is by overlapping spectra, so half a minute of song takes a fraction of a second.

`n` samples · `t` latent frames · `p` parts · `w` windows · `f` bins of a window's spectrum
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import groupby, pairwise

import numpy as np
from numpy.typing import NDArray

from diffrhythm.vae_config import HOP, SAMPLE_RATE

Floats = NDArray[np.float64]
Formants = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Singer:
    """What differs between two voices.

    formant_scale: of the table's formants, which are those of a low voice. brightness_hz: pulses fall by
    8.7 dB in so many Hz. breathiness: breath under the voice, as a share of it.
    """

    formant_scale: float
    brightness_hz: float
    breathiness: float


SINGERS = {
    "low": Singer(1.0, 1900.0, 0.02),
    "high": Singer(1.15, 2200.0, 0.035),
}

# After Peterson and Barney (1952) and Hillenbrand et al. (1995), men; the Chinese after Lee and Zee (2003).
VOWELS: dict[str, Formants] = {
    "i": (280, 2250, 2950, 3600),
    "ɪ": (400, 1950, 2550, 3600),
    "e": (430, 2080, 2600, 3600),
    "ɛ": (550, 1800, 2500, 3550),
    "æ": (680, 1700, 2420, 3500),
    "a": (800, 1320, 2500, 3500),
    "ɑ": (730, 1090, 2440, 3400),
    "ɔ": (580, 860, 2410, 3350),
    "o": (470, 880, 2400, 3300),
    "ʊ": (430, 1050, 2250, 3300),
    "u": (300, 800, 2240, 3250),
    "ʌ": (640, 1220, 2400, 3400),
    "ə": (500, 1450, 2450, 3450),
    "ɜ": (480, 1350, 1720, 3200),
    "ɚ": (480, 1350, 1720, 3200),
    "ɥ": (280, 1980, 2380, 3500),
    # What is written ɹ after a Chinese sibilant: the vowel of 四, and of 是.
    "ɿ": (380, 1350, 2650, 3500),
    "ʅ": (390, 1680, 2300, 3300),
}


@dataclass(frozen=True, slots=True)
class Part:
    """A target and how long it is kept.

    seconds: at the usual pace; 0 for what is stretched. share: its part of what is stretched.
    formants: None for those of what follows. voice, breath, friction: levels (1 is a vowel's); breath goes
    through the formants. band: of the friction, Hz. nasal: formants are damped.
    """

    formants: Formants | None
    voice: float = 0.0
    breath: float = 0.0
    friction: float = 0.0
    band: tuple[float, float] = (1000.0, 8000.0)
    seconds: float = 0.0
    share: float = 0.0
    nasal: bool = False

    @property
    def silent(self) -> bool:
        return self.voice == self.breath == self.friction == 0


Parts = tuple[Part, ...]
Span = tuple[float, float, Part]  # begin and end in seconds
Spans = list[Span]

_FRAME_S = HOP / SAMPLE_RATE
# Where the formants of the mouth go while lips, tongue tip, blade or back of the tongue close it.
_LIPS: Formants = (250, 850, 2250, 3300)
_TIP: Formants = (280, 1750, 2650, 3500)
_BLADE: Formants = (280, 1950, 2600, 3400)
_CURLED: Formants = (300, 1650, 2150, 3200)
_BACK: Formants = (280, 1700, 2200, 3300)

# s, ʃ, s` and the bursts: narrow enough to be told apart after coding.
_S = (5000.0, 9000.0)
_SH = (2500.0, 5000.0)
_CURL = (2000.0, 4200.0)
_PLACES: dict[str, tuple[Formants, tuple[float, float]]] = {
    "p": (_LIPS, (400.0, 1600.0)),
    "t": (_TIP, (3500.0, 7000.0)),
    "k": (_BACK, (1500.0, 2800.0)),
    "ts": (_TIP, _S),
    "ts`": (_CURLED, _CURL),
    "tʃ": (_BLADE, _SH),
    "tɹ": (_CURLED, (1800.0, 4000.0)),
}
_VOICED = {"b": "p", "d": "t", "ɡ": "k", "dz": "ts", "dʒ": "tʃ", "dɹ": "tɹ"}

_CONTINUANTS: dict[str, Part] = {
    "f": Part(_LIPS, friction=0.20, band=(1500.0, 11000.0)),
    "v": Part(_LIPS, voice=0.32, friction=0.09, band=(1500.0, 11000.0)),
    "θ": Part(_TIP, friction=0.15, band=(4500.0, 12000.0)),
    "ð": Part((270, 1400, 2600, 3400), voice=0.35, friction=0.05, band=(4500.0, 12000.0)),
    "s": Part(_TIP, friction=0.38, band=_S),
    "z": Part(_TIP, voice=0.28, friction=0.22, band=_S),
    "ʃ": Part(_BLADE, friction=0.42, band=_SH),
    "ʒ": Part(_BLADE, voice=0.28, friction=0.25, band=_SH),
    "s`": Part(_CURLED, friction=0.42, band=_CURL),
    "ɹ`": Part(_CURLED, voice=0.40, friction=0.15, band=_CURL),
    "x": Part(None, breath=0.20, friction=0.16, band=(1000.0, 2800.0)),
    "h": Part(None, breath=0.34),
    "m": Part((250, 1000, 2200, 3200), voice=0.55, nasal=True),
    "n": Part((270, 1550, 2500, 3400), voice=0.55, nasal=True),
    "ŋ": Part((280, 2050, 2700, 3500), voice=0.55, nasal=True),
    "j": Part((280, 2250, 3000, 3600), voice=0.65),
    "w": Part((300, 650, 2200, 3200), voice=0.65),
    "ɹ": Part((330, 1150, 1600, 3100), voice=0.65),
    "r": Part((400, 1300, 1800, 3200), voice=0.45),
    "l": Part((360, 1200, 2800, 3500), voice=0.60),
    "ɾ": Part((350, 1700, 2600, 3500), voice=0.30),
}

MARKS = frozenset(",.?!;:'…")
CONTINUES = "_"

_TONES = str.maketrans("", "", "→↑↓")
_SYMBOL = re.compile(r"ts`?[ʰ⁼]?|d[zʒɹ]|tʃ[ʰ⁼]?|tɹ|[ptk][ʰ⁼]?|[sɹ]`|.\u0303?")
_APICAL = re.compile(r"(?P<sibilant>ts[ʰ⁼]|s)?(?P<curled>ts`[ʰ⁼]|s`|ɹ`)?ɹ")
_SHORT_IF_FIRST = "iuɥjw"
_MEDIAL, _NUCLEUS, _CODA = 0.35, 1.0, 0.6

_GLIDE_S = 0.035  # from one target to the next
_DIPHTHONG_GLIDE = 0.9  # of the shorter vowel
_ONSET_S = 0.009  # from one level to the next
_RELEASE_S = 0.040  # of the last sound before a silence
_SAME_S = 1e-6  # times closer than this are the same

# Windows of 23 ms follow a glide, and the spectrum is long enough for a formant to ring out.
_STEP = 512
_WINDOW = 2 * _STEP
_SPECTRUM = 3 * _STEP
_BLOCK = 128  # windows at a time: what fits into the cache is three times as fast
_HZ = np.fft.rfftfreq(_SPECTRUM, 1 / SAMPLE_RATE).astype(np.float32)  # [f]
_BANDWIDTHS = np.array([60.0, 80.0, 120.0, 180.0], dtype=np.float32)
_NASAL_DAMPING = 2.5
_BREATH_BRIGHTNESS_HZ = 4500.0
_NEUTRAL_HZ = (500.0, 1500.0, 2500.0, 3500.0)
_NEUTRAL_WIDE_HZ = 2000 / np.pi


def sing(frames: Sequence[str | None], pitch: Floats, singer: Singer) -> NDArray[np.float32]:
    """The song's voice alone, mono [t · 2048] at 44.1 kHz, peak 1; all zero where nothing is sung.

    frames: the phone sounding in each frame, of diffrhythm/phonemes/demo.json; equal neighbours are one held
    phone; None for silence. pitch: Hz [t], read where something is sung.
    Raises ValueError for a phone without a rule and for a pitch that cannot be sung.
    """
    spans = list(_spans(frames))
    samples = len(frames) * HOP
    if not any(not part.silent for _, _, part in spans):
        return np.zeros(samples, dtype=np.float32)
    hz = np.repeat(_checked(frames, pitch), HOP)
    sources = _sources(spans, hz, singer)
    formants, damping = _formant_tracks(spans, samples // _STEP + 1, singer)
    formants[:, 0] = np.maximum(formants[:, 0], np.append(hz[::_STEP], hz[-1]))  # as singers do on high notes
    bands = _bands(spans, samples // _STEP + 1)
    sound = _filtered(sources, formants, damping, bands, singer.brightness_hz)
    return np.asarray(sound / np.max(np.abs(sound)), dtype=np.float32)


# Phones to parts


@cache
def parts_of(phone: str) -> Parts:
    """The parts of a phone in order. Raises ValueError for one that has no rule."""
    if phone in MARKS:
        return (Part(None, share=1.0),)
    symbols = _symbols(phone)
    vowels = [symbol for symbol in symbols if symbol[0] in VOWELS]
    if not vowels and len(symbols) == 1:
        return _alone(_consonant(symbols[0]))
    parts: list[Part] = []
    for i, symbol in enumerate(symbols):
        if symbol[0] in VOWELS or any(part.share == _NUCLEUS for part in parts):
            parts.append(_stretched(symbol, _role(symbols, i, phone)))
        elif symbol in ("j", "w"):
            parts.append(_stretched(symbol, _MEDIAL))
        else:
            parts += _consonant(symbol)
    return tuple(parts)


def as_sung(phone: str) -> str:
    """A phone without its length and tone, which are the melody's: "uaɪ↓" → uaɪ."""
    return phone.translate(_TONES).replace("ː", "")


def _symbols(phone: str) -> list[str]:
    """ "uaɪ↓" → u a ɪ; "ts`ʰɹ→" → ts`ʰ ʅ."""
    plain = as_sung(phone)
    if apical := _APICAL.fullmatch(plain):
        if apical["sibilant"]:
            return [apical["sibilant"], "ɿ"]
        if apical["curled"]:
            return [apical["curled"], "ʅ"]
    return _SYMBOL.findall(plain)


def _role(symbols: list[str], i: int, phone: str) -> float:
    """How much of the syllable a symbol takes: "uan" is a short u, an a, and an n at the end."""
    vowels = [j for j, symbol in enumerate(symbols) if symbol[0] in VOWELS]
    rising = symbols[vowels[0]][0] in _SHORT_IF_FIRST and len(vowels) > 1 and phone != "iə"
    nucleus = vowels[1] if rising else vowels[0]
    return _MEDIAL if i < nucleus else _NUCLEUS if i == nucleus else _CODA


def _stretched(symbol: str, share: float) -> Part:
    if symbol[0] in VOWELS:
        return Part(VOWELS[symbol[0]], voice=1.0, share=share, nasal=symbol.endswith("\u0303"))
    return replace(_continuant(symbol), share=share)


def _consonant(symbol: str) -> Parts:
    """A consonant as long as one frame."""
    kind, release = (symbol[:-1], symbol[-1]) if symbol[-1] in "ʰ⁼" else (symbol, "")
    if kind in _VOICED:
        return _stop(_VOICED[kind], voice=0.22, breath_s=0.0)
    if kind in _PLACES:
        return _stop(kind, voice=0.0, breath_s={"ʰ": 0.020, "": 0.012, "⁼": 0.0}[release])
    return (replace(_continuant(symbol), seconds=_FRAME_S),)


def _continuant(symbol: str) -> Part:
    if symbol not in _CONTINUANTS:
        raise ValueError(f"no rule for the sound {symbol!r}; add it to training/voice.py")
    return _CONTINUANTS[symbol]


def _stop(kind: str, voice: float, breath_s: float) -> Parts:
    """Closure, burst or friction, and breath until the voice sets in."""
    place, band = _PLACES[kind]
    affricate = len(kind) > 1
    noise_s = 0.024 if affricate else 0.010
    breath_s = breath_s / 2 if affricate else breath_s
    loud = 0.42 if affricate else 0.60
    closure = Part(place, voice=voice, seconds=_FRAME_S - noise_s - breath_s, nasal=True)
    noise = Part(place, voice=voice, friction=loud * (0.7 if voice else 1.0), band=band, seconds=noise_s)
    breath = Part(None, breath=0.32, seconds=breath_s)
    return (closure, noise, breath) if breath_s else (closure, noise)


def _alone(parts: Parts) -> Parts:
    """A consonant that is a phone of its own: its first part is what is held."""
    return (replace(parts[0], seconds=0.0, share=1.0), *parts[1:])


def _spans(frames: Sequence[str | None]) -> Iterator[Span]:
    """Begin, end (seconds) and part, without gaps except where nothing is sung."""
    begin = 0
    for phone, held in groupby(_continued(frames)):
        end = begin + len(list(held))
        if phone is not None:
            yield from _laid(parts_of(phone), begin * _FRAME_S, end * _FRAME_S)
        begin = end


def _continued(frames: Sequence[str | None]) -> list[str | None]:
    """frames, "_" replaced by what sounds before it."""
    out: list[str | None] = []
    for phone in frames:
        out.append(phone if phone != CONTINUES else out[-1] if out else None)
    return out


def _laid(parts: Parts, begin: float, end: float) -> Iterator[Span]:
    """parts in [begin, end): fixed ones as long as they are, two thirds at most; others share the rest."""
    fixed = sum(part.seconds for part in parts)
    squeeze = min(1.0, (end - begin) * 2 / 3 / fixed) if fixed else 1.0
    shares = sum(part.share for part in parts)
    rest = end - begin - fixed * squeeze
    for part in parts:
        length = part.seconds * squeeze + rest * part.share / shares
        yield begin, begin + length, part
        begin += length


# The note


def _checked(frames: Sequence[str | None], pitch: Floats) -> Floats:
    """pitch with the nearest earlier (at the beginning: the first) sung note where nothing is sung."""
    if len(pitch) != len(frames):
        raise ValueError(f"{len(pitch)} notes for {len(frames)} frames; give one for each")
    sung = np.array([phone is not None for phone in frames])
    bad = sung & ~((pitch > 20) & (pitch < 4000))
    if bad.any():
        at = int(np.argmax(bad))
        raise ValueError(f"pitch {pitch[at]} Hz at frame {at} cannot be sung; give 20 to 4000 Hz")
    last = np.maximum.accumulate(np.where(sung, np.arange(len(pitch)), -1))
    return np.asarray(pitch[np.where(last < 0, np.argmax(sung), last)], dtype=np.float64)


# Sources and filters


def _sources(spans: Spans, hz: Floats, singer: Singer) -> NDArray[np.float32]:
    """Voice, breath and friction at their levels, [3, n]."""
    voice, breath, friction = (
        _levels(spans, [getattr(part, source) for _, _, part in spans], len(hz))
        for source in ("voice", "breath", "friction")
    )
    # The same in every frame, as the notes are: a small model learns it as one more sound.
    noise = np.resize(np.random.default_rng(0).standard_normal(HOP, dtype=np.float32), len(hz))
    pulses = _pulses(hz, singer.brightness_hz)
    return np.stack([pulses * voice, noise * (breath + singer.breathiness * voice), noise * friction])


def _pulses(hz: Floats, brightness_hz: float) -> NDArray[np.float32]:
    """Σ aᵏ cos kφ over all k ≥ 1, where aᵏ = exp(−frequency / brightness): a pulse per period, power 1, [n].

    φ counts from the song's first sample, whatever was sung before: on notes of `instruments.hertz` every
    frame then has the same wave, or every second one. The sum's closed form; at half the sampling rate its
    harmonics are 90 dB down, so nothing folds back.
    """
    cosine = np.cos(2 * np.pi * np.remainder(np.arange(len(hz)) * hz / SAMPLE_RATE, 1.0)).astype(np.float32)
    a = np.exp(-hz / brightness_hz).astype(np.float32)
    pulses = (1 - a * cosine) / (1 - 2 * a * cosine + a * a) - 1
    return np.asarray(pulses * np.sqrt(2 * (1 - a * a)) / a, dtype=np.float32)


def _levels(spans: Spans, levels: list[float], samples: int) -> NDArray[np.float32]:
    """A level per sample [n]: flat in each part, ramps at its ends, 0 where nothing is sung."""
    times, values = [0.0], [0.0]
    for i, ((begin, end, _), level) in enumerate(zip(spans, levels, strict=True)):
        onset = min(_ONSET_S, (end - begin) / 2)
        last = i + 1 == len(spans) or spans[i + 1][0] > end + _SAME_S
        release = min(_RELEASE_S if last else _ONSET_S / 2, (end - begin) / 2)
        if i == 0 or begin > spans[i - 1][1] + _SAME_S:
            times.append(begin)
            values.append(0.0)
        times += [begin + onset, end - release]
        values += [level, level]
        if last:
            times.append(end)
            values.append(0.0)
    return np.interp(np.arange(samples) / SAMPLE_RATE, times, values).astype(np.float32)


def _formant_tracks(spans: Spans, windows: int, singer: Singer) -> tuple[Floats, Floats]:
    """Hz of the formants and their damping (1: a vowel's bandwidth) at each window, both [w, 4]."""
    sounding = [span for span in spans if not span[2].silent]
    targets = _targets([part for _, _, part in sounding])
    times: list[float] = []
    glides = [0.0, *(_glide(before, after) for before, after in pairwise(sounding)), 0.0]
    for (begin, end, _), into, out in zip(sounding, glides, glides[1:], strict=False):
        times += [begin + into / 2, end - out / 2]
    at = np.arange(windows) * _STEP / SAMPLE_RATE
    hz = np.repeat(np.array(targets), 2, axis=0) * singer.formant_scale
    damping = np.repeat([_NASAL_DAMPING if part.nasal else 1.0 for _, _, part in sounding], 2)
    tracks = np.stack([np.interp(at, times, hz[:, k]) for k in range(4)], axis=1)
    return tracks, np.repeat(np.interp(at, times, damping)[:, None], 4, axis=1)


def _glide(before: Span, after: Span) -> float:
    """Seconds from one target to the next: long between two vowels, none over a silence."""
    if after[0] - before[1] > _SAME_S:
        return 0.0
    shorter = min(before[1] - before[0], after[1] - after[0])
    vowels = before[2].voice == after[2].voice == 1
    return max(_DIPHTHONG_GLIDE * shorter, min(_GLIDE_S, shorter)) if vowels else min(_GLIDE_S, shorter)


def _targets(parts: list[Part]) -> list[Formants]:
    """Formants of each part; breath takes those of what follows, or at the end of what came before."""
    found: list[Formants] = []
    following = next((part.formants for part in reversed(parts) if part.formants), VOWELS["ə"])
    for part in reversed(parts):
        following = part.formants or following
        found.append(following)
    return found[::-1]


def _bands(spans: Spans, windows: int) -> Floats:
    """Lower and upper edge of the friction at each window, Hz [w, 2]; between two frictions, on the way."""
    rough = [span for span in spans if span[2].friction > 0]
    if not rough:
        return np.ones((windows, 2))
    times = [time for begin, end, _ in rough for time in (begin, end)]
    edges = np.repeat(np.array([part.band for _, _, part in rough]), 2, axis=0)
    at = np.arange(windows) * _STEP / SAMPLE_RATE
    return np.stack([np.interp(at, times, edges[:, k]) for k in range(2)], axis=1)


def _filtered(
    sources: NDArray[np.float32], formants: Floats, damping: Floats, bands: Floats, brightness_hz: float
) -> NDArray[np.float32]:
    """Sources [3, n] through formants [w, 4] and bands [w, 2], added up: [n]. Silent windows are skipped."""
    steps = np.pad(sources, ((0, 0), (_STEP, _STEP))).reshape(3, -1, _STEP)
    loud, hissing = np.any(steps, axis=(0, 2)), np.any(steps[2], axis=1)
    active = np.flatnonzero(loud[:-1] | loud[1:])
    hann = np.hanning(_WINDOW + 1)[:-1].astype(np.float32)
    out = np.zeros((steps.shape[1] + 1, _STEP), dtype=np.float32)
    for w in np.split(active, range(_BLOCK, len(active), _BLOCK)):
        spectra = np.fft.rfft(np.concatenate([steps[:, w], steps[:, w + 1]], axis=2) * hann, _SPECTRUM)
        voiced, breathed = _formant_filters(formants[w], damping[w], brightness_hz)
        spectrum = spectra[0] * voiced + spectra[1] * breathed
        rough = np.flatnonzero(hissing[w] | hissing[w + 1])
        spectrum[rough] += spectra[2, rough] * _band_filters(bands[w[rough]])
        windows = np.fft.irfft(spectrum, _SPECTRUM).reshape(len(w), 3, _STEP)
        for third in range(3):
            out[w + third] += windows[:, third]
    return out.reshape(-1)[_STEP : _STEP + sources.shape[1]]


def _formant_filters(
    formants: Floats, damping: Floats, brightness_hz: float
) -> tuple[NDArray[np.complex64], NDArray[np.complex64]]:
    """Spectra of four resonances in a row, for voice and for breath, [w, f]; each keeps its source's power.

    A resonance is F² / (F² − f² + iBf). Each is set against the damped one of a neutral mouth, so that the
    spectrum stays as high above the fourth as the resonances of a real mouth, which has no last one, keep it.
    """
    filters = np.repeat(_neutral()[None], len(formants), axis=0)
    for k in range(4):
        hz = formants[:, k, None].astype(np.float32)
        wide = (damping[:, k, None] * _BANDWIDTHS[k]).astype(np.float32)
        resonance = np.empty_like(filters)
        resonance.real = 1 - (_HZ / hz) ** 2
        resonance.imag = wide / hz**2 * _HZ
        filters /= resonance
    tilts = np.stack([np.exp(-_HZ / brightness_hz), np.exp(-_HZ / _BREATH_BRIGHTNESS_HZ)])  # [2, f]
    power = (filters.real**2 + filters.imag**2) @ (tilts**2).T
    voiced = filters / np.sqrt(power[:, :1] / np.sum(tilts[0] ** 2))
    breathed = filters * tilts[1] / np.sqrt(power[:, 1:] / len(_HZ))
    return voiced, breathed


@cache
def _neutral() -> NDArray[np.complex64]:
    """The neutral formants' share of a level spectrum, inverted, [f].

    So wide that a formant of any number, in their place, stands as high as in a tube: 2000 / (π · bandwidth).
    """
    out = np.ones_like(_HZ, dtype=np.complex64)
    for hz in _NEUTRAL_HZ:
        out *= 1 - (_HZ / hz) ** 2 + 1j * _NEUTRAL_WIDE_HZ * _HZ / hz**2
    return out


def _band_filters(bands: Floats) -> NDArray[np.float32]:
    """Spectra that keep a band, soft at its edges, and the power of white noise, [w, f]."""
    low, high = np.log2(bands[:, :1]), np.log2(bands[:, 1:])
    away = (np.log2(np.maximum(_HZ, 1)) - (low + high) / 2) / np.maximum((high - low) / 2, 0.1)
    shape = 1 / (1 + away**6)
    even = shape / np.sqrt(np.mean(shape**2, axis=1, keepdims=True))
    return np.asarray(even, dtype=np.float32)
