"""One song, from folders as crashes, kills and earlier nights leave them; the children are real."""

from __future__ import annotations

import asyncio
import hashlib
import json
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from folders import add_attempt, write_failure

from runner import manifest, processes
from runner import supervise as supervising
from runner.admission import Free, Need, Obstacle, Room
from runner.files import read_json, read_message, write_message
from runner.foresight import Decoder, Shown
from runner.messages import Cause, Outcome, QueuedSong, SongRequest
from runner.songfolder import Attempt, SongFolder
from runner.supervise import ESTIMATE_S, House, Job, need_of, supervise
from tests.faults.batches import CHILD, causes, job

JOB = job("steps 2 0.01", seed=7)
SOUND = b"a song"
MEMORY = 8 * 2**30
NOBODY_IS_ASKED = job("fail bad-input", seed=7)  # a child that is started fails the song at once


@pytest.fixture
def song(tmp_path: Path) -> SongFolder:
    folder = SongFolder(tmp_path / "night" / "song")
    folder.folder.mkdir(parents=True)
    return folder


def house() -> House:
    return House(mark="/supervised//", worker=(sys.executable, str(CHILD)), tick_s=0.02, grace_s=0.5)


def make(
    song: SongFolder,
    job: Job = JOB,
    *,
    say: Callable[[QueuedSong, House], None] = lambda said, house: None,
    redo_degraded: bool = False,
    **changes: Any,
) -> QueuedSong:
    """changes: of the house."""

    async def run() -> QueuedSong:
        here = replace(house(), **changes)
        return await supervise(job, song, here, lambda said: say(said, here), redo_degraded=redo_degraded)

    return asyncio.run(run())


def past_attempt(
    folder: SongFolder, cause: Cause | None, *, series: int = 1, epoch: float = 0.0, **outcome: Any
) -> Attempt:
    """An attempt of JOB that has ended; with its checkpoint."""
    attempt = add_attempt(folder, fingerprint=JOB.fingerprint, series=series, epoch=epoch)
    write_message(attempt.outcome, Outcome(attempt.number, cause, "words", **outcome))
    attempt.checkpoint.write_text("1")
    attempt.steps.write_text(json.dumps({"step": 1, "t": outcome.get("t", 0.1)}) + "\n")
    return attempt


def made_attempt(song: SongFolder, *, degraded: str | None = None) -> Attempt:
    """An attempt of JOB whose child has ended well, and whose parent has done nothing since."""
    facts = {"sha256": hashlib.sha256(SOUND).hexdigest(), "degraded": degraded}
    attempt = past_attempt(song, None, song=facts)
    attempt.audio("wav").write_bytes(SOUND)
    return attempt


def newest_request(song: SongFolder) -> SongRequest:
    return read_message(song.attempts()[-1].request, SongRequest)


# ---------------------------------------------------------------- the end, after a crash anywhere in it


def test_a_song_that_was_made_before_the_crash_gets_its_name_and_manifest(song: SongFolder) -> None:
    made_attempt(song)
    ended = make(song, NOBODY_IS_ASKED)
    assert (ended.state, ended.file) == ("done", str(song.audio("wav")))
    assert song.audio("wav").read_bytes() == SOUND
    assert manifest.finished(song, JOB.fingerprint) is not None
    assert len(song.attempts()) == 1


def test_a_song_that_has_its_name_but_no_manifest_gets_it(song: SongFolder) -> None:
    song.publish(made_attempt(song).audio("wav"))
    assert make(song, NOBODY_IS_ASKED).state == "done"
    assert manifest.finished(song, JOB.fingerprint) is not None


def test_the_end_can_be_gone_through_again_and_changes_nothing(song: SongFolder) -> None:
    made_attempt(song)
    write_failure(song, "an earlier night's", series=99)
    make(song, NOBODY_IS_ASKED)
    first = read_json(song.manifest)
    make(song, NOBODY_IS_ASKED)
    assert read_json(song.manifest) | {"finished": ""} == first | {"finished": ""}
    assert not song.failure.exists()


def test_a_degraded_song_is_so_after_the_crash_too(song: SongFolder) -> None:
    made_attempt(song, degraded="16 steps instead of 32")
    ended = make(song, NOBODY_IS_ASKED)
    assert (ended.state, ended.note) == ("degraded", "16 steps instead of 32")


def test_an_estimate_that_was_made_before_the_crash_is_not_thrown_away_as_spent(song: SongFolder) -> None:
    once = replace(JOB, song=replace(JOB.song, attempts=1))
    past_attempt(song, "timeout", t=0.6)
    made_attempt(song, degraded="an early estimate")
    assert make(song, once).state == "degraded"
    assert len(song.attempts()) == 2


@pytest.mark.parametrize("sound", [None, b"a so"], ids=["gone", "damaged"])
def test_a_sound_that_did_not_survive_the_crash_is_made_again_with_its_seed(
    song: SongFolder, sound: bytes | None
) -> None:
    lost = made_attempt(song).audio("wav")
    lost.unlink()
    if sound is not None:
        lost.write_bytes(sound)
    unseeded = replace(JOB, song=replace(JOB.song, seed=None))
    assert make(song, unseeded).state == "done"
    assert read_json(song.manifest)["seed"] == 7
    assert [attempt["cause"] for attempt in read_json(song.manifest)["attempts"]] == ["crash", None]


def test_a_sound_that_is_never_what_its_maker_says_is_given_up_after_the_attempts(song: SongFolder) -> None:
    ended = make(song, job("lie", seed=7, attempts=3))
    assert (ended.state, causes(song)) == ("failed", ["crash"] * 3)
    assert "gone or damaged" in read_json(song.failure)["message"]


def test_a_sound_of_an_earlier_request_is_not_taken_for_this_ones(song: SongFolder) -> None:
    made_attempt(song).audio("wav").unlink()
    song.audio("wav").write_bytes(b"an earlier song")
    assert make(song).state == "done"
    assert song.audio("wav").read_bytes() == b"7 2"


# ---------------------------------------------------------------- deadlines


def with_deadline(seconds: float, script: str = "steps 2 0.01") -> Job:
    return job(script, seed=7, deadline_s=seconds, timeout_s=60.0)


def test_past_its_deadline_a_song_far_enough_is_kept_as_its_estimate(song: SongFolder) -> None:
    past_attempt(song, "timeout", elapsed_s=100.0, t=0.6)
    ended = make(song, with_deadline(100.0))
    assert ended.state == "degraded"
    request = newest_request(song)
    assert (request.mode, request.checkpoint) == ("estimate", str(song.attempts()[0].checkpoint))
    assert request.timeout_s == ESTIMATE_S  # the deadline is over, the estimate still gets its time


def test_past_its_deadline_a_song_not_far_enough_has_failed(song: SongFolder) -> None:
    past_attempt(song, "timeout", elapsed_s=60.0, t=0.3)
    past_attempt(song, "stalled", elapsed_s=41.0, t=0.4)
    ended = make(song, with_deadline(100.0))
    assert (ended.state, ended.note) == ("failed", "its deadline has passed")
    assert read_json(song.failure)["cause"] == "timeout"
    assert len(song.attempts()) == 2


def test_an_attempt_may_use_no_more_than_what_the_deadline_leaves(song: SongFolder) -> None:
    past_attempt(song, "timeout", elapsed_s=70.0)
    assert make(song, with_deadline(100.0)).state == "degraded"
    assert newest_request(song).timeout_s == 30.0


def test_an_attempt_is_killed_at_the_deadline(song: SongFolder) -> None:
    ended = make(song, with_deadline(1.0, "hang"))
    assert ended.state == "failed"
    assert causes(song) == ["timeout"]


# ---------------------------------------------------------------- what an attempt is asked


def test_a_song_that_was_lost_goes_on_with_its_seed_and_checkpoint(song: SongFolder) -> None:
    lost = past_attempt(song, "timeout", t=0.1)
    lost.outcome.unlink()
    assert make(song, replace(JOB, song=replace(JOB.song, seed=None))).state == "done"
    request = newest_request(song)
    assert (request.series, request.seed, request.checkpoint) == (1, 7, str(lost.checkpoint))
    assert [a["cause"] for a in read_json(song.manifest)["attempts"]] == ["lost", None]


def test_a_drawn_seed_is_written_before_the_child_starts_and_kept(song: SongFolder) -> None:
    drawn = job("only 1\nexit 1", seed=None)
    assert make(song, drawn).state == "done"
    first, second = (read_message(attempt.request, SongRequest) for attempt in song.attempts())
    assert first.seed == second.seed == read_json(song.manifest)["seed"]


def test_a_song_is_told_how_fast_the_decoder_was_in_one_made_before(song: SongFolder) -> None:
    make(
        song, shown=[Shown("0", "bf16", 95.0, Decoder(0.5, 2.0)), Shown("1", "bf16", 95.0, Decoder(0.9, 3.0))]
    )
    asked = newest_request(song)
    assert (asked.decoder_speed, asked.decoder_around_s) == (0.5, 2.0)


def test_a_song_that_shall_not_resume_begins_afresh_on_its_first_attempt(song: SongFolder) -> None:
    make(song, replace(JOB, song=replace(JOB.song, resume=False)))
    assert newest_request(song).checkpoint is None


def test_a_song_is_told_how_it_shall_end(song: SongFolder) -> None:
    make(song, replace(JOB, song=replace(JOB.song, fade_out=4.0)))
    assert newest_request(song).fade_out == 4.0


def test_force_forgets_attempts_and_seed(song: SongFolder) -> None:
    made_attempt(song)
    unseeded = replace(JOB, song=replace(JOB.song, seed=None))
    assert make(song, unseeded, epoch=1000.0).state == "done"
    request = newest_request(song)
    assert (request.series, request.checkpoint, request.epoch) == (2, None, 1000.0)
    assert request.seed != 7


def test_a_forced_song_that_was_interrupted_goes_on_in_the_same_making(song: SongFolder) -> None:
    stopped = past_attempt(song, "interrupted", epoch=1000.0)
    assert make(song, epoch=1000.0).state == "done"
    assert newest_request(song).checkpoint == str(stopped.checkpoint)


def test_a_song_that_was_given_up_unwritten_is_tried_afresh_by_the_next_batch(song: SongFolder) -> None:
    for _ in range(4):
        past_attempt(song, "crash")
    assert make(song).state == "done"
    assert (newest_request(song).series, newest_request(song).seed) == (5, 7)


def test_a_song_that_met_a_full_disk_goes_on_once_there_is_room(song: SongFolder) -> None:
    full = past_attempt(song, "no-disk")
    write_failure(song, "no room", series=1, cause="no-disk")
    assert make(song).state == "done"
    request = newest_request(song)
    assert (request.checkpoint, request.density) == (str(full.checkpoint), request.steps)


def test_a_degraded_song_that_is_made_again_keeps_its_seed(song: SongFolder) -> None:
    made_attempt(song, degraded="16 steps instead of 32")
    unseeded = replace(JOB, song=replace(JOB.song, seed=None))
    assert make(song, unseeded, redo_degraded=True).state == "done"
    assert (newest_request(song).series, newest_request(song).seed) == (2, 7)


def test_a_degraded_song_whose_remaking_was_stopped_goes_on_from_there(song: SongFolder) -> None:
    made_attempt(song, degraded="16 steps instead of 32")
    stopped = past_attempt(song, "interrupted", series=2)
    assert make(song, redo_degraded=True).state == "done"
    assert (newest_request(song).series, newest_request(song).checkpoint) == (2, str(stopped.checkpoint))


def test_a_song_that_was_made_well_before_a_crash_is_not_made_again_as_degraded(song: SongFolder) -> None:
    made_attempt(song)
    assert make(song, NOBODY_IS_ASKED, redo_degraded=True).state == "done"


def test_a_clip_that_changed_after_the_check_fails_its_song(song: SongFolder, tmp_path: Path) -> None:
    clip = tmp_path / "clip.wav"
    clip.write_bytes(b"as checked")
    checked = replace(JOB, song=replace(JOB.song, style=None, style_audio=clip))
    checked = replace(checked, fingerprint=manifest.fingerprint(checked.song, checked.answer))
    clip.write_bytes(b"another")
    ended = make(song, checked)
    assert (ended.state, song.attempts()) == ("failed", [])
    assert "changed since the check" in ended.note
    clip.write_bytes(b"as checked")
    assert make(song, checked).state == "done"


def test_a_failure_of_an_earlier_night_is_told_no_more_once_the_song_is_tried_again(song: SongFolder) -> None:
    past_attempt(song, "no-disk")
    write_failure(song, "no room", series=1, cause="no-disk")
    told = []
    assert make(song, say=lambda said, house: told.append(song.failure.exists())).state == "done"
    assert told
    assert not any(told)


# ---------------------------------------------------------------- stops


def test_a_stop_file_of_an_earlier_night_stops_nothing(song: SongFolder) -> None:
    song.stop.touch()
    assert make(song).state == "done"
    assert not song.stop.exists()


def too_large(job: Job) -> Job:
    """The same, foreseen to need more memory than any machine has."""
    return replace(job, answer=replace(job.answer, private_bytes=2**60))


@pytest.mark.parametrize("by", ["the song", "the batch"])
def test_a_song_that_waits_for_memory_says_so_and_can_be_stopped(song: SongFolder, by: str) -> None:
    notes = []

    def say(said: QueuedSong, house: House) -> None:
        notes.append((said.state, said.note.partition(":")[0]))
        song.stop.touch() if by == "the song" else house.stopping.set()

    ended = make(song, too_large(NOBODY_IS_ASKED), say=say)
    assert notes == [("queued", "waits for memory")]
    assert ended.state == "interrupted"
    assert ("runner stop" in ended.note) == (by == "the song")
    assert not song.stop.exists()
    assert song.attempts() == []


def test_a_song_that_was_foreseen_too_large_is_tried_all_the_same_in_the_end(song: SongFolder) -> None:
    assert make(song, too_large(JOB), await_s=0.1).state == "done"


def test_after_a_kill_for_memory_as_much_is_waited_for_as_the_last_attempt_had(song: SongFolder) -> None:
    plan = replace(JOB.plan, await_bytes=3000)
    assert need_of(JOB, plan, [], MEMORY).private == 3000
    assert need_of(JOB, replace(plan, await_bytes=2**60), [], MEMORY).private == MEMORY // 2


def test_a_song_that_waits_for_the_disk_is_left_and_says_what_to_do(song: SongFolder) -> None:
    long = replace(JOB, answer=replace(JOB.answer, duration=1e12))
    ended = make(song, long, await_s=0.1)
    assert (ended.state, song.attempts()) == ("left", [])
    assert ended.note.startswith("room on the disk: ")
    assert ended.note.endswith("; make room, then run the same command again")


def test_the_last_words_of_a_song_on_another_machine_name_it(song: SongFolder) -> None:
    long = replace(JOB, answer=replace(JOB.answer, duration=1e12))
    assert make(song, long, await_s=0.1, host="far").note.startswith("on far: room on the disk: ")
    assert make(song, job("fail bad-input", seed=7), host="far").note == "on far: failed by bad-input"
    assert read_json(song.failure)["message"] == "on far: failed by bad-input"
    assert make(song, JOB, host="far").note == ""


@pytest.mark.parametrize("gpus", [0, 1])
def test_a_song_waits_as_long_as_another_has_the_gpu(song: SongFolder, tmp_path: Path, gpus: int) -> None:
    (tmp_path / "dev/dxg").mkdir(parents=True)
    room = Room()
    room.enter("night/other", Need(gpus=1), Free(), 0.0)
    notes = []

    def say(said: QueuedSong, house: House) -> None:
        notes.append(said.note)
        room.leave("night/other")

    on_gpu = replace(JOB, answer=replace(JOB.answer, gpus=gpus))
    ended = make(song, on_gpu, say=say, root=tmp_path, room=room)
    assert ended.state == "done"
    assert ("waits for the GPU" in notes) == (gpus > 0)


def test_a_full_disk_of_an_earlier_night_takes_no_attempts_from_this_one(song: SongFolder) -> None:
    for _ in range(4):
        past_attempt(song, "no-disk")
    assert make(song, job("only 6\nfail no-disk", seed=7)).state == "done"
    assert causes(song) == [*["no-disk"] * 6, None]


def test_memory_that_was_waited_for_in_vain_is_not_waited_for_again(song: SongFolder) -> None:
    room = Room()
    room.gave_up_on_memory = True
    said: list[str] = []
    ended = make(song, too_large(JOB), say=lambda each, _: said.append(each.note), room=room)
    assert (ended.state, said) == ("done", [""])


def test_a_song_that_was_begun_and_finds_the_disk_full_goes_on_another_time(song: SongFolder) -> None:
    past_attempt(song, "timeout")
    long = replace(JOB, answer=replace(JOB.answer, duration=1e12))
    assert make(song, long, await_s=0.1).state == "interrupted"
    assert causes(song) == ["timeout"]


def test_a_song_that_waits_to_be_alone_can_be_stopped_and_then_keeps_nobody_out(song: SongFolder) -> None:
    past_attempt(song, "out-of-memory")

    async def run() -> tuple[QueuedSong, Obstacle | None]:
        here = house()
        here.room.enter("night/other", Need(), Free(), 0.0)
        ended = await supervise(NOBODY_IS_ASKED, song, here, lambda said: song.stop.touch())
        return ended, here.room.enter("night/third", Need(), Free(), 0.0)

    ended, third_is_kept_out_by = asyncio.run(run())
    assert ended.state == "interrupted"
    assert third_is_kept_out_by is None


def test_a_song_that_is_over_has_left_the_room(song: SongFolder) -> None:
    past_attempt(song, "out-of-memory")

    async def run() -> tuple[QueuedSong, Obstacle | None]:
        here = house()
        ended = await supervise(JOB, song, here, lambda said: None)
        return ended, here.room.enter("night/other", Need(alone=True), Free(), 0.0)

    ended, other_is_kept_out_by = asyncio.run(run())
    assert ended.state == "degraded"
    assert other_is_kept_out_by is None


def test_a_kill_for_memory_leaves_one_place_fewer(song: SongFolder) -> None:
    async def run() -> int:
        here = replace(house(), room=Room(2))
        here.room.enter("night/other", Need(), Free(), 0.0)
        task = asyncio.create_task(supervise(job("fail out-of-memory"), song, here, lambda said: None))
        while here.room.places == 2:
            await asyncio.sleep(0.02)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return here.room.places

    assert asyncio.run(run()) == 1


def test_a_finished_song_shows_the_next_ones_how_much_memory_it_had(song: SongFolder) -> None:
    shown: list[Shown] = []
    make(song, job("eat 30\nsteps 20 0.1"), shown=shown)
    (told,) = shown
    assert told.private is not None
    assert told.private > 30 * 2**20
    assert need_of(JOB, JOB.plan, shown, MEMORY).private > told.private


def test_an_attempt_says_when_it_was_and_what_memory_it_used(song: SongFolder) -> None:
    before = time.time()
    assert make(song, job("steps 2 0.05\neat 30\nsteps 20 0.1", seed=7)).state == "done"
    outcome = read_message(song.attempts()[0].outcome, Outcome)
    assert before - 1 <= outcome.began_wall <= outcome.ended_wall <= time.time() + 1
    private = [point[1] for point in outcome.memory]
    assert max(private) == outcome.peak_private >= 30 * 2**20
    made = read_json(song.manifest)
    assert "memory" not in made["attempts"][0]
    assert made["machine"]["cores"] >= 1


def test_a_song_that_is_cancelled_leaves_no_child(song: SongFolder) -> None:
    async def run() -> list[processes.Identity]:
        here = house()
        task = asyncio.create_task(supervise(job("ignore-term\nhang"), song, here, lambda said: None))
        while not song.heartbeat.exists():
            await asyncio.sleep(0.02)
        children = processes.marked(here.mark)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert here.own == set()
        return children

    children = asyncio.run(run())
    assert children
    assert not any(processes.is_alive(who) for who in children)


LINGERS = """\
import ctypes, pathlib, signal, sys, threading, time
asked = threading.Event()
threading.Thread(target=lambda: asked.wait() and time.sleep(0.5)).start()
def end(*_):
    asked.set()
    ctypes.CDLL(None).syscall(60, 0)  # of this thread alone
signal.signal(signal.SIGTERM, end)
pathlib.Path(sys.argv[1]).parents[2].joinpath("stop").touch()
while True:
    time.sleep(0.01)
"""


@pytest.mark.skipif(sys.platform != "linux" or platform.machine() != "x86_64", reason="by a call's number")
def test_a_child_whose_threads_end_behind_it_is_not_left_a_zombie(
    song: SongFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervising, "REAP_S", 60.0)  # for a busy machine
    make(song, worker=(sys.executable, "-c", LINGERS), grace_s=60.0)
    outcome = read_message(song.attempts()[-1].outcome, Outcome)
    assert (outcome.cause, outcome.exit_code) == ("interrupted", 0)


@pytest.mark.parametrize("end", ["", "only 1\nexit 1"])
def test_a_song_much_slower_than_the_profile_puts_that_in_doubt_however_it_ends(
    song: SongFolder, end: str
) -> None:
    here = house()

    async def run() -> None:
        await supervise(job(f"steps 1 0.01\nslower 2.5\n{end}"), song, here, lambda said: None)

    asyncio.run(run())
    assert here.doubt.is_set()
    assert read_message(song.attempts()[0].outcome, Outcome).slower == 2.5


def test_a_song_is_told_what_a_pass_takes_by_the_profile_on_its_threads(song: SongFolder) -> None:
    answer = replace(JOB.answer, pass_s=3.0, threads=4, decoder_speed=0.7, decoder_around_s=4.0)
    make(song, replace(JOB, answer=answer, song=replace(JOB.song, threads=2)))
    request = newest_request(song)
    assert (request.pass_s, request.decoder_speed, request.decoder_around_s) == (6.0, 0.7, 4.0)
    make(song, replace(JOB, fingerprint="2", answer=replace(answer, pass_s=0.0)))
    assert newest_request(song).pass_s is None
