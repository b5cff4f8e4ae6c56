"""The child. `check PAPER` answers for a whole batch, `sing REQUEST` makes one attempt at one song.

The one module that imports both packages. It ends 0 with an outcome written, 3 for bad input, 4 when the
numbers went wrong, 5 without memory or disk, 1 for anything else.
"""

from __future__ import annotations

import errno
import faulthandler
import json
import os
import statistics
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffrhythm.errors import BundleError, CheckpointError, DiffRhythmError, InputError, NumbersError
from diffrhythm.events import Event
from runner import foresight
from runner.files import read_message, write_message
from runner.heartbeat import Pulse
from runner.messages import Cause, Check, Outcome, SongAnswer, SongQuestion, SongRequest
from runner.songfolder import Attempt, SongFolder

if TYPE_CHECKING:
    from diffrhythm.generate import Song
    from diffrhythm.sampling import State

EXIT = {None: 0, "bad-input": 3, "no-bundle": 3, "numbers": 4, "out-of-memory": 5, "no-disk": 5}
_NO_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}


def main(arguments: Sequence[str]) -> int:
    faulthandler.enable()
    verb, paper = arguments
    return {"check": check, "sing": sing}[verb](Path(paper))


# ---------------------------------------------------------------- check


def check(paper: Path) -> int:
    """Answer every question of a batch, on the same paper."""
    asked = read_message(paper, Check)
    write_message(paper, replace(asked, answers=[_answer(question) for question in asked.questions]))
    return 0


def _answer(question: SongQuestion) -> SongAnswer:
    from diffrhythm import presets
    from diffrhythm.generate import inspect

    try:
        chosen = presets.auto("cpu") if question.preset == "auto" else presets.preset(question.preset)
        seen = inspect(
            question.model,
            lyrics=question.lyrics,
            lyrics_source=question.lyrics_source,
            style=question.style,
            style_clip=Path(question.style_audio) if question.style_audio else None,
            duration=question.duration,
            sampler=question.sampler or chosen.sampler,
            language=question.language,
            lyrics_compat=question.lyrics_compat,
            precision=question.precision,
        )
    except DiffRhythmError as error:
        return SongAnswer(question.song, problems=str(error).splitlines(), warnings=[])
    return SongAnswer(
        question.song,
        problems=[],
        warnings=list(seen.warnings),
        duration=seen.duration,
        steps=question.steps if question.steps is not None else chosen.steps,
        cfg=question.cfg if question.cfg is not None else chosen.cfg,
        sampler=question.sampler or chosen.sampler,
        precision=seen.precision,
        model_hash=seen.model_hash,
        demo=seen.demo,
        choice=f"preset {question.preset}: {chosen.why}",
    )


# ---------------------------------------------------------------- sing


def sing(paper: Path) -> int:
    request = read_message(paper, SongRequest)
    attempt, folder = Attempt(paper.parent), SongFolder(paper.parents[2])
    pulse = Pulse(folder.heartbeat, song=request.song, attempt=request.attempt, density=request.density)
    pulse.start()
    outcome = _attempt(request, attempt, pulse)
    write_message(attempt.outcome, outcome)
    return EXIT.get(outcome.cause, 1)


def _attempt(request: SongRequest, attempt: Attempt, pulse: Pulse) -> Outcome:
    """The song, or why there is none; the traceback goes to the log, the one line to the outcome."""
    try:
        return _make(request, attempt, pulse)
    except InputError as error:
        return _failed(request, "bad-input", error)
    except BundleError as error:
        return _failed(request, "no-bundle", error)
    except NumbersError as error:
        return _failed(request, "numbers", error)
    except MemoryError as error:
        return _failed(request, "out-of-memory", error)
    except OSError as error:
        return _failed(request, "no-disk" if error.errno in _NO_DISK else "crash", error)
    except RuntimeError as error:  # torch has no type of its own for this
        return _failed(request, "out-of-memory" if "allocate memory" in str(error) else "crash", error)
    except Exception as error:  # noqa: BLE001 — whatever it is, the parent shall hear of it in words
        return _failed(request, "crash", error)


def _failed(request: SongRequest, cause: Cause, error: BaseException) -> Outcome:
    traceback.print_exc()
    words = str(error) or type(error).__name__
    return Outcome(request.attempt, cause, words if cause != "crash" else f"{type(error).__name__}: {words}")


def _make(request: SongRequest, attempt: Attempt, pulse: Pulse) -> Outcome:
    import torch

    from diffrhythm import audio
    from diffrhythm.generate import estimate, generate

    torch.set_num_threads(request.threads)
    began = time.monotonic()
    resume = _resume(request)
    steps = _Steps(request, attempt, pulse, began)
    common: dict[str, Any] = {
        "lyrics": request.lyrics,
        "lyrics_source": request.lyrics_source,
        "style": request.style,
        "style_clip": Path(request.style_audio) if request.style_audio else None,
        "negative_style": request.negative_style,
        "duration": request.duration,
        "language": request.language,
        "lyrics_compat": request.lyrics_compat,
        "precision": request.precision,
        "chunk_frames": request.chunk_frames,
        "on_event": steps.event,
    }
    if request.mode == "estimate":
        if resume is None:
            raise CheckpointError(f"no usable checkpoint: {request.checkpoint}: make the song again")
        song = estimate(request.model, state=resume, **common)
    else:
        song = generate(
            request.model,
            seed=request.seed,
            steps=request.density,
            cfg=request.cfg,
            sampler=request.sampler,
            on_step=steps.step,
            resume=resume,
            **common,
        )
    sound = attempt.audio(request.format)
    title = request.song.rpartition("/")[2]
    audio.write(
        sound,
        song.audio,
        format=request.format,
        loudness=request.loudness,
        tags={"title": title, "comment": _comment(request, song)},
    )
    return Outcome(request.attempt, None, "made", t=1.0, song=_describe(request, song, sound, resume))


def _resume(request: SongRequest) -> State | None:
    """The checkpoint's state, its remaining grid as dense as asked; None: begin from the noise.

    A checkpoint that cannot be read costs its steps, not the song.
    """
    from diffrhythm import grids
    from diffrhythm.sampling import load_state

    if request.checkpoint is None:
        return None
    try:
        state = load_state(Path(request.checkpoint))
    except CheckpointError:
        traceback.print_exc()
        return None
    if state.t < 1 and request.density < state.density - 1e-6:
        return state.with_tail(grids.remaining(state.t, request.density))
    return state


@dataclass(slots=True)
class _Steps:
    """What happens at every step: checkpoint, step log, beat, and foresight; in this order."""

    request: SongRequest
    attempt: Attempt
    pulse: Pulse
    began: float
    last: float = field(default_factory=time.monotonic)
    seconds: list[float] = field(default_factory=list)
    density: int = 0

    def event(self, event: Event) -> None:
        """A phase began or a chunk was decoded; steps come by way of `step`."""
        if event.phase == "sample" and event.step > 0 and event.seconds:
            return
        self.last = time.monotonic()
        left = event.steps - event.step
        self.pulse.progress(
            phase=event.phase,
            step=event.step,
            steps=event.steps,
            t=event.t,
            passes=event.passes,
            note=event.note,
            step_s=None,
            eta_s=left * event.seconds if event.seconds else None,
        )

    def step(self, state: State) -> tuple[float, ...] | None:
        from diffrhythm.sampling import save_state

        now = time.monotonic()
        self.seconds.append(now - self.last)
        self.last = now
        save_state(self.attempt.checkpoint, state)
        tail, note = self._thinned(state)
        if tail is not None:
            state = state.with_tail(tail)
        step_s = statistics.median(self.seconds[-5:])
        line = {
            "step": state.step,
            "steps": state.steps,
            "t": state.t,
            "seconds": round(self.seconds[-1], 4),
            "passes": state.passes,
            "latent_std": round(state.latent_std, 4),
            "wall": round(time.time(), 3),
        }
        with self.attempt.steps.open("a") as log:
            log.write(json.dumps(line) + "\n")
        self.pulse.progress(
            phase="sample",
            step=state.step,
            steps=state.steps,
            density=round(state.density),
            t=state.t,
            passes=state.passes,
            latent_std=state.latent_std,
            step_s=step_s,
            eta_s=(state.steps - state.step) * step_s,
            **({"note": note} if note else {}),
        )
        return tail

    def _thinned(self, state: State) -> tuple[tuple[float, ...] | None, str]:
        from diffrhythm import grids

        if not self.request.foresight or len(self.seconds) < foresight.MEASURED_STEPS:
            return None, ""
        remaining = state.steps - state.step
        keep = foresight.steps_that_fit(
            step_s=min(self.seconds[-2:]),
            elapsed_s=time.monotonic() - self.began,
            timeout_s=self.request.timeout_s,
            remaining=remaining,
            t=state.t,
        )
        if keep is None:
            return None, ""
        tail = grids.thin(state.t, state.time_grid[state.position + 1 :], keep)
        return tail, f"foresight: {keep} steps instead of {remaining} to end in time"


def _describe(request: SongRequest, song: Song, sound: Path, resume: State | None) -> dict[str, Any]:
    from runner.manifest import sha256

    return {
        "sha256": sha256(sound),
        "degraded": _degraded(request, song, resume),
        "duration": song.duration,
        "samples": song.audio.shape[-1],
        "sample_rate": song.sample_rate,
        "time_grid": list(song.time_grid),
        "passes": song.passes,
        "phases": {phase: round(seconds, 3) for phase, seconds in song.seconds.items()},
        "checks": asdict(song.checks),
        "warnings": list(song.warnings),
        "precision": song.precision,
        "versions": song.versions,
    }


def _degraded(request: SongRequest, song: Song, resume: State | None) -> str | None:
    """How the song is less than what was asked; None: it is not."""
    if request.mode == "estimate":
        t = resume.t if resume is not None else 0.0
        return f"an early estimate of its end, from t = {t:.2f}"
    walked = len(song.time_grid) - 1
    return f"{walked} steps instead of {request.steps}" if walked < request.steps else None


def _comment(request: SongRequest, song: Song) -> str:
    return f"DiffRhythm, model {request.model}, seed {request.seed}, {len(song.time_grid) - 1} steps"


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    sys.exit(main(sys.argv[1:]))
