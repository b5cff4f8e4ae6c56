"""The spool: what was left is taken once and whole, nothing else is, and nothing is left over."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from runner import spool as spools
from runner.errors import ForeignFileError
from runner.songfolder import Outputs
from runner.spool import Spool


@pytest.fixture
def outputs(tmp_path: Path) -> Outputs:
    (tmp_path / "outputs").mkdir()
    return Outputs(tmp_path / "outputs")


def left(spool: Spool, errand: int, content: bytes = b"sound") -> str:
    name = spool.leave(io.BytesIO(content), errand)
    assert name is not None
    return name


def test_what_is_left_is_taken_to_its_place(outputs: Outputs) -> None:
    with spools.opened(outputs) as spool:
        assert spool.is_here()
        spool.take(left(spool, 1), outputs.folder / "night" / "song.wav")
        assert list(spool.folder.iterdir()) == []
    assert (outputs.folder / "night" / "song.wav").read_bytes() == b"sound"


def test_a_spool_lasts_as_long_as_its_batch_and_is_no_song(outputs: Outputs) -> None:
    with spools.opened(outputs) as spool:
        left(spool, 1)
        assert outputs.songs() == []
    assert not spool.is_here()
    assert spool.leave(io.BytesIO(b"late"), 1) is None
    assert list(outputs.folder.iterdir()) == []


def test_another_batch_has_another_one_and_that_of_a_dead_one_is_swept(outputs: Outputs) -> None:
    with spools.opened(outputs) as dead:
        left(dead, 1)
        outputs.clean()
        assert not dead.is_here()
    with spools.opened(outputs) as spool:
        assert spool.folder != dead.folder


def test_who_gives_an_errand_up_clears_what_it_left_and_nothing_else(outputs: Outputs) -> None:
    with spools.opened(outputs) as spool:
        left(spool, 1)
        other = left(spool, 11)
        spool.clear(1)
        assert [path.name for path in spool.folder.iterdir()] == [other]


def test_a_full_disk_keeps_no_half_of_a_file(small_disk: Path) -> None:
    spool = Spool(small_disk)
    assert spool.leave(io.BytesIO(bytes(10**6)), 1) is None
    assert list(small_disk.iterdir()) == []


@pytest.mark.parametrize("name", ["../secret", "secret", "1-0123456789abcdeg", "1-0123456789abcdef"])
def test_nothing_is_taken_but_what_is_left_there(outputs: Outputs, name: str) -> None:
    secret = outputs.folder / "secret"
    secret.write_text("secret")
    with spools.opened(outputs) as spool:
        (spool.folder / "secret").write_text("secret")
        (spool.folder / "1-0123456789abcdef").symlink_to(secret)
        with pytest.raises(ForeignFileError, match="no file of a song"):
            spool.take(name, outputs.folder / "song.wav")
    assert [path.name for path in outputs.folder.iterdir()] == ["secret"]


def test_a_folder_that_cannot_be_looked_at_is_not_shared(tmp_path: Path) -> None:
    assert not Spool(tmp_path / ("x" * 300)).is_here()


def test_what_is_left_can_be_read_by_others_whatever_the_umask(outputs: Outputs) -> None:
    before = os.umask(0o077)
    try:
        with spools.opened(outputs) as spool:
            assert (spool.folder / left(spool, 1)).stat().st_mode & 0o777 == 0o644
    finally:
        os.umask(before)
