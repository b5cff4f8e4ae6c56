"""Rendered songs: whole, the same as composed, and gone on with where rendering was cut off."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from training import dataset
from training.songs import FRAMES, compose

AUDIO, LISTED = "audio.i16", "songs.jsonl"


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two songs, not to be written to."""
    folder = tmp_path_factory.mktemp("songs")
    dataset.render(folder, 2, workers=1)
    return folder


def _digests(folder: Path) -> list[str]:
    return [hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in (AUDIO, LISTED)]


def _cut(rendered: Path, folder: Path, audio_bytes: int, listed_bytes: int) -> Path:
    """A folder as if rendering had been cut off after so many bytes."""
    (folder / AUDIO).write_bytes((rendered / AUDIO).read_bytes()[:audio_bytes])
    (folder / LISTED).write_bytes((rendered / LISTED).read_bytes()[:listed_bytes])
    return folder


def _first(rendered: Path) -> tuple[int, int]:
    """Bytes of the first song in both files."""
    return (rendered / AUDIO).stat().st_size // 2, (rendered / LISTED).read_bytes().index(b"\n") + 1


def test_what_is_rendered_is_what_was_composed(rendered: Path) -> None:
    data = dataset.read(rendered)
    assert data.audio.shape == (2, 2, dataset.SAMPLES)
    assert data.ids.shape == (2, FRAMES)
    for seed in (0, 1):
        song = compose(seed)
        assert data.styles[seed] == song.style
        assert np.array_equal(data.ids[seed], song.alignment.ids)
        assert np.abs(data.audio[seed] / 32767 - song.audio).max() <= 0.501 / 32767


@pytest.mark.parametrize("extra", ["nothing", "sound", "sound and line"])
def test_rendering_goes_on_after_the_last_whole_song(rendered: Path, tmp_path: Path, extra: str) -> None:
    audio, listed = _first(rendered)
    torn = {"nothing": (0, 0), "sound": (1001, 0), "sound and line": (audio, 40)}[extra]
    folder = _cut(rendered, tmp_path, audio + torn[0], listed + torn[1])
    assert len(dataset.read(folder).styles) == 1
    dataset.render(folder, 2, workers=1)
    assert _digests(folder) == _digests(rendered)


def test_songs_that_are_there_are_left_alone(rendered: Path, tmp_path: Path) -> None:
    audio, listed = _first(rendered)
    folder = _cut(rendered, tmp_path, audio, listed)
    facts = json.loads((folder / LISTED).read_text())
    (folder / LISTED).write_text(json.dumps({**facts, "style": "other"}) + "\n")
    dataset.render(folder, 1, workers=1)
    assert dataset.read(folder).styles == ("other",)
