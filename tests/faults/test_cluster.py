"""A real Ray cluster of several nodes on this machine; its machines, its driver and its songs are killed."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from runner import manifest, processes, status
from runner.files import read_json
from runner.songfolder import Outputs, SongFolder
from runner.spool import LARGE
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
# Which of them it is made on, a child finds in its environment.
NAME = "DIFFRHYTHM_TEST_MACHINE"
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
            self._add()

    @contextmanager
    def one_more(self, **settings: Any) -> Iterator[Any]:
        node = self._add(**settings)
        try:
            yield node
        finally:
            if node in self.nodes:
                self.kill(node)

    def _add(self, **settings: Any) -> Any:
        # An address of its own each, so that no batch takes one of them for the machine that it runs on.
        self.made += 1
        os.environ[NAME] = str(self.made)
        self.nodes.append(self._started(**NODE | settings, node_ip_address=f"127.0.1.{self.made}"))
        return self.nodes[-1]

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


def said(folder: SongFolder, name: str) -> str | None:
    """What the song's child has found in its environment; None: it has not looked yet."""
    logs = [attempt.log.read_text() for attempt in folder.attempts() if attempt.log.exists()]
    lines = [line for log in logs for line in log.splitlines() if line.startswith(f"{name}=")]
    return lines[-1].partition("=")[2] if lines else None


def most_at_once(ends: Sequence[dict[str, Any]]) -> int:
    """Attempts under way at the same time, by how they ended."""
    return max(
        sum(other["began_wall"] <= each["began_wall"] < other["ended_wall"] for other in ends)
        for each in ends
    )


def states(parent: Parent) -> dict[str, str]:
    return {song["song"]: song["state"] for song in read_json(parent.outputs.batch)["songs"]}


def leftovers(outputs: Outputs) -> list[processes.Identity]:
    return [who for who in known(outputs) if processes.is_alive(who)]


def assert_nothing_is_left(parent: Parent) -> None:
    wait_for(lambda: not leftovers(parent.outputs))
    assert torn(parent.outputs) == []


@pytest.fixture(params=["shared", "apart"])
def apart(request: pytest.FixtureRequest) -> bool:
    """Whether no machine sees the outputs of the one that the batch is called on."""
    is_apart: bool = request.param == "apart"
    if is_apart and subprocess.run(["unshare", "--mount", "true"], check=False).returncode != 0:
        pytest.skip("may not unshare mounts")
    return is_apart


def test_songs_end_as_they_would_at_home(tmp_path: Path, machines: Machines, apart: bool) -> None:
    jobs = [
        *songs(SHORT, 2),
        job("fail bad-input", name="bad", threads=1),
        job("only 1\nsteps 3 0.01\nexit 3", name="crash", threads=1),
        job("steps 3 0.01\nhang", name="hangs", threads=1, stall_s=1.0, attempts=1),
        job("only 1\nsteps 3 0.01\nspin", name="slow", threads=1, timeout_s=8.0),
        job("only 1\nsteps 3 0.01\neat 200\nhang", name="large", threads=1, memory_bytes=100 * 2**20),
    ]
    there, here = batch(tmp_path / "there", machines, jobs, apart=apart), Parent(tmp_path / "here", jobs)
    assert (there.wait(), here.wait()) == (1, 1)
    for afar, near in zip(folders(there, jobs), folders(here, jobs), strict=True):
        assert (state(afar), causes(afar)) == (state(near), causes(near))
        assert densities(afar) == densities(near)
        assert afar.audio("wav").exists() == near.audio("wav").exists()
        left = [{file.name for file in folder.folder.rglob("*") if file.is_file()} for folder in (afar, near)]
        assert left[0] | {"heartbeat.json"} == left[1] | {"heartbeat.json"}
    assert_nothing_is_left(there)


def test_large_files_go_through_the_outputs_where_machines_see_them_and_through_ray_elsewhere(
    tmp_path: Path, machines: Machines, apart: bool
) -> None:
    jobs = songs(f"pad {LARGE >> 10}\nsteps 40 0.1", 2)
    parent = batch(tmp_path, machines, jobs, apart=apart)
    seen: set[str] = set()

    def handed_over() -> set[str]:
        seen.update(file.name for file in parent.outputs.folder.glob(".spool-*/*"))
        return seen

    if apart:
        wait_for(lambda: handed_over() or parent.process.poll() is not None, timeout_s=120.0)
        assert not seen
    else:
        wait_for(handed_over, timeout_s=120.0)
    assert parent.wait() == 0
    for folder in folders(parent, jobs):
        assert state(folder) == "done"
        assert folder.audio("wav").stat().st_size > LARGE
        assert manifest.sha256(folder.audio("wav")) == read_json(folder.manifest)["sha256"]
    assert list(parent.outputs.folder.glob(".spool-*")) == []
    assert_nothing_is_left(parent)


def test_a_clip_is_read_where_it_lies_if_the_machine_sees_it_and_comes_through_ray_if_not(
    tmp_path: Path, machines: Machines, apart: bool
) -> None:
    place = tmp_path / "outputs" / "clip.wav"
    place.parent.mkdir()
    place.write_text("a-sound")
    named = tmp_path / "apart" / "clip.wav" if apart else place  # as the batch calls it
    plain = job("say-clip", style=None, style_audio=place)
    wanted = replace(
        plain,
        song=replace(plain.song, style_audio=named),
        fingerprint=manifest.fingerprint(plain.song, plain.answer),
    )
    parent = batch(tmp_path, machines, [wanted], apart=apart)
    assert parent.wait() == 0, parent.err
    (folder,) = folders(parent, [wanted])
    (attempt,) = folder.attempts()
    (line,) = (line for line in attempt.log.read_text().splitlines() if line.startswith("clip "))
    _, path, sound = line.split()
    assert sound == "a-sound"
    assert (path == str(named)) is not apart
    assert read_json(attempt.request)["style_audio"] == str(named)
    assert_nothing_is_left(parent)


def test_whoever_watches_sees_each_song_move_by_the_clock_of_his_own_machine_and_can_stop_one(
    tmp_path: Path, machines: Machines
) -> None:
    go = tmp_path / "go"
    jobs = [job(LONG, name="long", threads=1), *songs(f"steps 40 0.1\nwait {go}", 1)]
    parent = batch(tmp_path, machines, jobs)

    def moving() -> list[status.Row]:
        rows = status.look(parent.outputs).rows if parent.outputs.batch.exists() else ()
        return [row for row in rows if row.phase == "sample" and row.step >= 5]

    rows = wait_for(lambda: rows if len(rows := moving()) == 2 else None)
    assert {(row.state, row.health) for row in rows} == {("running", "healthy")}
    parent.outputs.song("night/long").stop.touch()
    go.touch()
    assert parent.wait() == 1
    assert causes(parent.outputs.song("night/long")) == ["interrupted"]
    assert state(parent.outputs.song("night/song-0")) == "done"
    assert_nothing_is_left(parent)


def test_ctrl_c_ends_what_sings_anywhere_leaves_the_rest_and_the_same_command_goes_on(
    tmp_path: Path, machines: Machines
) -> None:
    # Two have a place, two are sent ahead; their children have children that hide.
    jobs = songs(f"setsid\ndaemon\n{LONG}", 5, threads=2)
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
    tmp_path: Path, machines: Machines, apart: bool
) -> None:
    go = tmp_path / "go"
    jobs = songs(f"steps 40 0.1\nwait {go}", 4, attempts=1)
    parent = batch(tmp_path, machines, jobs, apart=apart)
    wait_for(lambda: all_sing(parent, jobs))
    machines.kill(machines.nodes[0])
    go.touch()  # none was made before that
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
    assert len(list(parent.outputs.folder.glob(".spool-*"))) == 1
    again = batch(tmp_path, machines, songs("steps 200 0.001", 2))
    assert again.wait() == 0
    for folder in folders(again, jobs):
        assert [each["cause"] for each in read_json(folder.manifest)["attempts"]] == ["lost", None]
        assert steps_of(folder) <= 200  # what had come home was not made again
    assert list(parent.outputs.folder.glob(".spool-*")) == []
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


def test_a_plan_counts_the_places_of_all_machines(tmp_path: Path, machines: Machines) -> None:
    song = "  - {name: NAME, style: pop song, duration: 4, steps: 4, threads: 1}\n"
    file = tmp_path / "night.yaml"
    file.write_text("model: demo\nsongs:\n" + "".join(song.replace("NAME", name) for name in "abcdef"))
    command = [sys.executable, "-m", "runner.cli", "batch", str(file), "--out", str(tmp_path / "outputs")]
    command += ["--cluster", machines.address, "--plan", "--json"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    plan = json.loads(said.stdout)
    waits_s = sorted(song["start_wall"] - plan["taken_wall"] for song in plan["songs"])
    assert [wait_s > 0 for wait_s in waits_s] == [False] * 4 + [True] * 2
    assert not (tmp_path / "outputs").exists()


def test_songs_that_are_made_on_a_gpu_have_one_each_and_wait_for_it(
    tmp_path: Path, machines: Machines
) -> None:
    go = tmp_path / "go"
    jobs = songs(f"say-env CUDA_VISIBLE_DEVICES\nsteps 3 0.01\nwait {go}", 3, gpus=1)
    with machines.one_more(num_gpus=2, num_cpus=4):
        parent = batch(tmp_path, machines, jobs)
        wait_for(lambda: sum(steps_of(folder) >= 3 for folder in folders(parent, jobs)) >= 2, timeout_s=120)
        first = [folder for folder in folders(parent, jobs) if folder.attempts()]
        assert {said(folder, "CUDA_VISIBLE_DEVICES") for folder in first} == {"0", "1"}
        go.touch()
        assert parent.wait() == 0
    assert most_at_once([end for folder in folders(parent, jobs) for end in outcomes(folder)]) == 2
    assert {said(folder, "CUDA_VISIBLE_DEVICES") for folder in folders(parent, jobs)} == {"0", "1"}
    assert_nothing_is_left(parent)


def test_where_no_machine_has_a_gpu_or_the_only_one_dies_songs_are_made_without(
    tmp_path: Path, machines: Machines
) -> None:
    go = tmp_path / "go"
    jobs = songs(f"say-env CUDA_VISIBLE_DEVICES\nsteps 3 0.01\nwait {go}", 2, gpus=1)
    with machines.one_more(num_gpus=1) as node:
        parent = batch(tmp_path, machines, jobs)
        first = wait_for(lambda: next((f for f in folders(parent, jobs) if steps_of(f) >= 3), None))
        assert said(first, "CUDA_VISIBLE_DEVICES") == "0"
        machines.kill(node)
        # Its child lives a moment longer than its machine, which without power it would not.
        wait_for(
            lambda: {said(folder, "CUDA_VISIBLE_DEVICES") for folder in folders(parent, jobs)} == {""},
            timeout_s=120,
        )
        go.touch()
        assert parent.wait(timeout_s=120) == 0
    assert {said(folder, "CUDA_VISIBLE_DEVICES") for folder in folders(parent, jobs)} == {""}
    assert_nothing_is_left(parent)


def test_a_song_that_one_machine_cannot_even_try_is_made_on_another(
    tmp_path: Path, machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    jobs = songs(f"say-env CUDA_VISIBLE_DEVICES\n{SHORT}", 2, gpus=1)
    with machines.one_more(num_gpus=1):  # where a song that wants a GPU goes first
        parent = batch(tmp_path, machines, jobs)
        assert parent.wait(timeout_s=120) == 0, parent.err
    assert {said(folder, "CUDA_VISIBLE_DEVICES") for folder in folders(parent, jobs)} == {""}
    assert_nothing_is_left(parent)


def test_a_machine_where_memory_ran_out_gets_fewer_songs_at_once_and_the_other_as_many_as_before(
    tmp_path: Path, machines: Machines
) -> None:
    flags = tmp_path / "flags"
    flags.mkdir()
    patient = {"stall_s": 300.0, "timeout_s": 300.0}
    hold = f"say-env {NAME}\nwait {flags}/"
    jobs = [
        job(f"{hold}large\nfail out-of-memory", name="large", attempts=1, **patient),
        *(job(f"{hold}song-{number}", name=f"song-{number}", **patient) for number in range(7)),
    ]
    parent = batch(tmp_path, machines, jobs)
    large, *others = folders(parent, jobs)

    def begun(after: Sequence[SongFolder] = ()) -> dict[str, str]:
        """The machines of songs that have begun, by song."""
        found = {each.id: said(each, NAME) for each in (large, *others) if each not in after}
        return {id: machine for id, machine in found.items() if machine is not None}

    def waits() -> bool:
        notes = [song["note"] for song in read_json(parent.outputs.batch)["songs"]]
        return any(note.startswith("waits for its turn: 1 at once, since memory ran out") for note in notes)

    def release(songs: Sequence[SongFolder]) -> None:
        for each in songs:
            (flags / each.folder.name).touch()

    wait_for(lambda: len(begun()) == 4, timeout_s=120)
    first = [each for each in (large, *others) if each.id in begun()]
    sick = begun()[large.id]
    (well,) = set(begun().values()) - {sick}
    release([large])
    wait_for(lambda: states(parent)[large.id] == "failed" and waits(), timeout_s=120)
    release(first)
    wait_for(lambda: sorted(begun(first).values()) == sorted([sick, well, well]) and waits(), timeout_s=120)
    release(others)
    assert parent.wait(timeout_s=120) == 1
    ends = {
        machine: [outcomes(each)[0] for each in others if said(each, NAME) == machine]
        for machine in (sick, well)
    }
    assert (most_at_once(ends[sick]), most_at_once(ends[well])) == (1, 2)
    assert_nothing_is_left(parent)


def test_a_song_that_fails_or_is_put_off_says_on_which_machine(
    tmp_path: Path, machines: Machines, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = (
        Outputs(tmp_path / "outputs").song("night/large").folder / "attempts/1/checkpoint.safetensors"
    )
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(bytes(300_000))
    jobs = [
        job("fail bad-input", name="bad"),
        job(SHORT, name="put-off", gpus=1),
        job(SHORT, name="large", gpus=1),
    ]
    monkeypatch.setenv("XDG_CACHE_HOME", str(small_disk))
    with machines.one_more(num_gpus=1):
        parent = batch(tmp_path, machines, jobs, await_s=0.5)
        assert parent.wait() == 1
    here = f"on {socket.gethostname()}: "
    notes = {song["song"]: song["note"] for song in read_json(parent.outputs.batch)["songs"]}
    assert notes["night/bad"] == f"{here}failed by bad-input"
    assert notes["night/put-off"].startswith(f"{here}room on the disk: ")
    assert notes["night/large"].startswith(f"{here}No space left on device: {small_disk}")
    assert states(parent) == {
        "night/bad": "failed",
        "night/put-off": "left",
        "night/large": "interrupted",
    }
    assert_nothing_is_left(parent)


def test_a_head_that_dies_ends_the_songs_in_words_before_ray_ends_their_batch_without(tmp_path: Path) -> None:
    machines = Machines()
    try:
        machines.have(1)
        jobs = songs(f"wait {tmp_path / 'never'}", 1, stall_s=300.0)
        parent = batch(tmp_path, machines, jobs)
        wait_for(lambda: any(folder.attempts() for folder in folders(parent, jobs)))
        machines.cluster.head_node.kill_gcs_server()
        assert parent.wait() == 1
    finally:
        machines.cluster.shutdown()
    assert "interrupted: the cluster was lost (its head does not answer)" in parent.err
    assert read_json(parent.outputs.batch)["finished_wall"] is not None
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
    assert again.wait() == 0, again.err
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
