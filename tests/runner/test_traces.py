"""What is judged of memory that was really taken away: recordings of benchmarks/traces.py, judged again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from folders import REQUEST, add_attempt, write_batch

from benchmarks.traces import Trace, replay, traces
from runner import status, supervise
from runner.files import read_json, write_message
from runner.messages import QueuedSong
from runner.past import read_outcome, recall
from runner.songfolder import Outputs
from runner.verdict import WINDOW_S, GiveUp, Limits, Reading
from tests.faults.batches import job

TRACES = {trace.name: trace for trace in traces()}
THRASH = ["mapped", "mapped-alone", "thrash", "thrash-late"]
HARMLESS = sorted(set(TRACES) - set(THRASH))
LIMITS = Limits(timeout_s=3600)
Readings = tuple[Reading, ...]


def without(*names: str) -> Callable[[Readings], Readings]:
    """As a kernel that does not count these would have told it."""
    return lambda readings: tuple(replace(r, **dict.fromkeys(names, None)) for r in readings)


def late(every_s: float) -> Callable[[Readings], Readings]:
    """As a watcher would have seen it that came no sooner than every so many seconds."""

    def thinned(readings: Readings) -> Readings:
        kept = [readings[0]]
        for reading in readings:
            if reading.mono - kept[-1].mono >= every_s:
                kept.append(reading)
        return tuple(kept)

    return thinned


def reset(*names: str) -> Callable[[Readings], Readings]:
    """These counters begin anew in the middle."""

    def begun_anew(readings: Readings) -> Readings:
        middle = len(readings) // 2
        start = readings[middle]
        anew = [
            replace(r, **{name: getattr(r, name) - getattr(start, name) for name in names})
            for r in readings[middle:]
        ]
        return (*readings[:middle], *anew)

    return begun_anew


def slept(readings: Readings) -> Readings:
    """The machine was suspended for a night in the middle."""
    middle = len(readings) // 2
    return (*readings[:middle], *(replace(r, boot=r.boot + 30_000) for r in readings[middle:]))


def detected_s(trace: Trace, change: Callable[[Readings], Readings]) -> float | None:
    """Charged seconds from the beginning of the trouble to the kill."""
    kill, watch = replay(change(trace.readings), LIMITS)
    if kill is None:
        return None
    assert kill.cause == "swap-thrash"
    assert "major faults/s of its own" in kill.message
    return watch.charged_s - trace.trouble_s


@pytest.mark.parametrize("name", THRASH)
def test_a_child_that_really_thrashes_is_killed_for_it_soon(name: str) -> None:
    found_s = detected_s(TRACES[name], lambda readings: readings)
    assert found_s is not None
    assert found_s < 30


@pytest.mark.parametrize("name", HARMLESS)
@pytest.mark.parametrize(
    "change",
    [
        lambda readings: readings,
        without("stalled_s"),
        without("swapped_in", "refaulted"),
        without("swapped_in", "refaulted", "stalled_s", "user_s"),
        late(4.0),
        late(9.0),
        reset("swapped_in", "refaulted", "stalled_s"),
        slept,
    ],
)
def test_a_child_that_goes_on_beside_or_in_spite_of_it_is_left_alone(
    name: str, change: Callable[[Readings], Readings]
) -> None:
    assert replay(change(TRACES[name].readings), LIMITS)[0] is None


@pytest.mark.parametrize("name", THRASH)
@pytest.mark.parametrize(
    ("change", "later_s"),
    [
        (without("stalled_s"), 0),
        (without("user_s"), 0),
        (late(4.0), 10),
        (late(9.0), 15),
        (reset("swapped_in", "refaulted", "stalled_s"), 25),
    ],
)
def test_a_thrash_is_seen_without_psi_by_a_late_watcher_and_past_a_reset(
    name: str, change: Callable[[Readings], Readings], later_s: float
) -> None:
    found_s = detected_s(TRACES[name], change)
    assert found_s is not None
    assert found_s < 30 + later_s


@pytest.mark.parametrize("name", ["thrash", "thrash-late"])
def test_a_thrash_of_private_memory_is_seen_where_the_kernel_counts_nothing(name: str) -> None:
    assert detected_s(TRACES[name], without("swapped_in", "refaulted", "stalled_s")) is not None


@pytest.mark.parametrize("name", THRASH)
def test_a_night_asleep_in_the_middle_of_a_thrash_is_not_charged_and_the_thrash_is_seen_after_it(
    name: str,
) -> None:
    kill, watch = replay(slept(TRACES[name].readings), LIMITS)
    assert kill is not None
    assert kill.cause == "swap-thrash"
    assert watch.slept_s == pytest.approx(30_000)
    awake_s = TRACES[name].readings[len(TRACES[name].readings) // 2].mono
    assert awake_s + LIMITS.thrash_s <= watch.charged_s + 1 < awake_s + LIMITS.thrash_s + 10


@pytest.mark.parametrize("name", THRASH)
def test_the_last_minute_before_the_kill_is_kept_where_people_look(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kill, watch = replay(TRACES[name].readings, LIMITS)
    assert kill is not None
    folder = Outputs(tmp_path).song("night/song")
    attempt = add_attempt(folder)
    request = replace(REQUEST, song=folder.id)
    outcome = supervise._judge_end(
        attempt, request, watch, LIMITS, kill, -15, None, watch.charged_s, [], None
    )
    write_message(attempt.outcome, outcome)
    assert read_outcome(attempt) == outcome
    assert_readable(outcome.evidence, watch.charged_s)

    past = recall(folder, REQUEST.fingerprint)
    supervise._fail(
        job("", fingerprint="f"), folder, past, GiveUp(kill.cause, kill.message), supervise.House(mark="")
    )
    assert read_json(folder.failure)["attempts"][0]["evidence"] == outcome.evidence
    write_batch(folder.outputs, [QueuedSong(folder.id, "failed")], finished=True)
    assert status.show(folder.outputs, song=folder.id) == 0
    assert "swap thrash: no progress for" in capsys.readouterr().out


def assert_readable(evidence: list[dict[str, Any]], charged_s: float) -> None:
    """One sample a second, up to the one that decided; the rates that the kill names can be had from them."""
    times = [sample["at"] for sample in evidence]
    assert times[-1] == pytest.approx(charged_s, abs=0.01)
    assert times == sorted(times)
    assert times[0] >= charged_s - WINDOW_S - 2
    assert len(times) >= min(charged_s, WINDOW_S) / 2
    first, last = evidence[-10], evidence[-1]
    assert last["major_faults"] - first["major_faults"] > 20 * (last["at"] - first["at"])
    read = [last[name] - first[name] for name in ("swapped_in", "refaulted")]
    assert max(read) > (last["at"] - first["at"]) * 2**20
