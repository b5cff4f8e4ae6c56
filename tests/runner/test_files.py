"""State files: written whole, read with suspicion."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from runner.errors import ForeignFileError
from runner.files import MAX_BYTES, read_json, read_message, write_bytes, write_json, write_message
from runner.messages import Batch, Examination, Heartbeat, MachineArithmetic, Outcome, QueuedSong

BEAT = Heartbeat(
    seq=7,
    song="night/rain",
    attempt=2,
    pid=41,
    pid_started=99,
    boot_id="b",
    phase="sample",
    step=3,
    steps=32,
    density=32,
    passes=6,
    t=0.1,
    wall=1.0,
    progress_mono=5.0,
    alive_mono=6.0,
    cpu_s=4.0,
    step_s=1.5,
    eta_s=43.5,
    rss=10,
    swap=0,
    major_faults=0,
    latent_std=None,
    note="",
)
BATCH = Batch(
    pid=41,
    pid_started=99,
    boot_id="b",
    started_wall=1.0,
    finished_wall=None,
    workers=2,
    songs=[QueuedSong("night/rain", "running", attempt=2), QueuedSong("night/schnee ❄", "queued")],
)


@pytest.mark.parametrize("message", [BEAT, BATCH, Outcome(1, "timeout", "late", evidence=[{"at": 1}])])
def test_a_message_comes_back_as_it_was(tmp_path: Path, message: Heartbeat | Batch | Outcome) -> None:
    write_message(tmp_path / "m", message)
    assert read_message(tmp_path / "m", type(message)) == message  # type: ignore[type-var]


def test_a_reader_never_meets_half_a_file(tmp_path: Path) -> None:
    path = tmp_path / "beat"
    write_json(path, {"n": 0, "fill": "x" * 100_000})
    writer = multiprocessing.get_context("spawn").Process(target=_rewrite, args=(path, 200))
    writer.start()
    seen = set()
    while writer.is_alive():
        content = read_json(path)
        assert len(content["fill"]) == 100_000
        seen.add(content["n"])
    writer.join()
    assert writer.exitcode == 0
    assert seen


def _rewrite(path: Path, times: int) -> None:
    for n in range(times):
        write_json(path, {"n": n, "fill": "x" * 100_000}, durable=False)


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    write_json(tmp_path / "m", {"old": True})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "m", {"bad": float("nan")})
    with pytest.raises(TypeError):
        write_bytes(tmp_path / "m", "no bytes")  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
    assert read_json(tmp_path / "m") == {"old": True}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"schema": 1, "se',
        b"\xff\xfe",
        b"[1]",
        b"null",
        b"[" * 100_000,
        b'{"schema": 1, "x": NaN}',
        b'{"schema": 1, "x": -Infinity}',
        b"1" * 5000,
    ],
)
def test_what_is_no_json_object_is_foreign(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m"
    path.write_bytes(content)
    with pytest.raises(ForeignFileError, match=str(path)):
        read_json(path)


def test_a_huge_file_is_not_read_into_memory(tmp_path: Path) -> None:
    path = tmp_path / "m"
    with path.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(ForeignFileError, match="larger than"):
        read_json(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": 2},
        {"schema": True},
        {"schema": None},
        {"seq": "7"},
        {"seq": True},
        {"seq": 1.5},
        {"phase": "sleep"},
        {"t": "0.1"},
        {"cpu_s": None},
        {"rss": 10**400},
        {"note": ["a"]},
    ],
)
def test_a_field_of_the_wrong_kind_is_foreign(tmp_path: Path, changes: dict[str, Any]) -> None:
    write_json(tmp_path / "m", asdict(BEAT) | changes)
    with pytest.raises(ForeignFileError):
        read_message(tmp_path / "m", Heartbeat)


def test_a_number_that_no_float_holds_is_foreign(tmp_path: Path) -> None:
    (tmp_path / "m").write_text(json.dumps(asdict(BEAT)).replace("43.5", "1e999"))
    with pytest.raises(ForeignFileError, match="eta_s is inf"):
        read_message(tmp_path / "m", Heartbeat)


def test_a_missing_field_is_foreign(tmp_path: Path) -> None:
    content = asdict(BEAT)
    del content["seq"]
    write_json(tmp_path / "m", content)
    with pytest.raises(ForeignFileError, match="seq"):
        read_message(tmp_path / "m", Heartbeat)


@pytest.mark.parametrize("songs", [None, 5, "ab", ["night/rain"], {"a": 1}, [{"song": "x"}], [None]])
def test_a_batch_with_odd_songs_is_foreign(tmp_path: Path, songs: object) -> None:
    write_json(tmp_path / "m", asdict(BATCH) | {"songs": songs})
    with pytest.raises(ForeignFileError):
        read_message(tmp_path / "m", Batch)


def test_a_foreign_field_is_quoted_in_few_words(tmp_path: Path) -> None:
    write_json(tmp_path / "m", asdict(BEAT) | {"seq": "x" * 10_000})
    with pytest.raises(ForeignFileError) as error:
        read_message(tmp_path / "m", Heartbeat)
    assert len(str(error.value)) < 200 + len(str(tmp_path))


def test_surplus_keys_are_left_out(tmp_path: Path) -> None:
    write_json(tmp_path / "m", asdict(BEAT) | {"mood": "fine"})
    assert read_message(tmp_path / "m", Heartbeat) == BEAT


def test_a_whole_number_may_stand_for_a_float(tmp_path: Path) -> None:
    write_json(tmp_path / "m", asdict(BEAT) | {"step_s": 2})
    assert read_message(tmp_path / "m", Heartbeat) == replace(BEAT, step_s=2)


@pytest.mark.parametrize("target", ["/dev/zero", "/dev/null", "/dev/full", "."])
def test_a_device_or_a_folder_in_a_files_place_is_foreign(tmp_path: Path, target: str) -> None:
    (tmp_path / "m").symlink_to(target)
    with pytest.raises(ForeignFileError, match="is no ordinary file; remove it"):
        read_json(tmp_path / "m")


def test_a_pipe_in_a_files_place_is_foreign_and_nobody_waits_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "m")
    code = "import pathlib, sys, runner.files; runner.files.read_json(pathlib.Path(sys.argv[1]))"
    command = [sys.executable, "-c", code, str(tmp_path / "m")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert "ForeignFileError" in ended.stderr


def test_a_name_that_is_not_utf_8_comes_back_as_it_was(tmp_path: Path) -> None:
    write_json(tmp_path / "m", {"path": "/night\udcff/月.yaml"})
    assert read_json(tmp_path / "m") == {"path": "/night\udcff/月.yaml"}
    assert "月" in (tmp_path / "m").read_bytes().decode()


def test_a_message_within_a_message_is_read_back_and_another_thing_there_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "examination.json"
    measured = MachineArithmetic("fp32", "fp32", "why", 2.0, [], frames=8, busy=0.0, measured_wall=1.0)
    for arithmetic in (measured, None):
        asked = Examination(None, arithmetic=arithmetic)
        write_message(path, asked)
        assert read_message(path, Examination) == asked
    path.write_text(path.read_text().replace('"arithmetic": null', '"arithmetic": {"chosen": 1}'))
    with pytest.raises(ForeignFileError, match="chosen is 1"):
        read_message(path, Examination)
