"""The page written: at a batch's end, on demand, to be sent; and nothing runs in it but its own script."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from folders import outputs_in, write_song

from runner import report
from runner.errors import OutputError
from runner.songfolder import Outputs

ROOT = Path(__file__).parents[2]


@pytest.fixture
def outputs(tmp_path: Path) -> Outputs:
    return outputs_in(tmp_path)


def test_the_page_is_written_beside_the_songs_and_its_path_is_told(
    outputs: Outputs, capsys: pytest.CaptureFixture[str]
) -> None:
    write_song(outputs)
    assert report.show(outputs) == 0
    assert capsys.readouterr().out == f"{outputs.report}\n"
    assert outputs.report.read_text().startswith("<!doctype html>")
    assert list(outputs.folder.glob(".*.tmp")) == []


def test_there_is_no_page_of_nothing(outputs: Outputs, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.show(outputs) == 1
    assert "nothing here yet" in capsys.readouterr().err
    assert not outputs.report.exists()


def test_a_page_that_cannot_be_written_is_one_line_and_no_exception_at_a_batchs_end(outputs: Outputs) -> None:
    write_song(outputs)
    outputs.report.mkdir()
    with pytest.raises(OutputError, match=r"no report: .*report.html; "):
        report.show(outputs)
    for folder in (outputs, Outputs(outputs.folder / "gone")):
        path, words = report.at_end(folder)
        assert path is None
        assert words.startswith("no report: ")


def test_names_that_are_no_utf_8_are_shown_somehow(outputs: Outputs) -> None:
    write_song(outputs, "night/caf\udce9")
    assert report.show(outputs) == 0
    assert "night/caf%E9/song.wav" in outputs.report.read_text()


def test_nothing_may_run_but_the_pages_own_script(outputs: Outputs) -> None:
    write_song(outputs)
    html = report.write(outputs).read_text()
    policy = re.findall(r'http-equiv="Content-Security-Policy" content="(.*?)"', html)[0]
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    assert "http" not in policy.replace("http-equiv", "")
    assert not re.search(
        r"https?:|//[a-z]", re.sub(r"<script>.*?</script>|<style>.*?</style>", "", html, flags=re.S)
    )


WSL = "5.15.153.1-microsoft-standard-WSL2"


def program(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def test_on_wsl_the_page_is_opened_in_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "my page.html"
    told = tmp_path / "told"
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert not report.opens(page, WSL)
    program(tmp_path, "wslpath", 'echo "as Windows calls it: $2"')
    program(tmp_path, "explorer.exe", f'echo "$1" >{told}; exit 1')  # as it ends whatever it did
    assert report.opens(page, WSL)
    assert told.read_text() == f"as Windows calls it: {page.resolve()}\n"
    program(tmp_path, "wslview", f'echo "viewed $1" >{told}')
    assert report.opens(page, WSL)
    assert told.read_text() == f"viewed {page}\n"
    program(tmp_path, "wslview", "exit 3")
    assert not report.opens(page, WSL)


@pytest.mark.slow
def test_a_page_to_be_sent_holds_as_many_sounds_as_a_mail_does(
    outputs: Outputs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    noise = np.random.default_rng(0).standard_normal((44_100, 2)).astype(np.float32) / 9
    for name in "abc":
        soundfile.write(write_song(outputs, f"night/{name}").audio("wav"), noise, 44_100)
    other = write_song(outputs, "night/d")  # no sound that can be read, and no picture
    other.new_attempt().spectrogram.write_bytes(b"a secret")
    monkeypatch.setattr(report, "MOST_SENT_BYTES", 40_000)
    assert report.show(outputs, embed=True) == 0
    assert capsys.readouterr().out == f"{outputs.report_to_send}\n"
    html = outputs.report_to_send.read_text()
    assert html.count("data:audio/mpeg") == 2
    assert html.count("too large to send") == 2
    assert "song.wav" not in html
    assert "image/png" not in html


@pytest.mark.slow
def test_a_batch_leaves_its_page_and_is_none_the_worse_where_it_cannot(tmp_path: Path) -> None:
    folder = tmp_path / "outputs"
    command = [
        sys.executable,
        "-m",
        "runner.cli",
        "sing",
        "--name",
        "song",
        "--style",
        "test",
        "--out",
        str(folder),
    ]
    command += ["--duration", "2", "--steps", "1", "--lyrics", "[00:00.50]low tide\n"]
    first = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stderr
    page = folder / "report.html"
    assert f"report: {page}" in first.stderr.splitlines()
    html = page.read_text()
    assert "low tide" in html
    assert "attempts/1/spectrogram.png" in html
    assert 'class="sample"' in html
    page.unlink()
    page.mkdir()
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert again.returncode == 0
    assert "no report: " in again.stderr
