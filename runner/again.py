"""A finished song made once more from its manifest: to be compared sample for sample, or varied."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from runner.errors import ForeignFileError, OutputError, Problem, SpecError
from runner.files import as_message, read_json
from runner.manifest import SCHEMA
from runner.messages import SongRequest
from runner.songfolder import Outputs, SongFolder, find
from runner.spec import BITS, Song, single

# Settings that a request has by the names that they have in a job file.
_KEPT = (
    "duration",
    "window",
    "negative_style",
    "seed",
    "language",
    "lyrics_compat",
    "precision",
    "format",
    "fade_out",
    "foresight",
    "threads",
)
# How a name tells of the options that make it another sound.
_VARIED = {
    "seed": "seed-",
    "preset": "preset-",
    "steps": "steps-",
    "cfg": "cfg-",
    "precision": "",
    "fade_out": "fade-",
    "format": "",
}
# What requests for one sound have in common, by the words for it.
_SAME = {
    "seed": "seed",
    "steps": "steps",
    "cfg": "guidance",
    "sampler": "solver",
    "grid": "time grid",
    "precision": "arithmetic",
    "threads": "threads",
    "chunk_frames": "decoder's chunks",
    "overlap_frames": "overlap of the decoder's chunks",
    "loudness": "loudness",
    "fade_out": "fade out",
}
_AROUND = {
    "model_hash": "other files of the model",
    "versions": "other versions",
    "machine": "another machine",
}


@dataclass(frozen=True, slots=True)
class Made:
    """A finished song: what was asked of its last attempt, and its manifest."""

    id: str
    request: SongRequest
    manifest: dict[str, Any]


def find_made(outputs: Outputs, name: str) -> Made:
    """The finished song of that name (see songfolder.find).

    Raises RunnerError where there is none, or where it cannot be made again from its manifest.
    """
    folder = outputs.song(find(name, [song.id for song in outputs.songs()]))
    try:
        return _made(folder)
    except FileNotFoundError:
        raise OutputError(f"{folder.id}: is not finished, so it has no manifest; make it first") from None
    except OSError as error:
        raise OutputError(f"{folder.manifest}: {error.strerror}; make it readable") from error


def _made(folder: SongFolder) -> Made:
    content = read_json(folder.manifest)
    if content.get("schema") != SCHEMA:
        raise ForeignFileError(
            f"{folder.manifest}: schema {content.get('schema')!r}, this version reads {SCHEMA}; "
            "use the version that wrote it"
        )
    request = as_message(folder.manifest, content.get("request"), SongRequest)
    if not all(map(_is_span, request.edit_spans)):
        raise ForeignFileError(f"{folder.manifest}: not a SongRequest; remove it")
    return Made(folder.id, request, content)


def _is_span(span: object) -> bool:
    return isinstance(span, list) and [isinstance(end, int | float) for end in span] == [True, True]


def song(made: Made, options: Mapping[str, object], *, name: str | None = None) -> Song:
    """The song once more, with options (keys of a job file, a None counts as not given) above what it had.

    It lies beside the first one as <its name>.<name>, which no job file can call its own; by default name
    tells what is varied, so that the same command finds what it has made or begun.
    Raises SpecError for options, or where a sound that the first one was made from is gone.
    """
    request = made.request
    given = {key: value for key, value in options.items() if value is not None}
    job, _, first = made.id.partition("/")
    if name is not None and (name.isdecimal() or not name):
        raise SpecError(
            [Problem(f"--name: {name!r} is no name, or a take's; choose one with a letter in it")]
        )
    settings = {**_as_it_was(request, given), **given, "name": name or "again"}
    _refuse_lost(made)
    return replace(
        single(settings, model=request.model, job=job),
        name=f"{first}.{name or _told(given)}",
        lyrics=request.lyrics,
        lyrics_source=_source(request),
        style=request.style,
        style_audio=Path(request.style_audio) if request.style_audio else None,
        edit_source=Path(request.edit_source) if request.edit_source else None,
        edit_spans=tuple((start, end) for start, end in request.edit_spans),
        model_hash=request.model_hash,
    )


def _as_it_was(request: SongRequest, given: Mapping[str, object]) -> dict[str, object]:
    """The settings of the request by their keys in a job file, without those that an option replaces."""
    settings: dict[str, object] = {key: getattr(request, key) for key in _KEPT}
    settings |= {"style": "as it was", "loudness": "none" if request.loudness is None else request.loudness}
    if request.mode == "sing":  # an estimate has all the time there is
        settings["timeout"] = request.timeout_s
    if request.bits in BITS.get(str(given.get("format")), (request.bits,)):
        settings["bits"] = request.bits
    if "preset" not in given:
        settings |= {"steps": request.steps, "cfg": request.cfg}
        # A solver that is named walks its own grid; one tuned to the model comes with the preset's.
        settings |= {"sampler": request.sampler} if request.grid is None else {}
    return settings


def _told(given: Mapping[str, object]) -> str:
    """What is varied, for the end of a name: again, seed-8, preset-high.mp3."""
    varied = [(words, given[key]) for key, words in _VARIED.items() if key in given]
    return ".".join(f"{words}{_shown(value)}" for words, value in varied) or "again"


def _source(request: SongRequest) -> str:
    """Where the lyrics stand, as spec.lyrics_start reads it."""
    first_line = request.lyrics_first_line
    return request.lyrics_source if first_line == 1 else f"{request.lyrics_source}:{first_line - 1}"


def _refuse_lost(made: Made) -> None:
    lost = [
        f"{file}: {what} {made.id} was made from is gone; put it back"
        for what, file in (
            ("the clip whose style", made.request.style_audio),
            ("the sound that", made.request.edit_source),
        )
        if file is not None and not Path(file).is_file()
    ]
    if lost:
        raise SpecError(list(map(Problem, lost)))


def compared(made: Made, outputs: Outputs, song: Song) -> str | None:
    """How the song that was made again differs from the first one, in a line; None where it is not there."""
    try:
        other = _made(outputs.song(song.id))
    except (OSError, ForeignFileError):
        return None
    one, two = (each.manifest.get("sound_sha256") for each in (made, other))
    if one is None or two is None:
        return (
            f"{made.id if one is None else other.id}: of a version that kept no digest of its sound; listen"
        )
    if one == two:
        return f"{other.id}: the same sound as {made.id}, sample for sample"
    why = _differences(made, other)
    return (
        f"{other.id}: another sound than {made.id}{': ' if why else ', for no known reason'}{', '.join(why)}"
    )


def _differences(one: Made, two: Made) -> list[str]:
    """What explains that two songs sound different."""
    found = []
    for key, words in _SAME.items():
        before, after = getattr(one.request, key), getattr(two.request, key)
        if before != after:
            found.append(words if key == "grid" else f"{words} {_shown(before)} → {_shown(after)}")
    found += [words for key, words in _AROUND.items() if one.manifest.get(key) != two.manifest.get(key)]
    for each in (one, two):
        if each.manifest.get("degraded"):
            found.append(f"{each.id} has {each.manifest['degraded']}")
        elif each.request.checkpoint is not None:
            found.append(f"{each.id} was made in more than one attempt")
    return found


def _shown(value: object) -> str:
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
