"""One song on a machine of a cluster: unpack it, supervise it as at home, send home what changes.

What lies here lies in the user's cache, under the name of its process, and is swept away when that has died.
"""

from __future__ import annotations

import asyncio
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from runner import __version__, bundles, cgroups, parcels, processes
from runner.admission import Free, Need, Obstacle
from runner.bundles import Ask
from runner.desk import Letter, Reply
from runner.errors import MachineError, RunnerError
from runner.files import is_full
from runner.messages import QueuedSong
from runner.processes import Identity
from runner.songfolder import Outputs, SongFolder
from runner.spool import Spool
from runner.supervise import WORKER, House, Job, end_strays, is_as_checked, memory_here, supervise
from runner.until import Until, clocks

# As often as people look.
WORD_EVERY_S = 1.0
# So long a song is not watched at the most, because the desk does not answer.
USES_S = 5.0


@dataclass(frozen=True, slots=True)
class Errand:
    """A song that is sent to another machine.

    number: grows with each errand of its batch. folder: what it needs of the song's folder. spool: where
    large files may be left. sounds: Ray's reference to the clip and the sound to edit, by the names of the
    song's fields: the file's name, and its bytes. worker: the engine's command; without one the runner's own,
    which every machine has somewhere else. The rest is as in House.
    """

    version: str
    number: int
    job: Job
    folder: tuple[parcels.Parcel, ...]
    spool: Spool
    sounds: Any
    redo_degraded: bool
    worker: tuple[str, ...]
    tick_s: float
    grace_s: float
    thrash_s: float
    await_s: float
    epoch: float


def sing(errand: Errand, desk: Any) -> QueuedSong:
    """Make the song of the errand here; its final state. The desk has all of its files by then, if there was
    room for them here.

    Raises MachineError where this machine cannot even try.
    """
    import ray

    here, node = socket.gethostname(), ray.get_runtime_context().get_node_id()
    try:
        return _sung(errand, desk, node)
    except (ConnectionError, MachineError):
        raise  # the first is of the way to the desk
    except RunnerError as error:
        raise MachineError(f"{here}: {error}", node) from error
    except OSError as error:
        words = f"{error.strerror or error}: {error.filename or bundles.cache()}"
        if not is_full(error):
            raise MachineError(f"{here}: {words}; look what is wrong there", node) from error
        words = f"on {here}: {words}; make room, then run the same command again"
        return QueuedSong(errand.job.song.id, "interrupted", note=words)


def _sung(errand: Errand, desk: Any, node: str) -> QueuedSong:
    import ray

    if errand.version != __version__:
        raise MachineError(
            f"{socket.gethostname()} has version {__version__} of the runner, the batch {errand.version}; "
            "install the same one everywhere",
            node,
        )
    # Ray takes a task that waits in its main thread for idle, and gives its cores to one more song.
    with _place() as outputs, ThreadPoolExecutor(max_workers=2) as others:

        def ask(question: str, *words: Any, within_s: float | None = None, **more: Any) -> Any:
            def answer() -> Any:
                return ray.get(getattr(desk, question).remote(*words, **more), timeout=within_s)

            return others.submit(answer).result()

        return asyncio.run(_sing(errand, outputs, ask, node))


async def _sing(errand: Errand, outputs: Outputs, ask: Ask, node: str) -> QueuedSong:
    folder = outputs.song(errand.job.song.id)
    folder.prepare()
    for parcel in errand.folder:
        parcels.put(folder.folder, parcel)
    post = _Post(ask, errand, folder)
    if (await post.send()).stop:  # it has arrived, and is not wanted any more
        return QueuedSong(folder.id, "interrupted" if folder.attempts() else "left")
    job = errand.job if is_as_checked(errand.job) else await asyncio.to_thread(_unpacked, errand, outputs)
    if not errand.worker:
        job = await asyncio.to_thread(bundles.at_hand, job, ask)
    house = _house(errand, outputs, _Door(ask, node, errand.number), _until(ask))
    with cgroups.held(cgroups.site(house.root), house.memory_for_songs) as group:
        house = replace(house, songs=group)
        work = asyncio.create_task(
            supervise(job, folder, house, post.say, redo_degraded=errand.redo_degraded)
        )
        try:
            while not work.done():
                await asyncio.wait({work}, timeout=WORD_EVERY_S)
                await _heed(post, house, folder)
            await post.send_all(errand.await_s)
            if post.lost is not None and work.result().state not in ("done", "degraded", "failed"):
                raise post.lost  # nobody stopped it, so it goes on elsewhere
            return work.result()
        finally:
            await end_strays(house)


def _until(ask: Ask) -> Until | None:
    """When the batch has to end, by the clocks of this machine."""
    left_s: float | None = ask("left_s")
    wall, boot = clocks()
    return None if left_s is None else Until(wall + left_s, boot + left_s)


async def _heed(post: _Post, house: House, folder: SongFolder) -> None:
    """Send what is new, and stop as asked; or because nobody is there to ask."""
    import ray

    try:
        reply = await post.send()
    except ray.exceptions.RayError as error:
        if _has_no_room(error):
            return  # it is sent again
        post.lost = error
        reply = Reply(taken=False, stop="batch", hurry=True)
    if reply.stop == "song":
        folder.stop.touch()
    elif reply.stop:
        house.stopping.set()
    if reply.hurry:
        house.hurry.set()


def _has_no_room(error: Exception) -> bool:
    """Is there none for the letter, now, on the machines that it goes through?"""
    import ray

    return isinstance(error, ray.exceptions.ObjectStoreFullError | ray.exceptions.OutOfDiskError)


class _Post:
    """What is sent home. A letter that could not be taken yet is sent again as it is. lost: why the desk once
    did not answer.
    """

    def __init__(self, ask: Ask, errand: Errand, folder: SongFolder) -> None:
        self._ask, self._errand, self._folder = ask, errand, folder
        self._leave = partial(errand.spool.leave, errand=errand.number) if errand.spool.is_here() else None
        self._seen = self._next = parcels.stamps(folder.folder)
        self._said: list[QueuedSong] = []
        self._letter: Letter | None = None
        self._number = 0
        self.lost: Exception | None = None

    def say(self, song: QueuedSong) -> None:
        here = f"on {socket.gethostname()}"
        self._said.append(replace(song, note=f"{song.note}, {here}" if song.note else here))

    async def send(self) -> Reply:
        """What has changed since the last letter that was taken; also an empty letter has an answer."""
        if self._letter is None:
            new, self._next = await asyncio.to_thread(
                parcels.changes, self._folder.folder, self._seen, self._leave
            )
            said, self._said = self._said, []
            self._number += 1
            self._letter = Letter(self._folder.id, self._errand.number, tuple(said), tuple(new), self._number)
        reply: Reply = await asyncio.to_thread(self._ask, "leave_word", self._letter)
        if reply.taken:
            self._letter, self._seen = None, self._next
        return reply

    async def send_all(self, patience_s: float) -> None:
        """Until the desk has all of it. Raises ray's error where there is no desk any more, or, after
        patience_s, no room on the way to it.
        """
        until = time.monotonic() + patience_s
        while True:
            try:
                taken = (await self.send()).taken
            except Exception as error:
                if not _has_no_room(error) or time.monotonic() >= until:
                    raise
                taken = False
            if taken and parcels.stamps(self._folder.folder) == self._seen:
                return
            await asyncio.sleep(WORD_EVERY_S / 10)


class _Door:
    """The room that all songs of this machine share; it lies on the desk. See admission.Room."""

    def __init__(self, ask: Ask, node: str, errand: int) -> None:
        self._ask, self._node, self._errand = ask, node, errand
        self._heaviest = False

    @property
    def gave_up_on_memory(self) -> bool:
        return bool(self._ask("gave_up_on_memory", self._node))

    @gave_up_on_memory.setter
    def gave_up_on_memory(self, given: bool) -> None:
        self._ask("gave_up_on_memory", self._node, given)

    def is_empty(self) -> bool:
        return bool(self._ask("is_empty", self._node))

    def enter(
        self,
        song: str,
        need: Need,
        free: Free,
        now: float,
        *,
        despite_memory: bool = False,
        overdue: bool = False,
    ) -> Obstacle | None:
        found: Obstacle | None = self._ask(
            "enter",
            self._node,
            song,
            self._errand,
            need,
            free,
            now,
            despite_memory=despite_memory,
            overdue=overdue,
        )
        return found

    def uses(self, song: str, private: int) -> None:
        with suppress(TimeoutError):  # the song itself is watched all the same
            answer = self._ask("uses", self._node, song, self._errand, private, within_s=USES_S)
            self._heaviest = bool(answer)

    def is_heaviest(self, song: str) -> bool:
        """As it was at the last look."""
        return self._heaviest

    def ran_out(self, now: float) -> None:
        self._ask("ran_out", self._node, now)

    def leave(self, song: str) -> None:
        self._ask("leave", self._node, song, self._errand)


def _house(errand: Errand, outputs: Outputs, door: _Door, until: Until | None) -> House:
    me = processes.me()
    processes.adopt_orphans()
    return House(
        mark=f"{outputs.folder}//{me.pid}.{me.started}",
        room=door,
        worker=errand.worker or WORKER,
        tick_s=errand.tick_s,
        grace_s=errand.grace_s,
        thrash_s=errand.thrash_s,
        await_s=errand.await_s,
        epoch=errand.epoch,
        own=processes.children(),
        memory=memory_here(Path("/")),
        until=until,
        host=socket.gethostname(),
    )


def _unpacked(errand: Errand, outputs: Outputs) -> Job:
    """The job, with its sounds fetched. Not called where this machine sees those that were checked."""
    import ray

    places: dict[str, Any] = {}
    sounds: Mapping[str, tuple[str, bytes]] = ray.get(errand.sounds)
    for name, (file, content) in sounds.items():
        place = outputs.folder / ".inputs" / name / Path(file).name
        place.parent.mkdir(parents=True)
        place.write_bytes(content)
        places[name] = place
    return replace(errand.job, song=replace(errand.job.song, **places))


# ---------------------------------------------------------------- the place


@contextmanager
def _place() -> Iterator[Outputs]:
    """Outputs of this process alone, gone afterwards; those of dead ones are cleared up first."""
    # Machines may share a home, and of each other's processes they know nothing.
    root = bundles.cache() / "cluster" / socket.gethostname()
    for other in root.glob("*.*.*"):
        _sweep(other)
    me = processes.me()
    place = root / f"{me.pid}.{me.started}.{me.boot_id}"
    shutil.rmtree(place, ignore_errors=True)  # of this worker's song before
    place.mkdir(parents=True)
    try:
        yield Outputs(place.resolve())
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _sweep(place: Path) -> None:
    """End what a dead process has left running there, and remove its files."""
    pid, started, boot_id = place.name.split(".", 2)
    with suppress(ValueError):
        if not processes.is_alive(Identity(int(pid), int(started), boot_id)):
            strays = f"{place.resolve()}//"
            asyncio.run(processes.end_tree(lambda: processes.marked(strays), grace_s=0.0))
            shutil.rmtree(place, ignore_errors=True)
