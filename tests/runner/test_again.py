"""Songs made once more: what is asked of them, where they lie, and what is said of the two."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from folders import REQUEST

from runner import again
from runner.errors import ForeignFileError, OutputError, RunnerError, SpecError
from runner.files import write_json
from runner.manifest import SCHEMA
from runner.messages import SongRequest
from runner.songfolder import Outputs
from runner.spec import asked

CLIP = "clip of evening.wav"
FIRST = replace(
    REQUEST,
    lyrics="[00:01.00]low tide",  # without a line's end: a path, to a job file
    lyrics_source="jobs/night.yaml",
    lyrics_first_line=13,
    language="zh",
    lyrics_compat="published",
    sampler="sway",
    loudness=-14.0,
    bits=24,
    threads=3,
    timeout_s=7200.0,
    window=40.0,
    negative_style="noise",
)


@pytest.fixture
def outputs(tmp_path: Path) -> Outputs:
    return Outputs(tmp_path / "outputs")


def make(outputs: Outputs, first: SongRequest = FIRST, **content: Any) -> again.Made:
    """A finished song by its manifest alone."""
    folder = outputs.song(first.song)
    folder.folder.mkdir(parents=True)
    about = {"schema": SCHEMA, "song": first.song, "request": asdict(first), "sound_sha256": "a"}
    write_json(folder.manifest, about | content)
    return again.find_made(outputs, first.song)


# ---------------------------------------------------------------- what is asked


def test_without_options_everything_is_asked_as_it_was(outputs: Outputs) -> None:
    song = again.song(make(outputs), {"seed": None})
    once = asked(song)
    assert once == {key: getattr(FIRST, key) for key in once}
    for key in ("seed", "steps", "cfg", "sampler", "precision", "format", "bits", "loudness", "threads"):
        assert getattr(song, key) == getattr(FIRST, key), key
    assert (song.duration, song.fade_out, song.timeout_s) == (95.0, None, 7200.0)
    assert (song.model_hash, song.foresight) == ("m", True)


def test_loudness_at_full_scale_stays_so(outputs: Outputs) -> None:
    assert again.song(make(outputs, replace(FIRST, loudness=None)), {}).loudness is None


def test_sounds_that_it_was_made_from_are_taken_again(outputs: Outputs, tmp_path: Path) -> None:
    clip = tmp_path / CLIP
    clip.touch()
    edit = {"edit_source": str(clip), "edit_spans": [[0.5, -1]]}
    song = again.song(make(outputs, replace(FIRST, style=None, style_audio=str(clip), **edit)), {})
    assert (song.style, song.style_audio, song.edit_source) == (None, clip, clip)
    assert song.edit_spans == ((0.5, -1),)
    clip.unlink()
    with pytest.raises(SpecError) as caught:
        again.song(again.find_made(outputs, "rain"), {})
    assert str(caught.value).splitlines() == [
        f"{clip}: the clip whose style night/rain was made from is gone; put it back",
        f"{clip}: the sound that night/rain was made from is gone; put it back",
    ]


def test_a_preset_replaces_steps_guidance_and_solver_and_an_option_only_its_own(outputs: Outputs) -> None:
    made = make(outputs)
    by_preset = again.song(made, {"preset": "high"})
    assert (by_preset.preset, by_preset.steps, by_preset.cfg, by_preset.sampler) == ("high", None, None, None)
    by_steps = again.song(made, {"steps": 8})
    assert (by_steps.steps, by_steps.cfg, by_steps.sampler) == (8, 4.0, "sway")


def test_a_grid_that_was_tuned_to_the_model_is_looked_up_again(outputs: Outputs) -> None:
    song = again.song(make(outputs, replace(FIRST, grid=[0.0, 1.0])), {})
    assert (song.steps, song.sampler) == (32, None)


def test_another_format_has_the_bits_that_it_can_have(outputs: Outputs) -> None:
    made = make(outputs)
    assert [again.song(made, {"format": kind}).bits for kind in ("flac", "mp3")] == [24, 16]


def test_an_estimate_gets_the_usual_time(outputs: Outputs) -> None:
    made = make(outputs, replace(FIRST, mode="estimate", timeout_s=86_400.0))
    assert again.song(made, {}).timeout_s == 2400
    assert again.song(made, {"timeout": "3h"}).timeout_s == 3 * 3600


# ---------------------------------------------------------------- where it lies


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({}, "rain.again"),
        ({"seed": 8}, "rain.seed-8"),
        ({"steps": 8, "cfg": 2.5, "timeout": "3h"}, "rain.steps-8.cfg-2.5"),
        ({"preset": "high", "format": "mp3", "fade_out": 4.0}, "rain.preset-high.fade-4.mp3"),
        ({"precision": "int8"}, "rain.int8"),
    ],
)
def test_its_name_tells_what_is_varied_and_is_no_name_of_a_job_file(
    outputs: Outputs, options: dict[str, Any], name: str
) -> None:
    assert again.song(make(outputs), options).id == f"night/{name}"


def test_a_take_and_a_song_made_again_can_be_made_again(outputs: Outputs) -> None:
    made = make(outputs, replace(FIRST, song="night/rain.2"))
    assert again.song(made, {}, name="brighter").id == "night/rain.2.brighter"


@pytest.mark.parametrize("name", ["2", "a.b", "../b", "", "A"])
def test_a_name_that_could_be_anothers_is_refused(outputs: Outputs, name: str) -> None:
    made = make(outputs)
    with pytest.raises(SpecError, match="--name"):
        again.song(made, {}, name=name)


# ---------------------------------------------------------------- which song


def test_only_a_finished_song_can_be_made_again(outputs: Outputs) -> None:
    outputs.song("night/rain").new_attempt()
    with pytest.raises(OutputError, match="night/rain: is not finished"):
        again.find_made(outputs, "rain")
    with pytest.raises(RunnerError, match="did you mean night/rain"):
        again.find_made(outputs, "rian")


@pytest.mark.parametrize(
    "content",
    [
        {"schema": SCHEMA + 1},
        {"request": None},
        {"request": asdict(FIRST) | {"steps": "many"}},
        {"request": asdict(FIRST) | {"edit_spans": [[1]]}},
        {"request": asdict(FIRST) | {"edit_spans": [["a", "b"]]}},
        {"request": asdict(FIRST) | {"edit_spans": [3]}},
    ],
)
def test_a_manifest_that_is_none_of_ours_is_named(outputs: Outputs, content: dict[str, Any]) -> None:
    with pytest.raises(ForeignFileError, match=str(outputs.song("night/rain").manifest)):
        make(outputs, **content)


def test_an_option_that_cannot_be_is_refused_by_its_name(outputs: Outputs) -> None:
    made = make(outputs)
    with pytest.raises(SpecError, match=r"--fade-out: 31\.0 cannot be used"):
        again.song(made, {"fade_out": 31.0})


# ---------------------------------------------------------------- the two compared


@pytest.mark.parametrize(
    ("changes", "content", "words"),
    [
        ({}, {}, "the same sound as night/rain, sample for sample"),
        ({"seed": 8}, {"sound_sha256": "b"}, "another sound than night/rain: seed 7 → 8"),
        ({"fade_out": 2.0}, {"sound_sha256": "b"}, "another sound than night/rain: fade out none → 2"),
        ({}, {"sound_sha256": "b"}, "another sound than night/rain, for no known reason"),
        ({"threads": 4}, {"sound_sha256": "b", "versions": {}}, "threads 3 → 4, other versions"),
        ({}, {"sound_sha256": "b", "degraded": "4 steps instead of 8"}, "again has 4 steps instead of 8"),
        ({"checkpoint": "/c"}, {"sound_sha256": "b"}, "again was made in more than one attempt"),
        ({}, {"sound_sha256": None}, "night/rain.again: of a version that kept no digest"),
    ],
)
def test_it_is_said_whether_both_sound_the_same_and_why_not(
    outputs: Outputs, changes: dict[str, Any], content: dict[str, Any], words: str
) -> None:
    made = make(outputs)
    song = again.song(made, {})
    assert again.compared(made, outputs, song) is None
    make(outputs, replace(FIRST, song="night/rain.again", **changes), **content)
    line = again.compared(made, outputs, song)
    assert line is not None
    assert words in line
