"""All that we ask of Ray: to join a cluster, what its machines have, to send a song to one of them.

Ray is imported here and where a song is made (see `node`), and only where somebody names a cluster.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import socket
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from queue import SimpleQueue
from threading import Thread
from typing import Any

from runner.admission import SONG_CORES, Need
from runner.desk import Desk
from runner.errors import ClusterError, MachineError
from runner.node import Errand, sing

# A cluster that is there answers within this.
ANSWER_S = 10.0
# So often a client asks to be let in.
TRIES = 3
# What the address of a cluster begins with that lets a client in from outside.
CLIENT = "ray://"
# As long as that no end of ours waits for Ray to disconnect.
LEAVE_S = 5.0

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
    return {"CPU": _had(threads, large), "GPU": gpus, "memory": memory}


def places(machines: Sequence[Resources], threads: int, gpus: int) -> int:
    """As Ray.places."""
    machines, gpus = _with_gpus(machines, gpus)
    wanted = {"CPU": _had(threads, machines), "GPU": gpus}
    held = (min(int(each[name] // count) for name, count in wanted.items() if count) for each in machines)
    return max(1, sum(held))


def could_be_had(machines: Sequence[Resources], asked: Resources) -> bool:
    """Once other songs have ended; where there is no machine at all, of one that comes."""
    fits = (all(each.get(name, 0) >= count for name, count in asked.items()) for each in machines)
    return not machines or any(fits)


def _had(threads: int, machines: Sequence[Resources]) -> int:
    """As many of them as one of the machines has."""
    return min(threads, max((int(each["CPU"]) for each in machines), default=threads))


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
        with told():
            yield Ray(ray, from_outside)
    except BrokenPipeError:
        raise  # of those who read what is printed
    except (ray.exceptions.RayError, ConnectionError) as error:
        raise ClusterError(lost(error)) from error
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
def told() -> Iterator[None]:
    """That its cluster was lost before Ray's client tells by a bare Exception; here it is one of Ray.died."""
    try:
        yield
    except Exception as error:
        if type(error) is not Exception:
            raise
        raise ConnectionError(str(error)) from error


def lost(error: Exception) -> str:
    words = " ".join(str(error).split())[:120] or "no answer"
    return f"the cluster was lost ({words}); the same command goes on"


def _knock(address: str) -> None:
    """Raises OSError where nobody listens: Ray itself would try for minutes."""
    host, colon, port = address.removeprefix(CLIENT).rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_S).close()


class Helper:
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
                    with told():
                        result.set_result(work())
                except Exception as error:  # noqa: BLE001 — whoever waits for it is told
                    result.set_exception(error)
