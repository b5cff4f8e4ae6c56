"""docs/reference/worker.md, point by point, on real processes: what the runner may rely on in any engine."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import pytest

from runner import heartbeat, manifest, processes
from runner.check import check
from runner.errors import SpecError
from runner.files import read_json
from runner.messages import Heartbeat, SongAnswer
from runner.songfolder import Outputs, SongFolder
from runner.spec import Song
from runner.supervise import House, Job, supervise
from tests.faults import batches
from tests.faults.batches import causes, outcomes

pytestmark = pytest.mark.slow
Engine = Sequence[str]

LYRICS = "[00:00.00]Evening comes in\n[00:02.00]on the tide"
STEPS = 12


def song(**changes: Any) -> Song:
    wanted = batches.job(LYRICS, duration=4.0, style="pop song", seed=7, attempts=3).song
    return replace(wanted, **{"steps": STEPS, "preset": "standard", "stall_s": None} | changes)


@cache
def answer(engine: Engine) -> SongAnswer:
    """Of the song as it is; what a test changes of it no check has to be asked again for."""
    return check([song()], worker=(*engine, "check"))[0]


def asked(engine: Engine, one: Song) -> Job:
    return Job(one, answer(engine), manifest.fingerprint(one, answer(engine)))


@dataclass(slots=True)
class Made:
    """A song's folder, how its making ended, and its beats, each with the pid of the child that was there."""

    folder: SongFolder
    state: str
    beats: list[tuple[Heartbeat, int | None]]


def make(
    engine: Engine, folder: SongFolder, job: Job, *, kill_at: int | None = None, stop: bool = False
) -> Made:
    """kill_at: number of the step at which its child is killed, once. stop: after its first step."""
    folder.folder.mkdir(parents=True, exist_ok=True)
    house = House(mark=f"{folder.outputs.folder}//contract", worker=(*engine, "sing"), tick_s=0.02)
    before, beats = steps_of(folder), []

    async def run() -> str:
        making = asyncio.create_task(supervise(job, folder, house, lambda said: None))
        told = False
        while not making.done():
            await asyncio.wait({making}, timeout=0.005)
            beat = heartbeat.read(folder.heartbeat)
            if isinstance(beat, Heartbeat):
                beats.append((beat, next(iter(house.own), None)))
            if not told and kill_at is not None and steps_of(folder) >= kill_at:
                told = True
                send(signal.SIGKILL)
            elif not told and stop and steps_of(folder) > before:
                told = True
                send(
                    signal.SIGSTOP
                )  # until it is asked to end: else, on a busy machine, it may be made by then
                house.stopping.set()
        return making.result().state

    return Made(folder, asyncio.run(run()), beats)


def send(number: signal.Signals) -> None:
    for child in psutil.Process().children():
        child.send_signal(number)


def steps_of(folder: SongFolder) -> int:
    logs = [attempt.steps for attempt in folder.attempts() if attempt.steps.exists()]
    return sum(len(log.read_text().splitlines()) for log in logs)


@pytest.fixture
def folder(tmp_path: Path) -> SongFolder:
    return Outputs(tmp_path / "outputs").song("night/song")


@pytest.fixture(scope="module")
def making(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Of a song that nothing has happened to, slow enough that its beats are seen."""
    folder = Outputs(tmp_path_factory.mktemp("whole")).song("night/song")
    with pytest.MonkeyPatch.context() as changed:
        changed.setenv("DIFFRHYTHM_ENGINE_STEP_S", "0.1")
        made = make(engine, folder, asked(engine, song()))
    assert made.state == "done", outcomes(made.folder)
    return made


@pytest.fixture(scope="module")
def whole(making: Made) -> SongFolder:
    return making.folder


@pytest.fixture(scope="module")
def half(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> SongFolder:
    """The same song, stopped behind its first step."""
    folder = Outputs(tmp_path_factory.mktemp("half")).song("night/song")
    made = make(engine, folder, asked(engine, song()), stop=True)
    assert made.state == "interrupted", outcomes(folder)
    return folder


@pytest.fixture
def begun(half: SongFolder, folder: SongFolder) -> SongFolder:
    shutil.copytree(half.folder, folder.folder)
    return folder


def test_every_question_of_a_check_is_answered_in_its_place(engine: Engine) -> None:
    songs = [song(name=name, duration=seconds) for name, seconds in (("b", 3.0), ("a", 4.0), ("c", 2.0))]
    answers = check(songs, worker=(*engine, "check"))
    assert [(answer.song, answer.duration) for answer in answers] == [
        ("night/b", 3.0),
        ("night/a", 4.0),
        ("night/c", 2.0),
    ]
    assert all(answer.steps == STEPS and answer.model_hash for answer in answers)


def test_what_it_cannot_make_it_says_in_the_check(engine: Engine) -> None:
    with pytest.raises(SpecError, match="9999"):
        check([song(), song(name="long", duration=9999.0)], worker=(*engine, "check"))


def test_a_song_is_made_and_its_sound_is_what_its_maker_says(whole: SongFolder) -> None:
    made = read_json(whole.manifest)
    assert made["sha256"] == manifest.sha256(whole.audio("wav"))
    assert (made["state"], made["seed"], causes(whole)) == ("done", 7, [None])


def test_each_step_is_logged_with_how_far_it_came(whole: SongFolder) -> None:
    lines = [json.loads(line) for line in whole.attempts()[0].steps.read_text().splitlines()]
    ts = [line["t"] for line in lines]
    assert len(ts) == STEPS
    assert ts == sorted(ts)
    assert 0 < ts[0] < ts[-1] == 1.0


def test_it_beats_as_itself(making: Made) -> None:
    beats = [beat for beat, _ in making.beats]
    assert {beat.song for beat in beats} == {"night/song"}
    assert [beat.seq for beat in beats] == sorted(beat.seq for beat in beats)
    assert {beat.pid for beat in beats} == {child for _, child in making.beats if child is not None}
    assert {beat.boot_id for beat in beats} == {processes.boot_id()}
    assert any(beat.phase == "sample" and beat.step > 0 for beat in beats)


def test_another_seed_is_another_song(engine: Engine, folder: SongFolder, whole: SongFolder) -> None:
    assert make(engine, folder, asked(engine, song(seed=8))).state == "done"
    assert folder.audio("wav").read_bytes() != whole.audio("wav").read_bytes()


def test_stopped_it_leaves_no_process(half: SongFolder) -> None:
    assert processes.marked(f"{half.outputs.folder}//") == []
    assert causes(half) == ["interrupted"]


def test_stopped_and_killed_it_ends_with_the_sound_that_it_would_have_made_and_makes_no_step_twice(
    engine: Engine, begun: SongFolder, whole: SongFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIFFRHYTHM_ENGINE_STEP_S", "0.5")  # of ours, too: the kill is to come in time
    assert make(engine, begun, asked(engine, song()), kill_at=steps_of(begun) + 2).state == "done"
    assert causes(begun) == ["interrupted", "crash", None]
    assert steps_of(begun) <= STEPS
    assert begun.audio("wav").read_bytes() == whole.audio("wav").read_bytes()


def test_a_checkpoint_that_cannot_be_read_costs_its_steps_and_not_the_song(
    engine: Engine, begun: SongFolder, whole: SongFolder
) -> None:
    begun.attempts()[-1].checkpoint.write_bytes(b"\x00garbage")
    assert make(engine, begun, asked(engine, song())).state == "done"
    assert begun.audio("wav").read_bytes() == whole.audio("wav").read_bytes()


def test_what_it_cannot_make_after_all_is_tried_once(engine: Engine, folder: SongFolder) -> None:
    job = asked(engine, song())
    wrong = replace(job, song=replace(job.song, duration=9999.0), answer=replace(job.answer, duration=9999.0))
    assert make(engine, folder, wrong).state == "failed"
    assert causes(folder) == ["bad-input"]


def test_with_fewer_steps_than_asked_it_says_so(engine: Engine, folder: SongFolder) -> None:
    assert make(engine, folder, replace(asked(engine, song()), density=STEPS // 2)).state == "degraded"
    assert read_json(folder.manifest)["degraded"]


def test_it_writes_into_its_attempt_and_nowhere_else(whole: SongFolder) -> None:
    files = {path.relative_to(whole.folder).as_posix() for path in whole.folder.rglob("*") if path.is_file()}
    extra = {name for name in files if name.startswith("attempts/1/")}
    assert files - extra <= {"song.wav", "song.json", "heartbeat.json"} | pictures(files)
    assert {path.name for path in whole.outputs.folder.iterdir()} == {"night"}


def pictures(files: set[str]) -> set[str]:
    """What an engine may add to its song's folder by way of its outcome."""
    return {name for name in files if name.rpartition(".")[2] in ("png", "webp", "svg")}


def test_the_tiny_engine_knows_nothing_of_the_runner() -> None:
    import ast

    tree = ast.parse(Path(__file__).with_name("engine.py").read_text())
    names = {
        name.partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
        )
    }
    assert names <= set(sys.stdlib_module_names) | {"__future__"}
