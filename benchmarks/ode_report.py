"""What follows from measured passes: the verdict on the choice, the table, the JSON and the picture.

Seconds of two ways are compared as if the machine had run both at the same speed: each way has the time of
the same product of matrices beside it, its probe.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from diffrhythm import arithmetic
from diffrhythm.arithmetic import Candidate
from diffrhythm.precision import Arithmetic

SCHEMA = 2
# The share of a pass from which on an operator is drawn for itself, and what the others are called.
DRAWN = 0.02
OTHERS = "others"
HEADINGS = (
    "way",
    "threads",
    "open s",
    "pass s",
    "profile s",
    "measured / profile",
    "times faster",
    "of the limit",
    "ODE s",
    "times faster",
    "peak GB",
    "error",
    "probe ms",
)


@dataclass(frozen=True, slots=True)
class Measured:
    """What one way took.

    threads: that it ran on. open_s: seconds until it can calculate. passes_s: of each measured pass.
    probe_s: of the probe. limit: of the processor, operations per second. operators, nodes: seconds of a
    pass in each of torch's and of OpenVINO's, by name; empty where they were not asked for.
    """

    threads: int
    open_s: float
    passes_s: tuple[float, ...]
    peak_rss_bytes: int
    probe_s: float
    limit: float
    operators: Mapping[str, float] = field(default_factory=dict)
    nodes: Mapping[str, float] = field(default_factory=dict)

    @property
    def pass_s(self) -> float:
        """Return seconds of one pass, the least of those measured."""
        return min(self.passes_s)


@dataclass(frozen=True, slots=True)
class Comparison:
    """The published way and others on one machine.

    ways: by their arithmetic, the chosen one among them. reason: of the choice. errors: of each way's
    velocity, relative, against the published way's. profile_s: seconds of a pass by the machine profile.
    pass_flops: operations of a pass. passes, published_passes: of a song's ODE.
    """

    published: Measured
    ways: Mapping[Arithmetic, Measured]
    chosen: Arithmetic
    reason: str
    errors: Mapping[Arithmetic, float]
    profile_s: Mapping[Arithmetic, float]
    pass_flops: int
    passes: int
    published_passes: int

    @property
    def all_ways(self) -> dict[str, Measured]:
        """Return the published way and the others, by what people call them."""
        return {"published way": self.published} | {str(name): way for name, way in self.ways.items()}

    def comparable_s(self, name: Arithmetic) -> float:
        """Return seconds of a pass at the speed that the machine had during the published way."""
        way = self.ways[name]
        return way.pass_s * self.published.probe_s / way.probe_s

    def times_faster(self, name: Arithmetic) -> tuple[float, float]:
        """Return how many times as fast as the published way a pass is, and the ODE."""
        by_pass = self.published.pass_s / self.comparable_s(name)
        return by_pass, by_pass * self.published_passes / self.passes

    def candidates(self) -> list[Candidate]:
        """Return the ways as they were measured here."""
        return [Candidate(name, self.comparable_s(name), self.errors[name]) for name in self.ways]

    def objections(self) -> list[str]:
        """Return what was measured against the choice, a line each."""
        return objections(self.chosen, self.candidates(), self.published.pass_s)


def objections(chosen: Arithmetic, candidates: Sequence[Candidate], published_s: float) -> list[str]:
    """Return why the choice is wrong, a line each; nothing where it is right.

    It is wrong if the published way takes less time, or another candidate within the error budget does, by
    more than figures of one machine differ. candidates: the chosen one among them. published_s: seconds of a
    pass in the published way.
    """
    by_name = {each.name: each for each in candidates}
    seconds = by_name[chosen].seconds
    faster = {"the published way": published_s} | {
        each.name: each.seconds
        for each in candidates
        if each.name != chosen and each.error is not None and each.error <= arithmetic.ERROR_BUDGET
    }
    return [
        f"{chosen} takes {seconds:.3g} s a pass, {name} {other_s:.3g} s: {seconds / other_s:.2f} times that"
        for name, other_s in faster.items()
        if seconds > (1 + arithmetic.TIE) * other_s
    ]


# ---------------------------------------------------------------- for people


def table(found: Comparison) -> list[str]:
    """Return the lines of a Markdown table, the published way first."""
    rows = [_row("published way", found.published, found.pass_flops, found.published_passes)]
    for name, way in found.ways.items():
        rows.append(
            _row(
                f"{name}, chosen" if name == found.chosen else name,
                way,
                found.pass_flops,
                found.passes,
                faster=found.times_faster(name),
                profile_s=found.profile_s.get(name),
                error=found.errors[name],
            )
        )
    return [_line(HEADINGS), "|---" * len(HEADINGS) + "|", *map(_line, rows)]


def verdict(found: Comparison) -> list[str]:
    """Return the choice, its reason, and what was measured against it."""
    against = [f"WRONG: {each}" for each in found.objections()]
    return [
        f"auto takes {found.chosen}: {found.reason}",
        *(against or [f"right: nothing that was measured is faster by more than {arithmetic.TIE:.0%}"]),
    ]


def parts(found: Comparison) -> list[str]:
    """Return where the time of a pass goes, a line for each way that was asked."""
    lines = []
    for name, way in found.all_ways.items():
        for kind, seconds in (("torch's operators", way.operators), ("OpenVINO's nodes", way.nodes)):
            if seconds:
                told = ", ".join(f"{part} {1e3 * each:.0f}" for part, each in seconds.items())
                lines.append(f"{name}, ms of a pass by {kind}: {told}")
    return lines


def _row(
    name: str,
    way: Measured,
    pass_flops: int,
    passes: int,
    *,
    faster: tuple[float, float] = (1.0, 1.0),
    profile_s: float | None = None,
    error: float | None = None,
) -> tuple[str, ...]:
    return (
        name,
        str(way.threads),
        f"{way.open_s:.1f}",
        f"{way.pass_s:.2f}",
        "–" if profile_s is None else f"{profile_s:.2f}",
        "–" if profile_s is None else f"{way.pass_s / profile_s:.2f}",
        f"{faster[0]:.2f}",
        f"{pass_flops / way.pass_s / way.limit:.0%} of {way.limit / 1e9:.0f} GFLOP/s",
        f"{way.pass_s * passes:.0f}",
        f"{faster[1]:.1f}",
        f"{way.peak_rss_bytes / 1e9:.1f}",
        "–" if error is None else f"{100 * error:.2g} %",
        f"{way.probe_s * 1e3:.0f}",
    )


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


# ---------------------------------------------------------------- for programs


def as_json(found: Comparison, asked: Mapping[str, object]) -> str:
    """Return all figures. asked: what the comparison was asked for, and where it ran."""
    chosen = found.ways[found.chosen]
    told = {
        "schema": SCHEMA,
        **asked,
        "chosen": found.chosen,
        "reason": found.reason,
        "objections": found.objections(),
        "published_pass_s": found.published.pass_s,
        "pass_s": chosen.pass_s,
        "times_faster": found.times_faster(found.chosen)[0],
        "published_ode_s": found.published.pass_s * found.published_passes,
        "ode_s": chosen.pass_s * found.passes,
        "pass_flops": found.pass_flops,
        "published": asdict(found.published),
        "ways": {
            name: asdict(way) | {"error": found.errors[name], "profile_s": found.profile_s.get(name)}
            for name, way in found.ways.items()
        },
    }
    return json.dumps(told, indent=2)


def plot(found: Comparison, path: Path) -> None:
    """Draw a bar for each way: seconds of a pass by operators, above it how many times as fast it is."""
    pyplot = importlib.import_module("matplotlib.pyplot")
    ways = found.all_ways
    faster = [(1.0, 1.0), *(found.times_faster(name) for name in found.ways)]
    bars = [gathered(each.nodes or each.operators) for each in ways.values()]
    kinds = sorted({kind for bar in bars for kind in bar}, key=lambda kind: (kind == OTHERS, kind))
    figure, axes = pyplot.subplots(figsize=(11, 6), layout="constrained")
    axes.set_prop_cycle(color=pyplot.get_cmap("tab20").colors)
    tops = [0.0] * len(bars)
    for kind in kinds:
        heights = [bar.get(kind, 0.0) for bar in bars]
        axes.bar(list(ways), heights, bottom=tops, label=kind)
        tops = [top + height for top, height in zip(tops, heights, strict=True)]
    for place, ((by_pass, by_ode), top) in enumerate(zip(faster, tops, strict=True)):
        words = f"{by_pass:.1f} x a pass\n{by_ode:.1f} x the ODE"
        axes.annotate(words, (place, top), ha="center", va="bottom")
    axes.set(ylabel="seconds of a pass", ylim=(0, 1.15 * max(tops)))
    figure.legend(fontsize="small", loc="outside right upper")
    figure.savefig(path, dpi=150)


def gathered(seconds: Mapping[str, float]) -> dict[str, float]:
    """Return the same with all that takes next to nothing as one."""
    least = DRAWN * sum(seconds.values())
    drawn = {kind: each for kind, each in seconds.items() if each >= least}
    return drawn | {OTHERS: sum(seconds.values()) - sum(drawn.values())}
