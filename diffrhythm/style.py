"""Style text or a clip of sound → what the model hears as style: [512], of unit length, cached on disk.

The encoder is named by the bundle: "muq-mulan", of the published models, see mulan.py; "words", the demo's
own, see words.py.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffrhythm import audio, files, mulan, words
from diffrhythm.bundle import Bundle
from diffrhythm.errors import StyleError

Style = NDArray[np.float32]

STYLE_DIM = words.STYLE_DIM
MAX_TEXT = 2000

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
    if bundle is None or _read(_entry(heard, bundle)) is not None:
        return
    if bundle.about.style_encoder == "words":
        _ = bundle.words
        return
    paths = mulan.locate(bundle)
    if isinstance(heard, str):
        mulan.check_text(heard, paths)


def _heard(text_or_clip: str | Path) -> str | audio.Audio:
    """A text that can be used, or the sound of such a clip: mono [1, n] at 24 kHz."""
    return _checked(text_or_clip) if isinstance(text_or_clip, str) else audio.read_middle(text_or_clip)


def _encode(heard: str | audio.Audio, bundle: Bundle) -> Style:
    if bundle.about.style_encoder == "words":
        encoder = bundle.words
        return encoder.embed_text(heard) if isinstance(heard, str) else encoder.embed_sound(heard[0])
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
    if not words.grams(text):
        raise StyleError(
            f"style text {text!r} has no words: style: name a genre, a mood, instruments, a voice"
        )
    return text
