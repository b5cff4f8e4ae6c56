"""What there is of a machine for a night's work, read once. What a kernel does not tell is None or empty.

Paths of the kernel's are handed in as one root, so that folders can stand for other machines.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from runner import cgroups, processes

CRONS = frozenset({"cron", "crond", "fcron", "anacron", "cronie"})
# As mount tables call Windows's disks: WSL 2's and WSL 1's.
WINDOWS_DISKS = frozenset({"9p", "drvfs", "v9fs"})
_ESCAPED = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Place:
    """Where results go: the folder itself, or what is above it and there. None: could not be asked."""

    folder: str
    disk: str  # type of file system
    free: int | None
    files_left: int | None
    is_folder: bool
    writable: bool


@dataclass(frozen=True, slots=True)
class Machine:
    """Bytes, names, yes and no. wsl: 0 where this is none. memory_limit: of a control group above us.

    load: how many processes wanted a core in the last minute. init: name of the first process. crontab:
    whether the command is on PATH. holder: what lets the kernel hold songs to their memory: our own control
    group, or systemd, which gives us one; "": nothing does.
    wsl_limits: memory and swap as .wslconfig has them; None: none was found.
    """

    python: tuple[int, int]
    kernel: str
    wsl: Literal[0, 1, 2]
    wsl_limits: dict[str, str] | None
    processor: str
    cores: int
    load: float | None
    memory: int | None
    available: int | None
    swap: int | None
    swap_free: int | None
    memory_limit: int | None
    pressure: bool
    cgroup: Literal["v2", "v1", ""]
    holder: Literal["v2", "v1", "systemd", ""]
    init: str
    cron: bool
    crontab: bool
    out: Place
    here: Place


def read(out: Path, *, root: Path = Path("/"), path: str | None = None) -> Machine:
    """This machine, for results in out. root: where proc, sys and mnt are. path: in place of $PATH."""
    proc = root / "proc"
    kernel = _text(proc / "sys/kernel/osrelease")
    memory = _meminfo(proc / "meminfo")
    wsl = wsl_of(kernel)
    return Machine(
        python=sys.version_info[:2],
        kernel=kernel,
        wsl=wsl,
        wsl_limits=_wslconfig(root / "mnt/c/Users") if wsl else None,
        processor=_processor(proc / "cpuinfo"),
        cores=processes.usable_cores(),
        load=_load(proc / "loadavg"),
        memory=memory.get("MemTotal"),
        available=memory.get("MemAvailable"),
        swap=memory.get("SwapTotal"),
        swap_free=memory.get("SwapFree"),
        memory_limit=cgroups.memory_limit(root),
        pressure=bool(_text(proc / "pressure/memory")),
        cgroup=_cgroup(root / "sys/fs/cgroup"),
        holder=_holder(root),
        init=_text(proc / "1/comm"),
        cron=not CRONS.isdisjoint(_names(proc)),
        crontab=shutil.which("crontab", path=path) is not None,
        out=place(out, proc / "self/mountinfo"),
        here=place(Path(os.environ.get("PWD", "/")), proc / "self/mountinfo"),
    )


def name(root: Path = Path("/")) -> dict[str, str | int | None]:
    """What a manifest says of the machine that made a song, besides its system."""
    return {
        "processor": _processor(root / "proc/cpuinfo"),
        "cores": processes.usable_cores(),
        "memory_bytes": _meminfo(root / "proc/meminfo").get("MemTotal"),
    }


def wsl_of(kernel: str) -> Literal[0, 1, 2]:
    """Which WSL a kernel is of, by its release: 5.15.0-microsoft-standard-WSL2, 4.4.0-19041-Microsoft."""
    if "microsoft-standard" in kernel or "WSL2" in kernel:
        return 2
    return 1 if kernel.endswith("-Microsoft") else 0


def place(folder: Path, mountinfo: Path) -> Place:
    """What is known of a folder, or of the nearest one above that is there."""
    folder = folder.absolute()
    # os.path.exists, which says no where it may not look, too.
    there = next(each for each in (folder, *folder.parents) if os.path.exists(each))  # noqa: PTH110
    free = files_left = None
    with suppress(OSError):
        found = os.statvfs(there)
        free = found.f_bavail * found.f_frsize
        # Some file systems count no files: 0 of 0.
        files_left = found.f_favail if found.f_files else None
    return Place(
        str(folder),
        disk_of(Path(os.path.realpath(there)), _text(mountinfo)),
        free,
        files_left,
        is_folder=os.path.isdir(there),  # noqa: PTH112 — as above
        writable=os.access(there, os.W_OK | os.X_OK),
    )


def disk_of(folder: Path, mountinfo: str) -> str:
    """Type of the file system that folder is on, by the kernel's table of mounts; "" if that lists none."""
    best, kind = -1, ""
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        fields = left.split()
        if len(fields) < 5 or not right:
            continue
        point = Path(_ESCAPED.sub(lambda found: chr(int(found[1], 8)), fields[4]))
        # The later of two mounts at one point hides the earlier.
        if folder.is_relative_to(point) and len(point.parts) >= best:
            best, kind = len(point.parts), right.split()[0]
    return kind


def usable_memory(total: int | None, limit: int | None) -> int | None:
    """Of RAM that we may count on: what there is, or what a control group leaves us of it."""
    return min((each for each in (total, limit) if each is not None), default=None)


def _holder(root: Path) -> Literal["v2", "v1", "systemd", ""]:
    site = cgroups.site(root)
    if site is not None:
        return site.kind
    return "systemd" if cgroups.systemd(root) else ""


def _cgroup(groups: Path) -> Literal["v2", "v1", ""]:
    if (groups / "cgroup.controllers").exists():
        return "v2"
    return "v1" if (groups / "memory").exists() else ""


def _wslconfig(users: Path) -> dict[str, str] | None:
    """memory and swap of the .wslconfig in the home of a user of Windows, as written there."""
    for file in sorted(users.glob("*/.wslconfig")):
        lines = (line.partition("=") for line in _text(file).splitlines())
        values = {name.strip().lower(): value.strip() for name, _, value in lines}
        return {name: values[name] for name in ("memory", "swap") if name in values}
    return None


def _processor(cpuinfo: Path) -> str:
    for line in _text(cpuinfo).splitlines():
        if line.startswith("model name"):
            return " ".join(line.partition(":")[2].split())
    return ""


def _load(file: Path) -> float | None:
    with suppress(ValueError):
        return float(_text(file).partition(" ")[0])
    return None


def _names(proc: Path) -> Iterator[str]:
    """Of all processes."""
    return (_text(file) for file in proc.glob("[0-9]*/comm"))


def _meminfo(file: Path) -> dict[str, int]:
    """Its lines such as `MemTotal:  1234 kB`, in bytes."""
    found = {}
    for line in _text(file).splitlines():
        name, _, value = line.partition(":")
        if value.endswith(" kB"):
            found[name] = int(value[:-3]) * 1024
    return found


def _text(file: Path) -> str:
    """What is in it, without the space around; "" where it cannot be read."""
    with suppress(OSError):
        return file.read_text(errors="replace").strip()
    return ""
