"""The decisions: is this child to be killed, how did it end, what comes next. Pure; time is handed in.

readings ──observe──▶ Watch ──judge──▶ go on | Kill
exit, outcome, Watch ──classify──▶ Cause
ends so far ──next_attempt──▶ Plan | GiveUp
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise, takewhile

from runner.messages import EXIT_NO_ROOM, FREE_CAUSES, MEMORY_CAUSES, Cause, Heartbeat, Mode, Outcome, Phase

# ---------------------------------------------------------------- what is known of a running child


@dataclass(frozen=True, slots=True)
class Reading:
    """What the machine and the child say at one moment; what a kernel does not tell is None.

    mono, boot: CLOCK_MONOTONIC and CLOCK_BOOTTIME in seconds (only the second runs while the machine is
    suspended). cpu_s, user_s, anon, swap, major_faults: the child's CPU seconds, those of them outside the
    kernel, bytes of private memory in RAM and in swap, faults that went to a disk. swapped_in, refaulted,
    stalled_s, oom_kills: bytes read back from swap, bytes of files read again after they were taken from
    memory, seconds in which every process waited for memory (PSI memory full) and kills by the kernel for
    want of memory, on the whole machine since it started. available, swap_free: what the machine has left, in
    bytes.
    """

    mono: float
    boot: float
    beat: Heartbeat | None = None
    cpu_s: float | None = None
    user_s: float | None = None
    anon: int | None = None
    rss: int | None = None
    swap: int | None = None
    major_faults: int | None = None
    swapped_in: int | None = None
    refaulted: int | None = None
    stalled_s: float | None = None
    oom_kills: int | None = None
    available: int | None = None
    swap_free: int | None = None

    @property
    def private(self) -> int:
        """Bytes of private memory, in RAM and in swap."""
        return (self.anon or 0) + (self.swap or 0)


@dataclass(frozen=True, slots=True)
class Limits:
    """When to end an attempt.

    stall_s: time without progress while sampling, floor for a song whose steps are quick; the other phases
    have a patience of their own, which a longer stall_s lengthens. None: by phase. thrash_s: how
    long all signs of thrashing have to last. memory_bytes: ceiling of private memory, RAM and swap together.
    floor_bytes: with less left of the machine's RAM, and of its swap, the heaviest song is ended.
    """

    timeout_s: float
    stall_s: float | None = None
    memory_bytes: int | None = None
    thrash_s: float = 20.0
    floor_bytes: int | None = None


# What songs leave to the system and to this runner: an eighth of the memory, and on large machines this.
RESERVE_BYTES = 2 * 2**30
# A control group's limit counts what the ceiling of private memory does not: weights and libraries that are
# mapped (4.4 and 1 GB for the published model), which a song reads again from the disk at every step if they
# do not fit. So the ceiling is the exact limit, and the kernel's stands this far behind it.
MAPPED_BYTES = 6 * 2**30


def for_songs(has: int) -> int:
    """The memory that songs may have of so much."""
    return has - _reserve(has)


def floor(has: int) -> int:
    """So little left of so much is too little; earlyoom's 10 % would be 6 GB of 64."""
    return _reserve(has) // 2


def _reserve(has: int) -> int:
    return min(RESERVE_BYTES, has // 8)


# Without a beat these phases may take this long on a slow disk and a slow processor: a 2 GB model read
# at 20 MB/s, an encoder's first load, one step of the 285 s model on two old cores, one chunk of sound.
PHASE_STALL_S: dict[Phase, float] = {
    "load": 300.0,
    "lyrics": 120.0,
    "style": 300.0,
    "encode": 300.0,
    "sample": 600.0,
    "decode": 300.0,
    "write": 120.0,
}
# Once a song has steps of its own: hung after 5 of them without progress or CPU, slow after 15.
STALL_STEPS = 5
SLOW_FACTOR = 3
MEASURED_STALL_S = 60.0
# Below this share of one core a child is waiting, not working.
IDLE_CPU_SHARE = 0.02

# A tick later than this was not ours to have: the machine slept or the watcher was frozen. Unless it waited
# for memory meanwhile: then the child is charged, since a machine that thrashes makes its watcher late, too.
LATE_TICK_S = 5.0
# What floats may make of a difference of times.
ROUNDING_S = 1e-6
# The last minute of samples is kept, as the evidence of a kill.
WINDOW_S = 60.0

# Signs of thrashing, each over every quarter of thrash_s. A disk serves 100–100,000 faults a second; a
# healthy child has almost none once it is loaded.
THRASH_FAULTS_PER_S = 20.0
THRASH_READ_PER_S = 1 << 20
THRASH_STALLED_SHARE = 0.2
# What a fault brings of a file that is read in its order, at the least: the kernel reads ahead.
READ_BYTES = 32 << 10
# A child that computes for longer between two faults is slowed by them, not stopped. (What the kernel
# computes to serve a fault is not the child's.)
THRASH_USER_S = 1e-3
# And the song must have lost its progress: this many of its own best steps without one.
THRASH_STEPS = 3
# Before a step is measured nothing tells that progress is lost: this many times thrash_s.
THRASH_UNMEASURED = 3


@dataclass(frozen=True, slots=True)
class _Marker:
    """What changes when something has moved."""

    phase: Phase
    step: int
    progress_mono: float


@dataclass(frozen=True, slots=True)
class Watch:
    """All that matters of the readings of one attempt so far. Times count only what the child could use."""

    charged_s: float = 0.0
    slept_s: float = 0.0
    progress_s: float = 0.0  # charged time of the newest progress
    progress_cpu_s: float | None = None
    beat: Heartbeat | None = None  # the newest that could be read
    marker: _Marker | None = None
    best_step_s: float | None = None
    peak_rss: int = 0
    peak_swap: int = 0
    peak_private: int = 0
    oom_kills: int | None = None  # when the attempt began
    samples: tuple[tuple[float, Reading], ...] = ()  # (charged time, reading), the last WINDOW_S

    @property
    def last(self) -> Reading | None:
        return self.samples[-1][1] if self.samples else None

    @property
    def idle_s(self) -> float:
        """Charged time since something moved."""
        return self.charged_s - self.progress_s

    @property
    def phase(self) -> Phase:
        """That of the last beat that could be read."""
        return self.marker.phase if self.marker else "load"


def observe(watch: Watch, reading: Reading) -> Watch:
    """The watch after one more reading.

    A gap in which the machine was suspended (CLOCK_BOOTTIME ran ahead) or this watcher itself was not
    served, other than for want of memory, is not charged to the child, and gives it a fresh allowance before
    it counts as stalled. Of want of memory, too, no more than WINDOW_S is charged at once: what is longer was
    a machine that its host had paused in the middle of it.
    """
    last = watch.last
    gap = max(0.0, reading.mono - last.mono) if last else 0.0
    suspended = max(0.0, (reading.boot - last.boot) - gap) if last else 0.0
    charged = min(gap, WINDOW_S if last and _waited_for_memory(last, reading) else LATE_TICK_S)
    lost = suspended + gap - charged
    now = watch.charged_s + charged
    marker = _marker(reading.beat)
    moved = marker is not None and marker != watch.marker
    late = gap - charged > ROUNDING_S
    fresh = moved or late or lost > LATE_TICK_S or last is None
    return replace(
        watch,
        charged_s=now,
        slept_s=watch.slept_s + (lost if lost > LATE_TICK_S else 0.0),
        progress_s=now if fresh else watch.progress_s,
        progress_cpu_s=reading.cpu_s if fresh else watch.progress_cpu_s,
        beat=reading.beat or watch.beat,
        marker=marker if moved else watch.marker,
        best_step_s=_best_step(watch.best_step_s, reading.beat),
        peak_rss=max(watch.peak_rss, reading.rss or 0),
        peak_swap=max(watch.peak_swap, reading.swap or 0),
        peak_private=max(watch.peak_private, reading.private),
        oom_kills=reading.oom_kills if last is None else watch.oom_kills,
        samples=(*(s for s in watch.samples if s[0] >= now - WINDOW_S), (now, reading)),
    )


def heard(watch: Watch, beat: Heartbeat | None) -> Watch:
    """The watch of a child that has ended, with its last beat: one that dies at once was never looked at."""
    return watch if beat is None else replace(watch, beat=beat, marker=_marker(beat))


def _waited_for_memory(first: Reading, last: Reading) -> bool:
    """Did the machine, between two readings, read again what it had, or wait for memory, as in a thrash?"""
    seconds = last.mono - first.mono
    swap_in = _rate(first.swapped_in, last.swapped_in, seconds)
    refault = _rate(first.refaulted, last.refaulted, seconds)
    stalled = _rate(first.stalled_s, last.stalled_s, seconds)
    read = max(swap_in or 0.0, refault or 0.0)
    return read >= THRASH_READ_PER_S or (stalled or 0.0) >= THRASH_STALLED_SHARE


def _marker(beat: Heartbeat | None) -> _Marker | None:
    return None if beat is None else _Marker(beat.phase, beat.step, beat.progress_mono)


def _best_step(best: float | None, beat: Heartbeat | None) -> float | None:
    if beat is None or beat.phase != "sample" or not beat.step_s:
        return best
    return beat.step_s if best is None else min(best, beat.step_s)


# ---------------------------------------------------------------- is it to be killed?


@dataclass(frozen=True, slots=True)
class Kill:
    cause: Cause
    message: str


def judge(watch: Watch, limits: Limits, *, heaviest: bool = False) -> Kill | None:
    """None: go on. Looks for what needs another cure first: memory before time.

    heaviest: no other song of the batch has more private memory.
    """
    return (
        _over_ceiling(watch, limits)
        or (_exhausting(watch, limits) if heaviest else None)
        or _thrashing(watch, limits)
        or _out_of_time(watch, limits)
        or _stalled(watch, limits)
    )


def _over_ceiling(watch: Watch, limits: Limits) -> Kill | None:
    used = [r.private for _, r in watch.samples[-2:]]
    if limits.memory_bytes is None or len(used) < 2 or min(used) <= limits.memory_bytes:
        return None
    return Kill(
        "memory-ceiling",
        f"used {_gib(used[-1])} of private memory, more than its limit of {_gib(limits.memory_bytes)}",
    )


def _exhausting(watch: Watch, limits: Limits) -> Kill | None:
    """The last line: the machine has almost nothing left, and the end of this song would help it."""
    newest = [r for _, r in watch.samples[-2:]]
    if limits.floor_bytes is None or len(newest) < 2 or newest[-1].private < limits.floor_bytes:
        return None
    if any(r.available is None or r.available + (r.swap_free or 0) >= limits.floor_bytes for r in newest):
        return None
    return Kill(
        "out-of-memory",
        f"out of memory: the machine had {_gib(newest[-1].available or 0)} left, "
        f"and this song, the heaviest, used {_gib(newest[-1].private)}",
    )


def _out_of_time(watch: Watch, limits: Limits) -> Kill | None:
    if watch.charged_s <= limits.timeout_s:
        return None
    return Kill("timeout", f"not finished within {_span(limits.timeout_s)} (in phase {watch.phase})")


def _stalled(watch: Watch, limits: Limits) -> Kill | None:
    hung_s = max(_patience_s(watch, limits), STALL_STEPS * (watch.best_step_s or 0.0))
    working = _works(watch)
    if watch.idle_s <= (SLOW_FACTOR * hung_s if working else hung_s):
        return None
    words = "still computing, but without" if working else "hung: no CPU used and no"
    return Kill("stalled", f"{words} progress for {_span(watch.idle_s)} (in phase {watch.phase})")


def _patience_s(watch: Watch, limits: Limits) -> float:
    """How long this phase may be without progress, before this song's own pace is looked at."""
    measured = watch.phase == "sample" and watch.best_step_s is not None
    if not measured:
        # Nobody who sets a stall for steps of seconds means a model that is read from a cold disk.
        return max(limits.stall_s or 0.0, PHASE_STALL_S[watch.phase])
    return MEASURED_STALL_S if limits.stall_s is None else limits.stall_s


def _works(watch: Watch) -> bool:
    """Has the child used the processor since its last progress? Unknown counts as no."""
    last = watch.last
    if last is None or last.cpu_s is None or watch.progress_cpu_s is None:
        return False
    return last.cpu_s - watch.progress_cpu_s > IDLE_CPU_SHARE * watch.idle_s


def _thrashing(watch: Watch, limits: Limits) -> Kill | None:
    """Swap thrash: sustained, this child's own doing, and only with loss of progress."""
    best = watch.best_step_s
    lost_s = THRASH_UNMEASURED * limits.thrash_s if best is None else THRASH_STEPS * best
    if watch.idle_s < max(limits.thrash_s, lost_s):
        return None
    start = watch.charged_s - limits.thrash_s
    bounds = [*(start + limits.thrash_s * i / 4 for i in range(4)), watch.charged_s]
    quarters = [_span_rates(watch, a, b) for a, b in pairwise(bounds)]
    if not all(rates is not None and rates.thrash for rates in quarters):
        return None
    newest = quarters[-1]
    assert newest is not None
    return Kill(
        "swap-thrash",
        f"swap thrash: no progress for {_span(watch.idle_s)} while every quarter of the last "
        f"{_span(limits.thrash_s)} had {newest.words}",
    )


@dataclass(frozen=True, slots=True)
class _Rates:
    """Per second. grown: of the child's resident bytes. swap: its bytes there, at the end."""

    faults: float
    user: float | None
    grown: float | None
    swap_in: float | None
    refault: float | None
    stalled: float | None
    swap: int

    @property
    def thrash(self) -> bool:
        """The child waits for pages that it had, or for any while the whole machine waits for memory."""
        if self.faults < max(THRASH_FAULTS_PER_S, (self.user or 0.0) / THRASH_USER_S):
            return False
        if self.swap_in is None and self.refault is None and self.stalled is None:
            return self.swap > 0  # a kernel that tells nothing: the child's own swap has to do
        from_swap = self.swap > 0 and (self.swap_in is None or self.swap_in >= THRASH_READ_PER_S)
        return from_swap or self._from_files or (self.stalled or 0.0) >= THRASH_STALLED_SHARE

    @property
    def _from_files(self) -> bool:
        """Files are read again and do not stay: it is not loading a model that was in memory before."""
        if self.refault is None or self.grown is None:
            return False
        stays = self.grown >= self.faults * READ_BYTES  # it reads what it never had
        return self.refault >= THRASH_READ_PER_S and self.grown < self.refault / 2 and not stays

    @property
    def words(self) -> str:
        parts = [f"{self.faults:.0f} major faults/s of its own"]
        if self.swap_in is not None:
            parts.append(f"{self.swap_in / 2**20:.1f} MiB/s read from swap")
        if self.refault is not None:
            parts.append(f"{self.refault / 2**20:.1f} MiB/s read again from files")
        if self.stalled is not None:
            parts.append(f"{100 * self.stalled:.0f} % of the time waiting for memory")
        return ", ".join(parts)


def _span_rates(watch: Watch, start: float, end: float) -> _Rates | None:
    """Rates between two charged times, over the nearest samples outside; None where some are missing."""
    before = [r for at, r in watch.samples if at <= start]
    after = [r for at, r in watch.samples if at >= end]
    if not before or not after:
        return None
    first, last = before[-1], after[0]
    seconds = last.mono - first.mono
    faults = _rate(first.major_faults, last.major_faults, seconds)
    if faults is None or last.swap is None:
        return None
    return _Rates(
        faults=faults,
        user=_rate(first.user_s, last.user_s, seconds),
        grown=None if first.rss is None or last.rss is None else (last.rss - first.rss) / seconds,
        swap_in=_rate(first.swapped_in, last.swapped_in, seconds),
        refault=_rate(first.refaulted, last.refaulted, seconds),
        stalled=_rate(first.stalled_s, last.stalled_s, seconds),
        swap=last.swap,
    )


def _rate(first: float | None, last: float | None, seconds: float) -> float | None:
    """Growth per second; None where a counter is absent or was reset."""
    if first is None or last is None or last < first or seconds <= 0:
        return None
    return (last - first) / seconds


# ---------------------------------------------------------------- how did it end?


@dataclass(frozen=True, slots=True)
class Held:
    """What the control group of an attempt tells after its end.

    limit: its own, in bytes. killed: how many of its processes the kernel killed for want of memory, be it
    its own or the machine's. full: it has been at its limit.
    """

    limit: int
    killed: int
    full: bool


def classify(
    exit_code: int,
    told: Outcome | None,
    watch: Watch,
    limits: Limits,
    oom_kills: int | None = None,
    held: Held | None = None,
) -> tuple[Cause | None, str]:
    """Cause and words of an attempt that ended without being killed by us.

    exit_code: as of Popen: negative for a signal. told: the child's own outcome, if it left one. oom_kills:
    the kernel's count after the end, on the whole machine. held: what the attempt's control group tells:
    exact where there is one.
    """
    made = exit_code == 0 and told is not None and told.cause is None
    explained = told is not None and told.cause not in (None, "crash")
    if held is not None and held.killed and not made and not explained:
        return "out-of-memory", _killed_words(held)
    if told is not None and (exit_code == 0) == (told.cause is None):
        return told.cause, told.message
    if exit_code == -signal.SIGKILL and held is None and _was_out_of_memory(watch, limits, oom_kills):
        return "out-of-memory", "out of memory: the system killed it"
    if exit_code < 0:
        return "crash", f"died of {_signal_name(-exit_code)} in phase {watch.phase}"
    if exit_code == EXIT_NO_ROOM and told is None:
        return "no-disk", "no room on the disk, not even for its outcome"
    if exit_code == 0:
        return "crash", "ended without a word: no song and no outcome"
    return "crash", f"ended with exit code {exit_code} in phase {watch.phase}"


def _killed_words(held: Held) -> str:
    if not held.full:
        return (
            "out of memory: the kernel killed it, as all songs together, or the machine, had no more to have"
        )
    return f"out of memory: the kernel killed it at its limit of {_gib(held.limit)} (control group)"


# The system's killer comes when almost nothing is left.
_OOM_AVAILABLE = 200 << 20
_OOM_CEILING_SHARE = 0.8


def _was_out_of_memory(watch: Watch, limits: Limits, oom_kills: int | None) -> bool:
    if oom_kills is not None and watch.oom_kills is not None and oom_kills > watch.oom_kills:
        return True
    last = watch.last
    if last is None:
        return False
    near_ceiling = limits.memory_bytes is not None and last.private > _OOM_CEILING_SHARE * limits.memory_bytes
    return near_ceiling or (last.available is not None and last.available < _OOM_AVAILABLE)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


# ---------------------------------------------------------------- what comes next?

MIN_DENSITY = 4
# From here on the flow's estimate of the end is kept as a song rather than thrown away: it is as near to the
# finished song as one in 4 plain steps is to that in 128 (docs/quality.md).
WORTH_HEARING_T = 0.5
# An estimate may die of something that has nothing to do with it.
ESTIMATE_TRIES = 2
# From small to safe.
ARITHMETIC = ("int8", "bf16", "fp32")
MIN_CHUNK_FRAMES = 16


@dataclass(frozen=True, slots=True)
class Plan:
    """How the next attempt is made. alone: no other song beside it; await_bytes: memory to wait for.

    chunk_frames, overlap_frames: of the decoder, see diffrhythm.generate.
    """

    density: int
    precision: str
    chunk_frames: int
    threads: int
    resume: bool = True
    mode: Mode = "sing"
    alone: bool = False
    await_bytes: int = 0
    note: str = ""
    overlap_frames: int | None = None


@dataclass(frozen=True, slots=True)
class GiveUp:
    cause: Cause
    message: str


@dataclass(frozen=True, slots=True)
class End:
    """How one attempt ended: how far in t, at which density at last, with how much private memory."""

    cause: Cause
    message: str = ""
    t: float = 0.0
    density: int | None = None
    mode: Mode = "sing"
    peak_bytes: int = 0


@dataclass(frozen=True, slots=True)
class _Count:
    slow: int = 0
    memory: int = 0
    crashes: int = 0


@dataclass(frozen=True, slots=True)
class _Course:
    """wrong_in: the arithmetic in which the numbers were last wrong. anew: what was sampled is itself wrong,
    and nothing has been sampled since."""

    plan: Plan
    count: _Count = field(default_factory=_Count)
    wrong_in: str | None = None
    anew: bool = False


def next_attempt(
    first: Plan,
    ends: Sequence[End],
    *,
    attempts: int,
    checkpoint_t: float = 0.0,
    out_of_time: bool = False,
) -> Plan | GiveUp:
    """What to try after these ends, oldest first, of attempts at one and the same request.

    attempts: how many each family of causes gets (memory, all others). checkpoint_t: how far the newest
    checkpoint is. out_of_time: the song's deadline has passed, so that only its estimate may still be kept.
    """
    course = _Course(first)
    for end in ends:
        course = replace(_after(course, end), wrong_in=_wrong_in(course, end), anew=_anew(course, end))
    plan, count = course.plan, course.count
    if not ends:
        return plan
    last = ends[-1]
    # The next one waits until the disk has room; again and again it is no lack of that.
    in_a_row = sum(1 for _ in takewhile(lambda end: end.cause == "no-disk", reversed(ends)))
    if last.cause in ("bad-input", "no-bundle") or in_a_row >= attempts:
        return GiveUp(last.cause, last.message)
    why = GiveUp(last.cause, last.message)
    if out_of_time:
        why = GiveUp("timeout", "its deadline has passed")
    if sum(end.mode == "estimate" and end.cause not in FREE_CAUSES for end in ends) >= ESTIMATE_TRIES:
        return replace(why, message=f"{why.message}; its early estimate could not be kept either")
    spent = count.slow >= attempts or count.memory >= attempts or out_of_time
    # Wrong numbers in the safest arithmetic: trying again would compute the same.
    if spent or course.wrong_in == ARITHMETIC[-1]:
        if checkpoint_t < WORTH_HEARING_T:
            return why
        return replace(
            plan, mode="estimate", resume=True, note=f"keeping its estimate at t = {checkpoint_t:.2f}"
        )
    return replace(plan, resume=plan.resume and not course.anew)


def _after(course: _Course, end: End) -> _Course:
    plan, count = course.plan, course.count
    unbegun = end.cause in FREE_CAUSES and end.t == 0  # another night may have the time for more steps
    if end.density is not None and not unbegun:  # it may have thinned its grid itself
        plan = replace(plan, density=min(plan.density, max(end.density, MIN_DENSITY)))
    if end.cause in FREE_CAUSES or end.cause == "no-disk":
        return replace(course, plan=replace(plan, note="goes on"))
    if end.cause in MEMORY_CAUSES:
        return _Course(_smaller(_halved(plan), end), replace(count, memory=count.memory + 1))
    slow = replace(count, slow=count.slow + 1)
    if end.cause == "numbers":
        return _Course(replace(_safer(plan), note="safer arithmetic"), slow)
    if end.cause == "crash":
        again = plan if count.crashes == 0 else _safer(_halved(plan))
        return _Course(again, replace(slow, crashes=count.crashes + 1))
    return _Course(_halved(plan), slow)


def _wrong_in(course: _Course, end: End) -> str | None:
    if end.mode == "estimate" or end.cause in FREE_CAUSES or end.cause == "no-disk":
        return course.wrong_in  # it has tried nothing else
    return course.plan.precision if end.cause == "numbers" else None


def _anew(course: _Course, end: End) -> bool:
    if end.cause == "numbers" and end.t >= 1:
        return True
    return course.anew and end.t == 0


def _halved(plan: Plan) -> Plan:
    density = max(min(MIN_DENSITY, plan.density), plan.density // 2)
    note = f"{density} steps instead of {plan.density}" if density < plan.density else ""
    return replace(plan, density=density, note=note)


def _safer(plan: Plan) -> Plan:
    above = ARITHMETIC[ARITHMETIC.index(plan.precision) + 1 :]
    return replace(plan, precision=above[0] if above else plan.precision)


def _smaller(plan: Plan, end: End) -> Plan:
    """Less memory in every way we know: fewer steps alone cure slowness, not memory."""
    below = ARITHMETIC[: ARITHMETIC.index(plan.precision)]
    said = (plan.note, f"in {below[-1]}" if below else "", "alone")
    return replace(
        plan,
        precision=below[-1] if below else plan.precision,
        chunk_frames=max(MIN_CHUNK_FRAMES, plan.chunk_frames // 2),
        # Half a published chunk may be no longer than its overlap. Without one, chunks of any length give the
        # sound of the whole.
        overlap_frames=None,
        threads=max(1, plan.threads // 2),
        alone=True,
        await_bytes=end.peak_bytes,
        note=", ".join(words for words in said if words),
    )


# ---------------------------------------------------------------- words


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
