"""Batches of naughty children: the real parent, real processes, real signals; only the model is missing."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil

from runner import processes
from runner.files import read_json
from runner.messages import SongAnswer
from runner.songfolder import Outputs, SongFolder
from runner.spec import Song
from runner.supervise import Job

CHILD = Path(__file__).with_name("child.py")
ROOT = Path(__file__).parents[2]


def job(
    script: str,
    *,
    name: str = "song",
    fingerprint: str = "f" * 64,
    steps: int = 32,
    gpus: int = 0,
    **changes: Any,
) -> Job:
    settings: dict[str, Any] = {
        "job": "night",
        "name": name,
        "path": None,
        "line": 0,
        "model": "demo",
        "lyrics": script,
        "lyrics_source": "script",
        "style": "test",
        "style_audio": None,
        "negative_style": None,
        "duration": 10.0,
        "seed": None,
        "take": 1,
        "preset": "auto",
        "steps": None,
        "cfg": None,
        "sampler": None,
        "language": "auto",
        "lyrics_compat": "ours",
        "precision": "auto",
        "format": "wav",
        "bits": 16,
        "loudness": None,
        # Bounds that no song comes near on a busy machine; who is to be killed by one names it.
        "timeout_s": 600.0,
        "deadline_s": None,
        "stall_s": 120.0,
        "attempts": 4,
        "foresight": False,
        "threads": 1,
        "memory_bytes": None,
        "nice": 0,
        "resume": True,
    }
    settings |= changes
    answer = SongAnswer(
        f"night/{name}",
        [],
        [],
        duration=settings["duration"],
        steps=steps,
        cfg=4.0,
        precision="bf16",
        model_hash="0",
        demo=True,
        gpus=gpus,
    )
    return Job(Song(**settings), answer, fingerprint)


def outcomes(folder: SongFolder) -> list[dict[str, Any]]:
    return [read_json(attempt.outcome) for attempt in folder.attempts() if attempt.outcome.exists()]


def causes(folder: SongFolder) -> list[str | None]:
    return [outcome["cause"] for outcome in outcomes(folder)]


def densities(folder: SongFolder) -> list[int]:
    return [read_json(attempt.request)["density"] for attempt in folder.attempts()]


def state(folder: SongFolder) -> str | None:
    """done, degraded or failed, as the files say."""
    for path in (folder.manifest, folder.failure):
        if path.exists():
            return str(read_json(path)["state"])
    return None


def survivors(outputs: Outputs) -> list[int]:
    """Processes of any song of these outputs that still live, zombies excepted: by mark, or by its log."""
    marked = {who.pid for who in processes.marked(f"{outputs.folder.resolve()}//")}
    return sorted(marked | writers(outputs))


def known(outputs: Outputs) -> list[processes.Identity]:
    """Every process that the naughty children of these outputs have told of."""
    told = (line.split() for log in outputs.folder.rglob("worker.log") for line in lines(log))
    return [processes.Identity(int(pid), int(started), processes.boot_id()) for _, pid, started in told]


def lines(log: Path) -> list[str]:
    return [line for line in log.read_text(errors="replace").splitlines() if line.startswith("process ")]


def writers(outputs: Outputs) -> set[int]:
    """Processes that have a file of these outputs open."""
    found = set()
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            if link.readlink().is_relative_to(outputs.folder.resolve()):
                found.add(int(link.parts[2]))
    return found


def torn(outputs: Outputs) -> list[Path]:
    """Files under a final name that nothing vouches for, and half-written ones."""
    bad = list(outputs.folder.rglob("*.tmp"))
    for folder in outputs.songs():
        sounds = list(folder.folder.glob("song.*"))
        if sounds and not folder.manifest.exists():
            bad += sounds
    return bad


class Parent:
    """A batch in a process of its own, so that it can be killed."""

    def __init__(
        self,
        tmp_path: Path,
        jobs: list[Job],
        *,
        group: Path | None = None,
        apart: bool = False,
        **options: Any,
    ) -> None:
        """options: of batch.Options and of the house; worker: the command of another child than CHILD;
        patience_s: without a beat, by phase; until_s: how long the batch may run; around_s: what a song
        is taken to need for its start.

        group: cgroup.procs of the control group in which it is started. apart: no other process sees its
        outputs under their name, as on another machine.
        """
        tmp_path.mkdir(exist_ok=True)
        self.outputs = Outputs(tmp_path / "outputs")
        named = tmp_path / "apart" if apart else self.outputs.folder
        around = alone_with(self.outputs.folder, named) if apart else []
        self._paper = tmp_path / "jobs.json"
        self._paper.write_text(
            json.dumps({"jobs": [_plain(j) for j in jobs], "options": options}, default=str)
        )
        self.process = subprocess.Popen(
            [*around, sys.executable, "-m", "tests.faults.parent", str(self._paper), str(named)],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=None if group is None else lambda: group.write_text("0") and None,
        )

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=120)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self, timeout_s: float = 300.0) -> int:
        _, err = self.process.communicate(timeout=timeout_s)
        self.err = err
        return self.process.returncode


def alone_with(folder: Path, name: Path) -> list[str]:
    """A command before another, which alone sees folder under that name, too. For whoever may mount."""
    folder.mkdir(exist_ok=True)
    name.mkdir(exist_ok=True)
    mounted = 'mount --bind "$1" "$2" && shift 2 && exec "$@"'
    return ["unshare", "--mount", "sh", "-c", mounted, "sh", str(folder), str(name)]


def _plain(job: Job) -> dict[str, Any]:
    return asdict(job)


def wait_for(condition: Callable[[], Any], *, timeout_s: float = 120.0) -> Any:
    """What condition() gives as soon as it is true; waiting is bounded, not asserted."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError("waited in vain")


def child_of(parent: subprocess.Popen[str]) -> int:
    """pid of the song's process, as soon as there is one."""
    return int(wait_for(lambda: next((c.pid for c in psutil.Process(parent.pid).children()), None)))


def alive(pid: int) -> bool:
    return processes.identity(pid) is not None
