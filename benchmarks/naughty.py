"""Batches of naughty children (tests/faults/child.py) under the parent of `runner batch`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from runner.supervise import Job
from tests.faults.batches import ROOT, job


def start(
    folder: Path,
    scripts: Sequence[str],
    *,
    workers: int,
    quiet: bool = True,
    stderr: int = subprocess.DEVNULL,
) -> subprocess.Popen[str]:
    """A batch of one song for each script, its results under folder/outputs; its cost goes to stdout."""
    jobs = [job(script, name=f"song-{number}") for number, script in enumerate(scripts)]
    return start_jobs(folder, jobs, workers=workers, quiet=quiet, stderr=stderr)


def start_jobs(
    folder: Path, jobs: Sequence[Job], *, quiet: bool = True, stderr: int = subprocess.DEVNULL, **options: Any
) -> subprocess.Popen[str]:
    """The same for whole jobs. options: of the batch; worker: the command of another child."""
    paper = folder / "jobs.json"
    paper.write_text(json.dumps({"jobs": [asdict(j) for j in jobs], "options": options}))
    command = [sys.executable, "-m", "benchmarks.parent", str(paper), str(folder / "outputs")]
    return subprocess.Popen(
        [*command, *(["--quiet"] if quiet else [])],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    )
