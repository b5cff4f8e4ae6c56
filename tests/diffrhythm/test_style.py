"""Styles: unit vectors, cached, and deaf to damage in the cache."""

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from diffrhythm import audio, bundle, files, style
from diffrhythm.bundle import STYLE, Bundle
from diffrhythm.errors import AudioError, BundleError, StyleError


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


@pytest.mark.parametrize("text", ["", "  ", "!?", "x" * 2001])
def test_a_text_without_words_or_too_long_is_refused(entries: Path, demo_bundle: Bundle, text: str) -> None:
    for act in (style.check, lambda asked: style.embed(asked, demo_bundle)):
        with pytest.raises(StyleError, match="style"):
            act(text)


def test_a_check_names_an_encoder_that_is_damaged(entries: Path, demo_bundle: Bundle, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(demo_bundle.folder, tmp_path / "model"))
    (folder / STYLE).write_bytes(b"\xff" * (folder / STYLE).stat().st_size)
    with pytest.raises(BundleError, match=STYLE):
        style.check("pop", bundle.read(folder))


def test_another_bundle_has_another_place_in_the_cache(
    entries: Path, demo_bundle: Bundle, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(demo_bundle.folder, tmp_path / "model"))
    about = folder / bundle.ABOUT
    about.write_text(about.read_text().replace("Apache-2.0", "Apache-2.1"))
    for heard_by in (demo_bundle, bundle.read(folder)):
        style.embed("pop", heard_by)
    assert len(list(entries.iterdir())) == 2


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
