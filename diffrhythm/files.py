"""Files of our own: where caches live, and how a file is put there whole or not at all."""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def cache_folder() -> Path:
    """Home of what can be made again: $XDG_CACHE_HOME/diffrhythm, else ~/.cache/diffrhythm."""
    root = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG rule: a relative path counts as unset.
    return (Path(root) if Path(root).is_absolute() else Path.home() / ".cache") / "diffrhythm"


def replace(path: Path, data: bytes | memoryview) -> None:
    """Put data at path, whole or not at all. Raises OSError as `whole` does."""
    with whole(path) as temporary:
        temporary.write_bytes(data)


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yields where to write what is then put at path, whole or not at all: beside it, with fsync and rename.

    Raises OSError (a full disk, a read-only folder); then path is as it was and nothing else is left.
    """
    # Not mkstemp: its 0600 would hide songs from other users, and a Windows disk lets nobody change it.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


@contextmanager
def alone(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Holds a lock of the kernel's on path, which is made where it is not there. It ends with its process.

    Raises BlockingIOError where another process has it and we are not to wait, OSError as `open`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield


def sync_folder(folder: Path) -> None:
    """Make a rename in folder last through a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
