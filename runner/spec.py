"""Job files and options of a command → songs, or every problem at its line.

A song's settings come in layers, the nearer ones standing above: built in, the file's `defaults`, the
options of the command, the song's own keys. Forced options stand above those too.
"""

from __future__ import annotations

import difflib
import os
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from runner import yamlfile
from runner.errors import Problem, SpecError, TextFileError
from runner.jobfile import NAME, Defaults, Edit, JobFile, SongSpec, json_schema
from runner.messages import Bits, Format
from runner.textfile import read_text
from runner.yamlfile import Document, KeyPath

__all__ = ["Overrides", "Song", "asked", "json_schema", "load", "lyrics_start", "single"]

# A job's name is a folder under outputs/, beside files of ours that have a dot in their names.
JOB_NAME = r"\w[\w -]*"

# What a sample can have; mp3 and ogg have no samples of their own, 16 is taken as nothing said.
BITS: Mapping[str, tuple[int, ...]] = {"wav": (16, 24, 32), "flac": (16, 24), "mp3": (16,), "ogg": (16,)}

Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Song:
    """One song to make, all settings resolved; a take is a song of its own.

    path, line: the job file and the song's line in it; None and 0 for a song given by options.
    model: a model's name, or the absolute path of a bundle.
    lyrics: the text in LRC, None for an instrumental. lyrics_source: see `lyrics_start`.
    model_hash: of the model's files that an earlier song was made with, where this one shall be as that.
    steps, cfg, sampler: None where the preset shall choose. stall_s, threads, memory_bytes: None where
    the program shall choose.
    """

    job: str
    name: str
    path: Path | None
    line: int
    model: str
    lyrics: str | None
    lyrics_source: str
    style: str | None
    style_audio: Path | None
    negative_style: str | None
    duration: float | None
    seed: int | None
    take: int
    preset: str
    steps: int | None
    cfg: float | None
    sampler: str | None
    language: str
    lyrics_compat: str
    precision: str
    format: Format
    bits: Bits
    loudness: float | None
    timeout_s: float
    deadline_s: float | None
    stall_s: float | None
    attempts: int
    foresight: bool
    threads: int | None
    memory_bytes: int | None
    nice: int
    resume: bool
    edit_source: Path | None = None
    edit_spans: tuple[tuple[float, float], ...] = ()
    window: float | None = None
    fade_out: float | None = None
    model_hash: str | None = None

    @property
    def id(self) -> str:
        return f"{self.job}/{self.name}"


@dataclass(frozen=True, slots=True)
class Overrides:
    """Options of a command for every song: keys of `defaults` by name. A None counts as not given."""

    settings: Mapping[str, object] = field(default_factory=dict)
    model: str | None = None
    force: bool = False


def load(paths: Sequence[Path], overrides: Overrides | None = None) -> list[Song]:
    """The songs of all job files, in order. Raises SpecError with every problem of every file."""
    overrides = overrides or Overrides()
    options = _Source(None)
    given = _given(overrides.settings)
    _check_keys(options, Defaults, given)
    command = _layer(options, (), _usable(Defaults, given))
    model = _model(options, overrides.model) if overrides.model else None
    if options.problems:
        raise SpecError(options.problems)
    sources = [_Source(path) for path in paths]
    songs = [song for each in sources for song in _songs_of_file(each, model, command, force=overrides.force)]
    problems = [problem for each in sources for problem in each.problems]
    problems += _jobs_of_one_name(paths)
    if problems:
        raise SpecError(problems)
    return songs


def single(settings: Mapping[str, object], *, model: str, job: str = "sing") -> Song:
    """The one song that options of a command ask for: keys of a song by name, a None counts as not given.

    Paths are relative to the working folder. Raises SpecError; its problems name the option.
    """
    source = _Source(None)
    model = _model(source, model)
    given = _given(settings)
    _check_keys(source, SongSpec, given)
    songs = _takes(source, (), job, model, [_builtin(), _layer(source, (), _usable(SongSpec, given))])
    if len(songs) > 1:
        source.report(("takes",), "one song is made at a time; leave it out, or use a job file")
    if source.problems:
        raise SpecError(source.problems)
    return songs[0]


def asked(song: Song) -> dict[str, Any]:
    """What a SongQuestion and a SongRequest say of a song alike, by their fields' names."""
    source, first_line = lyrics_start(song.lyrics_source)
    return {
        "model": song.model,
        "lyrics": song.lyrics,
        "lyrics_source": source,
        "lyrics_first_line": first_line,
        "style": song.style,
        "style_audio": str(song.style_audio) if song.style_audio else None,
        "negative_style": song.negative_style,
        "language": song.language,
        "lyrics_compat": song.lyrics_compat,
        "edit_source": str(song.edit_source) if song.edit_source else None,
        "edit_spans": [list(span) for span in song.edit_spans],
        "window": song.window,
    }


def lyrics_start(lyrics_source: str) -> tuple[str, int]:
    """The file that lyrics stand in, and the line of it, from 1, on which they begin.

    `a.lrc` begins on its line 1. `night.yaml:12` is a block in a job file that begins after its line 12.
    """
    if block := re.fullmatch(r"(.+):([0-9]+)", lyrics_source):
        return block[1], int(block[2]) + 1
    return lyrics_source, 1


@dataclass(slots=True)
class _Source:
    """Where settings were written, a job file or (path None) the options of a command, and what is wrong."""

    path: Path | None
    document: Document | None = None
    problems: list[Problem] = field(default_factory=list)
    wrong: set[KeyPath] = field(default_factory=set)

    def find(self, path: str) -> Path:
        """The absolute path of a file that is named relative to this source."""
        return Path.cwd() / self.shown(path)

    def shown(self, path: str) -> str:
        """A file named relative to this source, as a user of the command would write it."""
        path = os.path.expanduser(path)  # noqa: PTH111 (Path.expanduser raises where there is no such user)
        return path if self.path is None else str(self.path.parent / path)

    def report(self, at: KeyPath, message: str, *, on_key: bool = False) -> None:
        self.wrong.add(at)
        key = str(at[-1]) if at and isinstance(at[-1], str) else ""
        if self.path is None:
            self.problems.append(Problem(f"--{key.replace('_', '-')}: {message}"))
            return
        line, column = self._position(at, on_key=on_key)
        self.problems.append(Problem(f"{key}: {message}" if key else message, self.path, line, column))

    def is_wrong(self, *places: KeyPath) -> bool:
        """Whether something was reported at one of the places, or of what contains it."""
        return any(place[:n] in self.wrong for place in places for n in range(1, len(place) + 1))

    def line(self, at: KeyPath) -> int:
        return 0 if self.document is None else self._position(at)[0]

    def style(self, at: KeyPath) -> str | None:
        """How the text at that place is written: "|" for a block, see yamlfile.Place."""
        place = self.document.values.get(at) if self.document else None
        return place.style if place else None

    def _position(self, at: KeyPath, *, on_key: bool = False) -> tuple[int, int]:
        """Where the value (or key) stands, or else the nearest that contains it."""
        if self.document is None:
            return 1, 1
        if on_key and at in self.document.keys:
            place = self.document.keys[at]
        else:
            nearest = next(at[:n] for n in range(len(at), -1, -1) if at[:n] in self.document.values)
            place = self.document.values[nearest]
        return place.line, place.column


Layer = dict[str, Any]


def _songs_of_file(source: _Source, model: str | None, command: Layer, *, force: bool) -> list[Song]:
    """The songs of one job file; what is wrong with it is reported to source."""
    assert source.path is not None
    try:
        source.document = yamlfile.read(source.path)
    except SpecError as error:
        source.problems += error.problems
        return []
    job = source.path.stem
    if not re.fullmatch(JOB_NAME, job):
        source.report(
            (), f"the file's name {job!r} becomes a folder; use letters, digits, hyphens and no dots"
        )
    _check_keys(source, JobFile, source.document.value)
    top = _mapping(source.document.value)
    if model is None and isinstance(top.get("model"), str):
        model = _model(source, top["model"])
    defaults = _layer(source, ("defaults",), _usable(Defaults, top.get("defaults")))
    listed = top.get("songs")
    songs: list[Song] = []
    lines: dict[str, int] = {}
    for index, item in enumerate(listed if isinstance(listed, list) else []):
        at = ("songs", index)
        own = _layer(source, at, _usable(SongSpec, item))
        layers = [_builtin(), defaults, *([own, command] if force else [command, own])]
        takes = _takes(source, at, job, model or "", layers)
        _check_name(source, (*at, "name"), takes[0], lines)
        songs += takes
    source.problems.sort(key=lambda problem: (problem.line, problem.column))
    return songs


def _takes(source: _Source, at: KeyPath, job: str, model: str, layers: Sequence[Layer]) -> list[Song]:
    """The takes of the song at that place."""
    settings: Layer = {}
    for layer in layers:
        settings = _over(settings, layer)
    spec = SongSpec.model_construct(**settings)
    lyrics, lyrics_source = _lyrics(source, (*at, "lyrics"), spec.lyrics)
    _check_style(source, at, spec)
    _check_bits(source, at, spec)
    first = Song(
        job=job,
        name=spec.name or _name_from_lyrics(source, at, spec.lyrics),
        path=source.path,
        line=source.line(at),
        model=model,
        lyrics=lyrics,
        lyrics_source=lyrics_source,
        style=spec.style,
        style_audio=Path(spec.style_audio) if spec.style_audio else None,
        negative_style=spec.negative_style,
        duration=spec.duration,
        seed=spec.seed,
        take=1,
        preset=spec.preset,
        steps=spec.steps,
        cfg=spec.cfg,
        sampler=spec.sampler,
        language=spec.language,
        lyrics_compat=spec.lyrics_compat,
        precision=spec.precision,
        format=spec.format,
        bits=spec.bits,
        loudness=spec.loudness,
        timeout_s=spec.timeout,
        deadline_s=spec.deadline,
        stall_s=spec.stall,
        attempts=spec.attempts,
        foresight=spec.foresight,
        threads=spec.threads,
        memory_bytes=spec.memory,
        nice=spec.nice,
        resume=spec.resume,
        edit_source=Path(spec.edit.source) if spec.edit else None,
        edit_spans=tuple((start, end) for start, end in spec.edit.spans) if spec.edit else (),
        window=spec.window,
        fade_out=spec.fade_out,
    )
    return [_take(first, number) for number in range(1, spec.takes + 1)]


def _take(first: Song, number: int) -> Song:
    # No name has a dot, so no take can meet the name of another song.
    name = first.name if number == 1 else f"{first.name}.{number}"
    return replace(
        first, name=name, take=number, seed=None if first.seed is None else first.seed + number - 1
    )


def _builtin() -> Layer:
    return SongSpec().model_dump()


def _layer(source: _Source, at: KeyPath, given: Defaults) -> Layer:
    """The settings that were given there, the paths of sound files made absolute."""
    layer = given.model_dump(exclude_unset=True)
    if layer.get("style") and layer.get("style_audio"):
        source.report((*at, "style_audio"), "stands beside style; keep one of the two")
    if clip := layer.get("style_audio"):
        layer["style_audio"] = _sound(source, (*at, "style_audio"), clip)
    if edit := layer.get("edit"):
        file = _sound(source, (*at, "edit", "source"), edit["source"])
        layer["edit"] = Edit(source=file, spans=edit["spans"])
    return layer


def _sound(source: _Source, at: KeyPath, file: str) -> str:
    """The file's absolute path; reported where there is none."""
    if not _stat(source.find(file), Path.is_file):
        source.report(at, f"there is no file {source.shown(file)}; check the path")
    return str(source.find(file))


def _over(below: Layer, above: Layer) -> Layer:
    """The settings of above, and of below where above says nothing."""
    kept = dict(below)
    # A style in words and one from a clip replace each other, as do a preset and a number of steps.
    if above.keys() & {"style", "style_audio"}:
        kept |= {"style": None, "style_audio": None}
    if "preset" in above:
        kept |= {"steps": None}
    return kept | above


def _lyrics(source: _Source, at: KeyPath, lyrics: str | None) -> tuple[str | None, str]:
    """The text of the lyrics and where they stand (see `lyrics_start`); None and "" for an instrumental."""
    if lyrics is None:
        return None, ""
    if _is_inline(lyrics):
        return lyrics, _place_of_block(source, at)
    shown = source.shown(lyrics)
    try:
        text = read_text(source.find(lyrics))
    except TextFileError as error:
        source.report(at, f"{shown}: {error}")
        return None, shown
    if not text.strip():
        source.report(at, f"{shown}: the file is empty; leave lyrics out for an instrumental")
    return text, shown


def _place_of_block(source: _Source, at: KeyPath) -> str:
    """`file:line` of the line before the first of the lyrics."""
    if source.path is None:
        return "--lyrics"
    style = source.style(at)
    if style == ">":
        source.report(at, "a block after > loses its line ends; write | in its place")
    # A block begins on the line after its |, a text in quotes on its own line.
    return f"{source.path}:{source.line(at) - (style != '|')}"


def _check_style(source: _Source, at: KeyPath, spec: SongSpec) -> None:
    places = [(*above, key) for above in (at, ("defaults",)) for key in ("style", "style_audio")]
    if spec.style is None and spec.style_audio is None and not source.is_wrong(*places):
        source.report((*at, "style"), 'is missing; write a style such as "pop, warm piano", or a style_audio')


def _check_bits(source: _Source, at: KeyPath, spec: SongSpec) -> None:
    if spec.bits not in BITS[spec.format]:
        can = " or ".join(map(str, BITS[spec.format]))
        source.report(
            (*at, "bits"), f"{spec.bits} is more than {spec.format} has; write {can}, or another format"
        )


def _check_name(source: _Source, at: KeyPath, song: Song, lines: dict[str, int]) -> None:
    """Note the song's line under its name in lines, or report that an earlier song has the name."""
    if song.name and song.name in lines:
        source.report(
            at, f"the song at line {lines[song.name]} is {song.name!r} already; choose another name"
        )
    lines[song.name] = song.line


def _is_inline(lyrics: str) -> bool:
    return "\n" in lyrics or lyrics.startswith("[")


def slug(text: str) -> str:
    """Return text in small ASCII letters, digits and hyphens, accents dropped; "" where nothing is left."""
    plain = unicodedata.normalize("NFKD", text.casefold()).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")


def _name_from_lyrics(source: _Source, at: KeyPath, lyrics: str | None) -> str:
    """The stem of the lyrics file in small letters, digits and hyphens; reported where that gives no name."""
    place = (*at, "name")
    if source.is_wrong(place) or (lyrics is None and source.is_wrong((*at, "lyrics"))):
        return ""
    if lyrics is None or _is_inline(lyrics):
        source.report(place, "is missing; name the song, for example harbour-lights")
        return ""
    stem = Path(lyrics).stem
    name = slug(stem)
    if not re.fullmatch(NAME, name):
        source.report(place, f"none can be made from {stem!r}; name the song, for example harbour-lights")
    return name


def _model(source: _Source, model: str) -> str:
    """The model's name, or the absolute path of a bundle where it looks like a path."""
    if "/" not in model and not model.startswith((".", "~")):
        return model
    if not _stat(source.find(model), Path.is_dir):
        source.report(("model",), f"there is no folder {source.shown(model)}; check the path")
    return str(source.find(model))


def _stat(path: Path, question: Callable[[Path], bool]) -> bool:
    """The answer, or no where the path is too long or its folder closed to us."""
    try:
        return question(path)
    except OSError:
        return False


def _jobs_of_one_name(paths: Sequence[Path]) -> list[Problem]:
    """A problem for each file whose stem an earlier one has: their songs would share a folder."""
    first: dict[str, int] = {}
    return [
        Problem(
            f"{paths[first[path.stem]]} has the same name, so its songs the same folder; rename one", path
        )
        for index, path in enumerate(paths)
        if first.setdefault(path.stem, index) != index
    ]


def _given(settings: Mapping[str, object]) -> dict[str, object]:
    return {key: value for key, value in settings.items() if value is not None}


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _check_keys(source: _Source, model: type[BaseModel], value: object) -> None:
    """Report each key of value that is not as the model wants it."""
    try:
        model.model_validate(value)
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            if detail["type"] == "extra_forbidden":
                source.report(detail["loc"], _unknown_key(detail["loc"]), on_key=True)
            else:
                source.report(detail["loc"], _complaint(detail))


def _usable(model: type[Model], value: object) -> Model:
    """value as that model without the keys that are wrong, so that what the others say is checked too."""
    given = _mapping(value)
    try:
        return model.model_validate(given)
    except ValidationError as error:
        wrong = {detail["loc"][0] for detail in error.errors()}
        return model.model_validate({key: each for key, each in given.items() if key not in wrong})


def _unknown_key(at: KeyPath) -> str:
    """What to say of a key that is not known at that place."""
    key = str(at[-1])
    here: type[BaseModel] = Defaults if at[:-1] == ("defaults",) else SongSpec
    if len(at) == 1:
        here = JobFile
    elif at[-2] == "edit":
        here = Edit
    near = difflib.get_close_matches(key, here.model_fields, n=1)
    if key == "<<":
        return "merging is not part of YAML 1.2; put what the songs share under defaults"
    if key in JobFile.model_fields:
        return "unknown key here; it belongs at the top of the file"
    if key in SongSpec.model_fields:
        return f"unknown key here; it belongs in {'a song' if here is Defaults else 'defaults or a song'}"
    if near:
        return f"unknown key; did you mean {near[0]}?"
    return f"unknown key; the keys here are {', '.join(here.model_fields)}"


_WANTED = {
    "string_type": "text; put it in quotes",
    "string_unicode": "text in UTF-8",
    "string_too_short": "text that is not empty",
    "string_too_long": "at most {max_length} characters",
    "string_pattern_mismatch": "small letters, digits and hyphens, a letter or digit first",
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "literal_error": "{expected}",
    "greater_than": "a number above {gt:g}",
    "greater_than_equal": "a number of at least {ge:g}",
    "less_than_equal": "a number of at most {le:g}",
    "list_type": "a list, each item after a hyphen",
    "too_short": "at least {min_length}",
    "too_long": "at most {max_length}",
    "model_type": "keys with values",
}


def _complaint(detail: ErrorDetails) -> str:
    """What is wrong with a value and what to write, from pydantic's error."""
    kind, context, value = detail["type"], detail.get("ctx", {}), detail["input"]
    if kind == "missing":
        return "is missing; add it"
    if detail["loc"][-1:] == ("lyrics",) and isinstance(value, list):
        return (
            "a list cannot be used (in YAML, what begins with [ or - is one); write `lyrics: |` and the "
            "lines below it, indented"
        )
    if kind == "value_error":
        wanted = str(context["error"]).removeprefix("write ")
    elif kind in _WANTED:
        wanted = _WANTED[kind].format(**context)
    else:
        wanted = detail["msg"]
    return f"{_shown(value)} cannot be used; write {wanted}"


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "no value"
    if isinstance(value, dict | list):
        return f"{'a list' if isinstance(value, list) else 'a mapping'} of {len(value)}"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
