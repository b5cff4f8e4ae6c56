"""Logs of attempts: printed, chosen, and followed over a retry to the end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from folders import add_attempt, outputs_in, write_batch, write_manifest

from runner.errors import RunnerError, UsageError
from runner.logs import CHUNK_BYTES, level_of, read, read_night, show, show_night
from runner.messages import QueuedSong
from runner.songfolder import Attempt, Outputs, SongFolder
from runner.words import Level


@pytest.fixture
def outputs(tmp_path: Path) -> Outputs:
    return outputs_in(tmp_path)


@pytest.fixture
def song(outputs: Outputs) -> SongFolder:
    song = outputs.song("night/rain")
    add_attempt(song, "timeout", "late").log.write_bytes(b"first\n")
    add_attempt(song).log.write_bytes(b"second \xff\x00\n")
    return song


def test_the_newest_attempts_log_is_printed_byte_by_byte(
    outputs: Outputs, song: SongFolder, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert show(outputs, "rain") == 0
    printed = capfdbinary.readouterr()
    assert printed.out == b"second \xff\x00\n"
    assert b"night/rain, attempt 2" in printed.err


def test_of_a_song_that_had_nothing_to_say_that_is_said(
    outputs: Outputs, song: SongFolder, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    add_attempt(song).log.touch()
    assert show(outputs, "rain") == 0
    printed = capfdbinary.readouterr()
    assert printed.out == b""
    assert b"it had nothing to say; `runner logs` tells what happened when" in printed.err


def test_an_earlier_attempts_log_can_be_asked_for(
    outputs: Outputs, song: SongFolder, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert show(outputs, "night/rain", attempt=1) == 0
    assert capfdbinary.readouterr().out == b"first\n"


@pytest.mark.parametrize(
    ("name", "attempt", "answer"),
    [
        ("rian", None, "did you mean night/rain?"),
        ("rain", 7, "has no attempt 7; there are 1, 2"),
        ("snow", None, "has not begun, so it has no log"),
    ],
)
def test_what_is_not_there_is_1_and_says_what_is(
    outputs: Outputs,
    song: SongFolder,
    capsys: pytest.CaptureFixture[str],
    name: str,
    attempt: int | None,
    answer: str,
) -> None:
    write_batch(outputs, [QueuedSong("night/snow", "queued")])
    assert show(outputs, name, attempt=attempt) == 1
    printed = capsys.readouterr()
    assert answer in printed.err
    assert printed.out == ""


def test_following_a_song_that_has_ended_prints_its_log_and_ends(
    outputs: Outputs, song: SongFolder, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    write_manifest(song)
    assert show(outputs, "rain", follow=True) == 0
    assert capfdbinary.readouterr().out == b"second \xff\x00\n"


def test_a_long_log_comes_whole_and_in_pieces(song: SongFolder) -> None:
    attempt = song.attempts()[0]
    attempt.log.write_bytes(b"x" * (2 * CHUNK_BYTES + 1))
    parts = [part for part in read(song, attempt, running=lambda: False) if isinstance(part, bytes)]
    assert [len(part) for part in parts] == [CHUNK_BYTES, CHUNK_BYTES, 1]


def followed(song: SongFolder, attempt: Attempt | None, *steps: Callable[[], object]) -> list[str]:
    """What a follower gives while, at each of its pauses, one of the steps happens; then the song ends."""
    left = list(steps)
    parts = read(song, attempt, running=lambda: bool(left), pause=lambda: _call(left.pop(0)))
    return list(_words(parts))


def _call(step: Callable[[], object]) -> None:
    step()


def _words(parts: Iterator[Attempt | bytes]) -> Iterator[str]:
    for part in parts:
        yield part.decode(errors="replace") if isinstance(part, bytes) else f"attempt {part.number}"


def append(path: Path, words: str) -> Callable[[], None]:
    def write() -> None:
        with path.open("a") as file:
            file.write(words)

    return write


def test_a_follower_gives_what_is_written_meanwhile_and_last(song: SongFolder) -> None:
    attempt = song.attempts()[0]
    (song.folder / "attempts" / "2").rename(song.folder / "elsewhere")
    told = followed(
        song, attempt, append(attempt.log, "more\n"), lambda: None, append(attempt.log, "the end\n")
    )
    assert told == ["attempt 1", "first\n", "more\n", "the end\n"]


def test_a_follower_goes_over_to_a_retry_without_losing_a_word(song: SongFolder) -> None:
    old = song.attempts()[1]

    def retry() -> None:
        append(old.log, "last words\n")()
        song.new_attempt()  # its log is not there yet

    told = followed(song, old, retry, lambda: append(song.attempts()[-1].log, "third\n")(), lambda: None)
    assert told[0] == "attempt 2"
    assert told[2:] == ["last words\n", "attempt 3", "third\n"]


def test_a_follower_waits_for_a_song_that_has_not_begun(outputs: Outputs) -> None:
    song = outputs.song("night/snow")
    told = followed(
        song, None, lambda: None, lambda: add_attempt(song).log.write_text("begun\n"), lambda: None
    )
    assert told == ["attempt 1", "begun\n"]


FOLLOW = """
import sys
from pathlib import Path
from runner.logs import show
from runner.songfolder import Outputs
sys.exit(show(Outputs(Path(sys.argv[1])), "rain", follow=True))
"""


def test_following_ends_with_the_song_in_real_life(outputs: Outputs, song: SongFolder) -> None:
    write_batch(outputs, [QueuedSong("night/rain", "running", attempt=2)])
    with subprocess.Popen(
        [sys.executable, "-c", FOLLOW, str(outputs.folder)], stdout=subprocess.PIPE
    ) as follower:
        assert follower.stdout is not None
        assert follower.stdout.readline() == b"second \xff\x00\n"
        append(song.attempts()[-1].log, "goodbye\n")()
        write_manifest(song)
        assert follower.stdout.read() == b"goodbye\n"
    assert follower.returncode == 0


@pytest.mark.parametrize("target", ["/dev/zero", "/proc/self/mem"])
def test_a_log_that_cannot_be_read_is_named(song: SongFolder, target: str) -> None:
    (attempt, _) = song.attempts()
    attempt.log.unlink()
    attempt.log.symlink_to(target)
    with pytest.raises(RunnerError, match=r"attempts/1/worker\.log: (is no ordinary file|cannot be read)"):
        list(read(song, attempt, running=lambda: False))


# ---------------------------------------------------------------- the night's


NIGHT = """\
2026-03-03T23:30:00+01:00 info    batch began (pid 1), 1 at once
2026-03-03T23:30:01+01:00 error   [night/snow] failed: last week's
2026-03-04T23:30:00+01:00 info    batch began (pid 2), 1 at once
2026-03-04T23:31:00+01:00 debug   [night/rain] loading
2026-03-04T23:40:00+01:00 warning [night/rain] attempt 1 ended: timeout: late
Traceback of \x1b[31mnobody
"""


@pytest.mark.parametrize(("level", "lines"), [("debug", [2, 3, 4, 5]), ("info", [2, 4, 5]), ("error", [])])
def test_the_newest_night_is_printed_from_a_level_up_without_what_a_terminal_would_obey(
    outputs: Outputs, capsys: pytest.CaptureFixture[str], level: Level, lines: list[int]
) -> None:
    outputs.log.write_text(NIGHT)
    assert show_night(outputs, level) == 0
    wanted = [NIGHT.replace("\x1b", " ").splitlines()[line] for line in lines]
    assert capsys.readouterr().out.splitlines() == wanted


def test_on_request_each_entry_is_a_json_object(outputs: Outputs, capsys: pytest.CaptureFixture[str]) -> None:
    outputs.log.write_text(NIGHT)
    assert show_night(outputs, "warning", json=True) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line) == {
        "schema": 1,
        "time": "2026-03-04T23:40:00+01:00",
        "level": "warning",
        "song": "night/rain",
        "text": "attempt 1 ended: timeout: late\nTraceback of \x1b[31mnobody",
    }


def test_a_night_that_was_never_is_1_and_says_what_makes_one(
    outputs: Outputs, capsys: pytest.CaptureFixture[str]
) -> None:
    assert show_night(outputs, "info", follow=True) == 1
    printed = capsys.readouterr()
    assert (printed.out, "`runner batch` writes it" in printed.err) == ("", True)


def test_a_pipe_in_place_of_the_nights_log_is_named(outputs: Outputs) -> None:
    os.mkfifo(outputs.log)
    with pytest.raises(RunnerError, match=r"runner\.log: is no ordinary file"):
        show_night(outputs, "info")


def test_a_follower_of_the_night_gives_its_last_words_and_ends_with_it(outputs: Outputs) -> None:
    outputs.log.write_text(NIGHT)
    later = NIGHT.splitlines()[3]
    steps = [append(outputs.log, f"{later} 1\n"), lambda: None, append(outputs.log, f"{later} 2\n")]
    given = read_night(outputs, running=lambda: bool(steps), pause=lambda: _call(steps.pop(0)))
    assert [each.text.partition("\n")[0] for each in given][-3:] == [
        "attempt 1 ended: timeout: late",
        "loading 1",
        "loading 2",
    ]


@pytest.mark.parametrize(("name", "level"), [(None, "info"), ("error", "error")])
def test_a_level_has_a_name(name: str | None, level: str) -> None:
    assert level_of(name) == level


def test_a_level_that_there_is_not_is_bad_usage_and_lists_them() -> None:
    with pytest.raises(UsageError, match=r"--level 'loud'.*debug, info, warning, error"):
        level_of("loud")
