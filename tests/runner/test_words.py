"""What is said of songs and batches."""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.cells import cell_len

from runner.messages import Batch
from runner.probes import Memory
from runner.status import Ending, Row, Survey
from runner.words import (
    advice,
    bar,
    batch_line,
    clip,
    headline,
    labels,
    machine_words,
    memory_words,
    plain,
    remark,
    shown,
    span,
    sparkline,
    state_words,
    time_words,
    try_words,
    wants_a_look,
)

NOW = time.mktime((2026, 3, 4, 6, 30, 0, 0, 0, -1))
BATCH = Batch(4242, 1, "b", NOW - 3600, None, 2, [])
RUNNING = Row(
    "night/rain",
    "running",
    health="healthy",
    phase="sample",
    step=4,
    steps=32,
    step_s=12.0,
    eta_s=336.0,
    quiet_s=1.0,
    attempt=1,
)
TIMEOUT = Ending(1, "timeout", "not finished within 40 min")


def survey_of(*rows: Row, alive: bool = True, batch: Batch | None = BATCH) -> Survey:
    return Survey(batch, alive, rows, (), NOW)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-1.0, "0.0 s"),
        (0.44, "0.4 s"),
        (12.3, "12 s"),
        (99.0, "99 s"),
        (100.0, "2 min"),
        (3600.0, "60 min"),
        (3 * 3600.0 + 300, "3 h 05"),
    ],
)
def test_a_span_is_said_shortly(seconds: float, words: str) -> None:
    assert span(seconds) == words


@pytest.mark.parametrize(
    ("done", "all", "picture"),
    [(0, 32, "----"), (7, 32, "----"), (8, 32, "#---"), (31, 32, "###-"), (32, 32, "####"), (0, 0, "----")],
)
def test_a_bar_is_full_only_at_the_end(done: int, all: int, picture: str) -> None:
    assert bar(done, all, 4, unicode=False) == picture


@given(st.integers(-5, 50), st.integers(-5, 50), st.booleans())
def test_a_bar_has_its_width_whatever_the_numbers(done: int, all: int, unicode: bool) -> None:
    assert cell_len(bar(done, all, 10, unicode=unicode)) == 10


@given(st.text(), st.integers(0, 30), st.integers(0, 40), st.booleans())
@example("0ㇰ", 2, 1, True)
def test_nothing_clipped_is_wider_than_asked(text: str, width: int, tail: int, unicode: bool) -> None:
    assert cell_len(clip(shown(text, unicode), width, unicode=unicode, tail=tail)) <= width


def test_a_clipped_name_keeps_its_take_and_a_clipped_file_its_end() -> None:
    assert clip("harbour-lights.2", 12, unicode=True, tail=4) == "harbour…ts.2"
    assert clip("outputs/night/rain/song.wav", 14, unicode=False, tail=99) == "..ain/song.wav"
    assert clip("a long reason", 8, unicode=True) == "a long …"


@given(st.text())
def test_what_is_shown_is_one_printable_line(text: str) -> None:
    assert shown(text, unicode=True).isprintable()
    assert shown(text, unicode=False).isascii()


def test_control_codes_of_a_worker_do_not_reach_the_terminal() -> None:
    assert shown("a\x1b[2Jb\nc\udcff", unicode=True) == "a [2Jb c "


@pytest.mark.parametrize(
    ("row", "state", "now"),
    [
        (RUNNING, "sampling", "6 min left"),
        (replace(RUNNING, phase="decode", eta_s=None), "decoding", "ok"),
        (replace(RUNNING, health="slow", eta_s=None, quiet_s=64.0), "sampling", "slow 64 s"),
        (replace(RUNNING, health="stalled", eta_s=None, quiet_s=240.0), "sampling", "stalled 4 min"),
        (replace(RUNNING, health="orphaned", eta_s=None), "sampling", "orphaned"),
        (replace(RUNNING, health="gone", eta_s=None), "sampling", "gone"),
        (Row("a/b", "running", attempt=1), "starting", ""),
        (Row("a/b", "running", attempt=1, made=True), "finishing", ""),
        (Row("a/b", "running", attempt=2, ended=(TIMEOUT,), note="16 steps"), "starting", ""),
        (Row("a/b", "running", attempt=1, ended=(TIMEOUT,), note="waits to be alone"), "waiting", ""),
        (Row("a/b", "queued", note="waits for memory: 4.0 GB needed"), "waiting", ""),
        (Row("a/b", "queued"), "queued", ""),
        (Row("a/b", "running", attempt=2, ended=(TIMEOUT,)), "starting", ""),
        (Row("a/b", "running", attempt=1, ended=(TIMEOUT,)), "waiting", ""),
        (Row("a/b", "done", seconds=734.0), "done", "12 min"),
    ],
)
def test_a_row_says_what_it_does_and_how_it_is(row: Row, state: str, now: str) -> None:
    assert (state_words(row), time_words(row)) == (state, now)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (replace(RUNNING, note="bf16 on 2 threads"), "bf16 on 2 threads"),
        (
            replace(RUNNING, ended=(TIMEOUT,), why=TIMEOUT.message, note="16 steps"),
            "timeout; 16 steps; not finished within 40 min",
        ),
        (
            replace(RUNNING, ended=(TIMEOUT,), why=TIMEOUT.message),
            "timeout: not finished within 40 min",
        ),
        (
            replace(RUNNING, ended=(TIMEOUT,), private=95 * 10**7, ceiling=10**9),
            "memory near its ceiling: 950 MB of 1.0 GB",
        ),
        (Row("a/b", "done", file="o/a/b/song.wav"), "o/a/b/song.wav"),
        (Row("a/b", "degraded", file="f", note="8 steps instead of 32"), "8 steps instead of 32"),
        (Row("a/b", "failed", why="no disk"), "no disk"),
        (Row("a/b", "interrupted", health="gone"), "its process died without a word"),
        (Row("a/b", "queued"), ""),
        (
            Row("a/b", "running", attempt=1, ended=(TIMEOUT,), why=TIMEOUT.message, note="waits for memory"),
            "waits for memory",
        ),
    ],
)
def test_a_remark_is_the_one_thing_worth_saying_besides(row: Row, words: str) -> None:
    assert remark(row) == words


@pytest.mark.parametrize(
    ("rss", "swap", "private", "words"),
    [
        (None, None, None, ""),
        (850 * 10**6, 0, None, "850 MB"),
        (3 * 10**9, 4096, None, "3.0 GB"),
        (3 * 10**9, 5 * 10**8, None, "3.0+0.5 GB"),
        (3 * 10**9, 0, 8 * 10**8, "3.0 GB"),
        (3 * 10**9, 0, 9 * 10**8, "3.0 GB!"),
        (3 * 10**9, 5 * 10**8, 9 * 10**8, "3.0+0.5 GB!"),
    ],
)
def test_memory_tells_what_is_in_swap_and_when_its_ceiling_is_near(
    rss: int | None, swap: int | None, private: int | None, words: str
) -> None:
    row = replace(RUNNING, rss=rss, swap=swap, private=private, ceiling=10**9)
    assert memory_words(row) == words


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (replace(RUNNING, tries=1, allowed=4), "1/4"),
        (replace(RUNNING, tries=3, allowed=4), "3/4"),
        (replace(RUNNING, retries=2), "3"),  # of a version that did not tell how many are allowed
        (Row("a/b", "done", attempt=1, tries=1, allowed=4), ""),
        (Row("a/b", "done", attempt=3, tries=3, allowed=4), "3/4"),
        (Row("a/b", "queued", attempt=3, tries=3, allowed=4), ""),
        (Row("a/b", "queued"), ""),
    ],
)
def test_a_try_is_told_of_those_allowed(row: Row, words: str) -> None:
    assert try_words(row) == words


@pytest.mark.parametrize(
    ("paces_s", "fastest_s", "unicode", "picture"),
    [
        ((), None, True, ""),
        ((2.0, 2.0, 2.1, 2.0), 2.0, True, "▂▂▂▂"),
        ((2.0, 2.6, 3.0, 4.0, 6.0, 8.0, 80.0), 2.0, True, "▂▃▃▄▆██"),
        ((2.0, 2.6, 3.0, 4.0, 6.0, 8.0, 80.0), 2.0, False, "_---=##"),
        ((8.0, 8.0, 8.0), 2.0, True, "███"),  # long slow: the fastest was before
        ((8.0, 8.0, 8.0), None, True, "▂▂▂"),
        ((1.0, 1.0), 2.0, True, "▁▁"),
        ((0.0, 0.0), 0.0, True, ""),
        ((5.0,), -1.0, True, ""),
    ],
)
def test_a_slowdown_stands_out_of_a_low_line(
    paces_s: tuple[float, ...], fastest_s: float | None, unicode: bool, picture: str
) -> None:
    assert sparkline(paces_s, fastest_s, unicode=unicode) == picture


@given(st.lists(st.floats(0, 1e308), max_size=16), st.none() | st.floats(-1e308, 1e308), st.booleans())
def test_a_picture_of_times_has_a_cell_for_each(
    paces_s: list[float], fastest_s: float | None, unicode: bool
) -> None:
    picture = sparkline(paces_s, fastest_s, unicode=unicode)
    assert cell_len(picture) in (0, len(paces_s))
    assert unicode or picture.isascii()


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        (RUNNING, False),
        (replace(RUNNING, health="slow"), False),
        (replace(RUNNING, health="stalled"), True),
        (replace(RUNNING, health="gone"), True),
        (replace(RUNNING, private=95, ceiling=100), True),
        (Row("a/b", "failed"), True),
        (Row("a/b", "failed", earlier=True), False),
        (Row("a/b", "interrupted"), True),
        (Row("a/b", "degraded"), False),
        (Row("a/b", "done"), False),
    ],
)
def test_what_wants_a_look_is_marked(row: Row, wanted: bool) -> None:
    assert wants_a_look(row) == wanted


def test_a_name_that_two_jobs_have_is_said_with_its_job() -> None:
    rows = [Row("a/rain", "queued"), Row("b/rain", "queued"), Row("b/snow", "queued")]
    assert labels(rows) == {"a/rain": "a/rain", "b/rain": "b/rain", "b/snow": "snow"}


def test_the_headline_tells_a_running_an_ended_and_a_dead_batch_apart() -> None:
    assert headline(survey_of(), 80) == "batch runs since 05:30, 2 at once, pid 4242"
    assert headline(survey_of(), 35) == "batch runs since 05:30, 2 at once"
    night = replace(BATCH, until_wall=NOW + 1800)
    assert headline(survey_of(batch=night), 50) == "batch runs since 05:30 until 07:00, 2 at once"
    stopping = replace(BATCH, stopping=True)
    assert headline(survey_of(batch=stopping), 40) == "stopping: songs save their state"
    ended = replace(BATCH, started_wall=NOW - 86_400, finished_wall=NOW - 60)
    assert headline(survey_of(alive=False, batch=ended), 80) == "batch ended 06:29, began Tue 06:30"
    heard = replace(RUNNING, heard_wall=NOW - 1800)
    assert (
        headline(survey_of(heard, alive=False), 90)
        == "batch died without a word; the same command goes on, began 05:30, last heard 06:00"
    )
    assert "last heard" not in headline(survey_of(Row("a/b", "left"), alive=False), 90)


@pytest.mark.parametrize(
    ("memory", "words"),
    [
        (Memory(), []),
        (Memory(12 * 10**9, 0), ["12.0 GB of memory free"]),
        (Memory(12 * 10**9, 10**9), ["12.0 GB of memory free", "1.0 GB in swap"]),
        (Memory(4 * 10**8, 10**9), ["MEMORY IS SHORT: 400 MB of memory free", "1.0 GB in swap"]),
    ],
)
def test_the_machine_says_what_memory_is_free_and_when_it_is_short(memory: Memory, words: list[str]) -> None:
    assert machine_words(memory) == words


@pytest.mark.parametrize("width", [25, 40, 60, 80, 120])
def test_a_line_of_the_batch_has_what_matters_most_where_little_fits(width: int) -> None:
    rows = [replace(RUNNING, elapsed_s=60.0), Row("a/2", "failed"), Row("a/4", "queued")]
    line = batch_line(survey_of(*rows), width, unicode=False)
    assert cell_len(line) <= width
    assert "1 of 3 songs" in line
    assert ("about" in line) == (width >= 60)


def test_the_batch_line_says_as_much_as_fits() -> None:
    rows = [Row("a/1", "done"), Row("a/2", "failed"), RUNNING, Row("a/4", "queued")]
    wide = batch_line(survey_of(*rows), 100, unicode=False)
    assert wide == "##########---------- 2 of 4 songs, 1 failed, 1 running, 1 queued, 1 done, 60 min so far"
    over = replace(BATCH, finished_wall=NOW)
    assert batch_line(survey_of(rows[0], alive=False, batch=over), 80, unicode=False).endswith(", in 60 min")
    narrow = batch_line(survey_of(*rows), 40, unicode=False)
    assert narrow == "#####----- 2 of 4 songs, 1 failed"


def test_songs_of_earlier_runs_are_not_counted() -> None:
    rows = [RUNNING, Row("old/1", "done", earlier=True)]
    assert "0 of 1 songs" in batch_line(survey_of(*rows), 80, unicode=False)


def test_advice_is_given_once_for_each_kind_of_trouble() -> None:
    rows = [Row("a/1", "failed"), Row("a/2", "failed"), Row("a/3", "degraded"), Row("a/4", "left")]
    lines = advice(rows)
    assert len(lines) == 3
    assert "runner logs a/1" in lines[0]
    assert "--redo-degraded" in lines[1]
    assert advice([Row("a/1", "done")]) == []


# ---------------------------------------------------------------- lines


def said(before: Row | None, after: Row) -> list[str]:
    previous = None if before is None else survey_of(before)
    return [line.split(" ", 1)[1] for line in plain(previous, survey_of(after))]


QUEUED = Row("night/rain", "queued")
DONE = Row("night/rain", "done", seconds=734.0, file="o/song.wav", attempt=1)


@pytest.mark.parametrize(
    ("before", "after", "lines"),
    [
        (None, QUEUED, ["1 songs: 1 queued"]),
        (None, RUNNING, ["1 songs: 1 running", "night/rain: attempt 1 began"]),
        (QUEUED, QUEUED, []),
        (QUEUED, replace(RUNNING, note="bf16"), ["night/rain: attempt 1 began (bf16)"]),
        (QUEUED, replace(QUEUED, note="waits for memory"), ["night/rain: waits for memory"]),
        (replace(QUEUED, note="waits for memory"), replace(QUEUED, note="waits for memory"), []),
        (
            Row("night/rain", "running", attempt=1, note="waits for memory"),
            Row("night/rain", "running", attempt=2, note="16 steps"),
            ["night/rain: attempt 2 began (16 steps)"],
        ),
        (RUNNING, RUNNING, []),
        (RUNNING, replace(RUNNING, step=6, rss=5), []),
        (RUNNING, replace(RUNNING, step=7), ["night/rain: sampling 7/32, 12 s a step, 6 min left"]),
        (
            RUNNING,
            replace(RUNNING, phase="decode", step=0, steps=16, step_s=None, eta_s=None),
            ["night/rain: decoding 0/16"],
        ),
        (RUNNING, DONE, ["night/rain: done in 12 min: o/song.wav"]),
        (
            RUNNING,
            replace(DONE, state="degraded", note="8 steps instead of 32"),
            ["night/rain: degraded in 12 min: 8 steps instead of 32: o/song.wav"],
        ),
        (
            RUNNING,
            replace(RUNNING, attempt=2, ended=(TIMEOUT,), note="16 steps"),
            [
                "night/rain: attempt 1 ended: timeout: not finished within 40 min",
                "night/rain: attempt 2 began (16 steps)",
            ],
        ),
        (
            RUNNING,
            replace(RUNNING, health="stalled", quiet_s=64.0),
            ["night/rain: stalled 64 s, in phase sample"],
        ),
        (replace(RUNNING, health="stalled"), replace(RUNNING, health="stalled", quiet_s=99.0), []),
    ],
)
def test_a_line_is_said_when_something_changed(before: Row | None, after: Row, lines: list[str]) -> None:
    assert said(before, after) == lines


@pytest.mark.parametrize("steps", [1, 4, 8, 32, 100])
def test_a_song_says_its_steps_at_most_ten_times(steps: int) -> None:
    rows = [replace(RUNNING, step=step, steps=steps) for step in range(steps + 1)]
    lines = [line for before, after in pairwise(rows) for line in said(before, after)]
    assert len(lines) == min(steps, 10)


def test_an_unreadable_file_is_said_once() -> None:
    torn = replace(survey_of(RUNNING), problems=("x: torn",))
    assert [line.split(" ", 1)[1] for line in plain(survey_of(RUNNING), torn)] == ["cannot read x: torn"]
    assert plain(torn, torn) == []
