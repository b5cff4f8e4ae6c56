"""Strict YAML that remembers where each value stands.

PyYAML's safe loader, made strict: the YAML 1.2 core schema (`1:30`, `no` and `on` are text), keys are text
and unique, tags and merge keys are refused, depth and the expansion of aliases are bounded.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import yaml
from yaml.reader import ReaderError

from runner.errors import Problem, SpecError, TextFileError
from runner.textfile import read_text

KeyPath = tuple[str | int, ...]

MAX_DEPTH = 20
# A batch of 1000 songs with 20 keys each; a "billion laughs" file passes this in its first thousandth.
MAX_VALUES = 50_000
MAX_ALIASES = 1_000
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a key or a value begins, from 1. style: "|" or ">" for a block of text, quotes, else None."""

    line: int
    column: int
    style: str | None = None


@dataclass(frozen=True, slots=True)
class Document:
    """One YAML document: its plain value, and the place of each value and of each mapping's keys."""

    value: object
    values: dict[KeyPath, Place]
    keys: dict[KeyPath, Place]


def read(path: Path) -> Document:
    """The document in the file. Raises SpecError with every problem found."""
    try:
        text = read_text(path)
    except TextFileError as error:
        raise SpecError([Problem(str(error), path)]) from error
    return parse(text, path)


def parse(text: str, path: Path) -> Document:
    """The one document in text; path is only named in problems. Raises SpecError with every problem found."""
    try:
        node = _StrictLoader(text).get_single_node()
    except ReaderError as error:
        raise SpecError([_unprintable(error, text, path)]) from error
    except yaml.MarkedYAMLError as error:
        raise SpecError([_syntax(error, text, path)]) from error
    if node is None:
        raise SpecError([Problem("the file is empty; write `model:` and `songs:`", path)])
    builder = _Builder(path)
    value = builder.build(node, ())
    if builder.problems:
        raise SpecError(builder.problems)
    return Document(value, builder.values, builder.keys)


class _BoundError(yaml.MarkedYAMLError):
    """YAML that is valid, and more than a job file needs."""


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader up to nodes, with YAML 1.2's rules for plain scalars and a bound on depth and aliases."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 (PyYAML's way)

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._aliases = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self._aliases += self.check_event(yaml.AliasEvent)
        if self._aliases > MAX_ALIASES:
            self._refuse(f"more than {MAX_ALIASES} aliases; write the values out")
        self._depth += 1
        if self._depth > MAX_DEPTH:
            self._refuse(f"nested deeper than {MAX_DEPTH} levels; a job file needs five")
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def _refuse(self, problem: str) -> NoReturn:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        raise _BoundError(problem=problem, problem_mark=event.start_mark)


_SCALARS = {
    "null": (r"~|null|Null|NULL|", "~nN\0"),
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    "float": (
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+0123456789.",
    ),
}
for _name, (_pattern, _first) in _SCALARS.items():
    # PyYAML looks an empty scalar up under "".
    _firsts = ["" if character == "\0" else character for character in _first]
    _StrictLoader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_name}", re.compile(rf"(?:{_pattern})\Z"), _firsts
    )


@dataclass(slots=True)
class _Builder:
    """Turns nodes into plain values, noting places and problems on the way."""

    path: Path
    values: dict[KeyPath, Place] = field(default_factory=dict)
    keys: dict[KeyPath, Place] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def build(self, node: yaml.Node, at: KeyPath) -> object:
        if len(self.values) >= MAX_VALUES:
            raise SpecError([self._problem(node, f"more than {MAX_VALUES} values; split the file")])
        # An alias inside its own anchor never ends.
        if len(at) > MAX_DEPTH:
            raise SpecError([self._problem(node, "an alias that contains itself; write the value out")])
        self.values[at] = _place(node)
        kind = node.tag.removeprefix("tag:yaml.org,2002:")
        if isinstance(node, yaml.MappingNode) and kind == "map":
            return self._mapping(node, at)
        if isinstance(node, yaml.SequenceNode) and kind == "seq":
            return [self.build(item, (*at, index)) for index, item in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode) and kind in ("str", *_SCALARS):
            return self._scalar(node, kind)
        self.problems.append(self._problem(node, f"the tag {node.tag!r} is not allowed here; remove it"))
        return None

    def _mapping(self, node: yaml.MappingNode, at: KeyPath) -> dict[str, object]:
        mapping: dict[str, object] = {}
        for key_node, value_node in node.value:
            key = key_node.value
            if not _is_text(key_node) or _SURROGATE.search(key):
                self.problems.append(self._problem(key_node, "a key must be text; put it in quotes"))
            elif key in mapping:
                first = self.keys[*at, key].line
                self.problems.append(
                    self._problem(
                        key_node, f"the key {key!r} stands twice, first at line {first}; remove one"
                    )
                )
            else:
                self.keys[*at, key] = _place(key_node)
                mapping[key] = self.build(value_node, (*at, key))
        return mapping

    def _scalar(self, node: yaml.ScalarNode, kind: str) -> object:
        try:
            return _value(node.value, kind)
        except ValueError:
            self.problems.append(
                self._problem(node, f"{_short(node.value)} is not a valid {kind}; correct it")
            )
            return None

    def _problem(self, node: yaml.Node, message: str) -> Problem:
        return Problem(message, self.path, *_line_and_column(node.start_mark))


def _value(text: str, kind: str) -> str | int | float | bool | None:
    """The value of a scalar by the YAML 1.2 core schema; kind: str, null, bool, int or float.

    Raises ValueError where text is none of that kind, half a character, or a number of more than 40 digits.
    """
    if kind == "str":
        if _SURROGATE.search(text):  # "\ud800" in quotes; no file or path can hold it
            raise ValueError(text)
        return text
    if len(text) > 40 or not re.fullmatch(_SCALARS[kind][0], text):
        raise ValueError(text)
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    if kind == "int":
        # "010" is ten in YAML 1.2, where Python's base 0 refuses it.
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    return float(re.sub(r"\.(inf|nan)", r"\1", text.lower()))


def _is_text(node: yaml.Node) -> bool:
    # A tag can call a list text.
    return isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:str"


def _place(node: yaml.Node) -> Place:
    return Place(*_line_and_column(node.start_mark), style=getattr(node, "style", None))


def _line_and_column(mark: yaml.Mark | None) -> tuple[int, int]:
    return (1, 1) if mark is None else (mark.line + 1, mark.column + 1)


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "…")


def _unprintable(error: ReaderError, text: str, path: Path) -> Problem:
    before = text[: error.position]
    line = before.count("\n") + 1
    column = len(before) - (before.rfind("\n") + 1) + 1
    code = ord(error.character) if isinstance(error.character, str) else error.character
    return Problem(f"the character U+{code:04X} is not allowed in YAML; remove it", path, line, column)


def _syntax(error: yaml.MarkedYAMLError, text: str, path: Path) -> Problem:
    """PyYAML's complaint in plain words, with the usual reason where it is known."""
    line, column = _line_and_column(error.problem_mark or error.context_mark)
    lines = text.splitlines()
    source = lines[line - 1] if line <= len(lines) else ""
    what = error.problem or str(error)
    if isinstance(error, _BoundError):
        message = what
    elif "'\\t'" in what:
        message = "a tab where YAML wants spaces; indent with spaces"
    elif re.search(r"\[\d+:\d", source):
        message = "lyrics between the keys; write `lyrics: |` and the lines below it, indented"
    elif "expected a single document" in (error.context or ""):
        message = "a second document begins here; keep one in each file"
    else:
        message = f"this is not valid YAML: {what}; correct the line or the one before it"
    return Problem(message, path, line, column)
