"""Job files made from folders of lyrics: they load at once, whatever the files are called."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft7Validator

from runner import newjob, yamlfile
from runner.errors import OutputError, UsageError, one_line
from runner.jobfile import json_schema
from runner.spec import Song, load
from runner.yamlfile import parse

LRC = "[ti:Harbour Lights]\n[ar:Nobody]\n[00:01.00]low tide\n[00:20.50]high tide\n"
ODD = [
    '[2020] Été à "Paris" # 1: a.LRC',
    "~home.lrc",
    "海の光.lrc",
    "123.lrc",
    "1e5.lrc",
    "true.lrc",
    "Harbour Lights.lrc",
    "harbour_lights.lrc",
    "harbour-lights-2.lrc",
    "song-3.lrc",
    "😀 \\ 'x'.lrc",
    "x" * 240 + ".lrc",
]


def made(place: Path, *names: str, text: str = LRC, out: str = "mine.yaml", **options: str) -> list[Song]:
    """The songs of a job file made from a folder of such files, as the program reads it."""
    folder = place / "my lyrics"
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_text(text)
    sheets, left_out = newjob.read_folder(folder)
    assert left_out == []
    newjob.write(sheets, place / out, **options)  # type: ignore[arg-type]
    return load([place / out])


# ---------------------------------------------------------------- what it holds


def test_there_is_a_song_for_every_file_whatever_it_is_called(tmp_path: Path) -> None:
    songs = made(tmp_path, *ODD)
    assert {song.lyrics for song in songs} == {LRC}
    assert sorted(Path(song.lyrics_source).name for song in songs) == sorted(ODD)
    assert {song.style for song in songs} == {newjob.STYLE}
    Draft7Validator(json_schema()).validate(yamlfile.read(tmp_path / "mine.yaml").value)


def test_names_are_safe_and_all_different() -> None:
    stems = ["Harbour Lights", "harbour_lights", "harbour-lights-2", "海", "Été", "song-4", "..", "x" * 300]
    assert newjob.names(stems)[:7] == [
        "harbour-lights",
        "harbour-lights-2",
        "harbour-lights-2-2",
        "song-4",
        "ete",
        "song-4-2",
        "song-7",
    ]
    assert len(newjob.names(stems)[7]) <= 100


@given(st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=8), st.text(max_size=30))
def test_any_title_and_any_name_make_a_file_that_is_read_as_it_was_meant(
    stems: list[str], title: str
) -> None:
    sheets = [newjob.Sheet(Path("/l", f"{i}.lrc"), one_line(title), "", "", 3) for i in range(len(stems))]
    text = newjob.text(sheets, Path("/l/mine.yaml"), schema="s.json", model="demo", style=title or None)
    value = parse(text, Path("mine.yaml")).value if title.isprintable() else None
    if isinstance(value, dict):
        assert value["defaults"]["style"] == (title or newjob.STYLE)
        assert [song["lyrics"] for song in value["songs"]] == [f"{i}.lrc" for i in range(len(stems))]
    names = newjob.names(stems)
    assert len(set(names)) == len(names)


def test_paths_are_relative_to_the_job_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bundle").mkdir()
    monkeypatch.chdir(tmp_path)
    (song,) = made(tmp_path, "a.lrc", out="jobs/mine.yaml", model="./bundle", style="folk")
    assert Path(song.model) == tmp_path / "jobs" / ".." / "bundle"
    assert song.style == "folk"
    assert 'lyrics: "../my lyrics/a.lrc"' in (tmp_path / "jobs" / "mine.yaml").read_text()


def test_a_file_beside_the_job_file_is_no_lyrics_themselves_and_in_nobodys_home(tmp_path: Path) -> None:
    for song in made(tmp_path, "[2020] a.lrc", "~b.lrc", out="my lyrics/mine.yaml"):
        assert song.lyrics == LRC


def test_a_comment_tells_title_artist_and_how_long_the_song_is(tmp_path: Path) -> None:
    made(tmp_path, "a.lrc")
    made(tmp_path, "a.lrc", text=f"[length: 03:20]\n{LRC}", out="long.yaml")
    short, long = (tmp_path / "mine.yaml").read_text(), (tmp_path / "long.yaml").read_text()
    assert "# Harbour Lights, Nobody\n" in short
    assert "# duration: 30 " in short
    assert "which begins at 0:20\n" in short
    assert "# duration: 200 " in long


@pytest.mark.parametrize(("last", "windowed"), [("00:25", False), ("00:45", True), ("02:50", True)])
def test_a_song_longer_than_the_model_makes_is_made_in_windows(
    tmp_path: Path, last: str, windowed: bool
) -> None:
    (song,) = made(tmp_path, "a.lrc", text=f"[00:01.00][{last}.00]again\n")
    assert (song.window == 40) is windowed


# ---------------------------------------------------------------- what is left alone


def test_what_is_there_is_not_written_over_without_force(tmp_path: Path) -> None:
    made(tmp_path, "a.lrc")
    (tmp_path / "mine.yaml").write_text("mine")
    sheets, _ = newjob.read_folder(tmp_path / "my lyrics")
    with pytest.raises(UsageError, match="is there already"):
        newjob.write(sheets, tmp_path / "mine.yaml")
    assert (tmp_path / "mine.yaml").read_text() == "mine"
    newjob.write(sheets, tmp_path / "mine.yaml", force=True)
    assert len(load([tmp_path / "mine.yaml"])) == 1


def test_files_that_cannot_be_sung_are_left_out_and_named(tmp_path: Path) -> None:
    (tmp_path / "plain.lrc").write_text("no times")
    (tmp_path / "utf16.lrc").write_bytes("[00:01.00]a".encode("utf-16"))
    (tmp_path / os.fsdecode(b"half \xff.lrc")).write_text(LRC)
    (tmp_path / "folder.lrc").mkdir()
    (tmp_path / "notes.txt").write_text(LRC)
    with pytest.raises(UsageError, match="no timed lyrics here"):
        newjob.read_folder(tmp_path)
    (tmp_path / "song.lrc").write_text(LRC)
    sheets, left_out = newjob.read_folder(tmp_path)
    assert [sheet.file.name for sheet in sheets] == ["song.lrc"]
    assert len(left_out) == 4
    assert all(line.startswith(str(tmp_path)) and line.endswith("; left out") for line in left_out)


@pytest.mark.parametrize("out", ["my.songs.yaml", "mine.txt", ".yaml", "a:b.yaml"])
def test_a_name_that_no_job_can_have_is_refused(tmp_path: Path, out: str) -> None:
    with pytest.raises(UsageError, match="--out"):
        made(tmp_path, "a.lrc", out=out)


def test_what_is_no_folder_and_where_nothing_can_be_written_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no folder"):
        newjob.read_folder(tmp_path / "absent")
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="choose another place with --out"):
        made(tmp_path, "a.lrc", out="file/mine.yaml")


# ---------------------------------------------------------------- the schema


def test_an_editor_finds_the_schema_beside_the_file_or_above_it(tmp_path: Path) -> None:
    made(tmp_path, "a.lrc")
    assert json.loads((tmp_path / newjob.SCHEMA_FILE).read_text()) == json_schema()
    first = "# yaml-language-server: $schema="
    assert (tmp_path / "mine.yaml").read_text().startswith(f"{first}{newjob.SCHEMA_FILE}\n")
    made(tmp_path, "a.lrc", out="jobs/mine.yaml")
    assert (tmp_path / "jobs" / "mine.yaml").read_text().startswith(f"{first}../{newjob.SCHEMA_FILE}\n")
    assert not (tmp_path / "jobs" / newjob.SCHEMA_FILE).exists()


def test_an_old_schema_of_ours_is_brought_up_to_date_and_anothers_left_alone(tmp_path: Path) -> None:
    file = tmp_path / newjob.SCHEMA_FILE
    file.write_text('{"title": "JobFile"}')
    made(tmp_path, "a.lrc")
    assert json.loads(file.read_text()) == json_schema()
    file.write_text('{"title": "mine"}')
    made(tmp_path, "a.lrc", out="other.yaml")
    assert file.read_text() == '{"title": "mine"}'


@pytest.mark.parametrize(
    ("offset", "last_s"), [("", 21), ("[offset:+5500]", 15), ("[OFFSET: -1000 ]", 22), ("[offset:90000]", 0)]
)
def test_the_offset_of_the_lyrics_moves_their_last_line(tmp_path: Path, offset: str, last_s: int) -> None:
    (tmp_path / "a.lrc").write_text(f"{offset}\n{LRC}")
    (sheet,), _ = newjob.read_folder(tmp_path)
    assert abs(sheet.last_s - last_s) <= 1
