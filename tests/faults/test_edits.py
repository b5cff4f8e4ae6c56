"""Parts of a song made anew through the whole runner: real job files, real processes, real kills."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from runner import check, manifest, spec
from runner.files import read_json
from runner.heartbeat import Heartbeat, read
from runner.songfolder import Outputs
from tests.faults.batches import ROOT, causes, wait_for
from tests.faults.test_songs import slow

RATE = 44100
SECONDS = 12.0


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a finished song in it."""
    t = np.arange(round(SECONDS * RATE)) / RATE
    soundfile.write(tmp_path / "song.wav", np.sin(t * 1382) * 0.3, RATE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(place: Path, job: str, keys: str = "spans: [[2, 4], [9, -1]]", more: str = "") -> Path:
    """A job file with one song to edit."""
    path = place / f"{job}.yaml"
    path.write_text(
        "model: demo\ndefaults: {style: pop, precision: fp32, threads: 1, steps: 12}\nsongs:\n"
        f"  - {{name: song, seed: 3, edit: {{source: song.wav, {keys}}}{more}}}\n"
    )
    return path


def batch(place: Path, job: Path, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "runner.cli", "batch", job.name, *more],
        cwd=place,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )


def made(place: Path, job: str, name: str = "song") -> dict[str, Any]:
    return read_json(Outputs(place / "outputs").song(f"{job}/{name}").manifest)


def test_the_fingerprint_covers_the_source_by_content_and_the_spans(place: Path) -> None:
    (answer,) = check.check(spec.load([write(place, "first")]))

    def of(job: Path) -> str:
        (song,) = spec.load([job])
        return manifest.fingerprint(song, answer)

    first = of(write(place, "first"))
    assert of(write(place, "second")) == first
    assert of(write(place, "other", "spans: [[2, 5], [9, -1]]")) != first
    (place / "song.wav").rename(place / "moved.wav")
    moved = write(place, "moved")
    moved.write_text(moved.read_text().replace("song.wav", "moved.wav"))
    assert of(moved) == first
    soundfile.write(place / "song.wav", np.sin(np.arange(round(SECONDS * RATE)) / 99), RATE)
    assert of(write(place, "changed")) != first


@pytest.mark.slow
def test_an_edit_killed_on_its_way_goes_on_and_is_bit_for_bit_the_same(place: Path) -> None:
    whole = batch(place, write(place, "whole"))
    assert whole.communicate(timeout=300)
    assert whole.returncode == 0
    go = place / "go"
    held = shlex.join(slow(holds_at=5, go=go)[:-1])  # without the verb
    killed = batch(place, write(place, "killed"), "--engine", held)
    folder = Outputs(place / "outputs").song("killed/song")

    def pid_while_sampling() -> int | None:
        beat = read(folder.heartbeat)
        return beat.pid if isinstance(beat, Heartbeat) and beat.phase == "sample" and beat.step > 2 else None

    os.kill(wait_for(pid_while_sampling), signal.SIGKILL)
    go.touch()
    assert killed.communicate(timeout=300)
    assert killed.returncode == 0
    assert causes(folder) == ["crash", None]
    one, other = made(place, "whole"), made(place, "killed")
    assert one["sound_sha256"] == other["sound_sha256"]  # the files name their jobs
    assert one["passes"] == other["passes"] == 24
    assert list(one["phases"]) == ["lyrics", "style", "encode", "load", "sample", "decode", "write"]
    assert one["samples"] == round(SECONDS * RATE)


@pytest.mark.slow
def test_takes_of_an_edit_are_songs_and_processes_of_their_own(place: Path) -> None:
    ended = batch(place, write(place, "night", more=", takes: 2, steps: 1"))
    _, err = ended.communicate(timeout=300)
    assert ended.returncode == 0, err
    first, second = made(place, "night"), made(place, "night", "song.2")
    assert [first["seed"], second["seed"]] == [3, 4]
    assert first["sha256"] != second["sha256"]
    folders = [Outputs(place / "outputs").song(f"night/{name}") for name in ("song", "song.2")]
    beats = [read(folder.heartbeat) for folder in folders]
    assert len({beat.pid for beat in beats if isinstance(beat, Heartbeat)}) == 2
