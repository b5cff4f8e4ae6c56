"""What every benchmark prints: where it ran, and its figures."""

from __future__ import annotations

import os
import platform
import shlex
import statistics
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

# What a figure is shown in, per second, byte or whole.
UNITS = {"s": 1.0, "ms": 1e3, "µs": 1e6, "MB": 1e-6, "GB": 1e-9, "%": 100.0}
NAME_CELLS = 44


def header(title: str) -> None:
    """Print the title, the command, the machine and the versions."""
    here = facts()
    print(f"\n# {title}")
    print(f"$ {here['command']}")
    print(here["machine"])
    print(f"{here['versions']}, load {os.getloadavg()[0]:.1f}", flush=True)


def facts() -> dict[str, str]:
    """The command, the machine and the versions."""
    return {
        "command": shlex.join([Path(sys.orig_argv[0]).name, *sys.orig_argv[1:]]),
        "machine": f"{processor()}, {os.cpu_count()} cores, {memory_gib():.0f} GiB, {platform.platform()}",
        "versions": f"Python {platform.python_version()}, torch {version('torch')}, "
        f"runner {version('diffrhythm-runner')}",
    }


def figure(name: str, values: Sequence[float], unit: str, *, aim: float | None = None) -> None:
    """Print median, least and most of values (in seconds, bytes or shares of one), shown in unit.

    aim: what the median should stay below, in that unit.
    """
    shown = [value * UNITS[unit] for value in values]
    middle = statistics.median(shown)
    spread = f"({min(shown):.3g} to {max(shown):.3g}, n={len(shown)})"
    line = f"{name:<{NAME_CELLS}} {middle:9.3g} {unit:<2}  {spread}"
    if aim is not None:
        line += f"  aim < {aim:g} {unit}: {'met' if middle < aim else 'MISSED'}"
    print(line, flush=True)


def processor() -> str:
    """Name of the processor, as the kernel tells it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def memory_gib() -> float:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
