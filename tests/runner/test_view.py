"""The table on any terminal, and what the parent of a batch shows where."""

from __future__ import annotations

import io
import os
import pty
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
from folders import beat_of, me, outputs_in, write_batch, write_manifest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console, RenderableType

from runner.files import write_message
from runner.messages import Batch, Cause, Phase, QueuedSong, SongState
from runner.probes import Memory
from runner.songfolder import Outputs
from runner.status import Ending, Health, Row, Survey, Try, look
from runner.steplog import Step
from runner.view import console, detail, final_table, fitting, live, render, screen, speaks_unicode, summary
from runner.words import remark

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
    rss=3 * 10**9,
    swap=0,
    attempt=1,
    tries=1,
    allowed=4,
    elapsed_s=150.0,
    paces_s=(12.0, 12.4, 12.0, 13.0),
    fastest_s=12.0,
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
    replace(RUNNING, song="night/kites", attempt=2, tries=2, ended=(TIMEOUT,), why=TIMEOUT.message),
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
    (line,) = (line for line in lines if line.removeprefix("!").lstrip().startswith(song[:9]))
    return line


# A night as it may stand at one in the morning: a song in each kind of trouble.
NIGHT = Survey(
    Batch(4242, 1, "b", 0.0, None, 3, []),
    True,
    (
        replace(ROWS[0], tries=1, allowed=4),
        RUNNING,
        replace(
            RUNNING,
            song="night/paper-boats",
            step=20,
            step_s=24.0,
            tries=2,
            ended=(TIMEOUT,),
            why=TIMEOUT.message,
            note="16 steps instead of 32",
            paces_s=(12.0, 12.4, 13.0, 12.1, 18.0, 24.0, 31.0, 48.0),
            swap=4 * 10**8,
        ),
        replace(RUNNING, song="night/slow-river", health="stalled", quiet_s=240.0, eta_s=None),
        replace(RUNNING, song="night/kites", private=95 * 10**7, ceiling=10**9),
        Row(
            "night/broken-string",
            "failed",
            why="died of SIGSEGV",
            seconds=61.0,
            attempt=4,
            tries=4,
            allowed=4,
        ),
        Row("night/last-train", "queued", note="waits for memory: 4.0 GB needed, 2.0 GB free"),
        Row("night/snow", "queued"),
    ),
    (),
    3600.0,
    Memory(4_200_000_000, 600_000_000),
)


SHOWN = [
    (
        110,
        None,
        True,
        """
batch runs since 00:00, 4.2 GB of memory free, 600 MB in swap, 3 at once, pid 4242
   song            state     step               time           pace      a step  memory      try
   harbour-lights  done                         12 min
   winter-garden   sampling  12/32  ━━━───────  4 min left     ▂▂▂▂      12 s    3.0 GB      1/4
   paper-boats     sampling  20/32  ━━━━━━────  4 min left     ▂▂▂▂▃▄▅█  24 s    3.0+0.4 GB  2/4
    timeout; 16 steps instead of 32; not finished within 40 min (in phase sample)
!  slow-river      sampling  12/32  ━━━───────  stalled 4 min  ▂▂▂▂      12 s    3.0 GB      1/4
!  kites           sampling  12/32  ━━━───────  4 min left     ▂▂▂▂      12 s    3.0 GB!     1/4
    memory near its ceiling: 950 MB of 1.0 GB
!  broken-string   failed                       61 s                                         4/4
    died of SIGSEGV
   last-train      waiting
    waits for memory: 4.0 GB needed, 2.0 GB free
   snow            queued
━━━━━─────────────── 2 of 8 songs, about 12 min left (01:12), 1 failed, 4 running, 2 queued, 1 done
""",
    ),
    (
        80,
        None,
        True,
        """
batch runs since 00:00, 4.2 GB of memory free, 600 MB in swap, 3 at once
   song            state     step               time           pace      try
   harbour-lights  done                         12 min
   winter-garden   sampling  12/32  ━━━───────  4 min left     ▂▂▂▂      1/4
   paper-boats     sampling  20/32  ━━━━━━────  4 min left     ▂▂▂▂▃▄▅█  2/4
    timeout; 16 steps instead of 32; not finished within 40 min (in phase sampl…
!  slow-river      sampling  12/32  ━━━───────  stalled 4 min  ▂▂▂▂      1/4
!  kites           sampling  12/32  ━━━───────  4 min left     ▂▂▂▂      1/4
    memory near its ceiling: 950 MB of 1.0 GB
!  broken-string   failed                       61 s                     4/4
    died of SIGSEGV
   last-train      waiting
    waits for memory: 4.0 GB needed, 2.0 GB free
   snow            queued
━━━━━─────────────── 2 of 8 songs, about 12 min left (01:12), 1 failed, 2 queued
""",
    ),
    (
        60,
        None,
        True,
        """
batch runs since 00:00, 4.2 GB of memory free, 3 at once
   song            state     step   time           try
   harbour-lights  done             12 min
   winter-garden   sampling  12/32  4 min left     1/4
   paper-boats     sampling  20/32  4 min left     2/4
    timeout; 16 steps instead of 32; not finished within 40…
!  slow-river      sampling  12/32  stalled 4 min  1/4
!  kites           sampling  12/32  4 min left     1/4
    memory near its ceiling: 950 MB of 1.0 GB
!  broken-string   failed           61 s           4/4
    died of SIGSEGV
   last-train      waiting
    waits for memory: 4.0 GB needed, 2.0 GB free
   snow            queued
━━━──────────── 2 of 8 songs, about 12 min left (01:12)
""",
    ),
    (
        40,
        None,
        False,
        """
batch runs since 00:00, 600 MB in swap
  song      state    step  time
  har..ghts done           12 min
  win..rden sampling 12/32 4 min left
  pap..oats sampling 20/32 4 min left
    timeout; 16 steps instead of 32; n..
! slo..iver sampling 12/32 stalled 4 min
! kites     sampling 12/32 4 min left
    memory near its ceiling: 950 MB of..
! bro..ring failed         61 s
    died of SIGSEGV
  las..rain waiting
    waits for memory: 4.0 GB needed, 2..
  snow      queued
##-------- 2 of 8 songs, 1 failed
""",
    ),
    (
        25,
        None,
        False,
        """
batch runs since 00:00
  song     state    step
  ha..ghts done
  wi..rden sampling 12/32
  pa..oats sampling 20/32
    timeout; 16 steps i..
! sl..iver sampling 12/32
! kites    sampling 12/32
    memory near its cei..
! br..ring failed
    died of SIGSEGV
  la..rain waiting
    waits for memory: 4..
  snow     queued
2 of 8 songs, 1 failed
""",
    ),
    (
        80,
        8,
        True,
        """
batch runs since 00:00, 4.2 GB of memory free, 600 MB in swap, 3 at once
   song           state     step               time           pace      try
   winter-garden  sampling  12/32  ━━━───────  4 min left     ▂▂▂▂      1/4
   paper-boats    sampling  20/32  ━━━━━━────  4 min left     ▂▂▂▂▃▄▅█  2/4
    timeout; 16 steps instead of 32; not finished within 40 min (in phase sampl…
!  slow-river     sampling  12/32  ━━━───────  stalled 4 min  ▂▂▂▂      1/4
and 5 more: 1 failed, 1 running, 2 queued, 1 done
━━━━━─────────────── 2 of 8 songs, about 12 min left (01:12), 1 failed, 2 queued
""",
    ),
]


@pytest.fixture
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("utc")
@pytest.mark.parametrize(("width", "height", "unicode", "lines"), SHOWN)
def test_a_night_looks_like_this(width: int, height: int | None, unicode: bool, lines: str) -> None:
    assert printed(render(NIGHT, width, unicode=unicode, height=height), width) == lines.strip("\n").split(
        "\n"
    )


@pytest.mark.parametrize("unicode", [True, False])
@pytest.mark.parametrize("width", [20, 40, 60, 80, 120, 300])
def test_every_song_has_a_line_and_none_is_too_wide(width: int, unicode: bool) -> None:
    lines = printed(render(replace(SURVEY, problems=()), width, unicode=unicode), width)
    said = [row for row in ROWS if row.state != "done" and remark(row)]
    below = 0 if "remark" in lines[1] else len(said)
    assert len(lines) == len(ROWS) + below + 4  # headline, heads, earlier runs, batch
    assert max(map(cell_len, lines)) <= width


words = st.text(max_size=30)
seconds = st.none() | st.floats(0, 1e300)
rows = st.builds(
    Row,
    song=st.builds("{}/{}".format, words, words),
    state=st.sampled_from(get_args(SongState)),
    earlier=st.booleans(),
    health=st.none() | st.sampled_from(get_args(Health)),
    phase=st.none() | st.sampled_from(get_args(Phase)),
    step=st.integers(0, 10**6),
    steps=st.integers(0, 10**6),
    step_s=seconds,
    eta_s=seconds,
    quiet_s=seconds,
    seconds=seconds,
    elapsed_s=seconds,
    rss=st.none() | st.integers(0, 10**15),
    swap=st.none() | st.integers(0, 10**15),
    private=st.none() | st.integers(0, 10**15),
    ceiling=st.none() | st.integers(0, 10**15),
    attempt=st.integers(0, 10**6),
    tries=st.integers(0, 1000),
    allowed=st.integers(0, 1000),
    ended=st.lists(
        st.builds(Ending, st.integers(1, 99), st.sampled_from(get_args(Cause)), words), max_size=2
    ).map(tuple),
    why=words,
    note=words,
    file=st.none() | words,
    paces_s=st.lists(st.floats(0, 1e300), max_size=16).map(tuple),
    fastest_s=st.none() | st.floats(-1, 1e300),
)
batches = st.builds(
    Batch,
    pid=st.integers(1, 10**7),
    pid_started=st.just(1),
    boot_id=st.just("b"),
    started_wall=st.floats(-1e308, 1e308),
    finished_wall=st.none() | st.floats(-1e308, 1e308),
    workers=st.integers(-5, 10**6),
    songs=st.just([]),
    stopping=st.booleans(),
)


@settings(deadline=None)
@given(
    st.lists(rows, max_size=12),
    st.none() | batches,
    st.booleans(),
    st.integers(20, 130),
    st.none() | st.integers(1, 30),
    st.booleans(),
)
def test_nothing_is_wider_or_higher_than_the_terminal(
    songs: list[Row],
    batch: Batch | None,
    alive: bool,
    width: int,
    height: int | None,
    unicode: bool,
) -> None:
    """Whatever damaged files say."""
    now = Survey(batch, alive and batch is not None, tuple(songs), ("x/heartbeat.json: torn",), 3600.0)
    lines = printed(render(now, width, unicode=unicode, height=height), width)
    assert max(map(cell_len, lines), default=0) <= width
    assert height is None or len(lines) <= height
    assert unicode or "\n".join(lines).isascii()
    assert "\n".join(lines).replace("\n", "").isprintable()


def test_worker_words_cannot_steer_the_terminal() -> None:
    assert "\x1b" not in "\n".join(printed(render(SURVEY, 200, unicode=True), 200))


def test_a_low_window_shows_what_runs_and_counts_the_rest() -> None:
    lines = printed(render(SURVEY, 80, unicode=True, height=12), 80)
    assert len(lines) <= 12
    for song in ("winter-garden", "kites", "slow-river"):
        assert row_of(lines, song)
    assert any(line.startswith("and 13 more: 1 failed, 1 degraded, 9 queued, 2 done") for line in lines)


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


def test_of_a_song_that_was_made_again_the_end_of_its_name_stays() -> None:
    row = replace(NIGHT.rows[0], song="night/harbour-lights.seed-8")
    drawn = printed(render(replace(NIGHT, rows=(row,)), 50, unicode=True), 50)
    assert ".seed-8 " in row_of(drawn, "harb")


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


# ---------------------------------------------------------------- one song

STEPS = tuple(Step(number, 32, number / 32, 12.0 * (1 + number // 8)) for number in range(1, 13))
SECOND = replace(
    RUNNING,
    song="night/kites",
    attempt=2,
    tries=2,
    asked=32,
    density=16,
    ended=(Ending(1, "timeout", "not finished within 40 min (in phase sample)", 32, 2400.0, 0.37),),
    note="16 steps instead of 32",
    spent_s={"load": 4.0, "sample": 146.0},
    private=2 * 10**9,
    swap=10**8,
    ceiling=4 * 10**9,
)
TRIES = (
    Try(1, SECOND.ended[0], STEPS, Path("o/night/kites/attempts/1/worker.log")),
    Try(2, None, STEPS[:2], Path("o/night/kites/attempts/2/worker.log")),
)
DETAIL = """
song    night/kites
state   sampling, ok
step    12 of 32  ###-------
a step  12 s  ____
left    about 4 min
steps   16 instead of 32
memory  3.0 GB, 100 MB in swap; 2.0 GB of its own, of 4.0 GB at the most
try     2 of 4
note    16 steps instead of 32
phases  loading 4.0 s, sampling 2 min
log     o/night/kites/attempts/2/worker.log
attempt  steps  ended    time    step   t     pace
1        32     timeout  40 min  12/32  0.38  _______-----
  not finished within 40 min (in phase sample)
2        16     runs     2 min   2/32   0.06  __
"""


def test_of_one_song_all_is_told_with_every_attempt_and_why_it_ended() -> None:
    assert printed(detail(SECOND, TRIES, 80, unicode=False), 80) == DETAIL.strip().split("\n")


@pytest.mark.parametrize("width", [20, 40, 200])
def test_nothing_of_one_song_is_wider_than_the_terminal(width: int) -> None:
    lines = printed(detail(SECOND, TRIES, width, unicode=True), width)
    assert max(map(cell_len, lines)) <= width
    assert "attempts/2/worker.log" in "".join(lines)


def test_of_a_song_with_many_attempts_a_low_terminal_shows_the_newest() -> None:
    ended = [Try(number, SECOND.ended[0], STEPS, TRIES[0].log) for number in range(3, 30)]
    lines = printed(detail(SECOND, (*ended, TRIES[1]), 80, unicode=True, height=24), 80)
    assert len(lines) <= 24
    assert lines[-1].startswith("2        16     runs")


def test_a_failed_song_says_why_and_what_it_took() -> None:
    failed = replace(NIGHT.rows[5], asked=32)
    text = "\n".join(printed(detail(failed, (), 80, unicode=True), 80))
    assert "why     died of SIGSEGV" in text
    assert "try     4 of 4" in text
    assert "time    61 s" in text


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


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    def taken(self) -> str:
        """What was written since this was asked last."""
        told = self.getvalue()
        self.seek(0)
        self.truncate()
        return told


def test_on_a_terminal_that_is_made_narrower_it_is_drawn_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its lines have been broken by the terminal: going up as many as were drawn would leave some of them."""
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    out = console(terminal)
    out.width = 100
    picture = screen(out)
    told = []
    for out.width in (100, 60, 100):
        picture.show(NIGHT)
        told.append(terminal.taken())
    picture.close()
    assert ["\x1b[2J" in each for each in told] == [False, True, False]
    assert all("paper-boats" in each for each in told)


def test_on_a_terminal_one_song_is_drawn_with_all_that_is_known_of_it_even_if_that_is_nothing_any_more(
    outputs: Outputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    picture = screen(console(terminal), song=outputs.song("night/rain"))
    picture.show(look(outputs))
    assert "attempts/1/worker.log" in terminal.taken().replace("\n", "")
    shutil.rmtree(outputs.folder)
    picture.show(look(outputs))
    assert "night/rain: is no longer there" in terminal.taken()
    picture.close()


def test_the_view_has_no_thread_of_its_own(outputs: Outputs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
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
