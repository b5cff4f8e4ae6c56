"""What songs are made with, looked at on this machine and where parts of it are missing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import soundfile

from diffrhythm import health
from diffrhythm.errors import EspeakError
from diffrhythm.phonemes import english


def test_here_everything_is_there_and_works() -> None:
    assert list(health.packages()) == []
    assert health.espeak() == ""
    assert list(health.encoders()) == []


def test_a_package_that_cannot_be_loaded_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert [line.split()[0] for line in health.packages()] == ["openvino"]


def test_a_package_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "PURE", ("a_package_that_nobody_made",))
    assert list(health.packages()) == ["a_package_that_nobody_made is not installed"]


def test_a_broken_espeak_is_told_in_its_own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(text: str) -> tuple[list[str], list[str]]:
        raise EspeakError("/lib/espeak: missing, run: pip install it")

    monkeypatch.setattr(english, "read", broken)
    assert health.espeak() == "/lib/espeak: missing, run: pip install it"


def test_a_format_that_the_library_does_not_know_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(soundfile._formats, "MP3")
    assert [line.partition(":")[0] for line in health.encoders()] == ["mp3"]


def test_a_cache_below_a_file_or_a_folder_that_is_not_there_is_judged(tmp_path: Path) -> None:
    assert health.cache(tmp_path / "not" / "yet") == ""
    file = tmp_path / "file"
    file.touch()
    assert health.cache(file / "cache") == f"{file} is no folder"
