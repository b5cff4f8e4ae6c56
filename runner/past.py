"""What a song's folder tells of the making of a song so far, of its attempts' ends, and of finished songs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from runner.errors import ForeignFileError
from runner.files import read_json, read_message
from runner.foresight import Decoder, Shown
from runner.messages import Outcome, SongRequest
from runner.songfolder import Attempt, Outputs, SongFolder
from runner.verdict import End


@dataclass(frozen=True, slots=True)
class Past:
    """What the folder tells of this making of the song: its attempts so far, oldest first."""

    series: int | None = None
    seed: int | None = None
    outcomes: tuple[Outcome, ...] = ()
    ends: tuple[End, ...] = ()
    checkpoint: Path | None = None
    checkpoint_t: float = 0.0
    request: SongRequest | None = None
    attempt: Attempt | None = None  # the newest


def recall(folder: SongFolder, fingerprint: str) -> Past:
    """The attempts that belong to this request and have not failed for good."""
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
    return Past(
        series=newest.series,
        seed=newest.seed,
        outcomes=tuple(outcomes),
        ends=tuple(
            _end(outcome, requests[outcome.attempt]) for outcome in outcomes if outcome.cause is not None
        ),
        checkpoint=kept[-1].checkpoint if kept else None,
        checkpoint_t=_reached(kept[-1], requests) if kept else 0.0,
        request=newest,
        attempt=mine[-1],
    )


def shown(outputs: Outputs) -> list[Shown]:
    """What the finished songs tell of their models' decoders, the newest last; one that tells nothing is
    passed over.
    """
    found = []
    for song in outputs.songs():
        with suppress(OSError, ForeignFileError, KeyError, TypeError, ValueError):
            made = read_json(song.manifest)
            told = Shown(
                str(made["model_hash"]),
                str(made["precision"]),
                float(made["duration"]),
                Decoder(float(made["decoder"]["speed"]), float(made["decoder"]["around_s"])),
            )
            if told.duration > 0 and told.decoder.speed > 0 and told.decoder.around_s >= 0:
                found.append((song.manifest.stat().st_mtime, told))
    return [told for _, told in sorted(found, key=lambda each: each[0])]


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
    """How far the attempt's steps came: t in the last line of its step log that is whole and has one."""
    with suppress(OSError):
        for line in reversed(attempt.steps.read_text(errors="replace").splitlines()):
            with suppress(ValueError, KeyError, TypeError):
                t = float(json.loads(line)["t"])
                if 0 <= t <= 1:
                    return t
    return None


def _reached(attempt: Attempt, requests: Mapping[int, SongRequest]) -> float:
    """t of the attempt's checkpoint; where its log has no whole line yet, of the one that it went on from."""
    t, begun = last_t(attempt), requests[attempt.number].checkpoint
    if t is not None or begun is None:
        return t or 0.0
    name = Path(begun).parent.name
    earlier = Attempt(attempt.folder.parent / name)
    known = name.isdecimal() and earlier.number < attempt.number and earlier.number in requests
    return _reached(earlier, requests) if known else 0.0


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
