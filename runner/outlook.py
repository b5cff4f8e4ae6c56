"""What people read of a night's plan: a few lines before it begins, a table, JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from runner.messages import QueuedSong
from runner.night import Place, Plan, Song
from runner.words import clock, span

SCHEMA = 1
# Of each kind so many songs are named, the others counted.
NAMED = 4


@dataclass(frozen=True, slots=True)
class Outlook:
    """A plan as it stands at a moment. wall, until_wall: seconds since 1970; until_wall None: without an end.
    made: songs that are there already.
    """

    plan: Plan
    made: int
    workers: int
    wall: float
    until_wall: float | None = None

    @property
    def songs(self) -> list[Song]:
        return [*(place.song for place in self.plan.places), *self.plan.left]

    @property
    def landing(self) -> list[Place]:
        return [place for place in self.plan.places if place.lands]

    @property
    def begun(self) -> list[Place]:
        return [place for place in self.plan.places if not place.lands]

    @property
    def ends_wall(self) -> float:
        return self.wall + max((place.end_s for place in self.plan.places), default=0.0)

    def is_tight(self, place: Place) -> bool:
        """Would it come too late if all took longer by the margin?"""
        if self.until_wall is None:
            return False
        return self.wall + place.end_s * (1 + place.song.forecast.margin) > self.until_wall


def lines(outlook: Outlook) -> list[str]:
    """What will be there in the morning, what with fewer steps, what not and why; a line for each kind."""
    places, left = outlook.landing, outlook.plan.left
    thinned = [_name(place.song) + f" ({_steps(place)})" for place in places if _has_fewer(place)]
    tight = [_name(place.song) for place in places if outlook.is_tight(place)]
    begun = [_name(place.song) for place in outlook.begun]
    return [
        _headline(outlook),
        *_line("with fewer steps", thinned),
        *_line("only if nothing takes longer than foreseen", tight),
        *_line("begun, and gone on with by the next batch", begun),
        *_line("left for the next batch", [f"{_name(song)} (needs {span(_whole_s(song))})" for song in left]),
        *([f"foreseen {foundation(outlook.songs)}"] if outlook.songs else []),
    ]


def _headline(outlook: Outlook) -> str:
    made = f", {outlook.made} there already" if outlook.made else ""
    if not outlook.songs:
        return f"nothing to make{made}"
    count = f"{len(outlook.landing)} of {len(outlook.songs)} songs"
    last = max((place.end_s for place in outlook.landing), default=0.0)
    by = f", the last at {clock(outlook.wall + last, outlook.wall)}" if outlook.landing else ""
    if outlook.until_wall is None:
        return f"{count}{by}{made}"
    left = span(max(0.0, outlook.until_wall - outlook.wall))
    return f"until {clock(outlook.until_wall, outlook.wall)}, in {left}: {count}{by}{made}"


def _line(what: str, songs: Sequence[str]) -> list[str]:
    """One line for all of them, the first few by name."""
    if not songs:
        return []
    more = f" and {len(songs) - NAMED} more" if len(songs) > NAMED else ""
    return [f"{what}: {len(songs)}: {', '.join(songs[:NAMED])}{more}"]


def foundation(songs: Sequence[Song]) -> str:
    """What the forecast stands on, and how far it may be off."""
    margin = max(song.forecast.margin for song in songs)
    longer = f"{100 * margin:.0f} % longer" if margin < 1 else f"{1 + margin:.0f} times as long"
    profiled = sum(song.forecast.by == 0 for song in songs)
    by = max(song.forecast.by for song in songs)
    here = f"by {by} song{'s' if by > 1 else ''} made here"
    if not profiled:
        return f"{here}: may take {longer}"
    if profiled == len(songs):
        return f"by this machine's profile: may take {longer}; better known once a song is made"
    return f"{here}, {profiled} of {len(songs)} by this machine's profile alone: may take {longer}"


def unfitting(song: Song, until_wall: float) -> str:
    """Why a song was not begun."""
    needs = f"needs {span(_whole_s(song))}; " if song.forecast.step_s else ""
    return f"{needs}too little time was left until {clock(until_wall, until_wall)}"


def closing(songs: Sequence[QueuedSong], until_wall: float) -> list[str]:
    """What was not done in time, if anything was not: one line."""
    counts = {state: sum(song.state == state for song in songs) for state in ("interrupted", "left")}
    said = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    return [f"not done by {clock(until_wall, until_wall)}: {said}"] if said else []


# ---------------------------------------------------------------- all of it


def table(outlook: Outlook) -> list[str]:
    """A line for each song that is to be made, in the order of their beginning; then the lines."""
    rows: list[tuple[str, ...]] = [("song", "begins", "ends", "takes", "steps", "")]
    rows += [_cells(place, outlook) for place in outlook.plan.places]
    rows += [
        (song.id, "", "", span(_whole_s(song)), str(song.steps), _why_left(outlook.plan))
        for song in outlook.plan.left
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    shown = ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows]
    return [*((line.rstrip() for line in shown) if outlook.songs else ()), *lines(outlook)]


def _cells(place: Place, outlook: Outlook) -> tuple[str, ...]:
    return (
        place.song.id,
        clock(outlook.wall + place.start_s, outlook.wall),
        clock(outlook.wall + place.end_s, outlook.wall),
        span(place.end_s - place.start_s if place.lands else _whole_s(place.song)),
        _steps(place),
        "; ".join(_remarks(place, outlook)),
    )


def _remarks(place: Place, outlook: Outlook) -> list[str]:
    said = ["goes on"] if place.song.begun else []
    if not place.lands:
        return [*said, "will not end; the next batch goes on"]
    if place.is_thinned:
        said.append("fewer steps, so that more songs end in time")
    elif _has_fewer(place) and not place.song.begun:
        said.append("fewer steps, within its own timeout")
    if outlook.is_tight(place):
        said.append("tight")
    return said


def _why_left(plan: Plan) -> str:
    return "left" if plan.spare_s is None else f"left: {span(plan.spare_s)} at most would remain for it"


def _steps(place: Place) -> str:
    return f"{place.steps} of {place.song.asked}" if _has_fewer(place) else str(place.steps)


def _has_fewer(place: Place) -> bool:
    return place.steps < place.song.asked


def _whole_s(song: Song) -> float:
    return song.forecast.seconds(song.steps)


def _name(song: Song) -> str:
    return song.id.rpartition("/")[2]


def as_json(outlook: Outlook) -> dict[str, Any]:
    """The outlook for programs; every key is always there. state: planned, begun or left."""
    return {
        "schema": SCHEMA,
        "taken_wall": outlook.wall,
        "until_wall": outlook.until_wall,
        "ends_wall": _finite(outlook.ends_wall),
        "workers": outlook.workers,
        "made": outlook.made,
        "songs": [
            *(_planned(place, outlook) for place in outlook.plan.places),
            *(_song(song, "left", song.steps, tight=False) for song in outlook.plan.left),
        ],
    }


def _planned(place: Place, outlook: Outlook) -> dict[str, Any]:
    state = "planned" if place.lands else "begun"
    return _song(place.song, state, place.steps, tight=outlook.is_tight(place)) | {
        "start_wall": _finite(outlook.wall + place.start_s),
        "end_wall": _finite(outlook.wall + place.end_s),
    }


def _song(song: Song, state: str, steps: int, *, tight: bool) -> dict[str, Any]:
    return {
        "song": song.id,
        "state": state,
        "asked": song.asked,
        "steps": steps,
        "goes_on": song.begun,
        "tight": tight,
        "start_wall": None,
        "end_wall": None,
        "seconds": _finite(song.forecast.seconds(steps)),
        "margin": _finite(song.forecast.margin),
        "measured_by": song.forecast.by,
    }


def _finite(number: float) -> float | None:
    """JSON has no number for what a damaged manifest may lead to."""
    return number if math.isfinite(number) else None
