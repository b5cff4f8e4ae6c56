"""Laws of every night: of the watch, whatever the clocks do, and of a song's attempts, whatever dies.

The decisions are the real ones; the machine and the child are drawn. The same examples every time; NIGHTLY=1
in the environment takes many more.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import os
import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from folders import beat_of
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from runner import manifest, supervise
from runner.files import read_json, write_message
from runner.messages import FINAL_STATES, FREE_CAUSES, MEMORY_CAUSES, Cause, Heartbeat, Outcome, SongRequest
from runner.processes import Identity
from runner.songfolder import Attempt, Outputs
from runner.supervise import House, Job
from runner.verdict import (
    ESTIMATE_TRIES,
    LATE_TICK_S,
    MEASURED_STALL_S,
    MIN_DENSITY,
    PHASE_STALL_S,
    SLOW_FACTOR,
    STALL_STEPS,
    THRASH_STEPS,
    THRASH_UNMEASURED,
    WINDOW_S,
    WORTH_HEARING_T,
    Kill,
    Limits,
    Reading,
    Watch,
    classify,
    judge,
    observe,
)
from tests.faults.batches import job as job_of

MIB = 1 << 20
TICK_S = 0.5
MORE = 20 if os.environ.get("NIGHTLY") == "1" else 1


def laws(examples: int, **changes: Any) -> settings:
    return settings(
        max_examples=MORE * examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        **changes,
    )


# ---------------------------------------------------------------- a machine and a child that are drawn


@dataclass
class World:
    """Clocks, counters and one child. Times in seconds; rates are per second of machine time.

    torn: this reading's beat cannot be read. known: the counters that this kernel has.
    """

    phase: str = "sample"
    step: int = 3
    step_s: float | None = None
    mono: float = 1000.0
    boot: float = 5000.0
    progress: float = 1000.0
    cpu_s: float = 0.0
    private: int = 100 * MIB
    swap: int = 0
    faults: float = 0.0
    swapped_in: float = 0.0
    stalled_s: float = 0.0
    known: frozenset[str] = frozenset({"swapped_in", "stalled_s", "major_faults", "cpu_s", "available"})
    watch: Watch = field(default_factory=Watch)

    def run(self, seconds: float, *, cpu: float = 0.0, faults: float = 0.0, swap_in: float = 0.0) -> None:
        """The machine runs for so long."""
        self.mono += seconds
        self.boot += seconds
        self.cpu_s += cpu * seconds
        self.faults += faults * seconds
        self.swapped_in += swap_in * seconds

    def move(self) -> None:
        self.step += 1
        self.progress = self.mono

    def reset(self) -> None:
        """The machine's counters begin anew, as in a kernel that wraps them."""
        self.swapped_in = self.stalled_s = 0.0

    def look(self, *, torn: bool = False) -> None:
        counters: dict[str, Any] = {
            "cpu_s": self.cpu_s,
            "major_faults": int(self.faults),
            "swapped_in": int(self.swapped_in),
            "stalled_s": self.stalled_s,
            "available": 8000 * MIB,
        }
        self.watch = observe(
            self.watch,
            Reading(
                mono=self.mono,
                boot=self.boot,
                beat=None if torn else self.beat(),
                anon=self.private - self.swap,
                rss=self.private,
                swap=self.swap,
                oom_kills=0,
                **{name: value for name, value in counters.items() if name in self.known},
            ),
        )

    def beat(self) -> Heartbeat:
        return beat_of(
            Identity(1, 1, "boot"),
            seq=self.step,
            phase=self.phase,
            step=self.step,
            t=None,
            wall=-self.mono,  # people's clock may say anything
            progress_mono=self.progress,
            alive_mono=self.mono,
            step_s=self.step_s,
        )


@dataclass(frozen=True)
class Weather:
    """What the machine does besides: sleeps (BOOTTIME runs ahead), freezes the watcher, is late, resets or
    another program's storm (bytes read from swap and seconds waited, per second)."""

    kind: str
    seconds: float = 0.0

    def pass_over(self, world: World) -> None:
        if self.kind == "suspend":
            world.boot += self.seconds
        elif self.kind == "frozen":
            world.run(self.seconds)
        elif self.kind == "reset":
            world.reset()
        elif self.kind == "storm":
            world.swapped_in += 50 * MIB * self.seconds
            world.stalled_s += 0.8 * self.seconds


calm = st.just(Weather("calm"))
late = st.builds(Weather, st.just("frozen"), st.floats(0, LATE_TICK_S - TICK_S))
lost = st.builds(Weather, st.sampled_from(["suspend", "frozen"]), st.floats(2 * LATE_TICK_S, 1e6))
storm = st.builds(Weather, st.just("storm"), st.just(TICK_S))
weather = st.one_of(calm, calm, late, lost, storm, st.just(Weather("reset")))
weathers = st.lists(weather, min_size=1, max_size=12)
kernels = st.sets(st.sampled_from(["swapped_in", "stalled_s", "major_faults", "cpu_s", "available"])).map(
    frozenset
)
phases = st.sampled_from(sorted(PHASE_STALL_S))
stalls = st.none() | st.floats(1, 1000)
paces = st.none() | st.floats(0.01, 300)


def patience_s(world: World, limits: Limits) -> float:
    """The stated patience with a child that does not use the processor."""
    sampled = world.phase == "sample" and world.step_s is not None
    if sampled:
        least = MEASURED_STALL_S if limits.stall_s is None else limits.stall_s
    else:
        least = max(limits.stall_s or 0.0, PHASE_STALL_S[world.phase])  # type: ignore[index]
    return max(least, STALL_STEPS * (world.step_s or 0.0) if sampled else 0.0)


# ---------------------------------------------------------------- soundness


@laws(80)
@given(
    phases,
    st.none() | st.floats(20, 200),
    st.none() | st.floats(0.01, 60),
    kernels,
    st.lists(weather, min_size=1, max_size=4),
    st.sampled_from([0.0, 0.01, 1.0, 8.0]),
    st.booleans(),
    st.integers(0, 3),
)
def test_a_child_that_moves_within_its_patience_is_never_killed(
    phase: str,
    stall_s: float | None,
    step_s: float | None,
    known: frozenset[str],
    weathers: list[Weather],
    cpu: float,
    swaps: bool,
    torn: int,
) -> None:
    """Whatever the weather; one that swaps, as long as it moves before that counts. Some beats are torn."""
    world = World(phase=phase, step_s=step_s, known=known, swap=50 * MIB if swaps else 0)
    limits = Limits(timeout_s=1e9, stall_s=stall_s, memory_bytes=200 * MIB)
    patience = min(patience_s(world, limits), limits.thrash_s) if swaps else patience_s(world, limits)
    tick = TICK_S if patience < 60 else LATE_TICK_S
    looks = int((patience - LATE_TICK_S) / tick) - 3
    world.look()
    for today in weathers:
        world.move()
        for number in range(looks):
            world.run(tick, cpu=cpu, faults=2000 if swaps else 15, swap_in=8 * MIB if swaps else 0)
            if number == looks // 2:
                today.pass_over(world)
            world.look(torn=number % 5 == torn)
            kill = judge(world.watch, limits)
            assert kill is None, kill


@laws(200)
@given(
    kernels,
    st.floats(0.1, 40),
    st.floats(0, 8),
    st.lists(st.floats(2 * LATE_TICK_S, 1e7), min_size=1, max_size=5),
    st.data(),
)
def test_a_machine_that_sleeps_kills_nobody_whatever_its_length(
    known: frozenset[str], worked_s: float, cpu: float, sleeps: list[float], data: st.DataObject
) -> None:
    """Also one whose every clock runs on, and whose counters say that it waited for memory all the while:
    paused by its host in the middle of a thrash."""
    world = World(step_s=1.0, known=known, swap=50 * MIB)
    limits = Limits(timeout_s=1000)
    for seconds in sleeps:
        for _ in range(4):
            world.run(worked_s / 4, cpu=cpu, faults=1000, swap_in=5 * MIB)
            world.look()
            assume(judge(world.watch, limits) is None)
        how = data.draw(st.sampled_from(["suspend", "frozen", "paused"]))
        if how == "suspend":
            world.boot += seconds
        elif how == "frozen":
            world.run(seconds)
        else:  # a shorter one could as well be a thrash
            world.run(WINDOW_S + seconds)
            world.stalled_s += WINDOW_S + seconds
        world.run(TICK_S)
        world.look()
        assert judge(world.watch, limits) is None
        assert world.watch.charged_s <= len(sleeps) * (worked_s + WINDOW_S + LATE_TICK_S)


# ---------------------------------------------------------------- completeness


# Looks that are LATE_TICK_S apart, but for how floats are rounded.
@example(
    "decode",
    None,
    None,
    frozenset({"swapped_in", "cpu_s"}),
    [Weather("frozen", 1.476211987061371), Weather("frozen", 1.9282510205208048)],
    True,
)
@laws(120)
@given(phases, stalls, paces, kernels, weathers, st.booleans())
def test_a_child_that_never_moves_again_is_killed_within_its_patience_of_charged_time(
    phase: str,
    stall_s: float | None,
    step_s: float | None,
    known: frozenset[str],
    weather: list[Weather],
    spins: bool,
) -> None:
    world = World(phase=phase, step_s=step_s, known=known)
    limits = Limits(timeout_s=1e9, stall_s=stall_s)
    world.look()
    for today in weather:
        world.run(TICK_S)
        today.pass_over(world)
        world.look()
    cpu = 1.0 if spins else 0.0
    bound = patience_s(world, limits) * (SLOW_FACTOR if spins and "cpu_s" in known else 1)
    tick = max(TICK_S, min(LATE_TICK_S, bound / 100))
    before = world.watch.charged_s
    while world.watch.charged_s <= before + bound + tick:
        world.run(tick, cpu=cpu)
        world.look()
        kill = judge(world.watch, limits)
        if kill is not None:
            break
    assert kill is not None
    assert kill.cause == "stalled"
    assert ("hung" in kill.message) != (spins and "cpu_s" in known)
    assert phase in kill.message
    assert_proved(kill, world)


@laws(100)
@given(
    st.sets(st.sampled_from(["swapped_in", "stalled_s"])),
    paces,
    st.floats(TICK_S, 20),
    st.floats(40, 1e4),
    st.data(),
)
def test_a_child_that_thrashes_without_progress_is_killed_for_it(
    counters: set[str], step_s: float | None, tick: float, faults: float, data: st.DataObject
) -> None:
    """Once it has lost thrash_s and three of its own best steps, and a tick or two; before its first step
    three times thrash_s. By a late watcher, too, as long as some counter tells that the machine waits."""
    assume(counters or tick < LATE_TICK_S)
    assume((step_s or 0.0) < 100)  # else its five steps are over first
    world = World(step_s=step_s, swap=60 * MIB, known=frozenset({"major_faults", "cpu_s", *counters}))
    limits = Limits(timeout_s=1e9, memory_bytes=200 * MIB)
    ahead = data.draw(st.floats(max(4096, 1.01 * MIB / faults), 32 * 1024))
    world.look()
    lost_s = THRASH_UNMEASURED * limits.thrash_s if step_s is None else THRASH_STEPS * step_s
    patience = max(limits.thrash_s, lost_s)
    kill = None
    while kill is None and world.watch.charged_s <= patience + 2 * tick:
        world.run(tick, cpu=0.3, faults=faults, swap_in=faults * ahead)
        world.stalled_s += 0.4 * tick
        world.look()
        kill = judge(world.watch, limits)
    assert kill is not None
    assert kill.cause == "swap-thrash"
    assert "major faults/s of its own" in kill.message
    assert_proved(kill, world)


@laws(60)
@given(st.integers(201, 10_000), st.floats(0, 1), kernels)
def test_a_child_over_its_ceiling_is_killed_at_the_second_look(
    mib: int, swapped: float, known: frozenset[str]
) -> None:
    world = World(known=known, private=mib * MIB, swap=int(mib * swapped) * MIB)
    limits = Limits(timeout_s=1e9, memory_bytes=200 * MIB)
    world.look()
    assert judge(world.watch, limits) is None
    world.run(TICK_S)
    world.move()
    world.look()
    kill = judge(world.watch, limits)
    assert kill is not None
    assert kill.cause == "memory-ceiling"
    assert_proved(kill, world)


@laws(60)
@given(st.floats(1, 1e4), weathers, kernels)
def test_no_attempt_is_charged_more_than_its_time_and_one_tick(
    timeout_s: float, weather: list[Weather], known: frozenset[str]
) -> None:
    world, kill = World(known=known), None
    limits = Limits(timeout_s=timeout_s)
    world.look()
    before = world.watch.charged_s
    while kill is None:
        before = world.watch.charged_s
        today = weather[world.step % len(weather)]
        world.run(max(TICK_S, timeout_s / 40))
        today.pass_over(world)
        world.move()
        world.look()
        kill = judge(world.watch, limits)
    assert kill.cause == "timeout"
    assert before <= timeout_s < world.watch.charged_s
    assert_proved(kill, world)


def assert_proved(kill: Kill, world: World) -> None:
    """A kill says what is wrong with a figure, and keeps the readings behind it, the newest last."""
    assert any(letter.isdigit() for letter in kill.message)
    evidence = supervise._evidence(world.watch)
    assert evidence
    assert evidence[-1]["mono"] == world.mono
    assert evidence[0]["at"] >= world.watch.charged_s - WINDOW_S - LATE_TICK_S or len(evidence) < 3
    json.dumps(evidence, allow_nan=False)
    assert {"at", "mono", "major_faults", "swap", "anon"} <= set(evidence[0])


outcome_words = st.builds(
    Outcome,
    attempt=st.just(1),
    cause=st.none()
    | st.sampled_from(sorted([*MEMORY_CAUSES, *FREE_CAUSES, "numbers", "crash", "bad-input"])),
    message=st.text(max_size=5),
)


@laws(100)
@given(
    st.integers(-64, 255), st.none() | outcome_words, kernels, st.none() | st.integers(0, 3), st.booleans()
)
def test_every_end_has_a_cause_unless_child_and_exit_agree_that_it_is_made(
    code: int, told: Outcome | None, known: frozenset[str], oom_kills: int | None, seen: bool
) -> None:
    world = World(known=known)
    if seen:
        world.look()
    cause, words = classify(code, told, world.watch, Limits(timeout_s=10), oom_kills)
    assert (cause is None) == (code == 0 and told is not None and told.cause is None)
    assert words or told is not None
    if cause == "out-of-memory" and not (told and told.cause == cause):
        assert code == -9


# ---------------------------------------------------------------- a song and all its nights


def number_of(checkpoint: str) -> int:
    """The attempt that made it."""
    return int(Path(checkpoint).parent.name)


class ParentDied(BaseException):
    """Its parent was killed here."""


@dataclass(frozen=True)
class Fate:
    """What becomes of one attempt: the share of its whole grid that it makes, then how it ends.

    how: a cause that the parent sees or the child tells, "made", or "parent" (which dies first). words: what
    lies where its outcome should be, if the child is to tell. torn: of the last step only the checkpoint is
    there, and half a line. elapsed_s: what it takes. thin: foresight took a coarser grid, by this divisor.
    """

    share: float
    how: str
    words: bytes | None = None
    torn: bool = False
    elapsed_s: float = 1.0
    thin: int = 1


GARBAGE = (b"", b"{", b'{"schema": 1, "attempt": 1', b"[]", b"\xff\xfe", b'{"schema": 9}')
KILLS: tuple[Cause, ...] = ("timeout", "stalled", "swap-thrash", "memory-ceiling", "interrupted")
TOLD: tuple[Cause, ...] = ("numbers", "out-of-memory", "crash", "no-disk", "bad-input")
hows = st.sampled_from([*KILLS, *KILLS, "numbers", "numbers", *TOLD, "signal", "parent", "parent", "parent"])
fates = st.builds(
    Fate,
    share=st.sampled_from([0.0, 0.0, 0.1, 0.2, 0.4, 0.6, 1.0]),
    how=hows,
    words=st.sampled_from([None, None, None, None, *GARBAGE]),
    torn=st.booleans(),
    elapsed_s=st.floats(0, 100),
    thin=st.sampled_from([1, 1, 1, 2, 5]),
)


class Song(RuleBasedStateMachine):
    """One request over many nights, in real files: the real loop, in which only the child is drawn.

    What is true is kept beside it, and what the loop asks of every attempt is held against it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.place = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
        self.folder = Outputs(self.place).song("night/song")
        self.folder.folder.mkdir(parents=True)
        self.fates: list[Fate] = []
        self.state = "queued"
        self.requests: list[SongRequest] = []  # of this making
        self.ends: dict[int, Cause | None] = {}
        self.truth: dict[int, float] = {}  # t of each attempt's checkpoint
        self.told: dict[int, float] = {}  # and as its log tells it: a line that is torn is a step behind
        self.spoilt: set[int] = set()  # attempts whose sampled song is itself wrong
        self.dies_at = ""

    def teardown(self) -> None:
        shutil.rmtree(self.place)

    @initialize(
        steps=st.integers(1, 64),
        attempts=st.sampled_from([1, 1, 2, 3, 5]),
        deadline_s=st.none() | st.floats(10, 1000),
    )
    def ask(self, steps: int, attempts: int, deadline_s: float | None) -> None:
        self.job = job_of("", steps=steps, attempts=attempts, deadline_s=deadline_s, timeout_s=1e6)
        self.resume = True

    @rule(fates=st.lists(fates, min_size=1, max_size=8), dies_at=st.sampled_from(["", "", "asked", "named"]))
    def night(self, fates: list[Fate], dies_at: str) -> None:
        """A batch as `runner batch` makes it: what is done is left alone; a parent dies where it is drawn."""
        if manifest.finished(self.folder, self.job.fingerprint) is not None:
            assert self.state in ("done", "degraded")
            return
        assert self.state not in ("done", "degraded")
        if self.state == "failed":
            self.forget()  # for good; asked again, it begins anew
        self.fates, self.dies_at = list(fates), dies_at
        said: list[str] = []
        try:
            self.state = asyncio.run(self.supervised(said)).state
        except ParentDied:
            self.state = "running"
        assert set(said) <= {"running"}
        assert self.state in ("running", "interrupted", *FINAL_STATES)
        if self.state == "failed":
            self.nothing_worth_hearing_is_lost()
        if self.state == "interrupted":
            assert self.ends[self.requests[-1].attempt] == "interrupted"

    async def supervised(self, said: list[str]) -> Any:
        house = House(mark="")
        write = manifest.write

        def named(*args: Any) -> Any:
            if self.dies_at == "named":
                raise ParentDied
            return write(*args)

        with patch.object(supervise, "_run", self.child), patch.object(manifest, "write", named):
            return await supervise.supervise(
                self.job, self.folder, house, lambda song: said.append(song.state)
            )

    def forget(self) -> None:
        self.requests, self.ends, self.spoilt = [], {}, set()

    async def child(
        self, job: Job, folder: Any, attempt: Attempt, request: SongRequest, house: House
    ) -> Outcome:
        """An attempt: held against the laws, then lived as drawn."""
        if request.series == request.attempt:
            self.forget()
        self.hold(request)
        self.requests.append(request)
        self.ends[request.attempt] = "lost"
        fate = self.fates.pop(0) if self.fates else Fate(1.0, "made")
        if self.dies_at == "asked":
            raise ParentDied
        told, density = self.live(attempt, request, fate)
        if fate.how == "parent":
            told_to_all = told is not None and told.cause is None
            self.ends[request.attempt] = None if told_to_all else "lost"
            raise ParentDied
        world = World(step_s=1.0)
        world.look()
        beat = replace(world.beat(), density=density, t=self.truth.get(request.attempt))
        watch = observe(world.watch, replace(world.watch.samples[-1][1], beat=beat))
        kill = Kill(fate.how, "words 1") if fate.how in KILLS else None  # type: ignore[arg-type]
        code = -11 if fate.how == "signal" or told is None else 0 if told.cause is None else 1
        outcome = supervise._judge_end(
            attempt, request, watch, Limits(timeout_s=1e6), kill, code, told, fate.elapsed_s, [], None
        )
        assert kill is None or outcome.cause is None or outcome.evidence
        self.ends[request.attempt] = outcome.cause
        if outcome.cause == "numbers" and (outcome.t or 0) >= 1:
            self.spoilt |= {r.attempt for r in self.requests}
        return outcome

    def live(self, attempt: Attempt, request: SongRequest, fate: Fate) -> tuple[Outcome | None, int]:
        """What the attempt leaves: checkpoints, lines of its steps, then a sound, an outcome or neither."""
        t = self.t_of(request.checkpoint)
        self.told[request.attempt] = self.told[number_of(request.checkpoint)] if request.checkpoint else 0.0
        density = max(1, request.density // fate.thin)
        steps = (
            0
            if request.mode == "estimate"
            else math.ceil(density * (fate.share if fate.how != "made" else 1))
        )
        for number in range(steps):
            if t >= 1:
                break
            t = min(1.0, t + 1 / density)
            t = 1.0 if t > 1 - 1e-9 else t
            attempt.checkpoint.write_text(str(t))
            self.truth[request.attempt] = t
            torn = fate.torn and (number == steps - 1 or t == 1)
            if not torn:
                self.told[request.attempt] = t
            with attempt.steps.open("a") as log:
                log.write('{"t": 0.' if torn else json.dumps({"t": t}) + "\n")
        cause = fate.how if fate.how in TOLD else None
        if fate.how not in ("made", *TOLD):
            return None, density
        if fate.words is not None and fate.how != "made":
            attempt.outcome.write_bytes(fate.words)
            return None, density
        song: dict[str, Any] = {}
        if cause is None:
            sound = attempt.audio(request.format)
            sound.write_bytes(str(request.attempt).encode())
            degraded = "estimate" if request.mode == "estimate" or density < request.steps else None
            song = {"sha256": hashlib.sha256(sound.read_bytes()).hexdigest(), "degraded": degraded}
        told = Outcome(request.attempt, cause, "told 1", t=t, song=song)  # type: ignore[arg-type]
        write_message(attempt.outcome, told)
        return told, density

    def hold(self, request: SongRequest) -> None:
        """The laws of what may be asked next."""
        steps, attempts = self.job.answer.steps, self.job.song.attempts
        before = [r for r in self.requests if r.attempt in self.ends]
        counted = [
            (self.ends[r.attempt], r.mode)
            for r in before
            if self.ends[r.attempt] not in (*FREE_CAUSES, "no-disk")
        ]
        memory = sum(cause in MEMORY_CAUSES for cause, _ in counted)
        if request.mode == "sing":
            assert memory < attempts
            assert len(counted) - memory < attempts
        assert sum(mode == "estimate" for _, mode in counted) < ESTIMATE_TRIES + (request.mode == "sing")
        assert min(MIN_DENSITY, steps) <= request.density <= min(steps, *(r.density for r in before), steps)
        assert all(r.mode == "sing" for r in before) or request.mode == "estimate"
        resumed = self.t_of(request.checkpoint)
        good = [t for number, t in self.truth.items() if number in {r.attempt for r in before} - self.spoilt]
        if request.mode == "estimate":
            assert resumed >= WORTH_HEARING_T
        elif request.checkpoint is not None:
            assert number_of(request.checkpoint) not in self.spoilt, "goes on from what was wrong"
        assert resumed >= max(good, default=0.0), "a checkpoint that was there is not used"

    def nothing_worth_hearing_is_lost(self) -> None:
        ends = [(self.ends[r.attempt], r) for r in self.requests]
        tried = sum(r.mode == "estimate" and cause not in FREE_CAUSES for cause, r in ends)
        kept = [self.told[r.attempt] for _, r in ends if r.attempt in self.truth]
        told = [cause for cause, _ in ends if cause is not None]
        if tried < ESTIMATE_TRIES and kept and not set(told[-1:]) & {"bad-input", "no-disk"}:
            assert kept[-1] < WORTH_HEARING_T

    def t_of(self, checkpoint: str | None) -> float:
        return float(Path(checkpoint).read_text()) if checkpoint else 0.0

    @rule(garbage=st.sampled_from(GARBAGE), name=st.sampled_from(["heartbeat.json", "failed.json"]))
    def somebody_scribbles(self, garbage: bytes, name: str) -> None:
        """Over a file that can be torn. One that says why the song failed then says nothing."""
        if name == "failed.json" and self.state == "failed":
            return
        (self.folder.folder / name).write_bytes(garbage)

    @rule()
    def half_an_attempt(self) -> None:
        """A parent died between the folder and the request."""
        if self.state not in ("done", "degraded"):
            self.folder.new_attempt()

    @invariant()
    def what_is_done_stays_done(self) -> None:
        if self.state in ("done", "degraded"):
            assert manifest.finished(self.folder, self.job.fingerprint) is not None
            assert read_json(self.folder.manifest)["state"] == self.state
            assert not self.failed()
        if self.state == "failed":
            assert self.failed()
            assert not self.folder.manifest.exists()

    def failed(self) -> bool:
        with suppress(Exception):
            return read_json(self.folder.failure)["state"] == "failed"
        return False

    @invariant()
    def no_checkpoint_is_lost_before_the_song_is_made(self) -> None:
        made = bool(self.requests) and self.ends.get(self.requests[-1].attempt, "lost") is None
        if made or self.state in ("done", "degraded"):  # its sound is there, and safe
            return
        for number, t in self.truth.items():
            kept = self.folder.folder / "attempts" / str(number) / "checkpoint.safetensors"
            assert float(kept.read_text()) == t


TestSong = Song.TestCase
TestSong.settings = laws(250, stateful_step_count=6)
