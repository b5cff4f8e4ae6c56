"""What a sound looks like: its spectrogram as a small image, its outline as a few hundred numbers.

n samples · rows of the image, the highest pitch on top · columns, from start to end
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from diffrhythm.audio import Audio, mono
from diffrhythm.vae_config import SAMPLE_RATE

Array = NDArray[np.floating[Any]]

COLUMNS, ROWS = 1000, 160
LOWEST_HZ, HIGHEST_HZ = 40.0, 16_000.0
OUTLINE = 240
# 93 ms, in which bands of the lowest rows still hold two bins of the transform.
_WINDOW = 4096
# Of a long song, so far apart that little falls between two frames.
_MOST_HOP = _WINDOW * 3 // 4
# Frames transformed at once: 4 MB.
_PIECE = 128
# Below its loudest spot a song is dark.
_RANGE_DB = 70.0
# Steps of loudness: of more the eye sees nothing and the file is larger.
_SHADES = 64


def spectrogram(audio: Audio, rate: int = SAMPLE_RATE) -> bytes:
    """A PNG of COLUMNS × ROWS: pitch on the mel scale, loudness in decibels from black to nearly white.

    Equal steps of loudness are equal steps of lightness to the eye; black is what a page may blend away.
    """
    from PIL import Image

    shades = (levels(audio, rate) * (_SHADES - 1)).round().astype(np.uint8)
    image = Image.fromarray(shades)
    image.putpalette(_palette().tobytes())
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return file.getvalue()


def levels(audio: Audio, rate: int = SAMPLE_RATE) -> Array:
    """[rows, columns]: loudness in each band and stretch of time, from 0 (70 dB down, or less) to 1, the
    loudest."""
    bank = _mel_bank(rate)
    power = _means(np.concatenate([frames @ bank.T for frames in _power(mono(audio)[0])]), COLUMNS)
    decibels = 10 * np.log10(np.maximum(power, 1e-12))
    found: Array = np.clip(1 + (decibels - decibels.max()) / _RANGE_DB, 0, 1).T[::-1]
    return found


def outline(audio: Audio) -> list[int]:
    """The sound's strength (root mean square) in OUTLINE equal stretches of time, in hundredths of the
    strongest."""
    square = np.square(mono(audio)[0], dtype=np.float64)
    strength = np.sqrt(_means(square, OUTLINE))
    return [round(100 * part / max(strength.max(), 1e-12)) for part in strength]


def hertz(row: int) -> float:
    """The pitch in the middle of a row of the image."""
    return float(_mel_edges()[ROWS - row])


def _power(samples: NDArray[np.float32]) -> Iterator[Array]:
    """[frames, bins]: the power spectra of the song's frames, some at a time."""
    hop = min(_MOST_HOP, max(1, samples.size // COLUMNS))
    whole = np.pad(samples, _WINDOW // 2)
    frames = sliding_window_view(whole, _WINDOW)[::hop]
    window = np.hanning(_WINDOW).astype(np.float32)
    for start in range(0, len(frames), _PIECE):
        yield np.square(np.abs(np.fft.rfft(frames[start : start + _PIECE] * window)))


def _mel_bank(rate: int) -> Array:
    """[rows, bins]: triangles of which each begins in the middle of the one before; the lowest first."""
    bins = np.fft.rfftfreq(_WINDOW, 1 / rate)
    edges = _mel_edges()
    triangles = [np.interp(bins, edges[row : row + 3], (0, 1, 0)) for row in range(ROWS)]
    return np.stack([triangle / max(triangle.sum(), 1e-12) for triangle in triangles]).astype(np.float32)


def _mel_edges() -> Array:
    """[rows + 2] in Hz."""
    low, high = (2595 * np.log10(1 + each / 700) for each in (LOWEST_HZ, HIGHEST_HZ))
    found: Array = 700 * (10 ** (np.linspace(low, high, ROWS + 2) / 2595) - 1)
    return found


def _means(values: Array, parts: int) -> Array:
    """[parts, …]: the mean of values in each equal stretch; of too few values, some belong to several."""
    edges = np.arange(parts) * len(values) // parts
    counts = np.maximum(np.diff([*edges, len(values)]), 1)
    found: Array = (np.add.reduceat(values, edges).T / counts).T
    return found


def _palette() -> NDArray[np.uint8]:
    """[shades, 3] in sRGB: from black by violet and rose to cream, by steps that are equal in OKLab."""
    share = np.linspace(0, 1, _SHADES)
    lightness, chroma = 0.96 * share, 0.16 * np.sin(np.pi * share**0.9)
    hue = np.radians(285 + 150 * share)
    lab = np.stack([lightness, chroma * np.cos(hue), chroma * np.sin(hue)])
    linear = _LMS_TO_RGB @ (_LAB_TO_LMS @ lab) ** 3
    gamma = np.where(
        linear <= 0.0031308, 12.92 * linear, 1.055 * np.clip(linear, 0.0031308, None) ** (1 / 2.4) - 0.055
    )
    found: NDArray[np.uint8] = (255 * np.clip(gamma, 0, 1)).round().astype(np.uint8).T
    return found


# OKLab → sRGB (Ottosson, "A perceptual color space for image processing", 2020).
_LAB_TO_LMS = np.array(
    [[1, 0.3963377774, 0.2158037573], [1, -0.1055613458, -0.0638541728], [1, -0.0894841775, -1.2914855480]]
)
_LMS_TO_RGB = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
)
