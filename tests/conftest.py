"""What tests of several packages need of the machine."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

# Of this process and of every child. On a busy machine threads that wait in a loop for each other take the
# time that the others need to come: a demo song of twelve steps took three times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--engine", help="Command of the engine that tests/contract asks; by default two of ours."
    )


def is_night(config: pytest.Config) -> bool:
    return "nightly" in config.getoption("markexpr") or os.environ.get("NIGHTLY") == "1"


def pytest_configure(config: pytest.Config) -> None:
    # By day the same examples each time, so that a run says something of what was changed; at night new ones.
    hypothesis.settings.register_profile("runner", derandomize=not is_night(config), deadline=None)
    hypothesis.settings.load_profile("runner")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if is_night(config):
        return
    for item in items:
        if item.get_closest_marker("nightly"):
            item.add_marker(pytest.mark.skip(reason="nightly: run with -m nightly"))


@pytest.fixture(params=[False, pytest.param(True, marks=pytest.mark.nightly)], ids=["", "all"])
def night(request: pytest.FixtureRequest) -> bool:
    """For tests that take a choice of cases by day, and all of them at night."""
    return bool(request.param)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 200 KiB: a song of two seconds is twice as large."""
    place = tmp_path / "small"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(place)], capture_output=True, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"cannot mount a small disk: {done.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)
