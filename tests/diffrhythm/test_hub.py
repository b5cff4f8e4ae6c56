"""A model is pulled whole from a hub that drops, lies and changes; here a stand-in for it on loopback."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import published_files
import pytest
import standin_hub
from published_files import Files
from standin_hub import COMMIT, Hub

from diffrhythm import bundle, hub, mulan
from diffrhythm.bundle import ABOUT, TRANSFORMER
from diffrhythm.digest import sha256
from diffrhythm.errors import BundleError


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return published_files.make(tmp_path_factory.mktemp("published"))


@pytest.fixture
def stand_in(files: Files) -> Iterator[Hub]:
    with standin_hub.serving(files) as server:
        yield server


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture(scope="session")
def once(files: Files, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder with a pulled bundle in it, for looking at only."""
    models = tmp_path_factory.mktemp("once")
    with standin_hub.serving(files) as server:
        assert pull(files, models, server)
    return models


@pytest.fixture
def pulled(once: Path, models: Path) -> Path:
    """The same, to be changed."""
    return Path(shutil.copytree(once, models))


def pull(files: Files, models: Path, server: Hub, **other: Any) -> bool:
    options = {"endpoint": server.address, "code": server.address, "pause": lambda _: None} | other
    return hub.pull(files.model, models, **options)


def refused(files: Files, models: Path, server: Hub) -> str:
    with pytest.raises(BundleError) as error:
        pull(files, models, server)
    assert "\n" not in str(error.value)
    assert not (models / files.model.name / ABOUT).exists()
    return str(error.value)


def damage(models: Path, files: Files) -> None:
    weights = models / files.model.name / TRANSFORMER
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x00")


def test_a_pulled_model_is_a_whole_bundle_that_records_commit_and_sums(files: Files, once: Path) -> None:
    made = bundle.read(once / files.model.name)
    bundle.verify(made)
    origins = {origin.file: origin for origin in made.about.origins}
    assert (origins["cfm_model.pt"].commit, origins["cfm_model.pt"].sha256) == (
        COMMIT,
        sha256(files.transformer),
    )
    assert (origins["vae_model.pt"].commit, origins["vae_model.pt"].sha256) == (COMMIT, sha256(files.vae))
    assert origins["cfm_model.pt"].source == "https://huggingface.co/ASLP-lab/DiffRhythm-1_2"


def test_nothing_that_was_fetched_is_left_beside_the_bundle(files: Files, once: Path) -> None:
    assert sorted(path.name for path in once.iterdir()) == [".diffrhythm-1.2.lock", "diffrhythm-1.2"]


def test_a_model_that_is_there_and_whole_is_not_asked_for(files: Files, pulled: Path, stand_in: Hub) -> None:
    assert not pull(files, pulled, stand_in)
    assert stand_in.asked == []


def test_a_dropped_connection_is_taken_up_where_it_broke(files: Files, models: Path, stand_in: Hub) -> None:
    stand_in.drops = [100, 1000, 10**9, 5000]
    assert pull(files, models, stand_in)
    assert {"bytes=100-", "bytes=1100-"} <= set(stand_in.ranges)
    assert stand_in.sent == sum(map(len, stand_in.hosted.values()))
    bundle.verify(bundle.read(models / files.model.name))


def test_a_second_pull_goes_on_where_the_first_one_gave_up(files: Files, models: Path, stand_in: Hub) -> None:
    # Both small files arrive, the VAE comes in part, then nothing more, five times.
    stand_in.drops = [10**9, 10**9, 300, 0, 0, 0, 0, 0]
    assert "run it again later, it goes on where it stopped" in refused(files, models, stand_in)
    stand_in.ranges.clear()
    assert pull(files, models, stand_in)
    assert stand_in.ranges[0] == "bytes=300-"
    assert stand_in.sent == sum(map(len, stand_in.hosted.values()))


def test_a_pull_killed_half_way_is_gone_on_with(files: Files, models: Path, stand_in: Hub) -> None:
    context = multiprocessing.get_context("spawn")
    reached = context.Event()
    child = context.Process(target=pull_slowly, args=(files, models, stand_in.address, reached))
    child.start()
    assert reached.wait(300)
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    stand_in.ranges.clear()
    assert pull(files, models, stand_in)
    # All else had arrived, so this is the rest of the weights.
    assert len(stand_in.ranges) == 1
    assert stand_in.ranges != ["bytes=0-"]
    assert sorted(path.name for path in models.iterdir()) == [".diffrhythm-1.2.lock", "diffrhythm-1.2"]


def pull_slowly(files: Files, models: Path, address: str, reached: Any) -> None:
    def report(what: str, done: int, total: int) -> None:
        if what == "fetch cfm_model.pt" and 2 * done > total:
            reached.set()
            signal.pause()

    hub.pull(files.model, models, endpoint=address, code=address, report=report)


def test_a_server_without_ranges_is_read_from_the_start(files: Files, models: Path, stand_in: Hub) -> None:
    stand_in.drops, stand_in.ignores_range = [100], True
    assert pull(files, models, stand_in)
    bundle.verify(bundle.read(models / files.model.name))


def test_a_busy_server_is_asked_again_after_longer_and_longer_waits(
    files: Files, models: Path, stand_in: Hub
) -> None:
    stand_in.answers = [503, 429, 500]
    waits: list[float] = []
    assert pull(files, models, stand_in, pause=waits.append)
    assert waits == [1.0, 2.0, 4.0]


def test_a_server_that_forbids_is_not_asked_again(files: Files, models: Path, stand_in: Hub) -> None:
    stand_in.answers = [403]
    assert "answers 403" in refused(files, models, stand_in)


def test_bytes_of_another_sum_are_refused_and_not_kept(files: Files, models: Path, stand_in: Hub) -> None:
    true = files.vae.read_bytes()
    stand_in.swapped = {true: true[:-1] + b"?"}
    assert f"and not {sha256(files.vae)}" in refused(files, models, stand_in)
    stand_in.swapped = {}
    assert pull(files, models, stand_in)


def test_more_bytes_than_stated_are_refused(files: Files, models: Path, stand_in: Hub) -> None:
    true = files.vae.read_bytes()
    stand_in.swapped = {true: true + b"?" * 10**6}
    assert f"more than the {len(true)} bytes" in refused(files, models, stand_in)


@pytest.mark.parametrize("which", ["phonemes", "negative_style"])
def test_a_source_file_of_another_sum_than_is_known_is_refused(
    which: str, files: Files, models: Path, stand_in: Hub
) -> None:
    true = (files.source / getattr(files.model, which).path).read_bytes()
    stand_in.swapped = {true: true[::-1]}
    assert f"and not {getattr(files.model, which).sha256}" in refused(files, models, stand_in)


def test_source_files_of_a_local_copy_are_not_fetched(files: Files, models: Path, stand_in: Hub) -> None:
    assert pull(files, models, stand_in, source=files.source)
    assert not [asked for asked in stand_in.asked if "vocab" in asked or "vocal" in asked]


def test_a_damaged_bundle_is_made_again_from_the_commit_that_it_records(
    files: Files, pulled: Path, stand_in: Hub
) -> None:
    damage(pulled, files)
    before = bundle.read(pulled / files.model.name).hash
    assert pull(files, pulled, stand_in)
    assert bundle.read(pulled / files.model.name).hash == before
    bundle.verify(bundle.read(pulled / files.model.name))
    assert f"HEAD /ASLP-lab/DiffRhythm-1_2/resolve/{COMMIT}/cfm_model.pt" in stand_in.asked
    assert not [asked for asked in stand_in.asked if "/main/" in asked]


def test_a_commit_that_has_other_bytes_than_at_the_first_pull_is_refused(
    files: Files, pulled: Path, stand_in: Hub
) -> None:
    damage(pulled, files)
    key = ("ASLP-lab/DiffRhythm-1_2", "cfm_model.pt")
    stand_in.hosted[key] = stand_in.hosted[key] + b"more"
    with pytest.raises(BundleError, match="at the first pull") as error:
        pull(files, pulled, stand_in)
    assert sha256(files.transformer) in str(error.value)


def test_a_commit_that_is_gone_is_an_error_and_not_the_newest_instead(
    files: Files, pulled: Path, stand_in: Hub
) -> None:
    damage(pulled, files)
    stand_in.commit = "d" * 40
    with pytest.raises(BundleError, match=f"out of reach .*{COMMIT}"):
        pull(files, pulled, stand_in)


def test_a_hub_that_states_no_sha256_is_refused(files: Files, models: Path, stand_in: Hub) -> None:
    stand_in.states_sum = False
    assert "states no commit, size and SHA-256" in refused(files, models, stand_in)


def test_no_network_is_told_with_the_address(files: Files, models: Path) -> None:
    nobody = Hub("http://127.0.0.1:9", {})
    assert "out of reach" in refused(files, models, nobody)


def test_a_full_disk_is_told_before_anything_is_fetched(
    files: Files, models: Path, stand_in: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(files.source)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=2**20))
    assert "0.0 GB free" in refused(files, models, stand_in)
    assert stand_in.sent == 0


def test_the_token_goes_to_the_hub_alone(
    files: Files, models: Path, stand_in: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_of-the-user")
    assert pull(files, models, stand_in)
    told = {path for path, token in stand_in.tokens if token}
    assert told
    assert not [
        path for path in told if standin_hub.SOURCE_REPOSITORY + "/" + standin_hub.SOURCE_COMMIT in path
    ]


def test_progress_counts_the_bytes_of_each_file(files: Files, models: Path, stand_in: Hub) -> None:
    stand_in.drops = [10**9, 10**9, 10**9, 7000]
    last: dict[str, tuple[int, int]] = {}

    def report(what: str, done: int, total: int) -> None:
        assert done >= last.get(what, (0, 0))[0]
        last[what] = (done, total)

    assert pull(files, models, stand_in, report=report)
    assert last["fetch cfm_model.pt"] == (files.transformer.stat().st_size,) * 2
    assert last["fetch vae_model.pt"] == (files.vae.stat().st_size,) * 2


# ---------------------------------------------------------------- the style encoder


@pytest.fixture
def encoder(stand_in: Hub) -> dict[str, bytes]:
    """The encoder's files by their names in a bundle, hosted."""
    return standin_hub.host_encoder(stand_in)


def test_the_encoder_is_fetched_once_at_its_pinned_commits_to_where_it_is_looked_for(
    encoder: dict[str, bytes], stand_in: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, once: Path
) -> None:
    said: list[tuple[str, int, int]] = []
    assert hub.pull_encoder(endpoint=stand_in.address, cache=tmp_path, report=lambda *word: said.append(word))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    found = mulan.locate(bundle.read(once / "diffrhythm-1.2"))
    assert {name: path.read_bytes() for name, path in found.items()} == encoder
    size = len(encoder[mulan.WEIGHTS])
    assert ("fetch pytorch_model.bin of OpenMuQ/MuQ-MuLan-large", size, size) in said
    stand_in.asked.clear()
    assert not hub.pull_encoder(endpoint=stand_in.address, cache=tmp_path)
    assert stand_in.asked == []


def test_an_encoder_of_another_sum_is_refused_and_not_kept(
    encoder: dict[str, bytes], stand_in: Hub, tmp_path: Path
) -> None:
    true = encoder[mulan.WEIGHTS]
    stand_in.swapped = {true: true[::-1]}
    with pytest.raises(BundleError, match="another SHA-256"):
        hub.pull_encoder(endpoint=stand_in.address, cache=tmp_path)
    stand_in.swapped = {}
    assert hub.pull_encoder(endpoint=stand_in.address, cache=tmp_path)


def test_an_encoder_that_is_out_of_reach_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # the hub's library asks again for a while
    with pytest.raises(BundleError, match=r"not fetched .*: OpenMuQ/MuQ-MuLan-large config\.json") as error:
        hub.pull_encoder(endpoint="http://127.0.0.1:9", cache=tmp_path)
    assert "\n" not in str(error.value)
