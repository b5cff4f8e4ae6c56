"""How far a long work has come: a line that changes for eyes, few lines for a log."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from runner.meter import Meter, Steps, line


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("done", "total", "rate", "said"),
    [
        (900_000_000, 2_200_000_000, 12e6, "fetch a  40 %  0.9 of 2.2 GB  12 MB/s"),
        (0, 50_000_000, None, "fetch a  0 %  0.0 of 50.0 MB"),
        (0, 0, None, "fetch a  100 %  0.0 of 0.0 MB"),
    ],
)
def test_the_line_has_share_size_and_rate(done: int, total: int, rate: float | None, said: str) -> None:
    assert line("fetch a", done, total, rate) == said


def test_a_log_gets_a_line_for_each_tenth_and_no_control_characters() -> None:
    log = io.StringIO()
    meter = Meter(log, now=lambda: 0.0)
    for done in range(1001):
        meter("write b", done * 10**6, 10**9)
    assert len(log.getvalue().splitlines()) == 11
    assert "\r" not in log.getvalue()
    assert "\x1b" not in log.getvalue()


def test_a_log_hears_nothing_of_small_files() -> None:
    log = io.StringIO()
    Meter(log, now=lambda: 0.0)("fetch vocab.json", 5802, 5802)
    assert log.getvalue() == ""


def test_a_terminal_sees_one_line_that_is_redrawn_five_times_a_second_and_ended() -> None:
    clock = iter(number / 100 for number in range(10_000))
    terminal = Terminal()
    meter = Meter(terminal, now=lambda: next(clock))
    for done in range(101):
        meter("write b", done * 10**7, 10**9)
    drawn = terminal.getvalue()
    assert drawn.count("\n") == 1
    assert drawn.endswith("\n")
    assert 5 < drawn.count("\r") < 40


def test_the_rate_is_of_this_run_and_not_of_what_was_there_before() -> None:
    seconds = iter([0.0, 0.0, 10.0, 10.0])
    log = io.StringIO()
    meter = Meter(log, now=lambda: next(seconds))
    meter("fetch c", 10**9, 2 * 10**9)
    meter("fetch c", 10**9 + 2 * 10**8, 2 * 10**9)
    assert log.getvalue().splitlines()[-1].endswith("20 MB/s")


def test_steps_are_told_by_tenths_where_nobody_watches_and_the_file_is_touched(tmp_path: Path) -> None:
    log, moved, seconds = io.StringIO(), tmp_path / "moved", iter(range(0, 1000, 2))
    steps = Steps(log, moved, now=lambda: float(next(seconds)))
    for step in range(1, 21):
        steps("song 1", step, 20)
    assert moved.exists()
    said = log.getvalue().splitlines()
    assert len(said) == 10
    assert said[0] == "song 1: step 2 of 20, 2.0 s a step"
    assert said[-1] == "song 1: step 20 of 20, 2.0 s a step"
