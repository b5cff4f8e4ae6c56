"""What the morning's page tells, gathered from the files alone and read with suspicion.

status.look, song.json, attempts/N ─ gather ─▶ Page
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from runner import charts, steplog
from runner.charts import Axis, Made, Memory, Segment, Spark, is_number
from runner.curve import MOST_POINTS, Point
from runner.errors import ForeignFileError
from runner.files import read_json, read_message
from runner.messages import Cause, Outcome, SongState
from runner.songfolder import Attempt, Outputs, SongFolder
from runner.status import Row, Survey
from runner.words import PHASES, counts, labels, remark, shown, size, span, state_words

# Songs with pictures and lyrics, the newest first; a page of all of a year's would open no more on a phone.
MOST_TRACKS = 60
MOST_BRIEFS = 1000
MOST_TROUBLES = 60
MOST_LINES = 400
MOST_INDEX = 200
MOST_ATTEMPTS = 20
_LONGEST_TEXT = 600
# night/rain.2, and not night/rain.cfg-2.5, which `again` has made.
_TAKE = re.compile(r"((?:.*/)?[^./]+)\.([0-9]{1,4})")

_AGAIN = " Then run the same command again."
_LESS_MEMORY = "Close other programs, make fewer songs at once (`--workers 1`), or take `precision: int8`."
_GOES_ON = "Run the same command again: it goes on where it was."
# What stands between backticks is to be typed.
CURES: dict[Cause, str] = {
    "timeout": f"Give it longer (`timeout` in the job file) or ask for less (`preset: draft`).{_AGAIN}",
    "stalled": "Run the same command again. If it hangs at the same place, its log says where.",
    "swap-thrash": _LESS_MEMORY + _AGAIN,
    "memory-ceiling": "Raise `memory` in the job file if the machine has more, else take `precision: int8` "
    f"or a shorter `duration`.{_AGAIN}",
    "out-of-memory": _LESS_MEMORY + _AGAIN,
    "numbers": f"Take `precision: fp32`, or another `seed`.{_AGAIN}",
    "crash": "Run the same command again. If it crashes at the same place, its log shows why.",
    "no-disk": f"Make room on the disk.{_AGAIN}",
    "bad-input": f"Mend what the message names.{_AGAIN}",
    "no-bundle": "`runner models verify` says what the model lacks.",
    "interrupted": _GOES_ON,
    "lost": _GOES_ON,
}


@dataclass(frozen=True, slots=True)
class Line:
    start: float
    text: str


@dataclass(frozen=True, slots=True)
class Track:
    """One song that can be heard. anchor: its place in the page. Every href is relative, and may be ""."""

    anchor: str
    name: str
    take: int | None
    state: SongState
    note: str
    style: str
    seconds: float
    sound: str
    outline: str
    spectrogram: str
    seed: str
    demo: bool
    lines: tuple[Line, ...]
    facts: tuple[tuple[str, str], ...]
    attempts: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...]
    files: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Piece:
    """A song with its takes, side by side; lines: those that all of them sing."""

    name: str
    style: str
    tracks: tuple[Track, ...]
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class Trouble:
    """A song that is not as asked: what happened, the readings behind it, what to change.

    place: of this in the page; anchor: of the song itself, "" without a sound. cure: every second part is
    to be typed.
    """

    name: str
    state: SongState
    reason: str
    attempts: tuple[tuple[str, str], ...]
    sparks: tuple[Spark, ...]
    cure: tuple[str, ...]
    anchor: str
    place: str
    files: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Brief:
    """A song of which one line is told."""

    name: str
    state: SongState
    words: str
    sound: str


@dataclass(frozen=True, slots=True)
class Timeline:
    ticks: tuple[tuple[float, str], ...]
    rows: tuple[tuple[str, tuple[Segment, ...]], ...]
    memory: Memory | None


@dataclass(frozen=True, slots=True)
class Page:
    """All that the template shows; texts are one line each, and the template escapes them.

    fresh: made in the newest batch; older: those of it that were made before, and of earlier batches.
    index: every song of the batch, its state, and its place in the page if it has one. demo: all that is
    heard here was made by the demo model. embedded: sounds are in the page itself. left_out: how many more
    songs there are.
    """

    title: str
    when: str
    counts: str
    index: tuple[tuple[str, SongState, str], ...] = ()
    demo: bool = False
    running: tuple[Brief, ...] = ()
    troubles: tuple[Trouble, ...] = ()
    fresh: tuple[Piece, ...] = ()
    older: tuple[Piece, ...] = ()
    briefs: tuple[Brief, ...] = ()
    left_out: int = 0
    timeline: Timeline | None = None
    machine: tuple[tuple[str, str], ...] = ()
    problems: tuple[str, ...] = ()
    written: str = ""
    embedded: bool = False


# ---------------------------------------------------------------- files → page


@dataclass(frozen=True, slots=True)
class _Song:
    """A row with what its folder tells besides. made: song.json, {} without one."""

    row: Row
    folder: SongFolder
    made: dict[str, Any] = field(default_factory=dict)
    finished: float = 0.0

    @property
    def sound(self) -> Path | None:
        if self.row.file is None:
            return None
        path = self.folder.folder / Path(self.row.file).name
        return path if _is_file(path) else None


def gather(outputs: Outputs, survey: Survey) -> Page:
    """What the page tells. Files that cannot be read or are no song's are told of, and do no harm."""
    names = {id: clean(name) for id, name in labels(survey.rows).items()}
    songs = [_song(outputs, row) for row in survey.rows]
    own = [song for song in songs if not song.row.earlier] or songs
    fresh, older, briefs = _shared_out(songs, survey)
    anchors = {song.row.song: f"song-{index}" for index, song in enumerate([*fresh, *older])}
    trouble = [song for song in own if song.row.state in ("failed", "interrupted", "left", "degraded")]
    troubles = tuple(_troubles(trouble, names, anchors))
    large = [*fresh, *older]
    return Page(
        title=_title(own),
        when=_when(survey),
        counts=", ".join(counts([song.row for song in own])),
        index=tuple(_index(own, names, anchors, troubles)),
        demo=bool(large) and all(song.made.get("demo") is True for song in large),
        running=tuple(_brief(song, names) for song in own if song.row.state in ("running", "queued")),
        troubles=troubles,
        fresh=_pieces(fresh, names, anchors),
        older=_pieces(older, names, anchors),
        briefs=tuple(_brief(song, names) for song in briefs[:MOST_BRIEFS]),
        left_out=len(briefs[MOST_BRIEFS:]) + len(trouble[MOST_TROUBLES:]),
        timeline=_timeline([*fresh, *(song for song in own if song.sound is None)], names, survey),
        machine=_machine(next(iter([*large, *briefs]), None)),
        problems=tuple(map(clean, survey.problems[:50])),
        written=_clock(survey.taken_wall, "%-d %B %Y, %H:%M"),
    )


def _shared_out(songs: Sequence[_Song], survey: Survey) -> tuple[list[_Song], list[_Song], list[_Song]]:
    """The songs that can be heard: made in the newest batch, made before and shown as large, and the rest.

    What was made again is to be compared with what it was made from.
    """
    began = survey.batch.started_wall if survey.batch else 0.0
    heard = [song for song in songs if song.sound is not None]
    is_fresh = {song.row.song: not song.row.earlier and song.finished >= began - 1 for song in heard}
    fresh = [song for song in heard if is_fresh[song.row.song]]
    others = sorted(
        (song for song in heard if not is_fresh[song.row.song]),
        key=lambda song: (song.row.earlier, -song.finished),
    )
    firsts = {song.row.song.partition(".")[0] for song in fresh}
    large = [
        song for song in others if not song.row.earlier or survey.batch is None or song.row.song in firsts
    ]
    older = {song.row.song for song in large[: max(0, MOST_TRACKS - len(fresh))]}
    taken = {song.row.song for song in fresh[:MOST_TRACKS]} | older
    return (
        fresh[:MOST_TRACKS],
        [song for song in heard if song.row.song in older],
        [song for song in [*fresh, *others] if song.row.song not in taken],
    )


def _index(
    songs: Sequence[_Song], names: dict[str, str], anchors: dict[str, str], troubles: Sequence[Trouble]
) -> Iterator[tuple[str, SongState, str]]:
    places = {trouble.name: trouble.place for trouble in troubles}
    for song in songs[:MOST_INDEX]:
        name = names[song.row.song]
        yield name, song.row.state, anchors.get(song.row.song) or places.get(name, "")


def _song(outputs: Outputs, row: Row) -> _Song:
    folder = outputs.song(row.song)
    made: dict[str, Any] = {}
    if row.file is not None:
        with suppress(OSError, ForeignFileError):
            made = read_json(folder.manifest)
    finished = 0.0
    with suppress(ValueError, OverflowError):
        finished = datetime.fromisoformat(_text(made, "finished")).timestamp()
    return _Song(row, folder, made, finished)


def _title(songs: Sequence[_Song]) -> str:
    there, all = sum(song.sound is not None for song in songs), len(songs)
    if not all:
        return "No songs yet"
    if there < all:
        return f"{there} of {all} songs {'is' if there == 1 else 'are'} there"
    return "The song is there" if all == 1 else f"All {all} songs are there"


def _when(survey: Survey) -> str:
    batch = survey.batch
    if batch is None:
        return ""
    day, began = _clock(batch.started_wall), _clock(batch.started_wall, "%H:%M")
    if batch.finished_wall is not None:
        length = span(batch.finished_wall - batch.started_wall)
        return f"{day}, {began} to {_clock(batch.finished_wall, '%H:%M')}, {length}"
    return f"{day}, since {began}" + ("" if survey.parent_alive else "; the batch died without a word")


def _clock(wall: float, form: str = "%A %-d %B %Y") -> str:
    """A time as people write it; of a damaged file's, of no year that a clock shows, "?"."""
    try:
        return time.strftime(form, time.localtime(wall))
    except (OverflowError, OSError, ValueError):
        return "?"


def _brief(song: _Song, names: dict[str, str]) -> Brief:
    row = song.row
    if song.sound is None:
        return Brief(names[row.song], row.state, clean(f"{state_words(row)} {remark(row)}"), "")
    words = [
        _clock(song.finished, "%-d %b %Y") if song.finished else "",
        span(_number(song.made, "duration")),
        row.note if row.state == "degraded" else "",
    ]
    return Brief(names[row.song], row.state, clean(", ".join(filter(None, words))), _href(song, song.sound))


# ---------------------------------------------------------------- what needs a look


def _troubles(songs: Sequence[_Song], names: dict[str, str], anchors: dict[str, str]) -> Iterator[Trouble]:
    """What failed first, then what is not finished, then what is less than was asked."""
    order: list[SongState] = ["failed", "interrupted", "left", "degraded"]
    songs = sorted(songs, key=lambda song: order.index(song.row.state))[:MOST_TROUBLES]
    for number, song in enumerate(songs):
        row = song.row
        outcomes = _outcomes(song)
        why = outcomes[-1] if outcomes else None
        yield Trouble(
            name=names[row.song],
            state=row.state,
            reason=clean(row.note if row.state in ("degraded", "left") else row.why or row.note),
            attempts=tuple(_ends(outcomes)),
            sparks=tuple(charts.sparks(_evidence(why))) if why and why.cause != "interrupted" else (),
            cure=tuple(_cure(row, why).split("`")),
            anchor=anchors.get(row.song, ""),
            place=f"look-{number}",
            files=tuple(_papers(song)),
        )


def _cure(row: Row, why: Outcome | None) -> str:
    """What to change."""
    cause = "interrupted" if row.state == "interrupted" else (why.cause if why else None)
    if row.state == "left":
        return "Run the same command again: it begins then."
    if row.state != "degraded":
        return CURES[cause or "bad-input"]  # no attempt at all: the message says what is in the way
    again = "The same command with `--redo-degraded` makes it again."
    return f"{CURES[cause].removesuffix(_AGAIN)} {again}" if cause else again


def _outcomes(song: _Song) -> list[Outcome]:
    """Of the attempts of this making that gave no song, the newest last."""
    numbers = {end.attempt for end in song.row.ended}
    found = []
    for attempt in song.folder.attempts():
        if attempt.number in numbers:
            with suppress(OSError, ForeignFileError):
                found.append(read_message(attempt.outcome, Outcome))
    return found


def _evidence(outcome: Outcome) -> list[dict[str, Any]]:
    return [sample for sample in outcome.evidence if isinstance(sample, dict)][-120:]


def _ends(outcomes: Sequence[Outcome]) -> Iterator[tuple[str, str]]:
    """Of each attempt, what it tried, and how it ended."""
    for outcome in outcomes[-MOST_ATTEMPTS:]:
        tried = f"{outcome.density} steps" if outcome.density else ""
        reached = f"{100 * outcome.t:.0f} % done" if outcome.t is not None and 0 <= outcome.t <= 1 else ""
        took = f"after {span(outcome.elapsed_s)}"
        first = ", ".join(filter(None, (f"attempt {outcome.attempt}", tried, took, reached)))
        yield first, clean(f"{outcome.cause}: {outcome.message}")


# ---------------------------------------------------------------- what can be heard


def _pieces(songs: Sequence[_Song], names: dict[str, str], anchors: dict[str, str]) -> tuple[Piece, ...]:
    """Takes of one song together, where they sing the same; in the order of the songs."""
    places: dict[tuple[str, str], list[_Song]] = {}
    for song in songs:
        base, _ = _take(song.row.song)
        places.setdefault((base, _text(_request(song), "lyrics")), []).append(song)
    pieces = []
    for takes in places.values():
        takes = sorted(takes, key=lambda song: _take(song.row.song)[1] or 1)
        tracks = tuple(_track(song, names, anchors, alone=len(takes) == 1) for song in takes)
        lines = max((track.lines for track in tracks), key=len)
        name = tracks[0].name if len(tracks) == 1 else _take(names[takes[0].row.song])[0]
        pieces.append(Piece(name, tracks[0].style, tracks, lines))
    return tuple(pieces)


def _take(id: str) -> tuple[str, int | None]:
    """night/rain.2 → night/rain, 2."""
    found = _TAKE.fullmatch(id)
    return (found[1], int(found[2])) if found else (id, None)


def _track(song: _Song, names: dict[str, str], anchors: dict[str, str], *, alone: bool) -> Track:
    row, made = song.row, song.made
    assert song.sound is not None
    request = _request(song)
    number = request.get("attempt")
    picture = (
        Attempt(song.folder.folder / "attempts" / str(number)).spectrogram
        if isinstance(number, int)
        else None
    )
    return Track(
        anchor=anchors[row.song],
        name=clean(names[row.song]),
        take=None if alone else _take(row.song)[1] or 1,
        state=row.state,
        note=clean(row.note if row.state == "degraded" else ""),
        style=clean(_text(request, "style") or Path(_text(request, "style_audio")).name),
        seconds=_number(made, "duration"),
        sound=_href(song, song.sound),
        outline=charts.bars(_outline(made)),
        spectrogram=_href(song, picture) if picture is not None and _is_file(picture) else "",
        seed=clean(str(made.get("seed", ""))),
        demo=made.get("demo") is True,
        lines=_lines(made),
        facts=tuple(_facts(made, request)),
        attempts=tuple(_ends(_outcomes(song))),
        warnings=tuple(clean(text) for text in _list(made, "warnings")[:20] if isinstance(text, str)),
        files=tuple(_papers(song)),
    )


def _facts(made: dict[str, Any], request: dict[str, Any]) -> Iterator[tuple[str, str]]:
    steps = len(_list(made, "time_grid")) - 1
    asked = _number(request, "steps")
    walked = f"{steps:g} of {asked:g} asked" if 0 < steps < asked else f"{steps or asked:g}"
    yield "model", clean(_text(made, "model"))
    yield "seed", clean(str(made.get("seed", "")))
    yield "steps", walked if steps > 0 or asked else ""
    yield "guidance", f"{_number(request, 'cfg'):g}"
    yield "arithmetic", clean(_text(made, "precision"))
    yield "made in", span(_number(made, "seconds"))
    phases = _phases(made)
    yield "of that", ", ".join(f"{PHASES[name]} {span(phases[name])}" for name in PHASES if phases.get(name))
    yield "memory", size(round(_number(made, "peak_rss"))) + " at most"
    checks = made.get("checks")
    loudness = checks.get("loudness") if isinstance(checks, dict) else None
    yield "loudness", f"{loudness:.1f} LUFS" if is_number(loudness) else ""


def _phases(made: dict[str, Any]) -> dict[str, float]:
    told = made.get("phases")
    return (
        {name: _number(told, name) for name in told if isinstance(name, str)}
        if isinstance(told, dict)
        else {}
    )


def _lines(made: dict[str, Any]) -> tuple[Line, ...]:
    found = [each for each in _list(made, "lines")[:MOST_LINES] if isinstance(each, dict)]
    lines = (Line(_number(each, "start"), clean(_text(each, "text"))) for each in found)
    return tuple(sorted((line for line in lines if line.text), key=lambda line: line.start))


def _outline(made: dict[str, Any]) -> list[int]:
    """Of an older song, which has none, a line."""
    found = [min(max(int(each), 0), 1000) if is_number(each) else 0 for each in _list(made, "outline")[:1000]]
    return found or [0] * 240


def _papers(song: _Song) -> Iterator[tuple[str, str]]:
    """The files that say more, of those that are there: the log of a song that went well is empty."""
    newest = song.folder.attempts()[-1:]
    files = [song.sound, song.folder.manifest, song.folder.failure]
    for path in [*files, *(attempt.log for attempt in newest)]:
        if path is not None and _is_file(path) and _size(path):
            yield clean(path.name), _href(song, path)


def _is_file(path: Path) -> bool:
    return os.path.isfile(path)  # noqa: PTH113 — Path.is_file raises where a name is too long to be one


def _size(path: Path) -> int:
    with suppress(OSError):
        return path.stat().st_size
    return 0


def _href(song: _Song, path: Path) -> str:
    """Relative to the page; every character that means something in an address is written as a number."""
    return quote(os.fsencode(path.relative_to(song.folder.outputs.folder)))


# ---------------------------------------------------------------- the night


def _timeline(songs: Sequence[_Song], names: dict[str, str], survey: Survey) -> Timeline | None:
    """Of the newest batch; None where its songs do not tell when they were made."""
    if survey.batch is None:
        return None
    began = survey.batch.started_wall
    made = {song.row.song: list(_made(song, began)) for song in songs[:MOST_TRACKS]}
    all = [attempt for attempts in made.values() for attempt in attempts]
    if not all:
        return None
    axis = Axis(min(attempt.began for attempt in all), max(attempt.ended for attempt in all))
    rows = sorted(
        ((id, attempts) for id, attempts in made.items() if attempts), key=lambda each: each[1][0].began
    )
    return Timeline(
        ticks=tuple(axis.ticks()),
        rows=tuple(
            (clean(names[id]), tuple(part for attempt in attempts for part in charts.segments(attempt, axis)))
            for id, attempts in rows
        ),
        memory=charts.memory(all, axis),
    )


def _made(song: _Song, began: float) -> Iterator[Made]:
    """The song's attempts in a batch that began then, as far as they were seen."""
    for attempt in song.folder.attempts()[-MOST_ATTEMPTS:]:
        with suppress(OSError, ForeignFileError):
            outcome = read_message(attempt.outcome, Outcome)
            if began - 1 <= outcome.began_wall <= outcome.ended_wall <= began + 366 * 86_400:
                yield Made(
                    number=attempt.number,
                    began=outcome.began_wall,
                    ended=outcome.ended_wall,
                    cause=outcome.cause,
                    sampled=_sampled(attempt) if outcome.cause is not None else None,
                    phases=_phases(outcome.song),
                    memory=tuple(_points(outcome.memory)),
                )


def _points(told: Sequence[object]) -> Iterator[Point]:
    for each in told[:MOST_POINTS]:
        if isinstance(each, list) and len(each) == 4 and all(map(is_number, each)):
            yield float(each[0]), int(each[1]), int(each[2]), int(each[3])


def _sampled(attempt: Attempt) -> tuple[float, float] | None:
    """When the first step began and the last one ended, by the attempt's own log."""
    steps = [step for step in steplog.read(attempt.steps) if step.wall]
    return (steps[0].wall - steps[0].seconds, steps[-1].wall) if steps else None


def _machine(song: _Song | None) -> tuple[tuple[str, str], ...]:
    """Where the newest song was made, and with what."""
    if song is None:
        return ()
    machine, versions = song.made.get("machine"), song.made.get("versions")
    machine = machine if isinstance(machine, dict) else {}
    versions = versions if isinstance(versions, dict) else {}
    cores, memory = _number(machine, "cores"), _number(machine, "memory_bytes")
    processor = ", ".join(filter(None, (_text(machine, "processor"), f"{cores:g} cores" if cores else "")))
    packages = (f"{name} {version}" for name, version in list(versions.items())[:20])
    facts = [
        ("processor", processor),
        ("memory", size(round(memory)) if memory else ""),
        ("system", _text(machine, "system")),
        ("Python", _text(machine, "python")),
        ("packages", ", ".join(packages)),
    ]
    return tuple((name, clean(value)) for name, value in facts if value)


# ---------------------------------------------------------------- what was read with suspicion


def clean(text: str) -> str:
    """One line of printable characters, of a length that a page can show."""
    cut = text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]} …"
    return shown(cut, unicode=True).strip()


def _request(song: _Song) -> dict[str, Any]:
    request = song.made.get("request")
    return request if isinstance(request, dict) else {}


def _text(content: dict[str, Any], key: str) -> str:
    value = content.get(key)
    return value if isinstance(value, str) else ""


def _number(content: dict[str, Any], key: str) -> float:
    """0 where there is none that a person could mean."""
    value = content.get(key)
    return max(0.0, value) if is_number(value) else 0.0


def _list(content: dict[str, Any], key: str) -> list[Any]:
    value = content.get(key)
    return value if isinstance(value, list) else []
