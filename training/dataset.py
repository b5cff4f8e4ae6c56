"""Training songs on disk: rendered once, read as they are needed.

A folder of audio.i16 (int16 [songs, 2, n]) and songs.jsonl (style and ids of each). Rendering goes on where
it was cut off.

    python -m training.dataset songs --count 600
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import typer
from numpy.typing import NDArray

from diffrhythm.vae_config import HOP
from training.songs import FRAMES, compose
from training.text import Part

SAMPLES = FRAMES * HOP
_SONG_BYTES = 2 * SAMPLES * 2
FULL_SCALE = 32767


@dataclass(frozen=True, slots=True)
class Dataset:
    """audio: int16 [songs, 2, SAMPLES], mapped. styles: a name each. ids: int64 [songs, FRAMES]."""

    audio: NDArray[np.int16]
    styles: tuple[str, ...]
    ids: NDArray[np.int64]


def read(folder: Path) -> Dataset:
    """The songs rendered so far."""
    facts = [json.loads(line) for line in _whole_lines(folder / "songs.jsonl")]
    audio = np.memmap(folder / "audio.i16", np.int16, "r", shape=(len(facts), 2, SAMPLES))
    return Dataset(
        audio, tuple(fact["style"] for fact in facts), np.array([fact["ids"] for fact in facts], np.int64)
    )


def render(folder: Path, count: int, part: Part = "train", workers: int = 2) -> None:
    """Songs of the seeds from 0 to before count, those already there left alone."""
    folder.mkdir(parents=True, exist_ok=True)
    listed = folder / "songs.jsonl"
    whole = _whole_lines(listed)
    with (folder / "audio.i16").open("ab") as audio, listed.open("a") as facts:
        audio.truncate(len(whole) * _SONG_BYTES)
        facts.truncate(len("".join(whole)))
        for samples, style, ids in _songs(range(len(whole), count), part, workers):
            # The sound first: a song that is listed is whole.
            audio.write(samples)
            audio.flush()
            facts.write(json.dumps({"style": style, "ids": ids}) + "\n")
            facts.flush()


def sound(samples: NDArray[np.int16]) -> NDArray[np.float32]:
    """Samples of a dataset as sound, from −1 to 1."""
    return samples.astype(np.float32) / np.float32(FULL_SCALE)


def _whole_lines(file: Path) -> list[str]:
    """Lines of an ASCII file, less one that was cut off; none of a file that is not there."""
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    return [line for line in lines if line.endswith("\n")]


def _songs(seeds: range, part: Part, workers: int) -> Iterator[tuple[bytes, str, list[int]]]:
    # Not forked, which may hang where the parent has threads, as torch has.
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        yield from pool.map(partial(_song, part=part), seeds, chunksize=4)


def _song(seed: int, part: Part) -> tuple[bytes, str, list[int]]:
    song = compose(seed, part=part)
    samples = np.round(song.audio * FULL_SCALE).astype("<i2")
    return samples.tobytes(), song.style, song.alignment.ids.tolist()


def main(folder: Path, count: int = 600, heldout: bool = False, workers: int = 2) -> None:
    """Render songs into a folder (5.3 MB each), for training or of lyrics held out from it."""
    render(folder, count, "heldout" if heldout else "train", workers)


if __name__ == "__main__":
    typer.run(main)
