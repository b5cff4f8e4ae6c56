"""Pictures of sounds of which it is known what they look like."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from diffrhythm import pictures
from diffrhythm.vae_config import SAMPLE_RATE


def sine(hertz: float, seconds: float = 2.0) -> np.ndarray:
    t = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return np.tile(np.sin(2 * np.pi * hertz * t), (2, 1)).astype(np.float32)


def opened(png: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(png))
    image.load()
    return image


@pytest.mark.parametrize("hertz", [110.0, 440.0, 2000.0, 9000.0])
def test_a_tone_is_a_bright_line_where_its_pitch_is(hertz: float) -> None:
    levels = pictures.levels(sine(hertz))
    assert levels.shape == (pictures.ROWS, pictures.COLUMNS)
    row = int(levels.mean(axis=1).argmax())
    below, above = pictures.hertz(min(row + 1, pictures.ROWS - 1)), pictures.hertz(max(row - 1, 0))
    assert below <= hertz <= above
    middle = levels[:, 100:-100]
    assert middle[row].min() > 0.95
    assert np.delete(middle, [row - 2, row - 1, row, row + 1, row + 2], axis=0).max() < 0.6


def test_time_goes_from_left_to_right_and_pitch_upwards() -> None:
    halves = np.concatenate([sine(300.0), sine(3000.0)], axis=1)
    levels = pictures.levels(halves)
    low, high = (
        int(levels[:, columns].mean(axis=1).argmax()) for columns in (slice(50, 450), slice(550, 950))
    )
    assert high < low


def test_the_image_is_small_of_its_size_and_goes_from_black_to_light() -> None:
    noise = np.random.default_rng(0).standard_normal((2, 20 * SAMPLE_RATE)).astype(np.float32)
    png = pictures.spectrogram(noise * np.linspace(0, 1, noise.shape[1], dtype=np.float32))
    image = opened(png).convert("RGB")
    assert image.size == (pictures.COLUMNS, pictures.ROWS)
    assert len(png) < 120_000
    shades = np.asarray(image, dtype=float).sum(axis=2)
    assert shades[:, 0].max() == 0
    assert shades.max() > 600


def test_every_shade_is_lighter_than_the_one_before() -> None:
    light = pictures._palette().astype(float) @ (0.2126, 0.7152, 0.0722)
    assert (np.diff(light) >= 0).all()
    assert light[0] == 0


@pytest.mark.parametrize("samples", [2, 100, 5000, 44_100])
def test_a_sound_of_any_length_has_a_picture_and_an_outline(samples: int) -> None:
    sound = sine(440.0)[:, :samples] + np.float32(0.1)
    assert opened(pictures.spectrogram(sound)).size == (pictures.COLUMNS, pictures.ROWS)
    assert len(pictures.outline(sound)) == pictures.OUTLINE


def test_silence_has_a_picture_and_an_outline_of_nothing() -> None:
    silence = np.zeros((2, SAMPLE_RATE), dtype=np.float32)
    assert opened(pictures.spectrogram(silence)).size == (pictures.COLUMNS, pictures.ROWS)
    assert pictures.outline(silence) == [0] * pictures.OUTLINE


def test_the_outline_says_where_a_sound_is_strong() -> None:
    sound = np.concatenate([0.25 * sine(440.0), sine(440.0), 0 * sine(440.0)], axis=1)
    outline = pictures.outline(sound)
    assert outline[40] == 25
    assert outline[120] == 100
    assert outline[200] == 0
