"""Which arithmetic a song is made in: a choice among those that were measured on this machine. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from diffrhythm.precision import ARITHMETICS, PRECISION_OF, Arithmetic, Precision

PUBLISHED: Arithmetic = "torch-fp32"
# Of the velocity of a pass, relative. A standard song of the demo misses 19 % by its few steps; int8, at 2 %
# of a pass, adds 4 % of the latents and 0.4 dB of the levels (docs/quality.md).
ERROR_BUDGET = 0.03
# Of the decoded sound, relative: 40 dB below it.
DECODER_ERROR_BUDGET = 0.01
# Of a standard song: the conditional and the null pass of 12 steps.
PASSES = 24
# Figures of one machine differ by about this much between runs: within it, the more exact one is taken.
TIE = 0.05


@dataclass(frozen=True, slots=True)
class Candidate:
    """An arithmetic as it was measured on this machine.

    seconds: of one pass, or of decoding one second of sound. error: relative, against torch in float32; None:
    unknown, so that nobody gets it unasked. open_s: seconds until its first pass can begin.
    """

    name: Arithmetic
    seconds: float
    error: float | None
    open_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Choice:
    """How a song is calculated on this machine, and how long that takes.

    threads: that are best. pass_s: seconds of one pass, and decode_s of decoding one second of sound, on as
    many; None: not measured here. open_s: of opening the decoder. reason: one line for people.
    """

    passes: Arithmetic
    decoder: Arithmetic = PUBLISHED
    threads: int | None = None
    pass_s: float | None = None
    decode_s: float | None = None
    open_s: float = 0.0
    reason: str = "the published way; this machine has not been measured"

    @property
    def precision(self) -> Precision:
        """Return the precision of the passes."""
        return PRECISION_OF[self.passes]


def choose(
    candidates: Sequence[Candidate],
    *,
    precision: Precision | None = None,
    passes: int = PASSES,
    budget: float = ERROR_BUDGET,
    refused: Collection[Arithmetic] = (),
) -> Candidate:
    """Return the fastest candidate within the error budget, never one that is slower than the published way.

    Of candidates within TIE of the fastest, the most exact one is returned. passes: of the song, which share
    the time of opening. precision: what the user asked for; then the fastest candidate of it is returned,
    whatever its error and refused ones included. None: auto. refused: those that harm this model.

    Raises ValueError where no candidate is left; with auto, the published way has to be among them.
    """

    def taken(each: Candidate) -> float:
        return each.seconds + each.open_s / max(1, passes)

    if precision is not None:
        return min((each for each in candidates if PRECISION_OF[each.name] == precision), key=taken)
    published = next((each for each in candidates if each.name == PUBLISHED), None)
    if published is None:
        raise ValueError(f"no figures of {PUBLISHED} among {[each.name for each in candidates]}")
    fitting = [
        each
        for each in candidates
        if each.error is not None
        and each.error <= budget
        and taken(each) <= taken(published)
        and each.name not in refused
    ] or [published]
    limit_s = (1 + TIE) * min(map(taken, fitting))
    return min((each for each in fitting if taken(each) <= limit_s), key=_inexactness)


def within_memory(
    settle: Callable[[Collection[Arithmetic]], Choice], need_bytes: Callable[[Choice], int], has_bytes: int
) -> Choice:
    """Return the first choice that needs no more memory than there is, else the published way.

    settle: gives the choice without the arithmetics that it is given. need_bytes: what a choice needs.
    """
    refused: set[Arithmetic] = set()
    while (choice := settle(refused)).passes != PUBLISHED and need_bytes(choice) > has_bytes:
        refused.add(choice.passes)
    return choice


def reason(chosen: Candidate, candidates: Sequence[Candidate]) -> str:
    """Return one line for people: how fast the chosen candidate is, against the published way."""
    published = next(each for each in candidates if each.name == PUBLISHED)
    if chosen.name == PUBLISHED:
        others = [each for each in candidates if each.name != PUBLISHED]
        if not others:
            return "the published way; nothing else was measured"
        fastest = min(others, key=_seconds)
        return (
            f"the published way, {published.seconds:.3g} s a pass; the fastest other is {fastest.name} "
            f"with {fastest.seconds:.3g} s{_too_inexact(fastest)}"
        )
    error = "" if chosen.error is None else f", error {100 * chosen.error:.2g} %"
    faster = published.seconds / chosen.seconds
    return (
        f"{chosen.seconds:.3g} s a pass, {faster:.2g} times as fast as the published way "
        f"({published.seconds:.3g} s){error}"
    )


def _too_inexact(candidate: Candidate) -> str:
    if candidate.error is None:
        return " (error unknown)"
    return f" (error {100 * candidate.error:.2g} %)" if candidate.error > ERROR_BUDGET else ""


def _seconds(candidate: Candidate) -> float:
    return candidate.seconds


def _inexactness(candidate: Candidate) -> tuple[float, int]:
    assert candidate.error is not None
    return candidate.error, ARITHMETICS.index(candidate.name)
