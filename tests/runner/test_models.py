"""`runner models`: a parent that asks and prints, a child that works."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from diffrhythm import install
from runner.errors import ForeignFileError, ModelError
from runner.models import MOVED, Answer, Model, Question, ask, ask_long, read, table, write
from tests.faults.batches import wait_for

sys.path.insert(0, str(Path(__file__).parents[1] / "diffrhythm"))

import published_files
import standin_hub

if TYPE_CHECKING:
    from published_files import Files
    from standin_hub import Hub

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return published_files.make(tmp_path_factory.mktemp("published"))


@pytest.fixture
def hub(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with standin_hub.serving(files) as server:
        standin_hub.host_encoder(server)
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
        yield server


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DIFFRHYTHM_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def worker(files: Files) -> Sequence[str]:
    script = Path(__file__).with_name("small_worker.py")
    return (sys.executable, str(script), str(files.source), "models")


@pytest.fixture(scope="session")
def once(files: Files, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder with the small model in it, for looking at only."""
    models = tmp_path_factory.mktemp("once")
    given = {"transformer": files.transformer, "vae": files.vae, "source": files.source}
    assert install.import_files(files.model, models, **given)
    return models


@pytest.fixture
def imported(once: Path, folder: Path) -> Path:
    """Folder of the small model, to be changed."""
    return Path(shutil.copytree(once, folder)) / "diffrhythm-1.2"


@pytest.fixture
def importing(files: Files) -> Question:
    return Question("import", "diffrhythm-1.2", str(files.transformer), str(files.vae), str(files.source))


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "runner.cli", "models", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


# ---------------------------------------------------------------- the commands


def test_the_list_says_what_is_here_and_how_to_get_the_rest() -> None:
    done = run("list")
    rows = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert done.returncode == 0
    assert " whole " in rows["demo"]
    assert "absent" in rows["diffrhythm-1.2"]
    assert rows["diffrhythm-1.2"].endswith("runner models pull diffrhythm-1.2")
    assert "96-285 s" in rows["diffrhythm-1.2-full"]


def test_the_list_as_json_is_whole_and_has_a_schema_number(folder: Path) -> None:
    told = json.loads(run("list", "--json").stdout)
    assert told["schema"] == 1
    rows = {row["name"]: row for row in told["models"]}
    assert rows["demo"]["state"] == "whole"
    assert (rows["diffrhythm-1.2"]["state"], rows["diffrhythm-1.2"]["folder"]) == (
        "absent",
        str(folder / "diffrhythm-1.2"),
    )
    assert 5e9 < rows["diffrhythm-1.2"]["bytes"] < 6e9


def test_the_path_of_the_demo_is_its_folder() -> None:
    done = run("path", "demo")
    assert done.returncode == 0
    assert (Path(done.stdout.strip()) / "bundle.json").is_file()


@pytest.mark.parametrize("verb", ["path", "verify"])
def test_a_model_that_is_not_here_is_an_error_that_names_the_command(verb: str) -> None:
    done = run(verb, "diffrhythm-1.2-full")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.endswith("get it with: runner models pull diffrhythm-1.2-full\n")
    assert done.stderr.count("\n") == 1


def test_a_name_that_nobody_published_is_refused_with_those_that_were() -> None:
    done = run("pull", "diffrhythm-3")
    assert done.returncode == 1
    assert done.stderr == (
        "no published model 'diffrhythm-3': NAME; choose diffrhythm-1.2 or diffrhythm-1.2-full\n"
    )


def test_small_files_are_refused_as_the_full_size_model(files: Files) -> None:
    done = run(
        *("import", "diffrhythm-1.2", "--dit", str(files.transformer)),
        *("--vae", str(files.vae), "--source", str(files.source)),
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert f"not the published file: {files.source}" in done.stderr


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_pull_ends_its_child_and_says_how_to_go_on(stop: signal.Signals) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(300)
        process = subprocess.Popen(
            [sys.executable, "-m", "runner.cli", "models", "pull", "diffrhythm-1.2"],
            cwd=ROOT,
            env={**os.environ, "HF_ENDPOINT": f"http://127.0.0.1:{silent.getsockname()[1]}"},
            stderr=subprocess.PIPE,
            text=True,
        )
        connection, _ = silent.accept()  # the child is waiting for an answer
        children = psutil.Process(process.pid).children()
        process.send_signal(stop)
        _, said = process.communicate(timeout=120)
        connection.close()
    assert process.returncode == 128 + stop
    assert said == "stopped; the same command goes on where it was\n"
    assert len(children) == 1
    assert not children[0].is_running()


# ---------------------------------------------------------------- the child's answers


@pytest.mark.slow
def test_a_pulled_model_is_listed_found_verified_and_not_pulled_again(
    files: Files, hub: Hub, worker: Sequence[str], folder: Path
) -> None:
    pull = Question("pull", "diffrhythm-1.2", source=str(files.source))
    place = str(folder / "diffrhythm-1.2")
    ready, licences = ask(pull, worker=worker).words
    assert ready == f"diffrhythm-1.2: ready: {place}"
    assert "CC-BY-NC-4.0" in licences
    hub.asked.clear()
    assert ask(pull, worker=worker).words[0] == f"diffrhythm-1.2: was there, and is whole: {place}"
    assert hub.asked == []  # the encoder is there, too
    rows = {row["name"]: row for row in ask(Question("list"), worker=worker).models}
    assert (rows["diffrhythm-1.2"]["state"], rows["diffrhythm-1.2"]["durations"]) == ("whole", "95 s")
    assert ask(Question("path", "diffrhythm-1.2"), worker=worker).folder == place
    assert f"diffrhythm-1.2: whole: {place}" in ask(Question("verify"), worker=worker).words


def test_a_changed_byte_is_a_problem_of_that_model_alone(imported: Path, worker: Sequence[str]) -> None:
    weights = imported / "dit.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x00")
    answer = ask(Question("verify"), worker=worker)
    assert [line.split(":")[:2] for line in answer.words] == [["demo", " whole"]]
    with pytest.raises(ModelError, match=r"changed since it was made: dit\.safetensors"):
        answer.raise_problems()


def test_a_cut_model_is_listed_as_damaged(imported: Path, worker: Sequence[str]) -> None:
    (imported / "dit.safetensors").write_bytes(b"")
    rows = {row["name"]: row for row in ask(Question("list"), worker=worker).models}
    assert rows["diffrhythm-1.2"]["state"] == "damaged"
    assert "dit.safetensors" in rows["diffrhythm-1.2"]["note"]


def test_what_the_files_lack_is_one_line_of_the_answer(
    importing: Question, worker: Sequence[str], tmp_path: Path
) -> None:
    junk = tmp_path / "cfm_model.pt"
    junk.write_bytes(b"text")
    answer = ask(replace(importing, dit=str(junk)), worker=worker)
    assert len(answer.problems) == 1
    assert str(junk) in answer.problems[0]
    assert "\n" not in answer.problems[0]


def test_a_worker_that_dies_without_an_answer_is_an_error() -> None:
    with pytest.raises(ModelError, match="exit code 7"):
        ask(Question("list"), worker=(sys.executable, "-c", "import sys; sys.exit(7)"))


# ---------------------------------------------------------------- calibrating


@pytest.fixture
def demo_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the demo, with a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Path(shutil.copytree(ROOT / "diffrhythm" / "demo", tmp_path / "demo"))


@pytest.mark.slow
def test_a_killed_calibration_goes_on_and_says_what_it_found(demo_copy: Path) -> None:
    command = [sys.executable, "-m", "runner.cli", "models", "calibrate", str(demo_copy), "--songs", "1"]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as parent:
        try:
            wait_for(lambda: len(list((demo_copy.parent / "cache").rglob("song-0-*.safetensors"))) > 1)
            (child,) = psutil.Process(parent.pid).children()
            child.kill()
            out, said = parent.communicate(timeout=600)
        finally:
            parent.kill()
    assert parent.returncode == 0, said
    assert "the worker died (exit code -9); it goes on where it was" in said
    assert said.count("song 1: step 1 of 6") == 1
    assert out.startswith("velocity off by ")
    assert out.endswith(f"written: {demo_copy / 'calibration.safetensors'}\n")
    assert (demo_copy / "calibration.safetensors").is_file()


def test_the_demo_of_the_program_cannot_be_calibrated() -> None:
    done = run("calibrate", "demo")
    assert (done.returncode, done.stdout) == (1, "")
    assert "calibrate the copy" in done.stderr


def test_nobody_waits_for_a_calibration_that_is_of_no_use(demo_copy: Path) -> None:
    answer = ask_long(Question("calibrate", str(demo_copy), songs=3, unasked=True))
    assert answer.words == [
        "not calibrated for int8: the model is too small for int8 to be faster; "
        f"by hand: runner models calibrate {demo_copy}"
    ]
    assert not (demo_copy / "calibration.safetensors").exists()


def test_what_prevents_an_unasked_calibration_is_no_error(demo_copy: Path) -> None:
    (demo_copy / "calibration.safetensors").write_bytes(b"garbage")
    (words,) = ask_long(Question("calibrate", str(demo_copy), songs=3, unasked=True)).words
    assert words.startswith("not calibrated for int8: no calibration (")
    assert ask_long(Question("calibrate", str(demo_copy / "none"), songs=3)).problems


# ---------------------------------------------------------------- the paper


def lives(tmp_path: Path, *codes: str) -> Sequence[str]:
    """A worker that runs one of these at each start, with its paper, the place of `moved`, and `answer()`."""
    script = f"""
import json, os, signal, sys, time
from pathlib import Path
paper = Path(sys.argv[1])
moved, count = paper.with_name({MOVED!r}), Path({str(tmp_path / "lives")!r})
life = int(count.read_text()) if count.exists() else 0
count.write_text(str(life + 1))
def step():
    time.sleep(0.02)
    moved.touch()
def answer():
    empty = {{"models": [], "folder": "", "problems": [], "schema": 1}}
    paper.write_text(json.dumps(empty | {{"words": ["made"]}}))
exec({list(codes)!r}[life])
"""
    return [sys.executable, "-c", script]


def test_long_work_outlives_deaths_and_hangs_of_its_worker(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    worker = lives(
        tmp_path,
        "step(); os.kill(os.getpid(), signal.SIGKILL)",
        "step(); time.sleep(600)",
        "step(); sys.exit(9)",
        "step(); os.kill(os.getpid(), signal.SIGSEGV)",
        "answer()",
    )
    assert ask_long(Question("tune", "demo"), worker=worker, stall_s=4.0).words == ["made"]
    said = capfd.readouterr().err.splitlines()
    assert [line for line in said if "goes on where it was" in line] == [
        "the worker died (exit code -9); it goes on where it was",
        "the worker hung, and was killed; it goes on where it was",
        "the worker died (exit code 9); it goes on where it was",
        "the worker died (exit code -11); it goes on where it was",
    ]


def test_work_that_comes_no_step_further_is_given_up(tmp_path: Path) -> None:
    worker = lives(tmp_path, "step(); sys.exit(1)", *["sys.exit(1)"] * 2, "answer()")
    with pytest.raises(ModelError, match=r"exit code 1\) 3 times without a step"):
        ask_long(Question("tune", "demo"), worker=worker, stall_s=30.0)


def test_a_worker_that_moves_is_not_taken_for_one_that_hangs(tmp_path: Path) -> None:
    worker = lives(tmp_path, "[step() for _ in range(250)]; answer()")
    assert ask_long(Question("tune", "demo"), worker=worker, stall_s=2.0).words == ["made"]


def test_a_worker_dies_with_its_parent(tmp_path: Path) -> None:
    worker = lives(tmp_path, f"Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid())); time.sleep(600)")
    code = f"from runner.models import Question, ask; ask(Question('verify'), worker={list(worker)!r})"
    with subprocess.Popen([sys.executable, "-c", code]) as parent:
        try:
            pid = wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
            child = psutil.Process(int(pid))
        finally:
            parent.kill()
    gone, _ = psutil.wait_procs([child], timeout=120)
    assert gone


def test_the_paper_carries_questions_and_answers_whole(tmp_path: Path) -> None:
    paper = tmp_path / "paper.json"
    for content in (Question("pull", "x", source="/s"), Answer(models=[{"name": "x"}], words=["é"])):
        write(paper, content)
        assert read(paper, type(content)) == content


@pytest.mark.parametrize("text", ["{}", "[]", '{"schema": 2}', "{"])
def test_a_foreign_paper_is_refused(text: str, tmp_path: Path) -> None:
    paper = tmp_path / "paper.json"
    paper.write_text(text)
    with pytest.raises(ForeignFileError):
        read(paper, Question)


def test_an_unknown_verb_is_refused(tmp_path: Path) -> None:
    paper = tmp_path / "paper.json"
    write(paper, replace(Question("list"), verb="sell"))  # type: ignore[arg-type]
    with pytest.raises(ForeignFileError, match="sell"):
        read(paper, Question)


def test_the_table_is_in_columns() -> None:
    rows = table(
        [
            Model("a", "whole", "/here", 20_000_000, "2-95 s", "x"),
            Model("a-longer-name", "absent", "/there", 5_100_000_000, "95 s", "x", "get it"),
        ]
    )
    assert rows == [
        "a              whole   20 MB   2-95 s  /here",
        "a-longer-name  absent  5.1 GB  95 s    get it",
    ]


def test_files_of_the_users_folder_are_not_taken_for_modules(tmp_path: Path) -> None:
    (tmp_path / "safetensors.py").write_text("raise SystemExit('a file of the user')")
    done = subprocess.run(
        [sys.executable, "-P", "-m", "runner.cli", "models", "path", "demo"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
