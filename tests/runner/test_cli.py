"""The command as a user runs it: exit codes, what goes to which stream, help, and no torch in the parent."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from folders import write_manifest
from typer.testing import CliRunner

from runner import processes
from runner.cli import app
from runner.files import read_json
from runner.songfolder import Outputs
from tests.faults.batches import ROOT, survivors, wait_for

RUNNER = Path(sys.executable).with_name("runner")
# Runs the command, then says which modules it has loaded.
DRIVER = """
import atexit, sys
from pathlib import Path
loaded = Path(sys.argv.pop(1))
atexit.register(lambda: loaded.write_text(" ".join(sys.modules)))
from runner.cli import main
main()
"""
JOB = "model: demo\ndefaults: {duration: 2, steps: 4, style: pop, seed: 3}\nsongs:\n  - name: one\n"
COMMANDS = sorted(c.name or c.callback.__name__ for c in app.registered_commands if c.callback)
HOPELESS = """\
model: demo
defaults: {timeout: 1s, attempts: 1, foresight: false}
songs: [{name: one, style: pop, duration: 40, steps: 64}]
"""
SING = ["sing", "--name", "one", "--style", "pop", "--duration", "2"]


@dataclass(frozen=True)
class Said:
    exit_code: int
    out: str
    err: str


def runner(*arguments: str | Path, folder: Path = ROOT) -> Said:
    done = subprocess.run(
        [RUNNER, *map(str, arguments)], cwd=folder, capture_output=True, text=True, timeout=300, check=False
    )
    return Said(done.returncode, done.stdout, done.stderr)


def runner_and_modules(place: Path, *arguments: str | Path) -> tuple[Said, set[str]]:
    loaded = place / "loaded"
    command = [sys.executable, "-c", DRIVER, str(loaded), *map(str, arguments)]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=300, check=False)
    return Said(done.returncode, done.stdout, done.stderr), set(loaded.read_text().split())


@dataclass(frozen=True)
class Night:
    """A batch that has run in folder, its job file's name with a space in it."""

    folder: Path
    said: Said
    modules: set[str]

    @property
    def file(self) -> Path:
        return self.folder / "my songs.yaml"

    @property
    def outputs(self) -> Outputs:
        return Outputs(self.folder / "my outputs")


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Night:
    folder = tmp_path_factory.mktemp("a night")
    (folder / "my songs.yaml").write_text(JOB)
    said, modules = runner_and_modules(folder, "batch", "my songs.yaml", "--out", "my outputs")
    return Night(folder, said, modules)


# ---------------------------------------------------------------- help and usage


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_every_command_says_what_it_does_with_an_example(command: str) -> None:
    said, shortly = (
        CliRunner().invoke(app, [command, option], prog_name="runner") for option in ("--help", "-h")
    )
    assert (said.exit_code, said.stderr) == (0, "")
    assert f"Example: runner {command}" in said.stdout
    assert f"Usage: runner {command}" in said.stdout
    assert shortly.stdout == said.stdout


def test_the_top_help_lists_every_command_with_a_line_on_it() -> None:
    said = runner("--help")
    assert said.exit_code == 0
    for command in COMMANDS:
        assert re.search(rf"^ +{command} +[A-Z].+", said.out, re.MULTILINE), command


@pytest.mark.parametrize(
    ("encoding", "printed"),
    [("ascii", rb"caf\udce9/\u96e8"), ("latin-1", rb"caf\udce9/\u96e8"), ("utf-8", b"caf\xe9/\xe9\x9b\xa8")],
)
def test_a_name_that_the_terminal_has_no_letters_for_is_printed_somehow(
    tmp_path: Path, encoding: str, printed: bytes
) -> None:
    folder = os.fsencode(tmp_path) + b"/caf\xe9/" + "雨".encode()
    write_manifest(Outputs(Path(os.fsdecode(folder))).song("a/b"))
    done = subprocess.run(
        [os.fsencode(RUNNER), b"report", b"--out", folder],
        env=os.environ | {"PYTHONIOENCODING": f"{encoding}:strict"},
        capture_output=True,
        timeout=300,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.endswith(printed + b"/report.html\n")


def test_the_version_is_data() -> None:
    said = runner("--version")
    assert (said.exit_code, said.err) == (0, "")
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", said.out)


def test_the_schema_is_data() -> None:
    said = runner("schema")
    assert (said.exit_code, said.err) == (0, "")
    assert json.loads(said.out)["$schema"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["batch"], "Missing argument"),
        (["batch", "a.yaml", "--wrokers", "2"], "--wrokers"),
        (["batch", "a.yaml", "--workers", "0"], "--workers"),
        (["batch", "absent.yaml"], "absent.yaml:1:1: there is no such file; check the path"),
        (["batch", "absent.yaml", "--timeout", "soon"], "--timeout"),
        (["batch", "absent.yaml", "--fade-out", "31"], "--fade-out: 31"),
        (
            ["batch", "absent.yaml", "--until", "25:00"],
            "--until '25:00': no time of day; write a time of day",
        ),
        (["batch", "absent.yaml", "--json"], "--json: goes with --plan"),
        (["check", "absent.yaml"], "absent.yaml:1:1: there is no such file; check the path"),
        (["sing", "--name", "one"], "--style: is missing"),
        ([*SING, "--lyrics", "absent.lrc"], "absent.lrc"),
        (["batch", "absent.yaml", "--on-finish", "mail 'you"], "--on-finish"),
        (["logs", "--level", "loud"], "debug, info, warning, error"),
        (["logs", "--attempt", "2"], "--attempt"),
        (["logs", "one", "--json"], "--json"),
        (["snig"], "snig"),
    ],
)
def test_bad_usage_exits_2_says_what_is_wrong_on_stderr_and_starts_nothing(
    tmp_path: Path, arguments: list[str], words: str
) -> None:
    said = runner(*arguments, folder=tmp_path)
    assert (said.exit_code, said.out) == (2, "")
    assert words in said.err
    assert "Traceback" not in said.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", [["status", "one"], ["logs"], ["logs", "one"], ["stop", "one"], ["stop"]])
def test_where_nothing_such_is_the_exit_code_is_1_and_stdout_empty(
    tmp_path: Path, command: list[str]
) -> None:
    said = runner(*command, "--out", tmp_path / "outputs")
    assert (said.exit_code, said.out) == (1, "")
    assert said.err.strip()
    assert "Traceback" not in said.err


# ---------------------------------------------------------------- a night


def test_a_batch_makes_its_songs_and_exits_0(night: Night) -> None:
    assert night.said.exit_code == 0, night.said.err
    assert read_json(night.outputs.song("my songs/one").manifest)["state"] == "done"
    assert "done" in night.said.err + night.said.out
    assert "\x1b" not in night.said.err + night.said.out  # no colours without a terminal


def test_a_second_quiet_batch_has_nothing_to_do_and_says_nothing(night: Night) -> None:
    said = runner("batch", night.file, "--out", night.outputs.folder, "--quiet")
    assert said == Said(0, "", "")
    assert len(night.outputs.song("my songs/one").attempts()) == 1


def test_a_quiet_batch_that_fails_says_one_summary_that_any_mail_can_show(tmp_path: Path) -> None:
    """In an environment as cron's, with a path that is longer than a line."""
    folder = tmp_path / ("söng" * 30)
    folder.mkdir()
    (folder / "night.yaml").write_text(HOPELESS)
    bare = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "LOGNAME": "you", "PYTHONPATH": str(ROOT)}
    told = folder / "told.json"
    said = subprocess.run(
        [RUNNER, "batch", "night.yaml", "--quiet", "--on-finish", "sh -c 'cat >told.json; exit 3'"],
        cwd=folder,
        env=bare,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (said.returncode, said.stdout) == (1, "")
    lines = said.stderr.splitlines()
    assert lines[0].split() == ["result", "time", "retries", "file"]
    assert lines[-1] == "--on-finish: sh: exit code 3"
    assert all(line.isprintable() and line.isascii() and len(line) <= 80 for line in lines)
    content = read_json(told)
    assert (content["exit_code"], content["states"]) == (1, {"failed": 1})
    assert content["songs"][0]["why"].startswith("not finished within 1 s")
    assert content["log"] == str(folder / "outputs" / "runner.log")


def test_the_log_of_a_night_tells_it_in_lines_and_in_json(night: Night) -> None:
    words = runner("logs", "--out", night.outputs.folder, "--level", "debug")
    assert (words.exit_code, words.err) == (0, "")
    lines = night.outputs.log.read_text().splitlines()
    assert set(words.out.splitlines()) <= set(lines)
    entries = [
        json.loads(line) for line in runner("logs", "--json", "--out", night.outputs.folder).out.splitlines()
    ]
    assert entries[0]["text"].startswith("batch began")
    assert entries[-1]["text"].startswith("batch ended with exit code 0: 1 done")
    assert {entry["schema"] for entry in entries} == {1}


def test_status_tells_the_night_in_words_and_completely_in_json(night: Night) -> None:
    words = runner("status", "--out", night.outputs.folder)
    assert words.exit_code == 0
    assert "one" in words.out
    said = runner("status", "--json", "--out", night.outputs.folder)
    assert (said.exit_code, said.err) == (0, "")
    content = json.loads(said.out)
    assert content["schema"] == 1
    assert "my songs/one" in said.out


def test_logs_are_data(night: Night) -> None:
    said = runner("logs", "one", "--out", night.outputs.folder)
    assert said.exit_code == 0
    assert "Traceback" not in said.out + said.err


def test_a_song_made_again_is_the_same_sound_and_leaves_the_first_alone(night: Night, tmp_path: Path) -> None:
    outputs = Outputs(shutil.copytree(night.outputs.folder, tmp_path / "copy"))
    first = outputs.song("my songs/one")
    before = first.manifest.read_bytes()
    said = runner("again", "one", "--out", outputs.folder)
    assert said.exit_code == 0, said.err
    assert said.out == "my songs/one.again: the same sound as my songs/one, sample for sample\n"
    assert first.manifest.read_bytes() == before
    again = runner("again", "one", "--out", outputs.folder)  # is there, so it is only compared
    assert again.out == said.out
    assert len(outputs.song("my songs/one.again").attempts()) == 1


def test_check_says_how_each_song_would_be_made_and_makes_nothing(night: Night, tmp_path: Path) -> None:
    said, modules = runner_and_modules(tmp_path, "check", night.file)
    assert said.exit_code == 0
    assert said.out.startswith("my songs/one: 2 s, 4 steps, guidance 3 (")
    assert no_model_in(modules)
    assert [path.name for path in tmp_path.iterdir()] == ["loaded"]


def test_check_shows_the_lines_that_are_too_dense_or_all_or_all_to_programs(tmp_path: Path) -> None:
    lyrics = "[00:00.00]low tide\\n[00:00.10]high tide\\n[00:03.00]no tide\\n"
    file = tmp_path / "night.yaml"
    file.write_text(f'model: demo\nsongs:\n  - {{name: a, style: pop, duration: 9, lyrics: "{lyrics}"}}\n')
    said = runner("check", file)
    assert [line.split()[0] for line in said.out.splitlines()] == ["night/a:", "line", "3"]
    assert "too dense +" in said.out
    assert "late, the line before it" in said.err
    assert len(runner("check", file, "--lines").out.splitlines()) == 5
    told = json.loads(runner("check", file, "--json").out)
    assert [line["text"] for line in told["songs"][0]["lines"]] == ["low tide", "high tide", "no tide"]


def test_a_plan_says_what_would_be_made_and_makes_nothing(night: Night, tmp_path: Path) -> None:
    (tmp_path / "two.yaml").write_text(JOB + "  - name: two\n    steps: 8\n")
    said, modules = runner_and_modules(tmp_path, "batch", "two.yaml", "--until", "8h", "--plan")
    assert said.exit_code == 0, said.err
    head, one, two, until, by = said.out.splitlines()
    assert head.split() == ["song", "begins", "ends", "takes", "steps"]
    assert (one.split()[0], two.split()[0]) == ("two/one", "two/two")
    assert re.match(r"until .*: 2 of 2 songs, the last at ", until)
    assert by.startswith("foreseen by this machine's profile")
    assert no_model_in(modules)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["loaded", "two.yaml"]


def test_a_plan_is_complete_in_json_and_goes_by_what_was_made(night: Night) -> None:
    more = night.folder / "more.yaml"
    more.write_text(JOB)
    said = runner("batch", night.file, more, "--out", night.outputs.folder, "--plan", "--json", "--quiet")
    assert (said.exit_code, said.err) == (0, "")
    content = json.loads(said.out)
    assert (content["schema"], content["made"], content["until_wall"]) == (1, 1, None)
    (song,) = content["songs"]
    assert (song["song"], song["state"], song["measured_by"]) == ("more/one", "planned", 1)
    assert song["seconds"] > 0


def no_model_in(modules: set[str]) -> bool:
    return not {name.partition(".")[0] for name in modules} & {"torch", "torchaudio", "diffrhythm", "numpy"}


def test_the_parent_of_a_batch_never_loads_torch(night: Night) -> None:
    assert "runner.supervise" in night.modules
    assert no_model_in(night.modules)


def test_status_never_loads_torch(night: Night, tmp_path: Path) -> None:
    said, modules = runner_and_modules(tmp_path, "status", "--out", night.outputs.folder)
    assert said.exit_code == 0
    assert "runner.status" in modules
    assert no_model_in(modules)


# ---------------------------------------------------------------- 1, 75, 130


def test_a_batch_that_holds_the_folder_is_exit_code_75(tmp_path: Path) -> None:
    with Outputs(tmp_path).locked():
        said = runner(*SING, "--out", tmp_path, "--quiet")
    assert (said.exit_code, said.out) == (75, "")
    (line,) = said.err.splitlines()
    assert line.startswith(f"another batch is using {tmp_path}")


def test_an_out_that_is_a_file_is_exit_code_1_and_one_line(tmp_path: Path) -> None:
    (tmp_path / "outputs").touch()
    said = runner(*SING, "--out", tmp_path / "outputs", "--quiet")
    assert (said.exit_code, said.out) == (1, "")
    assert said.err == (
        f"cannot write results: File exists: {tmp_path / 'outputs'}; choose another folder with --out\n"
    )


def started(tmp_path: Path) -> subprocess.Popen[str]:
    command = [str(RUNNER), *SING, "--steps", "1000", "--out", str(tmp_path)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_ctrl_c_while_a_song_is_made_is_exit_code_130_and_says_how_to_go_on(tmp_path: Path) -> None:
    process = started(tmp_path)
    wait_for((tmp_path / "sing" / "one" / "heartbeat.json").exists)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "the same command goes on" in err
    assert "Traceback" not in err
    assert survivors(Outputs(tmp_path)) == []


def test_a_batch_that_was_stopped_is_told_too_and_another_ctrl_c_ends_who_is_told(tmp_path: Path) -> None:
    (tmp_path / "night.yaml").write_text(JOB.replace("steps: 4", "steps: 1000"))
    command = [RUNNER, "batch", "night.yaml", "--quiet", "--on-finish", "sh -c 'cat >told; sleep 600'"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    wait_for((tmp_path / "outputs" / "night" / "one" / "heartbeat.json").exists)
    process.send_signal(signal.SIGTERM)
    wait_for(lambda: (tmp_path / "told").exists() and (tmp_path / "told").read_text().endswith("}\n"))
    (teller,) = psutil.Process(process.pid).children()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=300)
    assert process.returncode == 130
    assert not teller.is_running()
    content = read_json(tmp_path / "told")
    assert (content["exit_code"], content["states"]) == (143, {"interrupted": 1})


def test_ctrl_c_while_the_batch_is_checked_is_exit_code_130_and_leaves_no_child(tmp_path: Path) -> None:
    (tmp_path / "night.yaml").write_text(JOB)
    endless = f"{sys.executable} -c 'import time; time.sleep(3600)'"
    process = subprocess.Popen(
        [RUNNER, "batch", "night.yaml", "--engine", endless], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    (child,) = wait_for(lambda: psutil.Process(process.pid).children())
    wait_for(lambda: child.cmdline()[1:2] == ["-c"])  # it is past its exec
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "Traceback" not in err
    # A parent that is stopped while it spawns leaves the child to the death signal, which takes a moment.
    wait_for(lambda: processes.identity(child.pid) is None)
    assert not (tmp_path / "outputs" / "night").exists()
