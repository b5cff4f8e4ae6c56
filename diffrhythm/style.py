"""Style text or a clip of sound → what the model hears as style: [512], of unit length, cached on disk.

The encoder is named by the bundle. "muq-mulan", of the published models: see mulan.py. "words", the demo's
own: a text is the mean of fixed random vectors of its words and their letter triples, so that like texts have
like styles; a clip is a fixed random projection of its spectrum's mean and spread. It knows no music; it
makes each style another, alike on every machine.
"""

from __future__ import annotations

import hashlib
import logging
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffrhythm import audio, files, mulan
from diffrhythm.bundle import Bundle
from diffrhythm.draws import draw
from diffrhythm.errors import StyleError

Style = NDArray[np.float32]

STYLE_DIM = 512
MAX_TEXT = 2000

# Of the "words" encoder's spectrum.
_WINDOW = 1024
_BANDS = 64

# A cached style is its bare numbers: numpy's own format runs a parser over what may be garbage.
_ENTRY_BYTES = 4 * STYLE_DIM

_log = logging.getLogger(__name__)


def embed(text_or_clip: str | Path, bundle: Bundle) -> Style:
    """The style of a text, or of the middle ten seconds of an audio file: float32 [512], unit length.

    Raises StyleError for a text without words, above 2,000 characters or too long for the encoder, AudioError
    for a clip that cannot be used, BundleError for an encoder that is not there or damaged.
    """
    heard = _heard(text_or_clip)
    entry = _entry(heard, bundle)
    kept = _read(entry)
    if kept is not None:
        return kept
    style = _encode(heard, bundle)
    _keep(style, entry)
    return style


def check(text_or_clip: str | Path, bundle: Bundle | None = None) -> None:
    """Raises what embed would raise, without embedding; without a bundle, nothing of its encoder."""
    heard = _heard(text_or_clip)
    if bundle is None or bundle.about.style_encoder == "words" or _read(_entry(heard, bundle)) is not None:
        return
    paths = mulan.locate(bundle)
    if isinstance(heard, str):
        mulan.check_text(heard, paths)


def embed_words(text: str) -> Style:
    """[512] of a text with at least one word."""
    grams = [gram for word in _words(text) for gram in _grams(word)]
    return _unit(np.sum([draw(f"style:{gram}", (STYLE_DIM,)) for gram in grams], axis=0))


def embed_sound(clip: audio.Audio) -> Style:
    """[512] of a clip, mono [1, n] at 24 kHz."""
    levels = np.log(_mel_levels(clip[0]) + 1e-5)
    measures = np.concatenate([levels.mean(axis=0), levels.std(axis=0)])
    # What all sounds share (they have a level at all) would make all clips alike.
    centred = measures - measures.mean()
    return _unit(draw("style:clip", (STYLE_DIM, 2 * _BANDS)) @ centred)


def _heard(text_or_clip: str | Path) -> str | audio.Audio:
    """A text that can be used, or the sound of such a clip: mono [1, n] at 24 kHz."""
    return _checked(text_or_clip) if isinstance(text_or_clip, str) else audio.read_middle(text_or_clip)


def _encode(heard: str | audio.Audio, bundle: Bundle) -> Style:
    if bundle.about.style_encoder == "words":
        return embed_words(heard) if isinstance(heard, str) else embed_sound(heard)
    paths = mulan.locate(bundle)
    return mulan.embed_text(heard, paths) if isinstance(heard, str) else mulan.embed_clip(heard, paths)


def _entry(heard: str | audio.Audio, bundle: Bundle) -> Path:
    """Where the cache keeps the style of this content by this encoder."""
    kind, content = ("text", heard.encode()) if isinstance(heard, str) else ("clip", heard.tobytes())
    encoder = bundle.hash if bundle.about.style_encoder == "words" else mulan.identity(bundle)
    key = hashlib.sha256(b"\0".join((kind.encode(), encoder.encode(), content))).hexdigest()
    return files.cache_folder() / "styles" / f"{key}.f32"


def _keep(style: Style, entry: Path) -> None:
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        files.replace(entry, style.astype("<f4").tobytes())
    except OSError as error:
        _log.warning("style not cached (%s): %s; it is made anew for each song", error, entry)


def _read(path: Path) -> Style | None:
    """A cached style, or None if there is none or it is not one: a damaged entry is made again."""
    try:
        with path.open("rb") as file:
            entry = file.read(_ENTRY_BYTES + 1)
    except OSError:
        return None
    if len(entry) != _ENTRY_BYTES:
        return None
    style = np.frombuffer(entry, "<f4").astype(np.float32)
    # NaN compares false, so this refuses it too.
    return style if abs(float(np.linalg.norm(style.astype(np.float64))) - 1) < 1e-3 else None


def _checked(text: str) -> str:
    if len(text) > MAX_TEXT:
        raise StyleError(f"style text of {len(text)} characters: style: use at most {MAX_TEXT}")
    if not _words(text):
        raise StyleError(
            f"style text {text!r} has no words: style: name a genre, a mood, instruments, a voice"
        )
    return text


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def _grams(word: str) -> list[str]:
    """A word and its letter triples, its two ends marked."""
    marked = f"<{word}>"
    return [marked, *(marked[i : i + 3] for i in range(len(marked) - 2))]


def _mel_levels(sound: NDArray[np.float32]) -> NDArray[np.float64]:
    """[frames, bands]: mean magnitude in bands of equal width on the mel scale."""
    windows = np.lib.stride_tricks.sliding_window_view(sound, _WINDOW)[:: _WINDOW // 2]
    magnitudes = np.abs(np.fft.rfft(windows * np.hanning(_WINDOW), axis=1))
    hertz = np.fft.rfftfreq(_WINDOW, 1 / audio.CLIP_RATE)
    mels = 2595 * np.log10(1 + hertz / 700)
    position = mels / mels[-1] * (_BANDS - 1)
    weights = np.maximum(0, 1 - np.abs(position[:, None] - np.arange(_BANDS)))
    levels: NDArray[np.float64] = magnitudes @ (weights / np.maximum(weights.sum(axis=0), 1e-9))
    return levels


def _unit(vector: NDArray[np.floating]) -> Style:
    return (vector / np.linalg.norm(vector)).astype(np.float32)
