"""What goes wrong in a night on purpose: kinds of faults, which song gets which, and the ledger of them."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from runner.messages import Cause, SongState

# Steps of a song, and their seconds; those that are struck from outside take longer, to be met in the middle.
STEPS = 20
STEPS_MET = 120
STEP_S = 0.03
# Of the songs that a fault makes too slow.
SLOW_TIMEOUT_S = 8.0
CEILING_BYTES = 128 << 20

By = Literal["child", "beat", "folder", "parent"]
UNHARMED: frozenset[Cause | None] = frozenset({None})


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault, and what is expected of it.

    by: done by the child itself, or from outside to its process (by its beat), its folder, or the parent.
    causes: how an attempt that was struck may end; None: its song is made. words: the child's script, its
    lines separated by commas. again: every attempt is struck, not only the first that comes so far.
    state: the song's end, where it doesn't follow from the causes. every: dealt out each so many rounds.
    half: dealt only to songs of the first or the second half of the batch.
    """

    by: By
    causes: frozenset[Cause | None]
    words: str = ""
    again: bool = False
    state: SongState | None = None
    every: int = 1
    half: Literal["first", "second"] | None = None

    @property
    def harmless(self) -> bool:
        return self.causes == UNHARMED


def _child(cause: Cause | None, words: str) -> Kind:
    return Kind("child", frozenset({cause}), words)


def _always(cause: Cause, words: str, state: SongState) -> Kind:
    return Kind("child", frozenset({cause}), words, again=True, state=state)


def _beat(*causes: Cause | None) -> Kind:
    """None: it may come just after the child has finished."""
    return Kind("beat", frozenset({None, *causes}))


# What ends the parent strikes in the first half, so that the last parent lives long enough to show a leak.
_ENDS_PARENT = Kind("parent", UNHARMED, every=3, half="first")
# A doubly forked process without the mark is found by the parent that adopted it; once that is killed, nobody
# knows it. So it is not asked for where the parent is killed.
_DAEMON = "fork, setsid, daemon"

KINDS: Mapping[str, Kind] = {
    "hang": _child("stalled", "hang"),
    "freeze": _child("stalled", "freeze"),
    "spin": _child("stalled", "spin"),
    "deaf": _child("stalled", "ignore-term, hang"),
    "garbage": _child("stalled", "garbage, hang"),
    "slow": _child("timeout", f"steps 100000 {STEP_S}"),
    "lie": _child("crash", "lie"),
    "exit": _child("crash", "exit 7"),
    "silent": _child("crash", "silent"),
    "segv": _child("crash", "signal SIGSEGV"),
    "abort": _child("crash", "signal SIGABRT"),
    "bus": _child("crash", "signal SIGBUS"),
    "numbers": _child("numbers", "fail numbers"),
    "no-memory": _child("out-of-memory", "fail out-of-memory"),
    "glutton": _child("memory-ceiling", "eat 200, hang"),
    "brood": _child(None, "fork, setsid"),
    "daemon": Kind("child", UNHARMED, _DAEMON, half="second"),
    "deaf-brood": Kind(
        "child", frozenset({"stalled"}), f"{_DAEMON}, ignore-term, hang", half="second", every=2
    ),
    "hopeless": _always("crash", "exit 7", "failed"),
    "spent": _always("crash", "signal SIGABRT", "degraded"),
    "bad-input": _always("bad-input", "fail bad-input", "failed"),
    "no-bundle": _always("no-bundle", "fail no-bundle", "failed"),
    "child-kill": _beat("crash", "out-of-memory"),  # so it looks where the kernel kills somebody meanwhile
    "child-stop": _beat("stalled"),
    "stop-file": Kind("folder", frozenset({None, "interrupted"})),
    "beat-torn": Kind("folder", UNHARMED),
    "litter": Kind("folder", UNHARMED),
    "parent-kill": _ENDS_PARENT,
    "parent-term": _ENDS_PARENT,
    "parent-int": _ENDS_PARENT,
    "parent-term-twice": _ENDS_PARENT,
    "parent-stop": Kind("parent", UNHARMED, every=3),
    "sleep": Kind("parent", UNHARMED, every=3),
}
# How the attempts of all songs end when their parent does.
LOST_WITH: Mapping[str, Cause] = {
    "parent-kill": "lost",
    "parent-term": "interrupted",
    "parent-int": "interrupted",
    "parent-term-twice": "interrupted",
}
# What real songs meet: nothing that may change their sound.
REAL_KINDS = ("child-kill", "parent-kill", "parent-term", "stop-file", "parent-stop", "sleep")


# ---------------------------------------------------------------- which song gets which


@dataclass(frozen=True, slots=True)
class Planned:
    """A song of the night. at_step: when its fault strikes, seconds: for how long, where it lasts."""

    name: str
    kind: str | None = None
    at_step: int = 0
    seconds: float = 0.0
    real: bool = False

    @property
    def id(self) -> str:
        return f"night/{self.name}"


def plan(
    songs: int, *, rate: float, seed: int, real: int = 0, kinds: Sequence[str] = tuple(KINDS)
) -> list[Planned]:
    """The songs in the order in which they are queued, round(rate · songs) of them with a fault, all kinds in
    turn. real: so many more songs, made by the real worker, each with a fault that it survives unchanged."""
    rng = random.Random(seed)
    places = list(range(songs))
    rng.shuffle(places)
    given: dict[int, str] = {}
    for kind in _dealt(round(rate * songs), rng, kinds):
        place = next((p for p in places if _fits(p, songs, KINDS[kind])), places[0])
        places.remove(place)
        given[place] = kind
    # A real song takes seconds: at the beginning it meets what befalls the parent, too.
    planned = [Planned(f"real-{n}", REAL_KINDS[n % len(REAL_KINDS)], real=True) for n in range(real)]
    planned += [Planned(f"song-{n}", given.get(n)) for n in range(songs)]
    return [_timed(each, rng) for each in planned]


def _dealt(count: int, rng: random.Random, kinds: Sequence[str]) -> list[str]:
    """Kinds round by round, each round in an order of its own."""
    dealt: list[str] = []
    number = 0
    while len(dealt) < count:
        round_ = [kind for kind in kinds if number % KINDS[kind].every == 0]
        rng.shuffle(round_)
        dealt += round_
        number += 1
    return dealt[:count]


def _fits(place: int, songs: int, kind: Kind) -> bool:
    return kind.half is None or (place < songs / 2) == (kind.half == "first")


def _timed(song: Planned, rng: random.Random) -> Planned:
    # Longer than a look of the parent that is merely late (verdict.LATE_TICK_S).
    seconds = rng.uniform(6.0, 12.0)
    return Planned(song.name, song.kind, rng.randint(1, STEPS // 2), round(seconds, 1), song.real)


def script(song: Planned, ledger: Path) -> str:
    """What the naughty child does, in the words of tests/faults/child.py and benchmarks/stricken.py."""
    whole = f"steps {STEPS} {STEP_S}"
    if song.kind is None:
        return whole
    kind = KINDS[song.kind]
    if kind.by != "child":
        return f"steps {STEPS_MET} {STEP_S}"
    word = "struck" if kind.again else "strike"
    # Once it has come some way, even a song that never ends well is not a failure: its estimate is kept.
    first = "" if kind.state == "failed" else f"steps {song.at_step} {STEP_S}\n"
    return f"{first}{word} {song.kind} {ledger} {kind.words}\n{whole}"


# ---------------------------------------------------------------- the ledger


@dataclass(frozen=True, slots=True)
class Strike:
    """A fault that was done. wall: when, in seconds since 1970, as a file's time is.

    took_s: until the parent, and with it all of its children, had ended; or how long it was stopped.
    """

    kind: str
    song: str
    attempt: int
    wall: float
    took_s: float | None = None


def note(ledger: Path, strike: Strike) -> None:
    """Several processes write: a short line that is appended at once stays whole."""
    with ledger.open("a") as file:
        file.write(json.dumps(asdict(strike)) + "\n")


def now(kind: str, song: str, attempt: int) -> Strike:
    return Strike(kind, song, attempt, time.time())


def read(ledger: Path) -> Iterator[Strike]:
    if ledger.exists():
        for line in ledger.read_text().splitlines():
            yield Strike(**json.loads(line))
