"""How every song stands, told from the files alone: the parent may be alive, dead, or on another terminal.

song.json ▷ failed.json ▷ batch.json ▷ the newest attempt and its beat ──Facts──▶ state, health ──▶ Row
"""

from __future__ import annotations

import heapq
import math
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from json import dumps
from pathlib import Path
from typing import Any, Literal, get_args

from runner import probes, steplog
from runner.errors import ForeignFileError, RunnerError
from runner.files import Message, read_json, read_message
from runner.heartbeat import sender_lives
from runner.messages import (
    FREE_CAUSES,
    MEMORY_CAUSES,
    Batch,
    Cause,
    Heartbeat,
    Outcome,
    Phase,
    QueuedSong,
    SongRequest,
    SongState,
)
from runner.processes import Identity, boot_id, is_alive
from runner.songfolder import Outputs, SongFolder, find, is_song
from runner.verdict import IDLE_CPU_SHARE, MEASURED_STALL_S, PHASE_STALL_S

SCHEMA = 1

Health = Literal["healthy", "slow", "stalled", "orphaned", "gone"]

# Silence is worth a word long before it is worth a kill: at a third of the supervisor's own patience, or
# after three of the song's own steps.
QUIET_SHARE = 1 / 3
QUIET_STEPS = 3
# CPU time counts in hundredths of a second; over less than this a share of it says nothing.
CPU_WINDOW_S = 0.1
WATCH_EVERY_S = 1.0
# As many step times as anybody shows; a beat may hold anything.
MOST_PACES = 16
MOST_TRIES = 20


@dataclass(frozen=True, slots=True)
class Ending:
    """How one attempt ended without a song, how far in t, and what it had of memory at its most, in bytes."""

    attempt: int
    cause: Cause
    message: str
    density: int | None = None
    elapsed_s: float = 0.0
    t: float | None = None
    peak_rss: int = 0
    peak_swap: int = 0


@dataclass(frozen=True, slots=True)
class Row:
    """One song as it stands.

    earlier: from a run before the newest batch. health: of a song with a child; gone is a child that ended
    without a word. step of steps, density, t, step_s, rss, swap: the newest beat of a running song's child.
    eta_s: seconds to the song's end, of a healthy one. asked: the steps that the user wanted.
    quiet_s: seconds since that child's last progress. heard_wall: when the last child was last heard,
    seconds since 1970. retries: attempts that used up one of those
    allowed, the newest excepted. ended: the attempts of this making so far that gave no song, oldest
    first. why: how the last of them ended, or why the song failed. seconds: of all attempts, once at rest.
    tries of allowed: the most that causes of one family (memory, all others) have used, the present one
    included; 0: not told. elapsed_s: of a running attempt. spent_s: of its phases so far, or of all of a
    finished song's. paces_s: of a pass, or a chunk, at its newest steps, oldest first; fastest_s: of all in
    this phase. private: memory of its own, in RAM and in swap; ceiling: at which that ends it. made: its
    sound is there, its manifest is not. duration: of the sound in seconds; 0: not told.
    """

    song: str
    state: SongState
    earlier: bool = False
    health: Health | None = None
    phase: Phase | None = None
    step: int = 0
    steps: int = 0
    asked: int | None = None
    density: int | None = None
    t: float | None = None
    step_s: float | None = None
    eta_s: float | None = None
    quiet_s: float | None = None
    heard_wall: float | None = None
    rss: int | None = None
    swap: int | None = None
    attempt: int = 0
    retries: int = 0
    ended: tuple[Ending, ...] = ()
    why: str = ""
    note: str = ""
    file: str | None = None
    seconds: float | None = None
    tries: int = 0
    allowed: int = 0
    elapsed_s: float | None = None
    spent_s: Mapping[Phase, float] = field(default_factory=dict)
    paces_s: tuple[float, ...] = ()
    fastest_s: float | None = None
    private: int | None = None
    ceiling: int | None = None
    made: bool = False
    duration: float = 0.0


@dataclass(frozen=True, slots=True)
class Survey:
    """The newest batch, all songs, the files that could not be read, and the machine's memory.

    taken_wall: seconds since 1970.
    """

    batch: Batch | None
    parent_alive: bool
    rows: tuple[Row, ...]
    problems: tuple[str, ...]
    taken_wall: float
    memory: probes.Memory = field(default_factory=probes.Memory)

    @property
    def own(self) -> tuple[Row, ...]:
        """The songs of the newest batch."""
        return tuple(row for row in self.rows if not row.earlier)


@dataclass(frozen=True, slots=True)
class Try:
    """One attempt of a song of which everything is wanted; ended: None while it runs, or with a song."""

    attempt: int
    ended: Ending | None
    steps: tuple[steplog.Step, ...]
    log: Path


@dataclass(frozen=True, slots=True)
class Facts:
    """What the files of one song say, and whether the child that beat last lives.

    manifest, failure: only of the newest making. request: of the newest attempt, which is open while it has
    left no outcome, and made if that is a song.
    cpu_share: of one core, since the last beat, of a child without progress.
    """

    entry: QueuedSong | None = None
    manifest: dict[str, Any] | None = None
    failure: dict[str, Any] | None = None
    beat: Heartbeat | None = None
    child_alive: bool = False
    cpu_share: float | None = None
    newest: int = 0
    request: SongRequest | None = None
    open: bool = False
    made: bool = False
    ended: tuple[Ending, ...] = ()


def show(outputs: Outputs, *, json: bool = False, watch: bool = False, song: str | None = None) -> int:
    """Print how the songs stand, or one of them; watch: again every second until the batch ends.

    0, or 1 if there is nothing to show or no such song; 130 for a watch ended by Ctrl-C.
    """
    first = look(outputs)
    if first.batch is None and not first.rows and not first.problems:
        print(RunnerError(f"{outputs.folder}: nothing here yet; `runner batch` makes songs"), file=sys.stderr)
        return 1
    try:
        only = None if song is None else find(song, [row.song for row in first.rows])
    except RunnerError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    surveys = (_narrow(now, only) for now in _surveys(outputs, first, watch=watch))
    try:
        if json:
            for now in surveys:
                print(dumps(as_json(now), allow_nan=False), flush=True)
        elif watch and first.parent_alive:
            _watch(surveys, outputs, only)
        else:
            from runner import view  # here and below: rich costs a third of the time of `status --json`

            view.print_survey(view.console(sys.stdout), first, None if only is None else outputs.song(only))
    except KeyboardInterrupt:
        return 130
    return 0


def _surveys(outputs: Outputs, now: Survey, *, watch: bool) -> Iterator[Survey]:
    yield now
    while watch and now.parent_alive:
        time.sleep(WATCH_EVERY_S)
        now = look(outputs)
        yield now


def _watch(surveys: Iterable[Survey], outputs: Outputs, only: str | None) -> None:
    from runner import view

    song = None if only is None else outputs.song(only)
    screen = view.screen(view.console(sys.stdout), keep=True, song=song)
    try:
        for now in surveys:
            screen.show(now)
    finally:
        screen.close()


def tries(song: SongFolder, row: Row) -> tuple[Try, ...]:
    """The newest attempts at this making of the song, oldest first."""
    ends = {end.attempt: end for end in row.ended}
    mine = [attempt for attempt in song.attempts() if attempt.number in {*ends, row.attempt}]
    return tuple(
        Try(attempt.number, ends.get(attempt.number), steplog.read(attempt.steps), attempt.log)
        for attempt in mine[-MOST_TRIES:]
    )


def look(outputs: Outputs, *, earlier: bool = True, before: Survey | None = None) -> Survey:
    """The survey of this moment."""
    return survey(outputs, now_mono=time.monotonic(), boot=boot_id(), earlier=earlier, before=before)


def _narrow(whole: Survey, only: str | None) -> Survey:
    return whole if only is None else replace(whole, rows=tuple(r for r in whole.rows if r.song == only))


def as_json(survey: Survey) -> dict[str, Any]:
    """The survey for programs; every key is always there."""
    batch = survey.batch
    return {
        "schema": SCHEMA,
        "taken_wall": survey.taken_wall,
        "batch": batch
        and {
            "pid": batch.pid,
            "parent_alive": survey.parent_alive,
            "started_wall": batch.started_wall,
            "finished_wall": batch.finished_wall,
            "workers": batch.workers,
            "stopping": batch.stopping,
            "left_s": left_s(survey),
            "until_wall": batch.until_wall,
        },
        "memory": asdict(survey.memory),
        "songs": [asdict(row) for row in survey.rows],
        "problems": list(survey.problems),
    }


# ---------------------------------------------------------------- inference


def state_of(facts: Facts, *, parent_alive: bool) -> SongState:
    """A living parent knows what it has not begun; for the rest, what was written last counts most."""
    entry = facts.entry
    if parent_alive and entry is not None and entry.state == "queued":
        return "queued"
    if facts.manifest is not None:
        return "degraded" if facts.manifest["state"] == "degraded" else "done"
    if facts.failure is not None:
        return "failed"
    if facts.child_alive:
        return "running"
    if entry is not None and (parent_alive or entry.state not in ("queued", "running")):
        return entry.state
    return "interrupted" if facts.newest else "left"


def health_of(facts: Facts, state: SongState, *, parent_alive: bool, now_mono: float) -> Health | None:
    """None for a song at rest, or whose child has not spoken yet."""
    if state not in ("running", "interrupted"):
        return None
    beat = facts.beat
    if not facts.child_alive:
        spoke_or_lost = beat is not None or not parent_alive
        return "gone" if facts.open and spoke_or_lost else None
    if not parent_alive:
        return "orphaned"
    if beat is None or now_mono - beat.progress_mono <= patience_s(beat):
        return "healthy"
    busy = facts.cpu_share is None or facts.cpu_share >= IDLE_CPU_SHARE
    return "slow" if busy else "stalled"


def patience_s(beat: Heartbeat) -> float:
    """How long this child may go without progress before that is worth a word."""
    step_s = (beat.step_s or 0.0) if beat.phase == "sample" else 0.0
    floor_s = MEASURED_STALL_S if step_s else PHASE_STALL_S[beat.phase]
    return max(QUIET_SHARE * floor_s, QUIET_STEPS * step_s)


def row_of(song: SongFolder, facts: Facts, *, parent_alive: bool, now_mono: float, earlier: bool) -> Row:
    state = state_of(facts, parent_alive=parent_alive)
    beat = facts.beat
    row = Row(
        song=song.id,
        state=state,
        earlier=earlier,
        health=health_of(facts, state, parent_alive=parent_alive, now_mono=now_mono),
        asked=facts.request.steps if facts.request else None,
        heard_wall=beat.wall if beat else None,
        attempt=facts.newest or (beat.attempt if beat else 0),
        retries=sum(end.cause not in FREE_CAUSES for end in facts.ended if end.attempt != facts.newest),
        ended=facts.ended,
        why=_why(facts, state),
        note=_note(facts, state),
        file=_file(song, facts) if state in ("done", "degraded") else None,
        seconds=None if state in ("queued", "running") else _seconds(facts),
        tries=_tries(facts),
        allowed=facts.request.attempts if facts.request else 0,
        spent_s=_times((facts.manifest or {}).get("phases")),
        made=facts.made and state == "running",
        duration=max(0.0, facts.entry.duration) if facts.entry else 0.0,
    )
    if state != "running" or beat is None or not (facts.child_alive or facts.open):
        return row
    quiet_s = max(0.0, now_mono - beat.progress_mono)
    return replace(
        row,
        phase=beat.phase,
        step=beat.step,
        steps=beat.steps,
        density=beat.density,
        t=beat.t,
        step_s=beat.step_s,
        eta_s=max(0.0, beat.eta_s - quiet_s) if beat.eta_s is not None and row.health == "healthy" else None,
        quiet_s=quiet_s,
        rss=beat.rss,
        swap=beat.swap,
        **_of_phase(beat, now_mono),
        private=beat.private or None,
        ceiling=facts.request.memory_bytes if facts.request else None,
    )


def _of_phase(beat: Heartbeat, now_mono: float) -> dict[str, Any]:
    """Times of the phase, and of those before it."""
    paces_s = tuple(each for each in beat.paces_s[-MOST_PACES:] if _is_time(each))
    if not beat.phase_mono:  # of a version that did not tell
        return {}
    spent_s = _times(beat.spent_s)
    now_s = spent_s.pop(beat.phase, 0.0) + max(0.0, now_mono - beat.phase_mono)
    spent_s[beat.phase] = min(now_s, sys.float_info.max)
    elapsed_s = min(sum(spent_s.values()), sys.float_info.max)
    return {"spent_s": spent_s, "elapsed_s": elapsed_s, "paces_s": paces_s, "fastest_s": beat.fastest_s}


def _times(told: object) -> dict[Phase, float]:
    """Seconds of each phase, without what is none."""
    if not isinstance(told, dict):
        return {}
    return {phase: float(told[phase]) for phase in get_args(Phase) if _is_time(told.get(phase))}


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < sys.float_info.max


def _tries(facts: Facts) -> int:
    """What the family of causes that has used most has used, with the attempt that is under way or is next.

    What was lost, interrupted or met a full disk uses up none.
    """
    if not facts.newest:
        return 0
    causes = [end.cause for end in facts.ended if end.cause not in FREE_CAUSES and end.cause != "no-disk"]
    memory = sum(cause in MEMORY_CAUSES for cause in causes)
    allowed = facts.request.attempts if facts.request else 0
    return min(1 + max(memory, len(causes) - memory), allowed or len(causes) + 1)


def _why(facts: Facts, state: SongState) -> str:
    if state == "failed":
        return _text(facts.failure, "message") or (facts.entry.note if facts.entry else "")
    return facts.ended[-1].message if facts.ended else ""


def _note(facts: Facts, state: SongState) -> str:
    if state == "degraded":
        return _text(facts.manifest, "degraded") or (facts.entry.note if facts.entry else "")
    if state == "running" and facts.beat is not None and facts.child_alive and facts.beat.note:
        return facts.beat.note
    of_this_state = facts.entry is not None and facts.entry.state == state and state != "failed"
    return facts.entry.note if facts.entry is not None and of_this_state else ""


def _file(song: SongFolder, facts: Facts) -> str | None:
    name = _text(facts.manifest, "file") or (facts.entry.file if facts.entry else None)
    return str(song.folder / Path(name).name) if name else None


def _seconds(facts: Facts) -> float | None:
    told = None if facts.manifest is None else facts.manifest.get("seconds")
    if isinstance(told, int | float) and 0 <= told <= sys.float_info.max:
        return float(told)
    if facts.ended:
        return min(sum(end.elapsed_s for end in facts.ended), sys.float_info.max)
    return facts.entry.seconds if facts.entry is not None else None


def _text(content: dict[str, Any] | None, key: str) -> str:
    value = None if content is None else content.get(key)
    return value if isinstance(value, str) else ""


# ---------------------------------------------------------------- the batch


def left_s(now: Survey) -> float | None:
    """About how many seconds until all songs of a batch that runs have ended; None: nothing is measured yet.

    By the pace of its songs that are made, or whose end is foreseen, in seconds for each of sound; what waits
    takes its place as soon as one ends.
    """
    if now.batch is None or not now.parent_alive or now.batch.stopping:
        return None
    running = [row for row in now.own if row.state == "running"]
    queued = [row for row in now.own if row.state == "queued"]
    pace = _pace(now)
    if pace is None and (queued or any(row.eta_s is None for row in running)):
        return None
    places = [0.0] * min(now.batch.workers - len(running), len(queued))  # each by when it is free
    places = sorted(places + [_to_come_s(row, pace or 0.0) for row in running])
    for row in queued if places else ():
        heapq.heapreplace(places, places[0] + _to_come_s(row, pace or 0.0))
    found = max(places, default=math.inf)
    return found if math.isfinite(found) else None


def _to_come_s(row: Row, pace: float) -> float:
    return pace * (row.duration or 1.0) if row.eta_s is None else row.eta_s


def _pace(now: Survey) -> float | None:
    """Seconds for each of sound, of the batch's songs that are made, or whose end is foreseen."""
    known = [(took_s, row.duration or 1.0) for row in now.own if (took_s := _whole_s(row)) is not None]
    return sum(took_s for took_s, _ in known) / sum(sound_s for _, sound_s in known) if known else None


def _whole_s(row: Row) -> float | None:
    if row.state in ("done", "degraded"):
        return row.seconds
    if row.elapsed_s is None or row.eta_s is None:
        return None
    return sum(end.elapsed_s for end in row.ended) + row.elapsed_s + row.eta_s


# ---------------------------------------------------------------- files


def survey(
    outputs: Outputs, *, now_mono: float, boot: str, earlier: bool = True, before: Survey | None = None
) -> Survey:
    """How all songs stand. earlier: also those that only runs before the newest batch have made.

    before: a survey of a moment ago; songs of which its living parent has nothing new to say are taken from
    there, so that a long batch is not read whole every second.

    now_mono, boot: the machine's monotonic clock in seconds, and which boot it counts from. A file that
    is torn, foreign or newer is named among the problems, and its song is told from the others.
    """
    problems: list[str] = []
    batch = _message(outputs.batch, Batch, problems)
    alive = batch is not None and batch.finished_wall is None and parent_lives(batch, boot)
    entries = {song.song: song for song in batch.songs if is_song(song.song)} if batch else {}
    if batch is not None and len(entries) < len(batch.songs):
        problems.append(f"{outputs.batch}: names songs that are none, or one twice; they are left out")
    others = [song for song in outputs.songs() if song.id not in entries] if earlier else []
    settled = _settled(before, batch) if alive and before is not None else {}
    rows = [
        settled.get(song.id)
        or row_of(
            song,
            _facts(song, entries.get(song.id), now_mono, boot, problems),
            parent_alive=alive,
            now_mono=now_mono,
            earlier=song.id not in entries,
        )
        for song in [*map(outputs.song, entries), *others]
    ]
    return Survey(batch, alive, tuple(rows), tuple(problems), time.time(), probes.memory())


def _settled(before: Survey, batch: Batch | None) -> dict[str, Row]:
    """Rows of songs that do not run and of which the same batch says what it said before."""
    if before.batch is None or batch is None or before.batch.pid_started != batch.pid_started:
        return {}
    told = {song.song: song for song in before.batch.songs}
    rows = {row.song: row for row in before.rows}
    return {
        song.song: rows[song.song]
        for song in batch.songs
        if song.state != "running" and told.get(song.song) == song and song.song in rows
    }


def parent_lives(batch: Batch, boot: str) -> bool:
    return batch.boot_id == boot and is_alive(Identity(batch.pid, batch.pid_started, batch.boot_id))


def _facts(
    song: SongFolder, entry: QueuedSong | None, now_mono: float, boot: str, problems: list[str]
) -> Facts:
    attempts = song.attempts()
    newest = attempts[-1].number if attempts else 0
    request = _message(attempts[-1].request, SongRequest, problems) if attempts else None
    series = request.series if request else None
    mine = [attempt for attempt in attempts if series is None or attempt.number >= series]
    outcomes = [(attempt.number, _message(attempt.outcome, Outcome, problems)) for attempt in mine]
    beat = _message(song.heartbeat, Heartbeat, problems)
    waits = entry is not None and entry.state in ("queued", "running") and entry.note and not entry.attempt
    if waits or (beat is not None and newest and beat.attempt != newest):
        beat = None  # it waits for its next attempt, or the newest child has not spoken yet
    alive = beat is not None and beat.boot_id == boot and sender_lives(beat)
    return Facts(
        entry=entry,
        manifest=_manifest(song.manifest, series, problems),
        failure=_failure(song.failure, series, problems),
        beat=beat,
        child_alive=alive,
        cpu_share=_cpu_share(song, beat, now_mono) if beat is not None and alive else None,
        newest=newest,
        request=request,
        open=bool(outcomes) and outcomes[-1][1] is None,
        made=_is_made(outcomes),
        ended=_endings(outcomes, newest),
    )


def _is_made(outcomes: Sequence[tuple[int, Outcome | None]]) -> bool:
    newest = outcomes[-1][1] if outcomes else None
    return newest is not None and newest.cause is None


def _endings(outcomes: Sequence[tuple[int, Outcome | None]], newest: int) -> tuple[Ending, ...]:
    """Attempts that gave no song; one without an outcome, followed by another, was lost with its parent."""
    ended = []
    for number, outcome in outcomes:
        if outcome is None and number != newest:
            ended.append(Ending(number, "lost", "its parent or the machine died"))
        elif outcome is not None and outcome.cause is not None:
            ended.append(
                Ending(
                    number,
                    outcome.cause,
                    outcome.message,
                    outcome.density,
                    outcome.elapsed_s,
                    outcome.t,
                    outcome.peak_rss,
                    outcome.peak_swap,
                )
            )
    return tuple(ended)


def _cpu_share(song: SongFolder, beat: Heartbeat, now_mono: float) -> float | None:
    """CPU seconds per second since the beat, if this child has gone quiet."""
    if now_mono - beat.progress_mono <= patience_s(beat):
        return None
    wait_s = max(0.0, CPU_WINDOW_S - (now_mono - beat.alive_mono))
    time.sleep(min(wait_s, CPU_WINDOW_S))
    cpu_s = probes.read(beat.pid, song.heartbeat, attempt=beat.attempt).cpu_s
    if cpu_s is None:
        return None
    return (cpu_s - beat.cpu_s) / max(CPU_WINDOW_S, now_mono + wait_s - beat.alive_mono)


def _manifest(path: Path, series: int | None, problems: list[str]) -> dict[str, Any] | None:
    """song.json, unless the song is being made anew."""
    content = _object(path, problems)
    if content is None:
        return None
    if content.get("state") not in ("done", "degraded"):
        problems.append(f"{path}: state {content.get('state')!r} is unknown; this song is told without it")
        return None
    request = content.get("request")
    return content if _current(request if isinstance(request, dict) else {}, series) else None


def _failure(path: Path, series: int | None, problems: list[str]) -> dict[str, Any] | None:
    """failed.json, unless the song is being tried anew."""
    content = _object(path, problems)
    return content if content is not None and _current(content, series) else None


def _current(content: dict[str, Any], series: int | None) -> bool:
    told = content.get("series")
    return told is None or series is None or told == series


def _object(path: Path, problems: list[str]) -> dict[str, Any] | None:
    try:
        content = read_json(path)
    except FileNotFoundError:
        return None
    except (ForeignFileError, OSError) as error:
        problems.append(str(error))
        return None
    if content.get("schema", SCHEMA) != SCHEMA:
        problems.append(f"{path}: schema {content['schema']!r} is newer; use the version that wrote it")
        return None
    return content


def _message(path: Path, kind: type[Message], problems: list[str]) -> Message | None:
    try:
        return read_message(path, kind)
    except FileNotFoundError:
        return None
    except (ForeignFileError, OSError) as error:
        problems.append(str(error))
        return None
