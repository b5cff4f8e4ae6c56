"""Start and end of process trees: who a process is, how a child is bound to us, proof that none is left.

Linux only: /proc, process groups, the parent-death signal.
"""

from __future__ import annotations

import ctypes
import os
import re
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

# Every child carries "<outputs folder>//<pid and start time of its parent>" here; fork, exec, setsid and
# a double fork all keep it, so that what has escaped its group can still be found.
MARK = "DIFFRHYTHM_RUNNER_MARK"

# glibc gives large blocks back to the system as soon as they are freed, and has them zeroed anew when they
# are wanted again: a third to a half of a decoder's time. A child gives back what it is done with (give_back)
KEEPING = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40)}

# What a child gets of our environment: where things lie, the language, how libraries reckon. Nothing else,
# and no secrets: a song is made of files that are here.
_PASSED_ON = re.compile(
    r"PATH|HOME|USER|LOGNAME|LANG|LANGUAGE|LC_\w+|LOCALE_ARCHIVE|TZ|TMPDIR|TEMP|TMP|XDG_\w+"
    r"|LD_LIBRARY_PATH|LD_PRELOAD|GLIBC_TUNABLES|PYTHON\w+|HF_HOME|HF_HUB_\w+|HUGGINGFACE_HUB_CACHE"
    r"|(DIFFRHYTHM|OMP|GOMP|KMP|MKL|OPENBLAS|NUMEXPR|NUMBA|OPENVINO|OV|ONEDNN|DNNL|ATEN|TBB"
    r"|TORCH|PYTORCH|CUDA|HIP|ONEAPI|NVIDIA|MALLOC|PHONEMIZER|ESPEAK)_\w+"
)
_SECRET = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|KEY$")
# A song asks nobody for a file in the night: what it needs was fetched by `runner models pull`.
_OFFLINE = {"HF_HUB_OFFLINE": "1"}

# A song of 285 s in float wav is 100 MB, a checkpoint a few; this stops a log that runs wild.
MAX_FILE_BYTES = 2 * 2**30

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Identity:
    """A process for ever: a pid alone is used again, with its start time and boot it is not."""

    pid: int
    started: int  # clock ticks after boot
    boot_id: str


@dataclass(frozen=True, slots=True)
class Limits:
    """What one child may use."""

    threads: int
    nice: int = 10
    file_bytes: int = MAX_FILE_BYTES
    # Above the parent's: if the kernel has to kill, it takes the child.
    oom_score_adj: int = 500


@cache
def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def identity(pid: int) -> Identity | None:
    """Who pid is now; None if no such process lives (a zombie lives no more)."""
    stat = _stat(pid)
    if stat is None or stat.state in "ZX":
        return None
    return Identity(pid, stat.started, boot_id())


def me() -> Identity:
    """Who this process is."""
    who = identity(os.getpid())
    assert who is not None
    return who


def age_s() -> float:
    """Seconds since this process was started."""
    stat = _stat(os.getpid())
    assert stat is not None
    return time.clock_gettime(time.CLOCK_BOOTTIME) - stat.started / os.sysconf("SC_CLK_TCK")


def give_back() -> None:
    """Returns freed memory of this process to the system; nothing where the C library is not glibc."""
    trim = getattr(_libc, "malloc_trim", None)
    if trim is not None:
        trim(0)


def is_alive(who: Identity) -> bool:
    return identity(who.pid) == who


def spawn(
    command: list[str],
    *,
    log: Path,
    mark: str,
    limits: Limits,
    env: dict[str, str],
    group: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Start command in a session of its own, writing to log, dying with this process.

    group: the cgroup.procs of the control group that is to hold it and all that it starts.
    To be called from one long-lived thread: the death signal follows the thread that spawned.
    """
    parent = os.getpid()
    with log.open("ab", buffering=0) as output, _entry(group) as entry:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**passed_on(os.environ), **_OFFLINE, **_env(limits.threads), **env, MARK: mark},
            preexec_fn=lambda: _bind(parent, limits, entry),
        )


@contextmanager
def _entry(group: Path | None) -> Iterator[int | None]:
    """Open before the fork, so that the child itself has nothing to look for."""
    try:
        entry = None if group is None else os.open(group, os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        entry = None
    try:
        yield entry
    finally:
        if entry is not None:
            os.close(entry)


def passed_on(environ: Mapping[str, str]) -> dict[str, str]:
    """What of an environment children get."""
    return {
        name: value
        for name, value in environ.items()
        if _PASSED_ON.fullmatch(name) and not _SECRET.search(name)
    }


def _env(threads: int) -> dict[str, str]:
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
    return {**dict.fromkeys(names, str(threads)), **KEEPING, "PYTHONUNBUFFERED": "1"}


def die_with(parent: int) -> None:
    """Binds this process's life to its parent's, whatever ends that. As _bind, for between fork and exec."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before the line above: no signal will come
        os._exit(1)


def _bind(parent: int, limits: Limits, group: int | None) -> None:
    """Runs in the child between fork and exec. Only system calls: no imports, no logging."""
    die_with(parent)
    if group is not None:
        with suppress(OSError):  # watched by us, it may still sing
            os.write(group, b"0")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    file_bytes = limits.file_bytes if hard == resource.RLIM_INFINITY else min(hard, limits.file_bytes)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    os.nice(limits.nice)
    with suppress(OSError):  # some containers forbid it; a help, not a need
        handle = os.open("/proc/self/oom_score_adj", os.O_RDWR)
        adjusted = min(1000, int(os.read(handle, 16)) + limits.oom_score_adj)
        os.lseek(handle, 0, os.SEEK_SET)
        os.write(handle, str(adjusted).encode())
        os.close(handle)


def usable_cores() -> int:
    """Cores that this process may run on, which can be fewer than the machine has."""
    return len(os.sched_getaffinity(0))


def adopt_orphans() -> None:
    """Become the parent of grandchildren whose own parent dies, so that they can be found and reaped."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def marked(mark: str) -> list[Identity]:
    """Every live process, this one excepted, whose mark starts with mark."""
    needle = f"{MARK}={mark}".encode()
    found = []
    for pid in _pids():
        with suppress(OSError):
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            if pid != os.getpid() and any(entry.startswith(needle) for entry in environment):
                who = identity(pid)
                if who is not None:
                    found.append(who)
    return found


def tree(leader: Identity, mark: str) -> list[Identity]:
    """The leader, all in its session or group, their descendants, and all that carry the mark."""
    stats = {pid: stat for pid in _pids() if (stat := _stat(pid)) is not None and stat.state not in "ZX"}
    namesake = stats.get(leader.pid)
    if namesake is not None and namesake.started != leader.started:
        return marked(mark)  # all of the tree are gone and a stranger got the leader's pid
    wanted = {pid for pid, stat in stats.items() if leader.pid in (pid, stat.group, stat.session)}
    grown = True
    while grown:
        more = {pid for pid, stat in stats.items() if stat.parent in wanted} - wanted
        wanted |= more
        grown = bool(more)
    members = {Identity(pid, stats[pid].started, boot_id()) for pid in wanted}
    return list(members.union(marked(mark)))


def signal_all(members: Iterable[Identity], number: signal.Signals) -> None:
    for who in members:
        if is_alive(who):
            with suppress(ProcessLookupError, PermissionError):
                os.kill(who.pid, number)


async def end_tree(
    find: Callable[[], list[Identity]],
    *,
    grace_s: float,
    hurry: Callable[[], bool] = lambda: False,
    kill: Callable[[], None] = lambda: None,
    kill_s: float = 10.0,
) -> list[Identity]:
    """End whatever find() finds: SIGTERM, grace_s, then SIGKILL until nothing is left; the survivors, if any.

    hurry: cuts the grace short as soon as it says so. kill: ends at a stroke what a SIGKILL each would end.
    Again and again, because a process may fork while it is being looked for. Whoever was seen once is
    pursued even when it has meanwhile left the group. A survivor hangs in the kernel (state D): it takes
    its death when the system call ends.
    """
    import asyncio  # a tenth of the time of `runner status`, which only asks who lives

    known = set(find())
    signal_all(known, signal.SIGTERM)
    signal_all(known, signal.SIGCONT)  # a stopped process would not notice
    end = time.monotonic() + grace_s
    while (left := _living(known, find)) and time.monotonic() < end and not hurry():
        await asyncio.sleep(0.02)
    end = time.monotonic() + kill_s
    while (left := _living(known, find)) and time.monotonic() < end:
        kill()
        signal_all(left, signal.SIGKILL)
        await asyncio.sleep(0.02)
    return left


def _living(known: set[Identity], find: Callable[[], list[Identity]]) -> list[Identity]:
    known.update(find())
    return [who for who in known if is_alive(who)]


def children() -> set[int]:
    """The pids of this process's children, zombies included."""
    return {pid for pid in _pids() if (stat := _stat(pid)) is not None and stat.parent == os.getpid()}


def has_open(pid: int, path: Path) -> bool:
    """Has that process the file open? Where we may not look, we believe it."""
    try:
        wanted, handles = path.stat(), list(Path(f"/proc/{pid}/fd").iterdir())
    except PermissionError:
        return True
    except OSError:
        return False
    for handle in handles:
        with suppress(OSError):  # closed meanwhile
            if os.path.samestat(handle.stat(), wanted):
                return True
    return False


def adopted(own: Collection[int]) -> list[Identity]:
    """The live children of this process that are not its own: orphans that came to it."""
    return [who for pid in children() - set(own) if (who := identity(pid)) is not None]


def reap_adopted(own: Collection[int]) -> None:
    """Take the exits of dead orphans that came to this process; those in own are left to their Popen."""
    for pid in children() - set(own):
        with suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


@dataclass(frozen=True, slots=True)
class _Stat:
    state: str
    parent: int
    group: int
    session: int
    started: int


def _stat(pid: int) -> _Stat | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The name in parentheses may itself hold spaces and parentheses.
    fields = text.rpartition(")")[2].split()
    return _Stat(fields[0], int(fields[1]), int(fields[2]), int(fields[3]), int(fields[19]))


def _pids() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
