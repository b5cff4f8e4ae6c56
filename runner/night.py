"""The plan of a night: which songs end in time, in what order, which of them with fewer steps. Pure.

As many songs as can end in time, as few of them thinned as that takes, those no further than to half of their
steps: one that is left is made whole another night, one that is thinned stays it. In time that is left over a
song is begun that another night goes on with.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from runner.forecast import Forecast
from runner.verdict import MIN_DENSITY

# Steps that a song begun for another night has to come to, or its start is not worth it.
WORTH_STEPS = 2
# The thinned songs keep the same share of their steps, as many of so many parts as there is time for.
PARTS = 64
# What floats may make of a sum of seconds.
ROUNDING_S = 1e-6


@dataclass(frozen=True, slots=True)
class Song:
    """A song to make. steps: over the whole of it, as it would be made now; asked: by the user. least: as few
    as the night may make of them. begun: it has a checkpoint. keeps: it would go on from one.
    """

    id: str
    forecast: Forecast
    steps: int
    least: int
    asked: int = 0
    begun: bool = False
    keeps: bool = True


@dataclass(frozen=True, slots=True)
class Place:
    """When a song is made, in seconds from now, and in how many steps. lane: of those that are free, by
    number. lands: it is foreseen to end in time; else it is only begun.
    """

    song: Song
    lane: int
    start_s: float
    end_s: float
    steps: int
    lands: bool = True

    @property
    def is_thinned(self) -> bool:
        return self.steps < self.song.steps


@dataclass(frozen=True, slots=True)
class Plan:
    """places: in the order of their beginning. left: not begun. spare_s: the longest time that no landing
    song takes, None without an end."""

    places: tuple[Place, ...]
    left: tuple[Song, ...] = ()
    spare_s: float | None = None


@dataclass(frozen=True, slots=True)
class _Chosen:
    song: Song
    steps: int

    @property
    def seconds(self) -> float:
        return self.song.forecast.seconds(self.steps)


def least_steps(steps: int, *, may_thin: bool) -> int:
    """As few as a night may make of so many: half of them (docs/quality.md), no fewer than any song has."""
    return max(-(-steps // 2), min(MIN_DENSITY, steps)) if may_thin else steps


def plan(songs: Sequence[Song], free_at: Sequence[float], end_s: float | None) -> Plan:
    """The plan for these songs, in the order of their files, on lanes that are free so many seconds from now.

    end_s: when all has to have ended, from now; None: no end, all are made as they stand. At least one lane.
    """
    if end_s is None:
        whole = [_Chosen(song, song.steps) for song in songs]
        lanes = _filled([each.seconds for each in whole], range(len(whole)), free_at, float("inf"), min)
        assert lanes is not None
        return Plan(_in_turn(_by_lane(whole, lanes, len(free_at)), free_at))
    chosen = _landing(songs, free_at, end_s)
    lanes = _packed([each.seconds for each in chosen], free_at, end_s)
    assert lanes is not None
    by_lane = [sorted(lane, key=_in_lane) for lane in _by_lane(chosen, lanes, len(free_at))]
    places = _in_turn(by_lane, free_at)
    taken = {each.song.id for each in chosen}
    begun = _begun([song for song in songs if song.id not in taken], places, free_at, end_s)
    taken |= {place.song.id for place in begun}
    ends = _ends(places, free_at)
    return Plan(
        tuple(sorted((*places, *begun), key=lambda place: (place.start_s, place.lane))),
        tuple(song for song in songs if song.id not in taken),
        max(0.0, end_s - min(ends)),
    )


# ---------------------------------------------------------------- which songs, in how many steps


def _landing(songs: Sequence[Song], free_at: Sequence[float], end_s: float) -> list[_Chosen]:
    """As many songs as can end in time; of two ways to choose them that which thins fewer."""
    shortest = sorted(songs, key=lambda song: (song.forecast.seconds(song.least), not song.begun))
    fewest = [_Chosen(song, song.least) for song in shortest]
    count = _most(len(fewest), lambda n: _fits(fewest[:n], free_at, end_s))
    whole = sorted(songs, key=lambda song: (song.forecast.seconds(song.steps), not song.begun))
    ways = [
        _least_thinned([each.song for each in fewest[:count]], free_at, end_s),
        _least_thinned(whole[:count], free_at, end_s),
    ]
    return min((way for way in ways if way is not None), key=_thinning)


def _thinning(chosen: Sequence[_Chosen]) -> tuple[int, int]:
    """How many are thinned, and by how many steps together."""
    missing = [each.song.steps - each.steps for each in chosen]
    return sum(map(bool, missing)), sum(missing)


def _least_thinned(songs: Sequence[Song], free_at: Sequence[float], end_s: float) -> list[_Chosen] | None:
    """All of these songs, as few of them thinned as lets them end in time; None: they cannot.

    Those that would give the least time stay whole; the others share their loss.
    """
    order = sorted(
        songs, key=lambda song: song.forecast.seconds(song.steps) - song.forecast.seconds(song.least)
    )

    def with_whole(count: int, part: int = 0) -> list[_Chosen]:
        whole = [_Chosen(song, song.steps) for song in order[:count]]
        return whole + [_Chosen(s, max(s.least, s.steps * part // PARTS)) for s in order[count:]]

    if not _fits(with_whole(0), free_at, end_s):
        return None
    count = _most(len(order), lambda n: _fits(with_whole(n), free_at, end_s))
    part = _most(PARTS - 1, lambda n: _fits(with_whole(count, n), free_at, end_s))
    return with_whole(count, part)


def _most(limit: int, holds: Callable[[int], bool]) -> int:
    """The largest number up to limit for which it holds, as it does for 0 and for all below another."""
    return bisect_left(range(1, limit + 1), True, key=lambda n: not holds(n))


# ---------------------------------------------------------------- on which lane, when


def _fits(chosen: Sequence[_Chosen], free_at: Sequence[float], end_s: float) -> bool:
    return _packed([each.seconds for each in chosen], free_at, end_s) is not None


def _packed(seconds: Sequence[float], free_at: Sequence[float], end_s: float) -> list[int] | None:
    """The lane of each, so that all end in time; None: no way was found, and with one lane there is none.

    Shortest first as lanes become free; else longest first, into the fullest lane that still holds it.
    """
    shortest = sorted(range(len(seconds)), key=seconds.__getitem__)
    lanes = _filled(seconds, shortest, free_at, end_s, min)
    if lanes is None and len(free_at) > 1:
        lanes = _filled(seconds, shortest[::-1], free_at, end_s, max)
    return lanes


def _filled(
    seconds: Sequence[float],
    order: Iterable[int],
    free_at: Sequence[float],
    end_s: float,
    choose: Callable[..., int],
) -> list[int] | None:
    """The lane of each: the one with the min or max of what it holds already, of those that can hold it."""
    ends, lanes = list(free_at), [0] * len(seconds)
    for index in order:
        can = [n for n, held in enumerate(ends) if held + seconds[index] <= end_s + ROUNDING_S]
        if not can:
            return None
        lanes[index] = choose(can, key=ends.__getitem__)
        ends[lanes[index]] += seconds[index]
    return lanes


def _by_lane(chosen: Sequence[_Chosen], lanes: Sequence[int], count: int) -> list[list[_Chosen]]:
    return [[each for each, lane in zip(chosen, lanes, strict=True) if lane == n] for n in range(count)]


def _in_lane(each: _Chosen) -> tuple[bool, bool, float]:
    """What goes on is nearest done. The thinned last: by then more is known of how much they have to be."""
    return not each.song.begun, each.steps < each.song.steps, each.seconds


def _in_turn(by_lane: Sequence[Sequence[_Chosen]], free_at: Sequence[float]) -> tuple[Place, ...]:
    places = []
    for number, (lane, start_s) in enumerate(zip(by_lane, free_at, strict=True)):
        for each in lane:
            end_s = start_s + each.seconds
            places.append(Place(each.song, number, start_s, end_s, each.steps))
            start_s = end_s
    return tuple(sorted(places, key=lambda place: (place.start_s, place.lane)))


def _ends(places: Sequence[Place], free_at: Sequence[float]) -> list[float]:
    """When each lane has made its songs."""
    return [max([at, *(place.end_s for place in places if place.lane == n)]) for n, at in enumerate(free_at)]


def _begun(
    songs: Sequence[Song], places: Sequence[Place], free_at: Sequence[float], end_s: float
) -> list[Place]:
    """In the time that is left of each lane, the song that is nearest done of those that do not fit."""
    nearest = sorted(
        (song for song in songs if song.keeps),
        key=lambda song: (not song.begun, song.forecast.seconds(song.steps)),
    )
    begun = []
    for lane, start_s in enumerate(_ends(places, free_at)):
        worth = (s for s in nearest if start_s + _worth_s(s.forecast) <= end_s)
        song = next(worth, None)
        if song is not None:
            nearest.remove(song)
            begun.append(Place(song, lane, start_s, end_s, song.steps, lands=False))
    return begun


def _worth_s(forecast: Forecast) -> float:
    return forecast.around_s + WORTH_STEPS * forecast.step_s
