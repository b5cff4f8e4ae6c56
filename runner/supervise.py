"""One song: spawn → watch → kill → retry, until it is made or given up.

All that is known of a song is in its folder, so it goes on where its last parent, or machine, died.
"""

from __future__ import annotations

import asyncio
import errno
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from runner import admission, cgroups, curve, foresight, machine, manifest, probes, processes, verdict
from runner.admission import Entrance, Free, Need, Obstacle, Room
from runner.curve import Curve
from runner.errors import ForeignFileError
from runner.files import is_full, write_json, write_message
from runner.forecast import profile_pass_s
from runner.foresight import Decoder, Shown
from runner.messages import (
    FREE_CAUSES,
    MEMORY_CAUSES,
    Cause,
    Outcome,
    QueuedSong,
    SongAnswer,
    SongRequest,
    SongState,
)
from runner.past import Past, last_t, read_outcome, recall, shown_by
from runner.songfolder import Attempt, SongFolder
from runner.spec import Song, asked
from runner.until import Until, clocks
from runner.verdict import GiveUp, Kill, Plan, Watch

Done = TypeVar("Done")

TICK_S = 0.5
GRACE_S = 5.0
REAP_S = 1.0
# What no song of ours has may be another program's, for good.
AWAIT_S = 300.0
STOPPED = "stopped by `runner stop`; goes on with the same command"
# Keeping what is there is worth any time; a decoder that hangs is still seen as stalled.
ESTIMATE_S = 86_400.0
# -P: files in the folder where the batch was started are not the worker's modules.
WORKER = (sys.executable, "-P", "-m", "runner.worker", "sing")


@dataclass(frozen=True, slots=True)
class Job:
    """A song with all that was decided about it before the first child starts.

    density: the steps that the night has for it; None: all. lands: it is to end before the batch does.
    """

    song: Song
    answer: SongAnswer
    fingerprint: str
    density: int | None = None
    lands: bool = True

    @property
    def plan(self) -> Plan:
        """The first attempt."""
        asked = self.answer.steps
        density = asked if self.density is None else min(asked, self.density)
        return Plan(
            density=density,
            precision=self.answer.precision,
            chunk_frames=self.answer.chunk_frames,
            overlap_frames=self.answer.overlap_frames,
            threads=self.song.threads or self.answer.threads or processes.usable_cores(),
            resume=self.song.resume,
            note=f"{density} steps instead of {asked}, to end in time" if density < asked else "",
        )


@dataclass(frozen=True, slots=True)
class House:
    """What all songs of one batch share.

    stopping: set when the batch is to end; hurry: without grace.
    epoch: when the batch that makes all anew began, else 0. own: pids of children that somebody of us
    started and waits for; any other child is a stray. shown: by the songs finished here, the newest last.
    await_s: how long to wait for memory or disk that no song of ours has. memory: bytes of RAM that we may
    count on; None: unknown. root: where proc and sys tell of control groups. songs: the one that holds them;
    None: our watching has to do. doubt: set when a song was much slower than the machine's profile says.
    until: when the batch has to end; None: when all is made. host: name of this machine, for words that are
    read on another.
    """

    mark: str
    room: Entrance = field(default_factory=Room)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    hurry: asyncio.Event = field(default_factory=asyncio.Event)
    worker: tuple[str, ...] = WORKER
    tick_s: float = TICK_S
    grace_s: float = GRACE_S
    thrash_s: float = 20.0
    await_s: float = AWAIT_S
    epoch: float = 0.0
    own: set[int] = field(default_factory=set)
    shown: list[Shown] = field(default_factory=list)
    memory: int | None = None
    root: Path = Path("/")
    songs: cgroups.Songs | None = None
    doubt: asyncio.Event = field(default_factory=asyncio.Event)
    until: Until | None = None
    host: str = ""

    @property
    def left_s(self) -> float | None:
        """Seconds until the batch has to end."""
        return None if self.until is None else self.until.left_s(*clocks())

    @property
    def is_over(self) -> bool:
        return self.left_s is not None and self.left_s <= 0

    @property
    def memory_for_songs(self) -> int | None:
        """For all of them together."""
        return None if self.memory is None else verdict.for_songs(self.memory)

    @property
    def ceiling(self) -> int | None:
        """Of private memory of a song that names none: in RAM and in swap, as that is counted."""
        return None if self.memory_for_songs is None else self.memory_for_songs + (probes.swap_bytes() or 0)

    def free(self, folder: Path) -> Free:
        """What there is now for the songs of that folder."""
        return Free(
            probes.available_bytes(),
            probes.disk_free_bytes(folder),
            self.memory_for_songs,
            probes.has_gpu(self.root),
        )

    def told(self, words: str) -> str:
        """Last words of a song, which tell where that was."""
        return f"on {self.host}: {words}" if self.host else words


def memory_here(root: Path) -> int | None:
    """Bytes of RAM that songs here may count on, in a container those of the container; None: unknown."""
    return machine.usable_memory(probes.total_bytes(), cgroups.memory_limit(root))


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
    since = folder.next_number
    past = _take_up(job, folder, house, since, redo_degraded=redo_degraded)
    while True:
        if past.outcomes and past.outcomes[-1].cause is None:
            state = await _when_there_is_room(partial(_finish, job, folder, past, house), house)
            if state is not None:
                return replace(state, seconds=time.monotonic() - began)
            await _when_there_is_room(partial(_distrust, past), house)
            past = recall(folder, job.fingerprint, since=since)
        spent_s = sum(o.elapsed_s for o in past.outcomes if o.cause not in FREE_CAUSES)
        left_s = None if job.song.deadline_s is None else job.song.deadline_s - spent_s
        plan = verdict.next_attempt(
            job.plan,
            past.ends,
            attempts=job.song.attempts,
            checkpoint_t=past.checkpoint_t,
            out_of_time=left_s is not None and left_s <= 0,
        )
        if isinstance(plan, Plan) and not is_as_checked(job):
            words = "its clip or the sound to edit has changed since the check; run the same command again"
            plan = GiveUp("bad-input", words)
        if isinstance(plan, GiveUp):
            return _fail(job, folder, past, plan, house)
        try:
            put_off = await _turn(job, plan, folder, house, past, say)
            if put_off is not None:
                return put_off
            outcome = await _attempt(job, folder, house, plan, past, left_s, say)
            if outcome.cause in MEMORY_CAUSES and not (
                outcome.cause == "memory-ceiling" and job.song.memory_bytes
            ):
                house.room.ran_out(time.monotonic())
        finally:
            house.room.leave(folder.id)
        if outcome.cause in FREE_CAUSES:
            return QueuedSong(folder.id, "interrupted", note=outcome.message, attempt=outcome.attempt)
        past = recall(folder, job.fingerprint, since=since)


def _take_up(job: Job, folder: SongFolder, house: House, since: int, *, redo_degraded: bool) -> Past:
    """As `earlier`, in a folder that is cleared of what nobody needs."""
    folder.stop.unlink(missing_ok=True)
    folder.clean()
    return earlier(job, folder, house.epoch, since, redo_degraded=redo_degraded)


def earlier(job: Job, folder: SongFolder, epoch: float, since: int, *, redo_degraded: bool) -> Past:
    """What earlier batches have left of this song that is worth going on with, by its files alone."""
    past = recall(folder, job.fingerprint, since=since)
    if epoch and past.request is not None and past.request.epoch != epoch:
        return Past()  # to be made anew, seed and all
    if redo_degraded and past.outcomes and past.outcomes[-1].song.get("degraded"):
        return Past(seed=past.seed)
    if past.outcomes and past.outcomes[-1].cause is None:
        return past  # made; its parent died before it said so
    spent = verdict.next_attempt(
        job.plan, past.ends, attempts=job.song.attempts, checkpoint_t=past.checkpoint_t
    )
    # Given up by a batch that could not write that down: this one tries afresh, as after any failure.
    return Past(seed=past.seed) if isinstance(spent, GiveUp) else past


def is_as_checked(job: Job) -> bool:
    """Are the sounds that the song is made from still those that were checked, maybe hours ago?"""
    if job.song.style_audio is None and job.song.edit_source is None:
        return True
    try:
        return manifest.fingerprint(job.song, job.answer) == job.fingerprint
    except (OSError, ForeignFileError):
        return False


def _distrust(past: Past) -> None:
    """Count the last attempt as a crash: its sound is not what its maker said it was."""
    assert past.attempt is not None
    outcome = replace(
        past.outcomes[-1], cause="crash", message="the finished sound is gone or damaged", song={}
    )
    write_message(past.attempt.outcome, outcome)


# ---------------------------------------------------------------- the end of a song


def _finish(job: Job, folder: SongFolder, past: Past, house: House) -> QueuedSong | None:
    """Give a made song its name and its manifest; None if the sound has vanished meanwhile.

    May be interrupted anywhere and be called again: the move is one rename, the manifest comes last, and
    behind it there is nothing left to do.
    """
    assert past.attempt is not None
    assert past.request is not None
    sound = past.attempt.audio(past.request.format)
    sound = folder.publish(sound) if sound.exists() else folder.audio(past.request.format)
    if not sound.is_file() or manifest.sha256(sound) != past.outcomes[-1].song.get("sha256"):
        return None
    folder.failure.unlink(missing_ok=True)
    folder.tidy(sound)
    content = manifest.write(folder, past.request, job.answer, list(past.outcomes), sound)
    told = shown_by(content)
    if told is not None:
        house.shown.append(told)
    state: SongState = "degraded" if content["degraded"] else "done"
    return QueuedSong(
        folder.id,
        state,
        note=str(content["degraded"] or ""),
        attempt=past.outcomes[-1].attempt,
        attempts=len(past.outcomes),
        file=str(sound),
        seconds=content["seconds"],
    )


def _fail(job: Job, folder: SongFolder, past: Past, why: GiveUp, house: House) -> QueuedSong:
    words = house.told(why.message)
    with suppress(OSError):  # a full disk may be the very reason
        write_json(
            folder.failure,
            {
                "schema": 1,
                "state": "failed",
                "song": folder.id,
                "cause": why.cause,
                "message": words,
                "fingerprint": job.fingerprint,
                "series": past.series,
                "attempts": [asdict(outcome) for outcome in past.outcomes],
            },
        )
    return QueuedSong(folder.id, "failed", note=words, attempts=len(past.outcomes))


# ---------------------------------------------------------------- one attempt


async def _turn(
    job: Job, plan: Plan, folder: SongFolder, house: House, past: Past, say: Callable[[QueuedSong], None]
) -> QueuedSong | None:
    """Wait until there is a place, memory and disk for the next attempt; a state if it is put off.

    What others of ours hold comes back when they end. What nobody of ours holds is waited for await_s; then
    memory is tried without, since a prediction may be wrong, but a full disk is not.
    """
    need, room = need_of(job, plan, house.shown, house.memory), house.room
    waiting = QueuedSong(folder.id, "running" if past.outcomes else "queued", attempts=len(past.outcomes))
    began = empty_since = time.monotonic()
    kind = ""
    while True:
        if (stop := _asked_to_stop(folder, house)) is not None:
            unbegun = house.is_over and not past.outcomes
            return replace(waiting, state="left" if unbegun else "interrupted", note=stop.message)
        now = time.monotonic()
        if not room.is_empty():
            empty_since = now
        tired = now - empty_since >= house.await_s
        despite_memory = tired or (room.is_empty() and room.gave_up_on_memory)
        overdue = kind == "memory" and now - began >= house.await_s
        found = room.enter(
            folder.id, need, house.free(folder.folder), now, despite_memory=despite_memory, overdue=overdue
        )
        if found is None:
            room.gave_up_on_memory = despite_memory
            return None
        if found.kind == "disk" and tired:
            return _put_off(waiting, found, house)
        if found.kind != kind:  # not for each byte that comes or goes
            kind, waiting = found.kind, replace(waiting, note=found.words)
            say(waiting)
        await _tick(house)


def _put_off(waiting: QueuedSong, found: Obstacle, house: House) -> QueuedSong:
    words = f"{found.words.removeprefix('waits for ')}; make room, then run the same command again"
    return replace(waiting, state="interrupted" if waiting.attempts else "left", note=house.told(words))


def need_of(job: Job, plan: Plan, songs: Sequence[Shown], memory: int | None) -> Need:
    """What the next attempt will have at its most. songs: finished before. memory: all that there is."""
    answer = job.answer
    private = admission.private_bytes(
        songs,
        model_hash=answer.model_hash,
        precision=plan.precision,
        duration=answer.duration,
        foreseen=answer.private_bytes,
    )
    if plan.await_bytes:
        # The next plan needs less than the last attempt had, which may have been more than there is.
        private = min(plan.await_bytes, plan.await_bytes if memory is None else memory // 2)
    return Need(
        private=private,
        mapped=answer.mapped_bytes,
        model=answer.model_hash,
        disk=admission.disk_bytes(answer.duration),
        alone=plan.alone,
        gpus=answer.gpus,
    )


async def _attempt(
    job: Job,
    folder: SongFolder,
    house: House,
    plan: Plan,
    past: Past,
    left_s: float | None,
    say: Callable[[QueuedSong], None],
) -> Outcome:
    attempt = await _when_there_is_room(folder.new_attempt, house)
    request = _ask(job, folder, attempt, house, plan, past, left_s)
    await _when_there_is_room(partial(write_message, attempt.request, request), house)
    folder.failure.unlink(missing_ok=True)  # it told of an earlier making
    say(
        QueuedSong(
            folder.id, "running", note=plan.note, attempt=attempt.number, attempts=len(past.outcomes) + 1
        )
    )
    outcome = await _run(job, folder, attempt, request, house)
    if outcome.slower is not None:
        house.doubt.set()
    if outcome.t is None and request.checkpoint is not None:  # it got no step further
        outcome = replace(outcome, t=past.checkpoint_t)
    folder.clean()
    house.room.uses(folder.id, 0)
    await _when_there_is_room(partial(write_message, attempt.outcome, outcome), house)
    return outcome


async def _when_there_is_room(act: Callable[[], Done], house: House) -> Done:
    """What act gives, as soon as the disk has room for what it writes; its OSError after await_s.

    An end that is not written down is forgotten, and a made song without its manifest is none.
    """
    until = time.monotonic() + house.await_s
    while True:
        try:
            return act()
        except OSError as error:
            if not is_full(error) or house.stopping.is_set() or time.monotonic() >= until:
                raise
        await _tick(house)


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
    elif job.lands and house.left_s is not None:
        timeout_s = max(0.0, min(timeout_s, house.left_s))  # so that its foresight makes it end in time
    decoder = foresight.decoder_of_nearest(
        house.shown,
        model_hash=answer.model_hash,
        precision=plan.precision,
        duration=answer.duration,
    ) or Decoder(answer.decoder_speed, answer.decoder_around_s)
    # The profile speaks of the arithmetic that was chosen, and not of one that a later attempt falls back to.
    pass_s = profile_pass_s(answer, plan.threads) if plan.precision == answer.precision else 0.0
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
        fade_out=song.fade_out,
        density=plan.density,
        precision=plan.precision,
        threads=plan.threads,
        chunk_frames=plan.chunk_frames,
        overlap_frames=plan.overlap_frames,
        checkpoint=str(past.checkpoint) if plan.resume and past.checkpoint else None,
        foresight=song.foresight,
        timeout_s=timeout_s,
        mode=plan.mode,
        decoder_speed=decoder.speed,
        decoder_around_s=decoder.around_s,
        pass_s=pass_s or None,
        attempts=song.attempts,
        memory_bytes=song.memory_bytes or house.ceiling,
    )


async def _run(job: Job, folder: SongFolder, attempt: Attempt, request: SongRequest, house: House) -> Outcome:
    limits = verdict.Limits(
        timeout_s=request.timeout_s,
        stall_s=job.song.stall_s,
        memory_bytes=request.memory_bytes,
        thrash_s=house.thrash_s,
        floor_bytes=None if house.memory is None else verdict.floor(house.memory),
    )
    mark = f"{house.mark}|{folder.id}|{attempt.number}|"
    group = _group(house, limits)
    began, began_wall = time.monotonic(), time.time()
    try:
        process = processes.spawn(
            [*house.worker, str(attempt.request)],
            log=attempt.log,
            mark=mark,
            limits=processes.Limits(threads=request.threads, nice=job.song.nice),
            env={},
            group=group.entry if group else None,
        )
    except (OSError, subprocess.SubprocessError) as error:
        if group is not None:
            group.remove()
        if not isinstance(error, OSError) or error.errno not in (errno.EAGAIN, errno.ENOMEM):
            raise
        return Outcome(attempt.number, "out-of-memory", f"no process could be started: {error.strerror}")
    house.own.add(process.pid)
    leader = processes.identity(process.pid)
    watch, memory, kill = Watch(), Curve(), None
    try:
        while process.poll() is None and kill is None:
            reading = probes.read(process.pid, folder.heartbeat, attempt=attempt.number)
            watch = verdict.observe(watch, reading)
            memory = curve.extended(memory, _used(reading, began))
            house.room.uses(folder.id, reading.private)
            heaviest = house.room.is_heaviest(folder.id)
            kill = _asked_to_stop(folder, house) or verdict.judge(watch, limits, heaviest=heaviest)
            if kill is None:
                await _tick(house)
    finally:
        # Also when this coroutine is cancelled or a probe fails: a child is never left behind.
        survivors = await _end_all(process.pid, leader, mark, group, house, grace=kill is not None)
        await _reap(process)
        if process.returncode is not None:
            house.own.discard(process.pid)
        processes.reap_adopted(house.own)
        held = group.tell() if group else None
        if group is not None:
            group.remove()
    exit_code = process.poll()
    told = read_outcome(attempt)
    watch = verdict.heard(watch, probes.beat(process.pid, folder.heartbeat, attempt=attempt.number))
    ended = _judge_end(
        attempt, request, watch, limits, kill, exit_code, told, time.monotonic() - began, survivors, held
    )
    points = [list(point) for point in memory.points]
    return replace(ended, began_wall=round(began_wall, 1), ended_wall=round(time.time(), 1), memory=points)


def _used(reading: verdict.Reading, began: float) -> curve.Point:
    return round(reading.mono - began, 1), reading.private, reading.rss or 0, reading.swap or 0


def _group(house: House, limits: verdict.Limits) -> cgroups.Group | None:
    """The control group of a new attempt, or None where we alone watch over its memory."""
    if house.songs is None or limits.memory_bytes is None:
        return None
    return house.songs.group(limits.memory_bytes + verdict.MAPPED_BYTES)


def _asked_to_stop(folder: SongFolder, house: House) -> Kill | None:
    if house.is_over:
        return Kill("interrupted", "the batch's time was over; goes on with the same command")
    if house.stopping.is_set():
        return Kill("interrupted", "stopped with its batch; goes on with the same command")
    if folder.stop.is_file():
        folder.stop.unlink(missing_ok=True)
        return Kill("interrupted", STOPPED)
    return None


async def _tick(house: House) -> None:
    """Wait for the next look. All songs are looked at in the same moment: woken once and not once for each,
    a parent of four costs a third less (benchmarks/parent_cost.py)."""
    wait_s = house.tick_s - time.monotonic() % house.tick_s
    with suppress(TimeoutError):
        await asyncio.wait_for(house.stopping.wait(), wait_s)


async def _end_all(
    pid: int,
    leader: processes.Identity | None,
    mark: str,
    group: cgroups.Group | None,
    house: House,
    *,
    grace: bool,
) -> list[processes.Identity]:
    """No process of this attempt lives on, whether it was killed or ended by itself."""
    who = leader or processes.Identity(pid, -1, processes.boot_id())
    return await processes.end_tree(
        lambda: [*processes.tree(who, mark), *(group.members() if group else [])],
        grace_s=house.grace_s if grace else 0.0,
        hurry=house.hurry.is_set,
        kill=group.kill if group else lambda: None,
    )


async def _reap(process: subprocess.Popen[bytes]) -> None:
    """Take its exit code: a process shows as a zombie a moment before its last thread has ended."""
    until = time.monotonic() + REAP_S
    while process.poll() is None and time.monotonic() < until:
        await asyncio.sleep(0.01)


async def end_strays(house: House) -> None:
    """End what escaped from its song: by its mark, or because it came to us when its own parent died."""
    await processes.end_tree(
        lambda: [
            *processes.marked(house.mark),
            *processes.adopted(house.own),
            *(house.songs.members() if house.songs else []),
        ],
        grace_s=0.0,
    )
    processes.reap_adopted(house.own)


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
    held: verdict.Held | None,
) -> Outcome:
    cause: Cause | None
    if told is not None and told.cause is None:
        cause, message = None, told.message  # a kill that came too late for a finished song
    elif kill is not None and not (held and held.killed and kill.cause in MEMORY_CAUSES):
        cause, message = kill.cause, kill.message
    else:
        # Of its own accord, or the kernel was quicker than we.
        code = exit_code if exit_code is not None else -signal.SIGKILL
        cause, message = verdict.classify(code, told, watch, limits, probes.oom_kills(), held)
    if survivors:
        message += f"; {len(survivors)} of its processes hang in the kernel: {[who.pid for who in survivors]}"
    beat = watch.beat
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
        slower=beat.slower if beat else None,
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
