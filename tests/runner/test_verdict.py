from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.messages import FREE_CAUSES, MEMORY_CAUSES, Cause, Heartbeat, Outcome
from runner.verdict import (
    ARITHMETIC,
    LATE_TICK_S,
    MIN_DENSITY,
    PHASE_STALL_S,
    WINDOW_S,
    End,
    GiveUp,
    Held,
    Limits,
    Plan,
    Reading,
    Watch,
    classify,
    floor,
    for_songs,
    heard,
    judge,
    next_attempt,
    observe,
)

MIB = 1 << 20
GIB = 1 << 30


def beat(step: int = 0, *, step_s: float | None = None, phase: str = "sample", at: float = 0.0) -> Heartbeat:
    return Heartbeat(
        seq=step,
        song="night/song",
        attempt=1,
        pid=1,
        pid_started=1,
        boot_id="boot",
        phase=phase,  # type: ignore[arg-type]
        step=step,
        steps=32,
        density=32,
        passes=2 * step,
        t=step / 32,
        wall=0.0,
        progress_mono=at,
        alive_mono=at,
        cpu_s=0.0,
        step_s=step_s,
        eta_s=None,
        rss=0,
        swap=0,
        major_faults=0,
        latent_std=1.0,
        note="",
    )


def watched(readings: Iterable[Reading]) -> Watch:
    watch = Watch()
    for reading in readings:
        watch = observe(watch, reading)
    return watch


def ticks(
    seconds: float,
    *,
    every: float = 1.0,
    start: float = 0.0,
    heartbeat: Heartbeat | None = None,
    cpu: float = 0.0,
    user: float | None = None,
    faults: float = 0.0,
    swap: int = 0,
    swap_in: float | None = 0.0,
    refault: float | None = None,
    grown: float = 0.0,
    stalled: float | None = 0.0,
) -> list[Reading]:
    """Readings of one constant kind; cpu, user, faults, swap_in, refault, grown, stalled: per second."""
    count = int(seconds / every) + 1
    times = [start + i * every for i in range(count)]
    return [
        Reading(
            mono=at,
            boot=at,
            beat=heartbeat,
            cpu_s=at * cpu,
            user_s=None if user is None else at * user,
            anon=100 * MIB,
            rss=100 * MIB + int(at * grown),
            swap=swap,
            major_faults=int(at * faults),
            swapped_in=None if swap_in is None else int(at * swap_in),
            refaulted=None if refault is None else int(at * refault),
            stalled_s=None if stalled is None else at * stalled,
            available=8000 * MIB,
        )
        for at in times
    ]


def cause_of(watch: Watch, limits: Limits) -> Cause | None:
    kill = judge(watch, limits)
    return kill.cause if kill else None


HOUR = Limits(timeout_s=3600)


# ---------------------------------------------------------------- time


def test_an_attempt_ends_when_its_time_is_over_and_not_before() -> None:
    moving = [replace(r, beat=beat(i, step_s=1.0, at=i)) for i, r in enumerate(ticks(101))]
    assert cause_of(watched(moving[:100]), Limits(timeout_s=100)) is None
    assert cause_of(watched(moving), Limits(timeout_s=100)) == "timeout"


def test_a_suspended_machine_costs_the_child_nothing() -> None:
    before = ticks(10, heartbeat=beat(3, step_s=1.0))
    # 17 h 35 min of suspend: CLOCK_BOOTTIME ran, CLOCK_MONOTONIC did not.
    after = [replace(r, boot=r.boot + 63_297) for r in ticks(2, start=11, heartbeat=beat(3, step_s=1.0))]
    watch = watched([*before, *after])
    assert watch.slept_s == pytest.approx(63_297)
    assert watch.charged_s == pytest.approx(13)
    assert cause_of(watch, Limits(timeout_s=100, stall_s=12)) is None


def test_a_watcher_that_was_frozen_does_not_charge_the_gap_either() -> None:
    watch = watched([*ticks(10), *ticks(1, start=5000)])
    assert watch.charged_s == pytest.approx(10 + LATE_TICK_S + 1)
    assert cause_of(watch, Limits(timeout_s=100)) is None


def test_after_a_sleep_the_child_has_a_fresh_allowance_before_it_counts_as_stalled() -> None:
    still, limits = beat(3, step_s=1.0), Limits(timeout_s=9000, stall_s=60)
    asleep = [*ticks(50, heartbeat=still), *ticks(20, start=5000, heartbeat=still)]
    assert cause_of(watched(asleep), limits) is None
    assert cause_of(watched([*asleep, *ticks(60, start=5021, heartbeat=still)]), limits) == "stalled"


@pytest.mark.parametrize("gap_s", [6, 9, 11, 5000])
def test_a_watcher_that_was_frozen_for_longer_than_a_short_stall_kills_nobody_for_it(gap_s: float) -> None:
    moving = ticks(5, heartbeat=beat(3, step_s=0.1))
    woken = ticks(0, start=5 + gap_s, heartbeat=beat(3, step_s=0.1))
    assert cause_of(watched([*moving, *woken]), Limits(timeout_s=9000, stall_s=3)) is None


def test_a_watcher_that_is_late_because_the_machine_thrashes_charges_the_child_and_sees_it() -> None:
    for every in (1.0, 4.0, 11.0, 30.0):
        assert cause_of(watched(thrash(120, every=every)), Limits(timeout_s=3600)) == "swap-thrash", every
    assert watched(thrash(600, every=15.0)).charged_s == pytest.approx(600)


def test_a_machine_that_was_paused_by_its_host_in_the_middle_of_a_thrash_is_not_charged_the_pause() -> None:
    paused = [replace(r, stalled_s=(r.stalled_s or 0.0) + 28_000) for r in thrash(1, start=28_010)]
    watch = watched([*thrash(10), *paused])
    assert watch.charged_s <= 10 + WINDOW_S + 1
    assert cause_of(watch, Limits(timeout_s=100)) is None


def test_a_clock_that_jumps_backwards_charges_nothing() -> None:
    watch = watched([*ticks(10, start=1000), *ticks(10, start=5)])
    assert watch.charged_s == pytest.approx(20)


# ---------------------------------------------------------------- stalls


@pytest.mark.parametrize("phase", PHASE_STALL_S)
def test_each_phase_has_its_own_patience(phase: str) -> None:
    patience = PHASE_STALL_S[phase]  # type: ignore[index]
    still = beat(0, phase=phase)
    assert cause_of(watched(ticks(patience - 1, heartbeat=still)), HOUR) is None
    assert cause_of(watched(ticks(patience + 1, heartbeat=still)), HOUR) == "stalled"


def test_a_child_without_any_beat_is_stalled_like_one_that_loads() -> None:
    assert cause_of(watched(ticks(PHASE_STALL_S["load"] - 1)), HOUR) is None
    assert cause_of(watched(ticks(PHASE_STALL_S["load"] + 1)), HOUR) == "stalled"


def test_a_stall_that_was_set_for_steps_leaves_the_other_phases_their_patience() -> None:
    loading = beat(0, phase="load")
    limits = Limits(timeout_s=3600, stall_s=1)
    assert cause_of(watched(ticks(PHASE_STALL_S["load"] - 1, heartbeat=loading)), limits) is None
    assert cause_of(watched(ticks(500, heartbeat=loading)), Limits(timeout_s=3600, stall_s=900)) is None


def test_hung_and_slow_get_different_patience_and_words() -> None:
    limits = Limits(timeout_s=3600, stall_s=10)
    still = beat(5, step_s=1.0)
    hung = judge(watched(ticks(11, heartbeat=still)), limits)
    assert hung is not None
    assert hung.message.startswith("hung: no CPU used")
    assert judge(watched(ticks(29, heartbeat=still, cpu=1.0)), limits) is None
    slow = judge(watched(ticks(31, heartbeat=still, cpu=1.0)), limits)
    assert slow is not None
    assert slow.message.startswith("still computing")


def test_a_song_of_slow_steps_is_given_five_of_them() -> None:
    limits = Limits(timeout_s=36_000, stall_s=10)
    still = beat(5, step_s=60.0)
    assert cause_of(watched(ticks(299, heartbeat=still)), limits) is None
    assert cause_of(watched(ticks(301, heartbeat=still)), limits) == "stalled"


def test_any_progress_counts_a_step_a_phase_or_a_chunk() -> None:
    first = ticks(9, heartbeat=beat(1))
    for moved in (beat(2), beat(1, phase="decode"), beat(1, at=9.5)):
        watch = watched([*first, *ticks(9, start=10, heartbeat=moved)])
        assert cause_of(watch, Limits(timeout_s=3600, stall_s=10)) is None


# ---------------------------------------------------------------- memory


def test_the_memory_ceiling_counts_private_memory_in_ram_and_swap_over_two_readings() -> None:
    limits = Limits(timeout_s=3600, memory_bytes=1000 * MIB)
    heavy = [replace(r, anon=600 * MIB, swap=500 * MIB) for r in ticks(2)]
    mapped = [replace(r, anon=100 * MIB, rss=5000 * MIB) for r in ticks(2)]
    assert cause_of(watched(heavy), limits) == "memory-ceiling"
    assert cause_of(watched(heavy[:1]), limits) is None
    assert cause_of(watched(mapped), limits) is None


def test_songs_leave_a_reserve_to_the_machine_and_less_than_half_of_that_is_too_little() -> None:
    for has, reserve in ((1 << 30, 128 << 20), (8 << 30, 1 << 30), (16 << 30, 2 << 30), (256 << 30, 2 << 30)):
        assert for_songs(has) == has - reserve
        assert floor(has) == reserve // 2


def test_on_a_machine_with_almost_nothing_left_the_heaviest_song_ends_and_no_other() -> None:
    limits = Limits(timeout_s=3600, floor_bytes=500 * MIB)
    heavy = [replace(r, anon=900 * MIB, available=300 * MIB, swap_free=100 * MIB) for r in ticks(2)]
    kill = judge(watched(heavy), limits, heaviest=True)
    assert kill is not None
    assert kill.cause == "out-of-memory"
    assert kill.message.startswith("out of memory: the machine had 0.3 GiB left")
    assert judge(watched(heavy), limits) is None
    for spared in (
        heavy[:1],  # seen once
        [heavy[0], replace(heavy[1], available=None)],  # not known
        [heavy[0], replace(heavy[1], swap_free=300 * MIB)],  # what is idle can still be put away
        [replace(r, anon=100 * MIB) for r in heavy],  # it is not the song: its end would not help
    ):
        assert judge(watched(spared), limits, heaviest=True) is None


def thrash(seconds: float, *, start: float = 0.0, **changes: float | None) -> list[Reading]:
    rates: dict[str, float | None] = {"faults": 500.0, "swap_in": 20.0 * MIB, "stalled": 0.6}
    return ticks(seconds, start=start, heartbeat=beat(5, step_s=1.0), swap=300 * MIB, **(rates | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("case", "readings", "expected"),
    [
        ("every sign at once", thrash(25), "swap-thrash"),
        ("not for long yet", thrash(15), None),
        ("PSI absent", thrash(25, stalled=None), "swap-thrash"),
        ("swap counters absent", thrash(25, swap_in=None), "swap-thrash"),
        (
            "a kernel that tells nothing: the child's own swap and faults",
            thrash(25, swap_in=None, stalled=None),
            "swap-thrash",
        ),
        ("pages of mapped weights read again and again", thrash(25, swap_in=0.0), "swap-thrash"),
        (
            "the same, seen by the kernel's count of such pages alone",
            thrash(25, swap_in=0.0, stalled=0.0, refault=6.0 * MIB),
            "swap-thrash",
        ),
        (
            "weights that were in memory before are loaded once more, and stay",
            thrash(25, swap_in=0.0, stalled=0.0, refault=6.0 * MIB, grown=5.0 * MIB),
            None,
        ),
        ("a few pages are taken from a child that computes", thrash(25, faults=40.0, user=0.5), None),
        ("many are, and it hardly computes", thrash(25, faults=4000.0, user=0.5), "swap-thrash"),
        (
            "weights read for the first time: faults, but nobody waits for memory",
            thrash(25, swap_in=0.0, stalled=0.0),
            None,
        ),
        ("another program's storm: the child itself has no faults", thrash(25, faults=1.0), None),
        ("swap in use but quiet", thrash(25, faults=0.0, swap_in=0.0, stalled=0.0), None),
    ],
)
def test_swap_thrash_needs_the_childs_own_faults_and_memory_that_is_waited_for(
    case: str, readings: list[Reading], expected: Cause | None
) -> None:
    assert cause_of(watched(readings), Limits(timeout_s=3600, stall_s=3000)) == expected, case


def test_before_its_first_step_a_child_has_three_times_as_long_to_thrash() -> None:
    first = [replace(r, beat=beat(0)) for r in thrash(120)]
    assert cause_of(watched(first[:60]), Limits(timeout_s=3600)) is None
    assert cause_of(watched(first[:65]), Limits(timeout_s=3600)) == "swap-thrash"


def test_a_slow_first_reading_of_weights_beside_anothers_refaults_is_no_thrash() -> None:
    loading = [
        replace(r, rss=100 * MIB + int(i * 5e6), refaulted=int(i * 20e6), beat=beat(phase="load"))
        for i, r in enumerate(thrash(120, faults=60.0, swap_in=0.0, stalled=0.0))
    ]
    assert cause_of(watched([replace(r, swap=0) for r in loading]), Limits(timeout_s=3600)) is None
    still = [replace(r, swap=0, rss=100 * MIB) for r in loading]
    assert cause_of(watched(still), Limits(timeout_s=3600)) == "swap-thrash"


def test_a_child_that_makes_progress_is_never_thrashing() -> None:
    readings = [replace(r, beat=beat(i // 10, step_s=10.0, at=i // 10)) for i, r in enumerate(thrash(200))]
    watch = Watch()
    for reading in readings:
        watch = observe(watch, reading)
        assert judge(watch, Limits(timeout_s=3600, stall_s=3000)) is None


def test_counters_that_were_reset_count_as_unknown_and_kill_nobody() -> None:
    readings = thrash(25)
    middle = len(readings) // 2
    reset = [replace(r, major_faults=i, swapped_in=i) for i, r in enumerate(readings[middle:])]
    assert cause_of(watched([*readings[:middle], *reset]), Limits(timeout_s=3600, stall_s=3000)) is None


def test_a_thrashing_child_is_told_from_a_slow_one_by_its_message() -> None:
    kill = judge(watched(thrash(25)), Limits(timeout_s=3600, stall_s=3000))
    assert kill is not None
    assert "500 major faults/s" in kill.message
    assert "20.0 MiB/s read from swap" in kill.message


def test_the_samples_kept_span_the_last_minute() -> None:
    watch = watched(ticks(500))
    assert watch.samples[0][0] == pytest.approx(watch.charged_s - WINDOW_S)
    assert watch.samples[-1][0] == watch.charged_s


# ---------------------------------------------------------------- ends


def told(cause: Cause | None) -> Outcome:
    return Outcome(1, cause, "words")


@pytest.mark.parametrize(
    ("exit_code", "outcome", "available", "expected"),
    [
        (0, told(None), 8000, None),
        (3, told("bad-input"), 8000, "bad-input"),
        (4, told("numbers"), 8000, "numbers"),
        (5, None, 8000, "no-disk"),
        (0, None, 8000, "crash"),
        (1, None, 8000, "crash"),
        (0, told("crash"), 8000, "crash"),
        (-11, None, 8000, "crash"),
        (-9, None, 8000, "crash"),
        (-9, None, 100, "out-of-memory"),
        (-11, told(None), 8000, "crash"),
        (1, told(None), 8000, "crash"),
    ],
)
def test_an_end_is_classified_by_exit_outcome_and_memory(
    exit_code: int, outcome: Outcome | None, available: int, expected: Cause | None
) -> None:
    watch = watched([replace(r, available=available * MIB) for r in ticks(2)])
    assert classify(exit_code, outcome, watch, HOUR)[0] == expected


def test_a_death_near_the_memory_ceiling_is_out_of_memory() -> None:
    limits = Limits(timeout_s=10, memory_bytes=1000 * MIB)
    watch = watched([replace(r, anon=900 * MIB) for r in ticks(2)])
    assert classify(-9, None, watch, limits)[0] == "out-of-memory"


def test_a_kill_by_the_kernel_for_want_of_memory_is_out_of_memory() -> None:
    watch = watched([replace(r, oom_kills=3) for r in ticks(2)])
    assert classify(-9, None, watch, HOUR, oom_kills=4)[0] == "out-of-memory"
    assert classify(-9, None, watch, HOUR, oom_kills=3)[0] == "crash"
    assert classify(-11, None, watch, HOUR, oom_kills=4)[0] == "crash"


@pytest.mark.parametrize(
    ("exit_code", "outcome", "held", "expected"),
    [
        (-9, None, Held(GIB, 1, full=True), "out of memory: the kernel killed it at its limit of 1.0 GiB"),
        (-9, None, Held(GIB, 1, full=False), "out of memory: the kernel killed it, as all songs together"),
        (1, None, Held(GIB, 1, full=True), "out of memory"),  # a process that it had started was killed
        (1, told("crash"), Held(GIB, 1, full=True), "out of memory"),
        (3, told("bad-input"), Held(GIB, 1, full=True), "words"),
        (0, told(None), Held(GIB, 1, full=True), "words"),
        (-9, None, Held(GIB, 0, full=True), "died of SIGKILL"),
    ],
)
def test_a_control_group_tells_exactly_whether_the_kernel_killed_for_memory(
    exit_code: int, outcome: Outcome | None, held: Held, expected: str
) -> None:
    # The machine's own count has grown by another's death, which says nothing of this one.
    watch = watched([replace(r, oom_kills=3, available=100 * MIB) for r in ticks(2)])
    cause, message = classify(exit_code, outcome, watch, HOUR, oom_kills=4, held=held)
    assert message.startswith(expected)
    assert (cause == "out-of-memory") == expected.startswith("out of memory")


def test_a_child_that_died_between_two_looks_is_told_by_its_last_beat() -> None:
    watch = heard(watched(ticks(1, heartbeat=beat(phase="load"))), beat(3, phase="decode"))
    assert classify(7, None, watch, HOUR) == ("crash", "ended with exit code 7 in phase decode")
    assert classify(7, None, heard(watch, None), HOUR) == classify(7, None, watch, HOUR)
    assert heard(Watch(), beat(phase="style")).phase == "style"


def test_signals_are_named() -> None:
    assert classify(-11, None, watched(ticks(1)), HOUR)[1] == "died of SIGSEGV in phase load"


# ---------------------------------------------------------------- what comes next

FIRST = Plan(density=32, precision="bf16", chunk_frames=128, threads=2)


def after(*ends: End | Cause, attempts: int = 4, first: Plan = FIRST) -> Plan | GiveUp:
    all_ends = [end if isinstance(end, End) else End(end) for end in ends]
    newest = next((end.t for end in reversed(all_ends) if end.t), 0.0)
    return next_attempt(first, all_ends, attempts=attempts, checkpoint_t=newest)


def plan_after(*ends: End | Cause, attempts: int = 4, first: Plan = FIRST) -> Plan:
    plan = after(*ends, attempts=attempts, first=first)
    assert isinstance(plan, Plan)
    return plan


def test_slowness_halves_the_steps_down_to_four() -> None:
    causes: list[Cause] = ["timeout", "stalled", "timeout", "timeout", "timeout"]
    densities = [plan_after(*causes[:n], attempts=9).density for n in range(6)]
    assert densities == [32, 16, 8, 4, 4, 4]


def test_fewer_steps_than_the_floor_that_were_asked_for_stay() -> None:
    assert plan_after("timeout", first=replace(FIRST, density=3)).density == 3


def test_a_song_that_thinned_its_own_grid_is_halved_from_there() -> None:
    assert plan_after(End("timeout", density=12)).density == 6


@pytest.mark.parametrize("cause", sorted(MEMORY_CAUSES))
def test_memory_gets_a_smaller_plan_and_waits(cause: Cause) -> None:
    plan = plan_after(End(cause, peak_bytes=3000))
    assert (plan.density, plan.precision, plan.chunk_frames, plan.threads) == (16, "int8", 64, 1)
    assert plan.alone
    assert plan.note == "16 steps instead of 32, in int8, alone"
    assert plan.await_bytes == 3000


def test_published_chunks_become_ones_of_the_whole_sound_where_memory_is_short() -> None:
    published = replace(FIRST, chunk_frames=128, overlap_frames=32)
    plans = [plan_after(*["out-of-memory"] * times, attempts=9, first=published) for times in range(6)]
    assert [plan.chunk_frames for plan in plans] == [128, 64, 32, 16, 16, 16]
    assert [plan.overlap_frames for plan in plans] == [32, *[None] * 5]


def test_memory_and_time_have_counters_of_their_own() -> None:
    assert isinstance(after("timeout", "swap-thrash", "timeout", "out-of-memory", attempts=3), Plan)
    assert isinstance(after("timeout", "swap-thrash", "timeout", "timeout", attempts=3), GiveUp)
    assert isinstance(after("swap-thrash", "swap-thrash", "out-of-memory", attempts=3), GiveUp)


def test_wrong_numbers_get_safer_arithmetic_at_the_same_steps() -> None:
    plan = plan_after("numbers")
    assert (plan.density, plan.precision) == (32, "fp32")


def test_wrong_numbers_in_the_safest_arithmetic_are_final() -> None:
    assert isinstance(after("numbers", "numbers"), GiveUp)
    assert isinstance(after("numbers", first=replace(FIRST, precision="fp32")), GiveUp)


def test_wrong_numbers_after_a_memory_kill_still_get_the_safest_arithmetic() -> None:
    assert plan_after("memory-ceiling", "numbers", first=replace(FIRST, precision="fp32")).precision == "fp32"
    assert plan_after("memory-ceiling", "numbers").precision == "bf16"
    assert plan_after("memory-ceiling", "numbers", "numbers").precision == "fp32"
    assert isinstance(after("memory-ceiling", "numbers", "numbers", "numbers"), GiveUp)


def test_a_crash_is_tried_again_as_it_was_then_with_half_the_steps_and_safer() -> None:
    assert (plan_after("crash").density, plan_after("crash").precision) == (32, "bf16")
    assert (plan_after("crash", "crash").density, plan_after("crash", "crash").precision) == (16, "fp32")


@pytest.mark.parametrize("cause", sorted(FREE_CAUSES))
def test_a_lost_parent_or_a_stop_is_never_charged(cause: Cause) -> None:
    assert plan_after(*[cause] * 50, attempts=1).density == 32


@pytest.mark.parametrize("cause", sorted(FREE_CAUSES))
def test_steps_that_a_night_took_from_a_song_before_its_first_are_given_back(cause: Cause) -> None:
    assert plan_after(End(cause, density=6)).density == 32
    assert plan_after(End(cause, t=0.1, density=6)).density == 6
    assert plan_after("timeout", End(cause, density=6)).density == 16


@pytest.mark.parametrize("cause", ["bad-input", "no-bundle"])
def test_what_no_retry_can_cure_fails_at_once_in_its_own_words(cause: Cause) -> None:
    assert after(End(cause, "jobs/a.yaml:3:1: mend it")) == GiveUp(cause, "jobs/a.yaml:3:1: mend it")


def test_a_full_disk_changes_nothing_and_is_tried_again_but_not_for_ever() -> None:
    assert plan_after(*["no-disk"] * 3) == replace(FIRST, note="goes on")
    assert after(*["no-disk"] * 4) == GiveUp("no-disk", "")
    assert isinstance(after(*["no-disk"] * 3, "crash", "no-disk"), Plan)


def test_the_last_attempt_is_followed_by_an_estimate_if_it_is_worth_hearing() -> None:
    assert plan_after(*["timeout"] * 3, End("timeout", t=0.6)).mode == "estimate"
    assert plan_after(End("timeout", t=0.6), *["timeout"] * 3).mode == "estimate"
    assert isinstance(after(*["timeout"] * 3, End("timeout", t=0.4)), GiveUp)


def test_an_estimate_is_tried_twice_and_one_that_was_lost_is_not_counted() -> None:
    spent = [*[End("timeout", t=0.7)] * 4]
    failed, lost = End("crash", mode="estimate", t=0.7), End("lost", mode="estimate", t=0.7)
    assert plan_after(*spent, lost, lost, failed).mode == "estimate"
    assert isinstance(after(*spent, failed, failed), GiveUp)


def test_an_estimate_is_judged_by_the_checkpoint_that_it_is_made_of() -> None:
    spent = [End("timeout", t=0.9), *[End("timeout", t=0.1)] * 3]
    assert isinstance(after(*spent), GiveUp)


def test_silence_at_the_end_of_the_grid_is_sampled_again_from_the_noise() -> None:
    assert not plan_after(End("numbers", t=1.0)).resume
    assert plan_after(End("numbers", t=0.5)).resume


def test_what_was_sampled_wrong_is_not_gone_on_from_until_something_new_is_there() -> None:
    silent = End("numbers", t=1.0)
    assert not plan_after(silent, "lost").resume
    assert not plan_after(silent, "interrupted", "crash").resume
    assert not plan_after(silent, "numbers", first=replace(FIRST, precision="int8")).resume
    assert plan_after(silent, End("lost", t=0.1)).resume


def test_an_estimate_of_wrong_numbers_that_was_lost_is_tried_again_and_nothing_else_is() -> None:
    wrong = [End("numbers", t=0.6), End("numbers", t=0.7)]
    for cause in ("lost", "interrupted", "crash", "out-of-memory"):
        assert plan_after(*wrong, End(cause, t=0.7, mode="estimate")).mode == "estimate"  # type: ignore[arg-type]


def test_who_does_not_want_to_resume_never_does() -> None:
    for cause in ("timeout", "crash", "numbers", "swap-thrash", "lost"):
        assert not plan_after(cause, first=replace(FIRST, resume=False)).resume  # type: ignore[arg-type]


def test_the_floor_holds_for_a_song_that_thinned_its_own_grid_below_it() -> None:
    assert plan_after(End("crash", density=3)).density == MIN_DENSITY


def test_a_deadline_that_passed_after_a_stop_says_so() -> None:
    gone = next_attempt(FIRST, [End("interrupted", "goes on")], attempts=4, out_of_time=True)
    assert gone == GiveUp("timeout", "its deadline has passed")


def test_past_its_deadline_only_the_estimate_is_left() -> None:
    plan = next_attempt(FIRST, [End("timeout", t=0.8)], attempts=4, checkpoint_t=0.8, out_of_time=True)
    assert isinstance(plan, Plan)
    assert plan.mode == "estimate"


ends = st.lists(
    st.builds(
        End,
        cause=st.sampled_from(
            [
                "timeout",
                "stalled",
                "swap-thrash",
                "memory-ceiling",
                "out-of-memory",
                "numbers",
                "crash",
                "lost",
                "interrupted",
            ]
        ),
        t=st.floats(0, 1),
        density=st.none() | st.integers(1, 64),
    ),
    max_size=30,
)


@given(ends, st.integers(1, 6), st.integers(1, 64), st.sampled_from(ARITHMETIC))
def test_laws_of_the_retry(ends: list[End], attempts: int, steps: int, precision: str) -> None:
    """Attempts are bounded, steps only fall and not below the floor, free ends change nothing."""
    first = replace(FIRST, density=steps, precision=precision)
    last = steps
    for n in range(len(ends) + 1):
        plan = next_attempt(first, ends[:n], attempts=attempts)
        if isinstance(plan, GiveUp) or plan.mode == "estimate":
            return
        charged = sum(end.cause not in FREE_CAUSES for end in ends[:n])
        floor = min(MIN_DENSITY, steps, *(end.density or steps for end in ends[:n]))
        assert floor <= plan.density <= last
        last = plan.density
        assert charged < 2 * attempts
        if all(end.density is None for end in ends[:n]):
            kept = [end for end in ends[:n] if end.cause not in FREE_CAUSES]
            without_free = next_attempt(first, kept, attempts=attempts)
            assert isinstance(without_free, Plan)
            assert without_free.density == plan.density
