"""Small JSON files that several processes share: written whole or not at all, read with suspicion."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from runner.errors import ForeignFileError
from runner.messages import SCHEMA, Batch, Heartbeat, Outcome, QueuedSong, SongRequest

Message = TypeVar("Message", SongRequest, Heartbeat, Outcome, Batch)
Built = TypeVar("Built")

# A message holds a few kilobytes, a request its lyrics (up to 1 MiB), a batch its queue.
MAX_BYTES = 16 * 2**20


def write_json(path: Path, content: dict[str, Any], *, durable: bool = True) -> None:
    """Put content under path by rename, so that no reader meets half a file.

    durable: also survive a power loss (fsync of file and folder). Beats go without: the next one
    replaces them within a second, and an fsync costs milliseconds.
    """
    write_bytes(path, json.dumps(content, ensure_ascii=False, allow_nan=False).encode(), durable=durable)


def write_bytes(path: Path, content: bytes, *, durable: bool = True) -> None:
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
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


def read_json(path: Path) -> dict[str, Any]:
    """The object in path. Raises FileNotFoundError, or ForeignFileError for anything but a JSON object."""
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ForeignFileError(f"{path}: larger than {MAX_BYTES >> 20} MiB; it is not one of ours, remove it")
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ForeignFileError(f"{path}: not readable as JSON ({error}); remove it") from error
    if not isinstance(value, dict):
        raise ForeignFileError(f"{path}: holds no JSON object; remove it")
    return value


def write_message(
    path: Path, message: SongRequest | Heartbeat | Outcome | Batch, *, durable: bool = True
) -> None:
    write_json(path, asdict(message), durable=durable)


def read_message(path: Path, kind: type[Message]) -> Message:
    """The message of that kind in path.

    Raises FileNotFoundError, or ForeignFileError for a torn file, one of a newer schema or of another kind.
    """
    content = read_json(path)
    if content.get("schema") != SCHEMA:
        raise ForeignFileError(
            f"{path}: schema {content.get('schema')!r}, this version reads {SCHEMA}; use the version that wrote it"
        )
    try:
        if kind is Batch:
            content["songs"] = [_build(QueuedSong, song) for song in content["songs"]]
        return _build(kind, content)
    except (TypeError, KeyError) as error:
        raise ForeignFileError(f"{path}: not a {kind.__name__} ({error}); remove it") from error


def _build(kind: type[Built], content: dict[str, Any]) -> Built:
    """A kind from its fields in content; surplus keys are left out, wrong types are a TypeError."""
    hints = _hints(kind)
    for name, value in content.items():
        if name in hints and not _fits(value, hints[name]):
            raise TypeError(f"{name} is {value!r}")
    return kind(**{name: value for name, value in content.items() if name in hints})


@cache
def _hints(kind: type) -> dict[str, Any]:
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
        return isinstance(value, int if hint is int else int | float) and not isinstance(value, bool)
    return isinstance(value, get_origin(hint) or hint)
