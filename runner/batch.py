"""One batch: hold the outputs, skip what is done, make the rest side by side, say how it ended."""

from __future__ import annotations

import asyncio
import math
import signal
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from runner import cgroups, cluster, journal, manifest, night, past, processes, rays, verdict
from runner.admission import DISK_RESERVE, SONG_CORES, Free, Need, Room, side_by_side
from runner.errors import ForeignFileError, OutputError, RunnerError
from runner.files import is_full, read_message, write_message
from runner.forecast import forecast
from runner.foresight import Shown
from runner.messages import FINAL_STATES, Batch, QueuedSong, SongAnswer, SongState
from runner.outlook import Outlook, unfitting
from runner.past import Past
from runner.songfolder import Outputs, SongFolder
from runner.spec import Song
from runner.supervise import STOPPED, House, Job, earlier, end_strays, memory_here, need_of, supervise
from runner.until import Until, clocks
from runner.words import Change, size

VIEW_EVERY_S = 1.0
# A batch of more songs is written down at each look and not at each change: a thousand take 11 ms.
MANY = 100
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class Options:
    """workers: songs at once; None: by cores and memory. force: make all anew, with new seeds.

    redo_degraded: make those anew that had fewer steps than asked. until: when to end, whatever is made then.
    cluster: address of the Ray cluster that makes them; None: this machine does. check_again: measures this
    machine again and answers for songs that wait; None: they stay as they were checked.
    """

    workers: int | None = None
    force: bool = False
    redo_degraded: bool = False
    strict: bool = False
    until: Until | None = None
    cluster: str | None = None
    check_again: Callable[[Sequence[Song]], list[SongAnswer]] | None = None


@dataclass(slots=True)
class _Queue:
    """The songs that are still to be made, and whose turn it is.

    pasts: what earlier batches left of them; begun: what that shows of their pace. makers: so many that take
    songs from here. ends: when those under way are foreseen to end, monotonic.
    """

    jobs: list[Job]
    pasts: dict[str, Past]
    begun: list[Shown]
    makers: int
    ends: dict[str, float] = field(default_factory=dict)

    def songs(self, shown: Sequence[Shown]) -> list[night.Song]:
        """shown: by finished songs, which tell more than those that were only begun."""
        known = [*self.begun, *shown]
        return [_foreseen(job, self.pasts[job.song.id], known) for job in self.jobs]

    def plan(self, shown: Sequence[Shown], left_s: float | None) -> night.Plan:
        """On the lanes that are free now, and then those that will be when the songs under way have ended."""
        now = time.monotonic()
        free = max(1, min(self.makers - len(self.ends), len(self.jobs)))
        later = (max(0.0, end - now) for end in self.ends.values())
        return night.plan(self.songs(shown), [*[0.0] * free, *later], left_s)

    def next(self, house: House) -> Job | None:
        """The song whose turn it is, as the night has it; None: no more fits."""
        if house.until is None:
            return self.jobs.pop(0) if self.jobs else None
        places = self.plan(house.shown, house.left_s).places
        place = next((place for place in places if place.lane == 0), None)
        if place is None:
            self.makers -= 1
            return None
        (job,) = (job for job in self.jobs if job.song.id == place.song.id)
        self.jobs.remove(job)
        self.ends[job.song.id] = time.monotonic() + place.end_s
        return replace(job, density=place.steps if place.is_thinned else None, lands=place.lands)


@dataclass(slots=True)
class _Board:
    """How every song of this batch stands; each change goes to batch.json, at once or at the next look.

    held: are the outputs ours? problem: with batch.json. put_off: why a song was, if one was. is_behind: is
    batch.json?
    """

    outputs: Outputs
    head: Batch
    held: Callable[[], bool]
    songs: dict[str, QueuedSong] = field(default_factory=dict)
    problem: str = ""
    put_off: str = ""
    is_behind: bool = False

    def put(self, song: QueuedSong) -> None:
        self.songs[song.song] = replace(song, duration=self.songs[song.song].duration)
        self.is_behind = True
        if len(self.songs) <= MANY:
            self.write()

    def stop(self) -> None:
        """Say that the batch was asked to end."""
        self.head = replace(self.head, stopping=True)
        self.write()

    def write(self, *, finished: float | None = None) -> None:
        """A full disk must not end the batch: a running song may finish, the next look tries again."""
        if not self.held():
            return  # what lies here now is somebody else's
        self.is_behind = False
        try:
            write_message(
                self.outputs.batch,
                replace(self.head, songs=list(self.songs.values()), finished_wall=finished),
            )
            self.problem = ""
        except OSError as error:
            self.is_behind = True
            self.problem = (
                f"{self.outputs.batch}: {error.strerror}; make room, then run the same command again"
            )


@dataclass(frozen=True, slots=True)
class Ended:
    """How a batch ended: every song's final state, the signal that stopped it, trouble with its disk.

    in_time: its time was over, as it was told; what was under way then is for another night, as what is left.
    """

    songs: tuple[QueuedSong, ...]
    stopped_by: int | None = None
    problem: str = ""
    in_time: bool = False

    def exit_code(self, *, strict: bool) -> int:
        states = {song.state for song in self.songs}
        if self.stopped_by is not None:
            return 128 + self.stopped_by
        bad: set[SongState] = {"failed"}
        bad |= {"degraded", "left", "interrupted"} if strict else set() if self.in_time else {"interrupted"}
        return 1 if states & bad or self.problem else 0


def default_workers(needs: Sequence[Need], free: Free, *, cores: int) -> int:
    """How many songs at once: one for every SONG_CORES cores, as many as the memory holds, at least one."""
    return side_by_side(needs, free, max(1, cores // SONG_CORES))


def run(
    jobs: Sequence[Job],
    outputs: Outputs,
    options: Options,
    *,
    show: Callable[[], None],
    house: House | None = None,
    announce: Callable[[Outlook], None] | None = None,
) -> Ended:
    """Make all songs of jobs that are not made yet. show() is called about once a second, announce() once
    before the first song where there is an end.

    Raises LockedError or OutputError before anything is started, OutputError also when the outputs were
    removed or moved away meanwhile: then no child lives any more.
    """
    with outputs.locked() as held:
        if past.is_newer(outputs.batch):
            raise OutputError(_newer(outputs.batch))
        with rays.joined(options.cluster) as ray:
            here = house or House(mark="")
            return asyncio.run(_run(jobs, outputs, options, show, here, held, announce, ray))


def foresee(jobs: Sequence[Job], outputs: Outputs, options: Options) -> Outlook:
    """What `run` would make, and when. Only reads. Raises ClusterError."""
    house = _informed(House(mark=""), outputs, options)
    epoch = _epoch(outputs) if options.force else 0.0
    songs, to_make = _sorted_out(jobs, outputs, options, epoch)
    with rays.joined(options.cluster) as ray:
        workers = _workers(to_make, outputs, options, house, ray)
        threads = _threads(workers, to_make, ray)
    queue = _queue(to_make, workers, threads, outputs, options, epoch)
    return _outlook(queue, songs, workers, house)


async def _run(
    jobs: Sequence[Job],
    outputs: Outputs,
    options: Options,
    show: Callable[[], None],
    house: House,
    held: Callable[[], bool],
    announce: Callable[[Outlook], None] | None,
    ray: rays.Ray | None,
) -> Ended:
    me = processes.me()
    processes.adopt_orphans()
    # No resolved path holds two slashes, so the mark of these outputs does not begin that of others.
    place = f"{outputs.folder.resolve()}//"
    site = cgroups.seek(house.root)
    await _clear_up(outputs, place, site)
    epoch = _epoch(outputs) if options.force else 0.0
    songs, to_make = _sorted_out(jobs, outputs, options, epoch)
    for job in to_make:
        _asked_out(outputs.song(job.song.id))  # on an earlier night
    house = replace(
        _informed(house, outputs, options),
        mark=f"{place}{me.pid}.{me.started}",
        epoch=epoch,
        own=processes.children(),
    )
    workers = _workers(to_make, outputs, options, house, ray)
    house = replace(house, room=Room(workers))
    until_wall = None if options.until is None else options.until.wall
    head = Batch(me.pid, me.started, me.boot_id, time.time(), None, workers, [], epoch, until_wall=until_wall)
    board = _Board(outputs, head, held, songs)
    board.write()
    threads = _threads(workers, to_make, ray)
    queue = _queue(to_make, workers, threads, outputs, options, epoch)
    if announce is not None and options.until is not None:
        announce(_outlook(queue, songs, workers, house))
    with _signals(house) as received, cgroups.held(site, house.memory_for_songs) as group:
        house = replace(house, songs=group)
        async with _place(ray, house, to_make, outputs) as make:
            # Where the night is planned, a song is sent when there is a place for it, and else ahead of that.
            ahead = 1 if ray is None or options.until or options.workers else cluster.AHEAD
            songs_made = (_make(queue, outputs, house, board, options, make) for _ in range(ahead * workers))
            makers = [asyncio.create_task(each) for each in songs_made]
            try:
                await _watch(makers, queue, house, board, show)
            finally:
                await end_strays(house)
    if not held():
        raise OutputError(
            f"{outputs.folder}: was removed or moved away, so this batch has ended; the same command begins "
            "anew, and goes on with --out where the folder lies now"
        )
    _close(board, _why_left(queue, house) if options.until and not received else {})
    problem = board.problem or board.put_off
    stopped_by = received[0] if received else None
    return Ended(tuple(board.songs.values()), stopped_by, problem, in_time=house.is_over)


def _informed(house: House, outputs: Outputs, options: Options) -> House:
    """The house with what is known before anything is begun."""
    return replace(
        house,
        shown=past.shown(outputs),
        memory=memory_here(house.root),
        until=options.until,
    )


def _newer(file: Path) -> str:
    return f"{file}: written by a newer version; use that one, or choose another --out"


async def _clear_up(outputs: Outputs, place: str, site: cgroups.Site | None) -> None:
    """End and remove what dead parents left here. The lock is ours: what carries the mark is none of ours."""
    await processes.end_tree(lambda: [*processes.marked(place), *cgroups.left(site)], grace_s=0.0)
    cgroups.sweep(site)
    outputs.clean()


@asynccontextmanager
async def _place(
    ray: rays.Ray | None, house: House, to_make: Sequence[Job], outputs: Outputs
) -> AsyncIterator[Callable[..., Awaitable[QueuedSong]]]:
    """Where songs are made: here, or in the cluster."""
    if ray is None:
        yield supervise
        return
    models = {job.answer.model_hash: job.answer.model_folder for job in to_make}
    async with cluster.opened(ray, house, models, outputs) as there:
        yield there.supervise


def _workers(
    to_make: Sequence[Job], outputs: Outputs, options: Options, house: House, ray: rays.Ray | None
) -> int:
    """How many songs at once. Raises OutputError where the disk has no room for any of them."""
    free = house.free(outputs.folder)
    needs = [need_of(job, job.plan, house.shown, house.memory) for job in to_make]
    _refuse_full_disk(needs, free, outputs)
    if options.workers:
        return options.workers
    if ray is not None:
        usual = ray.threads()
        each = [job.song.threads or usual for job in to_make] or [usual]
        gpus = min((job.answer.gpus for job in to_make), default=0)
        return max(1, min(len(to_make), ray.places(math.ceil(sum(each) / len(each)), gpus)))
    return default_workers(needs, free, cores=processes.usable_cores())


def _sorted_out(
    jobs: Sequence[Job], outputs: Outputs, options: Options, epoch: float
) -> tuple[dict[str, QueuedSong], list[Job]]:
    """How every song stands, and those that still have to be made."""
    songs: dict[str, QueuedSong] = {}
    to_make = []
    for job in jobs:
        id = job.song.id
        if newer := past.newer_file(outputs.song(id)):
            songs[id] = QueuedSong(id, "failed", note=_newer(newer))
            continue
        done = manifest.finished(outputs.song(id), job.fingerprint)
        if done is not None and _will_do(done, options, epoch):
            file = str(outputs.song(id).folder / done["file"])
            duration = job.answer.duration
            songs[id] = QueuedSong(id, done["state"], note="made earlier", file=file, duration=duration)
        else:
            songs[id] = QueuedSong(id, "queued", duration=job.answer.duration)
            to_make.append(job)
    return songs, to_make


def _refuse_full_disk(needs: Sequence[Need], free: Free, outputs: Outputs) -> None:
    """Raises OutputError where not even the smallest song has room."""
    least = min((need.disk for need in needs), default=0) + DISK_RESERVE
    if needs and free.disk is not None and free.disk < least:
        raise OutputError(
            f"{outputs.folder}: {size(free.disk)} free on its disk, a song needs {size(least)}; "
            "make room, or choose another folder with --out"
        )


def _with_threads(jobs: Sequence[Job], threads: int) -> Iterator[Job]:
    """The jobs, those that name no number of threads with this one, or with fewer where that is faster."""
    for job in jobs:
        best = min(threads, job.answer.threads or threads)
        yield replace(job, song=replace(job.song, threads=job.song.threads or best))


def _threads(workers: int, to_make: Sequence[Job], ray: rays.Ray | None) -> int:
    """For each song that names no number: a share of the cores here, or what machines of a cluster have."""
    if ray is not None:
        return ray.threads()
    return max(1, processes.usable_cores() // min(workers, max(1, len(to_make))))


def _queue(
    to_make: Sequence[Job], workers: int, threads: int, outputs: Outputs, options: Options, epoch: float
) -> _Queue:
    jobs = list(_with_threads(to_make, threads))
    pasts = {}
    for job in jobs:
        folder = outputs.song(job.song.id)
        pasts[job.song.id] = earlier(
            job, folder, epoch, folder.next_number, redo_degraded=options.redo_degraded
        )
    begun = [told for job in jobs if (told := past.paced(pasts[job.song.id], job.answer)) is not None]
    return _Queue(jobs, pasts, begun, workers)


def _foreseen(job: Job, past: Past, shown: Sequence[Shown]) -> night.Song:
    """What the night has to know of a song: how its next attempt would be made, and how long that takes."""
    song, made = job.song, bool(past.outcomes) and past.outcomes[-1].cause is None
    plan = verdict.next_attempt(job.plan, past.ends, attempts=song.attempts, checkpoint_t=past.checkpoint_t)
    if made or isinstance(plan, verdict.GiveUp):  # `earlier` leaves none of these but with a made song
        plan = job.plan
    goes_on = plan.resume and past.checkpoint is not None
    left = 0.0 if plan.mode == "estimate" else past.left if goes_on else 1.0
    known = forecast(job.answer, shown, precision=plan.precision, threads=plan.threads, left=left)
    if made:
        known = replace(known, step_s=0.0, around_s=0.0)
    steps = plan.density
    if song.foresight:
        limit_s = min(song.timeout_s, song.deadline_s or song.timeout_s)
        steps = known.steps_within(limit_s, most=steps, least=verdict.MIN_DENSITY)
    least = night.least_steps(steps, may_thin=song.foresight and left > 0)
    return night.Song(song.id, known, steps, least, asked=job.answer.steps, begun=goes_on, keeps=song.resume)


def _outlook(queue: _Queue, songs: Mapping[str, QueuedSong], workers: int, house: House) -> Outlook:
    wall, _ = clocks()
    plan = queue.plan(house.shown, house.left_s)
    until_wall = None if house.until is None else house.until.wall
    made = sum(song.state in ("done", "degraded") for song in songs.values())
    return Outlook(plan, made, workers, wall, until_wall)


def _why_left(queue: _Queue, house: House) -> dict[str, str]:
    """Of each song that was not begun."""
    assert house.until is not None
    return {song.id: unfitting(song, house.until.wall) for song in queue.songs(house.shown)}


def _epoch(outputs: Outputs) -> float:
    """When the making of all anew began: now, or with the batch before this one if that was not finished."""
    try:
        before = read_message(outputs.batch, Batch)
    except (OSError, ForeignFileError):
        return time.time()
    finished = all(song.state in FINAL_STATES for song in before.songs)
    return before.epoch if before.epoch and not finished else time.time()


def _will_do(done: dict[str, Any], options: Options, epoch: float) -> bool:
    """Is a finished song to be left as it is?"""
    if options.force:
        return bool(done["request"].get("epoch") == epoch)
    return not (options.redo_degraded and done["state"] == "degraded")


async def _make(
    queue: _Queue,
    outputs: Outputs,
    house: House,
    board: _Board,
    options: Options,
    make: Callable[..., Awaitable[QueuedSong]],
) -> None:
    """Take songs from the queue until no more fits or the batch is to end."""
    while board.held() and not house.stopping.is_set():
        await _measure_again(queue, house, options)
        job = queue.next(house)
        if job is None:
            return
        folder = outputs.song(job.song.id)
        if _asked_out(folder):
            board.put(QueuedSong(folder.id, "interrupted", note=STOPPED))
            continue
        try:
            folder.prepare()
            ended = await make(job, folder, house, board.put, redo_degraded=options.redo_degraded)
            if ended.state == "left" and not house.is_over:
                board.put_off = ended.note or board.put_off
        except RunnerError as error:
            ended = QueuedSong(job.song.id, "failed", note=str(error))
        except OSError as error:
            words = _in_words(error, folder.folder)
            ended = QueuedSong(job.song.id, "interrupted" if is_full(error) else "failed", note=words)
        except Exception as error:  # noqa: BLE001 — a defect of ours costs this song, not the night
            ended = QueuedSong(job.song.id, "failed", note=_log_defect(outputs, error))
        queue.ends.pop(job.song.id, None)
        board.put(ended)


async def _measure_again(queue: _Queue, house: House, options: Options) -> None:
    """Have the songs that wait checked again where the machine's profile is in doubt.

    It is after a song that was much slower than it says, and while it is provisional; the check then measures
    the machine again if that makes sense now. Where the check fails the songs stay as they are.
    """
    doubtful = house.doubt.is_set() or any(job.answer.provisional for job in queue.jobs)
    if not doubtful or not queue.jobs or options.check_again is None:
        return
    house.doubt.clear()
    waiting = list(queue.jobs)
    try:
        answers = await asyncio.to_thread(options.check_again, [job.song for job in waiting])
    except RunnerError:
        return
    decided = {
        job.song.id: answer for job, answer in zip(waiting, answers, strict=True) if not answer.problems
    }
    queue.jobs[:] = [replace(job, answer=decided.get(job.song.id, job.answer)) for job in queue.jobs]


def _in_words(error: OSError, folder: Path) -> str:
    place = error.filename2 or error.filename or folder
    if isinstance(error, FileExistsError | NotADirectoryError):
        return f"{place}: is no folder; move it away or choose another --out"
    if isinstance(error, IsADirectoryError):
        return f"{place}: is a folder where a file belongs; move it away"
    if isinstance(error, FileNotFoundError):
        return f"{place}: was removed or moved while the song was made; run the same command again"
    return f"{error.strerror or error}: {place}; make room or choose another --out"


def _log_defect(outputs: Outputs, error: Exception) -> str:
    words = f"a defect of the runner ({type(error).__name__}: {error})"
    journal.Journal(outputs).note(
        Change("error", "", words), trace="".join(traceback.format_exception(error))
    )
    return f"{words}: {outputs.log}: please report it"


async def _watch(
    makers: Sequence[asyncio.Task[None]],
    queue: _Queue,
    house: House,
    board: _Board,
    show: Callable[[], None],
) -> None:
    """Show how the batch stands until all makers have ended; end it where the outputs are no longer ours."""
    asked: asyncio.Task[Any] = asyncio.create_task(house.stopping.wait())
    try:
        while True:
            if house.is_over or not board.held():
                house.stopping.set()
            if house.stopping.is_set() and not board.head.stopping:
                board.stop()
            _take_out(queue, board)
            if board.is_behind:
                board.write()
            show()
            for task in makers:
                if task.done():
                    task.result()
            running = [task for task in makers if not task.done()]
            if not running:
                return
            waited_for = running if asked.done() else [*running, asked]
            await asyncio.wait(waited_for, timeout=VIEW_EVERY_S, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (asked, *makers):
            task.cancel()
        await asyncio.gather(asked, *makers, return_exceptions=True)


def _take_out(queue: _Queue, board: _Board) -> None:
    """Leave out songs that have not begun and that somebody asked to stop."""
    for job in list(queue.jobs):
        if _asked_out(board.outputs.song(job.song.id)):
            queue.jobs.remove(job)
            board.put(QueuedSong(job.song.id, "interrupted", note=STOPPED))


def _asked_out(folder: SongFolder) -> bool:
    """Was this song asked to stop? It is asked once."""
    with suppress(OSError):  # what cannot be read, or removed, asks nothing
        if folder.stop.is_file():
            folder.stop.unlink()
            return True
    return False


def _close(board: _Board, why_left: Mapping[str, str]) -> None:
    for id, song in board.songs.items():
        if song.state == "queued":
            board.songs[id] = replace(song, state="left", note=why_left.get(id, song.note))
        elif song.state == "running":
            board.songs[id] = replace(song, state="interrupted")
    board.write(finished=time.time())


@contextmanager
def _signals(house: House) -> Iterator[list[int]]:
    """The signals received: the first ends the batch, the second ends it without grace."""
    received: list[int] = []

    def receive(number: int) -> None:
        received.append(number)
        house.stopping.set()
        if len(received) > 1:
            house.hurry.set()

    loop = asyncio.get_running_loop()
    # What nohup or a script's & has told us to ignore stays ignored.
    heeded = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    for number in heeded:
        loop.add_signal_handler(number, receive, number)
    try:
        yield received
    finally:
        for number in heeded:
            loop.remove_signal_handler(number)
