"""The table of a song's lines: what is marked, and that no row is wider than the terminal."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from runner.lyricsheet import as_json, dense, problem, sheet
from runner.messages import SongAnswer, SungLine

WELL = SungLine(3, 2.25, "low tide", 48, 0, 20, 72, 0, ["l", "oʊ", "t", "aɪ", "d"], 1.5)
CASES = [
    ({}, ""),
    ({"frame": None}, "not sung"),
    ({"takes": 80}, "too dense +8"),
    ({"takes": 72}, ""),
    ({"late": 9}, "late +9"),
    ({"late": 9, "takes": 80}, "too dense +8"),
    ({"lost": 4, "takes": 80}, "cut -4"),
    ({"per_s": 15.1}, "quick"),
    ({"per_s": 15.0}, ""),
    ({"per_s": None, "has": 0}, "too dense +20"),
]


@pytest.mark.parametrize(("changes", "words"), CASES)
def test_what_is_wrong_with_a_line_is_told_the_worst_first(changes: dict[str, int], words: str) -> None:
    assert problem(replace(WELL, **changes)) == words


def test_only_the_lines_with_too_little_time_are_dense() -> None:
    lines = [replace(WELL, **changes) for changes, _ in CASES]
    assert [problem(line) for line in dense(lines)] == [
        words for _, words in CASES if words.startswith(("too dense", "quick"))
    ]


def test_a_line_stands_with_its_numbers_words_and_phones() -> None:
    head, row = sheet([replace(WELL, at_s=59.999)], 100)
    assert head.split() == ["line", "time", "at", "frames", "sounds", "/s", "words", "phones"]
    assert row.split() == [
        "3",
        "1:00.00",
        "48",
        "20/72",
        "5",
        "1.5",
        "low",
        "tide",
        "l",
        "oʊ",
        "t",
        "aɪ",
        "d",
    ]


@given(st.integers(60, 120))
def test_where_there_are_no_phones_words_have_all_the_room(width: int) -> None:
    _, row = sheet([replace(WELL, text="tide " * 30, sounds=["a"] * 99, takes=80)], width)
    assert ("a a" in row) or cell_len(row) == width


@given(
    st.lists(
        st.builds(
            SungLine,
            st.integers(1, 2000),
            st.floats(0, 60_000),
            st.text(max_size=60),
            st.none() | st.integers(0, 9999),
            st.integers(0, 9999),
            st.integers(0, 9999),
            st.integers(0, 9999),
            st.integers(0, 9999),
            st.lists(st.sampled_from(["uɑŋ→", "ts`ʰ", "a"]), max_size=60),
            st.none() | st.floats(0, 999),
        ),
        min_size=1,
        max_size=9,
    ),
    st.integers(80, 200),
)
def test_no_row_is_wider_than_the_terminal_or_breaks_it(lines: list[SungLine], width: int) -> None:
    rows = sheet(lines, width)
    assert len(rows) == len(lines) + 1
    assert all(cell_len(row) <= width and row.isprintable() for row in rows)


def test_programs_are_told_every_line_and_what_is_wrong_with_it() -> None:
    answer = SongAnswer("a/b", [], ["odd"], duration=4.0, lines=[WELL, replace(WELL, late=3)])
    told = as_json([answer])
    assert told["schema"] == 1
    (song,) = told["songs"]
    assert (song["song"], song["duration"], song["warnings"]) == ("a/b", 4.0, ["odd"])
    assert [line["problem"] for line in song["lines"]] == ["", "late +3"]
    assert song["lines"][0]["sounds"] == WELL.sounds
