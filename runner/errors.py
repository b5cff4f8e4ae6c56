"""What can go wrong in the runner half, by what happened.

    RunnerError                 exit 1
    ├── UsageError              exit 2: nothing was started
    │   ├── SpecError           job files or options that cannot be used; holds every problem found
    │   └── TextFileError       a text file of the user's that cannot be read
    ├── LockedError             exit 75: another batch holds the output folder
    ├── OutputError             the output folder cannot be written
    ├── CheckError              the child that checks a batch beforehand has itself failed
    ├── ModelError              a model that could not be got, checked or found
    ├── ClusterError            a cluster that cannot be reached, or has no machine for a song
    │   └── MachineError        one of its machines cannot sing; another one may
    └── ForeignFileError        a state file that is torn, of a newer version, or not ours

Messages have three parts: what is wrong, where, what to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

# A path has 4096 bytes at most, what is said of it a sentence or two.
_LONGEST_LINE = 5000


class RunnerError(Exception):
    """Base of every error that this package raises on purpose. str() gives one line, see `one_line`."""

    exit_code: ClassVar[int] = 1

    def __str__(self) -> str:
        return one_line(super().__str__())


def one_line(text: str) -> str:
    """text on one line that every terminal and log can show, whatever stands in it; cut in the middle."""
    if not text.isprintable():
        text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    half = _LONGEST_LINE // 2
    return text if len(text) <= _LONGEST_LINE else f"{text[:half]} … {text[-half:]}"


class UsageError(RunnerError):
    """The command or a job file is wrong; nothing was started."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing to mend: in a job file at line and column (from 1), or in an option that message names."""

    message: str
    path: Path | None = None
    line: int = 1
    column: int = 1

    def __str__(self) -> str:
        place = "" if self.path is None else f"{self.path}:{self.line}:{self.column}: "
        return one_line(f"{place}{self.message}")


class SpecError(UsageError):
    """Job files or options that cannot be used; str() gives one line for each problem."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = tuple(problems)

    def __str__(self) -> str:
        return "\n".join(map(str, self.problems))


class TextFileError(UsageError):
    """A text file of the user's that is missing, too large or not UTF-8; the message says what to do."""


class LockedError(RunnerError):
    """Another batch holds the output folder."""

    exit_code = 75  # EX_TEMPFAIL: try again later


class OutputError(RunnerError):
    """The output folder cannot be written."""


class CheckError(RunnerError):
    """The child that checks a batch before it starts has itself failed."""


class ModelError(RunnerError):
    """A model that could not be got, checked or found; str() gives one line for each problem."""

    def __str__(self) -> str:
        return "\n".join(map(one_line, str(self.args[0]).split("\n")))


class ClusterError(RunnerError):
    """A cluster that cannot be reached, or that has no machine for a song."""


class MachineError(ClusterError):
    """A machine of a cluster that cannot make a song which another one may."""

    def __init__(self, words: str, machine: str) -> None:
        """machine: what the cluster knows it by."""
        super().__init__(words, machine)
        self.machine = machine

    def __str__(self) -> str:
        return one_line(str(self.args[0]))


class ForeignFileError(RunnerError):
    """A state file that is torn, written by a newer version, or not ours."""
