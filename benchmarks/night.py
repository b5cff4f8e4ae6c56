"""A batch of songs as a user has it made, for benchmarks that look at what it leaves."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runner.songfolder import Outputs
from tests.faults.batches import ROOT


@contextmanager
def made(job: str, *, workers: int = 1) -> Iterator[Outputs]:
    """What `runner batch` leaves of the job file's songs, until the block ends. Exits where one fails."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        (place / "night.yaml").write_text(job, encoding="utf-8")
        batch = subprocess.run(
            [sys.executable, "-m", "runner.cli", "batch", "night.yaml", "--workers", str(workers), "--quiet"],
            cwd=place,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        if batch.returncode != 0:
            raise SystemExit(f"the batch failed with exit code {batch.returncode}:\n{batch.stderr}")
        yield Outputs(place / "outputs")


def named(model: str) -> str:
    """The model for a job file that lies elsewhere: a bundle's folder by its whole path, a name as it is."""
    return str(Path(model).resolve()) if Path(model).is_dir() else model
