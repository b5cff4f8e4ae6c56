"""Outputs under which the ground moves: several batches, folders that go, disks that fill, files edited."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from diffrhythm import bundle
from runner import heartbeat
from runner.files import read_json, write_json
from runner.messages import Heartbeat
from runner.songfolder import Outputs, SongFolder
from tests.faults import system_calls
from tests.faults.batches import ROOT, Parent, alive, causes, job, state, survivors, torn, wait_for
from tests.faults.test_songs import REAL, reached, real_job, slow


@pytest.fixture
def folder(tmp_path: Path) -> SongFolder:
    return Outputs(tmp_path / "outputs").song("night/song")


def has_checkpoint(folder: SongFolder) -> bool:
    attempts = folder.attempts()
    return bool(attempts) and attempts[-1].checkpoint.exists()


def runner(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "runner.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300, check=False)


def notes(parent: Parent) -> dict[str, str]:
    """Of each song that the parent names at its end: its state and why."""
    lines = (line.split(": ", 2) for line in parent.err.splitlines())
    return {line[0]: f"{line[1]}: {line[2]}" for line in lines if len(line) == 3}


# ---------------------------------------------------------------- several at once


def test_the_second_of_two_cron_runs_ends_with_one_line_and_the_first_is_unharmed(
    tmp_path: Path, folder: SongFolder
) -> None:
    first = Parent(tmp_path, [job(f"steps 5 0.01\nwait {tmp_path / 'go'}\nsteps 9 0.01")])
    wait_for(lambda: has_checkpoint(folder))
    for _ in range(3):
        second = Parent(tmp_path, [job("steps 1 0.01"), job("steps 1 0.01", name="other")])
        assert second.wait() == 75
        assert len(second.err.splitlines()) == 1
    (tmp_path / "go").touch()
    assert first.wait() == 0, first.err
    assert (state(folder), causes(folder)) == ("done", [None])
    assert [song.id for song in first.outputs.songs()] == ["night/song"]


def test_of_many_batches_started_at_once_exactly_one_makes_the_song(
    tmp_path: Path, folder: SongFolder
) -> None:
    script = f"wait {tmp_path / 'go'}\nsteps 3 0.01"
    parents = [Parent(tmp_path, [job(script)]) for _ in range(6)]
    wait_for(lambda: sum(parent.process.poll() is not None for parent in parents) == 5)
    (tmp_path / "go").touch()
    assert sorted(parent.wait() for parent in parents) == [0, 75, 75, 75, 75, 75]
    assert (state(folder), causes(folder)) == ("done", [None])


# ---------------------------------------------------------------- folders that go


@pytest.mark.parametrize("how", ["removed", "moved", "its place taken"])
def test_outputs_that_vanish_while_songs_run_end_the_batch_in_one_line_with_nothing_left(
    tmp_path: Path, folder: SongFolder, how: str
) -> None:
    jobs = [job("setsid\nsteps 1000 0.02", name=name) for name in ("song", "next", "last")]
    parent = Parent(tmp_path, jobs, workers=2)
    wait_for(lambda: has_checkpoint(folder))
    place = folder.outputs.folder
    if how == "removed":
        # As `rm -rf` in a loop would: children go on writing meanwhile.
        wait_for(lambda: shutil.rmtree(place, ignore_errors=True) or not place.exists())
    else:
        place.rename(tmp_path / "elsewhere")
    if how == "its place taken":
        place.mkdir()
    assert parent.wait() == 1
    assert len(parent.err.splitlines()) == 1
    assert f"{place}: was removed or moved away" in parent.err
    assert survivors(parent.outputs) == survivors(Outputs(tmp_path / "elsewhere")) == []
    assert not place.exists() or list(place.iterdir()) == []


def test_a_folder_that_is_moved_between_runs_goes_on_from_its_checkpoints_in_its_new_place(
    tmp_path: Path, folder: SongFolder
) -> None:
    jobs = [job("steps 1 0.01", name="early"), job("steps 1000 0.02")]
    parent = Parent(tmp_path, jobs, workers=1)
    wait_for(lambda: has_checkpoint(folder))
    parent.signal(signal.SIGTERM)
    assert parent.wait() == 143
    new = tmp_path / "new place"
    new.mkdir()
    parent.outputs.folder.rename(new / "outputs")
    moved = Outputs(new / "outputs").song("night/song")
    told = json.loads(runner("status", "--json", "--out", moved.outputs.folder).stdout)
    assert [(song["song"], song["state"]) for song in told["songs"]] == [
        ("night/early", "done"),
        ("night/song", "interrupted"),
    ]
    assert told["songs"][0]["file"] == str(moved.outputs.song("night/early").audio("wav"))
    assert told["problems"] == []
    assert runner("logs", "song", "--out", moved.outputs.folder).returncode == 0
    again = Parent(new, [job("steps 1 0.01", name="early"), job("")])
    assert again.wait() == 0, again.err
    made = read_json(moved.manifest)
    assert (state(moved), made["resumed_at"] > 0) == ("done", True)
    assert made["request"]["checkpoint"] == str(moved.attempts()[0].checkpoint)
    assert len(Outputs(new / "outputs").song("night/early").attempts()) == 1
    assert not (tmp_path / "outputs").exists()


def test_attempts_removed_under_a_running_child_cost_that_song_and_no_other(
    tmp_path: Path, folder: SongFolder
) -> None:
    parent = Parent(tmp_path, [job("steps 1000 0.02"), job("steps 150 0.01", name="other")], workers=2)
    wait_for(lambda: has_checkpoint(folder))
    wait_for(
        lambda: (
            shutil.rmtree(folder.folder / "attempts", ignore_errors=True)
            or not (folder.folder / "attempts").exists()
        )
    )
    assert parent.wait() == 1
    assert (
        "was removed or moved while the song was made; run the same command again" in notes(parent)[folder.id]
    )
    assert state(parent.outputs.song("night/other")) == "done"
    assert survivors(parent.outputs) == []
    assert Parent(tmp_path, [job("steps 3 0.01")]).wait() == 0
    assert state(folder) == "done"


# ---------------------------------------------------------------- disks


def test_a_disk_that_fills_costs_the_song_that_meets_it_and_the_next_run_goes_on_from_its_checkpoint(
    tmp_path: Path, small_disk: Path
) -> None:
    subprocess.run(["mount", "-o", "remount,size=40m", str(small_disk)], check=True)
    folder = Outputs(small_disk / "outputs").song("night/song")
    patient = job(f"wait {tmp_path / 'go'}\nsteps 3 0.01", name="patient")
    jobs = [job("steps 1000 0.02"), patient, job("steps 1 0.01", name="after")]
    parent = Parent(small_disk, jobs, workers=2, await_s=0.1)
    wait_for(lambda: has_checkpoint(folder) and parent.outputs.song("night/patient").heartbeat.exists())
    beat = heartbeat.read(folder.heartbeat)
    assert isinstance(beat, Heartbeat)
    filler = small_disk / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(1024))
    wait_for(lambda: not alive(beat.pid))
    # Longer than its end waits to be written down. Without room, that it was given up leaves no trace.
    time.sleep(3.0)
    filler.unlink()
    (tmp_path / "go").touch()
    assert parent.wait() == 1
    assert "No space left on device" in notes(parent)[folder.id]
    assert state(parent.outputs.song("night/patient")) == "done"
    assert torn(parent.outputs) == survivors(parent.outputs) == []
    again = Parent(small_disk, [job(""), patient])
    assert again.wait() == 0, again.err
    assert read_json(folder.manifest)["resumed_at"] > 0


@pytest.fixture
def old_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 MiB that the kernel makes read-only when it finds an error on its disk."""
    image, place = tmp_path / "disk", tmp_path / "old"
    place.mkdir()
    with image.open("wb") as file:
        file.truncate(64 << 20)
    for command in (["mkfs.ext4", "-q", image], ["mount", "-o", "loop,errors=remount-ro", image, place]):
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            pytest.skip(f"there is no {command[0]} here")
        if done.returncode != 0:
            pytest.skip(f"no disk of its own: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", place], check=True)


def break_disk(place: Path) -> None:
    (device,) = (
        line.split()[0] for line in Path("/proc/mounts").read_text().splitlines() if f" {place} " in line
    )
    Path("/sys/fs/ext4", Path(device).name, "trigger_fs_error").write_text("1")


def test_a_disk_that_becomes_read_only_fails_its_songs_in_clear_words_with_nothing_left(
    old_disk: Path,
) -> None:
    folder = Outputs(old_disk / "outputs").song("night/song")
    parent = Parent(old_disk, [job("steps 1000 0.02"), job("", name="next")], workers=1)
    wait_for(lambda: has_checkpoint(folder))
    break_disk(old_disk)
    assert parent.wait() == 1
    said = notes(parent)
    assert said.keys() == {"night/song", "night/next"}
    assert all("Read-only file system" in words for words in said.values())
    assert survivors(parent.outputs) == []
    assert "Traceback" not in parent.err


def test_a_slow_disk_costs_time_and_nothing_else(tmp_path: Path, folder: SongFolder) -> None:
    script = "slow-disk 0.5\nsteps 5 0.1"
    parent = Parent(tmp_path, [job(script, stall_s=10.0)], slow_disk_s=0.5)
    assert parent.wait() == 0, parent.err
    assert (state(folder), causes(folder)) == ("done", [None])


@pytest.mark.skipif(not system_calls.IS_KNOWN, reason="numbers of system calls are known for x86-64 alone")
@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        ("flock", errno.ENOLCK, "this file system has no locks (No locks available); choose a folder on a"),
        ("rename", errno.EXDEV, "Invalid cross-device link"),
    ],
)
def test_a_file_system_without_locks_or_renames_is_refused_in_clear_words(
    tmp_path: Path, call: str, error: int, words: str
) -> None:
    parent = Parent(tmp_path, [job("steps 1 0.01")], refused=[call, error])
    assert parent.wait() == 1
    assert words in parent.err
    assert "Traceback" not in parent.err
    assert torn(parent.outputs) == survivors(parent.outputs) == []


# ---------------------------------------------------------------- files that change


def test_a_sound_deleted_or_edited_while_the_batch_goes_on_is_made_again_by_the_next(tmp_path: Path) -> None:
    names = ("deleted", "edited", "bare")
    jobs = [job("steps 2 0.01", name=name) for name in names]
    parent = Parent(tmp_path, [*jobs, job(f"wait {tmp_path / 'go'}", name="last")], workers=1)
    deleted, edited, bare = (parent.outputs.song(f"night/{name}") for name in names)
    wait_for(bare.manifest.exists)
    wait_for(parent.outputs.song("night/last").heartbeat.exists)
    seeds = [read_json(song.manifest)["seed"] for song in (deleted, edited)]
    deleted.audio("wav").unlink()
    edited.audio("wav").write_bytes(b"another song")
    bare.manifest.unlink()
    (tmp_path / "go").touch()
    assert parent.wait() == 0, parent.err
    assert Parent(tmp_path, jobs).wait() == 0
    assert [state(song) for song in (deleted, edited, bare)] == ["done"] * 3
    assert [read_json(song.manifest)["seed"] for song in (deleted, edited)] == seeds
    assert [len(song.attempts()) for song in (deleted, edited, bare)] == [2, 2, 1]
    assert torn(parent.outputs) == []


@pytest.mark.parametrize("link", ["night", "night/song", "night/song/attempts"])
def test_songs_are_not_written_through_a_link_that_leads_out_of_the_outputs(
    tmp_path: Path, folder: SongFolder, link: str
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    place = folder.outputs.folder / link
    place.parent.mkdir(parents=True)
    place.symlink_to(elsewhere)
    parent = Parent(tmp_path, [job("steps 1 0.01")])
    assert parent.wait() == 1
    assert notes(parent)[folder.id] == (
        f"failed: {place}: is a link, and songs are not written through links; remove it"
    )
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("name", ["heartbeat.json", "stop", "song.json", "failed.json"])
def test_a_folder_in_the_place_of_a_file_fails_that_song_in_clear_words_and_is_not_touched(
    tmp_path: Path, folder: SongFolder, name: str
) -> None:
    (folder.folder / name).mkdir(parents=True)
    parent = Parent(tmp_path, [job("steps 1 0.01"), job("steps 1 0.01", name="other")])
    assert parent.wait() == 1
    assert notes(parent)[folder.id].startswith(
        f"failed: {folder.folder / name}: is a folder where a file belongs"
    )
    assert state(parent.outputs.song("night/other")) == "done"
    assert [path.name for path in folder.folder.iterdir()] == [name]


def put_folder(place: Path) -> bool:
    """Tries to put a folder in the place of a file, which its writer may just have written again."""
    place.unlink(missing_ok=True)
    with suppress(FileExistsError):
        place.mkdir()
    return place.is_dir()


@pytest.mark.parametrize("name", ["heartbeat.json", "stop", "song.json", "failed.json"])
def test_a_folder_put_in_the_place_of_a_file_while_the_song_is_made_does_not_end_the_batch(
    tmp_path: Path, folder: SongFolder, name: str
) -> None:
    script = f"steps 1 0.01\nwait {tmp_path / 'go'}\nsteps 3 0.01"
    parent = Parent(tmp_path, [job(script, attempts=2), job("steps 1 0.01", name="other")], workers=1)
    wait_for(lambda: has_checkpoint(folder))
    wait_for(lambda: put_folder(folder.folder / name))
    (tmp_path / "go").touch()
    exit_code = parent.wait()
    assert state(parent.outputs.song("night/other")) == "done"
    assert "Traceback" not in parent.err
    assert "defect" not in parent.err
    assert exit_code == (0 if name == "stop" else 1)
    assert survivors(parent.outputs) == []
    (folder.folder / name).rmdir()
    assert Parent(tmp_path, [job(script)]).wait() == 0
    assert state(folder) == "done"


@pytest.mark.slow
def test_a_job_and_lyrics_edited_while_the_song_is_made_count_from_the_next_run_on(tmp_path: Path) -> None:
    lyrics, night = tmp_path / "rain.lrc", tmp_path / "night.yaml"
    outputs = Outputs(tmp_path / "outputs")
    folder = outputs.song("night/rain")

    def write(words: str, steps: int) -> None:
        lyrics.write_text(f"[00:00.00]{words}\n")
        night.write_text(
            f"model: demo\nsongs: [{{lyrics: rain.lrc, style: test, duration: 2, seed: 5, steps: {steps}}}]\n"
        )

    write("low tide", 6)
    command = [sys.executable, "-m", "runner.cli", "batch", str(night), "--out", str(outputs.folder), "-q"]
    batch = subprocess.Popen(command, cwd=ROOT)
    wait_for(folder.heartbeat.exists)
    write("high tide", 3)
    assert batch.wait(300) == 0
    made = read_json(folder.manifest)["request"]
    assert (made["lyrics"], made["steps"]) == ("[00:00.00]low tide\n", 6)
    assert runner(*command[3:]).returncode == 0
    made = read_json(folder.manifest)["request"]
    assert (made["lyrics"], made["steps"]) == ("[00:00.00]high tide\n", 3)


@pytest.mark.slow
def test_a_bundle_replaced_by_another_after_the_check_fails_the_song_and_says_so(
    tmp_path: Path, folder: SongFolder
) -> None:
    copy = tmp_path / "bundle"
    shutil.copytree(bundle.DEMO, copy)
    parent_job = real_job(steps=2, model=str(copy))
    write_json(copy / bundle.ABOUT, read_json(copy / bundle.ABOUT) | {"licence": "another"})
    parent = Parent(tmp_path, [parent_job], worker=REAL)
    assert parent.wait() == 1
    assert causes(folder) == ["no-bundle"]
    assert notes(parent)[folder.id].endswith(
        "changed since this batch was checked; run the same command again"
    )


@pytest.mark.slow
def test_a_checkpoint_of_an_older_schema_costs_its_steps_and_not_the_song(
    tmp_path: Path, folder: SongFolder
) -> None:
    asked = real_job(steps=5)
    parent = Parent(tmp_path, [asked], worker=slow(holds_at=3))
    wait_for(lambda: reached(folder, 2))
    parent.signal(signal.SIGTERM)
    assert parent.wait() == 143
    checkpoint = folder.attempts()[0].checkpoint
    with safe_open(checkpoint, "numpy") as content:
        about, tensors = content.metadata(), {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
    state_of = json.loads(about["state"])
    save_file(tensors, checkpoint, {"state": json.dumps(state_of | {"schema": state_of["schema"] - 1})})
    again = Parent(tmp_path, [asked], worker=REAL)
    assert again.wait() == 0, again.err
    made = read_json(folder.manifest)
    assert (made["state"], made["passes"], causes(folder)) == ("done", 10, ["interrupted", None])
    assert "schema 1, not 2" in folder.attempts()[1].log.read_text()


def test_files_folders_and_links_that_are_not_ours_are_left_alone_and_disturb_nobody(
    tmp_path: Path, folder: SongFolder
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    outputs = folder.outputs.folder
    strays = [outputs / "notes.txt", outputs / "night" / "notes.txt", folder.folder / "cover.png"]
    strays += [folder.folder / "attempts" / "notes", folder.folder / "attempts" / "7" / "mine"]
    for stray in strays:
        stray.parent.mkdir(parents=True, exist_ok=True)
        stray.write_text("mine")
    links = [outputs / "loop", outputs / "night" / "away", outputs / "night" / "nowhere"]
    for link, target in zip(links, [outputs, elsewhere, tmp_path / "nothing"], strict=True):
        link.symlink_to(target)
    parent = Parent(tmp_path, [job("steps 1 0.01")])
    assert parent.wait() == 0, parent.err
    assert [attempt.number for attempt in folder.attempts()] == [7, 8]
    assert all(stray.read_text() == "mine" for stray in strays)
    assert all(link.is_symlink() for link in links)
    assert list(elsewhere.iterdir()) == []
    told = json.loads(runner("status", "--json", "--out", outputs).stdout)
    assert [song["state"] for song in told["songs"] if song["song"] == "night/song"] == ["done"]


def test_a_clock_that_is_set_back_a_day_changes_nothing(tmp_path: Path, folder: SongFolder) -> None:
    parent = Parent(tmp_path, [job("steps 2 0.01\nclock-back\nsteps 4 0.01\nhang")])
    wait_for(lambda: has_checkpoint(folder) and folder.attempts()[0].checkpoint.read_text() == "4")
    (song,) = json.loads(runner("status", "--json", "--out", folder.outputs.folder).stdout)["songs"]
    assert (song["state"], song["health"]) == ("running", "healthy")
    parent.signal(signal.SIGTERM)
    assert parent.wait() == 143
    tomorrow = read_json(folder.heartbeat)["wall"] + 2 * 86_400
    for file in (path for path in folder.outputs.folder.rglob("*") if path.is_file()):
        os.utime(file, (tomorrow, tomorrow))
    batch = read_json(folder.outputs.batch)
    write_json(folder.outputs.batch, batch | {"started_wall": tomorrow, "finished_wall": tomorrow + 1})
    again = Parent(tmp_path, [job("")])
    assert again.wait() == 0, again.err
    assert (causes(folder), read_json(folder.manifest)["resumed_at"]) == (["interrupted", None], 4)
