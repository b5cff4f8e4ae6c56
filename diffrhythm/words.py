"""The demo's style encoder: learned vectors of words, and of a sound's spectrum → [512], of unit length.

A text is the mean of the vectors of its grams (its words, their letter triples, Chinese characters and their
pairs), so that texts of like words have like styles and a word never seen says little; a sound is a small
network's reading of its spectrum's mean and spread. Learned by training/style_encoder.py from ten styles of
music: of any other, it knows which of those it is like. numpy alone.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffrhythm.errors import BundleError

Array = NDArray[np.float32]

STYLE_DIM = 512
# Of the spectrum that a sound is heard by.
SOUND_RATE = 24000
MEASURES = 128
_WINDOW = 1024
_BANDS = MEASURES // 2

_CHINESE = "\u3400-\u4dbf\u4e00-\u9fff"
_RUNS = re.compile(rf"[{_CHINESE}]+|[^\W{_CHINESE}]+")


@dataclass(frozen=True, slots=True)
class Encoder:
    """The learned numbers, float32, named as in the bundle's file.

    words: [buckets, width], a vector for each hash of a gram; words_out [512, width] and words_bias [512]
    make a style of their mean. sound_in [hidden, 128], sound_in_bias, sound_out [512, hidden] and
    sound_out_bias: the two layers that read a sound's measures.
    """

    words: Array
    words_out: Array
    words_bias: Array
    sound_in: Array
    sound_in_bias: Array
    sound_out: Array
    sound_out_bias: Array

    def embed_text(self, text: str) -> Array:
        """[512] of a text with at least one word."""
        heard = self.words[buckets(text, len(self.words))].mean(axis=0)
        return _unit(self.words_out @ heard + self.words_bias)

    def embed_sound(self, sound: Array) -> Array:
        """[512] of a sound, mono [n] at 24 kHz."""
        hidden = np.tanh(self.sound_in @ measures(sound) + self.sound_in_bias)
        return _unit(self.sound_out @ hidden + self.sound_out_bias)


def read(path: Path) -> Encoder:
    """The encoder of this safetensors file. Raises BundleError where it is none."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        tensors = load_file(path)
    # KeyError: a type of numbers that numpy does not have.
    except (SafetensorError, OSError, KeyError) as error:
        raise BundleError(f"cannot read ({error}): {path}; get the bundle again") from error
    fault = _fault(tensors)
    if fault:
        raise BundleError(f"no style encoder, {fault}: {path}; get the bundle again")
    return Encoder(**{name: values.astype(np.float32) for name, values in tensors.items()})


def buckets(text: str, count: int) -> list[int]:
    """Rows of the grams of a text, each 0 … count − 1; none where it has no word."""
    return [zlib.crc32(gram.encode()) % count for gram in grams(text)]


def grams(text: str) -> list[str]:
    """Words with their ends marked and the letter triples of those; Chinese characters and their pairs.

    Chinese is written without spaces, so that a word of letters would be a whole sentence of it.
    """
    runs = _RUNS.findall(unicodedata.normalize("NFKC", text).casefold())
    return [gram for run in runs for gram in (_characters(run) if _is_chinese(run) else _triples(run))]


def measures(sound: Array) -> Array:
    """[128] of a sound, mono [n] at 24 kHz: mean and spread in time of the log level of 64 mel bands.

    The mean over all bands is taken out: a sound as loud as you like has the same style.
    """
    levels = np.log(_mel_levels(sound) + 1e-5)
    means = levels.mean(axis=0)
    return np.concatenate([means - means.mean(), levels.std(axis=0)]).astype(np.float32)


def _is_chinese(run: str) -> bool:
    return re.match(f"[{_CHINESE}]", run) is not None


def _characters(run: str) -> list[str]:
    return [*run, *(run[i : i + 2] for i in range(len(run) - 1))]


def _triples(word: str) -> list[str]:
    marked = f"<{word}>"
    return [marked, *(marked[i : i + 3] for i in range(len(marked) - 2))]


def _mel_levels(sound: Array) -> NDArray[np.float64]:
    """[frames, bands]: mean magnitude in bands of equal width on the mel scale."""
    windows = np.lib.stride_tricks.sliding_window_view(sound, _WINDOW)[:: _WINDOW // 2]
    magnitudes = np.abs(np.fft.rfft(windows * np.hanning(_WINDOW), axis=1))
    hertz = np.fft.rfftfreq(_WINDOW, 1 / SOUND_RATE)
    mels = 2595 * np.log10(1 + hertz / 700)
    position = mels / mels[-1] * (_BANDS - 1)
    weights = np.maximum(0, 1 - np.abs(position[:, None] - np.arange(_BANDS)))
    levels: NDArray[np.float64] = magnitudes @ (weights / np.maximum(weights.sum(axis=0), 1e-9))
    return levels


def _fault(tensors: Mapping[str, NDArray[np.generic]]) -> str | None:
    """What keeps these tensors from being an encoder, if anything does."""
    names = [field.name for field in fields(Encoder)]
    if tensors.keys() != set(names):
        return f"its tensors are {sorted(tensors)}"
    for name, values in tensors.items():
        if values.dtype not in (np.float16, np.float32):
            return f"{name} is {values.dtype}"
        if not np.isfinite(values).all():
            return f"{name} is not finite"
    width, hidden = tensors["words"].shape[-1:], tensors["sound_in"].shape[:1]
    wanted = {
        "words": (*tensors["words"].shape[:1], *width),
        "words_out": (STYLE_DIM, *width),
        "words_bias": (STYLE_DIM,),
        "sound_in": (*hidden, MEASURES),
        "sound_in_bias": hidden,
        "sound_out": (STYLE_DIM, *hidden),
        "sound_out_bias": (STYLE_DIM,),
    }
    wrong = [name for name in names if tensors[name].shape != wanted[name] or not tensors[name].size]
    return f"{wrong[0]} has the shape {list(tensors[wrong[0]].shape)}" if wrong else None


def _unit(vector: Array) -> Array:
    length = np.linalg.norm(vector.astype(np.float64))
    if not 0 < length < np.inf:
        raise BundleError("the style has no direction: the style encoder is damaged; get the bundle again")
    return (vector / length).astype(np.float32)
