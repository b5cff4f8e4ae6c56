"""Models on this machine, asked of a worker child: which there are, and get, check or find one.

The child writes its answer on the paper of the question, and how far it is to stderr.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from runner import processes
from runner.errors import ForeignFileError, ModelError
from runner.files import read_json, write_json
from runner.words import size

SCHEMA = 1
# A child that tunes touches this beside its paper whenever it has come a step further.
MOVED = "moved"
# A step of the largest song takes minutes on a slow machine, and a model from a cold disk some more.
STALL_S = 3600.0
# Deaths in a row without a step between them.
DEATHS = 3
WORKER = (sys.executable, "-P", "-m", "runner.worker", "models")

Verb = Literal["list", "pull", "import", "verify", "path", "tune", "calibrate"]
State = Literal["whole", "absent", "damaged"]


@dataclass(frozen=True, slots=True)
class Question:
    """What to do, with which model; all paths are absolute. name: None where the verb is for all models.

    songs, steps: to tune with, and the steps to find grids of. unasked: only where it is of use, and what
    prevents it is no error.
    """

    verb: Verb
    name: str | None = None
    dit: str | None = None
    vae: str | None = None
    source: str | None = None
    songs: int = 0
    steps: list[int] = field(default_factory=list)
    unasked: bool = False
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
        code = _run([*worker, str(paper)], env=_env(question))
        if code != 0:
            raise ModelError(f"the worker ended with exit code {code} and no answer; what it said is above")
        return read(paper, Answer)


def ask_long(question: Question, *, worker: Sequence[str] = WORKER, stall_s: float = STALL_S) -> Answer:
    """As `ask`, for hours of work whose child keeps what it did: where it dies or hangs, another goes on.

    Raises ModelError when they come no step further in several lives.
    """
    with tempfile.TemporaryDirectory(prefix="runner-models-") as name:
        paper, moved = Path(name, "models.json"), Path(name, MOVED)
        deaths = 0
        while True:
            write(paper, question)
            moved.touch()
            before = moved.stat().st_mtime
            code = _run([*worker, str(paper)], moved, stall_s, env=_env(question))
            if code == 0:
                return read(paper, Answer)
            deaths = deaths + 1 if moved.stat().st_mtime == before else 1
            why = "the worker hung, and was killed" if code is None else f"the worker died (exit code {code})"
            if deaths == DEATHS:
                raise ModelError(f"{why} {DEATHS} times without a step; what it said is above")
            print(f"{why}; it goes on where it was", file=sys.stderr)


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
        (model.name, model.state, size(model.bytes), model.durations, model.note or model.folder)
        for model in models
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[4]])
        for row in rows
    ]


def _env(question: Question) -> dict[str, str] | None:
    """Who goes to the network gets all of ours, the hub's token and the proxies among it."""
    return None if question.verb == "pull" else processes.passed_on(os.environ)


def _run(
    command: list[str],
    moved: Path | None = None,
    stall_s: float | None = None,
    *,
    env: dict[str, str] | None,
) -> int | None:
    """Exit code of the child, which hears of every signal that would stop us; None where it was killed.

    It is, where it has not touched `moved` between two looks, stall_s apart on a clock that sleeps with us.
    """
    parent = os.getpid()
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        env=env,
        preexec_fn=lambda: processes.die_with(parent),
    )
    hung, seen = False, None
    with _passing_on(process) as heard:
        while True:
            try:
                code = process.wait(stall_s)
                break
            except subprocess.TimeoutExpired:
                before, seen = seen, None if moved is None else moved.stat().st_mtime
                hung = seen == before
                if hung:
                    process.kill()
    if heard:
        print("stopped; the same command goes on where it was", file=sys.stderr)
        raise SystemExit(128 + heard[0])
    return None if hung else code


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
