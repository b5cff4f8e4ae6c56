"""Styles: unit vectors, like for like, cached, and deaf to damage in the cache."""

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from diffrhythm import audio, files, style
from diffrhythm.bundle import Bundle
from diffrhythm.errors import AudioError, StyleError


@pytest.fixture
def entries(demo_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return files.cache_folder() / "styles"


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "clip.wav"
    audio.write(path, noise(11, low=True))
    return path


def noise(seconds: float, *, low: bool) -> audio.Audio:
    white = np.random.default_rng(1).standard_normal((2, round(seconds * 44100))).astype(np.float32)
    slow = np.cumsum(white, axis=1)
    return audio.normalise(slow - slow.mean(axis=1, keepdims=True) if low else white, -6)


def test_a_style_is_a_unit_vector_of_512(entries: Path, demo_bundle: Bundle, clip: Path) -> None:
    for text_or_clip in ("pop song, warm piano", "流行歌曲", clip):
        found = style.embed(text_or_clip, demo_bundle)
        assert (found.shape, found.dtype) == ((512,), np.float32)
        assert np.linalg.norm(found) == pytest.approx(1, abs=1e-6)


def test_like_texts_are_nearer_than_unlike_ones() -> None:
    piano = style.embed_words("warm piano, female voice")
    assert piano @ style.embed_words("Warm PIANO — female voice!") == pytest.approx(1, abs=1e-6)
    assert piano @ style.embed_words("warm pianos, female voices") > 0.6
    assert abs(piano @ style.embed_words("heavy metal")) < 0.25


def test_a_dark_and_a_bright_clip_have_unlike_styles() -> None:
    dark, bright = (noise(10, low=low)[:1] for low in (True, False))
    assert style.embed_sound(dark) @ style.embed_sound(bright) < 0.5


@pytest.mark.parametrize("text", ["", "  ", "!?", "x" * 2001])
def test_a_text_without_words_or_too_long_is_refused(entries: Path, demo_bundle: Bundle, text: str) -> None:
    for act in (style.check, lambda asked: style.embed(asked, demo_bundle)):
        with pytest.raises(StyleError, match="style"):
            act(text)


def test_a_clip_that_cannot_be_used_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="no such audio file"):
        style.check(tmp_path / "absent.wav")


def test_a_style_is_read_from_the_cache_the_second_time(entries: Path, demo_bundle: Bundle) -> None:
    first = style.embed("pop", demo_bundle)
    (entry,) = entries.iterdir()
    # Another unit vector in its place proves that the entry is what comes back.
    entry.write_bytes((-first).tobytes())
    assert np.array_equal(style.embed("pop", demo_bundle), -first)


@pytest.mark.parametrize(
    "garbage",
    [b"", b"garbage", b"\xff" * 2048, b"\0" * 2048, b"\x7f" * 2048, b"a" * 2049],
)
def test_garbage_in_the_cache_is_replaced(entries: Path, demo_bundle: Bundle, garbage: bytes) -> None:
    first = style.embed("pop", demo_bundle)
    (entry,) = entries.iterdir()
    whole = entry.read_bytes()
    entry.write_bytes(garbage)
    assert np.array_equal(style.embed("pop", demo_bundle), first)
    assert entry.read_bytes() == whole


def test_a_cache_that_cannot_be_written_costs_a_warning_and_not_the_song(
    entries: Path, demo_bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    entries.parent.mkdir()
    entries.write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING):
        assert style.embed("pop", demo_bundle).shape == (512,)
    assert "style not cached" in caplog.text
