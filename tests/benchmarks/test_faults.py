"""A short night of faults ends without loss, and the judge of it can say that one has not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import faults, strikes, toll
from benchmarks.strikes import KINDS, Planned, Strike
from benchmarks.toll import Found, Sample, Seen, Tried
from runner.messages import Cause

# All that take no longer than a stall.
SHORT = ("hang", "freeze", "garbage", "lie", "exit", "silent", "segv", "numbers", "no-memory", "glutton")
SHORT += ("brood", "daemon", "hopeless", "spent", "child-kill", "child-stop", "stop-file", "beat-torn")
SHORT += ("litter", "parent-kill", "parent-int")


@pytest.mark.slow
def test_a_short_night_of_faults_loses_nothing_leaves_nothing_and_kills_nobody_falsely(
    tmp_path: Path,
) -> None:
    planned = strikes.plan(40, rate=0.55, seed=3, kinds=SHORT)
    found = faults.night(planned, tmp_path, workers=6)
    assert found.problems == []
    assert (found.songs, found.by_kind["none"].planned) == (40, 18)
    assert sum(row.injected > 0 for row in found.by_kind.values()) >= 12
    report = faults.report(found, 1.0, {})
    counts = ("lost", "orphans", "false_kills", "wrong", "torn", "leftovers", "leaks")
    assert {name: report[name] for name in counts} == dict.fromkeys(counts, 0)
    assert report["by_kind"]["exit"]["detection_median_s"] > 0
    assert "| exit | 1 | 1 | 1 | 0 | 0 |" in faults.words(found, 1.0)


# ---------------------------------------------------------------- which song gets which


def test_the_same_seed_plans_the_same_night() -> None:
    assert strikes.plan(100, rate=0.4, seed=7) == strikes.plan(100, rate=0.4, seed=7)
    assert strikes.plan(100, rate=0.4, seed=7) != strikes.plan(100, rate=0.4, seed=8)


def test_as_many_songs_as_asked_get_a_fault_and_every_kind_its_turn() -> None:
    planned = strikes.plan(200, rate=0.8, seed=1, real=3)
    kinds = [song.kind for song in planned if not song.real]
    assert len(planned) == 203
    assert len(kinds) - kinds.count(None) == 160
    assert set(kinds) == {*KINDS, None}
    assert max(kinds.count(kind) for kind in KINDS) - kinds.count("hang") <= 1


def test_what_ends_the_parent_strikes_in_the_first_half() -> None:
    kinds = [song.kind for song in strikes.plan(200, rate=0.8, seed=1)]
    assert "parent-kill" in kinds[:100]
    assert not {"parent-kill", "parent-term"} & set(kinds[100:])
    assert "daemon" not in kinds[:100]


# ---------------------------------------------------------------- the judge


def tried(
    cause: Cause | None, attempt: int = 1, *, began: float = 100.0, ended: float | None = 105.0
) -> Tried:
    return Tried(attempt, began, ended, cause)


def done(*tries: Tried) -> Found:
    return Found("night/song", "done", True, tries or (tried(None),))


def problems(
    found: Found | None,
    *struck: Strike,
    kind: str | None = None,
    real: bool = False,
    seen: Seen | None = None,
) -> list[str]:
    song = Planned("song", kind, real=real)
    return toll.judge([song], struck, [found] if found else [], seen or Seen()).problems


def strike(kind: str, attempt: int = 1, *, song: str = "night/song", took_s: float | None = None) -> Strike:
    return Strike(kind, song, attempt, 102.0, took_s)


def test_a_song_that_was_left_alone_and_is_done_is_no_problem() -> None:
    assert problems(done()) == []


@pytest.mark.parametrize(
    "found",
    [None, replace(done(), state=None), replace(done(), whole=False)],
    ids=["no folder", "no final state", "a damaged sound"],
)
def test_a_lost_song_is_reported(found: Found | None) -> None:
    (line,) = problems(found)
    assert "lost" in line


def test_an_orphan_a_torn_file_and_a_leftover_are_reported() -> None:
    seen = Seen(orphans=[12], torn=["song.wav"], leftovers=[".x.tmp"], odd=["the parent hangs"])
    assert len(problems(done(), seen=seen)) == 4


def test_a_kill_without_a_strike_is_a_false_one() -> None:
    found = replace(done(tried("stalled"), tried(None, 2)), state="degraded")
    judged = toll.judge([Planned("song")], [], [found], Seen())
    assert (judged.false_kills, judged.by_kind["none"].false_kills) == (1, 1)
    assert not judged.clean


def test_a_kill_of_another_attempt_than_the_struck_one_is_a_false_one() -> None:
    found = replace(done(tried("stalled"), tried(None, 2)), state="degraded")
    assert problems(found, strike("hang", 1), kind="hang") == []
    assert len(problems(found, strike("litter", 1), kind="litter")) == 1
    assert len(problems(found, strike("hang", 2), kind="hang")) == 2  # nor was the second seen to hang


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        ("hang", done()),  # made by a child that hung
        ("hang", done(tried("stalled"), tried(None, 2))),  # done with fewer steps than asked
        ("exit", replace(done(tried("crash"), tried(None, 2)), state="degraded")),  # charged too much
        ("hopeless", done(tried("crash"), tried(None, 2))),
        ("stop-file", done(tried("crash"), tried(None, 2))),
    ],
)
def test_an_end_that_the_strike_does_not_explain_is_wrong(kind: str, found: Found) -> None:
    (line,) = problems(found, strike(kind), kind=kind)
    assert "night/song" in line


def test_an_attempt_is_lost_with_a_parent_that_was_killed_in_its_time_and_not_otherwise() -> None:
    lost = done(tried("lost", ended=None), tried(None, 2))
    killed = strike("parent-kill", song="night/other", took_s=0.1)
    assert problems(lost, killed) == []
    assert len(problems(lost)) == 1
    assert len(problems(lost, replace(killed, wall=90.0))) == 1
    assert len(problems(lost, replace(killed, kind="parent-stop"))) == 1


def test_a_real_song_that_sounds_different_is_reported() -> None:
    seen = Seen(reference="a" * 64)
    assert problems(replace(done(), sound="a" * 64), real=True, seen=seen) == []
    assert len(problems(replace(done(), sound="b" * 64), real=True, seen=seen)) == 1


def test_a_parent_that_grows_leaks() -> None:
    steady = [Sample(1, 8, 40 << 20) for _ in range(100)]
    fds = [replace(each, fds=8 + number // 10) for number, each in enumerate(steady)]
    bytes_ = [replace(each, rss=each.rss + (number << 20)) for number, each in enumerate(steady)]
    assert problems(done(), seen=Seen(samples=steady)) == []
    assert len(problems(done(), seen=Seen(samples=fds))) == 1
    assert len(problems(done(), seen=Seen(samples=bytes_))) == 1
    assert toll.grown(steady[:5]) is None


def test_detection_is_from_the_strike_to_the_proven_end() -> None:
    found = replace(done(tried("stalled"), tried(None, 2)), state="degraded")
    judged = toll.judge([Planned("song", "hang")], [strike("hang")], [found], Seen())
    assert judged.by_kind["hang"].detection_s == [3.0]
    assert "| hang | 1 | 1 | 0 | 1 | 0 | 3.00 | 3.00 | 0 |" in toll.table(judged)
