"""The SHA-256 of large files, with a word now and then on how far it is."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

# report(what, done, total): what is being done, in words for people; bytes done of all.
Report = Callable[[str, int, int], None]

PIECE_BYTES = 2**22


def silent(what: str, done: int, total: int) -> None:
    """The Report of whoever does not want to know."""


def sha256(path: Path, report: Report = silent) -> str:
    """SHA-256 of a file, 64 lower-case hex digits; reads it once, in pieces."""
    digest, done, total = hashlib.sha256(), 0, path.stat().st_size
    with path.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            digest.update(piece)
            done += len(piece)
            report(f"check {path.name}", done, total)
    return digest.hexdigest()
