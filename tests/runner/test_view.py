"""The table on any terminal, and what the parent of a batch shows where."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from folders import beat_of, me, outputs_in, write_batch, write_manifest
from rich.cells import cell_len
from rich.console import Console, RenderableType

from runner.files import write_message
from runner.messages import Batch, QueuedSong
from runner.songfolder import Outputs
from runner.status import Ending, Row, Survey
from runner.view import console, final_table, fitting, live, render, screen, speaks_unicode, summary

TIMEOUT = Ending(1, "timeout", "not finished within 40 min (in phase sample)")
RUNNING = Row(
    "night/winter-garden",
    "running",
    health="healthy",
    phase="sample",
    step=12,
    steps=32,
    step_s=12.3,
    eta_s=246.0,
    quiet_s=1.0,
    rss=3 * 2**30,
    swap=0,
    attempt=1,
)
ROWS = (
    Row(
        "night/harbour-lights", "done", seconds=734.0, file="outputs/night/harbour-lights/song.wav", attempt=1
    ),
    Row(
        "night/rain",
        "degraded",
        seconds=3700.0,
        file="f.wav",
        note="8 steps instead of 32",
        attempt=3,
        retries=2,
    ),
    RUNNING,
    replace(RUNNING, song="night/kites", attempt=2, retries=1, ended=(TIMEOUT,), why=TIMEOUT.message),
    replace(RUNNING, song="night/slow-river", health="slow", quiet_s=64.0, eta_s=None),
    replace(
        RUNNING,
        song="night/冬天的花园-a-very-long-name-that-does-not-fit-anywhere.2",
        health="stalled",
        eta_s=None,
    ),
    Row(
        "night/broken",
        "failed",
        why="not finished within 40 min\x1b[31m",
        seconds=2400.0,
        attempt=4,
        retries=3,
    ),
    *(Row(f"night/queued-{number}", "queued") for number in range(9)),
    Row("monday/old", "done", earlier=True, seconds=5.0),
)
SURVEY = Survey(Batch(4242, 1, "b", 0.0, None, 2, []), True, ROWS, ("x/heartbeat.json: torn",), 3600.0)


def printed(table: RenderableType, width: int) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=width, color_system=None).print(table)
    return out.getvalue().splitlines()


def row_of(lines: list[str], song: str) -> str:
    (line,) = (line for line in lines if line.startswith(song[:9]))
    return line


@pytest.mark.parametrize("unicode", [True, False])
@pytest.mark.parametrize("width", [20, 40, 60, 80, 120, 300])
def test_every_song_has_one_line_and_none_is_too_wide(width: int, unicode: bool) -> None:
    lines = printed(render(replace(SURVEY, problems=()), width, unicode=unicode), width)
    assert len(lines) == len(ROWS) + 4  # headline, heads, earlier runs, batch
    assert max(map(cell_len, lines)) <= width


def test_at_60_columns_state_step_time_and_try_are_there() -> None:
    lines = printed(render(SURVEY, 60, unicode=True), 60)
    for words in ("sampling", "12/32", "4 min left"):
        assert words in row_of(lines, "winter-garden")
    assert "slow 64 s" in row_of(lines, "slow-river")
    assert row_of(lines, "kites").endswith("2")


def test_at_80_columns_the_bar_comes_in() -> None:
    lines = printed(render(SURVEY, 80, unicode=True), 80)
    assert "━━━───────" in row_of(lines, "winter-garden")


def test_at_120_columns_nothing_is_missing() -> None:
    line = row_of(printed(render(SURVEY, 120, unicode=True), 120), "kites")
    for words in ("sampling", "12/32", "━━━───────", "4 min left", "12 s", "3.0 GB", "2", "timeout: not fin"):
        assert words in line


def test_without_unicode_every_character_is_ascii() -> None:
    lines = printed(render(SURVEY, 80, unicode=False), 80)
    assert "\n".join(lines).isascii()
    assert "###-------" in row_of(lines, "winter-garden")


def test_worker_words_cannot_steer_the_terminal() -> None:
    assert "\x1b" not in "\n".join(printed(render(SURVEY, 200, unicode=True), 200))


def test_a_low_window_shows_what_runs_and_counts_the_rest() -> None:
    lines = printed(render(SURVEY, 80, unicode=True, height=12), 80)
    assert len(lines) <= 12
    for song in ("winter-garden", "kites", "slow-river", "broken"):
        assert row_of(lines, song)
    assert any(line.startswith("and 10 more: 8 queued, 2 done") for line in lines)


@pytest.mark.parametrize("room", [1, 2, 6, 16, 17, 50])
def test_rows_that_fit_stay_in_their_order(room: int) -> None:
    kept = fitting(ROWS, room)
    assert kept == [row for row in ROWS if row in kept]
    assert len(kept) == min(room, len(ROWS))
    assert kept[0].state != "queued"


def test_months_of_earlier_nights_do_not_bury_the_batch() -> None:
    old = [Row(f"monday/old-{number}", "done", earlier=True) for number in range(500)]
    cut = Row("monday/cut", "interrupted", earlier=True)
    lines = printed(render(replace(SURVEY, rows=(*ROWS, *old, cut)), 80, unicode=True), 80)
    assert len(lines) < 50
    assert row_of(lines, "cut")
    assert any(line.startswith("and 482 more: ") for line in lines)


def test_the_end_says_result_time_retries_file_and_what_to_do() -> None:
    lines = printed(final_table(SURVEY, unicode=True), 100)
    assert lines[0].split() == ["result", "time", "retries", "file"]
    assert lines[1].split(None, 3) == ["done", "12", "min", "outputs/night/harbour-lights/song.wav"]
    assert lines[2].split() == ["degraded", "62", "min", "2", "f.wav"]
    text = "\n".join(lines)
    assert "night/rain: degraded: 8 steps instead of 32" in text
    assert "`runner logs night/broken`" in text
    assert "--redo-degraded" in text
    assert "monday/old" not in text
    assert lines[-1].startswith("3 of 16 songs, 60 min, 1 failed")


def test_a_long_file_is_never_cut_at_the_end() -> None:
    text = "".join(printed(final_table(SURVEY, unicode=True), 40))
    assert "outputs/night/harbour-lights/song.wav" in text


@pytest.mark.parametrize(
    ("encoding", "environ", "unicode"),
    [
        ("utf-8", {"LANG": "de_DE.UTF-8"}, True),
        ("utf-8", {"LANG": "C.UTF-8", "LC_CTYPE": "C.UTF-8"}, True),
        ("utf-8", {"LANG": "C", "LC_CTYPE": "C.UTF-8"}, False),
        ("utf-8", {"LC_CTYPE": "C.UTF-8"}, False),
        ("utf-8", {"LC_CTYPE": "en_GB.utf8"}, True),
        ("utf-8", {"LANG": "de_DE.UTF-8", "LC_ALL": "C"}, False),
        ("utf-8", {}, False),
        ("iso-8859-1", {"LANG": "de_DE.UTF-8"}, False),
    ],
)
def test_unicode_is_for_terminals_that_say_so(encoding: str, environ: dict[str, str], unicode: bool) -> None:
    assert speaks_unicode(encoding, environ) == unicode


# ---------------------------------------------------------------- where it is shown


@pytest.fixture
def outputs(tmp_path: Path) -> Outputs:
    outputs = outputs_in(tmp_path)
    outputs.song("night/rain").new_attempt()
    write_message(outputs.song("night/rain").heartbeat, beat_of(me()))
    write_batch(outputs, [QueuedSong("night/rain", "running"), QueuedSong("night/snow", "queued")])
    return outputs


def test_without_a_terminal_there_are_lines_on_stderr(
    outputs: Outputs, capsys: pytest.CaptureFixture[str]
) -> None:
    with live(outputs) as show:
        show()
        show()
        write_manifest(outputs.song("night/rain"))
        write_batch(outputs, [QueuedSong("night/rain", "done"), QueuedSong("night/snow", "queued")])
        show()
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "\x1b" not in printed.err
    said = [line.split(" ", 1)[1] for line in printed.err.splitlines()]
    assert said[:2] == ["2 songs: 1 running, 1 queued", "night/rain: attempt 1 began"]
    assert said[2].startswith("night/rain: done in 12 min: ")
    assert len(said) == 3


def test_quiet_says_nothing(outputs: Outputs, capsys: pytest.CaptureFixture[str]) -> None:
    with live(outputs, quiet=True) as show:
        show()
    printed = capsys.readouterr()
    assert printed.out == printed.err == ""


def test_the_summary_goes_to_stderr(outputs: Outputs, capsys: pytest.CaptureFixture[str]) -> None:
    summary(outputs)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "night/rain" in printed.err


PARENT = """
import sys
from pathlib import Path
from runner import view
from runner.songfolder import Outputs
with view.live(Outputs(Path(sys.argv[1]))) as show:
    for _ in range(3):
        show()
        print("", end="", flush=True)
"""


def on_a_terminal(outputs: Outputs, **environ: str) -> str:
    """What PARENT writes to a terminal of 80 columns and 24 lines."""
    master, slave = pty.openpty()
    names = {"TERM": "xterm", "COLUMNS": "80", "LINES": "24", "LANG": "C.UTF-8", "PATH": os.environ["PATH"]}
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(outputs.folder)],
        stdout=slave,
        stderr=slave,
        env={**names, **environ},
    ) as parent:
        os.close(slave)
        told = _drain(master)
    assert parent.returncode == 0
    return told


def _drain(master: int) -> str:
    told = b""
    try:
        while part := os.read(master, 4096):
            told += part
    except OSError:  # the other side is closed
        pass
    os.close(master)
    return told.decode()


def test_on_a_terminal_the_table_is_drawn_over_itself(outputs: Outputs) -> None:
    write_manifest(outputs.song("monday/old"))
    told = on_a_terminal(outputs)
    assert told.count("batch runs since") >= 3
    assert "old" not in told  # the batch's own view is about the batch
    assert "\x1b[1A" in told  # up, over the last one
    assert "━" in told
    assert told.count("\x1b[?25l") == told.count("\x1b[?25h") == 1  # the cursor comes back


def test_no_color_takes_the_colours_and_nothing_else(outputs: Outputs) -> None:
    write_batch(outputs, [QueuedSong("night/snow", "failed")])
    assert "\x1b[31msnow" in on_a_terminal(outputs)
    told = on_a_terminal(outputs, NO_COLOR="1")
    assert "\x1b[31m" not in told
    assert "failed" in told


def test_a_dumb_terminal_gets_lines(outputs: Outputs) -> None:
    told = on_a_terminal(outputs, TERM="dumb")
    assert "\x1b" not in told
    assert "attempt 1 began" in told


def test_forced_colour_brings_no_table_into_a_file(
    outputs: Outputs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with live(outputs) as show:
        show()
    assert "\x1b[?25l" not in capsys.readouterr().err


def test_the_view_has_no_thread_of_its_own(outputs: Outputs) -> None:
    master, slave = pty.openpty()
    with os.fdopen(slave, "w") as terminal:
        picture = screen(console(terminal))
        before = threading.active_count()
        picture.show(SURVEY)
        assert threading.active_count() == before
        picture.close()
    os.close(master)


def test_a_closed_stderr_does_not_end_the_batch(outputs: Outputs) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    code = f"{PARENT}\nprint('the songs went on')"
    told = subprocess.run(
        [sys.executable, "-c", code, str(outputs.folder)], stdout=subprocess.PIPE, stderr=writer, text=True
    )
    os.close(writer)
    assert told.stdout == "the songs went on\n"
    assert told.returncode == 0


def test_an_error_of_the_batch_is_not_swallowed_by_its_view(outputs: Outputs) -> None:
    with pytest.raises(OSError, match="disk"), live(outputs):
        raise OSError("disk")
