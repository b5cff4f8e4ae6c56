from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import soundfile

from runner import yamlfile
from runner.spec import load, lyrics_start

JOBS = Path(__file__).parents[1] / "jobs"
CLIP = JOBS / "clips" / "evening-arpeggio.ogg"


def test_the_example_jobs_are_ready_to_run_and_short() -> None:
    songs = load(sorted(JOBS.glob("*.yaml")))
    assert {song.model for song in songs} == {"demo"}
    assert all(song.duration is not None and 2 <= song.duration <= 30 for song in songs)
    assert {"english/harbour-lights", "chinese/rain-street", "instrumental/evening"} <= {
        song.id for song in songs
    }


def test_the_examples_show_every_way_to_give_lyrics_and_style() -> None:
    songs = load(sorted(JOBS.glob("*.yaml")))
    assert any(song.lyrics is None for song in songs)
    assert {Path(lyrics_start(song.lyrics_source)[0]).suffix for song in songs if song.lyrics} == {
        ".lrc",
        ".yaml",
    }
    assert any(song.style_audio for song in songs)
    assert any(song.style for song in songs)
    assert any(song.take == 2 for song in songs)


def test_every_lyrics_file_is_used_by_an_example() -> None:
    used = {Path(song.lyrics_source).name for song in load(sorted(JOBS.glob("*.yaml")))}
    assert {file.name for file in (JOBS / "lyrics").glob("*.lrc")} <= used


def test_the_examples_name_the_schema_for_editors() -> None:
    for job in JOBS.glob("*.yaml"):
        assert job.read_text().startswith("# yaml-language-server: $schema=../job.schema.json\n")
        assert yamlfile.read(job).keys["model",].line <= 5


def test_the_style_clip_is_long_enough_and_small() -> None:
    about = soundfile.info(CLIP)
    assert about.duration >= 10
    assert CLIP.stat().st_size < 200_000


def test_the_style_clip_is_what_its_script_makes() -> None:
    made = runpy.run_path(str(CLIP.with_name("make_evening_arpeggio.py")))
    heard, rate = soundfile.read(CLIP)
    assert rate == made["RATE"]
    # Vorbis is lossy: the same sound, not the same numbers.
    assert np.corrcoef(heard, made["arpeggio"]())[0, 1] > 0.99
