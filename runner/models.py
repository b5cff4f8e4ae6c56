"""Models on this machine, asked of a worker child: which there are, and get, check or find one.

The child writes its answer on the paper of the question, and how far it is to stderr.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from runner.errors import ForeignFileError, ModelError
from runner.files import read_json, write_json

SCHEMA = 1
WORKER = (sys.executable, "-P", "-m", "runner.worker", "models")

Verb = Literal["list", "pull", "import", "verify", "path"]
State = Literal["whole", "absent", "damaged"]


@dataclass(frozen=True, slots=True)
class Question:
    """What to do, with which model; all paths are absolute. name: None where the verb is for all models."""

    verb: Verb
    name: str | None = None
    dit: str | None = None
    vae: str | None = None
    source: str | None = None
    schema: int = SCHEMA


@dataclass(frozen=True, slots=True)
class Model:
    """A model that has a name. bytes: on disk, or about what it will take. note: what is wrong with it."""

    name: str
    state: State
    folder: str
    bytes: int
    durations: str
    licence: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of it. words: for people, a line each. problems: why it could not be done, a line each."""

    models: list[dict[str, Any]] = field(default_factory=list)
    folder: str = ""
    words: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    schema: int = SCHEMA

    def raise_problems(self) -> None:
        """Raises ModelError if there are any."""
        if self.problems:
            raise ModelError("\n".join(self.problems))


Paper = TypeVar("Paper", Question, Answer)


def ask(question: Question, *, worker: Sequence[str] = WORKER) -> Answer:
    """The child's answer. Raises ModelError if there is none; SystemExit, as a signal's, when stopped."""
    with tempfile.TemporaryDirectory(prefix="runner-models-") as name:
        paper = Path(name, "models.json")
        write(paper, question)
        code = _run([*worker, str(paper)])
        if code != 0:
            raise ModelError(f"the worker ended with exit code {code} and no answer; what it said is above")
        return read(paper, Answer)


def write(paper: Path, content: Question | Answer) -> None:
    write_json(paper, asdict(content), durable=False)


def read(paper: Path, kind: type[Paper]) -> Paper:
    """What is on the paper. Raises ForeignFileError for anything else."""
    content = read_json(paper)
    if content.get("schema") != SCHEMA or content.keys() != {each.name for each in fields(kind)}:
        raise ForeignFileError(f"{paper}: no {kind.__name__} of schema {SCHEMA}; run it again")
    if kind is Question and content["verb"] not in get_args(Verb):
        raise ForeignFileError(f"{paper}: unknown verb {content['verb']!r}; run it again")
    return kind(**content)


def table(models: Sequence[Model]) -> list[str]:
    """A line for each model, in columns."""
    rows = [
        (model.name, model.state, _size(model.bytes), model.durations, model.note or model.folder)
        for model in models
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[4]])
        for row in rows
    ]


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 10**9 else f"{count / 1e6:.0f} MB"


def _run(command: list[str]) -> int:
    """Exit code of the child, which hears of every signal that would stop us."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    with _passing_on(process) as heard:
        code = process.wait()
    if heard:
        print("stopped; the same command goes on where it was", file=sys.stderr)
        raise SystemExit(128 + heard[0])
    return code


@contextmanager
def _passing_on(process: subprocess.Popen[bytes]) -> Iterator[list[int]]:
    """Signals that would stop us go to process, too; yields those that came."""
    heard: list[int] = []

    def pass_on(number: int, _: object) -> None:
        heard.append(number)
        process.send_signal(signal.SIGTERM)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, pass_on) for number in numbers}
    try:
        yield heard
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
