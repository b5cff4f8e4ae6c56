"""The names and layout under outputs/. The one module that knows what a file there is called."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from runner.errors import LockedError, OutputError, RunnerError
from runner.files import make_folder, sync_folder
from runner.messages import Format

# Bytes of a file's name, on every file system of Linux.
_LONGEST_NAME = 255


@dataclass(frozen=True, slots=True)
class Attempt:
    """outputs/<job>/<song>/attempts/<number>/"""

    folder: Path

    @property
    def number(self) -> int:
        return int(self.folder.name)

    @property
    def request(self) -> Path:
        return self.folder / "request.json"

    @property
    def steps(self) -> Path:
        return self.folder / "steps.jsonl"

    @property
    def log(self) -> Path:
        return self.folder / "worker.log"

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.safetensors"

    @property
    def outcome(self) -> Path:
        return self.folder / "outcome.json"

    @property
    def spectrogram(self) -> Path:
        """A picture of the sound. It stays here: of a song that is made anew, it is the old one's."""
        return self.folder / "spectrogram.png"

    def audio(self, extension: str) -> Path:
        """The finished sound, until the parent gives it its final name."""
        return self.folder / f"song.{extension}"


@dataclass(frozen=True, slots=True)
class SongFolder:
    """outputs/<job>/<song>/"""

    folder: Path

    @property
    def id(self) -> str:
        return f"{self.folder.parent.name}/{self.folder.name}"

    @property
    def outputs(self) -> Outputs:
        return Outputs(self.folder.parent.parent)

    @property
    def manifest(self) -> Path:
        return self.folder / "song.json"

    @property
    def failure(self) -> Path:
        """Why the song failed; never beside a manifest of the same request."""
        return self.folder / "failed.json"

    @property
    def heartbeat(self) -> Path:
        return self.folder / "heartbeat.json"

    @property
    def stop(self) -> Path:
        """Its presence asks the parent to stop this song."""
        return self.folder / "stop"

    def audio(self, extension: str) -> Path:
        return self.folder / f"song.{extension}"

    def attempts(self) -> list[Attempt]:
        """All attempts so far, oldest first."""
        folders = (self.folder / "attempts").glob("[0-9]*")
        return sorted(
            (Attempt(path) for path in folders if path.name.isdecimal()), key=lambda attempt: attempt.number
        )

    @property
    def next_number(self) -> int:
        """Of the attempt to come."""
        past = self.attempts()
        return past[-1].number + 1 if past else 1

    def new_attempt(self) -> Attempt:
        attempt = Attempt(self.folder / "attempts" / str(self.next_number))
        make_folder(attempt.folder)
        return attempt

    def prepare(self) -> None:
        """Make the folder. Raises OutputError where a link leads out of the outputs, or a folder lies in a
        file's place.
        """
        for folder in (self.folder.parent, self.folder, self.folder / "attempts"):
            if folder.is_symlink():
                raise OutputError(f"{folder}: is a link, and songs are not written through links; remove it")
        for file in (self.manifest, self.failure, self.heartbeat, self.stop):
            if file.is_dir():
                raise OutputError(f"{file}: is a folder where a file belongs; move it away")
        make_folder(self.folder)

    def clean(self) -> None:
        """Remove what a killed child or parent left half-written."""
        for path in (*self.folder.glob(".*.tmp"), *self.folder.glob("attempts/*/.*.tmp")):
            path.unlink(missing_ok=True)

    def tidy(self, sound: Path) -> None:
        """Remove what a finished song needs no more: checkpoints, and its sound in another format or in an
        attempt that died before it could say so."""
        sounds = [
            f"{place}song.{extension}" for place in ("", "attempts/*/") for extension in get_args(Format)
        ]
        for pattern in ("attempts/*/checkpoint.safetensors", *sounds):
            for path in self.folder.glob(pattern):
                if path != sound and not path.is_dir():
                    path.unlink(missing_ok=True)

    def publish(self, sound: Path) -> Path:
        """Move a finished sound to its final name, for good."""
        final = self.folder / sound.name
        sound.replace(final)
        sync_folder(self.folder)
        return final


@dataclass(frozen=True, slots=True)
class Outputs:
    """outputs/"""

    folder: Path

    @property
    def log(self) -> Path:
        """What happened in the nights, line by line, and tracebacks of defects of the runner itself."""
        return self.folder / "runner.log"

    @property
    def cron_log(self) -> Path:
        """What the nights that cron began had to say on their terminal, which they don't have."""
        return self.folder / "cron.log"

    @property
    def batch(self) -> Path:
        return self.folder / "batch.json"

    @property
    def report(self) -> Path:
        """The page that tells of all songs here."""
        return self.folder / "report.html"

    @property
    def report_to_send(self) -> Path:
        """The same page with the sounds in it."""
        return self.folder / "report-to-send.html"

    def spool(self, token: str) -> Path:
        """Where machines of a cluster leave large files for the batch; see `spool`."""
        return self.folder / f".spool-{token}"

    def clean(self) -> None:
        """Remove what a killed parent left half-written, or untaken. For who holds the lock."""
        for folder in self.folder.glob(".spool-*"):
            shutil.rmtree(folder, ignore_errors=True)
        for name in (self.batch.name, self.report.name, self.report_to_send.name):
            for path in self.folder.glob(f".{name}.*.tmp"):
                path.unlink(missing_ok=True)

    @property
    def lock(self) -> Path:
        """Open, and locked, in the parent of the batch that runs here."""
        return self.folder / ".lock"

    def song(self, id: str) -> SongFolder:
        return SongFolder(self.folder / id)

    def songs(self) -> list[SongFolder]:
        """Every folder here that looks like a song's, by name."""
        marks = ("heartbeat.json", "song.json", "failed.json", "attempts")
        folders = (path for path in self.folder.glob("*/*") if any((path / mark).exists() for mark in marks))
        return [SongFolder(path) for path in sorted(folders)]

    @contextmanager
    def locked(self) -> Iterator[Callable[[], bool]]:
        """Hold the outputs for one batch; the kernel lets go when the holder dies, so it is never stale.

        Yields a question: is it still held? Not once the folder, or its lock, was removed or moved away.
        Raises LockedError if another batch holds it, OutputError if the folder cannot be written.
        """
        path = self.lock
        try:
            str(self.folder.resolve()).encode()
        except UnicodeEncodeError as error:
            raise OutputError(
                f"cannot write results: a name that is not UTF-8: {self.folder}; "
                "choose another folder with --out"
            ) from error
        try:
            make_folder(self.folder)
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise OutputError(
                f"cannot write results: {error.strerror}: {self.folder}; choose another folder with --out"
            ) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(handle)
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise OutputError(
                    f"{path}: this file system has no locks ({error.strerror}); "
                    "choose a folder on a local disk with --out"
                ) from error
            raise LockedError(
                f"another batch is using {self.folder}; see `runner status`, "
                "wait for it, stop it with `runner stop`, or use --out"
            ) from error
        try:
            yield lambda: _lies_at(handle, path)
        finally:
            os.close(handle)


def is_song(id: str) -> bool:
    """Whether id is "job/name", both names of folders: what was read from a file may lead anywhere."""
    parts = id.split("/")
    return len(parts) == 2 and all(map(_is_folder_name, parts))


def _is_folder_name(text: str) -> bool:
    try:
        size = len(os.fsencode(text))
    except UnicodeEncodeError:
        return False
    return 0 < size <= _LONGEST_NAME and text not in (".", "..") and "\0" not in text


def _lies_at(handle: int, path: Path) -> bool:
    """Is this open file still the one of that name? Where the disk does not say, it is."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True


def find(name: str, ids: Iterable[str]) -> str:
    """The song that name means: "job/name", or the name alone where only one job has it.

    Raises RunnerError for none or several, naming what it could have been.
    """
    known = list(ids)
    if name in known:
        return name
    found = [id for id in known if id.rpartition("/")[2] == name]
    if len(found) == 1:
        return found[0]
    if found:
        raise RunnerError(f"{name}: several songs have this name; say which: {', '.join(found)}")
    raise RunnerError(f"{name}: no such song; {_nearest(name, known)}`runner status` lists them all")


def _nearest(name: str, known: list[str]) -> str:
    from difflib import get_close_matches  # only after a slip: it costs milliseconds

    by_name = {id.rpartition("/")[2]: id for id in known}
    near = get_close_matches(name, [*known, *by_name], n=1)
    return f"did you mean {by_name.get(near[0], near[0])}? " if near else ""
