"""The same songs on the machines of a Ray cluster: each is a task there, under the very same supervision.

Ray finds a place for a song and says when its machine has died; what becomes of it is decided where it is
made (see `node`). Its folder travels (see `parcels`), so that here lies at any moment what would lie here if
the song had been made here and its parent had died: one whose machine is lost goes on elsewhere, from its
newest checkpoint.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from runner import __version__, heartbeat, parcels, past, processes
from runner import spool as spools
from runner.admission import Need
from runner.desk import ALONE_S, Letter
from runner.errors import ForeignFileError, MachineError
from runner.files import is_full, read_json
from runner.messages import FINAL_STATES, QueuedSong
from runner.node import Errand
from runner.rays import ANSWER_S, Helper, Ray, Resources, could_be_had, lost, share
from runner.songfolder import Outputs, SongFolder
from runner.spool import Spool
from runner.supervise import STOPPED, WORKER, House, Job, need_of

CARRY_EVERY_S = 0.5
# What no machine could finish: so many died over it without one step of progress.
LOSSES = 5
# A song that is told to stop ends within its child's grace; a machine that does not answer is given up.
STOPPED_S = 30.0
# More than have a place are sent, so that a place that becomes free is taken at once.
AHEAD = 2
# How often to look whether what a song waits for is still to be had.
LOOK_EVERY_S = 10.0
# Of a head that is silent for a minute Ray ends the process that has joined it, without a word to us.
SILENT_S = 20.0

Found = TypeVar("Found")


@dataclass(slots=True)
class _Away:
    """A song on its way. without: machines that it avoids. begun: some machine has taken it. lost: why
    nothing of it can be put here.
    """

    job: Job
    number: int
    folder: SongFolder
    say: Callable[[QueuedSong], None]
    without: Collection[str] = ()
    begun: bool = False
    letters: list[Letter] = field(default_factory=list)
    lost: Exception | None = None

    def lose(self, why: Exception) -> None:
        self.lost = why
        self.letters.clear()


class Cluster:
    """The batch's songs elsewhere. Its `supervise` is there what supervise.supervise is at home."""

    def __init__(self, ray: Ray, house: House, models: Mapping[str, str], spool: Spool) -> None:
        """models: folder of each bundle, by its hash."""
        self._ray, self._house, self._spool = ray, house, spool
        self._desk = ray.desk(models, house.left_s)
        self._away: dict[str, _Away] = {}
        self._number = 0
        self._me = processes.me()
        self._helper, self._sender, self._looker = Helper(), Helper(), Helper()
        self._lost = ""  # why the cluster itself is gone
        self._no_answer: tuple[type[Exception], ...] = (*ray.died, TimeoutError)
        # Of two who fetch at once one may hold a song's last letters while the other finds none.
        self._fetching = asyncio.Lock()
        # A song that has come back waits until its letters are opened, though not until others are fetched.
        self._opening = asyncio.Lock()

    async def supervise(
        self,
        job: Job,
        folder: SongFolder,
        house: House,
        say: Callable[[QueuedSong], None],
        *,
        redo_degraded: bool = False,
    ) -> QueuedSong:
        """Have the song made on whichever machine has room; its final state.

        Raises MachineError where none of the machines can.
        """
        began, losses, reached = time.monotonic(), 0, -1.0
        without: set[str] = set()
        refused: MachineError | None = None
        folder.clean()
        folder.stop.unlink(missing_ok=True)
        while not house.stopping.is_set():
            number, avoided = folder.next_number, len(without)
            try:
                ended = await self._errand(job, folder, say, without, redo_degraded=redo_degraded)
            except MachineError as error:
                without.add(error.machine)
                ended, refused = None, error
            if ended is not None:
                return replace(ended, seconds=time.monotonic() - began)
            redo_degraded &= folder.next_number == number  # else that making is under way
            if refused is not None and await self._machines(without) == []:
                raise refused
            if len(without) > avoided:
                say(QueuedSong(folder.id, "queued", note=f"{refused}; it goes on elsewhere"))
                continue
            t = past.recall(folder, job.fingerprint).checkpoint_t
            losses, reached = (0, t) if t > reached else (losses + 1, reached)
            if losses >= LOSSES:
                words = f"{losses} machines died over it without a step of progress; the same command goes on"
                return QueuedSong(folder.id, "interrupted", note=words)
            if not house.stopping.is_set():
                say(QueuedSong(folder.id, "queued", note="its machine died; it goes on elsewhere"))
        if not folder.attempts():
            return QueuedSong(folder.id, "left", note=self._lost)
        words = self._lost or "stopped with its batch; goes on with the same command"
        return QueuedSong(folder.id, "interrupted", note=words)

    async def _errand(
        self,
        job: Job,
        folder: SongFolder,
        say: Callable[[QueuedSong], None],
        without: Collection[str],
        *,
        redo_degraded: bool,
    ) -> QueuedSong | None:
        """One errand, from here and back; None: it was lost with its machine, or given up."""
        self._number += 1
        number, song = self._number, folder.id
        need = need_of(job, job.plan, self._house.shown, None)
        away = self._away[song] = _Away(job, number, folder, say, without)
        task = None
        try:
            await self._ask("send", song, number)
            asked, task = await self._in_time(
                self._sender.does(lambda: self._sent(away, need, redo_degraded=redo_degraded)),
                patience_s=math.inf,  # many may be sent at once, with their sounds
            )
            if (ended := await self._ended(task, away, asked)) is not None:
                await self._emptied(away)
        except self._ray.died as error:
            if (ours := self._ray.cause(error)) is not None:
                raise ours from error
            if self._ray.ran_out_of_memory(error):
                with suppress(*self._ray.died):
                    await self._ask("killed_for_memory", song)
            ended = None
        except TimeoutError:
            ended = None
        finally:
            if task is not None:
                self._helper.begins(lambda: self._ray.give_up(task))
            async with self._opening:  # no letter of it is opened meanwhile, and none later
                self._away.pop(song, None)
            folder.heartbeat.unlink(missing_ok=True)  # of a process that nobody here knows
            self._spool.clear(number)
            if not self._house.stopping.is_set():
                with suppress(*self._ray.died):
                    await self._ask("back", song)
        return None if ended is None else self._at_home(job, folder, ended)

    async def _ended(self, task: Any, away: _Away, asked: Resources) -> QueuedSong | None:
        """How the song ended there, or before any machine took it; None: it was given up."""
        work = asyncio.ensure_future(self._answer(lambda: task))
        stopping_since: float | None = None
        looked = time.monotonic()
        try:
            while not work.done():
                await asyncio.wait({work}, timeout=CARRY_EVERY_S)
                if work.done():
                    break
                if not away.begun and _is_asked_to_stop(away.folder):
                    away.folder.stop.unlink(missing_ok=True)
                    return QueuedSong(away.folder.id, "interrupted", note=STOPPED)
                if not self._house.stopping.is_set():
                    if not away.begun and time.monotonic() - looked > LOOK_EVERY_S:
                        looked = time.monotonic()
                        machines = await self._machines(away.without)
                        is_vain = machines is not None and not could_be_had(machines, asked)
                        is_vain |= machines == [] and bool(away.without)
                        if is_vain and not away.begun:
                            return None  # the last machine that had it has died
                    continue
                stopping_since = stopping_since or time.monotonic()
                if self._lost or not away.begun or time.monotonic() - stopping_since > STOPPED_S:
                    return None
            ended: QueuedSong = work.result()
            return ended
        finally:
            work.cancel()

    async def _emptied(self, away: _Away) -> None:
        """Wait until all that the song has left word of lies in its folder.

        Raises what keeps it from that: OSError of a disk that stays full, or is not to be written to.
        """
        until = time.monotonic() + self._house.await_s
        while (full := await self._collect()) is not None:
            if self._house.stopping.is_set() or time.monotonic() >= until:
                raise full
            await asyncio.sleep(CARRY_EVERY_S)
        if away.lost is not None:
            raise away.lost

    def _at_home(self, job: Job, folder: SongFolder, ended: QueuedSong) -> QueuedSong:
        if ended.state not in ("done", "degraded"):
            return ended
        sound = folder.audio(job.song.format)
        folder.tidy(sound)
        told = past.shown_by(read_json(folder.manifest))
        if told is not None:
            self._house.shown.append(told)
        return replace(ended, file=str(sound))

    # ------------------------------------------------------------ fetching and carrying

    async def carry(self) -> None:
        """Letters here, wishes to stop there, until this is cancelled or the cluster is lost."""
        told, full_since = (False, False), None
        try:
            while True:
                if (full := await self._collect()) is None:
                    full_since = None
                else:
                    full_since = full_since or time.monotonic()
                    await self._ask("be_patient")
                    if time.monotonic() - full_since > self._house.await_s:
                        await self._give_up_waiting(full)
                wish = (self._house.stopping.is_set(), self._house.hurry.is_set())
                if wish != told:
                    told = wish
                    await self._ask("stop_all", hurry=wish[1])
                for song in [song for song, away in self._away.items() if _is_asked_to_stop(away.folder)]:
                    await self._ask("stop", song)
                await asyncio.sleep(CARRY_EVERY_S)
        except self._ray.died:
            return  # those who wait for their songs find it said
        except Exception as error:  # noqa: BLE001 — without us no song comes home
            self._lost = f"a defect of the runner ({type(error).__name__}: {error}); the same command goes on"
            self._house.stopping.set()

    async def watch(self) -> None:
        """End the songs where the head has been silent for long, until this is cancelled."""
        heard = time.monotonic()
        while not self._ray.is_client:  # which Ray lets wait, as long as it was told to
            await asyncio.sleep(LOOK_EVERY_S / 2)
            if await self._machines(()) is not None:
                heard = time.monotonic()
            elif time.monotonic() - heard > SILENT_S:
                self._lost = self._lost or lost(TimeoutError("its head does not answer"))
                self._house.stopping.set()
                return

    async def _give_up_waiting(self, full: OSError) -> None:
        """Of songs whose letters have waited for room on the disk, which others may then find."""
        for song, away in list(self._away.items()):
            async with self._opening:
                if not away.letters:
                    continue
                away.lose(full)
            await self._ask("stop", song)

    async def _ask(self, question: str, *words: Any, **more: Any) -> Any:
        """What the desk answers. A desk that does not is lost, and the cluster with it: raises Ray.died."""
        try:
            return await self._in_time(
                self._answer(lambda: getattr(self._desk, question).remote(*words, **more))
            )
        except self._no_answer as error:
            self._lost = self._lost or lost(error)
            self._house.stopping.set()
            raise ConnectionError(self._lost) from error

    async def _in_time(self, work: Coroutine[Any, Any, Found], patience_s: float = ALONE_S) -> Found:
        """What it gives. Raises TimeoutError after patience_s, sooner where the batch is to end."""
        task, began = asyncio.ensure_future(work), time.monotonic()
        stopping_since: float | None = None
        try:
            while not task.done():
                await asyncio.wait({task}, timeout=CARRY_EVERY_S)
                now = time.monotonic()
                if self._house.stopping.is_set():
                    stopping_since = stopping_since or now
                is_late = stopping_since is not None and now - stopping_since > STOPPED_S
                if not task.done() and (is_late or now - began > patience_s):
                    raise TimeoutError
            return task.result()
        finally:
            task.cancel()

    async def _answer(self, asked: Callable[[], Any]) -> Any:
        """What the task or the actor gives that is asked so."""
        future = await self._helper.does(lambda: asked().future())
        # Ray's client does not bear that somebody cancels one of its futures.
        return await asyncio.shield(asyncio.wrap_future(future))

    async def rest(self) -> None:
        """Wait until nobody turns to Ray any more, if that does not take too long."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._helper.does(lambda: None), ANSWER_S)

    async def _collect(self) -> OSError | None:
        """Open all letters that lie on the desk; the error of a full disk, which they have to wait for.

        As long as some wait here no more are fetched: the desk is soon full, and songs send less often.
        """
        async with self._fetching:
            if (full := await self._open_letters()) is not None:
                return full
            for letter in await self._ask("collect"):
                away = self._away.get(letter.song)
                if away is not None and away.number == letter.errand and away.lost is None:
                    away.begun = True
                    away.letters.append(letter)
            return await self._open_letters()

    async def _open_letters(self) -> OSError | None:
        full = None
        for song, away in list(self._away.items()):
            try:
                async with self._opening:
                    if self._away.get(song) is away:
                        await self._open_all(away)
            except Exception as error:  # noqa: BLE001 — whatever one song has sent costs no other its letters
                if isinstance(error, OSError) and is_full(error):
                    full = error
                    continue
                away.lose(error)
                await self._ask("stop", song)
        return full

    async def _open_all(self, away: _Away) -> None:
        while away.letters:
            # A disk takes its time; Ctrl-C and other songs do not wait for it.
            await asyncio.to_thread(self._unpack, away)
            for said in away.letters.pop(0).said:
                if said.state not in FINAL_STATES:
                    away.say(said)

    def _unpack(self, away: _Away) -> None:
        """Put what is in the first letter where it belongs. What was put is not put again after an error."""
        while waiting := away.letters[0].parcels:
            parcels.put(away.folder.folder, _as_here(waiting[0], away.job), self._spool)
            if waiting[0].name == away.folder.heartbeat.name:
                with suppress(OSError, ForeignFileError, ValueError, OverflowError):
                    heartbeat.relay(away.folder.heartbeat, self._me)
            away.letters[0] = replace(away.letters[0], parcels=waiting[1:])

    def _sent(self, away: _Away, need: Need, *, redo_degraded: bool) -> tuple[Resources, Any]:
        """The task of a song, and what it asks for."""
        errand = self._packed(away.job, away.folder, away.number, redo_degraded=redo_degraded)
        asked = share(self._ray.machines(away.without), away.job.plan.threads, need)
        return asked, self._ray.send(errand, self._desk, asked, away.without)

    async def _machines(self, without: Collection[str]) -> list[Resources] | None:
        """As Ray.machines; None where the cluster does not say."""
        work = self._looker.does(lambda: self._ray.machines(without))
        try:
            machines: list[Resources] = await asyncio.wait_for(work, ANSWER_S)
        except self._no_answer:
            return None
        return machines

    def _packed(self, job: Job, folder: SongFolder, number: int, *, redo_degraded: bool) -> Errand:
        house, sounds = self._house, _sounds(job)
        return Errand(
            version=__version__,
            number=number,
            # Which GPU it has there is settled by Ray: none waits for the other's.
            job=replace(job, answer=replace(job.answer, gpus=0)),
            folder=tuple(parcels.pack(folder.folder)),
            spool=self._spool,
            sounds=self._ray.lend(sounds) if sounds else None,
            redo_degraded=redo_degraded,
            worker=() if house.worker == WORKER else house.worker,
            tick_s=house.tick_s,
            grace_s=house.grace_s,
            thrash_s=house.thrash_s,
            await_s=house.await_s,
            epoch=house.epoch,
        )


@asynccontextmanager
async def opened(
    ray: Ray, house: House, models: Mapping[str, str], outputs: Outputs
) -> AsyncIterator[Cluster]:
    """The batch's songs elsewhere, with somebody who fetches and carries for them. models: as Cluster's."""
    with spools.opened(outputs) as spool:
        there = Cluster(ray, house, models, spool)
        helpers = [asyncio.create_task(there.carry()), asyncio.create_task(there.watch())]
        try:
            yield there
        finally:
            for helper in helpers:
                helper.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)
            await there.rest()


def _sounds(job: Job) -> dict[str, tuple[str, bytes]]:
    """The clip and the sound to edit, where the song has them: each file's name, and its bytes."""
    places = {"style_audio": job.song.style_audio, "edit_source": job.song.edit_source}
    return {name: (path.name, path.read_bytes()) for name, path in places.items() if path is not None}


def _is_asked_to_stop(folder: SongFolder) -> bool:
    with suppress(OSError):  # a disk that does not answer asks nothing
        return folder.stop.exists()
    return False


def _as_here(parcel: parcels.Parcel, job: Job) -> parcels.Parcel:
    """A paper with the names that the song's files have here."""
    file = parcel.name.rpartition("/")[2]
    if parcel.data is None or file not in ("request.json", "song.json"):
        return parcel
    try:
        content = json.loads(parcel.data)
        request = content if file == "request.json" else content["request"]
        for name in ("style_audio", "edit_source"):
            if request[name] is not None:
                request[name] = str(getattr(job.song, name))
        request["model"] = job.song.model
    except (ValueError, KeyError, TypeError, RecursionError):
        return parcel  # whoever reads it will say what is wrong with it
    return replace(parcel, data=json.dumps(content, ensure_ascii=False).encode(errors="backslashreplace"))
