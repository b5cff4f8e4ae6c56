"""What the doctor says of machines that are given as readings, and of children that are real."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from diffrhythm import bundle
from runner.doctor import Finding, arithmetic_table, as_json, diagnose, examine, lines, verdict, works
from runner.machine import Machine, Place
from runner.messages import Examination, MachineArithmetic, MeasuredArithmetic, ModelFacts

GB = 2**30
PLACE = Place("/home/you/outputs", "ext4", 100 * GB, 10**6, is_folder=True, writable=True)
SOUND = Machine(
    python=(3, 12),
    kernel="6.8.0-45-generic",
    wsl=0,
    wsl_limits=None,
    processor="A Chip",
    cores=8,
    load=0.1,
    memory=16 * GB,
    available=12 * GB,
    swap=4 * GB,
    swap_free=4 * GB,
    memory_limit=None,
    pressure=True,
    cgroup="v2",
    holder="systemd",
    init="systemd",
    cron=True,
    crontab=True,
    out=PLACE,
    here=PLACE,
)
DEMO = ModelFacts(
    "demo", here=True, bytes=10**7, verified=True, precision="fp32", duration=40, need_bytes=6 * 10**8
)
LARGE = ModelFacts(
    "diffrhythm-1.2",
    here=True,
    large=True,
    bytes=5 * 10**9,
    precision="bf16",
    duration=95,
    song_s=420,
    need_bytes=4 * 10**9,
)
MEASURED = MachineArithmetic(
    chosen="bf16",
    decoder="bf16",
    reason="10 s a pass, 2 times as fast as the published way (20 s), error 0.3 %",
    published_pass_s=20.0,
    candidates=[
        MeasuredArithmetic("torch-fp32", 20.0, 1.2, 8, 0.0),
        MeasuredArithmetic("bf16", 10.0, 0.4, 8, 0.003),
        MeasuredArithmetic("int8-static", 9.0, None, 8, None),
    ],
    frames=2048,
    busy=0.01,
    measured_wall=1.8e9,
)
HALF = Examination(
    None,
    packages=16,
    torch="2.11.0",
    cache_folder="/home/you/.cache",
    precision="bf16",
    models=[DEMO, LARGE],
    arithmetic=MEASURED,
)
WSL = {"wsl": 2, "wsl_limits": {}}


def found(name: str, machine: Machine = SOUND, half: Examination | str = HALF) -> Finding:
    """The worst finding of that name."""
    order = ("ok", "note", "problem")
    return max(
        (each for each in diagnose(machine, half) if each.name == name), key=lambda f: order.index(f.state)
    )


def test_the_table_shows_what_was_measured_and_marks_what_was_chosen() -> None:
    head, published, bf16, static = arithmetic_table(MEASURED)
    assert head.split()[0] == "arithmetic"
    assert published.split() == ["torch-fp32", "20", "1.00", "x", "1.20", "0", "%", "8"]
    assert bf16.split() == ["*", "bf16", "10", "2.00", "x", "0.40", "0.3", "%", "8"]
    assert static.split() == ["int8-static", "9", "2.22", "x", "–", "–", "8"]


def test_the_arithmetic_is_named_with_its_reason() -> None:
    assert found("arithmetic").found == (
        "large models in bf16, their sound in bf16: 10 s a pass, 2 times as fast as the published way "
        "(20 s), error 0.3 %"
    )


def test_a_sound_machine_will_work_without_a_note() -> None:
    findings = diagnose(SOUND, HALF)
    assert {finding.state for finding in findings} == {"ok"}
    assert works(findings)
    assert verdict(findings) == "tonight will work"


@pytest.mark.parametrize(
    ("name", "changes", "state", "do"),
    [
        ("python", {"python": (3, 10)}, "problem", "make clean setup"),
        ("python", {"python": (3, 15)}, "problem", "make clean setup"),
        ("memory", {"memory": 2 * GB, "available": GB, **WSL}, "problem", "memory=6GB"),
        ("memory", {"memory": 2 * GB, "available": GB}, "problem", "smaller model"),
        ("memory", {"memory_limit": GB}, "problem", "MemoryMax="),
        ("memory", {"available": GB}, "note", "close other programs"),
        ("memory", {"memory": None}, "note", "/proc"),
        ("swap", {"swap": 0, "memory": 6 * GB}, "note", "mkswap"),
        ("swap", {"swap": 0, "memory": 6 * GB, **WSL}, "note", "swap=4GB"),
        ("WSL", {"wsl": 1}, "problem", "wsl --set-version"),
        ("WSL", WSL, "note", "runner schedule has Windows begin the night"),
        ("limits", {"holder": ""}, "note", "loginctl enable-linger"),
        ("limits", {"holder": "", "init": "init", **WSL}, "note", "systemd=true"),
        ("limits", {"holder": "", "init": "tini"}, "note", "--memory"),
        ("watching", {"pressure": False, "cgroup": ""}, "note", "psi=1"),
        ("watching", {"pressure": False, **WSL}, "note", "wsl --update"),
        ("cron", {"cron": False}, "note", "systemctl enable --now cron"),
        ("cron", {"cron": False, "init": "init"}, "note", "service cron start"),
        ("cron", {"cron": False, "init": "init", **WSL}, "note", "systemd=true"),
        ("cron", {"cron": False, "crontab": False}, "note", "apt install cron"),
        ("disk", {"out": replace(PLACE, free=10**6)}, "problem", "make room"),
        ("disk", {"out": replace(PLACE, files_left=0)}, "problem", "removing files"),
        ("disk", {"out": replace(PLACE, free=10**9)}, "note", "make room"),
        ("disk", {"out": replace(PLACE, writable=False)}, "problem", "chown"),
        ("disk", {"out": replace(PLACE, is_folder=False)}, "problem", "--out"),
        ("folders", {"out": replace(PLACE, disk="9p"), **WSL}, "note", "~/songs"),
        ("folders", {"here": replace(PLACE, disk="drvfs"), **WSL}, "note", "~/songs"),
    ],
)
def test_what_is_wrong_with_a_machine_is_found_with_its_cure(
    name: str, changes: dict[str, Any], state: str, do: str
) -> None:
    finding = found(name, replace(SOUND, **changes))
    assert finding.state == state
    assert do in finding.do
    assert works(diagnose(replace(SOUND, **changes), HALF)) == (state != "problem")


@pytest.mark.parametrize(
    ("name", "changes", "state", "do"),
    [
        ("packages", {"broken": ["torch cannot be imported: no libgomp"]}, "problem", "make clean setup"),
        ("arithmetic", {"arithmetic": replace(MEASURED, busy=0.5)}, "note", "doctor --measure"),
        ("processor", {"precision": "precision 'fp8': choose"}, "problem", "unset DIFFRHYTHM_PRECISION"),
        ("espeak", {"espeak": "gone: missing, run: pip install x"}, "problem", "pip install x"),
        ("encoders", {"encoders": ["mp3: unknown format"]}, "note", "format: wav"),
        ("encoders", {"encoders": ["wav: unknown format"]}, "problem", "make clean setup"),
        ("styles", {"cache": "/home/you cannot be written"}, "note", "chown"),
        ("speed", {"models": [replace(LARGE, song_s=7200)]}, "note", "--timeout 180m"),
        (
            "model",
            {"models": [ModelFacts("x", here=False, problem="cut: /x; get the bundle again")]},
            "problem",
            "get the",
        ),
        ("model", {"models": [replace(LARGE, here=False)]}, "note", "models pull diffrhythm-1.2"),
        (
            "model",
            {"model": "m", "models": [replace(LARGE, here=False)]},
            "problem",
            "models pull diffrhythm-1.2",
        ),
        ("model", {"models": [replace(LARGE, style="none; get it with: make it")]}, "problem", "make it"),
    ],
)
def test_what_is_wrong_with_the_model_half_is_found_with_its_cure(
    name: str, changes: dict[str, Any], state: str, do: str
) -> None:
    half = replace(HALF, **changes)
    finding = found(name, half=half)
    assert finding.state == state
    assert do in finding.do
    assert works(diagnose(SOUND, half)) == (state != "problem")


def test_the_demo_alone_works_in_memory_that_a_large_model_does_not() -> None:
    small = replace(SOUND, memory=2 * GB, available=2 * GB)
    assert found("memory", small, replace(HALF, models=[DEMO])).state == "ok"
    assert found("memory", small).state == "problem"


def test_memory_is_judged_for_a_model_that_was_named_and_has_still_to_be_fetched() -> None:
    small = replace(SOUND, memory=2 * GB, available=2 * GB)
    absent = replace(LARGE, here=False)
    assert found("memory", small, replace(HALF, model=absent.name, models=[absent])).state == "problem"
    assert found("memory", small, replace(HALF, models=[DEMO, absent])).state == "ok"


def test_a_windows_disk_is_slow_only_in_wsl() -> None:
    assert "folders" not in {
        each.name for each in diagnose(replace(SOUND, out=replace(PLACE, disk="9p")), HALF)
    }


def test_every_note_and_problem_says_what_to_do_and_every_ok_nothing() -> None:
    worst = replace(SOUND, wsl=2, pressure=False, cron=False, swap=0, memory=GB, available=0, python=(3, 9))
    for half in (HALF, "it died", replace(HALF, espeak="gone", cache="no", encoders=["mp3: no"])):
        assert all(bool(each.do) == (each.state != "ok") for each in diagnose(worst, half))


def test_lines_keep_within_the_terminal_and_hang_under_what_was_found() -> None:
    findings = [Finding("a name", "note", "word " * 40, "cure " * 40), Finding("b", "ok", "fine")]
    folded = [line for _, line in lines(findings, 60)]
    assert max(map(len, folded)) <= 60
    assert folded[0].startswith("note     a name  word")
    assert folded[1].startswith(" " * 17 + "word")
    assert any(line.startswith(" " * 17 + "do: cure") for line in folded)
    assert len([*lines(findings, None)]) == 3


def test_the_json_has_a_schema_number_the_verdict_and_the_readings() -> None:
    told = json.loads(json.dumps(as_json(SOUND, HALF, diagnose(SOUND, HALF))))
    assert (told["schema"], told["works"], told["machine"]["cores"]) == (1, True, 8)
    assert {"name", "state", "found", "do"} == told["findings"][0].keys()


# ---------------------------------------------------------------- children


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("raise SystemExit('no libgomp')", "exit code 1: no libgomp"),
        ("import os; os.kill(os.getpid(), 4)", "instructions that this processor does not have"),
        ("import os; os.kill(os.getpid(), 9)", "signal 9"),
    ],
)
def test_a_child_that_dies_is_a_finding(code: str, words: str) -> None:
    half = examine(None, worker=(sys.executable, "-c", code))
    assert isinstance(half, str)
    assert words in half
    assert found("packages", half=half).state == "problem"


def test_a_child_that_hangs_is_ended() -> None:
    half = examine(None, worker=(sys.executable, "-c", "import time; time.sleep(600)"), timeout_s=0.5)
    assert isinstance(half, str)
    assert "took longer" in half


@pytest.mark.slow
def test_a_damaged_bundle_stops_the_night_and_the_demo_does_not(tmp_path: Path) -> None:
    folder = tmp_path / "damaged"
    folder.mkdir()
    for file in bundle.DEMO.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    weights = folder / "dit.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x55")
    command = [sys.executable, "-m", "runner.cli", "doctor", "--json", "--out", str(tmp_path), "--model"]
    for model, code in ((str(folder), 1), ("demo", 0)):
        done = subprocess.run([*command, model], capture_output=True, text=True, check=False)
        told = json.loads(done.stdout)
        assert done.returncode == code, done.stderr
        (said,) = (each for each in told["findings"] if each["name"] == "model")
        assert ("changed since it was made" in said["found"]) == (code == 1)
        assert (told["models"][0]["precision"] == "fp32") == (code == 0)
