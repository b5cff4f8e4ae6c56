"""Control groups that hold songs: limits of memory that the kernel keeps, and lists of all who run in them.

Below our own group there is one for the batch, which limits all its songs together, and in that one for each
attempt:

    <ours>/diffrhythm-<pid namespace>.<pid>.<start>/    the batch
        1/  2/  …                                        an attempt each
    <ours>/diffrhythm-<…>.parent/                        this process itself, where v2 wants it so

Names say whose they are, so that the next start finds what a dead parent has left.
"""

from __future__ import annotations

import os
import pwd
import re
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from runner import processes
from runner.processes import Identity
from runner.verdict import Held

Kind = Literal["v2", "v1"]
# The file of a group that holds its limit of memory.
LIMITS: Mapping[Kind, str] = {"v2": "memory.max", "v1": "memory.limit_in_bytes"}
# Without one, v1 says so by a number near 2^63.
_NO_LIMIT = 2**60
PREFIX = "diffrhythm-"
_NAME = re.compile(rf"{PREFIX}(\d+)\.(\d+)\.(\d+)(\.parent)?")
# Systemd answers within milliseconds, or there is something wrong with it.
SYSTEMD_S = 5.0
# A group is busy until the kernel is done with the last of its dead.
REMOVE_S = 1.0


@dataclass(frozen=True, slots=True)
class Site:
    """The group in which this process is, and may make others that limit memory."""

    kind: Kind
    folder: Path


@dataclass(frozen=True, slots=True)
class Group:
    """Of one attempt. limit: bytes, page cache included."""

    kind: Kind
    folder: Path
    limit: int

    @property
    def entry(self) -> Path:
        """Who writes "0" here is in it, and all whom it starts."""
        return self.folder / "cgroup.procs"

    def members(self) -> list[Identity]:
        return members(self.folder)

    def kill(self) -> None:
        """End all in it in one stroke that no fork outruns; nothing where the kernel can't (before 5.14)."""
        with suppress(OSError):
            (self.folder / "cgroup.kill").write_text("1")

    def tell(self) -> Held | None:
        """What it knows of the end of those who were in it; None where the kernel doesn't say."""
        if self.kind == "v2":
            events = _counts(self.folder / "memory.events")
            killed, full = events.get("oom_kill"), events.get("oom", 0)
        else:
            killed = _counts(self.folder / "memory.oom_control").get("oom_kill")
            full = int(_text(self.folder / "memory.failcnt") or 0)
        return None if killed is None else Held(self.limit, killed, full > 0)

    def remove(self) -> None:
        """Once nobody lives in it. One that stays is removed with its batch, or by the next start."""
        _remove(self.folder)


@dataclass(frozen=True, slots=True)
class Songs:
    """The group of a batch. limit: of all its songs together, in bytes."""

    kind: Kind
    folder: Path
    limit: int

    def group(self, limit: int) -> Group | None:
        """A new one for an attempt; None where there is none to be had.

        Swap is left without a limit: what counts there is judged by the ceiling of private memory, which
        counts RAM and swap together; a song whose idle pages were put into swap has done nothing wrong.
        """
        number = 1 + max((int(each.name) for each in self.folder.glob("[0-9]*")), default=0)
        group = Group(self.kind, self.folder / str(number), min(limit, self.limit))
        try:
            group.folder.mkdir()
            _limit(group.kind, group.folder, group.limit)
            if group.kind == "v2":  # half a song is of no use
                (group.folder / "memory.oom.group").write_text("1")
        except OSError:
            group.remove()
            return None
        return group

    def members(self) -> list[Identity]:
        return members(self.folder)


# ---------------------------------------------------------------- where groups can be made


def site(root: Path) -> Site | None:
    """Where this process may make groups. root: where proc, sys and run are.

    In v2 no group may hold both processes and groups with controllers, the root excepted: ours will do if we
    are alone in it, so that nobody else has to be moved.
    """
    for kind, top, name in _hierarchies(root):
        folder = _there(top, name)
        if kind == "v2":
            ours = "memory" in _text(folder / "cgroup.controllers").split() and _is_ours(folder, root)
        else:
            ours = os.getpid() in _pids(folder) and os.access(folder, os.W_OK)
        if ours:
            return Site(kind, folder)
    return None


def memory_limit(root: Path) -> int | None:
    """The lowest limit of memory on the way from our group up, v2 or v1, in bytes."""
    limits = []
    for kind, folder in _way_up(root):
        limit = _text(folder / LIMITS[kind]).strip()
        if limit.isdecimal() and int(limit) < _NO_LIMIT:
            limits.append(int(limit))
    return min(limits, default=None)


def _hierarchies(root: Path) -> Iterator[tuple[Kind, Path, str]]:
    """That of v2 and of v1's memory: kind, top folder, and the name there of the group that we are in."""
    groups = root / "sys/fs/cgroup"
    for line in _text(_own(root)).splitlines():
        _, controllers, name = line.split(":", 2)
        if controllers == "":
            yield "v2", groups, name
        elif "memory" in controllers.split(","):
            yield "v1", groups / "memory", name


def _way_up(root: Path) -> Iterator[tuple[Kind, Path]]:
    """Our groups and all those above them."""
    for kind, top, name in _hierarchies(root):
        group = Path(name.strip("/"))
        for each in (group, *group.parents):
            yield kind, top / each


def _own(root: Path) -> Path:
    return root / "proc/self/cgroup"


def _there(top: Path, name: str) -> Path:
    """The folder of a group; in a container the top itself may be what is called so outside."""
    folder = top / name.strip("/")
    return folder if folder.is_dir() else top


def _is_ours(folder: Path, root: Path) -> bool:
    """Is a v2 group given to us to divide, and free of others, or the one at the top?"""
    files = (folder, folder / "cgroup.procs", folder / "cgroup.subtree_control")
    within, me = _pids(folder), os.getpid()
    at_top = not (folder / "cgroup.events").exists()
    alone = within == {me} or (at_top and me in within)
    return alone and all(os.access(file, os.W_OK) for file in files) and _is_delegated(folder, root)


def _is_delegated(folder: Path, root: Path) -> bool:
    """Of a unit that is not, systemd stops all, this process too, when the kernel kills one of it."""
    if not _has_systemd(root) or folder.name == _scope():
        return True
    with suppress(OSError):
        return os.getxattr(folder, "user.delegate") == b"1"
    return False


def _has_systemd(root: Path) -> bool:
    return (root / "run/systemd/system").is_dir()


def _scope() -> str:
    """Name of the scope that systemd makes for this process."""
    return f"{PREFIX}{os.getpid()}.scope"


@dataclass(frozen=True, slots=True)
class Systemd:
    """One that can give us a group. runtime: where a user's own is found; None: the machine's."""

    runtime: Path | None


def systemd(root: Path, user: pwd.struct_passwd | None = None) -> Systemd | None:
    """The systemd that gives this user a v2 group which outlives the login; None where there is none.

    user: None: who runs this. Of those who are not root only one who lingers has such: with the last login a
    user's own systemd ends, and all that it was given.
    """
    if not _has_systemd(root) or not (root / "sys/fs/cgroup/cgroup.controllers").exists():
        return None
    with suppress(KeyError):
        user = user or pwd.getpwuid(os.geteuid())
    if user is None or user.pw_uid == 0:
        return Systemd(None) if os.geteuid() == 0 else None
    runtime = root / f"run/user/{user.pw_uid}"
    lingers = (root / "var/lib/systemd/linger" / user.pw_name).exists()
    return Systemd(runtime) if lingers and (runtime / "bus").exists() else None


def seek(root: Path) -> Site | None:
    """Where this process may make groups, if need be after systemd has moved it to where it may.

    Not out of a group that somebody has given limits: they are meant for us.
    """
    found = site(root)
    if found is None and not _is_limited(root) and (manager := systemd(root)) is not None:
        _enter_scope(manager, _own(root))
        found = site(root)
    return found


def _is_limited(root: Path) -> bool:
    """Does a v2 group on the way up to the top limit what we use?"""
    groups = [folder for kind, folder in _way_up(root) if kind == "v2"]
    files = [folder / file for folder in groups for file in ("memory.max", "memory.high", "cpu.max")]
    return any(_text(file).split()[:1] not in ([], ["max"]) for file in files)


def _enter_scope(manager: Systemd, own: Path) -> None:
    """Have this process moved into a scope of its own, which is ours to divide; or not, if it can't be."""
    call = f"busctl {'--system' if manager.runtime is None else '--user'} call org.freedesktop.systemd1"
    call += " /org/freedesktop/systemd1 org.freedesktop.systemd1.Manager StartTransientUnit ssa(sv)a(sa(sv))"
    call += f" {_scope()} fail 3 PIDs au 1 {os.getpid()} Delegate b true"
    call += " CollectMode s inactive-or-failed 0"
    env = os.environ | ({} if manager.runtime is None else {"XDG_RUNTIME_DIR": str(manager.runtime)})
    before, end = _text(own), time.monotonic() + SYSTEMD_S
    with suppress(OSError, subprocess.SubprocessError):
        subprocess.run(call.split(), env=env, capture_output=True, timeout=SYSTEMD_S, check=True)
        while _text(own) == before and time.monotonic() < end:
            time.sleep(0.01)


# ---------------------------------------------------------------- the batch's group


@contextmanager
def held(site: Site | None, limit: int | None) -> Iterator[Songs | None]:
    """The group of a new batch, limit bytes for all its songs together; None: there is none to be had."""
    if site is None or limit is None:
        yield None
        return
    me = processes.me()
    name = f"{PREFIX}{_namespace()}.{me.pid}.{me.started}"
    songs, parent = Songs(site.kind, site.folder / name, limit), site.folder / f"{name}.parent"
    try:
        _make(site, songs, parent)
    except OSError:
        _unmake(site, songs, parent)
        yield None
        return
    try:
        yield songs
    finally:
        _unmake(site, songs, parent)


def _make(site: Site, songs: Songs, parent: Path) -> None:
    if site.kind == "v2" and (site.folder / "cgroup.events").exists():  # not the root
        parent.mkdir()
        _enter(parent)
    if site.kind == "v2":
        _divide(site.folder, "+memory")
    songs.folder.mkdir()
    _limit(songs.kind, songs.folder, songs.limit)
    if site.kind == "v2":
        _divide(songs.folder, "+memory")


def _unmake(site: Site, songs: Songs, parent: Path) -> None:
    """Leave things as they were, groups that somebody still lives in excepted."""
    _remove(songs.folder)
    if parent.is_dir():
        with suppress(OSError):
            _divide(site.folder, "-memory")
            _enter(site.folder)
        _remove(parent)


def _enter(folder: Path) -> None:
    (folder / "cgroup.procs").write_text(str(os.getpid()))


def _divide(folder: Path, what: str) -> None:
    (folder / "cgroup.subtree_control").write_text(what)


def _limit(kind: Kind, folder: Path, limit: int) -> None:
    (folder / LIMITS[kind]).write_text(str(limit))


# ---------------------------------------------------------------- what the dead have left


def left(site: Site | None) -> list[Identity]:
    """Who still lives in the groups of parents that are dead."""
    return [who for folder in _orphaned(site) for who in members(folder)]


def sweep(site: Site | None) -> None:
    """Remove the groups of parents that are dead; those that somebody lives in stay."""
    for folder in _orphaned(site):
        _remove(folder)


def _orphaned(site: Site | None) -> list[Path]:
    if site is None:
        return []
    # The scopes of earlier batches lie beside ours.
    scopes = site.folder.parent.glob(f"{PREFIX}*.scope/{PREFIX}*") if site.folder.name == _scope() else ()
    folders = (*site.folder.glob(f"{PREFIX}*"), *scopes)
    return [folder for folder in folders if (name := _NAME.fullmatch(folder.name)) and _is_orphan(name)]


def _is_orphan(name: re.Match[str]) -> bool:
    """Is the parent that made a group of this name dead? Of other pid namespaces nothing is known."""
    namespace, pid, started = int(name[1]), int(name[2]), int(name[3])
    who = processes.identity(pid)
    return namespace == _namespace() and (who is None or who.started != started)


def members(folder: Path) -> list[Identity]:
    """Who lives in a group and in those below it."""
    pids: set[int] = set()
    with suppress(FileNotFoundError):  # another batch sweeps, too
        pids.update(pid for file in folder.rglob("cgroup.procs") for pid in _pids(file.parent))
    return [who for pid in pids if (who := processes.identity(pid)) is not None]


def _remove(folder: Path) -> None:
    end, below = time.monotonic() + REMOVE_S, []
    with suppress(FileNotFoundError):
        below = list(folder.glob("[0-9]*/"))
    for each in (*below, folder):
        while each.is_dir():
            try:
                each.rmdir()
            except OSError:
                if members(each) or time.monotonic() > end:
                    break
                time.sleep(0.01)


def _namespace() -> int:
    """Of pids: containers may share a tree of groups, and not their pids."""
    return Path("/proc/self/ns/pid").stat().st_ino


def _pids(folder: Path) -> set[int]:
    """In a group, zombies included. Those of other namespaces are 0 there, and left out."""
    return {int(pid) for pid in _text(folder / "cgroup.procs").split()} - {0}


def _counts(file: Path) -> dict[str, int]:
    """Lines such as `oom_kill 1`."""
    pairs = (line.split() for line in _text(file).splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2}


def _text(file: Path) -> str:
    with suppress(OSError):
        return file.read_text()
    return ""
