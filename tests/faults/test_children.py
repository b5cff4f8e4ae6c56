"""Every way in which a child can go wrong, on real processes: the song ends once and nothing is left."""

from __future__ import annotations

import resource
import signal
from pathlib import Path

import pytest

from runner import processes
from runner.files import read_json
from runner.songfolder import Outputs, SongFolder
from tests.faults.batches import (
    Parent,
    alive,
    causes,
    child_of,
    densities,
    job,
    outcomes,
    state,
    survivors,
    torn,
    wait_for,
)


@pytest.fixture
def folder(tmp_path: Path) -> SongFolder:
    return Outputs(tmp_path / "outputs").song("night/song")


@pytest.mark.parametrize(
    ("script", "expected_state", "expected_causes"),
    [
        ("steps 4 0.01", "done", [None]),
        ("only 1\nsteps 4 0.01\nfreeze", "degraded", ["stalled", None]),
        ("only 1\nsteps 4 0.01\nhang", "degraded", ["stalled", None]),
        ("only 1\nsteps 4 0.01\nspin", "degraded", ["stalled", None]),
        ("only 1\nignore-term\nsteps 4 0.01\nhang", "degraded", ["stalled", None]),
        ("only 1\nsteps 4 0.01\ngarbage\nhang", "degraded", ["stalled", None]),
        ("only 1\nsteps 4 0.01\nno-beat\nhang", "degraded", ["stalled", None]),
        ("only 1\nsteps 4 0.01\nsignal SIGSEGV", "done", ["crash", None]),
        ("only 1\nsignal SIGKILL", "done", ["crash", None]),
        ("only 2\nexit 7", "degraded", ["crash", "crash", None]),
        ("only 1\nsilent", "done", ["crash", None]),
        ("only 1\nfail numbers", "done", ["numbers", None]),
        ("only 1\nfail out-of-memory", "degraded", ["out-of-memory", None]),
        ("fail numbers", "failed", ["numbers", "numbers"]),
        ("fail bad-input", "failed", ["bad-input"]),
        ("fail no-bundle", "failed", ["no-bundle"]),
        ("exit 7", "failed", ["crash"] * 4),
        ("steps 4 0.01\nsignal SIGABRT", "degraded", [*["crash"] * 4, None]),
        ("fork\nsetsid\ndaemon\nsteps 4 0.01", "done", [None]),
        ("only 1\nsteps 4 0.01\nfork\nsetsid\ndaemon\nignore-term\nhang", "degraded", ["stalled", None]),
    ],
)
def test_every_way_of_going_wrong_ends_in_the_right_state_with_nothing_left(
    tmp_path: Path, folder: SongFolder, script: str, expected_state: str, expected_causes: list[str | None]
) -> None:
    short = {"stall_s": 0.4} if "stalled" in expected_causes else {}
    parent = Parent(tmp_path, [job(script, **short)])
    exit_code = parent.wait()
    assert (state(folder), causes(folder)) == (expected_state, expected_causes), parent.err
    assert exit_code == (1 if expected_state == "failed" else 0)
    assert survivors(parent.outputs) == []
    assert torn(parent.outputs) == []


def test_a_frozen_child_is_killed_and_the_song_goes_on_with_half_the_steps(
    tmp_path: Path, folder: SongFolder
) -> None:
    parent = Parent(tmp_path, [job("only 1\nsteps 5 0.01\nfreeze", stall_s=3.0)])
    assert parent.wait() == 0
    assert densities(folder) == [32, 16]
    assert read_json(folder.manifest)["degraded"] == "16 steps instead of 32"
    assert read_json(folder.manifest)["resumed_at"] == 5
    assert "hung" in outcomes(folder)[0]["message"]
    assert outcomes(folder)[0]["evidence"]


def test_a_child_that_is_killed_goes_on_from_its_checkpoint_at_the_same_steps(
    tmp_path: Path, folder: SongFolder
) -> None:
    parent = Parent(tmp_path, [job("only 1\nsteps 1000 0.02")])
    wait_for(lambda: (folder.attempts() or None) and folder.attempts()[0].checkpoint.exists())
    processes.signal_all([processes.identity(child_of(parent.process))], signal.SIGKILL)  # type: ignore[list-item]
    assert parent.wait() == 0
    manifest = read_json(folder.manifest)
    assert (state(folder), causes(folder), densities(folder)) == ("done", ["crash", None], [32, 32])
    assert manifest["resumed_at"] > 0


def test_the_timeout_kills_and_the_last_attempt_leaves_an_estimate(
    tmp_path: Path, folder: SongFolder
) -> None:
    # Far enough in the first attempt, then no further.
    parent = Parent(tmp_path, [job("steps 60 0.01\nhang", timeout_s=4.0, attempts=2)], strict=True)
    assert parent.wait() == 1
    assert causes(folder) == ["timeout", "timeout", None]
    assert densities(folder)[:2] == [32, 16]
    assert read_json(folder.manifest)["state"] == "degraded"


def test_a_child_above_its_memory_ceiling_is_killed_and_gets_a_smaller_plan(
    tmp_path: Path, folder: SongFolder
) -> None:
    parent = Parent(tmp_path, [job("only 1\neat 200\nhang", memory_bytes=128 << 20)])
    assert parent.wait() == 0
    first, second = (read_json(attempt.request) for attempt in folder.attempts())
    assert causes(folder) == ["memory-ceiling", None]
    assert (first["precision"], second["precision"]) == ("bf16", "int8")
    assert second["chunk_frames"] < first["chunk_frames"]


def test_a_childs_output_reaches_its_log_even_when_it_dies(tmp_path: Path, folder: SongFolder) -> None:
    parent = Parent(tmp_path, [job("unknown-word", attempts=1)])
    assert parent.wait() == 1
    assert "do_unknown_word" in folder.attempts()[0].log.read_text()


def test_a_worker_that_cannot_even_start_fails_with_its_words(tmp_path: Path, folder: SongFolder) -> None:
    parent = Parent(tmp_path, [job("exit 1", attempts=2)])
    assert parent.wait() == 1
    assert "ended with exit code 1 in phase load" in read_json(folder.failure)["message"]


def test_one_bad_song_does_not_touch_the_others(tmp_path: Path) -> None:
    jobs = [job("exit 7", name="bad", attempts=1)]
    jobs += [job("steps 10 0.02", name=f"good-{n}") for n in range(3)]
    parent = Parent(tmp_path, jobs, workers=2)
    assert parent.wait() == 1
    states = {f.id: state(f) for f in parent.outputs.songs()}
    assert states == {"night/bad": "failed", **{f"night/good-{n}": "done" for n in range(3)}}


def test_a_childs_limits_hold(tmp_path: Path, folder: SongFolder) -> None:
    parent = Parent(tmp_path, [job("steps 1000 0.02", nice=7)])
    pid = child_of(parent.process)
    wait_for(lambda: folder.heartbeat.exists())
    core, file = (resource.prlimit(pid, kind) for kind in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE))
    environment = Path(f"/proc/{pid}/environ").read_bytes()
    stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    adjusted = int(Path(f"/proc/{pid}/oom_score_adj").read_text())
    own = int(Path(f"/proc/{parent.process.pid}/oom_score_adj").read_text())
    parent.signal(signal.SIGTERM)
    assert parent.wait() == 143
    assert core == (0, 0)
    assert file == (2 << 30, 2 << 30)
    assert b"OMP_NUM_THREADS=1\0" in environment
    assert int(stat[2]) == pid  # its own process group
    assert int(stat[16]) >= 7  # nice
    assert adjusted > own


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_the_batch_cleanly_and_the_same_command_goes_on(
    tmp_path: Path, folder: SongFolder, number: signal.Signals
) -> None:
    later = job("steps 3 0.01", name="later")
    parent = Parent(tmp_path, [job("steps 1000 0.02"), later], workers=1)
    wait_for(lambda: folder.attempts() and folder.attempts()[0].checkpoint.exists())
    pid = child_of(parent.process)
    parent.signal(number)
    assert parent.wait() == 128 + number
    assert not alive(pid)
    assert causes(folder) == ["interrupted"]
    again = Parent(tmp_path, [job("steps 3 0.01"), later], workers=1)
    assert again.wait() == 0
    assert causes(folder) == ["interrupted", None]
    assert read_json(folder.manifest)["seed"] == read_json(folder.attempts()[0].request)["seed"]
    assert state(parent.outputs.song("night/later")) == "done"


def test_a_second_signal_does_not_wait_for_a_child_that_ignores_the_first(
    tmp_path: Path, folder: SongFolder
) -> None:
    parent = Parent(tmp_path, [job("ignore-term\nsteps 1 0.01\nhang")], grace_s=3600.0)
    wait_for(lambda: folder.attempts() and folder.attempts()[0].checkpoint.exists())
    pid = child_of(parent.process)
    parent.signal(signal.SIGINT)
    wait_for(lambda: read_json(parent.outputs.batch)["stopping"])  # its grace has begun, of an hour
    assert alive(pid)
    parent.signal(signal.SIGINT)
    assert parent.wait() == 130
    assert not alive(pid)


def test_a_stop_file_stops_one_song_and_not_the_others(tmp_path: Path, folder: SongFolder) -> None:
    parent = Parent(tmp_path, [job("steps 1000 0.02"), job("steps 50 0.02", name="other")], workers=2)
    wait_for(lambda: folder.heartbeat.exists())
    folder.stop.touch()
    assert parent.wait() == 1
    assert causes(folder) == ["interrupted"]
    assert state(parent.outputs.song("night/other")) == "done"


def test_a_stop_file_takes_a_song_that_waits_out_of_the_queue_of_this_night_alone(tmp_path: Path) -> None:
    jobs = [job("steps 1000 0.02"), job("steps 1 0", name="waits"), job("steps 1 0", name="other")]
    parent = Parent(tmp_path, jobs, workers=1)
    first, waits = parent.outputs.song("night/song"), parent.outputs.song("night/waits")
    wait_for(lambda: first.heartbeat.exists())
    waits.prepare()
    waits.stop.touch()
    wait_for(lambda: "interrupted" in parent.outputs.batch.read_text())
    assert not waits.stop.exists()
    first.stop.touch()
    assert parent.wait() == 1
    assert waits.attempts() == []
    assert state(parent.outputs.song("night/other")) == "done"
    told = {song["song"]: song for song in read_json(parent.outputs.batch)["songs"]}
    assert told["night/waits"]["note"] == "stopped by `runner stop`; goes on with the same command"
    waits.stop.touch()  # of this night, in which it came too late
    assert Parent(tmp_path, jobs[1:], workers=1).wait() == 0
    assert state(waits) == "done"


def test_a_batch_that_is_asked_to_end_says_so_at_once(tmp_path: Path, folder: SongFolder) -> None:
    parent = Parent(tmp_path, [job("ignore-term\nsteps 1 0.01\nhang")], grace_s=3600.0)
    wait_for(lambda: folder.attempts() and folder.attempts()[0].checkpoint.exists())
    assert read_json(parent.outputs.batch)["stopping"] is False
    parent.signal(signal.SIGINT)
    wait_for(lambda: read_json(parent.outputs.batch)["stopping"])
    assert parent.process.poll() is None
    parent.signal(signal.SIGINT)
    assert parent.wait() == 130


def test_a_child_dies_with_a_parent_that_is_killed_and_the_next_batch_finishes_the_song(
    tmp_path: Path, folder: SongFolder
) -> None:
    parent = Parent(tmp_path, [job("fork\nsetsid\nsteps 1000 0.02")])
    wait_for(lambda: folder.attempts() and folder.attempts()[0].checkpoint.exists())
    pid = child_of(parent.process)
    parent.kill()
    wait_for(lambda: not alive(pid))
    assert Parent(tmp_path, [job("fork\nsetsid\nsteps 3 0.01")]).wait() == 0
    assert state(folder) == "done"
    assert causes(folder) == [None]  # the lost attempt has no outcome, and was not charged
    assert read_json(folder.manifest)["resumed_at"] > 0
    assert [a["cause"] for a in read_json(folder.manifest)["attempts"]] == ["lost", None]
    assert survivors(parent.outputs) == []


def test_two_batches_at_once_the_second_exits_75_with_one_line(tmp_path: Path, folder: SongFolder) -> None:
    first = Parent(tmp_path, [job("steps 1000 0.02")])
    wait_for(lambda: folder.heartbeat.exists())
    second = Parent(tmp_path, [job("steps 1 0.01")])
    assert second.wait() == 75
    assert len(second.err.splitlines()) == 1
    first.signal(signal.SIGTERM)
    assert first.wait() == 143


def test_a_lock_is_not_inherited_by_what_a_child_leaves_behind(tmp_path: Path, folder: SongFolder) -> None:
    jobs = [job("setsid\nsteps 1000 0.02")]
    parent = Parent(tmp_path, jobs)
    wait_for(lambda: folder.attempts() and folder.attempts()[0].checkpoint.exists())
    parent.kill()
    assert survivors(parent.outputs)  # the grandchild in its own session
    again = Parent(tmp_path, [job("steps 1 0.01", fingerprint="e" * 64)])
    assert again.wait() == 0
    assert survivors(parent.outputs) == []


def test_what_is_done_is_skipped_what_has_changed_is_made_anew(tmp_path: Path, folder: SongFolder) -> None:
    assert Parent(tmp_path, [job("steps 2 0.01")]).wait() == 0
    assert Parent(tmp_path, [job("steps 2 0.01")]).wait() == 0
    assert len(folder.attempts()) == 1
    assert Parent(tmp_path, [job("steps 2 0.01", fingerprint="e" * 64)]).wait() == 0
    assert len(folder.attempts()) == 2
    assert read_json(folder.manifest)["fingerprint"] == "e" * 64


def test_force_makes_it_anew_with_a_new_seed(tmp_path: Path, folder: SongFolder) -> None:
    assert Parent(tmp_path, [job("steps 2 0.01")]).wait() == 0
    seed = read_json(folder.manifest)["seed"]
    assert Parent(tmp_path, [job("steps 2 0.01")], force=True).wait() == 0
    assert len(folder.attempts()) == 2
    assert read_json(folder.manifest)["seed"] != seed


def test_a_degraded_song_is_done_unless_asked_otherwise(tmp_path: Path, folder: SongFolder) -> None:
    degrading = job("only 1\nfail timeout")
    assert Parent(tmp_path, [degrading]).wait() == 0
    assert Parent(tmp_path, [degrading]).wait() == 0
    assert Parent(tmp_path, [degrading], strict=True).wait() == 1
    assert len(folder.attempts()) == 2
    assert Parent(tmp_path, [job("steps 1 0.01")], redo_degraded=True).wait() == 0
    assert state(folder) == "done"


def test_a_damaged_sound_is_made_again(tmp_path: Path, folder: SongFolder) -> None:
    assert Parent(tmp_path, [job("steps 2 0.01")]).wait() == 0
    folder.audio("wav").write_bytes(b"half a s")
    assert Parent(tmp_path, [job("steps 2 0.01")]).wait() == 0
    assert folder.audio("wav").read_bytes() != b"half a s"


def test_a_failed_song_is_tried_afresh_by_the_next_batch_with_its_seed(
    tmp_path: Path, folder: SongFolder
) -> None:
    assert Parent(tmp_path, [job("exit 7", attempts=1)]).wait() == 1
    seed = read_json(folder.attempts()[0].request)["seed"]
    assert Parent(tmp_path, [job("steps 1 0.01", attempts=1)]).wait() == 0
    assert state(folder) == "done"
    assert not folder.failure.exists()
    assert read_json(folder.manifest)["seed"] == seed
