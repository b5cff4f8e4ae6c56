"""What a file system may have kept when the power went: from each such state the same command ends right.

A run is recorded: what was created, written, synced, renamed and removed, in order. What names a folder had
at its last fsync is kept; of what came later, as much as the file system had got to. A file that was synced
holds what it held then; any other holds nothing, half or all.
"""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

import pytest

from runner import manifest
from runner.files import read_json
from tests.faults import crashes
from tests.faults.crashes import Story
from tests.faults.test_crashes import Scenario, check, end, song

pytestmark = pytest.mark.slow
# What of an unsynced file was written out.
SHARES = {"nothing": 0.0, "half": 0.5, "all": 1.0}
Tree = dict[str, bytes | None]  # of every path its content; None: a folder


@dataclass(frozen=True)
class Op:
    verb: str
    path: str
    source: str | None
    data: bytes | None
    is_dir: bool

    @property
    def folder(self) -> str | None:
        """The folder whose names it changes."""
        changes = self.verb in ("mkdir", "remove", "rename to") or (self.verb == "open" and self.data is None)
        return str(PurePath(self.path).parent) if changes else None

    @property
    def settles(self) -> str | None:
        """The folder whose names it makes last."""
        return self.path if self.verb == "fsync" and self.is_dir else None


def recorded(story: Story) -> list[Op]:
    ops = []
    for line in story.points():
        op = json.loads(line)
        op["data"] = None if op["data"] is None else base64.b64decode(op["data"])
        ops.append(Op(**op))
    return ops


def kept(ops: Sequence[Op], names: set[int], share: float) -> Tree:
    """The files after ops, of which those in names (by number) have changed names; else data alone."""
    tree: Tree = {".": None}
    synced: dict[str, bytes] = {}
    for i, op in enumerate(ops):
        here = op.folder is None or (i in names and tree.get(op.folder, b"") is None)
        if op.verb == "mkdir" and here:
            tree.setdefault(op.path, None)
        elif op.verb == "remove" and here:
            tree.pop(op.path, None)
        elif op.verb == "open":
            if op.data is None and here:
                tree.setdefault(op.path, b"")
            elif op.path in tree:
                tree[op.path] = op.data
        elif op.verb == "fsync" and op.data is not None and op.path in tree:
            synced[op.path] = tree[op.path] = op.data
        elif op.verb == "rename to" and here and op.source in tree:
            assert op.source is not None
            tree.pop(op.source)
            tree[op.path] = op.data
            synced.pop(op.path, None)
            if op.source in synced:
                synced[op.path] = synced.pop(op.source)
    return {
        path: data if data is None else written(data, synced.get(path), share) for path, data in tree.items()
    }


def written(data: bytes, synced: bytes | None, share: float) -> bytes:
    return synced if synced is not None else data[: int(len(data) * share)]


def losses(ops: Sequence[Op]) -> Iterator[tuple[str, Tree]]:
    """Every state that a loss of power may leave, and what it is."""
    numbers = [i for i, op in enumerate(ops) if op.folder is not None]
    for cut in range(len(ops) + 1):
        done = ops[:cut]
        settled = {op.settles: i for i, op in enumerate(done) if op.settles is not None}
        folders = {i: str(ops[i].folder) for i in numbers if i < cut}
        lasting = {i for i, folder in folders.items() if i < settled.get(folder, -1)}
        for word, share in SHARES.items():
            yield f"{cut} in order, {word} written", kept(done, set(folders), share)
            yield f"{cut} as settled, {word} written", kept(done, lasting, share)
        for ahead in set(folders.values()):
            names = lasting | {i for i, folder in folders.items() if folder == ahead}
            yield f"{cut} with {ahead} ahead", kept(done, names, 0.0)


def distinct(states: Iterator[tuple[str, Tree]]) -> dict[str, Tree]:
    """By what they are; of those that differ in a beat or the board alone, the first."""
    found: dict[str, tuple[str, Tree]] = {}
    for what, tree in states:
        marks = ("heartbeat.json", "batch.json", ".tmp", ".log", ".jsonl")
        key = repr(
            sorted(
                (path.rpartition(".")[0] if path.endswith(".tmp") else path, data and len(data))
                if path.endswith(marks)
                else (path, data)
                for path, data in tree.items()
            )
        )
        found.setdefault(key, (what, tree))
    return dict(found.values())


def lay(tree: Tree, folder: Path) -> None:
    folder.mkdir(parents=True)
    for path, data in sorted(tree.items()):
        if data is None:
            (folder / path).mkdir(exist_ok=True)
        else:
            (folder / path).write_bytes(data)


@pytest.mark.parametrize("name", ["plain", "retried"])
def test_whatever_a_power_loss_leaves_the_same_command_ends_right(
    name: str, tmp_path: Path, night: bool
) -> None:
    scenario = Scenario(name)
    (whole,) = scenario.play(tmp_path / "whole", [{"at": -1, "child_at": -1, "again": 0}])
    states = list(distinct(losses(recorded(whole))).items())
    seed = random.randrange(2**32)
    print(f"{name}: {len(states)} states; seed {seed}")
    if not night:
        states = random.Random(seed).sample(states, 24)
    stories = [Story(str(tmp_path / "lost" / str(i))) for i in range(len(states))]
    for (_, tree), story in zip(states, stories, strict=True):
        lay(tree, story.outputs.folder)
    crashes.tell(tmp_path, [scenario.job], stories)
    for (what, _), story in zip(states, stories, strict=True):
        print(what)
        check(story, whole)
    assert end(whole)[0] == "done"


def test_a_song_that_was_done_is_still_done_after_a_power_loss(tmp_path: Path) -> None:
    scenario = Scenario("plain")
    (whole,) = scenario.play(tmp_path / "whole", [{"at": -1, "child_at": -1, "again": 0}])
    ops = recorded(whole)
    *_, (_, settled) = ((what, tree) for what, tree in losses(ops) if "as settled, nothing" in what)
    story = Story(str(tmp_path / "lost"))
    lay(settled, story.outputs.folder)
    made = manifest.finished(song(story), scenario.job.fingerprint)
    assert made == read_json(song(whole).manifest)
