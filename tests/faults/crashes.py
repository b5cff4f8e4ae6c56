"""Runs of a batch that are killed, and then run again: `python -m tests.faults.crashes PAPER`.

One process that has imported everything forks another for each run, so that hundreds of them cost little. The
paper lists stories; each leaves a `told.json` in its folder.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from runner import batch, processes, status
from runner.messages import SongAnswer
from runner.songfolder import Outputs
from runner.spec import Song
from runner.supervise import House, Job
from tests.faults.batches import CHILD, ROOT
from tests.faults.points import Points, Recorder

SIDE_BY_SIDE = 3
PLAIN = (sys.executable, "-S", str(CHILD))
WORKER = (sys.executable, "-P", "-m", "runner.worker", "sing")


@dataclass
class Story:
    """What is done in one folder: run undisturbed so often before; run and killed; run again so often.

    at, child_at: the point before which the parent, or the first attempt's child, is killed; 0: points are
    only counted; -1: all steps of both are recorded, in one journal, with what they carry. who: is the child.
    kills: so many more runs are killed at some moment in their first seconds, one of them in its child;
    moments are chosen by the seed.
    """

    folder: str
    options: dict[str, Any] = field(default_factory=dict)
    before: int = 0
    at: int | None = None
    child_at: int | None = None
    who: str = "child"
    kills: int = 0
    seconds: float = 0.0
    seed: int = 0
    again: int = 1

    @property
    def outputs(self) -> Outputs:
        return Outputs(Path(self.folder) / "outputs")

    @property
    def told(self) -> dict[str, Any]:
        """codes: how each run ended, below 0 for a signal; seconds: each took; status: what it could not read
        after a kill.
        """
        content: dict[str, Any] = json.loads((Path(self.folder) / "told.json").read_text())
        return content

    def points(self, who: str = "parent") -> list[str]:
        return (Path(self.folder) / f"{who}.points").read_text().splitlines()


def tell(place: Path, jobs: Sequence[Job], stories: Sequence[Story], *, timeout_s: float = 600.0) -> None:
    """Play all stories, some side by side. To be called by a test."""
    paper = place / "stories.json"
    paper.write_text(
        json.dumps({"jobs": [asdict(job) for job in jobs], "stories": [asdict(story) for story in stories]})
    )
    subprocess.run(
        [sys.executable, "-m", "tests.faults.crashes", str(paper)], cwd=ROOT, check=True, timeout=timeout_s
    )


def main(paper: Path) -> int:
    content = json.loads(paper.read_text())
    jobs = [
        Job(Song(**each["song"]), SongAnswer(**each["answer"]), each["fingerprint"])
        for each in content["jobs"]
    ]
    # Children start in half the time without site-packages and with what is compiled kept.
    os.environ["PYTHONPATH"] = str(ROOT)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    waiting = deque(Story(**each) for each in content["stories"])
    running: set[int] = set()
    worst = 0
    while waiting or running:
        while waiting and len(running) < SIDE_BY_SIDE:
            story = waiting.popleft()
            running.add(forked(lambda story=story: play(story, jobs)))
        pid, ended = os.wait()
        running.discard(pid)
        worst = max(worst, os.waitstatus_to_exitcode(ended))
    return worst


def forked(play: Callable[[], int]) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 99
    try:
        code = play()
    except BaseException:  # noqa: BLE001 — nothing of this process may run on into its parent's code
        traceback.print_exc()
    finally:
        os._exit(code)


def play(story: Story, jobs: Sequence[Job]) -> int:
    folder = Path(story.folder)
    folder.mkdir(parents=True, exist_ok=True)
    chance = random.Random(story.seed)
    plain = PLAIN if story.who == "child" else WORKER
    codes, took, problems = [], [], []

    def once(
        worker: Sequence[str], kill: Callable[[int], None] = lambda pid: None, at: int | None = None
    ) -> None:
        began = time.monotonic()
        pid = forked(lambda: run(story, jobs, worker, at))
        kill(pid)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        took.append(time.monotonic() - began)
        problems.extend(looked_at(story))

    for _ in range(story.before):
        once(plain)
    if story.at is not None or story.child_at is not None:
        once(watched(story) if story.child_at is not None else plain, at=story.at)
    unlucky = chance.randrange(story.kills) if story.kills else 0
    for i in range(story.kills):
        once(plain, partial(kill, after_s=chance.uniform(0, story.seconds), child=i == unlucky))
    for _ in range(story.again):
        once(plain)
    (folder / "told.json").write_text(json.dumps({"codes": codes, "seconds": took, "status": problems}))
    return 0


def watched(story: Story) -> tuple[str, ...]:
    """The worker that is killed at its point."""
    whose = "child" if story.child_at >= 0 else "parent"
    journal = Path(story.folder, f"{whose}.points")
    lean = ("-S",) if story.who == "child" else ()
    return (sys.executable, *lean, "-m", "tests.faults.points", str(story.child_at), str(journal), story.who)


def run(story: Story, jobs: Sequence[Job], worker: Sequence[str], at: int | None) -> int:
    """One run of the batch, in this process."""
    os.chdir(ROOT)
    heard = os.open(Path(story.folder, "err"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(heard, 2)
    if at is not None:
        if at < 0:
            Recorder(story.outputs.folder, Path(story.folder, "parent.points"), 0)
        else:
            Points(story.outputs.folder, Path(story.folder, "parent.points"), at)
    house = House(mark="", worker=tuple(worker), tick_s=0.02, grace_s=0.5)
    ended = batch.run(jobs, story.outputs, batch.Options(**story.options), show=lambda: None, house=house)
    for song in ended.songs:
        print(f"{song.song}: {song.state}: {song.note}", file=sys.stderr)
    return ended.exit_code(strict=False)


def kill(pid: int, after_s: float, child: bool) -> None:
    """Kill that parent, or the child that it has then."""
    time.sleep(after_s)
    with suppress(psutil.Error, ProcessLookupError):
        victims = [each.pid for each in psutil.Process(pid).children()] if child else [pid]
        for victim in victims:
            os.kill(victim, signal.SIGKILL)


def looked_at(story: Story) -> list[str]:
    """What `runner status --json` cannot read; it never fails on what a death has left."""
    now = status.look(story.outputs)
    json.dumps(status.as_json(now), allow_nan=False)
    return list(now.problems)


def left(story: Story) -> list[str]:
    """Half-written files, and processes that live on."""
    half = [str(path) for path in story.outputs.folder.rglob("*.tmp")]
    return half + [str(who) for who in processes.marked(f"{story.outputs.folder.resolve()}//")]


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
