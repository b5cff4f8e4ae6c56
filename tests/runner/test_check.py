"""The check before a batch: the real child with real lyrics and bundle, and children that go wrong."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from diffrhythm import bundle, tuning
from runner.check import check
from runner.errors import CheckError, SpecError
from runner.processes import identity
from runner.spec import Song, load
from tests.faults import batches

SONG = {"duration": 4.0, "steps": 8}
JOB_FILE = """\
model: demo
defaults:
  duration: 4
  style: pop
songs:
  - name: block
    lyrics: |
      [00:01.00]low tide
      [00:xx]torn
  - name: file
    lyrics: torn.lrc
  - name: long
    duration: 2000
    lyrics: "[00:00.00]fine"
  - name: model
    takes: 2
    steps: 4
  - name: sampler
    sampler: eular
"""


def song(lyrics: str | None = "[00:00.00]low tide\n", **changes: Any) -> Song:
    return replace(batches.job("", duration=4.0).song, **{"lyrics": lyrics, **changes})


def child(code: str) -> list[str]:
    """A child that finds the questions in `paper`."""
    head = "import json, sys, time; from pathlib import Path; paper = Path(sys.argv[1])\n"
    return [sys.executable, "-c", head + code]


def answering(*answers: dict[str, Any]) -> list[str]:
    """A child that has these answers to everything."""
    return child(
        f"asked = json.loads(paper.read_text()) | {{'answers': {list(answers)}}}\n"
        "paper.write_text(json.dumps(asked))"
    )


# ---------------------------------------------------------------- the real child


def test_every_problem_of_every_song_is_told_at_its_place(tmp_path: Path) -> None:
    file = tmp_path / "night.yaml"
    file.write_text(JOB_FILE)
    (tmp_path / "torn.lrc").write_text("[00:00.00]fine\n\n[00:xx]torn\n")
    with pytest.raises(SpecError) as caught:
        check(load([file]))
    places = [str(problem).partition(": ")[0] for problem in caught.value.problems]
    lyrics_of_block, lyrics_of_file, long, sampler = f"{file}:9", tmp_path / "torn.lrc", 12, 18
    assert places == [lyrics_of_block, f"{lyrics_of_file}:3", f"{file}:{long}:1", f"{file}:{sampler}:1"]
    assert caught.value.exit_code == 2


def test_a_tuned_model_gives_its_grid_to_songs_of_as_many_steps_that_name_no_solver(tmp_path: Path) -> None:
    folder = shutil.copytree(bundle.DEMO, tmp_path / "tuned")
    grid = tuning.Grid(points=[0, 0.1, 0.4, 1], error=0.1, swayed_error=0.2)
    found = tuning.Tuning(
        model=bundle.load(folder).hash,
        precision="fp32",
        cfg=3.0,
        songs=1,
        reference_steps=64,
        grids=[grid],
        int8=None,
    )
    (folder / tuning.FILE).write_text(found.model_dump_json(by_alias=True))
    model = str(folder)
    tuned, other, named, stronger = check(
        [
            song(name="tuned", model=model, steps=3),
            song(name="other", model=model, steps=4),
            song(name="named", model=model, steps=3, sampler="sway"),
            song(name="stronger", model=model, steps=3, cfg=4.0),
        ]
    )
    assert tuned.grid == grid.points
    assert tuned.choice.endswith("on a grid tuned to the model")
    assert (other.grid, named.grid, stronger.grid) == (None, None, None)
    (folder / tuning.FILE).write_text("{")
    with pytest.raises(SpecError, match="tune again"):
        check([song(model=model)])


def test_answers_come_in_order_with_everything_decided() -> None:
    plain, asked = check([song(name="plain"), song(name="asked", steps=5, cfg=2.0, precision="fp32")])
    assert (plain.song, asked.song) == ("night/plain", "night/asked")
    assert (asked.steps, asked.cfg, asked.precision, asked.duration) == (5, 2.0, "fp32", 4.0)
    assert plain.steps > 0
    assert plain.choice.startswith("12 steps, guidance 3 (preset auto: standard, ")
    assert plain.demo
    assert len(plain.model_hash) >= 8
    assert plain.model_hash == asked.model_hash


def test_a_song_to_be_made_again_by_a_model_that_has_changed_is_warned_of_it() -> None:
    same, other = check(
        [song(name="same", model_hash=bundle.load("demo").hash), song(name="other", model_hash="0" * 64)]
    )
    assert same.warnings == []
    assert other.warnings == [
        "demo: its files have changed since the first one was made; this will be another song"
    ]


def test_lines_are_told_where_they_are_asked_for() -> None:
    (answer,) = check([song(lyrics="[00:00.00]low tide\n[00:03.99]high\n[00:05.00]no\n")], lines=True)
    assert [(line.number, line.text, line.frame) for line in answer.lines] == [
        (1, "low tide", 0),
        (2, "high", 85),
        (3, "no", None),
    ]
    assert (answer.lines[0].has, answer.lines[0].sounds) == (85, ["l", "oʊ", "t", "aɪ", "d"])
    assert answer.lines[1].lost > 0
    assert check([song()])[0].lines == []


# ---------------------------------------------------------------- children that go wrong


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("print('no such library', file=sys.stderr); sys.exit(3)", "ended with exit code 3: no such library"),
        ("sys.exit(1)", "ended with exit code 1: it said nothing"),
        ("import os; os.kill(os.getpid(), 11)", "ended with exit code -11"),
        ("paper.write_text('{')", "left no answer"),
        ("paper.write_text('{}')", "left no answer"),
        ("paper.unlink()", "left no answer"),
        ("pass", "answered for other songs"),
    ],
)
def test_a_child_that_goes_wrong_is_told_in_one_line_with_what_to_do(code: str, words: str) -> None:
    with pytest.raises(CheckError) as caught:
        check([song()], worker=child(code))
    assert words in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert "again" in str(caught.value)
    assert caught.value.exit_code == 1


def test_answers_for_other_songs_are_not_taken() -> None:
    with pytest.raises(CheckError, match="answered for other songs"):
        check([song()], worker=answering({"song": "a/b", "problems": [], "warnings": []}))


def test_warnings_come_with_the_answer_and_stop_nothing() -> None:
    told = {"song": "night/song", "problems": [], "warnings": ["a.lrc:9: after the end"]} | SONG
    (answer,) = check([song()], worker=answering(told))
    assert answer.warnings == ["a.lrc:9: after the end"]


@pytest.mark.parametrize("wrong", [{"duration": 0}, {"duration": -1.0}, {"steps": 0}, {"steps": -8}])
def test_an_answer_of_no_duration_or_no_steps_is_not_taken(wrong: dict[str, Any]) -> None:
    told = {"song": "night/song", "problems": [], "warnings": []} | SONG | wrong
    with pytest.raises(CheckError, match=r"night/song: .*which is no song; mend the engine"):
        check([song()], worker=answering(told))


def test_how_many_gpus_a_song_is_made_on_may_be_told() -> None:
    told = {"song": "night/song", "problems": [], "warnings": []} | SONG
    answers = [check([song()], worker=answering(told | more))[0] for more in ({}, {"gpus": 2})]
    assert [answer.gpus for answer in answers] == [0, 2]
    with pytest.raises(CheckError, match=r"night/song: .*gpus: -1.*; mend the engine"):
        check([song()], worker=answering(told | {"gpus": -1}))


def test_a_child_that_hangs_is_killed_after_its_time(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    hangs = f"import os; Path({str(pid)!r}).write_text(str(os.getpid())); time.sleep(600)"
    with pytest.raises(CheckError, match="took longer than 6 s; see whether the disk is well"):
        check([song()], worker=child(hangs), timeout_s=6.0)
    assert identity(int(pid.read_text())) is None


def test_problems_of_one_file_are_told_once_though_two_songs_have_them(tmp_path: Path) -> None:
    """Two takes of one song have the same lyrics, and the same slip in them."""
    answer = {"problems": ["a.lrc:3: torn"], "warnings": []}
    songs = [song(name=name, path=tmp_path / "night.yaml", lyrics_source="a.lrc") for name in ("a", "b")]
    with pytest.raises(SpecError) as caught:
        check(songs, worker=answering(*({"song": each.id, **answer} for each in songs)))
    assert str(caught.value) == "a.lrc:3: torn"


def test_a_problem_without_a_place_is_told_at_the_songs_own(tmp_path: Path) -> None:
    answer = {"song": "night/song", "problems": ["too long: duration: give less"], "warnings": []}
    for path, words in [(None, ""), (tmp_path / "night.yaml", f"{tmp_path / 'night.yaml'}:7:1: ")]:
        with pytest.raises(SpecError) as caught:
            check([song(path=path, line=7)], worker=answering(answer))
        assert str(caught.value) == f"{words}too long: duration: give less"


def test_what_the_child_has_for_the_user_is_passed_on_while_it_works() -> None:
    said: list[str] = []
    worker = child(
        "print('note: measuring', flush=True); print('for the log'); print('note: again'); time.sleep(0.5)\n"
        "asked = json.loads(paper.read_text()) | {'answers': [ANSWER]}; paper.write_text(json.dumps(asked))"
    )
    answer = {"song": song().id, "problems": [], "warnings": [], "duration": 4.0, "steps": 8}
    worker[-1] = worker[-1].replace("ANSWER", repr(answer))
    (found,) = check([song()], worker=worker, say=said.append)
    assert found.duration == 4.0
    assert said == ["measuring", "again"]


def test_a_child_that_talks_and_never_ends_is_ended_as_one_that_is_silent() -> None:
    talks = child("print('note: on it', flush=True); time.sleep(60)")
    said: list[str] = []
    with pytest.raises(CheckError, match="longer than 1 s"):
        check([song()], worker=talks, timeout_s=1.0, say=said.append)
    assert said == ["on it"]
