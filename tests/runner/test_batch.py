"""A batch as a whole: how many at once, what batch.json says when, how it ends. Children are real."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from runner.admission import MEMORY_RESERVE, Free, Need
from runner.batch import MANY, Ended, Options, _Board, _measure_again, _Queue, default_workers, foresee
from runner.errors import CheckError
from runner.files import read_json, read_message
from runner.messages import Batch, QueuedSong, SongAnswer, SongRequest, SongState
from runner.processes import identity
from runner.songfolder import Outputs, SongFolder
from runner.spec import Song
from runner.supervise import House, Job
from tests.faults.batches import Parent, causes, child_of, densities, job, state, survivors, torn, wait_for


@pytest.fixture
def outputs(tmp_path: Path) -> Outputs:
    return Outputs(tmp_path / "outputs")


@pytest.fixture
def song(outputs: Outputs) -> SongFolder:
    return outputs.song("night/song")


def batch_of(outputs: Outputs) -> Batch:
    return read_message(outputs.batch, Batch)


def states(outputs: Outputs) -> dict[str, SongState]:
    """How every song stands; empty as long as there is no batch."""
    return {s.song: s.state for s in batch_of(outputs).songs} if outputs.batch.exists() else {}


# ---------------------------------------------------------------- decisions


@pytest.mark.parametrize(
    ("cores", "songs_that_fit", "workers"),
    [
        (1, 8, 1),
        (2, 8, 1),
        (8, 8, 1),
        (15, 8, 1),
        (16, 8, 2),
        (64, 3, 3),
        (64, 0, 1),
        (64, None, 8),
        (1, 0, 1),
    ],
)
def test_songs_at_once_are_bounded_by_cores_and_memory(
    cores: int, songs_that_fit: int | None, workers: int
) -> None:
    song = Need(private=3 * 10**9, model="m")
    memory = None if songs_that_fit is None else int((songs_that_fit + 0.5) * song.private) + MEMORY_RESERVE
    assert default_workers([song] * 10, Free(memory), cores=cores) == workers


@pytest.mark.parametrize(
    ("ended", "exit_code", "strict_exit_code"),
    [
        ([], 0, 0),
        (["done", "done"], 0, 0),
        (["done", "degraded"], 0, 1),
        (["done", "left"], 0, 1),
        (["done", "failed"], 1, 1),
        (["degraded", "failed", "done"], 1, 1),
        (["interrupted"], 1, 1),
    ],
)
def test_the_exit_code_tells_the_worst_song(
    ended: list[SongState], exit_code: int, strict_exit_code: int
) -> None:
    songs = tuple(QueuedSong(f"night/{n}", state) for n, state in enumerate(ended))
    assert Ended(songs).exit_code(strict=False) == exit_code
    assert Ended(songs).exit_code(strict=True) == strict_exit_code


def test_what_was_under_way_when_time_was_over_is_no_failure() -> None:
    songs = (QueuedSong("night/a", "interrupted"), QueuedSong("night/b", "left"))
    assert Ended(songs, in_time=True).exit_code(strict=False) == 0
    assert Ended(songs, in_time=True).exit_code(strict=True) == 1
    failed = (*songs, QueuedSong("night/c", "failed"))
    assert Ended(failed, in_time=True).exit_code(strict=False) == 1
    assert Ended(songs, stopped_by=signal.SIGTERM, in_time=True).exit_code(strict=False) == 143


@pytest.mark.parametrize(
    ("number", "exit_code"), [(signal.SIGHUP, 129), (signal.SIGINT, 130), (signal.SIGTERM, 143)]
)
def test_a_signal_stands_above_all_states(number: signal.Signals, exit_code: int) -> None:
    for ended in ("done", "failed", "left"):
        batch = Ended((QueuedSong("night/song", ended),), stopped_by=number)  # type: ignore[arg-type]
        assert batch.exit_code(strict=False) == batch.exit_code(strict=True) == exit_code


def test_a_disk_that_has_no_room_for_any_song_is_told_before_anything_is_started(
    tmp_path: Path, outputs: Outputs
) -> None:
    parent = Parent(tmp_path, [job("", duration=1e12)], workers=1)
    assert parent.wait() == 1
    (line,) = parent.err.splitlines()
    assert line.startswith(f"{outputs.folder}: ")
    assert line.endswith("make room, or choose another folder with --out")
    assert not outputs.batch.exists()


def test_a_song_that_the_disk_has_no_room_for_is_left_and_the_others_are_made(
    tmp_path: Path, outputs: Outputs
) -> None:
    jobs = [job("", name="long", duration=1e12), job("", name="short")]
    parent = Parent(tmp_path, jobs, workers=2, await_s=0.3)
    assert parent.wait() == 1
    assert states(outputs) == {"night/long": "left", "night/short": "done"}
    assert "make room, then run the same command again" in parent.err


def test_a_batch_that_could_not_write_its_own_state_is_not_fine() -> None:
    assert Ended((QueuedSong("night/song", "done"),), problem="full").exit_code(strict=False) == 1


# ---------------------------------------------------------------- what batch.json says


def test_batch_json_says_how_every_song_stands_at_every_moment(tmp_path: Path, outputs: Outputs) -> None:
    jobs = [job("steps 1 0.01", name="first"), job("steps 1000 0.02", name="second"), job("", name="third")]
    parent = Parent(tmp_path, jobs, workers=1)
    wait_for(lambda: states(outputs).get("night/second") == "running")
    running = batch_of(outputs)
    assert states(outputs) == {"night/first": "done", "night/second": "running", "night/third": "queued"}
    assert (running.workers, running.finished_wall) == (1, None)
    who = identity(parent.process.pid)
    assert who is not None
    assert (running.pid, running.pid_started, running.boot_id) == (who.pid, who.started, who.boot_id)
    first, second, _ = running.songs
    assert first.file == str(outputs.song("night/first").audio("wav"))
    assert (second.attempt, second.attempts) == (1, 1)
    parent.signal(signal.SIGTERM)
    assert parent.wait() == 143
    ended = batch_of(outputs)
    assert states(outputs) == {"night/first": "done", "night/second": "interrupted", "night/third": "left"}
    assert ended.finished_wall is not None
    assert ended.finished_wall >= ended.started_wall == running.started_wall


def test_a_song_made_earlier_is_in_the_batch_as_such(tmp_path: Path, outputs: Outputs) -> None:
    assert Parent(tmp_path, [job("")]).wait() == 0
    assert Parent(tmp_path, [job(""), job("", name="new")]).wait() == 0
    old, new = batch_of(outputs).songs
    assert (old.state, old.note, old.file) == (
        "done",
        "made earlier",
        str(outputs.song(old.song).audio("wav")),
    )
    assert (new.state, new.note) == ("done", "")


def test_a_batch_of_no_songs_ends_at_once_and_well(tmp_path: Path, outputs: Outputs) -> None:
    assert Parent(tmp_path, []).wait() == 0
    batch = batch_of(outputs)
    assert batch.songs == []
    assert batch.finished_wall is not None


def test_songs_that_run_side_by_side_share_the_cores(tmp_path: Path, outputs: Outputs) -> None:
    parent = Parent(tmp_path, [job("", name=str(n), threads=None) for n in range(2)], workers=1000)
    assert parent.wait() == 0
    assert batch_of(outputs).workers == 1000
    requests = [read_json(outputs.song(f"night/{n}").attempts()[0].request) for n in range(2)]
    assert [request["threads"] for request in requests] == [max(1, (os.cpu_count() or 1) // 2)] * 2


# ---------------------------------------------------------------- trouble


def test_a_defect_of_ours_costs_its_song_and_not_the_night(tmp_path: Path, outputs: Outputs) -> None:
    """The first song's politeness is no number, which no check has seen: its child cannot be spawned."""
    jobs = [job("", name="defect", nice="polite"), job("steps 5 0.01", name="sound")]
    parent = Parent(tmp_path, jobs, workers=1)
    assert parent.wait() == 1
    assert "a defect of the runner (SubprocessError" in parent.err
    assert "Traceback" in outputs.log.read_text()
    assert state(outputs.song("night/sound")) == "done"
    assert survivors(outputs) == []


def test_forced_songs_that_were_made_before_a_stop_are_not_made_again(
    tmp_path: Path, outputs: Outputs
) -> None:
    jobs = [job("steps 2 0.01", name="first"), job("steps 1000 0.02", name="second")]
    assert Parent(tmp_path, [job("steps 1 0.01", name=j.song.name) for j in jobs]).wait() == 0
    forced = Parent(tmp_path, jobs, workers=1, force=True)
    second = outputs.song("night/second")
    wait_for(lambda: len(second.attempts()) == 2 and second.attempts()[1].checkpoint.exists())
    forced.kill()
    jobs = [job("steps 2 0.01", name=name) for name in ("first", "second")]
    again = Parent(tmp_path, jobs, workers=1, force=True)
    assert again.wait() == 0
    assert [len(outputs.song(f"night/{name}").attempts()) for name in ("first", "second")] == [2, 3]
    assert read_json(second.manifest)["resumed_at"] > 0
    assert Parent(tmp_path, jobs, force=True).wait() == 0  # that one was finished: all anew
    assert len(outputs.song("night/first").attempts()) == 3


def test_a_night_under_nohup_outlives_its_terminal(tmp_path: Path, song: SongFolder) -> None:
    jobs = [job(f"steps 4 0.02\nwait {tmp_path / 'go'}")]
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        parent = Parent(tmp_path, jobs)
    finally:
        signal.signal(signal.SIGHUP, before)
    wait_for(lambda: song.heartbeat.exists())
    parent.signal(signal.SIGHUP)
    (tmp_path / "go").touch()
    assert parent.wait() == 0
    assert state(song) == "done"


def test_an_outputs_path_that_is_a_file_ends_in_one_line(tmp_path: Path, outputs: Outputs) -> None:
    outputs.folder.write_text("not a folder")
    parent = Parent(tmp_path, [job("")])
    assert parent.wait() == 1
    assert parent.err == (
        f"cannot write results: File exists: {outputs.folder}; choose another folder with --out\n"
    )
    assert outputs.folder.read_text() == "not a folder"


def test_a_song_or_job_folder_that_is_a_file_fails_that_song_alone(
    tmp_path: Path, outputs: Outputs, song: SongFolder
) -> None:
    song.folder.parent.mkdir(parents=True)
    song.folder.write_text("not a folder")
    (outputs.folder / "day").write_text("not a folder either")
    jobs = [job(""), job("", name="good"), job("", job="day", name="bad")]
    parent = Parent(tmp_path, jobs)
    assert parent.wait() == 1
    assert states(outputs) == {"night/song": "failed", "night/good": "done", "day/bad": "failed"}
    first, _, last = batch_of(outputs).songs
    assert first.note == f"{song.folder}: is no folder; move it away or choose another --out"
    assert "is no folder; move it away" in last.note


def test_attempts_that_are_a_file_fail_that_song_with_words(tmp_path: Path, song: SongFolder) -> None:
    song.folder.mkdir(parents=True)
    (song.folder / "attempts").write_text("not a folder")
    parent = Parent(tmp_path, [job("")])
    assert parent.wait() == 1
    assert "is no folder; move it away" in parent.err


def test_folders_of_any_characters_work(tmp_path: Path) -> None:
    odd = tmp_path / "Nächte | 'of' \"song\"\n*"
    parent = Parent(odd, [job("setsid\nsteps 2 0.01", job="my songs")])
    assert parent.wait() == 0, parent.err
    assert states(parent.outputs) == {"my songs/song": "done"}
    assert survivors(parent.outputs) == []


def test_a_folder_whose_name_is_not_utf_8_is_refused_in_one_line(tmp_path: Path) -> None:
    parent = Parent(tmp_path / "night-\udcff", [job("")])
    assert parent.wait() == 1
    assert len(parent.err.splitlines()) == 1
    assert "not UTF-8" in parent.err


def test_a_batch_leaves_one_alone_whose_folder_begins_with_the_name_of_its_own(tmp_path: Path) -> None:
    other = Parent(tmp_path / "outputs|2", [job("steps 1000 0.02")])
    folder = other.outputs.song("night/song")
    wait_for(folder.heartbeat.exists)
    assert Parent(tmp_path, [job("")]).wait() == 0
    other.signal(signal.SIGTERM)
    assert other.wait() == 143
    assert causes(folder) == ["interrupted"]


def test_what_was_half_written_by_those_who_were_killed_is_gone_when_the_batch_ends(
    tmp_path: Path, outputs: Outputs
) -> None:
    outputs.folder.mkdir()
    (outputs.folder / ".batch.json.1-ab.tmp").write_text("half a")
    folder = outputs.song("night/song")
    parent = Parent(tmp_path, [job("only 1\nsteps 1000 0.02")])
    pid = child_of(parent.process)
    wait_for(folder.heartbeat.exists)
    folder.heartbeat.with_name(f".heartbeat.json.{pid}-ab.tmp").write_text("half a")
    os.kill(pid, signal.SIGKILL)
    assert parent.wait() == 0
    assert causes(folder) == ["crash", None]
    assert torn(outputs) == []


# ---------------------------------------------------------------- a profile in doubt


def measured_again(
    *, doubted: bool = False, provisional: bool = False, problems: Sequence[str] = (), fails: bool = False
) -> list[tuple[str, int]]:
    """Precision and calls of the check of a song that waits, after another one has ended."""
    waits = job("", name="waits")
    waits = replace(waits, answer=replace(waits.answer, provisional=provisional))
    queue, here, calls = _Queue([waits], {}, [], 1), House(mark=""), 0

    def check_again(songs: Sequence[Song]) -> list[SongAnswer]:
        nonlocal calls
        calls += 1
        if fails:
            raise CheckError("no answer")
        answer = replace(queue.jobs[0].answer, precision="int8", problems=list(problems), provisional=False)
        return [answer for _ in songs]

    async def run() -> None:
        if doubted:
            here.doubt.set()
        for _ in range(2):
            await _measure_again(queue, here, Options(check_again=check_again))

    asyncio.run(run())
    return [(each.answer.precision, calls) for each in queue.jobs]


def test_songs_that_wait_are_decided_again_once_after_the_profile_came_into_doubt() -> None:
    assert measured_again(doubted=True) == [("int8", 1)]
    assert measured_again() == [("bf16", 0)]


def test_songs_that_wait_are_decided_again_while_the_profile_is_provisional() -> None:
    assert measured_again(provisional=True) == [("int8", 1)]
    assert measured_again(provisional=True, fails=True) == [("bf16", 2)]


def test_songs_stay_as_they_were_checked_where_measuring_fails() -> None:
    assert measured_again(doubted=True, fails=True) == [("bf16", 1)]
    assert measured_again(doubted=True, problems=["gone"]) == [("bf16", 1)]


# ---------------------------------------------------------------- a night with an end


def reckoned(script: str, *, name: str, hours: float, **changes: object) -> Job:
    """A job of so many hours as far as anybody knows; its child takes as long as the script says."""
    made = job(script, name=name, **{"timeout_s": 1e6} | changes)
    return replace(
        made, answer=replace(made.answer, passes=1, pass_flops=1, pass_s=hours * 3600 / 32, threads=1)
    )


def request_of(outputs: Outputs, name: str, attempt: int = 0) -> SongRequest:
    return read_message(outputs.song(f"night/{name}").attempts()[attempt].request, SongRequest)


def test_when_time_is_over_what_runs_is_interrupted_uncharged_and_the_next_batch_goes_on(
    tmp_path: Path, outputs: Outputs
) -> None:
    jobs = [job("steps 2000 0.02", name="long"), job("", name="other")]
    parent = Parent(tmp_path, jobs, workers=1, until_s=8, around_s=0.0)
    assert parent.wait() == 0, parent.err
    assert states(outputs) == {"night/long": "interrupted", "night/other": "left"}
    assert causes(outputs.song("night/long")) == ["interrupted"]
    assert "the batch's time was over; goes on with the same command" in parent.err
    assert "night/other: left: too little time was left until" in parent.err
    assert survivors(outputs) == []
    assert batch_of(outputs).until_wall is not None
    jobs = [replace(jobs[0], song=replace(jobs[0].song, lyrics="steps 1 0.01")), jobs[1]]
    assert Parent(tmp_path, jobs, workers=1).wait() == 0
    assert read_json(outputs.song("night/long").manifest)["resumed_at"] > 0
    assert batch_of(outputs).until_wall is None


def test_the_shortest_are_made_first_and_what_does_not_fit_is_left_with_words(
    tmp_path: Path, outputs: Outputs
) -> None:
    jobs = [
        reckoned("", name="three", hours=3),
        reckoned("", name="thirty", hours=30, foresight=False, resume=False),
        reckoned("", name="one", hours=1),
        reckoned("", name="two", hours=2),
    ]
    parent = Parent(tmp_path, jobs, workers=1, until_s=8 * 3600)
    assert parent.wait() == 0
    assert states(outputs) == {
        "night/three": "done",
        "night/thirty": "left",
        "night/one": "done",
        "night/two": "done",
    }
    begun = {name: outputs.song(f"night/{name}").attempts()[0].request for name in ("one", "two", "three")}
    assert sorted(begun, key=lambda name: begun[name].stat().st_mtime_ns) == ["one", "two", "three"]
    assert "night/thirty: left: needs 30 h 00; too little time was left until" in parent.err
    assert Parent(tmp_path, jobs, workers=1, until_s=8 * 3600, strict=True).wait() == 1


def test_a_song_that_was_thinned_by_the_night_is_degraded_and_stays_so_at_a_retry(
    tmp_path: Path, outputs: Outputs
) -> None:
    jobs = [reckoned("only 1\nexit 1", name="long", hours=10, foresight=True)]
    assert Parent(tmp_path, jobs, workers=1, until_s=8 * 3600).wait() == 0
    first, second = densities(outputs.song("night/long"))
    assert 16 <= first < 27
    assert second == first
    made = read_json(outputs.song("night/long").manifest)
    assert (made["state"], made["fingerprint"]) == ("degraded", jobs[0].fingerprint)
    assert made["request"]["steps"] == 32
    assert made["degraded"] == f"{first} steps instead of 32"
    # As it was asked for it is there; whoever wants all of its steps says so.
    assert Parent(tmp_path, jobs, workers=1).wait() == 0
    assert len(densities(outputs.song("night/long"))) == 2
    assert Parent(tmp_path, jobs, workers=1, redo_degraded=True).wait() == 0
    assert densities(outputs.song("night/long"))[2:] == [32, 32]


def test_only_a_song_that_is_to_end_in_time_has_its_time_cut(tmp_path: Path, outputs: Outputs) -> None:
    jobs = [reckoned("", name="lands", hours=1), reckoned("", name="begun", hours=30, foresight=True)]
    assert Parent(tmp_path, jobs, workers=1, until_s=8 * 3600).wait() == 0
    assert request_of(outputs, "lands").timeout_s <= 8 * 3600
    assert request_of(outputs, "begun").timeout_s == 1e6
    assert [request_of(outputs, name).density for name in ("lands", "begun")] == [32, 32]


def test_two_at_once_share_out_what_fits(tmp_path: Path, outputs: Outputs) -> None:
    """Four of three hours in eight: none is thinned as if there were one place."""
    jobs = [reckoned("steps 2 0.05", name=str(n), hours=3) for n in range(4)]
    assert Parent(tmp_path, jobs, workers=2, until_s=8 * 3600).wait() == 0
    assert set(states(outputs).values()) == {"done"}
    assert [densities(outputs.song(f"night/{n}")) for n in range(4)] == [[32]] * 4


def test_a_plan_alone_touches_nothing(tmp_path: Path) -> None:
    outputs = Outputs(tmp_path / "outputs")
    jobs = [reckoned("", name="one", hours=1), reckoned("", name="two", hours=2)]
    seen = foresee(jobs, outputs, Options())
    assert [(place.song.id, place.end_s / 3600) for place in seen.plan.places] == [
        ("night/one", pytest.approx(1, abs=0.01)),
        ("night/two", pytest.approx(3, abs=0.02)),
    ]
    assert list(tmp_path.iterdir()) == []


def test_a_plan_beside_a_batch_takes_no_wish_to_stop_from_it(outputs: Outputs) -> None:
    folder = outputs.song("night/song")
    folder.prepare()
    folder.stop.touch()
    assert foresee([job("")], outputs, Options()).songs
    assert folder.stop.exists()


def test_a_plan_counts_what_is_made_and_what_a_checkpoint_holds(tmp_path: Path, outputs: Outputs) -> None:
    jobs = [
        reckoned("", name="made", hours=1),
        reckoned("steps 100 0.02\nhang", name="begun", hours=1),
    ]
    parent = Parent(tmp_path, jobs, workers=1)
    wait_for(lambda: outputs.song("night/begun").attempts() and log_ends(outputs, "begun", 100))
    parent.signal(signal.SIGTERM)
    assert parent.wait() == 143
    before = sorted(outputs.folder.rglob("*"))
    seen = foresee(jobs, outputs, Options())
    assert sorted(outputs.folder.rglob("*")) == before
    (place,) = seen.plan.places
    assert (seen.made, place.song.id, place.song.begun) == (1, "night/begun", True)
    assert place.end_s < 60
    assert [p.song.begun for p in foresee(jobs, outputs, Options(force=True)).plan.places] == [False, False]


def log_ends(outputs: Outputs, name: str, step: int) -> bool:
    log = outputs.song(f"night/{name}").attempts()[0].steps
    return log.exists() and f'"step": {step}' in log.read_text()


@pytest.mark.parametrize(("count", "is_at_once"), [(MANY, True), (MANY + 1, False)])
def test_how_many_songs_stand_is_written_at_each_look_and_how_few_at_once(
    outputs: Outputs, count: int, is_at_once: bool
) -> None:
    outputs.folder.mkdir(parents=True, exist_ok=True)
    songs = {f"night/{number}": QueuedSong(f"night/{number}", "queued") for number in range(count)}
    head = Batch(1, 1, "", 0.0, None, 1, [])
    board = _Board(outputs, head, lambda: True, songs)
    board.write()
    board.put(QueuedSong("night/0", "running"))
    assert (read_message(outputs.batch, Batch).songs[0].state == "running") is is_at_once
    assert board.is_behind is not is_at_once
    board.write()
    assert read_message(outputs.batch, Batch).songs[0].state == "running"
