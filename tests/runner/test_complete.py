"""What the tab key offers, by the protocols of the shells and in a real bash."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from folders import write_batch, write_manifest

from diffrhythm.published import MODELS
from runner import complete
from runner.messages import QueuedSong
from runner.songfolder import Outputs

RUNNER = Path(sys.executable).with_name("runner")
HEAVY = {"torch", "numpy", "pydantic", "rich", "yaml"}


@pytest.fixture
def outputs(tmp_path: Path) -> Outputs:
    """Two finished songs of one name, another that failed, and one that has not begun."""
    outputs = Outputs(tmp_path / "outputs")
    for id in ("day/rain", "night/rain", "my songs/fog"):
        write_manifest(outputs.song(id))
    outputs.song("night/snow").new_attempt()
    write_batch(outputs, [QueuedSong("night/hail", "queued")], finished=True)
    return outputs


def offered(shell: str, *words: str, folder: Path) -> list[str]:
    """What that shell is told to offer after these words, the last of them not finished."""
    line = " ".join(["runner", *words])
    protocol = {
        "_RUNNER_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": "\n".join(["runner", *words]),
        "COMP_CWORD": str(len(words)),
        "_TYPER_COMPLETE_ARGS": line,
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    done = subprocess.run(
        [RUNNER],
        cwd=folder,
        env=os.environ | protocol,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.stderr == ""
    return [line for line in done.stdout.splitlines() if line]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_offers_commands_and_songs(outputs: Outputs, shell: str) -> None:
    folder = outputs.folder.parent
    assert any("status" in line for line in offered(shell, "sta", folder=folder))
    songs = "\n".join(offered(shell, "logs", "", folder=folder))
    for name in ("day/rain", "night/rain", "snow", "hail", "fog"):
        assert name in songs


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["logs", "ni"], ["night/rain"]),
        (["stop", "night/"], ["night/hail", "night/rain", "night/snow"]),
        (["status", "f"], ["fog"]),
        (["again", ""], ["day/rain", "fog", "night/rain"]),  # what is not finished cannot be made again
        (["again", "--out", "elsewhere", ""], []),
        (["batch", "--preset", "pre"], ["preview"]),
        (["sing", "--model", "d"], ["demo", "diffrhythm-1.2", "diffrhythm-1.2-full"]),
        (["sing", "--format", ""], ["wav", "flac", "mp3", "ogg"]),
        (["sing", "--precision", "b"], ["bf16"]),
        (["models", "pull", ""], ["diffrhythm-1.2", "diffrhythm-1.2-full"]),
    ],
)
def test_what_is_offered_fits_the_place(outputs: Outputs, words: list[str], wanted: list[str]) -> None:
    assert offered("bash", *words, folder=outputs.folder.parent) == wanted


def test_a_finished_song_is_offered_by_its_whole_name_where_one_that_is_not_has_its_name_too(
    outputs: Outputs,
) -> None:
    write_manifest(outputs.song("day/snow"))
    assert offered("bash", "again", "s", folder=outputs.folder.parent) == []
    assert offered("bash", "again", "day/s", folder=outputs.folder.parent) == ["day/snow"]


def test_a_name_that_a_shell_would_run_is_not_offered(outputs: Outputs) -> None:
    for name in ("$(touch x)", "`x`", "a b", "'a", "-x", "*", "a\nb"):
        write_manifest(outputs.song(f"night/{name}"))
    assert offered("bash", "again", "", folder=outputs.folder.parent) == ["day/rain", "fog", "night/rain"]


def test_where_nothing_can_be_read_nothing_is_said(tmp_path: Path) -> None:
    (tmp_path / "outputs").touch()
    assert offered("bash", "logs", "", folder=tmp_path) == []
    (tmp_path / "outputs").unlink()
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs" / "batch.json").write_text("{torn")
    assert offered("bash", "logs", "", folder=tmp_path) == []


def test_a_real_bash_completes(outputs: Outputs) -> None:
    bash = shutil.which("bash")
    assert bash is not None
    script = (
        'eval "$(runner --show-completion bash)"; COMP_WORDS=(runner logs sn); COMP_CWORD=2; '
        'complete -p runner; _runner_completion runner; echo "${COMPREPLY[@]}"'
    )
    path = f"{RUNNER.parent}:{os.environ['PATH']}"
    done = subprocess.run(
        [bash, "--norc", "-c", script],
        cwd=outputs.folder.parent,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    assert done.stdout.splitlines() == ["complete -o default -F _runner_completion runner", "snow"]


def test_nothing_heavy_is_loaded_for_it(outputs: Outputs) -> None:
    code = (
        "import sys, runner.cli; from types import SimpleNamespace; from runner import complete\n"
        f"print(complete.songs(SimpleNamespace(params={{'out': {str(outputs.folder)!r}}}), 'sn'))\n"
        f"print(sorted({HEAVY!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "['snow']\n[]\n"


def test_the_models_that_are_offered_are_those_that_have_a_name() -> None:
    assert list(complete.MODELS) == ["demo", *MODELS]
