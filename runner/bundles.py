"""The model of a song on another machine: found there, or fetched once from the batch's and kept for all.

A bundle is a folder with a bundle.json that names its files, their sizes and their SHA-256.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from runner import manifest
from runner.check import answered
from runner.errors import ClusterError, ForeignFileError
from runner.files import read_json
from runner.messages import SongAnswer
from runner.spec import Song
from runner.supervise import Job

ABOUT = "bundle.json"
PIECE_BYTES = 32 * 2**20

Ask = Callable[..., Any]


def cache() -> Path:
    """Return the folder of this user's files that can be fetched again, as diffrhythm.files has it."""
    home = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (home if home.is_absolute() else Path.home() / ".cache") / "diffrhythm"


def at_hand(job: Job, ask: Ask) -> Job:
    """The job as this machine makes it: with its own copy of the model, and the arithmetic that is fast here.

    ask: the desk. Raises ClusterError where the model is not here and cannot be fetched, or cannot sing here,
    and CheckError; which machine that is, the caller says.
    """
    wanted = job.answer.model_hash
    kept = cache() / "bundles" / wanted
    for model in (str(kept) if kept.exists() else job.song.model, str(kept)):
        song = replace(job.song, model=model)
        (answer,) = answered([song])
        why = answer.problems[0] if answer.problems else "it is another one here"
        if answer.model_hash == wanted:
            if answer.problems:  # another copy of the model has them, too
                raise ClusterError(why)
            return _with(job, song, answer)
        if not kept.exists():
            _fetch(wanted, kept, ask, why=why)
    raise ClusterError(f"{kept}: {why}; remove it there and try again")


def _with(job: Job, song: Song, answer: SongAnswer) -> Job:
    here = replace(
        job.answer,
        precision=answer.precision,
        private_bytes=answer.private_bytes,
        mapped_bytes=answer.mapped_bytes,
        pass_s=answer.pass_s,
        threads=answer.threads,
        decoder_speed=answer.decoder_speed,
        decoder_around_s=answer.decoder_around_s,
    )
    return replace(job, song=song, answer=here)


def _fetch(wanted: str, kept: Path, ask: Ask, *, why: str) -> None:
    """One process of a machine fetches, the others wait for it."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    with _turn(kept.with_suffix(".lock")):
        if kept.exists():
            return
        half = kept.with_suffix(".half")
        shutil.rmtree(half, ignore_errors=True)
        half.mkdir()
        _fetch_file(wanted, ABOUT, half / ABOUT, ask, why)
        _verify(half / ABOUT, wanted)
        for name, facts in _files(half / ABOUT).items():
            _fetch_file(wanted, name, half / name, ask, why)
            _verify(half / name, facts.get("sha256") if isinstance(facts, dict) else None)
        half.replace(kept)


def _files(about: Path) -> dict[str, Any]:
    files = read_json(about).get("files")
    if not isinstance(files, dict) or not all(_is_plain(name) for name in files):
        raise ForeignFileError(f"{about}: names no files of a bundle; fetch the model again")
    return files


def _is_plain(name: object) -> bool:
    return isinstance(name, str) and name == Path(name).name and not name.startswith(".")


def _fetch_file(wanted: str, name: str, place: Path, ask: Ask, why: str) -> None:
    with place.open("xb") as file:
        while True:
            piece: bytes | None = ask("read", wanted, name, file.tell(), PIECE_BYTES)
            if piece is None:
                raise ClusterError(
                    f"the model is not there ({why}), and the machine of the batch "
                    "cannot be read from there; run `runner models pull` on it"
                )
            file.write(piece)
            if len(piece) < PIECE_BYTES:
                break
        file.flush()
        os.fsync(file.fileno())


def _verify(place: Path, sha256: object) -> None:
    if manifest.sha256(place) != sha256:
        raise ForeignFileError(f"{place}: is not what its bundle says; the next song fetches it again")


@contextmanager
def _turn(lock: Path) -> Iterator[None]:
    handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
