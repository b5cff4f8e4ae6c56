"""What a night with faults has cost: each song's end against what was done to it. Pure."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from benchmarks.strikes import KINDS, LOST_WITH, UNHARMED, Planned, Strike
from runner.messages import MEMORY_CAUSES, Cause, SongState

# Who ends so was killed by the parent, or by the kernel for its memory.
KILLS: frozenset[Cause | None] = frozenset({"stalled", "timeout", *MEMORY_CAUSES})
# A file's time is that of the kernel's last tick.
CLOCKS_S = 0.1
# A parent that grows by more, from the first quarter of its life to the last, leaks.
LEAKED_FDS = 3
LEAKED_BYTES = 16 << 20
# Too few to tell a first quarter from a last.
MIN_SAMPLES = 40


@dataclass(frozen=True, slots=True)
class Tried:
    """An attempt: when it was asked for and when the parent had dealt with its end, in seconds since 1970."""

    attempt: int
    began: float
    ended: float | None
    cause: Cause | None


@dataclass(frozen=True, slots=True)
class Found:
    """A song after the night. state: that of its manifest or failure. whole: its sound is what was made.

    sound: SHA-256 of its samples, of a real song (the file has the song's name in it).
    """

    song: str
    state: SongState | None
    whole: bool
    tries: tuple[Tried, ...] = ()
    sound: str | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """What one parent had at one moment of its life: descriptors, bytes of memory."""

    parent: int
    fds: int
    rss: int


@dataclass(slots=True)
class Seen:
    """What was seen around the songs.

    exits: of the parents, those killed from outside included. orphans: pids that outlived their parent. odd:
    what else must not be, in words. reference: sound of the real songs as they come without faults.
    """

    exits: list[int] = field(default_factory=list)
    orphans: list[int] = field(default_factory=list)
    torn: list[str] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    odd: list[str] = field(default_factory=list)
    reference: str | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """All songs with one kind of fault that struck. detection_s: from strike to proven end, each."""

    planned: int
    injected: int
    ended: dict[str, int]
    detection_s: list[float]
    false_kills: int


@dataclass(frozen=True, slots=True)
class Growth:
    """Medians of the first and the last quarter of the longest-lived parent."""

    fds: tuple[float, float]
    rss: tuple[float, float]

    @property
    def leaks(self) -> int:
        """How many of the two have grown too much."""
        return (self.fds[1] - self.fds[0] > LEAKED_FDS) + (self.rss[1] - self.rss[0] > LEAKED_BYTES)


@dataclass(frozen=True, slots=True)
class Toll:
    """wrong: ends other than what was done to a song explains; unequal: real songs that sound different."""

    songs: int
    runs: int
    faults: int
    lost: int
    orphans: int
    false_kills: int
    wrong: int
    unequal: int
    torn: int
    leftovers: int
    leaks: int
    by_kind: dict[str, Row]
    growth: Growth | None
    problems: list[str]

    @property
    def clean(self) -> bool:
        return not self.problems


def judge(planned: Sequence[Planned], strikes: Sequence[Strike], found: Sequence[Found], seen: Seen) -> Toll:
    """The whole night. strikes: the ledger; found: the songs, in any order."""
    by_song = {each.song: each for each in found}
    judged = [_Song(song, by_song.get(song.id), strikes) for song in planned]
    lost = [line for song in judged for line in song.lost()]
    false_kills = [line for song in judged for line in song.false_kills()]
    wrong = [line for song in judged for line in song.wrong()] + seen.odd
    unequal = [line for song in judged for line in song.unequal(seen.reference)]
    growth = grown(seen.samples)
    leaks = growth.leaks if growth else 0
    return Toll(
        songs=len(planned),
        runs=len(seen.exits),
        faults=sum(bool(song.struck) for song in judged),
        lost=len(lost),
        orphans=len(seen.orphans),
        false_kills=len(false_kills),
        wrong=len(wrong),
        unequal=len(unequal),
        torn=len(seen.torn),
        leftovers=len(seen.leftovers),
        leaks=leaks,
        by_kind=_rows(judged),
        growth=growth,
        problems=[
            *lost,
            *(f"pid {pid}: outlived its parent" for pid in seen.orphans),
            *false_kills,
            *wrong,
            *unequal,
            *(f"{path}: torn" for path in seen.torn),
            *(f"{path}: left over" for path in seen.leftovers),
            *([f"the parent has grown: {growth}"] if leaks else []),
        ],
    )


@dataclass(frozen=True, slots=True)
class _Song:
    """A song, what the night made of it, and all strikes of the night."""

    planned: Planned
    found: Found | None
    strikes: Sequence[Strike]

    @property
    def struck(self) -> list[Strike]:
        return [strike for strike in self.strikes if strike.song == self.planned.id]

    @property
    def tries(self) -> tuple[Tried, ...]:
        return self.found.tries if self.found else ()

    def lost(self) -> list[str]:
        if self.found is None or self.found.state is None:
            return [f"{self.planned.id}: lost: no final state"]
        if self.found.state != "failed" and not self.found.whole:
            return [f"{self.planned.id}: lost: {self.found.state}, but its sound is gone or damaged"]
        return []

    def false_kills(self) -> list[str]:
        return [line for tried, line in self._unexplained() if tried.cause in KILLS]

    def wrong(self) -> list[str]:
        lines = [line for tried, line in self._unexplained() if tried.cause not in KILLS]
        if self.found and self.found.state not in (None, self._expected()):
            causes = [tried.cause for tried in self.tries]
            lines.append(
                f"{self.planned.id} ({self.planned.kind}): {self.found.state} instead of {self._expected()} "
                f"after {causes}"
            )
        return lines

    def unequal(self, reference: str | None) -> list[str]:
        if not self.planned.real or not self.found or self.found.state != "done":
            return []
        if self.found.sound == reference:
            return []
        return [f"{self.planned.id}: sounds different from a song made without faults"]

    def detection_s(self) -> Iterable[float]:
        """From each strike to the end that it led to; none where the parent was struck meanwhile."""
        ends = {tried.attempt: tried for tried in self.tries if tried.ended is not None}
        for strike in self.struck:
            tried = ends.get(strike.attempt)
            if strike.kind in LOST_WITH:
                yield strike.took_s or 0.0
            elif tried is not None and tried.cause in KINDS[strike.kind].causes - UNHARMED:
                assert tried.ended is not None
                if not any(self._parent_struck(strike.wall, tried.ended)):
                    yield max(0.0, tried.ended - strike.wall)

    def _unexplained(self) -> list[tuple[Tried, str]]:
        return [
            (
                tried,
                f"{self.planned.id} ({self.planned.kind}): attempt {tried.attempt} ended as {tried.cause}",
            )
            for tried in self.tries
            if tried.cause not in self._allowed(tried)
        ]

    def _allowed(self, tried: Tried) -> set[Cause | None]:
        """How that attempt may have ended, after all that was done to it or to its parent."""
        own = (KINDS[strike.kind].causes for strike in self.struck if strike.attempt == tried.attempt)
        allowed = set(next(own, UNHARMED))  # a song has but one kind of fault
        end = math.inf if tried.ended is None else tried.ended
        for strike in self._parent_struck(tried.began, end):
            if strike.kind in LOST_WITH:
                allowed.add(LOST_WITH[strike.kind])
        return allowed

    def _parent_struck(self, start: float, end: float) -> Iterable[Strike]:
        """Strikes at the parent that were not over at start and had begun by the end."""
        for strike in self.strikes:
            over = strike.wall + (strike.took_s or 0.0)
            if (
                KINDS[strike.kind].by == "parent"
                and over >= start - CLOCKS_S
                and strike.wall <= end + CLOCKS_S
            ):
                yield strike

    def _expected(self) -> SongState:
        told = next((state for strike in self.struck if (state := KINDS[strike.kind].state)), None)
        if told is not None:
            return told
        causes = [tried.cause for tried in self.tries]
        # The first crash and wrong numbers are tried again with the steps asked for.
        return "degraded" if KILLS.intersection(causes) or causes.count("crash") > 1 else "done"


def _rows(songs: Sequence[_Song]) -> dict[str, Row]:
    """A row for each kind that was planned, and one for the songs without a fault."""
    rows = {"none": _row([song for song in songs if song.planned.kind is None], struck=False)}
    for kind in KINDS:
        mine = [song for song in songs if song.planned.kind == kind]
        if mine:
            rows[kind] = _row(mine, struck=True)
    return rows


def _row(songs: Sequence[_Song], *, struck: bool) -> Row:
    counted = [song for song in songs if bool(song.struck) == struck]
    return Row(
        planned=len(songs),
        injected=len(counted) if struck else 0,
        ended=dict(Counter(str(song.found.state) if song.found else "lost" for song in counted)),
        detection_s=[seconds for song in counted for seconds in song.detection_s()],
        false_kills=sum(len(song.false_kills()) for song in songs),
    )


def grown(samples: Sequence[Sample]) -> Growth | None:
    """Of the parent with the most samples; None where even those are too few."""
    by_parent = [list(lived) for _, lived in groupby(samples, key=lambda sample: sample.parent)]
    longest = max(by_parent, key=len, default=[])
    if len(longest) < MIN_SAMPLES:
        return None
    quarter = len(longest) // 4
    first, last = longest[:quarter], longest[-quarter:]
    return Growth(
        fds=(statistics.median(s.fds for s in first), statistics.median(s.fds for s in last)),
        rss=(statistics.median(s.rss for s in first), statistics.median(s.rss for s in last)),
    )


# ---------------------------------------------------------------- as a table


def table(toll: Toll) -> str:
    """Markdown: a row for each kind."""
    lines = [
        "| fault | planned | struck | done | degraded | failed | detected (s) | at worst | false kills |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for kind, row in toll.by_kind.items():
        states = " | ".join(str(row.ended.get(state, 0)) for state in ("done", "degraded", "failed"))
        seconds = row.detection_s
        times = f"{statistics.median(seconds):.2f} | {max(seconds):.2f}" if seconds else "– | –"
        lines.append(f"| {kind} | {row.planned} | {row.injected} | {states} | {times} | {row.false_kills} |")
    return "\n".join(lines)
