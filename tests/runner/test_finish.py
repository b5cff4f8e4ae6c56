"""The end of a batch as it is told: to a command, which is a real process, and to the night's log."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest
from folders import outputs_in, write_batch, write_failure, write_manifest

from runner import processes
from runner.errors import LockedError, Problem, SpecError, UsageError
from runner.finish import SCHEMA, parse, run, told
from runner.journal import read
from runner.messages import QueuedSong
from runner.songfolder import Outputs
from tests.faults.batches import wait_for

CONTENT = {"schema": 1, "summary": "x" * 10**6}


@pytest.fixture
def outputs(tmp_path: Path) -> Outputs:
    return outputs_in(tmp_path)


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def keeping(paper: Path) -> list[str]:
    return ["sh", "-c", 'cat >"$0"', str(paper)]


def logged(outputs: Outputs) -> list[tuple[str, str]]:
    return [(each.level, each.text) for each in read(outputs)[0]]


# ---------------------------------------------------------------- the command


def test_the_command_reads_all_of_the_summary_as_json(tmp_path: Path) -> None:
    paper = tmp_path / "told.json"
    assert run(keeping(paper), CONTENT) == ""
    assert json.loads(paper.read_text()) == CONTENT


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (python("import sys; sys.exit('no such server')"), f"{sys.executable}: exit code 1: no such server"),
        (python("import os; os.kill(os.getpid(), 15)"), f"{sys.executable}: ended by signal 15"),
        (python("print('x\\n' * 10**6 + 'last'); exit(3)"), f"{sys.executable}: exit code 3: last"),
        (["/no/such/program"], "/no/such/program: No such file or directory; nobody was told"),
        (python("pass"), ""),
        (python("print('fine')"), ""),
    ],
)
def test_what_goes_wrong_with_it_is_one_line_and_what_goes_well_none(command: list[str], words: str) -> None:
    assert run(command, CONTENT) == (f"--on-finish: {words}" if words else "")


def test_one_that_hangs_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    paper = tmp_path / "pid"
    code = (
        f"import os, time; os.fork(); open({str(paper)!r}, 'a').write(f'{{os.getpid()}}\\n'); time.sleep(600)"
    )
    assert "ended after 6 s" in run(python(code), CONTENT, timeout_s=6)
    pids = [int(pid) for pid in paper.read_text().split()]
    assert len(pids) == 2
    wait_for(lambda: not any(processes.identity(pid) for pid in pids))


def test_what_it_leaves_running_holds_nobody_up_and_lives_on(tmp_path: Path) -> None:
    paper = tmp_path / "pid"
    code = (
        "import os, time, pathlib\nif os.fork() == 0:\n"
        f"    pathlib.Path({str(paper)!r}).write_text(str(os.getpid())); time.sleep(600)"
    )
    assert run(python(code), CONTENT) == ""
    pid = wait_for(lambda: paper.exists() and paper.read_text())
    os.kill(int(pid), signal.SIGKILL)


def test_it_has_the_users_whole_environment_and_no_lock(
    tmp_path: Path, outputs: Outputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NTFY_TOKEN", "s3cret")
    paper = tmp_path / "told"
    with outputs.locked():
        assert (
            run(["sh", "-c", f"echo $NTFY_TOKEN >{paper}; readlink /proc/self/fd/* >>{paper}; true"], CONTENT)
            == ""
        )
    assert paper.read_text().startswith("s3cret\n")
    assert str(outputs.folder) not in paper.read_text()


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (None, []),
        ("mail -s 'my songs' you", ["mail", "-s", "my songs", "you"]),
        ("""sh -c 'jq -r .summary | mail you'""", ["sh", "-c", "jq -r .summary | mail you"]),
    ],
)
def test_a_command_is_taken_apart_as_a_shell_would_and_given_to_none(
    command: str | None, words: list[str]
) -> None:
    assert parse(command) == words


@pytest.mark.parametrize("command", ["", "  ", "mail 'you"])
def test_a_command_that_is_none_is_bad_usage(command: str) -> None:
    with pytest.raises(UsageError, match="--on-finish"):
        parse(command)


# ---------------------------------------------------------------- how it ended


def test_every_song_of_the_batch_is_told_with_what_became_of_it(tmp_path: Path, outputs: Outputs) -> None:
    write_manifest(outputs.song("night/rain"))
    write_failure(outputs.song("night/snow"), "not finished within 40 min")
    paper = tmp_path / "told.json"
    with told(outputs, keeping(paper)) as end:
        songs = [
            QueuedSong("night/rain", "done"),
            QueuedSong("night/snow", "failed"),
            QueuedSong("night/hail", "left"),
        ]
        write_batch(outputs, songs, finished=True)
        end.report = outputs.report
        end.exit_code = 1
    content = json.loads(paper.read_text())
    assert content.pop("started")
    assert content == {
        "schema": SCHEMA,
        "summary": "1 failed, 1 left, 1 done, in 50 s",
        "exit_code": 1,
        "problem": "",
        "states": {"done": 1, "failed": 1, "left": 1},
        "seconds": 50.0,
        "outputs": str(outputs.folder),
        "log": str(outputs.log),
        "report": str(outputs.report),
        "songs": [
            {
                "song": "night/rain",
                "state": "done",
                "file": str(outputs.song("night/rain").audio("wav")),
                "why": "",
                "seconds": 734.5,
            },
            {
                "song": "night/snow",
                "state": "failed",
                "file": None,
                "why": "not finished within 40 min",
                "seconds": None,
            },
            {"song": "night/hail", "state": "left", "file": None, "why": "", "seconds": None},
        ],
    }
    assert logged(outputs)[-1] == ("error", "batch ended with exit code 1: 1 failed, 1 left, 1 done, in 50 s")


def test_a_page_of_another_night_is_not_told_of_where_this_one_has_none(
    tmp_path: Path, outputs: Outputs
) -> None:
    outputs.report.touch()
    paper = tmp_path / "told.json"
    with told(outputs, keeping(paper)):
        write_batch(outputs, [QueuedSong("night/rain", "left")], finished=True)
    assert json.loads(paper.read_text())["report"] is None


@pytest.mark.parametrize(
    ("error", "exit_code", "problem"),
    [
        (LockedError("another batch is using outputs"), 75, "another batch is using outputs"),
        (SpecError([Problem("one"), Problem("two")]), 2, "one\ntwo"),
        (KeyboardInterrupt(), 130, ""),
        (SystemExit(143), 143, ""),
        (ValueError("odd"), 1, "a defect of the runner (ValueError: odd)"),
    ],
)
def test_an_end_before_it_began_is_told_without_the_songs_of_another_and_goes_on(
    tmp_path: Path, outputs: Outputs, error: BaseException, exit_code: int, problem: str
) -> None:
    outputs.report.touch()  # of another night
    write_batch(outputs, [QueuedSong("night/rain", "running")], parent=processes.Identity(1, 1, "b"))
    paper = tmp_path / "told.json"
    with pytest.raises(type(error)), told(outputs, keeping(paper)):
        raise error
    content = json.loads(paper.read_text())
    assert (content["exit_code"], content["problem"], content["songs"]) == (exit_code, problem, [])
    assert content["report"] is None
    assert content["summary"] == problem or content["summary"] == "stopped before it began"
    wanted = [("error", line) for line in problem.split("\n") if line]
    assert (logged(outputs) if outputs.log.exists() else []) == wanted


def test_a_command_that_fails_is_a_warning_and_changes_no_exit_code(
    outputs: Outputs, capsys: pytest.CaptureFixture[str]
) -> None:
    with told(outputs, ["false"]) as end:
        write_batch(outputs, [], finished=True)
    assert end.exit_code == 0
    assert capsys.readouterr().err == "--on-finish: false: exit code 1\n"
    assert logged(outputs)[-1] == ("warning", "--on-finish: false: exit code 1")


def test_lines_that_are_missing_in_the_log_are_one_warning(
    outputs: Outputs, capsys: pytest.CaptureFixture[str]
) -> None:
    outputs.log.mkdir()
    with told(outputs):
        write_batch(outputs, [], finished=True)
    (warning,) = capsys.readouterr().err.splitlines()
    assert warning == f"{outputs.log}: Is a directory: lines of this night's log are missing"


def test_where_all_is_well_nothing_is_said(outputs: Outputs, capsys: pytest.CaptureFixture[str]) -> None:
    with told(outputs, ["true"]):
        write_batch(outputs, [], finished=True)
    assert capsys.readouterr() == ("", "")
