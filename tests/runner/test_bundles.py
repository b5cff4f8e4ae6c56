"""A model on a machine that lacks it is fetched once, whole, or not at all. The check is the real one."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runner import bundles
from runner.desk import Desk
from runner.errors import ClusterError, ForeignFileError
from runner.supervise import Job
from tests.faults.batches import ROOT, job

DEMO = ROOT / "diffrhythm" / "demo"

pytestmark = pytest.mark.slow


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "diffrhythm" / "bundles"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A model that has no name, on the batch's machine."""
    return Path(shutil.copytree(DEMO, tmp_path / "mine"))


def wanting(model: str, bundle: Path) -> Job:
    import hashlib

    lyrics = "[00:00.00]Evening comes\n[00:02.00]on the tide"
    wanted = job(lyrics, duration=4.0, model=model, steps=4, style="pop song", cfg=2.0)
    digest = hashlib.sha256((bundle / bundles.ABOUT).read_bytes()).hexdigest()
    return replace(wanted, answer=replace(wanted.answer, model_hash=digest, model_folder=str(bundle)))


class Asked:
    """The desk of the batch's machine, and how often it was asked."""

    def __init__(self, job: Job) -> None:
        self.desk = Desk({job.answer.model_hash: job.answer.model_folder})
        self.count = 0

    def __call__(self, question: str, *words: Any) -> Any:
        self.count += 1
        return getattr(self.desk, question)(*words)


def test_a_model_that_is_here_is_not_fetched(cache: Path) -> None:
    job = wanting("demo", DEMO)
    ask = Asked(job)
    here = bundles.at_hand(job, ask)
    assert (here.song.model, ask.count) == ("demo", 0)
    assert here.answer.precision == "fp32"  # as this machine does it, whatever the batch's would have
    assert here.answer.private_bytes > 0


def test_a_model_that_is_not_here_is_fetched_once_and_kept(cache: Path, bundle: Path) -> None:
    job = wanting("/nowhere/mine", bundle)
    ask = Asked(job)
    here = bundles.at_hand(job, ask)
    kept = cache / job.answer.model_hash
    assert here.song.model == str(kept)
    assert {path.name for path in kept.iterdir()} >= {"bundle.json", "dit.safetensors"}
    count = ask.count
    assert bundles.at_hand(job, ask).song.model == str(kept)
    assert ask.count == count
    assert [path.name for path in cache.iterdir() if path.is_dir()] == [kept.name]


def test_a_model_that_was_damaged_on_its_way_is_not_kept(cache: Path, bundle: Path) -> None:
    job = wanting("/nowhere/mine", bundle)
    weights = bundle / "dit.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    with pytest.raises(ForeignFileError, match="not what its bundle says"):
        bundles.at_hand(job, Asked(job))
    assert not (cache / job.answer.model_hash).exists()
    shutil.copy(DEMO / weights.name, weights)
    assert bundles.at_hand(job, Asked(job)).song.model  # the next song fetches it again


def test_for_a_song_that_no_copy_of_the_model_could_sing_none_is_fetched(cache: Path) -> None:
    job = wanting("demo", DEMO)
    ask = Asked(job)
    with pytest.raises(ClusterError, match="500"):
        bundles.at_hand(replace(job, song=replace(job.song, duration=500.0)), ask)
    assert ask.count == 0


def test_where_nobody_can_give_it_the_error_says_what_to_do(cache: Path, bundle: Path) -> None:
    job = wanting("/nowhere/mine", bundle)
    shutil.rmtree(bundle)
    with pytest.raises(ClusterError, match=r"no model bundle.*runner models pull"):
        bundles.at_hand(job, Asked(job))


def test_a_bundle_cannot_name_files_outside_of_itself(cache: Path, bundle: Path) -> None:
    import json

    about = json.loads((bundle / bundles.ABOUT).read_text())
    about["files"]["../../evil"] = {"bytes": 1, "sha256": "0" * 64}
    (bundle / bundles.ABOUT).write_text(json.dumps(about))
    job = wanting("/nowhere/mine", bundle)
    with pytest.raises(ForeignFileError, match="names no files of a bundle"):
        bundles.at_hand(job, Asked(job))
