"""Small JSON files that several processes share: written whole or not at all, read with suspicion."""

from __future__ import annotations

import errno
import json
import os
import reprlib
import secrets
import stat
import sys
from collections.abc import Hashable
from dataclasses import asdict, is_dataclass
from functools import cache
from io import BufferedReader
from pathlib import Path
from types import UnionType
from typing import Any, Literal, NoReturn, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from runner.errors import ForeignFileError
from runner.messages import SCHEMA, Batch, Check, Examination, Heartbeat, Outcome, SongRequest

Message = TypeVar("Message", SongRequest, Heartbeat, Outcome, Batch, Check, Examination)
Built = TypeVar("Built")

# A message holds a few kilobytes, a request its lyrics (up to 1 MiB), a batch its queue and, to be checked,
# all of its lyrics. Python makes fifty times as much of a file of brackets.
MAX_BYTES = 16 * 2**20
MAX_CHECK_BYTES = 64 * 2**20


def write_json(path: Path, content: dict[str, Any], *, durable: bool = True) -> None:
    """Put content under path by rename, so that no reader meets half a file.

    durable: also survive a power loss (fsync of file and folder). Beats go without: the next one
    replaces them within a second, and an fsync costs milliseconds.
    """
    text = json.dumps(content, ensure_ascii=False, allow_nan=False)
    # A file's name that is not UTF-8 holds surrogates; with a backslash they are JSON.
    write_bytes(path, text.encode(errors="backslashreplace"), durable=durable)


def write_bytes(path: Path, content: bytes, *, durable: bool = True) -> None:
    # Not mkstemp: its 0600 would hide the night from other users, and a Windows disk lets nobody change it.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in folder survive a power loss."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(folder: Path) -> None:
    """Make folder, and what is missing above it, so that what it will hold can survive a power loss."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def is_full(error: OSError) -> bool:
    """Is there no room on the disk, or none left for this user?"""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def opened(path: Path) -> BufferedReader:
    """The file at path, for reading. Raises OSError, or ForeignFileError for a pipe, which would make its
    reader wait for ever, a device, which may never end, or a folder.
    """
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise ForeignFileError(f"{path}: is no ordinary file; remove it")
    return os.fdopen(handle, "rb")


def read_json(path: Path, max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """The object in path. Raises FileNotFoundError, or ForeignFileError for anything but a JSON object."""
    with opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > max_bytes:
            raise ForeignFileError(
                f"{path}: larger than {max_bytes >> 20} MiB; it is not one of ours, remove it"
            )
        content = file.read(size + 1)  # not the bound: Python sets that much memory aside
    try:
        value = json.loads(content, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise ForeignFileError(f"{path}: not readable as JSON ({error}); remove it") from error
    if not isinstance(value, dict):
        raise ForeignFileError(f"{path}: holds no JSON object; remove it")
    return value


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def write_message(
    path: Path,
    message: SongRequest | Heartbeat | Outcome | Batch | Check | Examination,
    *,
    durable: bool = True,
) -> None:
    write_json(path, asdict(message), durable=durable)


def read_message(path: Path, kind: type[Message]) -> Message:
    """The message of that kind in path.

    Raises FileNotFoundError, or ForeignFileError for a torn file, one of a newer schema or of another kind.
    """
    return as_message(path, read_json(path, MAX_CHECK_BYTES if kind is Check else MAX_BYTES), kind)


def as_message(path: Path, content: object, kind: type[Message]) -> Message:
    """The message of that kind that content, found in path, is. Raises ForeignFileError as read_message."""
    if not isinstance(content, dict):
        raise ForeignFileError(f"{path}: holds no {kind.__name__}; remove it")
    if content.get("schema") != SCHEMA:
        raise ForeignFileError(
            f"{path}: schema {content.get('schema')!r}, this version reads {SCHEMA}; "
            "use the version that wrote it"
        )
    try:
        return _build(kind, content)
    except TypeError as error:
        raise ForeignFileError(f"{path}: not a {kind.__name__} ({error}); remove it") from error


def _build(kind: type[Built], content: object) -> Built:
    """A kind from its fields in content; surplus keys are left out, wrong types are a TypeError."""
    if not isinstance(content, dict):
        raise TypeError(f"{kind.__name__} is {reprlib.repr(content)}")
    hints = _hints(cast(Hashable, kind))
    return kind(
        **{name: _field(name, value, hints[name]) for name, value in content.items() if name in hints}
    )


def _field(name: str, value: object, hint: Any) -> object:
    """The value of a field, with dataclasses built where it is one, or a list of them."""
    if not _fits(value, hint):
        raise TypeError(f"{name} is {reprlib.repr(value)}")
    if isinstance(value, list) and is_dataclass(kind := get_args(hint)[0]) and isinstance(kind, type):
        return [_build(kind, part) for part in value]
    if isinstance(value, dict):
        for kind in get_args(hint):  # of a field that may be None
            if is_dataclass(kind) and isinstance(kind, type):
                return _build(kind, value)
    return value


@cache
def _hints(kind: Hashable) -> dict[str, Any]:
    return get_type_hints(kind)


def _fits(value: object, hint: Any) -> bool:
    """Is value what hint says? Looks one level deep; a float may come as an int, a bool is no number."""
    if hint is Any:
        return True
    if get_origin(hint) in (Union, UnionType):
        return any(_fits(value, part) for part in get_args(hint))
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if hint in (int, float):
        kinds = int if hint is int else int | float
        # JSON can spell numbers that no float holds (1e999), and arithmetic on those raises.
        return isinstance(value, kinds) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    if is_dataclass(hint):
        return isinstance(value, dict)
    return isinstance(value, get_origin(hint) or hint)
