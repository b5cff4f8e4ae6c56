"""Whatever a file holds, its reader gives a value or an error of ours: no traceback, no hang, no flood.

The same inputs at every run; with NIGHTLY=1 (or -m nightly) a hundred thousand others.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.fuzz.targets import ROOT, targets

# Of the short run, by what an input of the reader costs.
COUNTS = {
    "job": 150,
    "options": 200,
    "lyrics": 400,
    "sung": 80,
    "message": 400,
    "status": 60,
    "past": 100,
    "checkpoint": 200,
    "bundle": 40,
    "published": 20,
    "sound": 60,
}
NIGHTLY_INPUTS = 100_000
# A process begins with fresh memory, and a hang costs no more than its own inputs.
PIECE = 2000


def play(folder: Path, name: str, seed: int, first: int, count: int) -> dict[str, Any]:
    """The report of these inputs, played in a process of their own."""
    command = [sys.executable, "-m", "tests.fuzz.play", name, str(seed), str(first), str(count), str(folder)]
    log = folder.with_suffix(".err")
    with log.open("w") as errors:
        done = subprocess.run(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, text=True, check=False
        )
    if done.returncode != 0:
        at = folder.joinpath("at").read_text() if folder.joinpath("at").exists() else "none"
        end = log.read_text(errors="replace")[-4000:]
        pytest.fail(f"input {at} ended its process ({done.returncode}); it lies in {folder}/input\n{end}")
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return report


def expect_lawful(folder: Path, name: str, seed: int, first: int, count: int) -> None:
    report = play(folder, name, seed, first, count)
    print(json.dumps({key: value for key, value in report.items() if key != "failures"}))
    told = [
        f"{failure['problem']}\nkept: {failure['kept']}; again: "
        f"python -m tests.fuzz.play {failure['input']} 1 FOLDER"
        for failure in report["failures"]
    ]
    assert not told, f"{len(told)} of {count} inputs break a law\n" + "\n".join(told[:5])
    assert sum(report["counts"].values()) == count


@pytest.mark.parametrize("name", targets())
def test_bad_input_is_answered_with_a_value_or_an_error_of_ours(tmp_path: Path, name: str) -> None:
    expect_lawful(tmp_path / "play", name, 1, 0, COUNTS[name])


@pytest.mark.nightly
@pytest.mark.parametrize("name", targets())
def test_a_night_of_bad_input_is_answered_with_values_or_errors_of_ours(tmp_path: Path, name: str) -> None:
    seed = int(os.environ.get("FUZZ_SEED", "2"))
    count = NIGHTLY_INPUTS * targets()[name].share // 1000
    for first in range(0, count, PIECE):
        expect_lawful(tmp_path / f"play-{first}", name, seed, first, min(PIECE, count - first))
