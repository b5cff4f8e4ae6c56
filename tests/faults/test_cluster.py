"""A real Ray cluster of several nodes on this machine; its machines, its driver and its songs are killed."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from runner import processes, status
from runner.files import read_json
from runner.songfolder import Outputs, SongFolder
from runner.supervise import Job
from tests.faults.batches import ROOT, Parent, causes, densities, job, known, outcomes, state, torn, wait_for

ray_utils = pytest.importorskip("ray.cluster_utils", reason="Ray is not installed")
pytestmark = [
    pytest.mark.slow,
    # Of Ray's own start and end.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

NODE = {"num_cpus": 2, "object_store_memory": 80 * 2**20}
LONG = "steps 200 0.1"
SHORT = "steps 5 0.05"


class Machines:
    """Nodes that can die: a head without a place for songs, and those that songs are made on."""

    def __init__(self) -> None:
        self.cluster = ray_utils.Cluster()
        self._started(
            **NODE | {"num_cpus": 0},
            include_dashboard=False,
            # That a machine is dead is known after two seconds, and not after half a minute.
            _system_config={"health_check_period_ms": 500, "health_check_failure_threshold": 3},
        )
        self.nodes: list[Any] = []
        self.made = 0

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    def have(self, count: int) -> None:
        while len(self.nodes) < count:
            # An address of its own each, so that no batch takes one of them for the machine that it runs on.
            self.made += 1
            self.nodes.append(self._started(**NODE, node_ip_address=f"127.0.1.{self.made}"))

    def _started(self, **settings: Any) -> Any:
        """Ray gives a node half a minute, which a busy machine may not have for it."""
        for _ in range(3):
            with suppress(Exception):
                return self.cluster.add_node(**settings)
        pytest.skip("Ray cannot start a node on this machine within half a minute")

    def kill(self, node: Any) -> None:
        """As a power cut: nothing of it says goodbye."""
        self.nodes.remove(node)
        self.cluster.remove_node(node, allow_graceful=False)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    environ = dict(os.environ)
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    os.environ["PYTHONPATH"] = str(ROOT)
    machines = Machines()
    try:
        yield machines
    finally:
        machines.cluster.shutdown()
        os.environ.clear()
        os.environ.update(environ)


@pytest.fixture
def machines(running: Machines) -> Machines:
    running.have(2)
    return running


class Door:
    """What lets clients into a cluster whose machines they are none of."""

    def __init__(self, machines: Machines) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        where = (f"--address={machines.address}", "--host=127.0.0.1", f"--port={self.port}")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ray.util.client.server", *where],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_for(self.is_open)

    def is_open(self) -> bool:
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port)).close()
            return True
        return False

    def drop(self) -> None:
        """Lose all who have come in."""
        for one in psutil.Process(self.process.pid).children():
            one.kill()

    def shut(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def door(running: Machines) -> Iterator[Door]:
    door = Door(running)
    yield door
    door.shut()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that is away for two seconds is gone, and not only after half a minute."""
    monkeypatch.setenv("RAY_CLIENT_RECONNECT_GRACE_PERIOD", "2")


def from_outside(tmp_path: Path, door: Door, jobs: list[Job], **options: Any) -> Parent:
    return Parent(tmp_path, jobs, cluster=f"ray://127.0.0.1:{door.port}", **options)


def batch(tmp_path: Path, machines: Machines, jobs: list[Job], **options: Any) -> Parent:
    return Parent(tmp_path, jobs, cluster=machines.address, **options)


def songs(script: str, count: int, **changes: Any) -> list[Job]:
    settings = {"threads": 1} | changes
    return [job(script, name=f"song-{number}", **settings) for number in range(count)]


def folders(parent: Parent, jobs: list[Job]) -> list[SongFolder]:
    return [parent.outputs.song(job.song.id) for job in jobs]


def steps_of(folder: SongFolder) -> int:
    logs = [attempt.steps for attempt in folder.attempts() if attempt.steps.exists()]
    return sum(len(log.read_text().splitlines()) for log in logs)


def all_sing(parent: Parent, jobs: list[Job]) -> bool:
    return all(steps_of(folder) >= 3 for folder in folders(parent, jobs))


def states(parent: Parent) -> dict[str, str]:
    return {song["song"]: song["state"] for song in read_json(parent.outputs.batch)["songs"]}


def leftovers(outputs: Outputs) -> list[processes.Identity]:
    return [who for who in known(outputs) if processes.is_alive(who)]


def assert_nothing_is_left(parent: Parent) -> None:
    wait_for(lambda: not leftovers(parent.outputs))
    assert torn(parent.outputs) == []


def test_songs_end_as_they_would_at_home(tmp_path: Path, machines: Machines) -> None:
    jobs = [
        *songs(SHORT, 2),
        job("fail bad-input", name="bad", threads=1),
        job("only 1\nsteps 3 0.01\nexit 3", name="crash", threads=1),
        job("steps 3 0.01\nhang", name="hangs", threads=1, stall_s=1.0, attempts=1),
        job("only 1\nsteps 3 0.01\nspin", name="slow", threads=1, timeout_s=3.0),
        job("only 1\nsteps 3 0.01\neat 200\nhang", name="large", threads=1, memory_bytes=100 * 2**20),
    ]
    there, here = batch(tmp_path / "there", machines, jobs), Parent(tmp_path / "here", jobs)
    assert (there.wait(), here.wait()) == (1, 1)
    for afar, near in zip(folders(there, jobs), folders(here, jobs), strict=True):
        assert (state(afar), causes(afar)) == (state(near), causes(near))
        assert densities(afar) == densities(near)
        assert afar.audio("wav").exists() == near.audio("wav").exists()
        left = [{file.name for file in folder.folder.rglob("*") if file.is_file()} for folder in (afar, near)]
        assert left[0] | {"heartbeat.json"} == left[1] | {"heartbeat.json"}
    assert_nothing_is_left(there)


def test_whoever_watches_sees_each_song_move_by_the_clock_of_his_own_machine_and_can_stop_one(
    tmp_path: Path, machines: Machines
) -> None:
    jobs = [job(LONG, name="long", threads=1), *songs("steps 40 0.1", 1)]
    parent = batch(tmp_path, machines, jobs)

    def moving() -> list[status.Row]:
        rows = status.look(parent.outputs).rows if parent.outputs.batch.exists() else ()
        return [row for row in rows if row.phase == "sample" and row.step >= 5]

    rows = wait_for(lambda: moving() if len(moving()) == 2 else None)
    assert {(row.state, row.health) for row in rows} == {("running", "healthy")}
    parent.outputs.song("night/long").stop.touch()
    assert parent.wait() == 1
    assert causes(parent.outputs.song("night/long")) == ["interrupted"]
    assert state(parent.outputs.song("night/song-0")) == "done"
    assert_nothing_is_left(parent)


def test_ctrl_c_ends_what_sings_anywhere_leaves_the_rest_and_the_same_command_goes_on(
    tmp_path: Path, machines: Machines
) -> None:
    jobs = songs(LONG, 5, threads=2)  # two have a place, two are sent ahead
    parent = batch(tmp_path, machines, jobs)
    wait_for(lambda: sum(steps_of(folder) > 2 for folder in folders(parent, jobs)) >= 2)
    sent = [folder for folder in folders(parent, jobs) if folder.folder.is_dir()]
    waiting = next(folder for folder in sent if not folder.attempts())
    waiting.stop.touch()  # one that no machine has taken can be stopped, too
    wait_for(lambda: states(parent)[waiting.id] == "interrupted")
    parent.signal(signal.SIGINT)
    assert parent.wait() == 130
    assert leftovers(parent.outputs) == []
    begun = [folder for folder in folders(parent, jobs) if folder.attempts()]
    assert [causes(folder) for folder in begun] == [["interrupted"]] * 2
    assert sorted(states(parent).values()) == ["interrupted"] * 3 + ["left"] * 2
    quick = songs("steps 200 0.001", 5, threads=2)
    assert batch(tmp_path, machines, quick).wait() == 0
    for folder in begun:
        assert causes(folder) == ["interrupted", None]
        assert steps_of(folder) <= 200  # none of them was made twice
    assert_nothing_is_left(parent)


def test_a_song_whose_machine_dies_goes_on_elsewhere_from_its_checkpoint_and_is_not_charged(
    tmp_path: Path, machines: Machines
) -> None:
    jobs = songs("steps 40 0.1", 4, attempts=1)
    parent = batch(tmp_path, machines, jobs)
    wait_for(lambda: all_sing(parent, jobs))
    machines.kill(machines.nodes[0])
    machines.have(2)
    assert parent.wait() == 0
    ended = [causes(folder) for folder in folders(parent, jobs)]
    assert all(end[-1] is None for end in ended)
    moved = [folder for folder in folders(parent, jobs) if len(folder.attempts()) == 2]
    assert moved
    for folder in moved:
        assert not folder.attempts()[0].outcome.exists()  # lost, which nobody is charged for
        assert read_json(folder.attempts()[1].request)["checkpoint"] is not None
        assert [each["cause"] for each in read_json(folder.manifest)["attempts"]] == ["lost", None]
    assert_nothing_is_left(parent)


def test_a_killed_driver_leaves_no_child_anywhere_and_the_same_command_makes_each_song_once(
    tmp_path: Path, machines: Machines
) -> None:
    jobs = songs(LONG, 2)
    parent = batch(tmp_path, machines, jobs)
    wait_for(lambda: all_sing(parent, jobs))
    parent.kill()
    wait_for(lambda: not leftovers(parent.outputs))
    again = batch(tmp_path, machines, songs("steps 200 0.001", 2))
    assert again.wait() == 0
    for folder in folders(again, jobs):
        assert [each["cause"] for each in read_json(folder.manifest)["attempts"]] == ["lost", None]
        assert steps_of(folder) <= 200  # what had come home was not made again
    assert_nothing_is_left(again)


def test_machines_that_die_at_random_lose_no_song_and_make_none_twice(
    tmp_path: Path, machines: Machines, night: bool
) -> None:
    chance = random.Random(7)
    jobs = songs("steps 30 0.1", 40 if night else 8)
    parent = batch(tmp_path, machines, jobs)
    for _ in range(12 if night else 3):
        before = sum(map(steps_of, folders(parent, jobs)))
        wait_for(
            lambda before=before: (
                parent.process.poll() is not None or sum(map(steps_of, folders(parent, jobs))) > before + 10
            ),
            timeout_s=120.0,
        )
        time.sleep(chance.random())
        machines.kill(chance.choice(machines.nodes))
        machines.have(2)
    assert parent.wait(timeout_s=600) == 0
    for folder in folders(parent, jobs):
        assert state(folder) == "done"
        assert [end for end in causes(folder) if end is None] == [None]
        assert {outcome["cause"] for outcome in outcomes(folder)} <= {None, "interrupted"}
    assert_nothing_is_left(parent)


def test_a_cluster_that_cannot_be_reached_is_told_in_one_line(tmp_path: Path) -> None:
    parent = Parent(tmp_path, songs(SHORT, 1), cluster="127.0.0.1:1")
    assert parent.wait() == 1
    assert "--cluster 127.0.0.1:1: no cluster answers" in parent.err
    assert "Traceback" not in parent.err


def test_this_machine_alone_is_a_cluster_too(tmp_path: Path) -> None:
    jobs = songs(SHORT, 1)
    parent = Parent(tmp_path, jobs, cluster="local")
    assert parent.wait() == 0
    assert state(folders(parent, jobs)[0]) == "done"
    assert_nothing_is_left(parent)


def test_songs_of_one_who_is_outside_of_the_cluster_end_as_those_of_one_inside_and_are_stopped_as_they(
    tmp_path: Path, machines: Machines, door: Door
) -> None:
    jobs = [
        *songs(SHORT, 1),
        job("fail bad-input", name="bad", threads=1),
        job("only 1\nsteps 3 0.01\nexit 3", name="crash", threads=1),
    ]
    long = [job(LONG, name=f"long-{number}", threads=1) for number in range(2)]
    parent = from_outside(tmp_path, door, [*jobs, *long])
    ends = [[None], ["bad-input"], ["crash", None]]
    wait_for(lambda: [causes(folder) for folder in folders(parent, jobs)] == ends, timeout_s=120.0)
    wait_for(lambda: all_sing(parent, long))
    stopped = folders(parent, long)[0]
    stopped.stop.touch()
    wait_for(lambda: states(parent)[stopped.id] == "interrupted")
    parent.signal(signal.SIGINT)
    assert parent.wait() == 130
    assert leftovers(parent.outputs) == []
    assert [state(folder) for folder in folders(parent, jobs)] == ["done", "failed", "done"]
    assert [causes(folder) for folder in folders(parent, long)] == [["interrupted"]] * 2
    assert parent.err.count("\n") == 5  # of each song how it ended, and nothing of Ray's
    assert_nothing_is_left(parent)


@pytest.mark.usefixtures("impatient")
def test_a_client_that_is_killed_leaves_no_child_and_the_same_command_goes_on(
    tmp_path: Path, machines: Machines, door: Door
) -> None:
    jobs = songs(LONG, 2)
    parent = from_outside(tmp_path, door, jobs)
    wait_for(lambda: all_sing(parent, jobs), timeout_s=120.0)
    parent.kill()
    wait_for(lambda: not leftovers(parent.outputs))
    again = from_outside(tmp_path, door, songs("steps 200 0.001", 2))
    assert again.wait() == 0
    for folder in folders(again, jobs):
        assert [each["cause"] for each in read_json(folder.manifest)["attempts"]] == ["lost", None]
        assert steps_of(folder) <= 200
    assert_nothing_is_left(again)


@pytest.mark.usefixtures("impatient")
def test_a_client_that_loses_its_cluster_says_so_of_each_song_and_leaves_no_child(
    tmp_path: Path, machines: Machines, door: Door
) -> None:
    jobs = songs(LONG, 2)
    parent = from_outside(tmp_path, door, jobs)
    wait_for(lambda: all_sing(parent, jobs), timeout_s=120.0)
    door.drop()
    assert parent.wait() == 1
    assert sorted(states(parent).values()) == ["interrupted"] * 2
    assert parent.err.count("interrupted: the cluster was lost") == 2
    assert "Traceback" not in parent.err
    assert_nothing_is_left(parent)
