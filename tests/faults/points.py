"""The steps by which a process changes the world, by name; it can be killed just before any of them.

In the worker's place: `python -m tests.faults.points AT JOURNAL child|worker REQUEST`; only a song's first
attempt is killed. AT below 0: steps are recorded with what they carry instead.
"""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import sys
import threading
from pathlib import Path
from typing import Any

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
CHANGES = {
    "os.mkdir",
    "os.rmdir",
    "os.remove",
    "os.truncate",
    "os.link",
    "os.symlink",
    "os.chmod",
    "os.rename",
}


class Points:
    """Journals the steps of this process below folder, and kills it just before the at-th; 0: never.

    An audit hook cannot be taken back, so this is for processes that have nothing else to do.
    """

    def __init__(self, folder: Path, journal: Path, at: int) -> None:
        self.folder, self.at, self.count, self.pid = str(folder), at, 0, os.getpid()
        self.journal = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.fsync = os.fsync
        os.fsync = self._fsync  # the one step that Python does not audit
        sys.addaudithook(self._heard)

    def _heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        if os.getpid() != self.pid or threading.current_thread().name == "pulse":
            return  # between fork and exec; or a beat that comes when it comes
        if event == "open" and arguments[2] & WRITES:
            self._step("open", arguments[0])
        elif event == "os.rename":
            self._step("rename to", arguments[1], source=arguments[0])
        elif event in CHANGES:
            self._step(event.removeprefix("os."), arguments[0])
        elif event == "fcntl.flock":
            self._reached("lock")
        elif event == "subprocess.Popen":
            self._reached("start a process")

    def _fsync(self, descriptor: int) -> None:
        self._step("fsync", Path(f"/proc/self/fd/{descriptor}").readlink())
        self.fsync(descriptor)

    def _step(self, verb: str, path: Any, *, source: Any = None) -> None:
        place = os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else ""
        if place.startswith(self.folder):
            self.tell(verb, Path(place), source if source is None else Path(os.fsdecode(source)))

    def tell(self, verb: str, path: Path, source: Path | None) -> None:
        """A step is about to be made."""
        name = re.sub(r"\.\d+-[0-9a-f]+\.tmp$", ".tmp", str(path.relative_to(self.folder)))
        self._reached(f"{verb} {name}")

    def _reached(self, name: str) -> None:
        self.count += 1
        os.write(self.journal, f"{name}\n".encode())
        if self.count == self.at:
            os.kill(self.pid, signal.SIGKILL)


class Recorder(Points):
    """Journals the steps with what they carry, one JSON object a line: what a power loss may undo.

    data: of a file when it is synced or renamed, or was before more is appended to it; in base64.
    """

    def tell(self, verb: str, path: Path, source: Path | None) -> None:
        content = path if source is None else source
        data = None
        if verb in ("fsync", "rename to", "open") and content.is_file():
            data = base64.b64encode(content.read_bytes()).decode()
        name, was = (each and str(each.relative_to(self.folder)) for each in (path, source))
        op = {"verb": verb, "path": name, "source": was, "data": data, "is_dir": path.is_dir()}
        os.write(self.journal, f"{json.dumps(op)}\n".encode())

    def _reached(self, name: str) -> None:
        """What changes no file is not kept."""


def main(at: str, journal: str, who: str, request: str) -> int:
    paper = Path(request)
    if int(at) < 0:
        Recorder(paper.parents[4], Path(journal), 0)
    elif paper.parent.name == "1":
        Points(paper.parents[4], Path(journal), int(at))
    if who == "worker":
        from runner import worker

        return worker.main(["sing", request])
    from tests.faults.child import Child

    Child(paper).play()
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
