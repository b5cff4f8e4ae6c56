"""How songs stand, from files that real processes could have left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from folders import (
    DEAD,
    add_attempt,
    beat_of,
    child,
    me,
    outputs_in,
    write_batch,
    write_failure,
    write_manifest,
)

from runner.files import write_json, write_message
from runner.messages import Batch, Cause, Heartbeat, Outcome, QueuedSong, SongState
from runner.songfolder import Outputs
from runner.status import (
    Ending,
    Facts,
    Health,
    Row,
    Survey,
    as_json,
    health_of,
    left_s,
    look,
    patience_s,
    show,
    state_of,
    survey,
    tries,
)
from runner.steplog import Step
from runner.words import remark, state_words

BEAT = replace(beat_of(DEAD), progress_mono=1000.0, alive_mono=1000.0, step_s=2.0)
DONE = {"state": "done"}
DEGRADED = {"state": "degraded"}
FAILED = {"state": "failed"}


def entry(state: SongState) -> QueuedSong:
    return QueuedSong("night/rain", state)


@pytest.mark.parametrize(
    ("facts", "parent_alive", "state"),
    [
        # The manifest says more than anything written before it …
        (Facts(entry("running"), manifest=DONE, newest=1), True, "done"),
        (Facts(entry("running"), manifest=DEGRADED, newest=1), False, "degraded"),
        (Facts(None, manifest=DONE), False, "done"),
        (Facts(entry("failed"), manifest=DONE, failure=FAILED), True, "done"),
        (Facts(entry("queued"), manifest=DONE), False, "done"),
        # … but a living parent that still wants to make the song knows that it is of another request.
        (Facts(entry("queued"), manifest=DONE, newest=1), True, "queued"),
        (Facts(entry("queued"), failure=FAILED, newest=4), True, "queued"),
        (Facts(entry("running"), failure=FAILED, newest=4), True, "failed"),
        (Facts(None, failure=FAILED, newest=4), False, "failed"),
        # A parent's word on what neither file tells.
        (Facts(entry("queued")), True, "queued"),
        (Facts(entry("running"), newest=1), True, "running"),
        (Facts(entry("interrupted"), newest=1), True, "interrupted"),
        (Facts(entry("interrupted"), newest=1), False, "interrupted"),
        (Facts(entry("failed")), False, "failed"),
        (Facts(entry("left")), False, "left"),
        # A dead parent's queue is not going to be made, and what it ran was cut off.
        (Facts(entry("queued")), False, "left"),
        (Facts(entry("queued"), newest=2), False, "interrupted"),
        (Facts(entry("running"), newest=1), False, "interrupted"),
        # A child that outlives its parent runs.
        (Facts(entry("running"), beat=BEAT, child_alive=True, newest=1), False, "running"),
        (Facts(None, beat=BEAT, child_alive=True, newest=1), False, "running"),
        (Facts(None, beat=BEAT, newest=1), False, "interrupted"),
        (Facts(None), False, "left"),
    ],
)
def test_a_song_stands_as_its_newest_word_says(facts: Facts, parent_alive: bool, state: SongState) -> None:
    assert state_of(facts, parent_alive=parent_alive) == state


ALIVE = Facts(entry("running"), beat=BEAT, child_alive=True, newest=1, open=True)


@pytest.mark.parametrize(
    ("facts", "state", "parent_alive", "quiet_s", "health"),
    [
        (ALIVE, "running", True, 0.0, "healthy"),
        (ALIVE, "running", True, 19.9, "healthy"),
        (replace(ALIVE, cpu_share=1.9), "running", True, 20.1, "slow"),
        (replace(ALIVE, cpu_share=0.0), "running", True, 20.1, "stalled"),
        (replace(ALIVE, cpu_share=None), "running", True, 20.1, "slow"),
        (replace(ALIVE, cpu_share=0.0), "running", True, 10_000.0, "stalled"),
        (ALIVE, "running", False, 0.0, "orphaned"),
        (replace(ALIVE, cpu_share=0.0), "running", False, 10_000.0, "orphaned"),
        (replace(ALIVE, child_alive=False), "running", True, 1.0, "gone"),
        (replace(ALIVE, child_alive=False), "interrupted", False, 1.0, "gone"),
        (replace(ALIVE, child_alive=False, beat=None), "interrupted", False, 1.0, "gone"),
        # Not begun to speak, or between two attempts: nothing to judge.
        (replace(ALIVE, child_alive=False, beat=None), "running", True, 1.0, None),
        (replace(ALIVE, child_alive=False, open=False), "running", True, 1.0, None),
        (replace(ALIVE, child_alive=False, open=False), "interrupted", False, 1.0, None),
        (replace(ALIVE, child_alive=False), "done", True, 1.0, None),
        (Facts(entry("queued")), "queued", True, 1.0, None),
    ],
)
def test_health_tells_working_waiting_and_dead_children_apart(
    facts: Facts, state: SongState, parent_alive: bool, quiet_s: float, health: Health | None
) -> None:
    now = 1000.0 + quiet_s
    assert health_of(facts, state, parent_alive=parent_alive, now_mono=now) == health


def test_patience_follows_the_songs_own_steps_and_the_phase() -> None:
    assert patience_s(replace(BEAT, step_s=2.0)) == 20.0
    assert patience_s(replace(BEAT, step_s=60.0)) == 180.0
    unmeasured = patience_s(replace(BEAT, step_s=None))
    assert unmeasured > patience_s(replace(BEAT, phase="lyrics", step_s=None)) > 20.0


# ---------------------------------------------------------------- real files and processes


def row(outputs: Outputs, song: str = "night/rain") -> Row:
    return next(row for row in look(outputs).rows if row.song == song)


@pytest.fixture
def outputs(tmp_path: Path) -> Outputs:
    return outputs_in(tmp_path)


def running(outputs: Outputs, beat: Heartbeat, **batch: Any) -> None:
    """night/rain with one attempt and this beat, in a batch of this process."""
    add_attempt(outputs.song("night/rain"))
    write_message(outputs.song("night/rain").heartbeat, beat)
    write_batch(outputs, [QueuedSong("night/rain", "running", attempt=1)], **batch)


def test_a_running_song_shows_its_beat(outputs: Outputs) -> None:
    running(outputs, beat_of(me(), note="bf16 on 2 threads", density=16, swap=2**30))
    found = row(outputs)
    assert (found.state, found.health, found.phase) == ("running", "healthy", "sample")
    assert (found.step, found.steps, found.asked, found.density) == (8, 32, 32, 16)
    assert (found.step_s, found.t, found.rss, found.swap) == (2.0, 0.25, 3 * 2**30, 2**30)
    assert found.note == "bf16 on 2 threads"
    assert found.eta_s is not None
    assert found.eta_s <= 48.0


def test_the_time_left_shrinks_between_beats(outputs: Outputs) -> None:
    beat = beat_of(me())
    running(outputs, replace(beat, progress_mono=beat.progress_mono - 10))
    found = survey(outputs, now_mono=beat.alive_mono, boot=beat.boot_id).rows[0]
    assert found.eta_s == pytest.approx(38.0)
    assert found.quiet_s == pytest.approx(10.0)


def test_a_child_that_computes_without_progress_is_slow(outputs: Outputs) -> None:
    with child("while True: pass") as who:
        beat = beat_of(who)
        running(outputs, replace(beat, progress_mono=beat.progress_mono - 100, alive_mono=beat.alive_mono))
        while _cpu_s(who.pid) < 0.1:
            time.sleep(0.01)
        found = row(outputs)
    assert found.health == "slow"
    assert found.eta_s is None


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_child_that_neither_computes_nor_progresses_is_stalled(outputs: Outputs) -> None:
    with child() as who:
        os.kill(who.pid, signal.SIGSTOP)
        time.sleep(0.05)
        beat = beat_of(who, cpu_s=_cpu_s(who.pid))
        running(outputs, replace(beat, progress_mono=beat.progress_mono - 100))
        assert row(outputs).health == "stalled"


def test_a_child_whose_parent_is_dead_is_orphaned(outputs: Outputs) -> None:
    running(outputs, beat_of(me()), parent=DEAD)
    found = row(outputs)
    assert (found.state, found.health) == ("running", "orphaned")


def test_a_dead_child_of_a_living_parent_is_gone_with_its_last_step(outputs: Outputs) -> None:
    running(outputs, beat_of(DEAD))
    found = row(outputs)
    assert (found.state, found.health, found.step) == ("running", "gone", 8)


def test_after_parent_and_child_died_a_song_is_interrupted(outputs: Outputs) -> None:
    running(outputs, beat_of(DEAD), parent=DEAD)
    found = row(outputs)
    assert (found.state, found.health, found.phase) == ("interrupted", "gone", None)


def test_a_beat_of_another_boot_is_a_dead_childs_even_if_its_pid_lives(outputs: Outputs) -> None:
    running(outputs, beat_of(me()), parent=DEAD)
    after_boot = survey(outputs, now_mono=5.0, boot="the next boot")
    assert after_boot.rows[0].state == "interrupted"


def test_a_parent_whose_pid_was_taken_by_another_is_dead(outputs: Outputs) -> None:
    write_batch(outputs, [entry("queued")], parent=replace(me(), started=me().started + 1))
    assert not look(outputs).parent_alive
    assert row(outputs).state == "left"


def test_a_parent_of_another_boot_is_dead(outputs: Outputs) -> None:
    write_batch(outputs, [entry("queued")])
    assert not survey(outputs, now_mono=5.0, boot="the next boot").parent_alive


def test_a_finished_batch_does_not_run_though_its_process_lives(outputs: Outputs) -> None:
    write_batch(outputs, [entry("left")], finished=True)
    assert not look(outputs).parent_alive


def test_the_beat_of_the_last_attempt_does_not_speak_for_the_new_one(outputs: Outputs) -> None:
    song = outputs.song("night/rain")
    add_attempt(song, "timeout", "not finished within 40 min")
    running(outputs, beat_of(me(), attempt=1))
    found = row(outputs)
    assert (found.state, found.health, found.phase, found.attempt) == ("running", None, None, 2)
    assert found.ended == (Ending(1, "timeout", "not finished within 40 min", 32, 60.0),)
    assert found.why == "not finished within 40 min"


def test_retries_count_neither_interruptions_nor_lost_attempts(outputs: Outputs) -> None:
    song = outputs.song("night/rain")
    add_attempt(song, "timeout", "late")
    add_attempt(song, "interrupted", "stopped")
    add_attempt(song)  # lost: no outcome, and yet another attempt after it
    add_attempt(song, "crash", "died of SIGSEGV")
    add_attempt(song)
    write_batch(outputs, [entry("running")])
    found = row(outputs)
    assert (found.attempt, found.retries) == (5, 2)
    assert [end.cause for end in found.ended] == ["timeout", "interrupted", "lost", "crash"]


def test_the_last_of_four_failed_attempts_was_the_third_retry(outputs: Outputs) -> None:
    for _ in range(4):
        add_attempt(outputs.song("night/rain"), "timeout", "late")
    write_batch(outputs, [entry("failed")], finished=True)
    assert row(outputs).retries == 3


def test_attempts_at_an_earlier_request_are_not_told(outputs: Outputs) -> None:
    song = outputs.song("night/rain")
    add_attempt(song, "timeout", "long ago")
    add_attempt(song, "crash", "of now", series=2)
    add_attempt(song, series=2)
    write_batch(outputs, [entry("running")])
    assert [end.message for end in row(outputs).ended] == ["of now"]


def test_a_done_song_names_its_file_and_its_time(outputs: Outputs) -> None:
    song = outputs.song("night/rain")
    add_attempt(song, "timeout", "late")
    write_message(add_attempt(song).outcome, Outcome(2, None, ""))
    write_manifest(song, state="degraded", degraded="16 steps instead of 32")
    write_batch(outputs, [entry("degraded")], finished=True)
    found = row(outputs)
    assert (found.state, found.note, found.seconds) == ("degraded", "16 steps instead of 32", 734.5)
    assert found.file == str(song.audio("wav"))
    assert found.retries == 1


def test_a_manifest_of_an_earlier_making_does_not_hide_the_new_one(outputs: Outputs) -> None:
    song = outputs.song("night/rain")
    add_attempt(song)
    write_manifest(song, series=1)
    add_attempt(song, series=2)
    write_batch(outputs, [entry("running")], parent=DEAD)
    assert row(outputs).state == "interrupted"


def test_a_failed_song_says_why(outputs: Outputs) -> None:
    song = outputs.song("night/rain")
    add_attempt(song, "timeout", "not finished within 40 min")
    write_failure(song, "not finished within 40 min (in phase sample)")
    write_batch(outputs, [entry("failed")], finished=True)
    found = row(outputs)
    assert (found.state, found.why) == ("failed", "not finished within 40 min (in phase sample)")
    assert found.seconds == 60.0


def test_songs_of_earlier_runs_come_after_those_of_the_batch(outputs: Outputs) -> None:
    write_manifest(outputs.song("monday/old"))
    add_attempt(outputs.song("monday/cut"), "interrupted", "stopped")
    write_batch(outputs, [QueuedSong("night/b", "queued"), QueuedSong("night/a", "queued")])
    found = [(row.song, row.state, row.earlier) for row in look(outputs).rows]
    assert found == [
        ("night/b", "queued", False),
        ("night/a", "queued", False),
        ("monday/cut", "interrupted", True),
        ("monday/old", "done", True),
    ]
    assert [row.song for row in look(outputs, earlier=False).rows] == ["night/b", "night/a"]


TORN = '{"schema": 1, "se'


@pytest.mark.parametrize("name", ["heartbeat.json", "song.json", "failed.json"])
@pytest.mark.parametrize("content", [TORN, '{"schema": 99}', "[]"])
def test_an_unreadable_file_is_named_and_the_rest_goes_on(outputs: Outputs, name: str, content: str) -> None:
    running(outputs, beat_of(me()))
    bad = outputs.song("night/rain").folder / name
    bad.write_text(content)
    write_manifest(outputs.song("monday/old"))
    whole = look(outputs)
    assert [row.state for row in whole.rows] == ["running", "done"]
    assert len(whole.problems) == 1
    assert str(bad) in whole.problems[0]


@pytest.mark.parametrize("content", [TORN, '{"schema": 99}', "[]", '{"schema": 1, "songs": ["x"]}'])
def test_without_a_readable_batch_the_folders_still_speak(outputs: Outputs, content: str) -> None:
    write_manifest(outputs.song("monday/old"))
    outputs.batch.write_text(content)
    whole = look(outputs)
    assert [row.state for row in whole.rows] == ["done"]
    assert whole.batch is None
    assert str(outputs.batch) in whole.problems[0]


def test_a_batch_that_names_songs_outside_of_its_folder_is_told_without_them(outputs: Outputs) -> None:
    elsewhere = Outputs(outputs.folder.parent / "elsewhere").song("night/rain")
    elsewhere.folder.mkdir(parents=True)
    write_manifest(elsewhere)
    write_batch(outputs, [entry("queued"), QueuedSong("../elsewhere/night/rain", "done")])
    whole = look(outputs)
    assert [row.song for row in whole.rows] == ["night/rain"]
    assert "names songs that are none" in whole.problems[0]


def test_a_song_between_its_outcome_and_its_manifest_is_finishing(outputs: Outputs) -> None:
    running(outputs, beat_of(DEAD, phase="write"))
    song = outputs.song("night/rain")
    assert row(outputs).made is False
    write_message(song.attempts()[-1].outcome, Outcome(1, None, "made"))
    found = row(outputs)
    assert (found.state, found.health, found.made, state_words(found)) == ("running", None, True, "finishing")
    write_manifest(song)
    assert (row(outputs).state, row(outputs).made) == ("done", False)


def test_a_running_song_tells_its_phases_its_pace_and_its_ceiling(outputs: Outputs) -> None:
    beat = beat_of(me())
    add_attempt(outputs.song("night/rain"), attempts=4, memory_bytes=8 * 10**9)
    told = replace(
        beat,
        private=2 * 10**9,
        phase_mono=beat.alive_mono - 30,
        spent_s={"load": 4.0, "style": 2.0},
        paces_s=[2.0, 2.5],
        fastest_s=1.5,
    )
    write_message(outputs.song("night/rain").heartbeat, told)
    write_batch(outputs, [replace(entry("running"), duration=95.0)])
    found = survey(outputs, now_mono=beat.alive_mono, boot=beat.boot_id).rows[0]
    assert found.spent_s == {"load": 4.0, "style": 2.0, "sample": 30.0}
    assert found.elapsed_s == 36.0
    assert (found.paces_s, found.fastest_s) == ((2.0, 2.5), 1.5)
    assert (found.private, found.ceiling, found.duration) == (2 * 10**9, 8 * 10**9, 95.0)
    assert (found.tries, found.allowed) == (1, 4)


def test_times_that_a_damaged_beat_tells_are_left_out(outputs: Outputs) -> None:
    beat = asdict(beat_of(me())) | {
        "phase_mono": -1.7e308,
        "spent_s": {"sample": 1.7e308, "load": "x", "style": True, "dance": 1.0, "write": -1.0},
        "paces_s": [1.0, "2", None, True, -1.0, [3.0], 10**400, *range(100)],
        "fastest_s": -5,
    }
    add_attempt(outputs.song("night/rain"))
    text = json.dumps(beat)
    outputs.song("night/rain").heartbeat.write_text(text)
    write_batch(outputs, [entry("running")])
    found = row(outputs)
    assert set(found.spent_s) == {"sample"}
    assert found.paces_s == tuple(map(float, range(84, 100)))
    json.dumps(as_json(look(outputs)), allow_nan=False)


@pytest.mark.parametrize(
    ("causes", "tries"),
    [
        ([], 1),
        (["timeout"], 2),
        (["timeout", "crash"], 3),
        (["swap-thrash", "timeout"], 2),  # each family has its own
        (["swap-thrash", "out-of-memory", "timeout"], 3),
        (["interrupted", "lost", "no-disk"], 1),
        (["timeout"] * 6, 4),
    ],
)
def test_tries_are_counted_as_they_are_allowed(outputs: Outputs, causes: list[Cause], tries: int) -> None:
    song = outputs.song("night/rain")
    for cause in causes:
        add_attempt(song, cause, "so it was", attempts=4)
    add_attempt(song, attempts=4)
    write_batch(outputs, [entry("running")])
    assert (row(outputs).tries, row(outputs).allowed) == (tries, 4)


def test_of_each_attempt_its_steps_are_told_and_torn_lines_passed_over(outputs: Outputs) -> None:
    song = outputs.song("night/rain")
    first = add_attempt(song, "timeout", "late")
    first.steps.write_text('{"step": 1, "steps": 32, "t": 0.1, "seconds": 2.5}\n{"step": 2, "st')
    add_attempt(song)
    write_batch(outputs, [entry("running")])
    found = tries(song, row(outputs))
    assert [each.attempt for each in found] == [1, 2]
    assert found[0].steps == (Step(1, 32, 0.1, 2.5),)
    assert (found[0].ended, found[1].ended) == (row(outputs).ended[0], None)
    assert found[1].log == song.attempts()[1].log


# ---------------------------------------------------------------- the whole batch

MADE = Row("a/made", "done", seconds=120.0, attempt=1)
RUNS = Row("a/runs", "running", elapsed_s=20.0, eta_s=40.0, attempt=1)
WAITS = Row("a/waits", "queued")


def left(*rows: Row, workers: int = 1, alive: bool = True, stopping: bool = False) -> float | None:
    batch = Batch(1, 1, "b", 0.0, None, workers, [], stopping=stopping)
    return left_s(Survey(batch, alive, rows, (), 0.0))


@pytest.mark.parametrize(
    ("rows", "workers", "seconds"),
    [
        ([RUNS], 1, 40.0),
        ([RUNS, WAITS], 1, 40.0 + 60.0),
        ([RUNS, WAITS], 2, 60.0),
        ([MADE, WAITS], 1, 120.0),
        ([MADE, WAITS, WAITS, WAITS], 2, 240.0),
        ([MADE, RUNS, WAITS], 1, 40.0 + 90.0),
        # By the sound: a minute of it took two.
        ([replace(MADE, duration=60.0), replace(WAITS, duration=30.0)], 1, 60.0),
        # What is not measured yet takes as long as the others.
        ([MADE, Row("a/b", "running")], 1, 120.0),
        ([MADE, replace(RUNS, elapsed_s=None, eta_s=None), WAITS], 1, 240.0),
        # With what earlier attempts took.
        ([replace(RUNS, ended=(Ending(1, "timeout", "", elapsed_s=60.0),)), WAITS], 1, 40.0 + 120.0),
        # Nothing is measured, or nothing is left.
        ([WAITS], 1, None),
        ([Row("a/b", "running"), WAITS], 1, None),
        ([MADE], 1, None),
        ([MADE, Row("a/b", "failed")], 1, None),
        ([], 1, None),
        ([replace(MADE, seconds=1.7e308), WAITS, WAITS], 1, None),
        ([MADE, WAITS], 0, None),
    ],
)
def test_a_batch_is_over_when_what_waits_has_had_its_place(
    rows: list[Row], workers: int, seconds: float | None
) -> None:
    assert left(*rows, workers=workers) == seconds


def test_a_batch_that_ends_otherwise_says_not_when() -> None:
    assert left(RUNS, stopping=True) is None
    assert left(RUNS, alive=False) is None


def test_a_torn_outcome_leaves_the_attempts_told(outputs: Outputs) -> None:
    attempt = add_attempt(outputs.song("night/rain"))
    attempt.outcome.write_text(TORN)
    attempt.request.write_text(TORN)
    write_batch(outputs, [entry("running")])
    assert row(outputs).attempt == 1
    assert len(look(outputs).problems) == 2


@pytest.mark.parametrize("seconds", ["12", -1, None, True, [1]])
def test_odd_numbers_in_a_manifest_are_left_out(outputs: Outputs, seconds: object) -> None:
    write_manifest(outputs.song("a/b"), seconds=seconds, file=7, degraded=["x"], request=None)
    found = row(outputs, "a/b")
    assert (found.state, found.file, found.note) == ("done", None, "")
    assert found.seconds in (None, 1.0)


def test_json_holds_every_key_and_only_json(outputs: Outputs, capsys: pytest.CaptureFixture[str]) -> None:
    running(outputs, beat_of(me()))
    write_json(outputs.song("night/rain").folder / "other.json", {})
    assert show(outputs, json=True) == 0
    printed = capsys.readouterr()
    told = json.loads(printed.out, parse_constant=lambda name: pytest.fail(name))
    assert printed.err == ""
    assert set(told) == {"schema", "taken_wall", "batch", "memory", "songs", "problems"}
    assert told["memory"]["available"] > 0
    assert told["schema"] == 1
    assert told["batch"]["parent_alive"] is True
    assert set(told["songs"][0]) == set(Row.__dataclass_fields__)
    assert told["songs"][0]["health"] == "healthy"


def test_json_of_no_batch_is_whole_too() -> None:
    empty = Survey(None, False, (Row("a/b", "left"),), ("x: torn",), 5.0)
    assert as_json(empty) == {
        "schema": 1,
        "taken_wall": 5.0,
        "batch": None,
        "memory": {"available": None, "swapped": None},
        "songs": [asdict(Row("a/b", "left"))],
        "problems": ["x: torn"],
    }


def test_showing_one_song_prints_that_one(outputs: Outputs, capsys: pytest.CaptureFixture[str]) -> None:
    write_manifest(outputs.song("a/rain"))
    write_manifest(outputs.song("a/snow"))
    assert show(outputs, json=True, song="snow") == 0
    assert [song["song"] for song in json.loads(capsys.readouterr().out)["songs"]] == ["a/snow"]
    assert show(outputs, song="snow") == 0
    assert "a/rain" not in capsys.readouterr().out


def test_nothing_to_show_and_an_unknown_song_are_1_and_say_so(
    outputs: Outputs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert show(Outputs(tmp_path / "nowhere")) == 1
    assert "nothing here yet" in capsys.readouterr().err
    assert show(Outputs(tmp_path / "no\x1b[2Jwhere\n")) == 1
    printed = capsys.readouterr()
    assert printed.err.rstrip("\n").isprintable()
    write_manifest(outputs.song("a/rain"))
    assert show(outputs, json=True, song="rian") == 1
    printed = capsys.readouterr()
    assert "did you mean a/rain?" in printed.err
    assert printed.out == ""


WATCH = """
import sys
from pathlib import Path
from runner.songfolder import Outputs
from runner.status import show
"""


def test_a_watch_ends_with_the_batch(outputs: Outputs) -> None:
    write_batch(outputs, [entry("queued")])
    code = f"{WATCH}sys.exit(show(Outputs(Path(sys.argv[1])), watch=True, json=True))"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(outputs.folder)], stdout=subprocess.PIPE, text=True
    ) as watch:
        assert watch.stdout is not None
        first = json.loads(watch.stdout.readline())
        write_batch(outputs, [entry("left")], finished=True)
        rest = watch.stdout.read().splitlines()
    assert first["songs"][0]["state"] == "queued"
    assert json.loads(rest[-1])["songs"][0]["state"] == "left"
    assert watch.returncode == 0


def test_a_watch_ends_with_ctrl_c(outputs: Outputs) -> None:
    write_batch(outputs, [entry("queued")])
    code = f"{WATCH}sys.exit(show(Outputs(Path(sys.argv[1])), watch=True))"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(outputs.folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as watch:
        assert watch.stdout is not None
        assert watch.stderr is not None
        assert "1 queued" in watch.stdout.readline()
        watch.send_signal(signal.SIGINT)
        assert watch.stderr.read() == ""
    assert watch.returncode == 130


def test_looking_loads_no_heavy_library() -> None:
    code = (
        "import sys, runner.status, runner.view, runner.logs, runner.stop\n"
        "print({'torch', 'numpy', 'pydantic', 'yaml', 'typer'} & set(sys.modules))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "set()"


@pytest.mark.parametrize(
    "song",
    ["../../elsewhere", "/etc/x", "night/..", "night//rain", "night", "a\0b/c", "x" * 300 + "/y", "n/\ud800"],
)
def test_a_batch_that_names_what_is_no_song_is_told_without(outputs: Outputs, song: str) -> None:
    write_manifest(outputs.song("monday/old"))
    write_batch(outputs, [QueuedSong(song, "running")])
    whole = look(outputs)
    assert [row.song for row in whole.rows] == ["monday/old"]
    assert "names songs that are none" in whole.problems[0]


def test_times_that_no_clock_shows_are_shown_as_unknown(
    outputs: Outputs, capsys: pytest.CaptureFixture[str]
) -> None:
    write_batch(outputs, [entry("queued")])
    content = json.loads(outputs.batch.read_text()) | {"started_wall": 1e308}
    write_json(outputs.batch, content)
    assert show(outputs) == 0
    assert "since ?, " in capsys.readouterr().out


def test_the_seconds_of_all_attempts_are_a_number_of_json(outputs: Outputs) -> None:
    song = outputs.song("night/rain")
    for _ in range(2):
        attempt = add_attempt(song)
        write_message(attempt.outcome, Outcome(attempt.number, "timeout", "", elapsed_s=1.7e308))
    json.dumps(as_json(look(outputs)), allow_nan=False)


def test_a_song_that_goes_on_and_waits_for_room_is_not_told_as_dead(outputs: Outputs) -> None:
    """Its last attempt was lost with its parent: there is a beat of a dead child, and no outcome."""
    song = outputs.song("night/rain")
    add_attempt(song)
    write_message(song.heartbeat, replace(BEAT, attempt=1))
    write_batch(outputs, [replace(entry("running"), note="waits for memory: 4.0 GB needed, 2.0 GB free")])
    (row,) = look(outputs).rows
    assert (row.state, row.phase, row.health) == ("running", None, None)
    assert remark(row) == "waits for memory: 4.0 GB needed, 2.0 GB free"
