"""Nights that begin by themselves: the line and the task as text, and a crontab that is kept by a program.

The crontab is never that of who runs the tests: a small program keeps one in a file, as crontab(1) would; and
where root may, the real program keeps that of nobody.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_doctor import SOUND

from runner.cli import app
from runner.errors import RunnerError, SpecError, UsageError
from runner.files import read_json
from runner.machine import Machine
from runner.schedule import (
    MARK,
    MAX_COMMAND_BYTES,
    Night,
    Plan,
    carried,
    check,
    clock,
    command_of,
    install,
    line,
    mark,
    night_of,
    plan,
    read_crontab,
    remove,
    show,
    task,
    task_name,
    untask,
    with_line,
    without,
)
from runner.songfolder import Outputs
from tests.faults.batches import ROOT

RUNNER = Path(sys.executable).with_name("runner")
NIGHT = Night(
    runner=("/home/you/songs/.venv/bin/runner",),
    folder="/home/you/songs",
    files=("/home/you/songs/jobs/night.yaml",),
    out="/home/you/songs/outputs",
    at=(23, 30),
    environ=(("LANG", "C.UTF-8"), ("PATH", "/usr/bin:/bin")),
)
WSL = replace(SOUND, wsl=2, cron=False, init="init")
JOB = "model: demo\nsongs: [{name: one, style: pop, duration: 2, steps: 1, seed: 3}]\n"


def planned(night: Night = NIGHT, readings: Machine = SOUND, **changes: Any) -> Plan:
    settings = {"distro": "Ubuntu", "zone": "", "mailer": True} | changes
    return plan(night, readings, **settings)


# ---------------------------------------------------------------- the line


def test_a_line_holds_all_that_cron_does_not_know() -> None:
    assert line(NIGHT) == (
        "30 23 * * * cd /home/you/songs && LANG=C.UTF-8 PATH=/usr/bin:/bin /home/you/songs/.venv/bin/runner "
        "batch /home/you/songs/jobs/night.yaml --out /home/you/songs/outputs --quiet "
        ">>/home/you/songs/outputs/cron.log 2>&1 # runner schedule, for /home/you/songs/outputs"
    )


def test_options_of_the_night_are_in_its_line() -> None:
    night = replace(NIGHT, until="07:00", on_finish="sh -c 'date +%H >x'", mail=True)
    assert line(night).endswith(
        "--quiet --until 07:00 --on-finish 'sh -c '\"'\"'date +\\%H >x'\"'\"'' "
        "# runner schedule, for /home/you/songs/outputs"
    )


PRINTABLE = st.text(
    st.characters(exclude_categories=["C", "Zl", "Zp", "Zs"]) | st.just(" "), min_size=1, max_size=20
)


@given(PRINTABLE, PRINTABLE, PRINTABLE)
def test_a_shell_reads_from_a_line_what_went_into_it_whatever_it_is(
    folder: str, name: str, on_finish: str
) -> None:
    night = replace(
        NIGHT, folder=f"/{folder}", files=(f"/{name}'[",), out=f"/{name}", on_finish=on_finish, until="8 h"
    )
    command = line(night).removeprefix("30 23 * * * ").replace(r"\%", "%")  # as cron does
    words = shlex.split(command, comments=True)
    at = words.index("batch")
    assert words[:3] == ["cd", f"/{folder}", "&&"]
    assert words[at + 1] == f"/{name}'["
    assert words[at + 2 :] == [
        "--out", f"/{name}", "--quiet", "--until", "8 h", "--on-finish", on_finish,
        f">>{Outputs(Path(f'/{name}')).cron_log}", "2>&1",
    ]  # fmt: skip
    assert not re.search(r"(?<!\\)%", line(night))


def test_a_pattern_is_left_to_the_shell_of_the_night_and_the_rest_of_it_is_quoted(tmp_path: Path) -> None:
    jobs = tmp_path / "my jobs'"
    jobs.mkdir()
    for name in ("a.yaml", "b.yaml"):
        (jobs / name).touch()
    command = command_of(replace(NIGHT, files=(f"{jobs}/[ab].ya?l",), mail=True))
    words = command.partition(" batch ")[2].partition(" --out")[0]
    said = subprocess.run(["sh", "-c", f"printf '%s\\n' {words}"], capture_output=True, text=True, check=True)
    assert said.stdout.splitlines() == [f"{jobs}/a.yaml", f"{jobs}/b.yaml"]


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tmp_path: Path) -> None:
    odd = tmp_path / "b[1].yaml"
    odd.touch()
    assert f" batch '{odd}' --out" in command_of(replace(NIGHT, files=(str(odd),)))


def test_a_line_that_cron_would_not_take_is_refused_before_anything_is_set() -> None:
    room = MAX_COMMAND_BYTES - len(line(NIGHT).removeprefix("30 23 * * * ")) - len(" --until ")
    longest = replace(NIGHT, until="x" * room)
    assert len(line(longest).removeprefix("30 23 * * * ")) == MAX_COMMAND_BYTES
    with pytest.raises(UsageError, match=r"999 bytes, and cron takes 998; .*pattern in quotes"):
        line(replace(NIGHT, until="x" * (room + 1)))


@pytest.mark.parametrize(
    ("text", "at"), [("23:30", (23, 30)), ("7:05", (7, 5)), ("00:00", (0, 0)), ("23:59", (23, 59))]
)
def test_a_time_of_day_is_read(text: str, at: tuple[int, int]) -> None:
    assert clock(text) == at


@pytest.mark.parametrize("text", ["", "24:00", "23:60", "2330", "11 pm", "23:30:00", "-1:00", "٢٣:٣٠"])
def test_what_is_no_time_of_day_is_bad_usage(text: str) -> None:
    with pytest.raises(UsageError, match="write it as 23:30"):
        clock(text)


def test_a_night_gets_what_it_needs_of_the_environment_and_no_secrets() -> None:
    evening = {
        "PATH": "/usr/bin:/mnt/c/Windows/System32:/mnt/d:/usr/bin:/no/such/folder:relative:/mnt:/bin",
        "HOME": "/home/you",
        "LANG": "de_DE.UTF-8",
        "HF_HOME": "/data/hf",
        "HF_TOKEN": "s3cret",
        "DIFFRHYTHM_PRECISION": "bf16",
        "DIFFRHYTHM_API_KEY": "s3cret",
        "DISPLAY": ":0",
        "LC_ALL": "C\nrm -rf",
    }
    assert dict(carried(evening, home="/home/you")) == {
        "PATH": "/usr/bin:/mnt:/bin",
        "LANG": "de_DE.UTF-8",
        "HF_HOME": "/data/hf",
        "DIFFRHYTHM_PRECISION": "bf16",
    }
    assert dict(carried(evening, home="/root"))["HOME"] == "/home/you"


def test_paths_become_absolute_and_what_a_crontab_cannot_hold_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    asked = {"at": "23:30", "until": None, "on_finish": None, "mail": False, "environ": {}}
    night = night_of(["../jobs/*.yaml"], out=Path("./outputs"), **asked)
    assert (night.folder, night.files, night.out) == (
        str(tmp_path / "here"),
        (f"{tmp_path}/jobs/*.yaml",),
        str(tmp_path / "here" / "outputs"),
    )
    with pytest.raises(UsageError, match="cannot stand in a line of a crontab"):
        night_of(["a\nb.yaml"], out=Path("outputs"), **asked)


# ---------------------------------------------------------------- what is known


@pytest.mark.parametrize(
    ("night", "readings", "changes", "words"),
    [
        ({}, {}, {}, "when all is well nothing is said"),
        ({}, {}, {}, "the machine has to be awake at 23:30"),
        ({"mail": True}, {}, {}, "cron mails a summary, to the crontab's MAILTO"),
        ({"mail": True}, {}, {"mailer": False}, "no /usr/sbin/sendmail"),
        ({"at": (2, 30)}, {}, {}, "02:30 may come twice or not at all"),
        ({}, {}, {"zone": "Asia/Tokyo"}, "23:30 is by the machine's clock"),
        ({}, {"wsl": 2}, {}, "Windows begins the night"),
        ({}, {"wsl": 2}, {}, "stay logged on"),
    ],
)
def test_what_matters_this_night_on_this_machine_is_said(
    night: dict[str, Any], readings: dict[str, Any], changes: dict[str, Any], words: str
) -> None:
    sound = planned()
    found = planned(replace(NIGHT, **night), replace(SOUND, **readings), **changes)
    assert any(words in each for each in found.known)
    usual = not (night or readings or changes)
    assert usual == any(words in each for each in sound.known)


@pytest.mark.parametrize(
    ("readings", "cure"),
    [
        ({"cron": False}, "systemctl enable --now cron"),
        ({"cron": False, "init": "init"}, "service cron start"),
        ({"cron": False, "crontab": False}, "apt install cron"),
        ({}, None),
        ({"cron": False, "wsl": 2}, None),  # Windows begins it
    ],
)
def test_a_cron_that_would_not_begin_the_night_is_found(readings: dict[str, Any], cure: str | None) -> None:
    findings = planned(NIGHT, replace(SOUND, **readings)).findings
    assert [cure in each.do for each in findings] == ([] if cure is None else [True])


def test_all_files_of_a_folder_are_better_given_as_a_pattern(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a.yaml", "b.yaml", "c.yaml")]
    for file in files:
        file.touch()
    for given_files, told in ((files, True), (files[:2], False)):
        known = planned(replace(NIGHT, files=tuple(map(str, given_files)))).known
        assert any(f"'{tmp_path}/*.yaml'" in each for each in known) == told


# ---------------------------------------------------------------- Windows


@pytest.mark.parametrize("distro", ["Ubuntu", "Ubuntu 24.04", "Ann's"])
def test_the_task_of_windows_holds_a_session_that_is_the_batch(distro: str) -> None:
    night = replace(NIGHT, on_finish="sh -c 'echo \"well\"'", folder="/home/you/my songs")
    script = task(night, distro)
    (quoted,) = re.findall(r"-Argument ('(?:[^']|'')*')", script)
    assert windows_words(quoted[1:-1].replace("''", "'")) == [
        "-d", distro, "--exec", "/bin/sh", "-c", command_of(night),
    ]  # fmt: skip
    assert "-Daily -At '23:30'" in script
    for need in (
        "-WakeToRun",
        "-StartWhenAvailable",
        "-DontStopIfGoingOnBatteries",
        "-AllowStartIfOnBatteries",
    ):
        assert need in script
    assert "-Force" in script  # running it twice changes nothing
    assert "\n" not in untask(night.out)


def test_all_that_is_printed_for_windows_can_be_pasted_and_the_line_of_cron_is_a_comment_there(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show(planned(NIGHT, WSL), "")
    script = task(NIGHT, "Ubuntu").splitlines()
    lines = capsys.readouterr().out.splitlines()
    assert lines[: len(script)] == script
    assert all(each.startswith("# ") for each in lines[len(script) :])
    assert lines[-1] == f"# {line(NIGHT)}"


def windows_words(text: str) -> list[str]:
    """As a program of Windows takes its command line apart."""
    words, word, quoted, at = [], "", False, 0
    while at < len(text):
        slashes = len(text) - at - len(text[at:].lstrip("\\"))
        at += slashes
        if at < len(text) and text[at] == '"':
            word += "\\" * (slashes // 2)
            quoted, word = (quoted, word + '"') if slashes % 2 else (not quoted, word)
            at += 1
        elif slashes:
            word += "\\" * slashes
        elif text[at] == " " and not quoted:
            words, word, at = [*words, word], "", at + 1
        else:
            word, at = word + text[at], at + 1
    return [*words, word]


@pytest.mark.parametrize(
    ("readings", "distro", "night", "words"),
    [
        ({"wsl": 1}, "Ubuntu", {}, "wsl --set-version"),
        ({"wsl": 2}, "", {}, "WSL_DISTRO_NAME is not set"),
        ({"wsl": 2}, "Ubuntu", {"mail": True}, "use --on-finish"),
    ],
)
def test_what_cannot_be_known_of_windows_is_asked_for(
    readings: dict[str, Any], distro: str, night: dict[str, Any], words: str
) -> None:
    with pytest.raises(RunnerError, match=words):
        planned(replace(NIGHT, **night), replace(SOUND, **readings), distro=distro)


# ---------------------------------------------------------------- a crontab


@given(st.lists(st.text(st.characters(exclude_characters="\n")).filter(lambda each: MARK not in each)))
def test_any_crontab_survives_our_coming_and_going_byte_for_byte(lines: list[str]) -> None:
    before = "".join(f"{each}\n" for each in lines)
    for night in (NIGHT, replace(NIGHT, out="/home/you/100% ü")):
        with_ours = with_line(before, line(night), mark(night.out))
        assert with_ours == f"{before}{line(night)}\n"
        assert with_line(with_ours, line(night), mark(night.out)) == with_ours
        assert without(with_ours, mark(night.out)) == before
        later = line(replace(night, at=(22, 0)))
        assert with_line(with_ours, later, mark(night.out)) == f"{before}{later}\n"


def test_nights_for_other_outputs_are_left_alone_and_doubles_of_ours_go() -> None:
    other = replace(NIGHT, out="/home/you/songs/outputs2")
    crontab = f"# a\n{line(NIGHT)}\nMAILTO=you\n{line(other)}\n{line(NIGHT)}\n"
    later = line(replace(NIGHT, at=(22, 0)))
    assert with_line(crontab, later, mark(NIGHT.out)) == f"# a\n{later}\nMAILTO=you\n{line(other)}\n"
    assert without(crontab, mark(NIGHT.out)) == f"# a\nMAILTO=you\n{line(other)}\n"


CRONTAB = """#!/bin/sh
case "$1" in
-l) cat "$CRONTAB" 2>/dev/null || { echo "no crontab for you" >&2; exit 1; } ;;
-r) rm "$CRONTAB" ;;
-)  cat >"$CRONTAB.new"
    if [ -n "$(tail -c 1 "$CRONTAB.new")" ] || grep -q wrong "$CRONTAB.new"; then
        echo "errors in crontab file, can't install." >&2; exit 1
    fi
    mv "$CRONTAB.new" "$CRONTAB" ;;
esac
"""


def program(folder: Path, name: str, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    file = folder / name
    file.write_text(text)
    file.chmod(0o755)
    return file


@pytest.fixture(params=["kept in a file", "the real one, of nobody"])
def crontab(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """An empty crontab, of nobody or in a file, under the name of crontab on PATH."""
    real, text = shutil.which("crontab"), CRONTAB
    if request.param.startswith("the real"):
        if real is None or os.geteuid() != 0:
            pytest.skip("crontab is not installed, or only root may keep nobody's")
        text = f'#!/bin/sh\nexec {real} -u nobody "$@"\n'
        if subprocess.run([real, "-u", "nobody", "-l"], capture_output=True, check=False).returncode == 0:
            pytest.skip("nobody has a crontab already")
    program(tmp_path / "bin", "crontab", text)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("CRONTAB", str(tmp_path / "kept"))
    yield
    subprocess.run(["crontab", "-r"], capture_output=True, check=False)


def put(text: bytes) -> None:
    subprocess.run(["crontab", "-"], input=text, check=True)


def kept() -> bytes | None:
    done = subprocess.run(["crontab", "-l"], capture_output=True, check=False)
    return done.stdout if done.returncode == 0 else None


MINE = "# Grüße 100\\%\nMAILTO=you\n\n5 4 * * *  date +\\%H\n".encode()


@pytest.mark.usefixtures("crontab")
@pytest.mark.parametrize("before", [MINE, None, MINE + b"# \xff\xfe of another code\n"])
def test_a_line_is_set_once_and_taken_away_again(before: bytes | None, tmp_path: Path) -> None:
    out = str(tmp_path / "100% ü")
    found = planned(replace(NIGHT, out=out))
    if before is not None:
        put(before)
    assert install(found, out).startswith("set: ")
    assert kept() == (before or b"") + f"{found.line}\n".encode()
    assert install(found, out) == "set already: nothing was changed"
    assert Path(out).is_dir()  # for the shell of the night, which writes there first
    assert remove(out, windows=False).startswith("removed")
    assert kept() == before
    assert remove(out, windows=False) == "was not set: nothing was changed"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "crontab: there is no such program; get it with: sudo apt install cron"),
        ("echo 'You (you) are not allowed to use this program' >&2; exit 1", r"not allowed .*cron\.allow"),
        ("[ $1 = -l ] || { echo 'bad minute' >&2; exit 1; }", "crontab: bad minute; nothing was changed"),
        ("true", "did not keep the line as it was given"),
    ],
)
def test_a_crontab_that_cannot_be_had_is_one_line_that_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, words: str
) -> None:
    if text is not None:
        program(tmp_path / "bin", "crontab", f"#!/bin/sh\n{text}\n")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(RunnerError, match=words) as error:
        install(planned(), str(tmp_path / "outputs"))
    assert "\n" not in str(error.value)


def test_a_crontab_with_a_mistake_of_anothers_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path / "bin", "crontab", CRONTAB)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("CRONTAB", str(tmp_path / "kept"))
    (tmp_path / "kept").write_text("something wrong\n")
    with pytest.raises(RunnerError, match="can't install"):
        install(planned(), str(tmp_path / "outputs"))
    assert read_crontab() == "something wrong\n"


POWERSHELL = (
    f"#!{sys.executable}"
    + """
import base64, os, sys
assert sys.argv[-2] == "-EncodedCommand"
with open(os.environ["SAID"], "a", encoding="utf-8") as said:
    said.write(base64.b64decode(sys.argv[-1]).decode("utf-16-le") + "\\n")
if os.environ.get("FAILS"):
    sys.exit("Register-ScheduledTask : Access is denied.")
"""
)


def test_on_wsl_windows_is_told_and_a_line_of_cron_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path / "bin", "powershell.exe", POWERSHELL)
    program(tmp_path / "bin", "crontab", CRONTAB)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("SAID", str(tmp_path / "said"))
    monkeypatch.setenv("CRONTAB", str(tmp_path / "kept"))
    out = str(tmp_path / "Grüße")
    night = replace(NIGHT, out=out)
    (tmp_path / "kept").write_text(f"# mine\n{line(night)}\n")
    found = planned(night, WSL)
    assert task_name(out) in install(found, out)
    assert (tmp_path / "said").read_text() == f"{task(night, 'Ubuntu')}\n"
    assert read_crontab() == "# mine\n"  # both would begin one and the same night
    remove(out, windows=True)
    assert (tmp_path / "said").read_text().endswith(f"{untask(out)}\n")
    monkeypatch.setenv("FAILS", "1")
    with pytest.raises(RunnerError, match=r"Access is denied\.; paste what"):
        install(found, out)


def test_where_windows_cannot_be_reached_what_to_paste_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RunnerError, match=r"powershell\.exe: cannot be run from here .*paste what"):
        install(planned(NIGHT, WSL), str(tmp_path / "outputs"))


# ---------------------------------------------------------------- the command


def schedule(folder: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [RUNNER, "schedule", *arguments],
        cwd=folder,
        env=os.environ | environ,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture
def songs(tmp_path: Path) -> Path:
    """A folder with an awkward name, and a job file in it."""
    folder = tmp_path / "Ann's 100% söngs"
    (folder / "jobs").mkdir(parents=True)
    (folder / "jobs" / "night.yaml").write_text(JOB)
    return folder


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "which songs, and when?"),
        (["jobs/night.yaml"], "--at 23:30"),
        (["jobs/night.yaml", "--at", "noon"], "--at 'noon'"),
        (["jobs/absent.yaml", "--at", "23:30"], "there is no such file"),
        (["jobs/no*.yml", "--at", "23:30"], "there is no such file now"),
        (["jobs/night.yaml", "--at", "23:30", "--on-finish", "no-such-program x"], "no-such-program"),
        (["jobs/night.yaml", "--at", "23:30", "--until", "dawn"], "--until 'dawn'"),
        (["jobs/night.yaml", "--at", "23:30", "--install", "--remove"], "one or the other"),
    ],
)
def test_what_would_not_work_at_night_is_told_in_the_evening(
    songs: Path, arguments: list[str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(songs)
    with pytest.raises(UsageError, match=re.escape(words)):
        app(["schedule", *arguments], standalone_mode=False)
    assert not (songs / "outputs").exists()


def test_a_mistake_in_a_job_file_is_told_in_the_evening(songs: Path) -> None:
    (songs / "jobs" / "night.yaml").write_text(JOB + "sogns: []\n")
    with pytest.raises(SpecError, match="sogns"):
        check(replace(NIGHT, files=(f"{songs}/jobs/*.yaml",)))


@pytest.mark.parametrize("until", ["2099-11-27T07:00", "2026-11-27T07:00", "8", "25:00", ""])
def test_an_end_that_only_one_night_has_or_none_is_told_in_the_evening(songs: Path, until: str) -> None:
    with pytest.raises(UsageError, match=f"--until '{until}': no end that every night has; write"):
        check(replace(NIGHT, files=(f"{songs}/jobs/*.yaml",), until=until))


@pytest.mark.parametrize("until", ["07:00", "8h", "7h30m"])
def test_an_end_that_every_night_has_is_taken(songs: Path, until: str) -> None:
    check(replace(NIGHT, files=(f"{songs}/jobs/*.yaml",), until=until))


def test_without_install_a_line_is_printed_and_nothing_set(songs: Path) -> None:
    said = schedule(songs, "jobs/*.yaml", "--at", "23:30")
    assert said.returncode == 0
    assert said.stdout.startswith("30 23 * * * cd ")
    assert f" {RUNNER} batch " in said.stdout  # this very program
    assert said.stdout.count("\n") == 1
    assert json.loads(schedule(songs, "jobs/*.yaml", "--at", "23:30", "--json").stdout)["line"] in said.stdout
    assert not (songs / "outputs").exists()


def test_one_command_sets_a_night_and_one_takes_it_away(songs: Path, tmp_path: Path) -> None:
    """Exit code 1 says that no cron runs on the machine of this test."""
    environ = {"PATH": f"{program(tmp_path / 'bin', 'crontab', CRONTAB).parent}:{os.environ['PATH']}"}
    environ["CRONTAB"] = str(tmp_path / "kept")
    said = schedule(songs, "jobs/*.yaml", "--at", "23:30", "--install", **environ)
    assert (tmp_path / "kept").read_text() == said.stdout
    assert "set: in your crontab" in said.stderr
    assert said.returncode == (1 if "does not run" in said.stderr else 0)
    gone = schedule(songs, "--remove", "--json", **environ)
    assert gone.returncode == 0
    assert json.loads(gone.stdout)["result"].startswith("removed from your crontab")
    assert not (tmp_path / "kept").exists()


@pytest.mark.slow
def test_crons_own_shell_makes_the_song_of_the_very_line_and_says_nothing(
    songs: Path, tmp_path: Path
) -> None:
    """As cron does it: what is behind the five fields, its % given back, in a bare environment."""
    told = tmp_path / "told.json"
    command = f"sh -c 'cat >{told}; date +%s'"
    said = schedule(songs, "jobs/*.yaml", "--at", "23:30", "--on-finish", command, PYTHONPATH=str(ROOT))
    (songs / "outputs").mkdir()
    bare = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "SHELL": "/bin/sh", "LOGNAME": "you"}
    command = said.stdout.strip().removeprefix("30 23 * * * ").replace(r"\%", "%")
    done = subprocess.run(
        ["/bin/sh", "-c", command], cwd=tmp_path, env=bare, capture_output=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    outputs = Outputs(songs / "outputs")
    assert read_json(outputs.song("night/one").manifest)["state"] == "done"
    assert outputs.cron_log.read_bytes() == b""
    assert "[night/one] attempt 1 began" in outputs.log.read_text()
    assert json.loads(told.read_text())["songs"][0]["file"] == str(outputs.song("night/one").audio("wav"))
