"""The same songs on the machines of a Ray cluster: each is a task there, under the very same supervision.

Ray finds a place for a song and says when its machine has died; what becomes of it is decided where it is
made (see `node`). Its folder travels (see `parcels`), so that here lies at any moment what would lie here if
the song had been made here and its parent had died: one whose machine is lost goes on elsewhere, from its
newest checkpoint.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import math
import os
import socket
import time
import warnings
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from importlib import import_module
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

from runner import __version__, heartbeat, parcels, past, processes
from runner import spool as spools
from runner.admission import SONG_CORES, Need
from runner.desk import ALONE_S, Desk, Letter
from runner.errors import ClusterError, ForeignFileError, MachineError
from runner.files import is_full, read_json
from runner.messages import FINAL_STATES, QueuedSong
from runner.node import Errand, sing
from runner.songfolder import Outputs, SongFolder
from runner.spool import Spool
from runner.supervise import STOPPED, WORKER, House, Job, need_of

CARRY_EVERY_S = 0.5
# What no machine could finish: so many died over it without one step of progress.
LOSSES = 5
# A song that is told to stop ends within its child's grace; a machine that does not answer is given up.
STOPPED_S = 30.0
# A cluster that is there answers within this.
ANSWER_S = 10.0
# So often a client asks to be let in.
TRIES = 3
# What the address of a cluster begins with that lets a client in from outside.
CLIENT = "ray://"
# More than have a place are sent, so that a place that becomes free is taken at once.
AHEAD = 2
# How often to look whether what a song waits for is still to be had.
LOOK_EVERY_S = 10.0
# Of a head that is silent for a minute Ray ends the process that has joined it, without a word to us.
SILENT_S = 20.0
# As long as that no end of ours waits for Ray to disconnect.
LEAVE_S = 5.0

Found = TypeVar("Found")
Resources = Mapping[str, float]  # what a machine has, or a task asks for, by Ray's names


@dataclass(frozen=True, slots=True)
class Ray:
    """All that we ask of Ray. ray: the module, connected. is_client: from outside of the cluster."""

    ray: Any
    is_client: bool = False

    @property
    def died(self) -> tuple[type[Exception], ...]:
        """What a machine's death is told by, a desk's, and to Ray's client that it has lost its cluster."""
        return self.ray.exceptions.RayError, ConnectionError

    def threads(self) -> int:
        """That a song which names no number gets: as many as it uses well, and every machine has."""
        return min([SONG_CORES, *(int(machine["CPU"]) for machine in self.machines())])

    def places(self, threads: int, gpus: int) -> int:
        """How many songs of so many threads and GPUs have a place at once; at least one."""
        return places(self.machines(), threads, gpus)

    def machines(self, without: Collection[str] = ()) -> list[Resources]:
        """What each has that songs can be made on. without: those that Ray knows by these names."""
        alive = [node for node in self.ray.nodes() if node["Alive"] and node["NodeID"] not in without]
        return [node["Resources"] for node in alive if node["Resources"].get("CPU", 0) >= 1]

    def desk(self, models: Mapping[str, str], left_s: float | None) -> Any:
        """A desk that lives where this process does (or the one that lets it in), and as long.

        Raises ClusterError where a client is let in by a machine that does not know the runner.
        """
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(self.ray.get_runtime_context().get_node_id(), soft=False)
        desk = self.ray.remote(Desk).options(num_cpus=0, scheduling_strategy=here)
        try:
            return desk.remote(dict(models), left_s)
        except (ImportError, AttributeError) as error:
            raise ClusterError(
                f"the head of the cluster does not know the runner ({error}); "
                "install the same one on every machine"
            ) from error

    def send(self, errand: Errand, desk: Any, asked: Resources, without: Collection[str]) -> Any:
        """The task that goes on the errand, with what it asks a machine for, and those that it avoids."""
        task = self.ray.remote(sing).options(
            num_cpus=asked["CPU"],
            num_gpus=asked["GPU"],
            memory=asked["memory"],
            max_retries=0,
            label_selector={"ray.io/node-id": f"!in({','.join(sorted(without))})"} if without else None,
        )
        return task.remote(errand, desk)

    def lend(self, thing: object) -> Any:
        """A reference by which whoever needs it can have it, as long as the reference is held."""
        return self.ray.put(thing)

    def give_up(self, task: Any) -> None:
        with suppress(Exception):  # it may have ended, with its cluster
            self.ray.cancel(task, force=True)

    def cause(self, error: Exception) -> Exception | None:
        """What our own code raised in a task; None: it ended with its machine, or because it lost us."""
        cause = getattr(error, "cause", None)
        if isinstance(cause, Exception) and "No module named 'runner" in str(cause):
            ip = str(getattr(error, "ip", ""))
            words = f"{ip or 'a machine'}: does not have the runner; install the same one on every machine"
            known = [node["NodeID"] for node in self.ray.nodes() if node.get("NodeManagerAddress") == ip]
            return MachineError(words, known[0]) if len(known) == 1 else ClusterError(words)
        return cause if isinstance(cause, Exception) and not isinstance(cause, self.died) else None

    def ran_out_of_memory(self, error: Exception) -> bool:
        """Has Ray killed a task because there was none left on its machine?"""
        return isinstance(error, self.ray.exceptions.OutOfMemoryError)


def share(machines: Sequence[Resources], threads: int, need: Need) -> Resources:
    """What a song asks for: no more than one machine has, since Ray would wait for one that has it.

    GPUs all of them or none, then as much of its memory, then as many of its threads as can be.
    """
    machines, gpus = _with_gpus(machines, need.gpus)
    memory = min(need.private, max((int(each.get("memory", 0)) for each in machines), default=0))
    large = [each for each in machines if each.get("memory", 0) >= memory]
    cores = min(threads, max((int(each["CPU"]) for each in large), default=threads))
    return {"CPU": cores, "GPU": gpus, "memory": memory}


def places(machines: Sequence[Resources], threads: int, gpus: int) -> int:
    """As Ray.places."""
    machines, gpus = _with_gpus(machines, gpus)
    threads = min(threads, max((int(each["CPU"]) for each in machines), default=threads))
    wanted = {"CPU": threads, "GPU": gpus}
    held = (min(int(each[name] // count) for name, count in wanted.items() if count) for each in machines)
    return max(1, sum(held))


def could_be_had(machines: Sequence[Resources], asked: Resources) -> bool:
    """Once other songs have ended; where there is no machine at all, of one that comes."""
    fits = (all(each.get(name, 0) >= count for name, count in asked.items()) for each in machines)
    return not machines or any(fits)


def _with_gpus(machines: Sequence[Resources], gpus: int) -> tuple[Sequence[Resources], int]:
    """The machines that have so many; all of them, and none to ask for, where no machine has."""
    having = [each for each in machines if each.get("GPU", 0) >= gpus]
    return (having, gpus) if having else (machines, 0)


@contextmanager
def joined(address: str | None) -> Iterator[Ray | None]:
    """The cluster at that address: "auto" (the one that this machine belongs to), "local" (this machine is
    all of it), "HOST:PORT", or "ray://HOST:PORT" (this machine is none of it); None: none.

    Raises ClusterError, also where it is lost and no song is there to say so.
    """
    if address is None:
        yield None
        return
    from_outside = address.startswith(CLIENT)
    # Whoever asks for something when the cluster is lost would else join, or start, some other one.
    os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"
    try:
        import ray

        if from_outside:
            import_module("grpc")
    except ImportError as error:
        raise ClusterError(
            f"--cluster {address}: what it needs is not installed ({error}); "
            "install the runner with its extra `cluster`"
        ) from error
    alone: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
    try:
        _knock(address)
        # What Ray's client has to say of a loss, with its traceback, we say in a line.
        quiet = "CRITICAL" if from_outside else "ERROR"
        _enter(ray, address=address, log_to_driver=False, logging_level=quiet, **alone)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        door = ", which lets clients in at port 10001, those with RAY_AUTH_MODE=token if it has a token"
        raise ClusterError(
            f"--cluster {address}: no cluster answers ({' '.join(str(error).split())[:200]}); "
            f"start one with `ray start --head`{door if from_outside else ''}, or use --cluster local"
        ) from error
    try:
        with _told():
            yield Ray(ray, from_outside)
    except BrokenPipeError:
        raise  # of those who read what is printed
    except (ray.exceptions.RayError, ConnectionError) as error:
        raise ClusterError(_lost(error)) from error
    finally:
        _leave(ray)


def _enter(ray: Any, **settings: Any) -> None:
    for tries_left in reversed(range(TRIES)):
        try:
            with warnings.catch_warnings(action="ignore"):
                ray.init(**settings)
            return
        except ConnectionAbortedError:
            # The head was there, the process that it begins for each client was not: it is forked while other
            # threads talk, and sometimes does not live.
            if not tries_left:
                raise


def _leave(ray: Any) -> None:
    """Disconnect from a head that may be silent: Ray's client would wait for it for ten minutes."""
    leaving = Thread(target=ray.shutdown, daemon=True)
    leaving.start()
    leaving.join(LEAVE_S)
    if leaving.is_alive():
        atexit.unregister(ray.shutdown)  # which would wait for this one


@contextmanager
def _told() -> Iterator[None]:
    """That its cluster was lost before Ray's client tells by a bare Exception; here it is one of Ray.died."""
    try:
        yield
    except Exception as error:
        if type(error) is not Exception:
            raise
        raise ConnectionError(str(error)) from error


def _lost(error: Exception) -> str:
    words = " ".join(str(error).split())[:120] or "no answer"
    return f"the cluster was lost ({words}); the same command goes on"


def _knock(address: str) -> None:
    """Raises OSError where nobody listens: Ray itself would try for minutes."""
    host, colon, port = address.removeprefix(CLIENT).rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_S).close()


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


class Cluster:
    """The batch's songs elsewhere. Its `supervise` is there what supervise.supervise is at home."""

    def __init__(self, ray: Ray, house: House, models: Mapping[str, str], spool: Spool) -> None:
        """models: folder of each bundle, by its hash."""
        self._ray, self._house, self._spool = ray, house, spool
        self._desk = ray.desk(models, house.left_s)
        self._away: dict[str, _Away] = {}
        self._number = 0
        self._me = processes.me()
        self._helper, self._sender, self._looker = _Helper(), _Helper(), _Helper()
        self._lost = ""  # why the cluster itself is gone
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
                self._lost = self._lost or _lost(TimeoutError("its head does not answer"))
                self._house.stopping.set()
                return

    async def _give_up_waiting(self, full: OSError) -> None:
        """Of songs whose letters have waited for room on the disk, which others may then find."""
        for song, away in list(self._away.items()):
            async with self._opening:
                is_waiting = bool(away.letters)
                if is_waiting:
                    away.lost = full
                    away.letters.clear()
            if is_waiting:
                await self._ask("stop", song)

    async def _ask(self, question: str, *words: Any, **more: Any) -> Any:
        """What the desk answers. A desk that does not is lost, and the cluster with it: raises Ray.died."""
        nothing: tuple[type[Exception], ...] = (*self._ray.died, TimeoutError)
        try:
            return await self._in_time(
                self._answer(lambda: getattr(self._desk, question).remote(*words, **more))
            )
        except nothing as error:
            self._lost = self._lost or _lost(error)
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
                away.lost = error
                away.letters.clear()
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
        nothing: tuple[type[Exception], ...] = (*self._ray.died, TimeoutError)
        work = self._looker.does(lambda: self._ray.machines(without))
        try:
            machines: list[Resources] = await asyncio.wait_for(work, ANSWER_S)
        except nothing:
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


class _Helper:
    """A thread that turns to Ray for us, one thing after the other. Where a client's head is silent it may be
    held up for minutes, in which signals still have to be heard; no end of ours waits for it.
    """

    def __init__(self) -> None:
        self._work: SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = SimpleQueue()
        Thread(target=self._run, daemon=True).start()

    def begins(self, work: Callable[[], Any]) -> Future[Any]:
        result: Future[Any] = Future()
        self._work.put((work, result))
        return result

    async def does(self, work: Callable[[], Any]) -> Any:
        return await asyncio.wrap_future(self.begins(work))

    def _run(self) -> None:
        while True:
            work, result = self._work.get()
            if result.set_running_or_notify_cancel():
                try:
                    with _told():
                        result.set_result(work())
                except Exception as error:  # noqa: BLE001 — whoever waits for it is told
                    result.set_exception(error)


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
