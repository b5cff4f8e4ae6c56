"""Parcels: a song's folder that arrives elsewhere is, at every moment, one that a crash could have left."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner import parcels
from runner.errors import ForeignFileError
from runner.parcels import Parcel
from runner.spool import LARGE, Spool


@pytest.fixture
def here(tmp_path: Path) -> Path:
    folder = tmp_path / "here"
    (folder / "attempts" / "1").mkdir(parents=True)
    return folder


@pytest.fixture
def there(tmp_path: Path) -> Path:
    folder = tmp_path / "there"
    folder.mkdir()
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def carry(here: Path, there: Path, seen: parcels.Seen) -> parcels.Seen:
    new, seen = parcels.changes(here, seen)
    for parcel in new:
        parcels.put(there, parcel)
    return seen


def test_what_was_written_arrives_and_what_was_removed_goes(here: Path, there: Path) -> None:
    (here / "attempts/1/checkpoint.safetensors").write_bytes(b"half")
    (here / "heartbeat.json").write_text("{}")
    seen = carry(here, there, {})
    assert content(there) == content(here)
    (here / "attempts/1/checkpoint.safetensors").unlink()
    (here / "song.wav").write_bytes(b"sound")
    carry(here, there, seen)
    assert content(there) == content(here) == {"heartbeat.json": b"{}", "song.wav": b"sound"}


def test_what_has_not_changed_is_not_carried_again(here: Path) -> None:
    (here / "song.wav").write_bytes(b"sound")
    _, seen = parcels.changes(here, {})
    assert parcels.changes(here, seen) == ([], seen)


def test_of_a_log_only_what_was_added_is_carried(here: Path, there: Path) -> None:
    log = here / "attempts/1/worker.log"
    log.write_bytes(b"one\n")
    seen = carry(here, there, {})
    with log.open("ab") as file:
        file.write(b"two\n")
    new, seen = parcels.changes(here, seen)
    assert new == [Parcel("attempts/1/worker.log", b"two\n", 4)]
    for _ in range(2):  # a letter may be opened twice
        parcels.put(there, new[0])
    assert content(there) == content(here)


def test_a_file_that_was_replaced_by_one_of_the_same_size_is_carried(here: Path, there: Path) -> None:
    beat = here / "heartbeat.json"
    beat.write_bytes(b"1")
    seen = carry(here, there, {})
    (here / ".new").write_bytes(b"2")
    os.utime(here / ".new", ns=(beat.stat().st_atime_ns, beat.stat().st_mtime_ns))
    (here / ".new").replace(beat)
    carry(here, there, seen)
    assert (there / "heartbeat.json").read_bytes() == b"2"


@given(st.permutations(["song.json", "attempts/1/outcome.json", "song.wav", "attempts/1/steps.jsonl"]))
def test_papers_arrive_behind_what_they_vouch_for(order: list[str]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        here = Path(name)
        (here / "attempts/1").mkdir(parents=True)
        for file in order:
            (here / file).write_bytes(b"x")
        carried = [parcel.name for parcel in parcels.changes(here, {})[0]]
    assert carried[2:] == ["attempts/1/outcome.json", "song.json"]


def test_a_child_that_goes_on_while_it_is_read_is_told_of_no_step_whose_checkpoint_has_not_come(
    here: Path, there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = ("attempts/1/checkpoint.safetensors", "attempts/1/steps.jsonl")

    def steps(folder: Path) -> tuple[int, int]:
        """Those that the checkpoint holds, and those that the log tells of."""
        checkpoint, log = ((folder / name).read_text() if (folder / name).exists() else "" for name in files)
        return int(checkpoint or 0), log.count("\n")

    def sing() -> None:
        (here / files[0]).write_text(str(steps(here)[0] + 1))
        with (here / files[1]).open("a") as log:
            log.write("{}\n")

    @contextmanager
    def opened(path: Path) -> Iterator[BinaryIO]:
        with files_opened(path) as file:
            yield file
        sing()

    files_opened = parcels.opened
    monkeypatch.setattr(parcels, "opened", opened)
    sing()
    seen: parcels.Seen = {}
    for _ in range(3):
        new, seen = parcels.changes(here, seen)
        for parcel in new:
            parcels.put(there, parcel)
            held, told = steps(there)
            assert held >= told
    assert told >= 3


def test_half_written_files_and_links_stay_where_they_are(here: Path, tmp_path: Path) -> None:
    (here / ".song.json.1-ab.tmp").write_text("{")
    (tmp_path / "secret").write_text("secret")
    (here / "song.json").symlink_to(tmp_path / "secret")
    assert parcels.changes(here, {}) == ([], {})


def test_only_the_newest_checkpoint_goes_to_another_machine_and_no_log(here: Path) -> None:
    for number in (1, 2, 10):
        (here / f"attempts/{number}").mkdir(exist_ok=True)
        for file in ("checkpoint.safetensors", "request.json", "worker.log"):
            (here / f"attempts/{number}/{file}").write_bytes(b"x")
    assert sorted(parcel.name for parcel in parcels.pack(here)) == [
        "attempts/1/request.json",
        "attempts/10/checkpoint.safetensors",
        "attempts/10/request.json",
        "attempts/2/request.json",
    ]


@pytest.mark.parametrize(
    "name",
    [
        "../song.json",
        "/etc/passwd",
        "attempts/../../x",
        "attempts/1/a/b",
        "a/b",
        "",
        ".",
        "..",
        ".hidden",
        "a\n",
    ],
)
@pytest.mark.parametrize("data", [b"x", None])
def test_no_parcel_leads_out_of_the_folder(there: Path, name: str, data: bytes | None) -> None:
    with pytest.raises(ForeignFileError, match="no file of a song"):
        parcels.put(there, Parcel(name, data))
    assert list(there.parent.iterdir()) == [there]


def test_a_folder_that_was_removed_is_not_made_again(there: Path) -> None:
    there.rmdir()
    with pytest.raises(FileNotFoundError):
        parcels.put(there, Parcel("attempts/1/outcome.json", b"{}"))
    assert not there.exists()


def test_a_wish_to_stop_is_not_carried(here: Path) -> None:
    (here / "stop").touch()
    assert parcels.changes(here, {}) == ([], {})


def test_a_log_is_not_written_through_a_link(there: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (there / "worker.log").symlink_to(tmp_path / "mine")
    with pytest.raises(OSError, match="symbolic"):
        parcels.put(there, Parcel("worker.log", b"theirs"))
    assert (tmp_path / "mine").read_text() == "mine"


def test_a_large_file_is_left_in_a_folder_that_both_see_and_moved_from_there(
    here: Path, there: Path, tmp_path: Path
) -> None:
    spool = Spool(tmp_path / "spool")
    spool.folder.mkdir()
    sound, log, paper = bytes(LARGE), b"x" * LARGE, b"{}"
    (here / "song.wav").write_bytes(sound)
    (here / "attempts/1/worker.log").write_bytes(log)
    (here / "song.json").write_bytes(paper)
    (here / "attempts/1/request.json").write_bytes(log)  # names of files in it are still to be changed
    new, _ = parcels.changes(here, {}, lambda file: spool.leave(file, 1))
    assert {parcel.name: len(parcel.data or b"") for parcel in new} == {
        "song.wav": 0,
        "attempts/1/worker.log": LARGE,
        "attempts/1/request.json": LARGE,
        "song.json": 2,
    }
    for parcel in new:
        parcels.put(there, parcel, spool)
    assert content(there) == content(here)
    assert list(spool.folder.iterdir()) == []


def test_what_cannot_be_left_is_in_the_parcel_itself(here: Path) -> None:
    (here / "song.wav").write_bytes(bytes(LARGE))
    new, _ = parcels.changes(here, {}, lambda file: None if file.read(10) else "")
    assert new == [Parcel("song.wav", bytes(LARGE))]


def test_what_was_left_for_somebody_else_is_refused(there: Path) -> None:
    with pytest.raises(ForeignFileError, match="not there"):
        parcels.put(there, Parcel("song.wav", b"", left="1-0123456789abcdef"))
