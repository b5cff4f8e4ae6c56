"""The night's log: what is written of surveys, how it is read again, and what cannot harm the night."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from folders import outputs_in
from hypothesis import given
from hypothesis import strategies as st

from runner import journal
from runner.journal import LEVELS, LOG_BYTES, OLDER, Entry, Journal, append, line, parse, read, rotate
from runner.messages import Batch
from runner.songfolder import Outputs
from runner.status import Ending, Row, Survey
from runner.words import Change

BATCH = Batch(4242, 1, "b", 1.7e9, None, 2, [])
ROW = Row("my night/rain", "running", health="healthy", phase="sample", step=4, steps=32, attempt=1)
TIMEOUT = Ending(1, "timeout", "not finished within 40 min")
NEWS = Change("info", "", "news")


def survey_of(*rows: Row) -> Survey:
    return Survey(BATCH, True, rows, (), 1.7e9)


@pytest.fixture
def outputs(tmp_path: Path) -> Outputs:
    return outputs_in(tmp_path)


def told(outputs: Outputs) -> list[tuple[str, str, str]]:
    return [(each.level, each.song, each.text) for each in read(outputs)[0]]


def test_a_night_is_told_once_as_it_happens_each_thing_at_its_level(outputs: Outputs) -> None:
    diary = Journal(outputs)
    failed = replace(ROW, state="failed", phase=None, ended=(TIMEOUT,), why="all in vain", seconds=9.0)
    for row in (ROW, ROW, replace(ROW, step=17), failed, failed):
        diary.tell(survey_of(row))
    assert diary.problem == ""
    assert told(outputs) == [
        ("info", "", "batch began (pid 4242), 2 at once"),
        ("info", "", "1 songs: 1 running"),
        ("info", "my night/rain", "attempt 1 began"),
        ("debug", "my night/rain", "sampling 17/32"),
        ("warning", "my night/rain", "attempt 1 ended: timeout: not finished within 40 min"),
        ("error", "my night/rain", "failed in 9.0 s: all in vain"),
    ]


def test_a_night_with_an_end_says_when_that_is(outputs: Outputs) -> None:
    batch = replace(BATCH, until_wall=BATCH.started_wall + 60)
    Journal(outputs).tell(replace(survey_of(), batch=batch))
    assert told(outputs)[0][2].startswith("batch began (pid 4242), 2 at once, until ")


@given(
    st.sampled_from(LEVELS),
    st.sampled_from(["", "night/rain", "my: night]/rain.2", "[x]/y"]),
    st.text().filter(lambda text: not text.startswith("[")),
)
def test_what_is_written_on_one_line_is_read_again_whatever_it_says(
    level: journal.Level, song: str, text: str
) -> None:
    entry = journal.entry_of(Change(level, song, text))
    written = line(entry)
    assert written.isprintable()
    assert parse([written]) == [entry]


def test_lines_of_nobody_go_with_the_line_before_them(outputs: Outputs) -> None:
    Journal(outputs).note(Change("error", "", "a defect"), trace="Traceback:\n  Some error here\n")
    Journal(outputs).note(NEWS)
    assert told(outputs) == [
        ("error", "", "a defect\nTraceback:\n  Some error here"),
        ("info", "", "news"),
    ]
    assert parse(["stray", "lines"]) == [Entry("", "error", "", "stray\nlines")]


def test_the_newest_night_begins_with_its_batch() -> None:
    told = [("", "batch began (1)"), ("a/b", "batch began"), ("", "batch began (2)"), ("", "end")]
    entries = [Entry("", "info", song, text) for song, text in told]
    assert journal.newest_night(entries) == entries[2:]
    assert journal.newest_night(entries[3:]) == entries[3:]


@pytest.mark.parametrize(("level", "kept"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_a_level_lets_worse_ones_through(level: journal.Level, kept: int) -> None:
    entries = [Entry("", each, "", "") for each in LEVELS]
    assert len(list(journal.chosen(entries, level))) == kept


# ---------------------------------------------------------------- growth


def test_a_log_that_has_grown_too_large_is_set_aside_and_only_so_many_are_kept(outputs: Outputs) -> None:
    for number in range(OLDER + 3):
        outputs.log.write_text(f"{number}\n" + "x" * LOG_BYTES)
        append(outputs.log, "news\n")
        assert outputs.log.read_text() == "news\n"
    older = sorted(path.name for path in outputs.folder.iterdir() if path != outputs.log)
    assert older == [f"runner.log.{number + 1}" for number in range(OLDER)]
    first = outputs.log.with_name("runner.log.1")
    assert first.read_text().startswith(f"{OLDER + 2}\n")


def test_who_has_a_log_open_goes_on_in_the_emptied_one(outputs: Outputs) -> None:
    with outputs.cron_log.open("a") as shell:
        shell.write("x" * (LOG_BYTES + 1))
        shell.flush()
        rotate(outputs.cron_log)
        shell.write("the summary\n")
    assert outputs.cron_log.read_text() == "the summary\n"


def test_a_batch_sets_crons_log_aside_when_it_begins(outputs: Outputs) -> None:
    outputs.cron_log.write_text("x" * (LOG_BYTES + 1))
    Journal(outputs).tell(survey_of(ROW))
    assert outputs.cron_log.read_text() == ""


def test_of_a_log_that_ran_wild_the_end_is_kept(outputs: Outputs) -> None:
    with outputs.log.open("wb") as file:
        file.truncate(2**40)
        file.seek(2**40)
        file.write(b"the end\n")
    rotate(outputs.log)
    kept = outputs.log.with_name("runner.log.1").read_bytes()
    assert len(kept) == 2 * LOG_BYTES
    assert kept.endswith(b"the end\n")


def test_a_night_is_read_over_the_edge_of_a_log_set_aside(outputs: Outputs) -> None:
    Journal(outputs).note(Change("info", "", "batch began"))
    outputs.log.replace(outputs.log.with_name("runner.log.1"))
    Journal(outputs).note(NEWS)
    assert [text for _, _, text in told(outputs)] == ["batch began", "news"]


def test_a_reader_gets_whole_lines_and_begins_anew_in_an_emptied_log(outputs: Outputs) -> None:
    outputs.log.write_text("one\ntw")
    lines, position = journal.read_on(outputs.log, 0)
    assert lines == ["one"]
    outputs.log.write_text("one\ntwo\n")
    lines, position = journal.read_on(outputs.log, position)
    assert (lines, position) == (["two"], 8)
    outputs.log.write_text("new\n")
    assert journal.read_on(outputs.log, position) == (["new"], 4)


# ---------------------------------------------------------------- trouble


def test_a_pipe_in_place_of_the_log_holds_nobody_up(outputs: Outputs) -> None:
    os.mkfifo(outputs.log)
    diary, threads = Journal(outputs), threading.active_count()
    diary.note(NEWS)
    assert "lines of this night's log are missing" in diary.problem
    with os.fdopen(os.open(outputs.log, os.O_RDONLY | os.O_NONBLOCK), "rb") as reader:
        diary.note(NEWS)
        assert reader.read() in (b"", None)
    assert "is no ordinary file; remove it" in diary.problem
    assert threading.active_count() <= threads


def test_a_link_in_place_of_a_log_leads_nowhere(outputs: Outputs, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("mine" * LOG_BYTES)
    for log in (outputs.log, outputs.cron_log):
        log.symlink_to(elsewhere)
    diary = Journal(outputs)
    diary.tell(survey_of(ROW))
    assert diary.problem.startswith(f"{outputs.log}: ")
    assert elsewhere.stat().st_size == 4 * LOG_BYTES
    assert sorted(path.name for path in outputs.folder.iterdir()) == ["cron.log", "runner.log"]


def test_a_log_that_others_have_written_obeys_no_terminal() -> None:
    (entry,) = parse(["2026-03-04T23:\x1b[2J warning [a\x1b[2J/b] text\x1b[2J"])
    assert line(entry).isprintable()


def test_a_full_disk_costs_lines_and_says_so(small_disk: Path) -> None:
    outputs = outputs_in(small_disk)
    diary = Journal(outputs)
    with pytest.raises(OSError, match="No space"):
        (small_disk / "filler").write_bytes(b"x" * 2**20)
    diary.note(NEWS)
    assert diary.problem == (f"{outputs.log}: No space left on device: lines of this night's log are missing")
    (small_disk / "filler").unlink()
    diary.note(NEWS)
    assert told(outputs)[-1] == ("info", "", "news")


def test_outputs_that_are_gone_are_not_made_again_for_their_log(tmp_path: Path) -> None:
    diary = Journal(Outputs(tmp_path / "gone"))
    diary.note(NEWS)
    assert diary.problem == ""
    assert list(tmp_path.iterdir()) == []
