"""A folder in the outputs that machines of a cluster may see, too: large files are handed over through it.

Whoever sees it leaves a copy there, and a letter names that in place of its bytes. Whoever opens the letter
moves the copy to where it belongs, on the same disk, by its name alone. Nobody is trusted to have the same
clock, locks or order of writes.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from runner.errors import ForeignFileError
from runner.files import make_folder, sync_folder
from runner.songfolder import Outputs

# A smaller file is in its letter sooner than in a folder.
LARGE = 64 * 2**10
_NAME = re.compile(r"[0-9]{1,9}-[0-9a-f]{16}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Spool:
    """folder: its name is drawn by chance, so that a folder of that name anywhere else is this one. No other
    sign is asked for: what was never asked for before, a network's disk cannot have remembered as missing.
    """

    folder: Path

    def is_here(self) -> bool:
        """Does this machine see it?"""
        try:
            return self.folder.is_dir()
        except OSError:  # something of that path is not ours to look at, or its disk does not answer
            return False

    def leave(self, file: BinaryIO, errand: int) -> str | None:
        """Copy the file for who called the errand; the copy's name. None: it cannot be left here.

        The copy outlasts a power cut, since what is written of it later does.
        """
        name = f"{errand}-{secrets.token_hex(8)}"
        try:
            with (self.folder / name).open("xb") as copy:
                shutil.copyfileobj(file, copy, 2**20)
                os.fchmod(copy.fileno(), 0o644)  # it may be somebody else who takes it
                copy.flush()
                os.fsync(copy.fileno())
        except OSError:  # full, vanished, or not ours to write to
            with suppress(OSError):
                (self.folder / name).unlink(missing_ok=True)
            return None
        return name

    def take(self, name: str, place: Path) -> None:
        """Move what was left under that name to place, for good.

        Raises ForeignFileError for what nobody leaves here, and OSError; what was taken already is missing.
        """
        left = self.folder / name
        if not _NAME.fullmatch(name) or not stat.S_ISREG(left.lstat().st_mode):
            raise ForeignFileError(
                f"{place}: another machine left {name!r} for it, which is no file of a song"
            )
        make_folder(place.parent)
        left.replace(place)
        sync_folder(place.parent)

    def clear(self, errand: int) -> None:
        """Remove what was left on an errand, and not taken."""
        for left in self.folder.glob(f"{errand}-*"):
            with suppress(OSError):
                left.unlink(missing_ok=True)


@contextmanager
def opened(outputs: Outputs) -> Iterator[Spool]:
    """The spool of a batch, as long as that lasts."""
    spool = Spool(outputs.spool(secrets.token_hex(16)).absolute())
    with suppress(OSError):  # without it, all is in the letters
        spool.folder.mkdir()
    try:
        yield spool
    finally:
        shutil.rmtree(spool.folder, ignore_errors=True)
