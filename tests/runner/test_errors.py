"""Whatever stands in a message, it is printed on as many lines as there are problems."""

from __future__ import annotations

from pathlib import Path

import pytest

import diffrhythm.errors
import runner.errors
from runner.errors import ForeignFileError, ModelError, Problem, SpecError

ODD = "a\nb\x1b[2J\x85\u2028\u202e\ud800\0"


@pytest.mark.parametrize("error", [ForeignFileError(ODD), diffrhythm.errors.BundleError(ODD)], ids=repr)
def test_a_message_is_one_printable_line(error: Exception) -> None:
    assert str(error) == r"a\nb\x1b[2J\x85\u2028\u202e\ud800\x00"


@pytest.mark.parametrize("package", [runner.errors, diffrhythm.errors])
def test_a_line_without_end_is_cut_in_its_middle(package: object) -> None:
    line = package.one_line("what " + "x" * 2**20 + " do")  # type: ignore[attr-defined]
    assert line.startswith("what xx")
    assert line.endswith("xx do")
    assert len(line) < 5100


def test_every_problem_has_a_line_of_its_own() -> None:
    error = SpecError([Problem(ODD, Path("a\nb.yaml")), Problem("月光 cannot be used")])
    first, second = str(error).split("\n")
    assert first.startswith(r"a\nb.yaml:1:1: a\nb\x1b[2J")
    assert second == "月光 cannot be used"
    for error in (ModelError(f"one\n{ODD[2:]}"), diffrhythm.errors.LyricsError(f"one\n{ODD[2:]}")):
        assert [line.isprintable() for line in str(error).split("\n")] == [True, True]
