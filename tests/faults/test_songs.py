"""Faults while real songs are made by the demo model: nothing is lost, and what is resumed is exact."""

from __future__ import annotations

import json
import os
import random
import shlex
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from diffrhythm import grids
from runner import check, heartbeat, manifest, processes
from runner.files import read_json
from runner.messages import Heartbeat
from runner.songfolder import Outputs, SongFolder
from runner.supervise import Job
from tests.faults import batches
from tests.faults.batches import (
    ROOT,
    Parent,
    alive,
    causes,
    child_of,
    densities,
    outcomes,
    state,
    torn,
    wait_for,
)

pytestmark = pytest.mark.slow
REAL = [sys.executable, "-m", "runner.worker", "sing"]


def slow(*, step_s: float = 0.0, holds_at: int = 0, go: str | Path = "/never") -> list[str]:
    """The real worker, slow as slow_worker.py says."""
    environ = {"STEP_S": step_s, "HOLDS_AT": holds_at, "GO": go}
    named = [f"DIFFRHYTHM_ENGINE_{name}={value}" for name, value in environ.items()]
    return ["env", *named, sys.executable, str(Path(__file__).with_name("slow_worker.py")), "sing"]


def real_job(*, steps: int, **changes: Any) -> Job:
    """A song of two seconds that the demo model really makes."""
    settings = {"seed": 5, "duration": 2.0, "timeout_s": 300.0, "stall_s": 60.0}
    song = replace(batches.job("[00:00.00]low tide\n", **(settings | changes)).song, steps=steps)
    (answer,) = check.check([song])
    return Job(song, answer, manifest.fingerprint(song, answer))


@pytest.fixture
def folder(tmp_path: Path) -> SongFolder:
    return Outputs(tmp_path / "outputs").song("night/song")


def reached(folder: SongFolder, step: int) -> bool:
    beat = heartbeat.read(folder.heartbeat)
    return isinstance(beat, Heartbeat) and beat.phase == "sample" and beat.step >= step


def sound(folder: SongFolder) -> np.ndarray:
    audio, rate = soundfile.read(folder.audio("wav"))
    assert rate == 44100
    assert audio.shape == (88200, 2)
    assert np.abs(audio).max() > 0.01
    return np.asarray(audio)


def test_a_song_killed_at_random_steps_goes_on_from_there_and_is_bit_for_bit_the_same(tmp_path: Path) -> None:
    job = real_job(steps=12)
    whole = Parent(tmp_path / "whole", [job], worker=REAL)
    assert whole.wait() == 0, whole.err
    killed = Parent(tmp_path / "killed", [job], worker=slow(step_s=0.2, holds_at=8))
    folder = killed.outputs.song("night/song")
    first = random.randint(1, 4)
    wait_for(lambda: reached(folder, first))
    processes.signal_all([processes.identity(child_of(killed.process))], signal.SIGKILL)  # type: ignore[list-item]
    wait_for(lambda: reached(folder, 7))
    killed.kill()  # and then the parent itself
    again = Parent(tmp_path / "killed", [job], worker=REAL)
    assert again.wait() == 0, again.err
    made, remade = (read_json(o.song("night/song").manifest) for o in (whole.outputs, again.outputs))
    assert [attempt["cause"] for attempt in remade["attempts"]] == ["crash", "lost", None]
    assert (remade["state"], remade["passes"]) == ("done", made["passes"])
    assert remade["sha256"] == made["sha256"]
    sound(folder)


def test_a_child_stopped_while_sampling_is_killed_and_its_song_made_with_half_the_steps(
    tmp_path: Path, folder: SongFolder
) -> None:
    go = tmp_path / "go"
    parent = Parent(tmp_path, [real_job(steps=16, stall_s=5.0)], worker=slow(holds_at=4, go=go))
    wait_for(lambda: reached(folder, 4))
    os.kill(child_of(parent.process), signal.SIGSTOP)
    go.touch()
    assert parent.wait() == 0, parent.err
    made = read_json(folder.manifest)
    assert causes(folder)[0] == "stalled"
    assert densities(folder)[:2] == [16, 8]
    assert made["state"] == "degraded"
    assert made["degraded"] == f"{len(made['time_grid']) - 1} steps instead of 16"
    assert made["time_grid"][:4] == list(grids.sway(grids.uniform(16), -1)[:4])
    sound(folder)


def test_a_timeout_without_foresight_kills_and_fewer_steps_make_a_degraded_song(
    tmp_path: Path, folder: SongFolder
) -> None:
    go, job = tmp_path / "go", real_job(steps=40, timeout_s=20.0, foresight=False)
    parent = Parent(tmp_path, [job], worker=slow(holds_at=10, go=go))
    wait_for(lambda: causes(folder))
    go.touch()
    assert parent.wait() == 0, parent.err
    assert causes(folder)[0] == "timeout"
    assert densities(folder)[:2] == [40, 20]
    assert state(folder) == "degraded"
    assert Parent(tmp_path, [job], strict=True).wait() == 1
    sound(folder)


def test_with_foresight_the_grid_is_thinned_and_nobody_is_killed(tmp_path: Path, folder: SongFolder) -> None:
    def thinned() -> bool:
        beat = heartbeat.read(folder.heartbeat)
        return isinstance(beat, Heartbeat) and beat.phase == "sample" and 0 < beat.steps < 60

    go, asked = tmp_path / "go", real_job(steps=60, timeout_s=90.0, foresight=True)
    parent = Parent(tmp_path, [asked], worker=slow(step_s=2.0, go=go))
    wait_for(thinned)
    go.touch()
    assert parent.wait() == 0, parent.err
    made = read_json(folder.manifest)
    assert causes(folder) == [None]
    assert made["state"] == "degraded"
    assert len(made["time_grid"]) - 1 < 60
    assert made["time_grid"][-1] == 1.0
    sound(folder)


def test_a_worker_that_cannot_import_fails_with_its_own_words_in_the_log(
    tmp_path: Path, folder: SongFolder
) -> None:
    parent = Parent(
        tmp_path, [real_job(steps=4, attempts=2)], worker=[sys.executable, "-c", "import no_such_module"]
    )
    assert parent.wait() == 1
    assert causes(folder) == ["crash", "crash"]
    assert "no_such_module" in folder.attempts()[0].log.read_text()


def test_a_bundle_damaged_after_the_check_fails_at_once_and_says_so(
    tmp_path: Path, folder: SongFolder
) -> None:
    from diffrhythm import bundle

    copy = tmp_path / "bundle"
    copy.mkdir()
    for file in bundle.load("demo").folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    job = real_job(steps=4, model=str(copy))
    with (copy / "dit.safetensors").open("r+b") as file:
        file.truncate(1000)
    parent = Parent(tmp_path, [job], worker=REAL)
    assert parent.wait() == 1
    assert causes(folder) == ["no-bundle"]
    assert "dit.safetensors" in read_json(folder.failure)["message"]


def runner_sing(out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "runner.cli", "sing", "--name", "song", "--style", "test"]
    command += ["--duration", "2", "--steps", "4", "--out", str(out), *more]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300, check=False)


def test_a_disk_without_room_is_told_before_the_song_and_nothing_torn_is_left(small_disk: Path) -> None:
    done = runner_sing(small_disk / "outputs")
    assert done.returncode == 1
    assert "free on its disk, a song needs" in done.stderr
    assert "Traceback" not in done.stderr
    assert torn(Outputs(small_disk / "outputs")) == []
    subprocess.run(["mount", "-o", "remount,size=40m", str(small_disk)], check=True)
    assert runner_sing(small_disk / "outputs").returncode == 0
    assert state(Outputs(small_disk / "outputs").song("sing/song")) == "done"


def test_a_disk_that_fills_up_meanwhile_pauses_the_song_which_goes_on_when_there_is_room(
    tmp_path: Path, small_disk: Path
) -> None:
    subprocess.run(["mount", "-o", "remount,size=40m", str(small_disk)], check=True)
    job = real_job(steps=10)
    parent = Parent(small_disk, [job], worker=slow(holds_at=3, go=tmp_path / "go"), await_s=300.0)
    folder = parent.outputs.song("night/song")
    wait_for(lambda: reached(folder, 2))
    pid = child_of(parent.process)
    filler = small_disk / "somebody-elses"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    (tmp_path / "go").touch()
    wait_for(lambda: not alive(pid))
    assert causes(folder) == []  # not even its end could be written down
    filler.unlink()
    assert parent.wait() == 0, parent.err
    made = read_json(folder.manifest)
    assert (made["state"], [attempt["cause"] for attempt in made["attempts"]]) == ("done", ["no-disk", None])
    assert made["request"]["checkpoint"] is not None
    assert torn(parent.outputs) == []


def test_a_read_only_folder_ends_in_one_clear_line(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    done = runner_sing(small_disk / "outputs", "--quiet")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"cannot write results: Read-only file system: {small_disk / 'outputs'}; "
        "choose another folder with --out"
    )


def test_the_children_of_a_killed_command_are_gone_and_the_same_command_finishes(
    tmp_path: Path, folder: SongFolder
) -> None:
    paper, go = tmp_path / "night.yaml", tmp_path / "go"
    paper.write_text("model: demo\nsongs: [{name: song, style: test, duration: 2, steps: 12}]\n")
    engine = shlex.join(slow(holds_at=3, go=go)[:-1])  # without the verb
    command = [sys.executable, "-m", "runner.cli", "batch", str(paper), "--engine", engine]
    command += ["--out", str(tmp_path / "outputs")]
    first = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, text=True)
    wait_for(lambda: reached(folder, 2))
    pid = child_of(first)
    first.kill()
    first.wait()
    wait_for(lambda: not alive(pid))
    status = subprocess.run(
        [sys.executable, "-m", "runner.cli", "status", "--json", "--out", str(tmp_path / "outputs")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(status.stdout)["schema"] == 1
    go.touch()
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert again.returncode == 0, again.stderr
    assert [a["cause"] for a in read_json(folder.manifest)["attempts"]] == ["lost", None]
    assert outcomes(folder)[-1]["song"]["time_grid"] == list(grids.sway(grids.uniform(12), -1))
