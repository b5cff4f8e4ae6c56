"""Outputs of other versions: older ones are read for ever, newer ones are said to be newer and left alone."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from runner.files import read_json, write_json
from runner.messages import SCHEMA
from runner.songfolder import Outputs
from tests.faults.batches import ROOT, Parent, job
from tests.fixtures.make import JOBS

OLD = sorted((ROOT / "tests" / "fixtures").glob("outputs-*"))


@pytest.fixture(params=OLD, ids=lambda folder: folder.name)
def outputs(request: pytest.FixtureRequest, tmp_path: Path) -> Outputs:
    """A copy of outputs that a version of this schema has left."""
    shutil.copytree(request.param, tmp_path / "outputs")
    return Outputs(tmp_path / "outputs")


def status(outputs: Outputs) -> dict[str, Any]:
    command = [sys.executable, "-m", "runner.cli", "status", "--json", "--out", str(outputs.folder)]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return json.loads(told)  # type: ignore[no-any-return]


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_there_are_outputs_of_every_schema_so_far() -> None:
    assert {folder.name for folder in OLD} == {f"outputs-{number}" for number in range(1, SCHEMA + 1)}


def test_the_songs_of_an_older_version_stand_as_they_stood(outputs: Outputs) -> None:
    told = status(outputs)
    assert told["problems"] == []
    assert {song["song"]: song["state"] for song in told["songs"]} == {
        "night/done": "done",
        "night/degraded": "degraded",
        "night/failed": "failed",
        "night/interrupted": "interrupted",
        "night/left": "left",
        "night/real": "done",
    }
    songs = {song["song"]: song for song in told["songs"]}
    assert songs["night/failed"]["why"] == "ended with exit code 7 in phase load"
    assert songs["night/degraded"]["note"] == "16 steps instead of 32"
    assert songs["night/real"]["file"] == str(outputs.song("night/real").audio("ogg"))
    assert songs["night/interrupted"]["health"] is None


def test_a_batch_of_an_older_version_goes_on_where_it_was(outputs: Outputs, tmp_path: Path) -> None:
    before = contents(outputs.folder)
    seed = read_json(outputs.song("night/interrupted").attempts()[0].request)["seed"]
    done, degraded, failed, interrupted, left = JOBS
    # The script of a naughty child comes with its job; this one ends at once, where its checkpoint is.
    interrupted = job("", name=interrupted.song.name, fingerprint=interrupted.fingerprint)
    assert Parent(tmp_path, [done, degraded, failed, interrupted, left]).wait() == 1
    made = read_json(outputs.song("night/interrupted").manifest)
    assert (made["state"], made["seed"]) == ("done", seed)
    assert made["resumed_at"] > 0
    assert [attempt["cause"] for attempt in made["attempts"]] == ["interrupted", None]
    assert len(outputs.song("night/failed").attempts()) == 4  # tried afresh, with two more
    after = contents(outputs.folder)
    for name in ("done", "degraded", "real"):
        for file in (file for file in before if file.startswith(f"night/{name}/")):
            assert after[file] == before[file]


@pytest.mark.parametrize(
    "file",
    [
        "song.json",
        "heartbeat.json",
        "attempts/1/request.json",
        "attempts/1/outcome.json",
        "failed.json",
    ],
)
def test_a_song_of_a_newer_version_is_named_as_such_and_not_touched(
    outputs: Outputs, tmp_path: Path, file: str
) -> None:
    folder = outputs.song("night/done").folder
    newer = read_json(folder / file) if (folder / file).exists() else {"state": "failed"}
    write_json(folder / file, newer | {"schema": SCHEMA + 1, "fingerprint": "of a newer kind"})
    before = contents(folder)
    parent = Parent(tmp_path, [job("", name="done"), job("", name="other")], force=True)
    assert parent.wait() == 1
    words = f"{folder / file}: written by a newer version; use that one, or choose another --out"
    assert f"night/done: failed: {words}" in parent.err.splitlines()
    assert contents(folder) == before
    assert read_json(outputs.song("night/other").manifest)["state"] == "done"


def test_outputs_whose_last_batch_was_of_a_newer_version_are_refused_in_one_line(
    outputs: Outputs, tmp_path: Path
) -> None:
    write_json(outputs.batch, read_json(outputs.batch) | {"schema": SCHEMA + 1})
    before = contents(outputs.folder)
    parent = Parent(tmp_path, JOBS)
    assert parent.wait() == 1
    assert parent.err == (
        f"{outputs.batch}: written by a newer version; use that one, or choose another --out\n"
    )
    assert contents(outputs.folder) == before | {".lock": b""}
