"""One song: spawn → watch → kill → retry, until it is made or given up.

All that is known of a song is in its folder, so it goes on where its last parent, or machine, died.
"""

from __future__ import annotations

import asyncio
import errno
import math
import secrets
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from runner import foresight, manifest, probes, processes, verdict
from runner.files import write_json, write_message
from runner.messages import FREE_CAUSES, Cause, Outcome, QueuedSong, SongAnswer, SongRequest, SongState
from runner.past import Past, last_t, read_outcome, recall, shown
from runner.songfolder import Attempt, SongFolder
from runner.spec import Song, asked
from runner.verdict import GiveUp, Kill, Plan, Watch

TICK_S = 0.5
GRACE_S = 5.0
# Waiting for memory ends here: it may be another program's, for good.
AWAIT_MEMORY_S = 300.0
# Keeping what is there is worth any time; a decoder that hangs is still seen as stalled.
ESTIMATE_S = 86_400.0
# -P: files in the folder where the batch was started are not the worker's modules.
WORKER = (sys.executable, "-P", "-m", "runner.worker", "sing")


@dataclass(frozen=True, slots=True)
class Job:
    """A song with all that was decided about it before the first child starts."""

    song: Song
    answer: SongAnswer
    fingerprint: str

    @property
    def plan(self) -> Plan:
        """The first attempt."""
        return Plan(
            density=self.answer.steps,
            precision=self.answer.precision,
            chunk_frames=128,
            threads=self.song.threads or processes.usable_cores(),
            resume=self.song.resume,
        )


class Room:
    """The songs with an attempt under way. One that has to be alone waits until all others have left it,
    and nobody else enters before."""

    def __init__(self) -> None:
        self._inside: set[str] = set()
        self._alone: str | None = None

    def enter(self, song: str, *, alone: bool) -> bool:
        """Whether the song is in the room now; if not, it asks again later."""
        if self._alone not in (None, song):
            return False
        if alone:
            self._alone = song
            if self._inside - {song}:
                return False
        self._inside.add(song)
        return True

    def leave(self, song: str) -> None:
        """Leave the room, or no longer wait for it."""
        self._inside.discard(song)
        if self._alone == song:
            self._alone = None


@dataclass(frozen=True, slots=True)
class House:
    """What all songs of one batch share.

    stopping: set when the batch is to end; hurry: without grace.
    epoch: when the batch that makes all anew began, else 0. own: pids of children that somebody of us
    started and waits for; any other child is a stray.
    """

    mark: str
    room: Room = field(default_factory=Room)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    hurry: asyncio.Event = field(default_factory=asyncio.Event)
    worker: tuple[str, ...] = WORKER
    tick_s: float = TICK_S
    grace_s: float = GRACE_S
    thrash_s: float = 20.0
    epoch: float = 0.0
    own: set[int] = field(default_factory=set)


async def supervise(
    job: Job,
    folder: SongFolder,
    house: House,
    say: Callable[[QueuedSong], None],
    *,
    redo_degraded: bool = False,
) -> QueuedSong:
    """Make the song, whatever it takes; its final state.

    redo_degraded: forget the attempts that made a degraded song.
    """
    began = time.monotonic()
    past = _take_up(job, folder, house, redo_degraded=redo_degraded)
    while True:
        if past.outcomes and past.outcomes[-1].cause is None:
            state = _finish(job, folder, past)
            if state is not None:
                return replace(state, seconds=time.monotonic() - began)
            _distrust(past)
            past = recall(folder, job.fingerprint)
        spent_s = sum(o.elapsed_s for o in past.outcomes if o.cause not in FREE_CAUSES)
        left_s = None if job.song.deadline_s is None else job.song.deadline_s - spent_s
        plan = verdict.next_attempt(
            job.plan,
            past.ends,
            attempts=job.song.attempts,
            checkpoint_t=past.checkpoint_t,
            out_of_time=left_s is not None and left_s <= 0,
        )
        if isinstance(plan, Plan) and not _as_checked(job):
            words = "its clip or the sound to edit has changed since the check; run the same command again"
            plan = GiveUp("bad-input", words)
        if isinstance(plan, GiveUp):
            return _fail(job, folder, past, plan)
        try:
            stop = await _turn(plan, folder, house, past, say)
            if stop is not None:
                return QueuedSong(folder.id, "interrupted", note=stop.message, attempts=len(past.outcomes))
            outcome = await _attempt(job, folder, house, plan, past, left_s, say)
        finally:
            house.room.leave(folder.id)
        if outcome.cause in FREE_CAUSES:
            return QueuedSong(folder.id, "interrupted", note=outcome.message, attempt=outcome.attempt)
        past = recall(folder, job.fingerprint)


def _take_up(job: Job, folder: SongFolder, house: House, *, redo_degraded: bool) -> Past:
    """What earlier batches have left of this song that is worth going on with."""
    folder.stop.unlink(missing_ok=True)
    folder.clean()
    past = recall(folder, job.fingerprint)
    if house.epoch and past.request is not None and past.request.epoch != house.epoch:
        return Past()  # to be made anew, seed and all
    if redo_degraded and past.outcomes and past.outcomes[-1].song.get("degraded"):
        return Past(seed=past.seed)
    if past.ends and past.ends[-1].cause == "no-disk":  # there may be room now
        past = replace(past, ends=past.ends[:-1])
    spent = verdict.next_attempt(
        job.plan, past.ends, attempts=job.song.attempts, checkpoint_t=past.checkpoint_t
    )
    # Given up by a batch that could not write that down: this one tries afresh, as after any failure.
    return Past(seed=past.seed) if isinstance(spent, GiveUp) else past


def _as_checked(job: Job) -> bool:
    """Are the sounds that the song is made from still those that were checked, maybe hours ago?"""
    if job.song.style_audio is None and job.song.edit_source is None:
        return True
    try:
        return manifest.fingerprint(job.song, job.answer) == job.fingerprint
    except OSError:
        return False


def _distrust(past: Past) -> None:
    """Count the last attempt as a crash: its sound is not what its maker said it was."""
    assert past.attempt is not None
    outcome = replace(
        past.outcomes[-1], cause="crash", message="the finished sound is gone or damaged", song={}
    )
    write_message(past.attempt.outcome, outcome)


# ---------------------------------------------------------------- the end of a song


def _finish(job: Job, folder: SongFolder, past: Past) -> QueuedSong | None:
    """Give a made song its name and its manifest; None if the sound has vanished meanwhile.

    May be interrupted anywhere and be called again: the move is one rename, the manifest comes last.
    """
    assert past.attempt is not None
    assert past.request is not None
    sound = past.attempt.audio(past.request.format)
    sound = folder.publish(sound) if sound.exists() else folder.audio(past.request.format)
    if not sound.exists() or manifest.sha256(sound) != past.outcomes[-1].song.get("sha256"):
        return None
    content = manifest.write(folder, past.request, job.answer, list(past.outcomes), sound)
    folder.failure.unlink(missing_ok=True)
    folder.tidy(sound)
    state: SongState = "degraded" if content["degraded"] else "done"
    return QueuedSong(
        folder.id,
        state,
        note=content["degraded"] or "",
        attempt=past.outcomes[-1].attempt,
        attempts=len(past.outcomes),
        file=str(sound),
        seconds=content["seconds"],
    )


def _fail(job: Job, folder: SongFolder, past: Past, why: GiveUp) -> QueuedSong:
    with suppress(OSError):  # a full disk may be the very reason
        write_json(
            folder.failure,
            {
                "schema": 1,
                "state": "failed",
                "song": folder.id,
                "cause": why.cause,
                "message": why.message,
                "fingerprint": job.fingerprint,
                "series": past.series,
                "attempts": [asdict(outcome) for outcome in past.outcomes],
            },
        )
    return QueuedSong(folder.id, "failed", note=why.message, attempts=len(past.outcomes))


# ---------------------------------------------------------------- one attempt


async def _turn(
    plan: Plan, folder: SongFolder, house: House, past: Past, say: Callable[[QueuedSong], None]
) -> Kill | None:
    """Wait until there is room, then until the memory that the last attempt had is free again.

    A Kill if the song is asked to stop meanwhile.
    """
    waiting = QueuedSong(folder.id, "running", note="waits to be alone", attempts=len(past.outcomes))
    if plan.alone:
        say(waiting)
    stop = await _wait_for(lambda: house.room.enter(folder.id, alone=plan.alone), folder, house)
    if stop is None and plan.await_bytes:
        say(replace(waiting, note="waits for memory"))
        # The next plan needs less than the last attempt had, which may have been more than there is.
        wanted = min(plan.await_bytes, (probes.total_bytes() or plan.await_bytes) // 2)
        stop = await _wait_for(lambda: _is_free(wanted), folder, house, at_most_s=AWAIT_MEMORY_S)
    return stop


async def _wait_for(
    condition: Callable[[], bool], folder: SongFolder, house: House, *, at_most_s: float = math.inf
) -> Kill | None:
    end = time.monotonic() + at_most_s
    while (stop := _asked_to_stop(folder, house)) is None and not condition() and time.monotonic() < end:
        await _tick(house)
    return stop


def _is_free(count: int) -> bool:
    available = probes.available_bytes()
    return available is None or available >= count


async def _attempt(
    job: Job,
    folder: SongFolder,
    house: House,
    plan: Plan,
    past: Past,
    left_s: float | None,
    say: Callable[[QueuedSong], None],
) -> Outcome:
    attempt = folder.new_attempt()
    request = _ask(job, folder, attempt, house, plan, past, left_s)
    write_message(attempt.request, request)
    folder.failure.unlink(missing_ok=True)  # it told of an earlier making
    say(
        QueuedSong(
            folder.id, "running", note=plan.note, attempt=attempt.number, attempts=len(past.outcomes) + 1
        )
    )
    outcome = await _run(job, folder, attempt, request, house)
    if outcome.t is None and request.checkpoint is not None:  # it got no step further
        outcome = replace(outcome, t=past.checkpoint_t)
    attempt.clean()
    write_message(attempt.outcome, outcome)
    return outcome


def _ask(
    job: Job,
    folder: SongFolder,
    attempt: Attempt,
    house: House,
    plan: Plan,
    past: Past,
    left_s: float | None,
) -> SongRequest:
    song, answer = job.song, job.answer
    seed = song.seed if song.seed is not None else past.seed
    timeout_s = song.timeout_s if left_s is None else min(song.timeout_s, left_s)
    if plan.mode == "estimate":
        timeout_s = ESTIMATE_S
    decoder = foresight.decoder_of_nearest(
        shown(folder.outputs),
        model_hash=answer.model_hash,
        precision=plan.precision,
        duration=answer.duration,
    )
    return SongRequest(
        song=folder.id,
        attempt=attempt.number,
        series=past.series or attempt.number,
        epoch=house.epoch,
        fingerprint=job.fingerprint,
        **asked(song),
        model_hash=answer.model_hash,
        duration=answer.duration,
        seed=secrets.randbelow(2**31) if seed is None else seed,
        steps=answer.steps,
        cfg=answer.cfg,
        sampler=answer.sampler,
        grid=answer.grid,
        format=song.format,
        bits=song.bits,
        loudness=song.loudness,
        density=plan.density,
        precision=plan.precision,
        threads=plan.threads,
        chunk_frames=plan.chunk_frames,
        checkpoint=str(past.checkpoint) if plan.resume and past.checkpoint else None,
        foresight=song.foresight,
        timeout_s=timeout_s,
        mode=plan.mode,
        decoder_speed=decoder.speed if decoder else None,
        decoder_around_s=decoder.around_s if decoder else None,
    )


async def _run(job: Job, folder: SongFolder, attempt: Attempt, request: SongRequest, house: House) -> Outcome:
    limits = verdict.Limits(
        timeout_s=request.timeout_s,
        stall_s=job.song.stall_s,
        memory_bytes=job.song.memory_bytes or probes.total_bytes(),
        thrash_s=house.thrash_s,
    )
    mark = f"{house.mark}|{folder.id}|{attempt.number}|"
    began = time.monotonic()
    try:
        process = processes.spawn(
            [*house.worker, str(attempt.request)],
            log=attempt.log,
            mark=mark,
            limits=processes.Limits(threads=request.threads, nice=job.song.nice),
            env={},
        )
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.ENOMEM):
            raise
        return Outcome(attempt.number, "out-of-memory", f"no process could be started: {error.strerror}")
    house.own.add(process.pid)
    leader = processes.identity(process.pid)
    watch, kill = Watch(), None
    try:
        while process.poll() is None and kill is None:
            watch = verdict.observe(watch, probes.read(process.pid, folder.heartbeat, attempt=attempt.number))
            kill = _asked_to_stop(folder, house) or verdict.judge(watch, limits)
            if kill is None:
                await _tick(house)
    finally:
        # Also when this coroutine is cancelled or a probe fails: a child is never left behind.
        survivors = await _end_all(process.pid, leader, mark, house, grace=kill is not None)
        if process.poll() is not None:
            house.own.discard(process.pid)
        processes.reap_adopted(house.own)
    exit_code = process.poll()
    told = read_outcome(attempt)
    return _judge_end(
        attempt, request, watch, limits, kill, exit_code, told, time.monotonic() - began, survivors
    )


def _asked_to_stop(folder: SongFolder, house: House) -> Kill | None:
    if house.stopping.is_set():
        return Kill("interrupted", "stopped with its batch; goes on with the same command")
    if folder.stop.exists():
        folder.stop.unlink(missing_ok=True)
        return Kill("interrupted", "stopped by `runner stop`; goes on with the same command")
    return None


async def _tick(house: House) -> None:
    """Wait for the next look. All songs are looked at in the same moment: woken once and not once for each,
    a parent of four costs a third less (benchmarks/parent_cost.py)."""
    wait_s = house.tick_s - time.monotonic() % house.tick_s
    with suppress(TimeoutError):
        await asyncio.wait_for(house.stopping.wait(), wait_s)


async def _end_all(
    pid: int, leader: processes.Identity | None, mark: str, house: House, *, grace: bool
) -> list[processes.Identity]:
    """No process of this attempt lives on, whether it was killed or ended by itself."""
    who = leader or processes.Identity(pid, -1, processes.boot_id())
    return await processes.end_tree(
        lambda: processes.tree(who, mark),
        grace_s=house.grace_s if grace else 0.0,
        hurry=house.hurry.is_set,
    )


def _judge_end(
    attempt: Attempt,
    request: SongRequest,
    watch: Watch,
    limits: verdict.Limits,
    kill: Kill | None,
    exit_code: int | None,
    told: Outcome | None,
    elapsed_s: float,
    survivors: list[processes.Identity],
) -> Outcome:
    cause: Cause | None
    if told is not None and told.cause is None:
        cause, message = None, told.message  # a kill that came too late for a finished song
    elif kill is not None:
        cause, message = kill.cause, kill.message
    else:
        code = exit_code if exit_code is not None else -signal.SIGKILL
        cause, message = verdict.classify(code, told, watch, limits, probes.oom_kills())
    if survivors:
        message += f"; {len(survivors)} of its processes hang in the kernel: {[who.pid for who in survivors]}"
    beat = watch.last.beat if watch.last else None
    t = told.t if told is not None and told.t is not None else last_t(attempt)
    return Outcome(
        attempt=attempt.number,
        cause=cause,
        message=message,
        t=t if t is not None else (beat.t if beat else None),
        density=beat.density if beat else request.density,
        exit_code=exit_code,
        elapsed_s=round(elapsed_s, 3),
        peak_rss=watch.peak_rss,
        peak_swap=watch.peak_swap,
        peak_private=watch.peak_private,
        slept_s=round(watch.slept_s, 3),
        song=told.song if told is not None and cause is None else {},
        evidence=_evidence(watch) if kill is not None and cause is not None else [],
    )


def _evidence(watch: Watch) -> list[dict[str, Any]]:
    """The last minute of samples, one a second at most, without the beats; that which decided is last."""
    kept: list[dict[str, Any]] = []
    for at, reading in reversed(watch.samples):
        if not kept or kept[-1]["at"] - at >= 1.0:
            kept.append(
                {
                    "at": round(at, 2),
                    **{k: v for k, v in asdict(replace(reading, beat=None)).items() if k != "beat"},
                }
            )
    return kept[::-1]
