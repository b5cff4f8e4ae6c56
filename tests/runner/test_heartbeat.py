"""Beats: what a child says, and whether it still lives."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from runner import heartbeat
from runner.files import read_message, write_json, write_message
from runner.heartbeat import NoBeat, Pulse, own_usage, read, relay, sender, sender_lives
from runner.messages import Heartbeat
from runner.processes import Identity


def beat_in(path: Path) -> Heartbeat:
    beat = read(path)
    assert isinstance(beat, Heartbeat)
    return beat


@pytest.fixture
def pulse(tmp_path: Path) -> Pulse:
    return Pulse(tmp_path / "beat", song="night/rain", attempt=1, density=32)


def test_the_first_beat_is_there_as_soon_as_the_pulse_is(tmp_path: Path, pulse: Pulse) -> None:
    beat = beat_in(tmp_path / "beat")
    assert (beat.song, beat.attempt, beat.phase, beat.density) == ("night/rain", 1, "load", 32)
    assert sender(beat).pid == os.getpid()
    assert beat.rss > 0


def test_progress_moves_its_clock_and_keeps_what_was_said(tmp_path: Path, pulse: Pulse) -> None:
    before = beat_in(tmp_path / "beat")
    pulse.progress(phase="sample", step=1, steps=32, step_s=1.5)
    pulse.progress(step=2)
    after = beat_in(tmp_path / "beat")
    assert (after.phase, after.step, after.steps, after.step_s) == ("sample", 2, 32, 1.5)
    assert after.seq == before.seq + 2
    assert after.progress_mono > before.progress_mono


def test_phases_are_told_by_their_time_and_begin_with_no_pace(tmp_path: Path, pulse: Pulse) -> None:
    first = pulse.progress()
    assert (first.phase, first.spent_s) == ("load", {})
    sampled = pulse.progress(phase="sample", step=1, paces_s=[2.0], fastest_s=2.0)
    again = pulse.progress(phase="sample", step=2)
    assert (again.paces_s, again.fastest_s, again.phase_mono) == ([2.0], 2.0, sampled.phase_mono)
    decoded = pulse.progress(phase="decode")
    assert (decoded.paces_s, decoded.fastest_s) == ([], None)
    assert list(decoded.spent_s) == ["load", "sample"]
    assert decoded.spent_s["load"] == pytest.approx(sampled.phase_mono - first.phase_mono)
    assert sum(decoded.spent_s.values()) == pytest.approx(decoded.phase_mono - first.phase_mono)
    back = pulse.progress(phase="load")
    ended = pulse.progress(phase="write")
    assert ended.spent_s["load"] == pytest.approx(
        decoded.spent_s["load"] + ended.phase_mono - back.phase_mono
    )


def test_alive_beats_go_on_without_progress(
    tmp_path: Path, pulse: Pulse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "ALIVE_EVERY_S", 0.01)
    before = pulse.progress(step=5)
    pulse.start()
    while (after := beat_in(tmp_path / "beat")).seq < before.seq + 3:
        time.sleep(0.01)
    assert after.alive_mono > before.alive_mono
    assert after.progress_mono == before.progress_mono
    assert after.step == 5


def test_numbers_that_are_not_finite_go_out_as_none(tmp_path: Path, pulse: Pulse) -> None:
    pulse.progress(latent_std=math.nan, eta_s=math.inf, t=0.25)
    pulse.progress(step=2)
    beat = beat_in(tmp_path / "beat")
    assert (beat.latent_std, beat.eta_s, beat.t, beat.step) == (None, None, 0.25, 2)


def test_progress_tells_its_caller_of_a_disk_that_takes_nothing(tmp_path: Path, pulse: Pulse) -> None:
    (tmp_path / "beat").unlink()
    (tmp_path / "beat").mkdir()
    with pytest.raises(OSError, match="beat"):
        pulse.progress(step=1)


def test_no_beat_says_why(tmp_path: Path) -> None:
    path = tmp_path / "beat"
    assert read(path) == NoBeat("no heartbeat yet")
    path.write_text('{"schema": 1, "seq"')
    assert str(path) in _reason(read(path))
    write_json(path, {"schema": 9})
    assert "schema 9" in _reason(read(path))
    path.unlink()
    path.mkdir()
    assert str(path) in _reason(read(path))


def _reason(beat: Heartbeat | NoBeat) -> str:
    assert isinstance(beat, NoBeat)
    return beat.reason


def test_the_sender_lives_until_it_is_dead_even_if_its_pid_is_taken(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib, runner.heartbeat as h;"
        "h.Pulse(pathlib.Path(sys.argv[1]), song='a/b', attempt=1, density=1); print(); sys.stdin.read()"
    )
    path = tmp_path / "beat"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        beat = beat_in(path)
        assert beat.pid == child.pid
        assert sender_lives(beat)
        assert not sender_lives(replace(beat, pid_started=beat.pid_started + 1))
        assert not sender_lives(replace(beat, boot_id="of another boot"))
        child.kill()
        child.wait()
        assert not sender_lives(beat)


def test_usage_grows_with_work() -> None:
    before = own_usage()
    while own_usage().cpu_s < before.cpu_s + 0.05:
        sum(range(10_000))
    assert own_usage().rss > 2**20


def test_a_beat_survives_its_way_through_a_file(tmp_path: Path, pulse: Pulse) -> None:
    beat = pulse.progress(note="bf16 on 2 threads — schnell")
    write_message(tmp_path / "copy", beat)
    assert read_message(tmp_path / "copy", Heartbeat) == beat


def test_a_beat_of_another_machine_is_heard_by_the_clock_of_this_one(tmp_path: Path, pulse: Pulse) -> None:
    there = replace(pulse.progress(), alive_mono=9e6, progress_mono=9e6 - 40, phase_mono=9e6 - 100)
    write_message(tmp_path / "beat", there)
    before, me = time.monotonic(), Identity(1, 2, "here")
    relay(tmp_path / "beat", me)
    here = beat_in(tmp_path / "beat")
    assert sender(here) == me
    assert before <= here.alive_mono <= time.monotonic()
    assert here.alive_mono - here.progress_mono == pytest.approx(40)
    assert here.alive_mono - here.phase_mono == pytest.approx(100)


@pytest.mark.parametrize("wrong", [10**308, -(10**308), 1.7e308, -1.7e308])
def test_a_beat_whose_clock_is_wrong_can_be_heard(tmp_path: Path, pulse: Pulse, wrong: float) -> None:
    beat = replace(pulse.progress(), alive_mono=-wrong, progress_mono=wrong, phase_mono=wrong)
    write_message(tmp_path / "beat", beat)
    relay(tmp_path / "beat", Identity(1, 2, "here"))
    assert beat_in(tmp_path / "beat").progress_mono <= time.monotonic()
