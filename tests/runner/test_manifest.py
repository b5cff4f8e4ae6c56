from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from folders import REQUEST

from runner import manifest
from runner.files import write_json
from runner.messages import Outcome, SongAnswer, SungLine
from runner.songfolder import SongFolder
from runner.spec import Song
from tests.faults import batches

SOUND = b"RIFF and so on"
JOB = batches.job("[00:00.00]low tide\n", style="pop", seed=7, preset="standard")

# Every field of a song or an answer stands in one of the two lists for it.
ASKED_OF_SONG: dict[str, Any] = {
    "lyrics": "[00:00.00]high tide\n",
    "style": "folk",
    "negative_style": "noise",
    "seed": 8,
    "take": 2,
    "language": "zh",
    "lyrics_compat": "published",
    "format": "flac",
    "bits": 24,
    "loudness": -14.0,
    "window": 5.0,  # shorter than the song
    "fade_out": 3.0,
}
NOT_ASKED_OF_SONG: dict[str, Any] = {
    "job": "other",
    "name": "other",
    "path": Path("other.yaml"),
    "line": 99,
    "model": "/the/same/bundle/elsewhere",  # its hash counts
    "lyrics_source": "other.lrc",
    "model_hash": "1",  # what was expected; the answer's counts
    "duration": None,  # the answer's counts, as do its steps, guidance and sampler
    "preset": "high",
    "steps": 99,
    "cfg": 9.0,
    "sampler": "heun",
    "precision": "int8",
    "timeout_s": 1.0,
    "deadline_s": 1.0,
    "stall_s": 1.0,
    "attempts": 1,
    "foresight": True,
    "threads": 7,
    "memory_bytes": 1 << 30,
    "nice": 19,
    "resume": False,
}
ASKED_OF_ANSWER: dict[str, Any] = {
    "duration": 20.0,
    "steps": 33,
    "cfg": 5.0,
    "sampler": "heun",
    "model_hash": "1",
}
NOT_ASKED_OF_ANSWER: dict[str, Any] = {
    "grid": [0.0, 0.5, 1.0],
    "song": "other/other",
    "problems": ["bad"],
    "warnings": ["odd"],
    "precision": "int8",
    "demo": False,
    "choice": "in other words",
    "private_bytes": 9,
    "mapped_bytes": 9,
    "lines": [SungLine(1, 0.0, "a", 0, 0, 1, 1, 0, ["a"], None)],
    "passes": 9,
    "pass_flops": 9,
    "decode_flops": 9,
    "pass_s": 9.0,
    "threads": 9,
    "provisional": True,
    "chunk_frames": 9,
    "overlap_frames": 9,
    "decoder_speed": 9.0,
    "decoder_around_s": 9.0,
    "model_folder": "/the/same/bundle/elsewhere",
    "gpus": 2,
}
PRINT = manifest.fingerprint(JOB.song, JOB.answer)


def test_every_field_is_known_to_be_asked_or_not() -> None:
    songs = {field.name for field in fields(Song)} - {"style_audio", "edit_source", "edit_spans"}
    assert songs == ASKED_OF_SONG.keys() | NOT_ASKED_OF_SONG.keys()
    assert {field.name for field in fields(SongAnswer)} == ASKED_OF_ANSWER.keys() | NOT_ASKED_OF_ANSWER.keys()


@pytest.mark.parametrize("field", ASKED_OF_SONG)
def test_what_was_asked_of_a_song_changes_its_fingerprint(field: str) -> None:
    assert manifest.fingerprint(replace(JOB.song, **{field: ASKED_OF_SONG[field]}), JOB.answer) != PRINT


def test_steps_that_were_left_to_the_machine_do_not() -> None:
    song = replace(JOB.song, preset="auto", steps=None)
    one, other = (manifest.fingerprint(song, replace(JOB.answer, steps=steps)) for steps in (8, 12))
    assert one == other
    assert manifest.fingerprint(replace(song, steps=12), replace(JOB.answer, steps=12)) != one


def test_a_window_that_holds_the_song_does_not() -> None:
    held = replace(JOB.song, window=JOB.answer.duration)
    assert manifest.fingerprint(held, JOB.answer) == PRINT


@pytest.mark.parametrize("field", ASKED_OF_ANSWER)
def test_what_was_decided_changes_its_fingerprint(field: str) -> None:
    assert manifest.fingerprint(JOB.song, replace(JOB.answer, **{field: ASKED_OF_ANSWER[field]})) != PRINT


@pytest.mark.parametrize("field", NOT_ASKED_OF_SONG)
def test_how_a_song_is_made_and_named_does_not(field: str) -> None:
    assert manifest.fingerprint(replace(JOB.song, **{field: NOT_ASKED_OF_SONG[field]}), JOB.answer) == PRINT


@pytest.mark.parametrize("field", NOT_ASKED_OF_ANSWER)
def test_words_and_arithmetic_do_not(field: str) -> None:
    changed = replace(JOB.answer, **{field: NOT_ASKED_OF_ANSWER[field]})
    assert manifest.fingerprint(JOB.song, changed) == PRINT


def test_a_style_clip_counts_by_its_content(tmp_path: Path) -> None:
    first, second = tmp_path / "a.wav", tmp_path / "b.wav"
    first.write_bytes(b"one clip")
    second.write_bytes(b"one clip")

    def of(clip: Path) -> str:
        return manifest.fingerprint(replace(JOB.song, style=None, style_audio=clip), JOB.answer)

    assert of(first) == of(second)
    second.write_bytes(b"another clip")
    assert of(first) != of(second)


# ---------------------------------------------------------------- song.json


@pytest.fixture
def song(tmp_path: Path) -> SongFolder:
    folder = SongFolder(tmp_path / "night" / "song")
    folder.folder.mkdir(parents=True)
    folder.audio("wav").write_bytes(SOUND)
    return folder


def write(song: SongFolder, *outcomes: Outcome) -> dict[str, Any]:
    made = Outcome(2, None, "made", elapsed_s=30.0, peak_rss=100, song={"degraded": None, "passes": 64})
    request = replace(REQUEST, fingerprint=PRINT)
    return manifest.write(song, request, JOB.answer, list(outcomes or (made,)), song.audio("wav"))


def test_a_manifest_says_what_was_made_of_what_and_how(song: SongFolder) -> None:
    killed = Outcome(1, "timeout", "slow", elapsed_s=60.5, peak_rss=300, peak_swap=5, evidence=[{"at": 1.0}])
    made = Outcome(2, None, "made", elapsed_s=30.0, peak_rss=100, song={"degraded": None, "passes": 64})
    content = write(song, killed, made)
    assert json.loads(song.manifest.read_text()) == content
    assert (content["song"], content["state"], content["file"]) == ("night/song", "done", "song.wav")
    assert (content["seconds"], content["peak_rss"], content["peak_swap"]) == (90.5, 300, 5)
    assert (content["passes"], content["seed"], content["demo"]) == (64, 7, True)
    assert [(a["attempt"], a["cause"]) for a in content["attempts"]] == [(1, "timeout"), (2, None)]
    assert "evidence" not in content["attempts"][0]
    assert content["request"]["fingerprint"] == content["fingerprint"] == PRINT


def test_a_degraded_song_says_how(song: SongFolder) -> None:
    content = write(song, Outcome(1, None, "made", song={"degraded": "16 steps instead of 32"}))
    assert (content["state"], content["degraded"]) == ("degraded", "16 steps instead of 32")


def test_what_its_maker_tells_besides_stands_above_nothing_of_ours(song: SongFolder) -> None:
    told = {"fingerprint": "x", "state": "failed", "attempts": None, "seconds": "long", "passes": 64}
    content = write(song, Outcome(1, None, "made", elapsed_s=5.0, song=told))
    assert (content["fingerprint"], content["state"], content["seconds"]) == (PRINT, "done", 5.0)
    assert (len(content["attempts"]), content["passes"]) == (1, 64)


# ---------------------------------------------------------------- is it done?


def test_a_song_made_as_asked_is_finished(song: SongFolder) -> None:
    content = write(song)
    assert manifest.finished(song, PRINT) == content


def test_a_song_made_of_another_request_is_not(song: SongFolder) -> None:
    write(song)
    assert manifest.finished(song, "0" * 64) is None


def test_a_song_whose_sound_is_damaged_renamed_or_gone_is_not(song: SongFolder) -> None:
    write(song)
    sound = song.audio("wav")
    sound.write_bytes(SOUND[:-1])
    assert manifest.finished(song, PRINT) is None
    sound.write_bytes(SOUND)
    sound.rename(song.audio("flac"))
    assert manifest.finished(song, PRINT) is None
    song.audio("flac").unlink()
    assert manifest.finished(song, PRINT) is None
    sound.mkdir()
    assert manifest.finished(song, PRINT) is None


def test_a_song_that_was_moved_with_its_folder_still_is(song: SongFolder, tmp_path: Path) -> None:
    content = write(song)
    moved = SongFolder(song.folder.rename(tmp_path / "elsewhere"))
    assert manifest.finished(moved, PRINT) == content


def test_only_a_sound_of_its_own_folder_counts(song: SongFolder) -> None:
    content = write(song)
    outside = song.folder.parent / "song.wav"
    song.audio("wav").rename(outside)
    for file in (str(outside), "../song.wav"):
        write_json(song.manifest, content | {"file": file})
        assert manifest.finished(song, PRINT) is None


@pytest.mark.parametrize(
    "content", [None, b"", b"{", b"[]", b"null", b"{}", b"\xff\xfe", b'{"file": "song.wav"}']
)
def test_a_manifest_that_is_none_makes_no_song_finished(song: SongFolder, content: bytes | None) -> None:
    if content is not None:
        song.manifest.write_bytes(content)
    assert manifest.finished(song, PRINT) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"state": "failed"},
        {"state": None},
        {"state": ["done"]},
        {"file": None},
        {"file": ""},
        {"file": 7},
        {"file": "."},
        {"file": "song\0.wav"},
        {"file": "x" * 5000},
        {"sha256": None},
        {"fingerprint": None},
    ],
)
def test_a_manifest_with_a_field_of_another_kind_makes_no_song_finished(
    song: SongFolder, changes: dict[str, Any]
) -> None:
    write_json(song.manifest, write(song) | changes)
    assert manifest.finished(song, PRINT) is None


@pytest.mark.parametrize("target", ["/dev/zero", "."])
def test_a_sound_that_is_no_ordinary_file_makes_no_song_finished(song: SongFolder, target: str) -> None:
    write(song)
    song.audio("wav").unlink()
    song.audio("wav").symlink_to(target)
    assert manifest.finished(song, PRINT) is None


def test_a_sound_larger_than_any_that_a_child_can_write_is_not_read(song: SongFolder) -> None:
    write(song)
    with song.audio("wav").open("r+b") as file:
        file.truncate(2**42)
    assert manifest.finished(song, PRINT) is None
