"""docs/reference/worker.md, point by point, on real processes: what the runner may rely on in any engine."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from runner import manifest, processes
from runner.check import check
from runner.errors import SpecError
from runner.files import read_json
from runner.songfolder import Outputs, SongFolder
from runner.spec import Song
from runner.supervise import House, Job, supervise
from tests.faults import batches
from tests.faults.batches import causes, outcomes

pytestmark = pytest.mark.slow
Engine = Sequence[str]

LYRICS = "[00:00.00]Evening comes in\n[00:02.00]on the tide"
STEPS = 6


def song(**changes: Any) -> Song:
    wanted = batches.job(LYRICS, duration=4.0, style="pop song", seed=7, attempts=3).song
    return replace(wanted, **{"steps": STEPS, "preset": "standard", "stall_s": None} | changes)


def asked(engine: Engine, one: Song) -> Job:
    answer = check([one], worker=(*engine, "check"))[0]
    return Job(one, answer, manifest.fingerprint(one, answer))


def make(
    engine: Engine, folder: SongFolder, job: Job, *, kill_at: Sequence[int] = (), stop: bool = False
) -> str:
    """The song's state. kill_at: numbers of steps; at each the child that is there is killed, once."""
    folder.folder.mkdir(parents=True, exist_ok=True)
    house = House(mark=f"{folder.outputs.folder}//contract", worker=(*engine, "sing"), tick_s=0.02)

    async def run() -> str:
        making = asyncio.create_task(supervise(job, folder, house, lambda said: None))
        for steps in kill_at:
            while steps_of(folder) < steps and not making.done():
                await asyncio.sleep(0.005)
            for child in psutil.Process().children():
                child.send_signal(signal.SIGKILL)
        if stop:
            while steps_of(folder) < 1:
                await asyncio.sleep(0.005)
            house.stopping.set()
        return (await making).state

    return asyncio.run(run())


def steps_of(folder: SongFolder) -> int:
    logs = [attempt.steps for attempt in folder.attempts() if attempt.steps.exists()]
    return sum(len(log.read_text().splitlines()) for log in logs)


@pytest.fixture
def folder(tmp_path: Path) -> SongFolder:
    return Outputs(tmp_path / "outputs").song("night/song")


@pytest.fixture(scope="module")
def whole(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> SongFolder:
    """A song that nothing has happened to."""
    folder = Outputs(tmp_path_factory.mktemp("whole")).song("night/song")
    assert make(engine, folder, asked(engine, song())) == "done", outcomes(folder)
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
    import json

    lines = [json.loads(line) for line in whole.attempts()[0].steps.read_text().splitlines()]
    ts = [line["t"] for line in lines]
    assert len(ts) == STEPS
    assert ts == sorted(ts)
    assert 0 < ts[0] < ts[-1] == 1.0


def test_it_beats_as_itself(engine: Engine, folder: SongFolder) -> None:
    from runner import heartbeat

    seen = []

    async def watched() -> None:
        house = House(mark="/contract//", worker=(*engine, "sing"), tick_s=0.02)
        making = asyncio.create_task(supervise(asked_job, folder, house, lambda said: None))
        while not making.done():
            beat = heartbeat.read(folder.heartbeat)
            if isinstance(beat, heartbeat.Heartbeat):
                child = next(iter(house.own - before), None)
                seen.append((beat, child))
            await asyncio.sleep(0.01)

    folder.folder.mkdir(parents=True)
    asked_job, before = asked(engine, song()), set[int]()
    asyncio.run(watched())
    beats = [beat for beat, _ in seen]
    assert {beat.song for beat in beats} == {"night/song"}
    assert [beat.seq for beat in beats] == sorted(beat.seq for beat in beats)
    assert all(beat.pid == child for beat, child in seen if child is not None)
    assert {beat.boot_id for beat in beats} == {processes.boot_id()}
    assert max(beat.step for beat in beats if beat.phase == "sample") >= STEPS - 1


def test_killed_again_and_again_it_ends_with_the_sound_that_it_would_have_made(
    engine: Engine, folder: SongFolder, whole: SongFolder
) -> None:
    assert make(engine, folder, asked(engine, song()), kill_at=(2, 4)) == "done"
    assert causes(folder)[-1] is None
    assert len(causes(folder)) > 1
    assert folder.audio("wav").read_bytes() == whole.audio("wav").read_bytes()


def test_another_seed_is_another_song(engine: Engine, folder: SongFolder, whole: SongFolder) -> None:
    assert make(engine, folder, asked(engine, song(seed=8))) == "done"
    assert folder.audio("wav").read_bytes() != whole.audio("wav").read_bytes()


def test_a_checkpoint_that_cannot_be_read_costs_its_steps_and_not_the_song(
    engine: Engine, folder: SongFolder, whole: SongFolder
) -> None:
    job = asked(engine, song())
    assert make(engine, folder, job, stop=True) == "interrupted"
    folder.attempts()[-1].checkpoint.write_bytes(b"\x00garbage")
    assert make(engine, folder, job) == "done"
    assert folder.audio("wav").read_bytes() == whole.audio("wav").read_bytes()


def test_stopped_it_leaves_no_process_and_goes_on_later(engine: Engine, folder: SongFolder) -> None:
    job = asked(engine, song())
    assert make(engine, folder, job, stop=True) == "interrupted"
    assert processes.marked(f"{folder.outputs.folder}//") == []
    assert make(engine, folder, job) == "done"
    assert steps_of(folder) == STEPS


def test_what_it_cannot_make_after_all_is_tried_once(engine: Engine, folder: SongFolder) -> None:
    job = asked(engine, song())
    wrong = replace(job, song=replace(job.song, duration=9999.0), answer=replace(job.answer, duration=9999.0))
    assert make(engine, folder, wrong) == "failed"
    assert causes(folder) == ["bad-input"]


def test_with_fewer_steps_than_asked_it_says_so(engine: Engine, folder: SongFolder) -> None:
    job = asked(engine, song(steps=16))
    thinner = replace(job.answer, steps=16)
    folder.folder.mkdir(parents=True)
    assert make(engine, folder, replace(job, answer=thinner), kill_at=(2, 3)) == "degraded"
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
