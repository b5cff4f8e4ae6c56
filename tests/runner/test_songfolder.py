"""The layout under outputs/, its lock, and what a song's name means."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from runner.errors import LockedError, OutputError, RunnerError
from runner.songfolder import Outputs, SongFolder, find, is_song

HOLD = (
    "import sys, pathlib; from runner.songfolder import Outputs\n"
    "with Outputs(pathlib.Path(sys.argv[1])).locked(): print(flush=True); sys.stdin.read()"
)


def test_attempts_are_numbered_on_and_sorted_as_numbers(tmp_path: Path) -> None:
    song = SongFolder(tmp_path / "night" / "rain")
    assert song.attempts() == []
    made = [song.new_attempt().number for _ in range(11)]
    (song.folder / "attempts" / "notes").mkdir()
    (song.folder / "attempts" / "1²").mkdir()
    assert made == list(range(1, 12))
    assert [attempt.number for attempt in song.attempts()] == made


def test_a_song_is_known_by_job_and_name(tmp_path: Path) -> None:
    outputs = Outputs(tmp_path)
    assert outputs.song("night/rain.2").id == "night/rain.2"
    for id, mark in [("b/rain", "song.json"), ("a/kites", "heartbeat.json"), ("a/fog", "failed.json")]:
        outputs.song(id).folder.mkdir(parents=True)
        (outputs.song(id).folder / mark).touch()
    outputs.song("c/tide").new_attempt()
    (tmp_path / "c" / "other").mkdir()
    (tmp_path / "batch.json").touch()
    assert [song.id for song in outputs.songs()] == ["a/fog", "a/kites", "b/rain", "c/tide"]


def test_publishing_moves_the_sound_out_of_its_attempt(tmp_path: Path) -> None:
    song = SongFolder(tmp_path / "night" / "rain")
    sound = song.new_attempt().audio("flac")
    sound.write_bytes(b"la")
    final = song.publish(sound)
    assert final == song.audio("flac")
    assert final.read_bytes() == b"la"
    assert not sound.exists()


def test_tidying_leaves_what_is_none_of_ours(tmp_path: Path) -> None:
    song = SongFolder(tmp_path / "night" / "rain")
    attempt = song.new_attempt()
    attempt.checkpoint.touch()
    for sound in (song.audio("wav"), song.audio("flac"), attempt.audio("wav")):
        sound.touch()
    (song.folder / "song.stems").mkdir()
    (song.folder / "song.lrc").touch()
    song.tidy(song.audio("wav"))
    assert sorted(path.name for path in song.folder.iterdir()) == [
        "attempts",
        "song.lrc",
        "song.stems",
        "song.wav",
    ]
    assert list(attempt.folder.iterdir()) == []


def test_cleaning_takes_only_half_written_files(tmp_path: Path) -> None:
    outputs = Outputs(tmp_path)
    song = outputs.song("night/rain")
    attempt = song.new_attempt()
    kept = [outputs.batch, song.heartbeat, attempt.log]
    for path in kept:
        path.touch()
        path.with_name(f".{path.name}.12-ab.tmp").touch()
    (tmp_path / ".mine.tmp").touch()
    page = outputs.report.with_name(f".{outputs.report.name}.12-ab.tmp")
    page.touch()
    outputs.clean()
    song.clean()
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(
        [*kept, tmp_path / ".mine.tmp"]
    )


def test_the_lock_is_held_by_one_process_and_dies_with_it(tmp_path: Path) -> None:
    folder = tmp_path / "outputs"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(LockedError, match="runner stop"), Outputs(folder).locked():
            pass
        holder.kill()
        holder.wait()
    with Outputs(folder).locked(), pytest.raises(LockedError), Outputs(folder).locked():
        pass
    with Outputs(folder).locked():
        pass


def test_a_child_does_not_inherit_the_lock(tmp_path: Path) -> None:
    with Outputs(tmp_path).locked():
        child = subprocess.Popen(["sleep", "60"], close_fds=False)
    try:
        with Outputs(tmp_path).locked():
            pass
    finally:
        child.kill()
        child.wait()


def test_outputs_that_cannot_be_made_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(OutputError, match=r"file/outputs; choose another"),
        Outputs(tmp_path / "file" / "outputs").locked(),
    ):
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_outputs_that_are_read_only_are_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="Permission denied"), Outputs(tmp_path / "outputs").locked():
        pass


SONGS = ["day/rain", "night/rain", "night/harbour-lights", "night/fog.2"]


@pytest.mark.parametrize(
    ("name", "id"),
    [("night/rain", "night/rain"), ("harbour-lights", "night/harbour-lights"), ("fog.2", "night/fog.2")],
)
def test_a_song_is_found_by_its_id_or_by_a_name_that_only_one_has(name: str, id: str) -> None:
    assert find(name, SONGS) == id


@pytest.mark.parametrize("text", ["../night", "night/..", "/rain", "night/", "a/b/c", "rain", "./a", "a/\0"])
def test_a_path_out_of_the_outputs_is_no_song(text: str) -> None:
    assert not is_song(text)
    assert all(map(is_song, SONGS))


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("rain", "several songs have this name; say which: day/rain, night/rain"),
        ("harbor-lights", "did you mean night/harbour-lights?"),
        ("night/fog.3", "did you mean night/fog.2?"),
        ("", "no such song; `runner status`"),
        ("../night/rain", "no such song"),
    ],
)
def test_a_name_that_means_no_one_song_is_answered_with_what_it_could_be(name: str, answer: str) -> None:
    with pytest.raises(RunnerError) as error:
        find(name, SONGS)
    assert answer in str(error.value)
