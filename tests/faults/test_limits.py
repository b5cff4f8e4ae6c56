"""Limits of memory that hold: whoever takes too much is stopped, alone, and it is said why.

The parent is started in a control group of 1 GiB, which stands for a small machine. Where none can be had the
tests that need one are skipped, and the parent's own watching is what is tested.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from runner import cgroups
from runner.files import read_json
from runner.songfolder import Outputs, SongFolder
from tests.faults.batches import Parent, alive, causes, child_of, job, outcomes, state, survivors, wait_for

MIB = 1 << 20


@pytest.fixture
def cell() -> Iterator[cgroups.Group]:
    with cgroups.held(cgroups.seek(Path("/")), 1024 * MIB) as songs:
        group = songs.group(1024 * MIB) if songs else None
        if group is None:
            pytest.skip("no control group that limits memory can be made here: see runner doctor")
        if group.kind == "v2":  # a machine does not end with one of its processes
            (group.folder / "memory.oom.group").write_text("0")
        try:
            yield group
        finally:
            group.kill()
            group.remove()


@pytest.fixture
def folder(tmp_path: Path) -> SongFolder:
    return Outputs(tmp_path / "outputs").song("night/song")


def groups_in(cell: cgroups.Group) -> list[str]:
    return sorted(str(each.relative_to(cell.folder)) for each in cell.folder.rglob("*") if each.is_dir())


@pytest.mark.parametrize("word", ["eat 4000", "breed 4000"])
def test_who_allocates_without_end_is_killed_by_the_kernel_and_nobody_else_is(
    tmp_path: Path, folder: SongFolder, cell: cgroups.Group, word: str
) -> None:
    hungry, quiet = job(f"only 1\nsteps 2 0.01\n{word}"), job("steps 20 0.05", name="quiet")
    parent = Parent(tmp_path, [hungry, quiet], group=cell.entry, workers=2)
    assert parent.wait() == 0, parent.err
    first, second = (read_json(attempt.request) for attempt in folder.attempts())
    assert causes(folder) == ["out-of-memory", None], outcomes(folder)
    # At its own limit or, with the other song beside it, at that of all songs.
    assert outcomes(folder)[0]["message"].startswith("out of memory: the kernel killed it")
    assert (first["precision"], second["precision"]) == ("bf16", "int8")
    assert read_json(folder.manifest)["resumed_at"] == 2
    assert causes(parent.outputs.song("night/quiet")) == [None]
    assert survivors(parent.outputs) == []
    assert groups_in(cell) == []


def test_of_songs_that_together_want_more_than_there_is_some_are_killed_and_all_are_made(
    tmp_path: Path, cell: cgroups.Group
) -> None:
    go = tmp_path / "go"
    greedy = [job(f"only 1\neat 600\nwait {go}", name=name) for name in ("one", "two")]
    parent = Parent(tmp_path, greedy, group=cell.entry, workers=2)
    wait_for(lambda: any(causes(song) for song in parent.outputs.songs()))  # until the other has come for it
    go.touch()
    assert parent.wait() == 0, parent.err
    ends = [causes(song) for song in parent.outputs.songs()]
    # Mostly one: but both may ask for the last page in the same moment.
    assert all(end in ([None], ["out-of-memory", None]) for end in ends), ends
    assert ["out-of-memory", None] in ends
    assert groups_in(cell) == []


def test_weights_that_are_mapped_stay_in_memory_beside_what_a_song_may_have_for_itself(
    tmp_path: Path, folder: SongFolder, cell: cgroups.Group
) -> None:
    parent = Parent(tmp_path, [job("map 300\nsteps 2 0.01", memory_bytes=128 * MIB)], group=cell.entry)
    assert parent.wait() == 0, parent.err
    assert (state(folder), causes(folder)) == ("done", [None])


def held_for(parent: Parent) -> list[int]:
    """Who lives in the groups that the parent has made for songs."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cgroup"):
        with suppress(OSError):
            if re.search(rf"/diffrhythm-\d+\.{parent.process.pid}\.\d+/", file.read_text()):
                found.append(int(file.parent.name))
    return [pid for pid in found if alive(pid)]


def test_what_a_killed_parent_left_in_its_group_is_ended_by_the_next_start(
    tmp_path: Path, folder: SongFolder
) -> None:
    parent = Parent(tmp_path, [job("daemon\nsteps 1000 0.02")])
    wait_for(lambda: folder.attempts() and folder.attempts()[0].checkpoint.exists())
    singer, held = child_of(parent.process), held_for(parent)
    parent.kill()
    if not held:
        pytest.skip("no control group that limits memory can be made here: see runner doctor")
    (orphan,) = set(held) - {singer}
    wait_for(lambda: not alive(singer))
    assert alive(orphan)
    assert Parent(tmp_path, [job("steps 1 0.01", fingerprint="e" * 64)]).wait() == 0
    assert not alive(orphan)
    site = cgroups.site(Path("/"))
    assert site is None or list(site.folder.glob(f"diffrhythm-*.{parent.process.pid}.*")) == []


def test_without_a_control_group_a_hungry_child_is_seen_and_ended_alone(
    tmp_path: Path, folder: SongFolder
) -> None:
    hungry = job("only 1\nsteps 2 0.01\neat 1000\nhang", memory_bytes=200 * MIB)
    quiet = job("steps 20 0.05", name="quiet")
    parent = Parent(tmp_path, [hungry, quiet], workers=2, root=str(tmp_path / "nowhere"))
    assert parent.wait() == 0, parent.err
    assert causes(folder) == ["memory-ceiling", None]
    assert "more than its limit of 0.2 GiB" in outcomes(folder)[0]["message"]
    assert causes(parent.outputs.song("night/quiet")) == [None]
