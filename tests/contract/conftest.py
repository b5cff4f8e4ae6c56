"""Which engine is asked: two of ours, or that of `pytest tests/contract --engine "python3 mine.py"`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
OURS = (
    HERE.parent / "faults" / "slow_worker.py"
)  # runner.worker, as quick as it is unless it is told otherwise
ENGINES = {
    "sines": (sys.executable, str(HERE / "engine.py")),
    "ours": (sys.executable, "-P", str(OURS)),
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "engine" not in metafunc.fixturenames:
        return
    given = metafunc.config.getoption("--engine")
    engines = {"given": tuple(shlex.split(given))} if given else ENGINES
    metafunc.parametrize("engine", engines.values(), ids=list(engines), scope="module")
