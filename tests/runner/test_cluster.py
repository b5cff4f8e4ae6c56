"""What a batch does with the letters of songs that are made elsewhere: a real desk, without Ray."""

from __future__ import annotations

import asyncio
import errno
import io
import json
import threading
from collections.abc import Collection, Coroutine
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from runner.cluster import Cluster, _Away
from runner.desk import Desk, Letter
from runner.errors import MachineError
from runner.heartbeat import Pulse
from runner.parcels import Parcel
from runner.songfolder import Outputs, SongFolder
from runner.spool import Spool
from runner.supervise import WORKER, House
from tests.faults.batches import job


class RayError(Exception):
    """As Ray's: of a machine that died, or of a task that raised."""

    def __init__(self, cause: Exception | None = None) -> None:
        self.cause = cause


class Far:
    """A desk at the other end of a wire. is_slow: its next answer is a large one, and takes its time.
    broken: what is told by the wire.
    """

    def __init__(self) -> None:
        self.desk = Desk()
        self.asked: list[str] = []
        self.is_slow = False
        self.broken: Exception | None = None

    def __getattr__(self, question: str) -> Any:
        return SimpleNamespace(remote=lambda *words, **more: self.ask(question, *words, **more))

    def ask(self, question: str, *words: Any, **more: Any) -> Any:
        self.asked.append(question)
        if self.broken is not None:
            raise self.broken
        answer: Future[Any] = Future()
        value = getattr(self.desk, question)(*words, **more)
        if self.is_slow:
            self.is_slow = False
            threading.Timer(0.2, answer.set_result, [value]).start()
        else:
            answer.set_result(value)
        return SimpleNamespace(future=lambda: answer)


@pytest.fixture
def far() -> Far:
    return Far()


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    (tmp_path / "spool").mkdir()
    return Spool(tmp_path / "spool")


def cluster(far: Far, spool: Spool, **house: Any) -> Cluster:
    ray = SimpleNamespace(
        desk=lambda models, left_s: far,
        died=(RayError, ConnectionError),
        cause=lambda error: None,
        ran_out_of_memory=lambda error: False,
        lend=lambda thing: thing,
    )
    return Cluster(ray, House(mark="", await_s=0.2, **house), {}, spool)  # type: ignore[arg-type]


@pytest.fixture
def there(far: Far, spool: Spool) -> Cluster:
    return cluster(far, spool)


def away(there: Cluster, far: Far, folder: SongFolder) -> _Away:
    """A song that has just been sent."""
    far.desk.send(folder.id, 1)
    there._away[folder.id] = _Away(job(""), 1, folder, lambda said: None)
    return there._away[folder.id]


def letter(folder: SongFolder, name: str = "song.wav", data: bytes = b"sound") -> Letter:
    return Letter(folder.id, 1, parcels=(Parcel(name, data),))


def too_large(there: Cluster, far: Far, small_disk: Path) -> tuple[SongFolder, _Away]:
    """A song with a letter that its disk has no room for."""
    folder = Outputs(small_disk / "outputs").song("night/song")
    folder.prepare()
    song = away(there, far, folder)
    far.desk.leave_word(letter(folder, data=bytes(10**6)))
    return folder, song


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


@pytest.fixture
def folder(tmp_path: Path) -> SongFolder:
    folder = Outputs(tmp_path / "outputs").song("night/song")
    folder.prepare()
    return folder


def test_a_song_has_not_come_back_before_the_letter_that_somebody_else_is_fetching(
    there: Cluster, far: Far, folder: SongFolder
) -> None:
    song = away(there, far, folder)
    far.desk.leave_word(letter(folder))

    async def both() -> None:
        far.is_slow = True
        carrier = asyncio.create_task(there._collect())
        await asyncio.sleep(0)
        await there._emptied(song)
        assert folder.audio("wav").read_bytes() == b"sound"
        await carrier

    run(both())


def test_as_long_as_the_disk_is_full_no_more_letters_are_fetched(
    there: Cluster, far: Far, small_disk: Path
) -> None:
    folder, song = too_large(there, far, small_disk)

    async def full() -> None:
        for _ in range(3):
            assert (await there._collect()).errno == errno.ENOSPC  # type: ignore[union-attr]
        assert far.asked.count("collect") == 1
        there._house.stopping.set()
        with pytest.raises(OSError, match="space"):
            await there._emptied(song)  # a batch that is to end waits for no room
        song.letters[:] = [letter(folder)]  # room was made
        far.desk.leave_word(letter(folder, "song.json"))
        await there._emptied(song)

    run(full())
    assert {path.name for path in folder.folder.iterdir()} == {"song.wav", "song.json"}


def test_a_folder_that_was_removed_is_not_made_again_and_costs_no_other_song(
    there: Cluster, far: Far, folder: SongFolder
) -> None:
    other = Outputs(folder.outputs.folder).song("night/other")
    other.prepare()
    gone, well = away(there, far, folder), away(there, far, other)
    folder.folder.rmdir()
    for each in (folder, other):
        far.desk.leave_word(letter(each))
        far.desk.leave_word(letter(each, "song.json"))

    async def carried() -> None:
        with pytest.raises(FileNotFoundError):
            await there._emptied(gone)
        await there._emptied(well)

    run(carried())
    assert not folder.folder.exists()
    assert other.audio("wav").exists()
    assert far.desk.leave_word(Letter(folder.id, 1)).stop == "song"


def test_every_machine_finds_our_worker_by_its_own_python_and_an_engine_as_it_was_named(
    far: Far, spool: Spool, folder: SongFolder
) -> None:
    for worker, sent in ((WORKER, ()), (("/bin/mine", "sing"), ("/bin/mine", "sing"))):
        there = cluster(far, spool, worker=worker)
        assert there._packed(job(""), folder, 1, redo_degraded=False).worker == sent


def test_what_lies_in_the_spool_is_taken_once_though_its_letter_is_opened_twice(
    far: Far, small_disk: Path
) -> None:
    folder, spool = Outputs(small_disk / "outputs").song("night/song"), Spool(small_disk / "spool")
    folder.prepare()
    spool.folder.mkdir()
    there = cluster(far, spool)
    song = away(there, far, folder)
    left = spool.leave(io.BytesIO(b"sound"), 1)
    assert left is not None
    parcels = (
        Parcel("song.wav", b"", left=left),
        Parcel("spectrogram.png", bytes(10**5)),
        Parcel("song.json", b"{}"),
    )
    far.desk.leave_word(Letter(folder.id, 1, parcels=parcels))
    filler = small_disk / "filler"
    filler.write_bytes(bytes(15 * 10**4))

    async def twice() -> None:
        assert await there._collect() is not None
        filler.unlink()
        await there._emptied(song)

    run(twice())
    assert folder.audio("wav").read_bytes() == b"sound"
    assert {path.name for path in folder.folder.iterdir()} == {"song.wav", "spectrogram.png", "song.json"}
    assert list(spool.folder.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("heartbeat.json", b'{"spent_s": {"load": 1e999}}'),
        ("heartbeat.json", None),
        ("attempts/1/request.json", b"[" * 100_000),
        ("../song.wav", b"sound"),
    ],
)
def test_whatever_one_song_sends_the_letters_of_others_are_opened(
    there: Cluster, far: Far, folder: SongFolder, name: str, data: bytes | None
) -> None:
    other = Outputs(folder.outputs.folder).song("night/well")
    other.prepare()
    away(there, far, folder)
    well = away(there, far, other)
    if data is None:  # a beat that is one, but for a time that no clock shows
        (folder.folder / "beat").mkdir()
        Pulse(folder.folder / "beat" / "heartbeat.json", song=folder.id, attempt=1, density=4)
        beat = json.loads((folder.folder / "beat" / "heartbeat.json").read_text())
        data = json.dumps(beat | {"spent_s": {"load": 0}}).replace('"load": 0', '"load": 1e999').encode()
    far.desk.leave_word(letter(folder, name, data))
    far.desk.leave_word(letter(other))
    run(there._emptied(well))
    assert other.audio("wav").read_bytes() == b"sound"


def test_songs_whose_letters_wait_too_long_for_the_disk_are_given_up_and_told_to_stop(
    there: Cluster, far: Far, small_disk: Path
) -> None:
    folder, song = too_large(there, far, small_disk)

    async def carried() -> None:
        carrier = asyncio.create_task(there.carry())
        while not far.desk.leave_word(Letter(folder.id, 1)).stop:
            await asyncio.sleep(0.05)
        carrier.cancel()
        assert isinstance(song.lost, OSError)

    run(asyncio.wait_for(carried(), 60))


def test_the_gpu_that_ray_has_given_a_song_is_not_waited_for_again_there(
    there: Cluster, folder: SongFolder
) -> None:
    errand = there._packed(job("", gpus=1), folder, 1, redo_degraded=False)
    assert errand.job.answer.gpus == 0


@pytest.mark.parametrize(
    "told", [RayError(), ConnectionError("gone"), Exception("Ray Client is not connected")]
)
def test_a_desk_that_does_not_answer_is_the_end_of_all_songs_but_of_none_for_good(
    there: Cluster, far: Far, folder: SongFolder, told: Exception
) -> None:
    far.broken = told
    house = there._house
    ended = run(there.supervise(job(""), folder, house, lambda said: None))
    assert (ended.state, house.stopping.is_set()) == ("left", True)
    assert "the cluster was lost" in ended.note
    assert "the same command goes on" in ended.note


@pytest.mark.parametrize("second", ["refuses", "dies"])
def test_a_song_fails_with_the_words_of_a_machine_that_refused_it_if_no_other_is_left(
    far: Far, spool: Spool, folder: SongFolder, second: str
) -> None:
    alive, sent = ["0", "1"], []

    def send(errand: Any, desk: Any, asked: Any, without: Collection[str]) -> Any:
        name = next(each for each in alive if each not in without)
        sent.append(name)
        task: Future[Any] = Future()
        if len(sent) == 2 and second == "dies":
            alive.remove(name)
            task.set_exception(RayError())
        else:
            task.set_exception(RayError(MachineError(f"{name}: no place to write", name)))
        return SimpleNamespace(future=lambda: task)

    ray = SimpleNamespace(
        desk=lambda models, left_s: far,
        died=(RayError, ConnectionError),
        cause=lambda error: error.cause,
        ran_out_of_memory=lambda error: False,
        machines=lambda without=(): [{"CPU": 8.0} for each in alive if each not in without],
        send=send,
        give_up=lambda task: None,
    )
    house, said = House(mark="", await_s=0.2), list[str]()
    there = Cluster(ray, house, {}, spool)  # type: ignore[arg-type]
    words = "1: no place" if second == "refuses" else "0: no place"
    with pytest.raises(MachineError, match=words):
        run(there.supervise(job(""), folder, house, lambda song: said.append(song.note)))
    assert sent == ["0", "1"]
    assert said == ["0: no place to write; it goes on elsewhere"]
