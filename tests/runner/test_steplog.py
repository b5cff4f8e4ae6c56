"""Step logs as workers write them, and as a crash, a full disk or another program leaves them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from runner.steplog import TAIL_BYTES, Step, read

GOOD = {"step": 3, "steps": 12, "t": 0.25, "seconds": 1.5, "passes": 6, "left": {"sample": 2.0}}


def test_a_step_is_told_with_its_time(tmp_path: Path) -> None:
    log = tmp_path / "steps.jsonl"
    log.write_text(json.dumps(GOOD) + "\n" + json.dumps(GOOD | {"step": 4}) + "\n")
    assert read(log) == (Step(3, 12, 0.25, 1.5), Step(4, 12, 0.25, 1.5))


@pytest.mark.parametrize(
    "line",
    [
        "",
        '{"step": 3, "st',
        "[]",
        "3",
        "[" * 100_000,
        '{"step": 3, "steps": 12, "t": 0.25, "seconds": NaN}',
        json.dumps(GOOD | {"seconds": -1}),
        json.dumps(GOOD | {"seconds": 10**400}),
        json.dumps(GOOD | {"t": 7}),
        json.dumps(GOOD | {"step": 13}),
        json.dumps(GOOD | {"step": None}),
        json.dumps(GOOD | {"steps": 10**9}),
        "\udcff",
    ],
)
def test_a_line_that_is_no_step_is_passed_over(tmp_path: Path, line: str) -> None:
    log = tmp_path / "steps.jsonl"
    log.write_bytes(f"{line}\n{json.dumps(GOOD)}\n".encode(errors="surrogateescape"))
    assert read(log) == (Step(3, 12, 0.25, 1.5),)


def test_a_step_tells_when_it_was_where_its_log_does(tmp_path: Path) -> None:
    log = tmp_path / "steps.jsonl"
    lines = [GOOD | {"wall": wall} for wall in (1.7e9, -1, float("inf"), None)]
    log.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert [step.wall for step in read(log)] == [1.7e9]


def test_of_a_log_without_end_the_newest_steps_are_read(tmp_path: Path) -> None:
    log = tmp_path / "steps.jsonl"
    with log.open("w") as file:
        file.write("x" * 10 * TAIL_BYTES + "\n")
        file.write(json.dumps(GOOD) + "\n")
    assert read(log) == (Step(3, 12, 0.25, 1.5),)


def test_what_is_no_file_has_no_steps(tmp_path: Path) -> None:
    assert read(tmp_path / "nothing") == ()
    assert read(tmp_path) == ()
    os.mkfifo(tmp_path / "pipe")
    assert read(tmp_path / "pipe") == ()
