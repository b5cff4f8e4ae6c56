from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from runner import textfile, yamlfile
from runner.errors import Problem, SpecError, TextFileError
from runner.yamlfile import Place, parse

FILE = Path("jobs/night.yaml")


def problems_of(text: str) -> tuple[Problem, ...]:
    try:
        parse(text, FILE)
    except SpecError as error:
        return error.problems
    return ()


def only_problem(text: str) -> str:
    (problem,) = problems_of(text)
    return str(problem)


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("1:30", "1:30"),
        ("22:30:00", "22:30:00"),
        ("no", "no"),
        ("on", "on"),
        ("Yes", "Yes"),
        ("2026-11-24", "2026-11-24"),
        ("1_000", "1_000"),
        ("0b1", "0b1"),
        ("=", "="),
        ("true", True),
        ("FALSE", False),
        ("~", None),
        ("", None),
        ("010", 10),
        ("0o17", 15),
        ("0x1F", 31),
        ("-7", -7),
        ("1e3", 1000.0),
        ("-.inf", float("-inf")),
        (".5", 0.5),
        ("'7'", "7"),
        ("!!str 7", "7"),
        ("!!float 7", 7.0),
    ],
)
def test_a_plain_value_means_what_yaml_1_2_says(written: str, value: object) -> None:
    (read,) = parse(f"key: {written}", FILE).value.values()
    assert read == value
    assert type(read) is type(value)


def test_every_key_and_value_keeps_its_line_and_column() -> None:
    document = parse("songs:\n  - name: a\n    lyrics: |\n      [00:10.00]la\n  - {name: b}\n", FILE)
    assert document.value == {"songs": [{"name": "a", "lyrics": "[00:10.00]la\n"}, {"name": "b"}]}
    assert document.keys["songs", 0, "lyrics"] == Place(3, 5)
    assert document.values["songs", 0, "lyrics"] == Place(3, 13, "|")
    assert document.values["songs", 0, "name"] == Place(2, 11)
    assert document.values["songs", 1] == Place(5, 5)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: 1\nb: 2\na: 3", ":3:1: the key 'a' stands twice, first at line 1; remove one"),
        ("a:\n\tb: 1", ":2:1: a tab where YAML wants spaces; indent with spaces"),
        ("", ":1:1: the file is empty; write `model:` and `songs:`"),
        ("# only a comment\n", ":1:1: the file is empty; write `model:` and `songs:`"),
        ("a: 1\n---\nb: 2", ":2:1: a second document begins here; keep one in each file"),
        ("1: a", ":1:1: a key must be text; put it in quotes"),
        ("true: a", ":1:1: a key must be text; put it in quotes"),
        ("[a]: b", ":1:1: a key must be text; put it in quotes"),
        (
            "a: !!python/name:os.system ''",
            ":1:4: the tag 'tag:yaml.org,2002:python/name:os.system' is not allowed",
        ),
        (
            "a: !!timestamp 2026-11-24",
            ":1:4: the tag 'tag:yaml.org,2002:timestamp' is not allowed here; remove it",
        ),
        ("a: !!int many", ":1:4: 'many' is not a valid int; correct it"),
        ("a: " + "9" * 50, ":1:4: '9999999999999999999999999999999999999…' is not a valid int; correct it"),
        ("a: x\0y", ":1:5: the character U+0000 is not allowed in YAML; remove it"),
        (
            "a: 1\nlyrics: [00:10.00] la la",
            ":2:20: lyrics between the keys; write `lyrics: |` and the lines below",
        ),
        ("a: 'open", ":1:9: this is not valid YAML: found unexpected end of stream"),
        ("a: *nobody", ":1:4: this is not valid YAML: found undefined alias 'nobody'"),
        ("a: &me [*me]", ":1:4: an alias that contains itself; write the value out"),
        ("[" * 100_000, ":1:21: nested deeper than 20 levels"),
        ("a: [&x 1" + ", *x" * 1001 + "]", ":1:4011: more than 1000 aliases; write the values out"),
    ],
)
def test_what_is_not_strict_yaml_is_refused_at_its_place(text: str, problem: str) -> None:
    assert only_problem(text).startswith(f"{FILE}{problem}")


def test_aliases_that_multiply_are_bounded() -> None:
    levels = [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]" for n in range(1, 10)]
    assert "more than 50000 values" in only_problem("l0: &l0 [x]\n" + "\n".join(levels))


def test_an_honest_alias_is_expanded() -> None:
    assert parse("a: &style folk\nb: *style", FILE).value == {"a": "folk", "b": "folk"}


def test_all_duplicate_keys_are_told_at_once() -> None:
    problems = problems_of("a: 1\na: 2\nb: {c: 1, c: 2}")
    assert [(problem.line, problem.column) for problem in problems] == [(2, 1), (3, 11)]


def test_pyyaml_itself_keeps_its_own_rules() -> None:
    assert yaml.safe_load("a: no") == {"a": False}


@given(st.text())
def test_any_text_is_either_read_or_refused_with_a_place(text: str) -> None:
    assert all(problem.line >= 1 and problem.column >= 1 for problem in problems_of(text))


@given(st.text(alphabet="[]{}:,-|>&*!#'\"?\n\t ab1.~<%@`"))
def test_any_heap_of_yaml_signs_is_either_read_or_refused(text: str) -> None:
    assert all(str(problem).startswith(str(FILE)) for problem in problems_of(text))


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**12), 10**12)
    | st.text(st.characters(min_codepoint=32, max_codepoint=126)),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.text("xyz", min_size=1), json_values, min_size=1))
def test_what_pyyaml_writes_is_read_back(value: dict[str, object]) -> None:
    # Quotes around all text: PyYAML leaves out those that only YAML 1.2 needs.
    assert parse(yaml.safe_dump(value, default_style='"'), FILE).value == value


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_bytes(b"\xef\xbb\xbfa: 1\r\n")
    assert textfile.read_text(file) == "a: 1\r\n"
    assert yamlfile.read(file).value == {"a": 1}


def test_a_file_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    latin, large, folder = tmp_path / "latin.yaml", tmp_path / "large.yaml", tmp_path / "folder.yaml"
    latin.write_bytes(b"a: 1\nb: caf\xe9\n")
    large.write_bytes(b"#" * (textfile.MAX_BYTES + 1))
    folder.mkdir()
    for file, why in [
        (latin, "is not UTF-8 (line 2); save it as UTF-8"),
        (large, "is larger than 1 MiB; is it the right file?"),
        (folder, "is not a file; check the path"),
        (Path("/dev/zero"), "is not a file; check the path"),
        (tmp_path / "none.yaml", "there is no such file; check the path"),
    ]:
        with pytest.raises(SpecError) as caught:
            yamlfile.read(file)
        assert str(caught.value) == f"{file}:1:1: {why}"


def test_a_name_too_long_for_the_disk_is_a_plain_error(tmp_path: Path) -> None:
    with pytest.raises(TextFileError, match="cannot be read"):
        textfile.read_text(tmp_path / ("x" * 300))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('a: "\\ud800"', r"1:4: '\ud800' is not a valid str; correct it"),
        ('"\\udcff": 1', "1:1: a key must be text; put it in quotes"),
        ("? !!str [a]\n: b", "1:3: a key must be text; put it in quotes"),
    ],
)
def test_half_a_character_and_a_list_that_calls_itself_text_are_refused(text: str, problem: str) -> None:
    with pytest.raises(SpecError) as caught:
        yamlfile.parse(text, Path("night.yaml"))
    assert str(caught.value) == f"night.yaml:{problem}"
