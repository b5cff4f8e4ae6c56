"""What `python -X importtime` says."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

_MARK = "import time:"


@dataclass(frozen=True, slots=True)
class Import:
    """module, and the seconds that it took without what it imported itself."""

    module: str
    self_s: float


def parse(line: str) -> Import | None:
    """The import that a line tells of; None for any other line."""
    if not line.startswith(_MARK) or line.endswith("imported package"):
        return None
    own_us, _, module = line.removeprefix(_MARK).split("|")
    return Import(module.strip(), int(own_us) / 1e6)


def parse_all(lines: Iterable[str]) -> list[Import]:
    return [found for line in lines if (found := parse(line)) is not None]


def by_package(imports: Iterable[Import]) -> dict[str, float]:
    """Seconds of each top-level package, the slowest first."""
    seconds: dict[str, float] = {}
    for each in imports:
        package = each.module.partition(".")[0]
        seconds[package] = seconds.get(package, 0.0) + each.self_s
    return dict(sorted(seconds.items(), key=lambda item: -item[1]))


def words(seconds: dict[str, float], count: int) -> str:
    """The slowest packages: `torch 1.20 s, numpy 0.11 s`."""
    return ", ".join(f"{package} {s:.3f} s" for package, s in list(seconds.items())[:count])
