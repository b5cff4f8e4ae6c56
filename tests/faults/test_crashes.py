"""Parent and child killed just before every step by which they change the world, and at random moments: the
same command then ends as if nothing had happened."""

from __future__ import annotations

import hashlib
import os
import random
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from runner.files import read_json
from runner.songfolder import SongFolder
from runner.supervise import Job
from tests.faults import crashes
from tests.faults.batches import job, outcomes, state, torn
from tests.faults.crashes import Story
from tests.faults.test_songs import real_job

pytestmark = pytest.mark.slow
SCRIPTS = {
    "plain": "steps 2 0.001",
    "retried": "steps 2 0.001\nonly 1\nsignal SIGSEGV",
    "failed": "steps 1 0.001\nfail bad-input",
    "stopped": "steps 2 0.001\nonly 1\ntell SIGTERM\nhang",
    "asked": "steps 2 0.001\nonly 1\nask\nhang",
    "forced": "steps 2 0.001",
}
MORE = {
    "stopped": {"again": 2},  # killed before its child was told to stop, it is stopped by the second run
    "asked": {"again": 2},
    "forced": {"before": 1, "options": {"force": True}},
}
OUTCOME = "rename to night/song/attempts/1/outcome.json"
# Long at night: how many runs are killed at random moments.
KILLS = int(os.environ.get("CRASHES", "20"))


@dataclass(frozen=True)
class Scenario:
    name: str

    @property
    def job(self) -> Job:
        return job(SCRIPTS[self.name], seed=None if self.name == "forced" else 7)

    def play(self, place: Path, points: Sequence[dict[str, Any]], **options: Any) -> list[Story]:
        """A story for each of those points, in folders of their own."""
        more = MORE.get(self.name, {}) | options
        place.mkdir(exist_ok=True)
        stories = [Story(str(place / f"{self.name}-{i}"), **more, **each) for i, each in enumerate(points)]
        crashes.tell(place, [self.job], stories)
        return stories


def song(story: Story) -> SongFolder:
    return story.outputs.song("night/song")


def end(story: Story) -> tuple[Any, ...]:
    """What a death on the way must not change."""
    folder = song(story)
    if state(folder) == "failed":
        failure = read_json(folder.failure)
        return "failed", failure["cause"], failure["message"], story.told["codes"][-1]
    made = read_json(folder.manifest)
    sound = hashlib.sha256(folder.audio("wav").read_bytes()).hexdigest()
    assert made["sha256"] == sound
    seed, same_sound = (made["seed"], sound) if made["seed"] == 7 else (None, None)
    return made["state"], made["degraded"], seed, same_sound, made["fingerprint"], story.told["codes"][-1]


def check(story: Story, whole: Story) -> None:
    assert end(story) == end(whole)
    # A torn beat that nobody replaces any more is told of, and nothing else.
    assert [told for told in story.told["status"] if "heartbeat.json: not readable" not in told] == []
    assert [*crashes.left(story), *torn(story.outputs)] == []
    folder = song(story)
    requests = [read_json(attempt.request) for attempt in folder.attempts() if attempt.request.exists()]
    assert {request["density"] for request in requests} == {32}  # nobody was charged for the death
    if folder.manifest.exists():
        check_lost(folder)
        assert list(folder.folder.rglob("song.wav")) == [folder.audio("wav")]


def check_lost(folder: SongFolder) -> None:
    """An attempt that died with its parent is told as lost."""
    told = {each["attempt"]: each["cause"] for each in read_json(folder.manifest)["attempts"]}
    silent = [a.number for a in folder.attempts() if a.number in told and not a.outcome.exists()]
    assert [told[number] for number in silent] == ["lost"] * len(silent)


def distinct(points: Sequence[str]) -> list[int]:
    """The numbers of those before which the files are not as they were before another. An fsync changes
    nothing that a death could leave; that it is there matters to a power loss (test_power_loss)."""
    return [i for i, name in enumerate(points, start=1) if not name.startswith("fsync")]


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_parent_killed_before_any_of_its_steps_leaves_what_the_same_command_ends(
    name: str, tmp_path: Path, night: bool
) -> None:
    scenario = Scenario(name)
    (whole,) = scenario.play(tmp_path / "whole", [{"at": 0}])
    points = whole.points()
    chosen = list(range(1, len(points) + 1)) if night else distinct(points)[:: 1 if name == "plain" else 4]
    stories = scenario.play(tmp_path / "killed", [{"at": at} for at in chosen])
    for at, story in zip(chosen, stories, strict=True):
        assert story.told["codes"][story.before] == -signal.SIGKILL, points[at - 1]
        # A batch that is stopped writes that down beside the song's end, which may come before or behind it.
        assert len(story.points()) == at
        check(story, whole)
        if song(story).manifest.exists():
            assert list(song(story).folder.rglob("checkpoint.safetensors")) == []
    print(f"{name}: killed before {len(chosen)} of {len(points)} steps of the parent")


@pytest.mark.parametrize("name", ["plain", "failed"])
def test_a_child_killed_before_any_of_its_steps_is_retried_to_the_same_end(
    name: str, tmp_path: Path, night: bool
) -> None:
    scenario = Scenario(name)
    (whole,) = scenario.play(tmp_path / "whole", [{"child_at": 0}])
    points = whole.points("child")
    chosen = list(range(1, len(points) + 1)) if night else distinct(points)[:: 1 if name == "plain" else 4]
    stories = scenario.play(tmp_path / "killed", [{"child_at": at} for at in chosen])
    for at, story in zip(chosen, stories, strict=True):
        assert story.points("child")[-1] == points[at - 1]
        told = at > points.index(OUTCOME) + 1  # all that it had to say
        cause = outcomes(song(whole))[0]["cause"] if told else "crash"
        assert outcomes(song(story))[0]["cause"] == cause, points[at - 1]
        check(story, whole)
    print(f"{name}: killed before {len(chosen)} of {len(points)} steps of the child")


def test_runs_killed_at_random_moments_end_as_one_that_was_not(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # shown by pytest where this fails
    scenario = Scenario("plain")
    (whole,) = scenario.play(tmp_path / "whole", [{"at": 0}])
    seconds = whole.told["seconds"][0]
    # The second of two crashes would be charged, so that one child is killed in each story and else parents.
    points = [{"kills": 4, "seconds": seconds, "seed": seed + i} for i in range(KILLS // 4)]
    for story in scenario.play(tmp_path / "killed", points):
        check(story, whole)


@pytest.mark.nightly
def test_the_worker_killed_before_and_after_what_it_renames_is_retried_to_the_same_sound(
    tmp_path: Path,
) -> None:
    real = real_job(steps=4)

    def play(place: Path, points: Sequence[dict[str, Any]]) -> list[Story]:
        place.mkdir()
        stories = [Story(str(place / str(i)), who="worker", **each) for i, each in enumerate(points)]
        crashes.tell(place, [real], stories)
        return stories

    (whole,) = play(tmp_path / "whole", [{"child_at": 0}])
    points = whole.points("child")
    renames = {
        name: i for i, name in enumerate(points, start=1) if name.startswith("rename")
    }  # the last of each
    chosen = [i + after for i in renames.values() for after in (0, 1)]
    for at, story in zip(chosen, play(tmp_path / "killed", [{"child_at": at} for at in chosen]), strict=True):
        assert story.points("child")[-1] == points[at - 1]
        made, remade = (read_json(song(each).manifest) for each in (whole, story))
        assert (remade["state"], remade["sha256"], remade["passes"]) == (
            "done",
            made["sha256"],
            made["passes"],
        )
        told = at > points.index(OUTCOME) + 1
        assert [each["cause"] for each in remade["attempts"]] == ([None] if told else ["crash", None])
        assert [*crashes.left(story), *torn(story.outputs)] == []
    print(f"killed before {len(chosen)} of {len(points)} steps of the worker")
