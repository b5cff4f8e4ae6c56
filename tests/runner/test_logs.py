"""Logs of attempts: printed, chosen, and followed over a retry to the end."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from folders import add_attempt, outputs_in, write_batch, write_manifest

from runner.errors import RunnerError
from runner.logs import CHUNK_BYTES, read, show
from runner.messages import QueuedSong
from runner.songfolder import Attempt, Outputs, SongFolder


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
