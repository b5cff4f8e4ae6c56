"""A commented job file from a folder of timed lyrics, ready to be checked, for people to go on with."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from runner.errors import ForeignFileError, OutputError, TextFileError, UsageError, one_line
from runner.files import make_folder, read_json, write_bytes
from runner.jobfile import JobFile, json_schema
from runner.spec import JOB_NAME, slug
from runner.textfile import read_text

SCHEMA_FILE = "job.schema.json"
STYLE = "pop song, warm piano"
# Seconds of the longest song that a model makes at once.
LONGEST_S = {"demo": 40, "diffrhythm-1.2": 95, "diffrhythm-1.2-full": 285}
# What is added to the last line where no duration is named: its own singing and what fades after it.
TAIL_S = 10
_MOST_SONGS = 1000
_LONGEST_NAME = 90
_STAMP = re.compile(r"\[(\d{1,3}):(\d{1,2})(?:[.:]\d{1,3})?\]")
# Milliseconds that all lines begin earlier by.
_OFFSET = re.compile(r"^\s*\[offset:\s*([+-]?\d{1,7})\s*\]\s*$", re.MULTILINE | re.IGNORECASE)
_TAG = re.compile(r"^\s*\[(ti|ar|length):(.*)\]\s*$", re.MULTILINE | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Sheet:
    """One file of lyrics: what its tags say, and when its last line begins (seconds)."""

    file: Path
    title: str
    artist: str
    length: str
    last_s: int


def read_folder(folder: Path) -> tuple[list[Sheet], list[str]]:
    """The lyrics in a folder, by name, and why others there cannot be used. Raises UsageError without any."""
    if not folder.is_dir():
        raise UsageError(f"{folder}: is no folder; name the one with your .lrc files")
    try:
        files = sorted(path for path in folder.iterdir() if path.suffix.lower() == ".lrc")
    except OSError as error:
        raise UsageError(f"{folder}: {error.strerror}; make it readable") from error
    found: list[Sheet] = []
    left_out: list[str] = []
    for file in files:
        try:
            found.append(_read(file))
        except TextFileError as error:
            left_out.append(one_line(f"{file}: {error}; left out"))
    if not found:
        told = "".join(f"\n{line}" for line in left_out)
        raise UsageError(
            f"{folder}: no timed lyrics here; put files such as song.lrc there, with lines like "
            f"[00:12.50]Evening comes{told}"
        )
    if len(found) > _MOST_SONGS:
        raise UsageError(
            f"{folder}: {len(found)} songs; a job file has {_MOST_SONGS} at most, use two folders"
        )
    return found, left_out


def _read(file: Path) -> Sheet:
    if not file.name.isprintable():
        raise TextFileError("has a name that a job file cannot hold; rename it")
    text = read_text(file)
    times = [60 * int(minutes) + int(seconds) for minutes, seconds in _STAMP.findall(text)]
    if not times:
        raise TextFileError("has no line with a time; write them like [00:12.50]Evening comes")
    offset = _OFFSET.search(text)
    last_s = max(0.0, max(times) - int(offset[1]) / 1000 if offset else max(times))
    tags = {key.lower(): one_line(value.strip())[:60] for key, value in _TAG.findall(text)}
    return Sheet(file, tags.get("ti", ""), tags.get("ar", ""), tags.get("length", ""), math.ceil(last_s))


def write(
    sheets: Sequence[Sheet], out: Path, *, model: str = "demo", style: str | None = None, force: bool = False
) -> None:
    """Put a job file of these songs at out, and the schema that editors explain it by where there is none.

    Raises UsageError for a name that no job can have or a file that is there, OutputError for a full disk.
    """
    if not re.fullmatch(JOB_NAME, out.stem) or out.suffix not in (".yaml", ".yml"):
        raise UsageError(
            f"{out}: a job file ends in .yaml, and has letters, digits and hyphens before that; choose "
            "another name with --out"
        )
    if out.exists() and not force:
        raise UsageError(
            f"{out}: is there already; take another name with --out, or write over it with --force"
        )
    try:
        make_folder(out.parent)
        schema = _schema(out.parent)
        write_bytes(out, text(sheets, out, schema=schema, model=model, style=style).encode())
    except OSError as error:
        raise OutputError(f"{out}: {error.strerror}; choose another place with --out") from error


def _schema(folder: Path) -> str:
    """Where the schema lies, seen from folder; written, or brought up to date, where none lies above."""
    if (folder.absolute().parent / SCHEMA_FILE).is_file():
        return f"../{SCHEMA_FILE}"
    file = folder / SCHEMA_FILE
    if not file.exists() or _is_ours(file):
        write_bytes(file, f"{json.dumps(json_schema(), indent=2, ensure_ascii=False)}\n".encode())
    return SCHEMA_FILE


def _is_ours(file: Path) -> bool:
    try:
        return read_json(file).get("title") == JobFile.__name__
    except (OSError, ForeignFileError):
        return False


def text(sheets: Sequence[Sheet], out: Path, *, schema: str, model: str, style: str | None) -> str:
    """The job file; paths in it are relative to out's folder."""
    longest = LONGEST_S.get(model)
    is_long = longest is not None and any(sheet.last_s + TAIL_S > longest for sheet in sheets)
    window = f"window: {longest or 95}"
    file = one_line(shlex.quote(str(out)))
    lines = [
        f"# yaml-language-server: $schema={schema}",
        f"# Is everything right?  runner check {file}",
        f"# Make the songs:       runner batch {file}",
        _commented(f"model: {_quoted(_model(model, out))}", "see: runner models list"),
        "",
        "defaults:                       # for every song; a song can have its own",
        _commented(
            f"  style: {_quoted(style or STYLE)}",
            "genre, mood, instruments, voice" if style else "how they should sound: change this",
        ),
        _commented("  # preset: high", "preview, draft, standard, high, max; without: auto"),
        _commented("  # takes: 2", "versions of each song"),
        _commented("  # seed: 7", "the same seed makes the same song"),
        _commented("  # fade_out: 4", "seconds"),
        _commented("  # format: flac", "wav, flac, ogg or mp3"),
        _commented(f"  {window}", "longer songs in overlapping windows of so many seconds")
        if is_long
        else _commented(f"  # {window}", "for songs longer than the model makes at once"),
        "",
        "songs:",
    ]
    for sheet, name in zip(sheets, names([sheet.file.stem for sheet in sheets]), strict=True):
        about = ", ".join(filter(None, (sheet.title, sheet.artist)))
        lines += [
            _commented(f"  - name: {name if _is_plain(name) else _quoted(name)}", about),
            f"    lyrics: {_quoted(_path(sheet.file, out))}",
            _commented(
                f"    # duration: {_seconds(sheet)}", f"seconds; without: to the end of {_last(sheet)}"
            ),
        ]
    return "\n".join(lines) + "\n"


def names(stems: Sequence[str]) -> list[str]:
    """A name for each, all different: small letters, digits and hyphens; song-3 where nothing is left."""
    taken: set[str] = set()
    found = []
    for number, stem in enumerate(stems, start=1):
        name = slug(stem)[:_LONGEST_NAME].strip("-") or f"song-{number}"
        count = 1
        unique = name
        while unique in taken:
            count += 1
            unique = f"{name}-{count}"
        taken.add(unique)
        found.append(unique)
    return found


def _seconds(sheet: Sheet) -> int:
    length = re.fullmatch(r"(\d{1,3}):(\d{1,2})(?:\.\d+)?", sheet.length)
    named = 60 * int(length[1]) + int(length[2]) if length else 0
    return named if named > sheet.last_s else sheet.last_s + TAIL_S


def _last(sheet: Sheet) -> str:
    return f"the last line, which begins at {sheet.last_s // 60}:{sheet.last_s % 60:02d}"


def _is_plain(name: str) -> bool:
    """Is it text to YAML without quotes? 123, 1e5 and true are not."""
    return name[0].isalpha() and name not in ("true", "false", "null")


def _path(file: Path, out: Path) -> str:
    path = os.path.relpath(file.absolute(), out.parent.absolute())
    return f"./{path}" if path.startswith(("[", "~")) else path  # lyrics themselves, somebody's home


def _model(model: str, out: Path) -> str:
    """A model's name, or the path of a bundle as out names it."""
    if "/" not in model and not model.startswith((".", "~")):
        return model
    path = os.path.relpath(Path(model).expanduser().absolute(), out.parent.absolute())
    return path if path.startswith(".") else f"./{path}"


def _commented(line: str, comment: str) -> str:
    return f"{line:<31} # {comment}" if comment else line


def _quoted(text: str) -> str:
    quoted: str = yaml.safe_dump(text, default_style='"', allow_unicode=True, width=10**6)
    return quoted.rstrip("\n")
