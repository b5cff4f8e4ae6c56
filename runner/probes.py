"""What the machine and a child say right now, as a Reading. What a kernel does not tell is None."""

from __future__ import annotations

import os
import resource
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from runner import heartbeat
from runner.messages import Heartbeat
from runner.verdict import Reading

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = resource.getpagesize()


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of RAM that a new process can have without swapping, and what is in swap."""

    available: int | None = None
    swapped: int | None = None


def read(pid: int, beat_file: Path, *, attempt: int) -> Reading:
    """The child pid and its machine at this moment. A beat of an earlier attempt is none."""
    status = _fields(Path(f"/proc/{pid}/status"))
    cpu_s, user_s, major_faults = _stat(pid)
    memory = _fields(Path("/proc/meminfo"))
    swapped_in, refaulted, kills = _vmstat("pswpin", "workingset_refault_file", "oom_kill")
    return Reading(
        mono=time.monotonic(),
        boot=time.clock_gettime(time.CLOCK_BOOTTIME),
        beat=beat(pid, beat_file, attempt=attempt),
        cpu_s=cpu_s,
        user_s=user_s,
        anon=status.get("RssAnon"),
        rss=status.get("VmRSS"),
        swap=status.get("VmSwap"),
        major_faults=major_faults,
        swapped_in=None if swapped_in is None else swapped_in * _PAGE,
        refaulted=None if refaulted is None else refaulted * _PAGE,
        oom_kills=kills,
        stalled_s=_stalled_s(),
        available=memory.get("MemAvailable"),
        swap_free=memory.get("SwapFree"),
    )


def beat(pid: int, file: Path, *, attempt: int) -> Heartbeat | None:
    """The newest beat of that child in that attempt."""
    found = heartbeat.read(file)
    if isinstance(found, Heartbeat) and found.attempt == attempt and found.pid == pid:
        return found
    return None


def available_bytes() -> int | None:
    """Memory that a new process can have without swapping."""
    return _fields(Path("/proc/meminfo")).get("MemAvailable")


def memory() -> Memory:
    """The machine's at this moment."""
    found = _fields(Path("/proc/meminfo"))
    total, free = found.get("SwapTotal"), found.get("SwapFree")
    return Memory(found.get("MemAvailable"), None if total is None or free is None else total - free)


def disk_free_bytes(folder: Path) -> int | None:
    """What we may still write to the disk of that folder."""
    with suppress(OSError):
        found = os.statvfs(folder)
        return found.f_bavail * found.f_frsize
    return None


def swap_bytes() -> int | None:
    """All of the machine's swap."""
    return _fields(Path("/proc/meminfo")).get("SwapTotal")


def has_gpu(root: Path) -> bool:
    """Does NVIDIA's driver tell of one, or is there Windows's way to one? root: where proc and dev are."""
    return Path(root, "dev/dxg").exists() or any(Path(root, "proc/driver/nvidia/gpus").glob("*"))


def total_bytes() -> int | None:
    return _fields(Path("/proc/meminfo")).get("MemTotal")


def _fields(path: Path) -> dict[str, int]:
    """Lines such as `VmRSS:  1234 kB`, in bytes."""
    found = {}
    with suppress(OSError):
        for line in path.read_text().splitlines():
            name, _, value = line.partition(":")
            if value.endswith(" kB"):
                found[name] = int(value[:-3]) * 1024
    return found


def _stat(pid: int) -> tuple[float | None, float | None, int | None]:
    """CPU seconds, those of them outside the kernel, and major faults."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None, None, None
    user, system = int(fields[11]), int(fields[12])
    return (user + system) / _TICKS, user / _TICKS, int(fields[9])


def oom_kills() -> int | None:
    """How often the kernel has killed for want of memory, in any control group, since it started."""
    return _vmstat("oom_kill")[0]


def _vmstat(*names: str) -> list[int | None]:
    """Counters of the whole machine, each None where this kernel has none of that name."""
    found = {}
    with suppress(OSError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            name, _, value = line.partition(" ")
            if name in names:
                found[name] = int(value)
    return [found.get(name) for name in names]


def _stalled_s() -> float | None:
    """PSI `memory full`, total; absent in kernels built without it (WSL's default one, for a time)."""
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/pressure/memory").read_text().splitlines():
            if line.startswith("full "):
                return int(line.rpartition("total=")[2]) / 1e6
    return None
