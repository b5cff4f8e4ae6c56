"""What a song's folder tells of the making of a song so far, of its attempts' ends, and of finished songs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from runner import manifest, steplog
from runner.errors import ForeignFileError
from runner.files import read_json, read_message
from runner.foresight import MEASURED_STEPS, Decoder, Shown, pace
from runner.messages import SCHEMA, Outcome, SongAnswer, SongRequest
from runner.songfolder import Attempt, Outputs, SongFolder
from runner.verdict import End

# A line of a step log has about 200 bytes.
TAIL_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class Past:
    """What the folder tells of this making of the song: its attempts so far, oldest first.

    left: the share of its steps behind the newest checkpoint.
    """

    series: int | None = None
    seed: int | None = None
    outcomes: tuple[Outcome, ...] = ()
    ends: tuple[End, ...] = ()
    checkpoint: Path | None = None
    checkpoint_t: float = 0.0
    left: float = 1.0
    request: SongRequest | None = None
    attempt: Attempt | None = None  # the newest


def recall(folder: SongFolder, fingerprint: str, *, since: int = 1) -> Past:
    """The attempts that belong to this request and have not failed for good.

    since: a full disk that was met before this attempt is no end: there may be room now.
    """
    attempts = folder.attempts()
    requests = {attempt.number: request for attempt in attempts if (request := _request(attempt)) is not None}
    if not requests:
        return Past()
    newest = requests[max(requests)]
    if newest.fingerprint != fingerprint:
        return Past()
    if _failed(folder) == newest.series:
        return Past(seed=newest.seed)
    mine = [a for a in attempts if a.number in requests and requests[a.number].series == newest.series]
    outcomes = [_outcome(attempt) for attempt in mine]
    kept = [attempt for attempt in mine if attempt.checkpoint.exists()]
    reached = _reached(kept[-1], requests) if kept else _Reached()
    return Past(
        series=newest.series,
        seed=newest.seed,
        outcomes=tuple(outcomes),
        ends=tuple(
            _end(outcome, requests[outcome.attempt])
            for outcome in outcomes
            if outcome.cause is not None and (outcome.cause != "no-disk" or outcome.attempt >= since)
        ),
        checkpoint=kept[-1].checkpoint if kept else None,
        checkpoint_t=reached.t,
        left=reached.left,
        request=newest,
        attempt=mine[-1],
    )


def paced(past: Past, answer: SongAnswer) -> Shown | None:
    """What the last attempt at a song that is not finished tells of its own pace; None: too little."""
    if past.attempt is None or past.request is None:
        return None
    pass_s = _pass_s(past.attempt)
    if not pass_s or past.request.duration is None or not 0 < past.request.duration < math.inf:
        return None
    return Shown(
        past.request.model_hash,
        past.request.precision,
        past.request.duration,
        decoder=None,
        threads=past.request.threads,
        flop_s=answer.pass_flops / pass_s or None,
    )


def _pass_s(attempt: Attempt) -> float | None:
    """Seconds of a pass by the newest lines of the step log, of which the first has none before it."""
    steps = []
    with suppress(OSError, ForeignFileError):
        for line in steplog.tail(attempt.steps, TAIL_BYTES).splitlines():
            with suppress(ValueError, KeyError, TypeError, OverflowError, RecursionError):
                told = json.loads(line)
                steps.append((float(told["seconds"]), float(told["passes"])))
    paces = [
        seconds / (passes - before)
        for (_, before), (seconds, passes) in pairwise(steps)
        if 0 < passes - before < math.inf and 1e-6 < seconds < math.inf
    ]
    return pace(paces) if len(paces) >= MEASURED_STEPS else None


def newer_file(folder: SongFolder) -> Path | None:
    """A file here that a newer version wrote, if there is one: its song is not for us to touch."""
    if is_newer(folder.manifest, manifest.SCHEMA):
        return folder.manifest
    newest = [file for attempt in folder.attempts()[-1:] for file in (attempt.request, attempt.outcome)]
    return next(filter(is_newer, (folder.failure, folder.heartbeat, *newest)), None)


def is_newer(file: Path, known: int = SCHEMA) -> bool:
    """Does the file say that it is of a later schema than the known one?"""
    try:
        schema = read_json(file).get("schema")
    except (OSError, ForeignFileError):
        return False
    return isinstance(schema, int) and schema > known


def shown(outputs: Outputs) -> list[Shown]:
    """What the finished songs tell, the newest last; one that tells nothing is passed over."""
    found = []
    for song in outputs.songs():
        with suppress(OSError, ForeignFileError):
            told = shown_by(read_json(song.manifest))
            if told is not None:
                found.append((song.manifest.stat().st_mtime, told))
    return [told for _, told in sorted(found, key=lambda each: each[0])]


def shown_by(made: dict[str, Any]) -> Shown | None:
    """What a manifest tells of other songs of its model; None: nothing."""
    with suppress(KeyError, TypeError, ValueError, OverflowError):
        told = Shown(
            str(made["model_hash"]),
            str(made["precision"]),
            float(made["duration"]),
            _decoder(made),
            _private(made),
            _threads(made),
            _flop_s(made),
            _around_s(made),
        )
        tells = told.decoder or told.private or told.flop_s
        return told if 0 < told.duration < math.inf and tells else None
    return None


def _decoder(made: dict[str, Any]) -> Decoder | None:
    with suppress(KeyError, TypeError, ValueError, OverflowError):
        decoder = Decoder(float(made["decoder"]["speed"]), float(made["decoder"]["around_s"]))
        return decoder if 0 < decoder.speed < math.inf and 0 <= decoder.around_s < math.inf else None
    return None


def _private(made: dict[str, Any]) -> int | None:
    """Only of a song whose last attempt made it from the noise: what goes on may have had less."""
    with suppress(KeyError, TypeError, IndexError):
        peak = made["attempts"][-1]["peak_private"]
        return peak if isinstance(peak, int) and peak > 0 and made["request"]["checkpoint"] is None else None
    return None


def _threads(made: dict[str, Any]) -> int:
    with suppress(KeyError, TypeError):
        threads = made["request"]["threads"]
        return threads if type(threads) is int and threads > 0 else 0
    return 0


def _flop_s(made: dict[str, Any]) -> float | None:
    with suppress(KeyError, TypeError, ValueError, OverflowError, ZeroDivisionError):
        flop_s = float(made["pass_flops"]) / float(made["pass_s"])
        return flop_s if 0 < flop_s < math.inf else None
    return None


def _around_s(made: dict[str, Any]) -> float | None:
    """Of a song whose last attempt made all of it: all its time but the passes at their pace, and the end."""
    with suppress(KeyError, TypeError, ValueError, IndexError, OverflowError):
        phases = made["phases"]
        spent_s = (
            float(made["passes"]) * float(made["pass_s"]) + float(phases["decode"]) + float(phases["write"])
        )
        around_s = float(made["attempts"][-1]["elapsed_s"]) - spent_s
        return around_s if made["request"]["checkpoint"] is None and 0 <= around_s < math.inf else None
    return None


def _request(attempt: Attempt) -> SongRequest | None:
    try:
        return read_message(attempt.request, SongRequest)
    except (OSError, ForeignFileError):
        return None


def read_outcome(attempt: Attempt) -> Outcome | None:
    """The outcome that lies in the attempt's folder, if it is a readable one of its own."""
    try:
        outcome = read_message(attempt.outcome, Outcome)
    except (OSError, ForeignFileError):
        return None
    return outcome if outcome.attempt == attempt.number else None


def _outcome(attempt: Attempt) -> Outcome:
    """How it ended; an attempt without an outcome was lost with its parent."""
    outcome = read_outcome(attempt)
    if outcome is None:
        outcome = Outcome(attempt.number, "lost", "its parent or the machine died", t=last_t(attempt))
    return outcome


def last_t(attempt: Attempt) -> float | None:
    """How far the attempt's steps came; None where its step log does not say."""
    reached = _last(attempt)
    return None if reached is None else reached.t


@dataclass(frozen=True, slots=True)
class _Reached:
    """How far a checkpoint is: t, and the share of the steps that is left, which are not spread evenly."""

    t: float = 0.0
    left: float = 1.0


def _last(attempt: Attempt) -> _Reached | None:
    """By the last line of the step log that is whole and has a t."""
    with suppress(OSError, ForeignFileError):
        for line in reversed(steplog.tail(attempt.steps, TAIL_BYTES).splitlines()):
            with suppress(ValueError, KeyError, TypeError, OverflowError, RecursionError):
                told = json.loads(line)
                t = float(told["t"])
                if 0 <= t <= 1:
                    return _Reached(t, _left(told, t))
    return None


def _left(told: dict[str, Any], t: float) -> float:
    with suppress(KeyError, TypeError, ValueError, OverflowError, ZeroDivisionError):
        left = 1 - float(told["step"]) / float(told["steps"])
        if 0 <= left <= 1:
            return left
    return 1 - t


def _reached(attempt: Attempt, requests: Mapping[int, SongRequest]) -> _Reached:
    """By the attempt's own log; where that has no whole line yet, by that of the one that it went on from."""
    reached, begun = _last(attempt), requests[attempt.number].checkpoint
    if reached is not None or begun is None:
        return reached or _Reached()
    name = Path(begun).parent.name
    earlier = Attempt(attempt.folder.parent / name)
    known = name.isdecimal() and earlier.number < attempt.number and earlier.number in requests
    return _reached(earlier, requests) if known else _Reached()


def _end(outcome: Outcome, request: SongRequest) -> End:
    assert outcome.cause is not None
    return End(
        cause=outcome.cause,
        message=outcome.message,
        t=outcome.t or 0.0,
        density=outcome.density,
        mode=request.mode,
        peak_bytes=outcome.peak_private,
    )


def _failed(folder: SongFolder) -> int | None:
    """The series that failed for good, if one did; a full disk is not for good."""
    try:
        failure = read_json(folder.failure)
    except (OSError, ForeignFileError):
        return None
    series = failure.get("series")
    return series if isinstance(series, int) and failure.get("cause") != "no-disk" else None
