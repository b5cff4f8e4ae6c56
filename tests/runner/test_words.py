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
from runner.status import Ending, Row, Survey
from runner.words import (
    advice,
    bar,
    batch_line,
    clip,
    headline,
    labels,
    memory_words,
    plain,
    remark,
    shown,
    span,
    state_words,
    time_words,
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
        (Row("a/b", "running", attempt=2, ended=(TIMEOUT,)), "starting", ""),
        (Row("a/b", "running", attempt=1, ended=(TIMEOUT,)), "waiting", ""),
        (Row("a/b", "done", seconds=734.0), "done", "12 min"),
        (Row("a/b", "queued"), "queued", ""),
    ],
)
def test_a_row_says_what_it_does_and_how_it_is(row: Row, state: str, now: str) -> None:
    assert (state_words(row), time_words(row)) == (state, now)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (replace(RUNNING, note="bf16 on 2 threads"), "bf16 on 2 threads"),
        (
            replace(RUNNING, ended=(TIMEOUT,), why=TIMEOUT.message, note="x"),
            "timeout: not finished within 40 min",
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


def test_memory_in_swap_is_told_apart() -> None:
    row = replace(RUNNING, rss=3 * 2**30, swap=2**29)
    assert memory_words(row) == "3.0+0.5 GB"
    assert memory_words(replace(row, swap=4096)) == "3.0 GB"
    assert memory_words(replace(row, rss=None)) == ""


def test_a_name_that_two_jobs_have_is_said_with_its_job() -> None:
    rows = [Row("a/rain", "queued"), Row("b/rain", "queued"), Row("b/snow", "queued")]
    assert labels(rows) == {"a/rain": "a/rain", "b/rain": "b/rain", "b/snow": "snow"}


def test_the_headline_tells_a_running_an_ended_and_a_dead_batch_apart() -> None:
    assert headline(survey_of()) == "batch runs since 05:30 (pid 4242), 2 at once"
    night = replace(BATCH, until_wall=NOW + 1800)
    assert headline(survey_of(batch=night)) == "batch runs since 05:30 until 07:00 (pid 4242), 2 at once"
    ended = replace(BATCH, started_wall=NOW - 86_400, finished_wall=NOW - 60)
    assert headline(survey_of(alive=False, batch=ended)) == "batch ended 06:29, began Tue 06:30"
    heard = replace(RUNNING, heard_wall=NOW - 1800)
    assert (
        headline(survey_of(heard, alive=False))
        == "batch died without a word, began 05:30, last heard 06:00; the same command goes on"
    )
    assert "last heard" not in headline(survey_of(Row("a/b", "left"), alive=False))


def test_the_batch_line_says_as_much_as_fits() -> None:
    rows = [Row("a/1", "done"), Row("a/2", "failed"), RUNNING, Row("a/4", "queued")]
    wide = batch_line(survey_of(*rows), 100, unicode=False)
    assert wide == "##########---------- 2 of 4 songs, 60 min, 1 failed, 1 running, 1 queued, 1 done"
    narrow = batch_line(survey_of(*rows), 52, unicode=False)
    assert narrow == "##########---------- 2 of 4 songs, 60 min, 1 failed"


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
