"""What has changed in a song's folder, to be carried to the same folder on another machine.

A parcel is a file, or what was added to one; of a large one it may say where that was left (see `spool`).
Whatever prefix of them has arrived, the folder there is one that a crash could have left here: a sound comes
before the paper that vouches for it.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from runner.errors import ForeignFileError
from runner.files import make_folder, opened, write_bytes
from runner.processes import MAX_FILE_BYTES
from runner.spool import LARGE, Spool

# Of a song's folder and of its attempts', with no way out of them. A wish to stop is not carried: it is told.
_NAME = re.compile(r"(?!stop$)(attempts/[0-9]{1,9}/)?\w[\w-]*(\.\w+)*", re.ASCII)
# They only grow, and are not vouched for by anything.
_GROWING = ("steps.jsonl", "worker.log")
# What says that something else is there; the later ones speak of the earlier. A line of steps is written once
# the step's checkpoint is there.
_PAPERS = ("steps.jsonl", "request.json", "outcome.json", "failed.json", "song.json")
# The next one replaces it within a second.
_FLEETING = ("heartbeat.json", *_GROWING)


@dataclass(frozen=True, slots=True)
class Parcel:
    """A file of a song's folder. name: under it, with slashes. data: None, the file is gone. start: where in
    the file data begin, of one that only grows. left: the name in the spool of what data would be.
    """

    name: str
    data: bytes | None
    start: int = 0
    left: str = ""


Stamp = tuple[int, int, int]  # inode, bytes, nanoseconds: a file that was replaced or has grown has another
Seen = Mapping[str, Stamp]
# Leaves a file somewhere, and says under which name; None: it cannot be left.
Leave = Callable[[BinaryIO], str | None]


def changes(folder: Path, seen: Seen, leave: Leave | None = None) -> tuple[list[Parcel], Seen]:
    """What is new in folder since it was seen so, in the order in which it is to arrive; and how it is now.

    leave: what to do with large files, where they need not be in the parcels themselves. A file that moves
    meanwhile leaves all for the next time. Raises OSError for a disk that fails.
    """
    # What a paper vouches for was there before it, so it is looked for after it; and a sound moves up, so
    # that the folders below are looked at first.
    papers = {name: stamp for name, stamp in _listed(folder).items() if _rank(name)}
    others = {name: stamp for name, stamp in _listed(folder).items() if not _rank(name)}
    now = others | papers
    new = sorted((name for name in now if now[name] != seen.get(name)), key=_rank)
    try:
        # Read from the last to the first: what is written meanwhile is at least what the papers speak of.
        parcels = [_parcel(folder, name, seen.get(name), leave) for name in reversed(new)][::-1]
    except FileNotFoundError:
        return [], seen
    return [*parcels, *(Parcel(name, None) for name in seen if name not in now)], now


def pack(folder: Path) -> list[Parcel]:
    """All that another machine needs to go on: every paper and step log, and the newest checkpoint."""
    parcels, _ = changes(folder, {})
    checkpoints = [parcel.name for parcel in parcels if parcel.name.endswith("/checkpoint.safetensors")]
    spare = set(sorted(checkpoints, key=_attempt)[:-1])
    return [p for p in parcels if p.name not in spare and not p.name.endswith(".log")]


def put(folder: Path, parcel: Parcel, spool: Spool | None = None) -> None:
    """Do to folder what was done to the one that the parcel comes from; doing it twice does no harm, but for
    what was left in the spool.

    Raises OSError, FileNotFoundError where the folder itself is gone, or ForeignFileError for a name that is
    none of a song's folder.
    """
    if not _NAME.fullmatch(parcel.name):
        raise ForeignFileError(f"{folder}: another machine sent {parcel.name!r}, which is no file of a song")
    path = folder / parcel.name
    if parcel.data is None:
        path.unlink(missing_ok=True)
        return
    if not folder.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))
    make_folder(path.parent)
    if parcel.left:
        if spool is None:
            raise ForeignFileError(f"{path}: was left in a folder that is not there")
        spool.take(parcel.left, path)
    elif parcel.start or path.name in _GROWING:
        _put_at(path, parcel.data, parcel.start)
    else:
        write_bytes(path, parcel.data, durable=path.name not in _FLEETING)


def stamps(folder: Path) -> Seen:
    """How folder is now."""
    return _listed(folder)


def _listed(folder: Path) -> dict[str, Stamp]:
    found: dict[str, Stamp] = {}
    for place, _, files in os.walk(folder, topdown=False):
        for file in files:
            path = Path(place, file)
            name = path.relative_to(folder).as_posix()
            if _NAME.fullmatch(name) and not path.is_symlink():
                with suppress(FileNotFoundError):
                    facts = path.stat()
                    found[name] = (facts.st_ino, facts.st_size, facts.st_mtime_ns)
    return found


def _rank(name: str) -> int:
    """0 for what no other file speaks of."""
    file = name.rpartition("/")[2]
    return _PAPERS.index(file) + 1 if file in _PAPERS else 0


def _attempt(name: str) -> int:
    return int(name.split("/")[1])


def _parcel(folder: Path, name: str, before: Stamp | None, leave: Leave | None) -> Parcel:
    is_growing = name.rpartition("/")[2] in _GROWING
    start = before[1] if before is not None and is_growing else 0
    with opened(folder / name) as file:
        is_large = os.fstat(file.fileno()).st_size >= LARGE and not is_growing and not _rank(name)
        if is_large and leave is not None and (left := leave(file)) is not None:
            return Parcel(name, b"", left=left)
        file.seek(start)
        return Parcel(name, file.read(MAX_FILE_BYTES), start)


def _put_at(path: Path, data: bytes, start: int) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        while data:
            written = os.pwrite(handle, data, start)
            data, start = data[written:], start + written
    finally:
        os.close(handle)


def size(parcels: Iterable[Parcel]) -> int:
    """Bytes of them all."""
    return sum(len(parcel.data or b"") for parcel in parcels)
