"""Stopping a batch, or one song of it: the parent is a real process that obeys, or does not."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from folders import DEAD, add_attempt, outputs_in, write_batch, write_manifest

from runner.messages import QueuedSong
from runner.processes import identity
from runner.songfolder import Outputs
from runner.stop import stop

OBEYS = """
import signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
print(flush=True)
signal.pause()
"""
DEAF = """
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(flush=True)
while True: signal.pause()
"""
# A parent that polls the song's stop file and then says in batch.json that the song is interrupted.
STOPS_A_SONG = """
import sys, time
from dataclasses import replace
from pathlib import Path
from runner.files import read_message, write_message
from runner.messages import Batch
from runner.songfolder import Outputs
outputs = Outputs(Path(sys.argv[1]))
print(flush=True)
while not outputs.song("night/rain").stop.exists():
    time.sleep(0.01)
batch = read_message(outputs.batch, Batch)
songs = [replace(song, state="interrupted") if song.song == "night/rain" else song for song in batch.songs]
write_message(outputs.batch, replace(batch, songs=songs))
sys.stdin.read()
"""
# As a batch holds its outputs.
LOCKS = "import sys\nlock = open(sys.argv[1] + '/.lock', 'a')\n"
SONGS = [QueuedSong("night/rain", "running", attempt=1), QueuedSong("night/snow", "queued")]


@pytest.fixture
def outputs(tmp_path: Path) -> Outputs:
    outputs = outputs_in(tmp_path)
    add_attempt(outputs.song("night/rain"))
    return outputs


@contextmanager
def parent(outputs: Outputs, code: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that runs code and that batch.json calls the parent."""
    with subprocess.Popen(
        [sys.executable, "-c", LOCKS + code, str(outputs.folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            write_batch(outputs, SONGS, parent=identity(process.pid))
            yield process
        finally:
            process.kill()


def test_a_batch_is_asked_and_waited_for(outputs: Outputs, capsys: pytest.CaptureFixture[str]) -> None:
    with parent(outputs, OBEYS) as process:
        assert stop(outputs) == 0
        assert process.wait() == 143
    said = capsys.readouterr().err
    assert (
        f"asked the batch (pid {process.pid}) to stop; waiting until night/rain has saved its state" in said
    )
    assert "2 of 2 songs go on with the same command" in said


def test_a_batch_that_does_not_stop_is_1_and_lives(
    outputs: Outputs, capsys: pytest.CaptureFixture[str]
) -> None:
    with parent(outputs, DEAF) as process:
        assert stop(outputs, patience_s=0.2) == 1
        assert process.poll() is None
    assert f"the batch (pid {process.pid}) still runs" in capsys.readouterr().err


def test_nothing_to_stop_is_1_and_says_so(outputs: Outputs, capsys: pytest.CaptureFixture[str]) -> None:
    assert stop(outputs) == 1
    assert "no batch has run here" in capsys.readouterr().err
    write_batch(outputs, SONGS, parent=DEAD)
    assert stop(outputs) == 1
    assert "is dead" in capsys.readouterr().err
    write_batch(outputs, SONGS, parent=DEAD, finished=True)
    assert stop(outputs) == 1
    assert "has ended" in capsys.readouterr().err
    outputs.batch.write_text("{")
    assert stop(outputs) == 1
    assert str(outputs.batch) in capsys.readouterr().err


def test_a_stranger_with_the_parents_pid_is_left_alone(outputs: Outputs) -> None:
    with parent(outputs, OBEYS) as process:
        stranger = identity(process.pid)
        assert stranger is not None
        for other in (
            type(stranger)(stranger.pid, stranger.started + 1, stranger.boot_id),
            type(stranger)(stranger.pid, stranger.started, DEAD.boot_id),
        ):
            write_batch(outputs, SONGS, parent=other)
            assert stop(outputs) == 1
            assert process.poll() is None


def test_a_copy_of_the_outputs_of_a_running_batch_does_not_stop_it(
    outputs: Outputs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with parent(outputs, OBEYS) as process:
        copy = Outputs(Path(shutil.copytree(outputs.folder, tmp_path / "copy")))
        assert stop(copy) == 1
        assert process.poll() is None
    assert f"(pid {process.pid}) has another folder; is this one a copy?" in capsys.readouterr().err


def test_one_song_is_asked_and_waited_for_and_the_batch_goes_on(
    outputs: Outputs, capsys: pytest.CaptureFixture[str]
) -> None:
    with parent(outputs, STOPS_A_SONG) as process:
        assert stop(outputs, "rain") == 0
        assert process.poll() is None
    assert not outputs.song("night/rain").stop.exists()
    assert "night/rain: interrupted; the same command goes on with it" in capsys.readouterr().err


def test_a_song_that_waits_in_the_queue_is_taken_out_of_it(
    outputs: Outputs, capsys: pytest.CaptureFixture[str]
) -> None:
    with parent(outputs, STOPS_A_SONG.replace("night/rain", "night/snow")) as process:
        assert stop(outputs, "snow") == 0
        assert process.poll() is None
    said = capsys.readouterr().err
    assert "waiting until it is out of the queue" in said
    assert "night/snow: interrupted; the same command goes on with it" in said
    assert not outputs.song("night/snow").stop.exists()


def test_a_song_that_stays_in_the_queue_is_1(outputs: Outputs, capsys: pytest.CaptureFixture[str]) -> None:
    with parent(outputs, DEAF):
        assert stop(outputs, "snow", patience_s=0.2) == 1
    assert "night/snow: still waits after 0.2 s" in capsys.readouterr().err


def test_a_song_that_does_not_stop_is_1(outputs: Outputs, capsys: pytest.CaptureFixture[str]) -> None:
    with parent(outputs, DEAF):
        assert stop(outputs, "rain", patience_s=0.2) == 1
    assert "night/rain: still runs" in capsys.readouterr().err
    assert outputs.song("night/rain").stop.exists()


@pytest.mark.parametrize(
    ("song", "answer"),
    [
        ("old", "a/old: does not run (done)"),
        ("x", "no such song"),
    ],
)
def test_a_song_that_does_not_run_is_1_and_no_file_is_left(
    outputs: Outputs, capsys: pytest.CaptureFixture[str], song: str, answer: str
) -> None:
    write_manifest(outputs.song("a/old"))
    with parent(outputs, OBEYS):
        assert stop(outputs, song) == 1
    assert answer in capsys.readouterr().err
    assert list(outputs.folder.rglob("stop")) == []
