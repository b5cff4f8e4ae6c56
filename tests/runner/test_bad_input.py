"""What users give by mistake gets one line that says what is wrong, where, and what to do; nothing starts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from diffrhythm import bundle

ROOT = Path(__file__).parents[2]
RATE = 44100

# Each song alone on its line of the job file; what is said of it.
SONGS = {
    "clip-of-text": ("style_audio: text.wav", "not a readable audio file: "),
    "clip-of-one-sample": ("style_audio: one.wav", "audio of 1 samples: "),
    "clip-of-silence": ("style_audio: silence.wav", "the sound is silent: "),
    "clip-too-short": ("style_audio: short.wav", "style clip of 9.00 s is too short: "),
    "source-of-text": ("style: a, edit: {source: text.wav, spans: [[0, 1]]}", "not a readable audio file: "),
    "source-of-one-sample": ("style: a, edit: {source: one.wav, spans: [[0, 1]]}", "audio of 1 samples: "),
    "source-of-silence": ("style: a, edit: {source: silence.wav, spans: [[0, 1]]}", "the sound is silent: "),
    "span-outside": (
        "style: a, edit: {source: tone.wav, spans: [[90, 96]]}",
        "span [90, 96]: edit: leaves the",
    ),
    "span-reversed": (
        "style: a, edit: {source: tone.wav, spans: [[9, 8]]}",
        "span [9, 8]: edit: ends before",
    ),
    "spans-overlapping": (
        "style: a, edit: {source: tone.wav, spans: [[5, 9], [8, 12]]}",
        "span [8, 12]: edit: begins before the one ahead of it ends",
    ),
    "source-too-short": (
        "style: a, edit: {source: short.wav, spans: [[1, 2]]}",
        "source of 9.00 s for a song of 95 s: edit: to go on with it",
    ),
    "lyrics-of-nothing-but-times": ("style: a, lyrics: times.lrc", "times.lrc:1: no words in these lyrics"),
    "lyrics-of-nothing-but-tags": ("style: a, lyrics: tags.lrc", "tags.lrc:1: no words in these lyrics"),
    "lyrics-without-times": ("style: a, lyrics: words.lrc", "words.lrc:1: no time before 'low tide'"),
    "lyrics-of-bytes": ("style: a, lyrics: bytes.lrc", "bytes.lrc:1: a binary file"),
    "lyrics-in-one-long-line": ("style: a, lyrics: line.lrc", "line.lrc:1: 900009 characters"),
    "duration-between": ("style: a, duration: 95.5", "base cannot make 95.5 s at once: duration: choose 95"),
    "duration-too-long": ("style: a, duration: 285", "base cannot make 285 s at once: duration: choose 95"),
    # Refused while the job file is read; no child is asked.
    "lyrics-of-100-mb": ("style: a, lyrics: huge.lrc", "lyrics: huge.lrc: is larger than 1 MiB"),
    "lyrics-not-in-utf-8": ("style: a, lyrics: latin.lrc", "lyrics: latin.lrc: is not UTF-8 (line 1)"),
    "lyrics-empty": ("style: a, lyrics: empty.lrc", "lyrics: empty.lrc: the file is empty"),
    "style-of-10000": (f"style: {'word ' * 2000}", "style: 'word word"),
    "negative-of-10000": (f"style: a, negative_style: {'word ' * 2000}", "negative_style: 'word word"),
    "duration-nothing": ("style: a, duration: 0", "duration: 0 cannot be used; write a number above 0"),
    "duration-negative": ("style: a, duration: -1", "duration: -1 cannot be used; write a number above 0"),
    "duration-nan": ("style: a, duration: .nan", "duration: nan cannot be used; write a finite number"),
}
FIRST_REFUSED = list(SONGS).index("lyrics-of-100-mb")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of bad input, with `base`: a model that makes songs of 95 s and of no other length."""
    folder = tmp_path_factory.mktemp("bad-input")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        shutil.copytree(bundle.load("demo").folder, folder / "base")
        about = json.loads((folder / "base" / bundle.ABOUT).read_text())
        about |= {"name": "base", "durations": [95.0], "frames": "all"}
        (folder / "base" / bundle.ABOUT).write_text(json.dumps(about))
        write_sounds(folder)
        write_lyrics(folder)
        yield folder


def write_sounds(folder: Path) -> None:
    (folder / "text.wav").write_text("la la la\n" * 1000)
    soundfile.write(folder / "one.wav", np.full((1, 2), 0.5), RATE)
    soundfile.write(folder / "silence.wav", np.zeros((95 * RATE, 2)), RATE)
    soundfile.write(folder / "short.wav", np.sin(np.arange(9 * RATE) / 50), RATE)
    soundfile.write(folder / "tone.wav", np.sin(np.arange(95 * RATE) / 50), RATE)


def write_lyrics(folder: Path) -> None:
    contents = {
        "times": b"[00:01.00]\n[00:02.00]  \n",
        "tags": b"[ar:me]\n[ti:you]\n",
        "words": b"low tide\n",
        "bytes": b"[00:01.00]la\0\1\2\n" * 100,
        "line": b"[00:01.00]" + b"la " * 300_000,
        "latin": b"[00:01.00]caf\xe9\n",
        "empty": b"",
        "one": b"[00:01.00]Low tide along the harbour",
    }
    for name, content in contents.items():
        (folder / f"{name}.lrc").write_bytes(content)
    with (folder / "huge.lrc").open("wb") as file:
        file.truncate(100 * 2**20)


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "runner.cli", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def told(folder: Path, names: list[str], job: str) -> list[str]:
    """What `runner check` says of a job file of these songs."""
    lines = [f"  - {{name: {name}, {SONGS[name][0]}}}" for name in names]
    (folder / job).write_text("\n".join(["model: ./base", "songs:", *lines, ""]))
    ended = run(folder, "check", job)
    assert (ended.returncode, ended.stdout) == (2, "")
    return ended.stderr.splitlines()


@pytest.fixture(scope="module")
def lines(place: Path) -> dict[str, str]:
    """The line said of each song: a line for every song, and no other."""
    names = list(SONGS)
    unmakeable, unreadable = names[:FIRST_REFUSED], names[FIRST_REFUSED:]
    found = told(place, unmakeable, "unmakeable.yaml") + told(place, unreadable, "unreadable.yaml")
    return dict(zip(names, found, strict=True))


@pytest.mark.parametrize("name", SONGS)
def test_bad_input_gets_one_line(lines: dict[str, str], name: str) -> None:
    keys, words = SONGS[name]
    if "lyrics" in keys and not words.startswith("lyrics"):
        assert lines[name].startswith(words)  # a place in the lyrics themselves
        return
    number = list(SONGS).index(name) % FIRST_REFUSED + 3
    file = "unmakeable" if list(SONGS).index(name) < FIRST_REFUSED else "unreadable"
    assert lines[name].startswith(f"{file}.yaml:{number}:")
    assert lines[name].split(": ", 1)[1].startswith(words)
    assert len(lines[name]) < 400


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        ("nan", "--duration: nan cannot be used; write a finite number\n"),
        ("0", "--duration: 0.0 cannot be used; write a number above 0\n"),
        ("-1", "--duration: -1.0 cannot be used; write a number above 0\n"),
        (
            "95.5",
            "base cannot make 95.5 s at once: duration: choose 95, another model, "
            "or `window: 95` to make it in overlapping windows\n",
        ),
    ],
)
def test_a_bad_duration_given_by_option_gets_one_line(place: Path, seconds: str, words: str) -> None:
    ended = run(place, "sing", "--name", "a", "--model", "./base", "--style", "a", "--duration", seconds)
    assert (ended.returncode, ended.stdout, ended.stderr) == (2, "", words)
    assert not list(place.glob("outputs/*/*"))  # no song was begun


def test_lyrics_of_one_line_are_sung(place: Path) -> None:
    (place / "one.yaml").write_text("model: ./base\nsongs: [{lyrics: one.lrc, style: a}]\n")
    ended = run(place, "check", "one.yaml")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith("one/one: 95 s")
