from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from runner.forecast import Forecast
from runner.messages import QueuedSong
from runner.night import Place, Plan, Song, plan
from runner.outlook import Outlook, as_json, closing, lines, table, unfitting

# 23:00 of a Thursday, and 07:00.
ELEVEN, SEVEN = 1795734000.0, 1795762800.0


@pytest.fixture(autouse=True)
def _utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC0")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def song(name: str, hours: float, *, by: int = 3, asked: int = 12, begun: bool = False) -> Song:
    forecast = Forecast(hours * 300.0, 0.0, by=by, margin=0.15 if by else 0.3)
    return Song(f"night/{name}", forecast, 12, 6, asked=asked, begun=begun)


def outlook(*songs: Song, made: int = 0, until: float | None = SEVEN) -> Outlook:
    left_s = None if until is None else until - ELEVEN
    return Outlook(plan(songs, [0.0], left_s), made, 1, ELEVEN, until)


def test_a_night_in_which_all_fits_is_said_in_two_lines() -> None:
    assert lines(outlook(song("rain", 1), song("snow", 2))) == [
        "until Fri 07:00, in 8 h 00: 2 of 2 songs, the last at Fri 02:00",
        "foreseen by 3 songs made here: may take 15 % longer",
    ]


def test_what_will_be_there_thinned_tight_begun_and_left_is_said_by_name() -> None:
    songs = [song("a", 1), song("b", 2), song("c", 7), song("d", 30), song("e", 31), song("f", 32)]
    assert lines(outlook(*songs, made=4)) == [
        "until Fri 07:00, in 8 h 00: 3 of 6 songs, the last at Fri 06:40, 4 there already",
        "with fewer steps: 1: c (8 of 12)",
        "only if nothing takes longer than foreseen: 1: c",
        "left for the next batch: 3: d (needs 30 h 00), e (needs 31 h 00), f (needs 32 h 00)",
        "foreseen by 3 songs made here: may take 15 % longer",
    ]


def test_of_many_only_the_first_few_are_named() -> None:
    assert lines(outlook(*(song(f"s{n}", 100) for n in range(9))))[1] == (
        "left for the next batch: 9: s0 (needs 100 h 00), s1 (needs 100 h 00), s2 (needs 100 h 00), "
        "s3 (needs 100 h 00) and 5 more"
    )


def test_what_only_begins_is_not_counted_as_there() -> None:
    said = lines(outlook(song("long", 20)))
    assert said[:2] == [
        "until Fri 07:00, in 8 h 00: 0 of 1 songs",
        "begun, and gone on with by the next batch: 1: long",
    ]


@pytest.mark.parametrize(
    ("by", "words"),
    [
        (
            [0, 0],
            "by this machine's profile: may take 30 % longer; better known once a song is made",
        ),
        ([1, 1], "by 1 song made here: may take 15 % longer"),
        ([5, 0], "by 5 songs made here, 1 of 2 by this machine's profile alone: may take 30 % longer"),
    ],
)
def test_it_says_what_it_stands_on(by: list[int], words: str) -> None:
    said = lines(outlook(*(song(str(n), 1, by=count) for n, count in enumerate(by))))
    assert said[-1] == f"foreseen {words}"


def test_a_night_with_nothing_to_make_says_that_alone() -> None:
    assert lines(outlook(made=3)) == table(outlook(made=3)) == ["nothing to make, 3 there already"]


def test_without_an_end_it_says_when_all_is_made() -> None:
    assert lines(outlook(song("rain", 1), song("snow", 2), until=None))[0] == (
        "2 of 2 songs, the last at Fri 02:00"
    )


def test_the_table_says_of_each_song_when_and_how_it_is_made_or_why_not() -> None:
    songs = [song("a", 1), song("b", 2, begun=True), song("c", 5.5), song("d", 30), song("e", 31)]
    assert table(outlook(*songs))[:6] == [
        "song     begins     ends       takes    steps",
        "night/b  23:00      Fri 01:00  2 h 00   12        goes on",
        "night/a  Fri 01:00  Fri 02:00  60 min   12",
        "night/c  Fri 02:00  Fri 06:35  4 h 35   10 of 12  fewer steps, so that more songs end in time; "
        "tight",
        "night/d                        30 h 00  12        left: 25 min at most would remain for it",
        "night/e                        31 h 00  12        left: 25 min at most would remain for it",
    ]


def test_a_song_that_only_begins_says_who_goes_on() -> None:
    row = table(outlook(song("a", 20)))[1]
    assert row == "night/a  23:00   Fri 07:00  20 h 00  12     will not end; the next batch goes on"


def test_steps_lost_to_a_songs_own_timeout_are_not_the_nights() -> None:
    (row,) = table(outlook(song("a", 1, asked=24)))[1:2]
    assert row.endswith("12 of 24  fewer steps, within its own timeout")


def test_json_has_every_key_of_every_song_and_no_number_that_is_none() -> None:
    endless = Song("night/odd", Forecast(float("inf"), 1.0), 12, 12, asked=12)
    songs = [song("a", 1), song("b", 30), song("c", 31), endless]
    content = json.loads(json.dumps(as_json(outlook(*songs, made=2)), allow_nan=False))
    assert (content["schema"], content["until_wall"], content["made"]) == (1, SEVEN, 2)
    assert [each["state"] for each in content["songs"]] == ["planned", "begun", "left", "left"]
    first = content["songs"][0]
    assert (first["start_wall"], first["end_wall"], first["seconds"]) == (ELEVEN, ELEVEN + 3600, 3600)
    assert (first["measured_by"], first["margin"], first["steps"], first["asked"]) == (3, 0.15, 12, 12)
    assert len({tuple(each) for each in content["songs"]}) == 1
    assert content["songs"][-1]["seconds"] is None


def test_times_that_no_clock_shows_are_no_end_of_the_plan() -> None:
    beyond = Place(song("a", 1), 0, 0.0, 1e30, 12)
    assert "?" in lines(Outlook(Plan((beyond,)), 0, 1, ELEVEN))[0]


@pytest.mark.parametrize(
    ("states", "said"),
    [
        (["done", "degraded", "failed"], []),
        (["done", "left", "left"], ["not done by 07:00: 2 left"]),
        (["interrupted", "left"], ["not done by 07:00: 1 interrupted, 1 left"]),
    ],
)
def test_the_end_says_what_was_not_done(states: list, said: list[str]) -> None:
    assert closing([QueuedSong("a", state) for state in states], SEVEN) == said


def test_a_song_that_was_left_says_what_it_would_have_needed() -> None:
    assert unfitting(song("a", 2), SEVEN) == "needs 2 h 00; too little time was left until 07:00"
    assert unfitting(song("a", 0), SEVEN) == "too little time was left until 07:00"
