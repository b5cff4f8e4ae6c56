"""The child. `check PAPER` answers for a whole batch, `sing REQUEST` makes one attempt at one song, `models
PAPER` gets, checks and finds models, `examine PAPER` says what of the model half works here, `compress
PAPER` makes sounds small enough to be sent.

The one module that imports both packages. It ends 0 with an outcome written, 3 for bad input, 4 when the
numbers went wrong, 5 without memory or disk, 1 for anything else.
"""

from __future__ import annotations

import errno
import faulthandler
import json
import math
import os
import signal
import statistics
import sys
import time
import traceback
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from diffrhythm.arithmetic import PUBLISHED
from diffrhythm.errors import BundleError, CheckpointError, DiffRhythmError, NumbersError
from diffrhythm.events import Event
from runner import foresight, processes
from runner.files import read_json, read_message, write_message
from runner.heartbeat import Pulse
from runner.manifest import sha256
from runner.messages import (
    EXIT_NO_ROOM,
    NOTE,
    Cause,
    Check,
    Examination,
    Format,
    MachineArithmetic,
    MeasuredArithmetic,
    ModelFacts,
    Outcome,
    SongAnswer,
    SongQuestion,
    SongRequest,
    SungLine,
)
from runner.meter import Meter, Steps
from runner.models import MOVED, Answer, Model, Question
from runner.models import read as read_paper
from runner.models import write as write_paper
from runner.songfolder import Attempt, SongFolder

if TYPE_CHECKING:
    from diffrhythm.arithmetic import Choice
    from diffrhythm.audio import Audio
    from diffrhythm.bundle import Bundle
    from diffrhythm.config import ModelConfig
    from diffrhythm.editing import Edit
    from diffrhythm.generate import Plan, Song
    from diffrhythm.machine_profile import Profile
    from diffrhythm.precision import Arithmetic, Precision
    from diffrhythm.presets import Preset
    from diffrhythm.published import Published
    from diffrhythm.sampling import State
    from diffrhythm.tuning import Tuning
    from diffrhythm.vae_config import VaeConfig

EXIT = {None: 0, "bad-input": 3, "no-bundle": 3, "numbers": 4}
EXIT |= dict.fromkeys(("out-of-memory", "no-disk"), EXIT_NO_ROOM)
# None: as the format has it.
SUBTYPES: dict[int, Literal["PCM_24", "FLOAT"] | None] = {16: None, 24: "PCM_24", 32: "FLOAT"}
# As many as a narrow terminal shows beside everything else.
PACES = 12
# Of the machine's memory, that a song may need where nobody asked for its arithmetic.
MEMORY_SHARE = 0.8
# A precision that takes this many times as long as the published way deserves a warning.
SLOW = 1.5
_NO_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
# What torch ("can't allocate memory", "CUDA out of memory"), C++ and oneDNN say, none with a type of its own.
_NO_MEMORY = (
    "allocate memory",
    "out of memory",
    "not enough memory",
    "bad_alloc",
    "bad alloc",
    "out_of_memory",
)


def main(arguments: Sequence[str]) -> int:
    faulthandler.enable()
    verb, paper = arguments
    verbs = {"check": check, "sing": sing, "models": models, "examine": examine, "compress": compress}
    return verbs[verb](Path(paper))


# ---------------------------------------------------------------- check


def check(paper: Path) -> int:
    """Answer every question of a batch, on the same paper."""
    asked = read_message(paper, Check)
    write_message(paper, replace(asked, answers=[_answer(question) for question in asked.questions]))
    return 0


def _answer(question: SongQuestion) -> SongAnswer:
    from diffrhythm import bundle, presets, tuning
    from diffrhythm.generate import Request, inspect

    found = ""
    try:
        chosen = presets.preset("standard" if question.preset == "auto" else question.preset)
        model = bundle.load(question.model)
        found = model.hash
        profile = _profile(model.config, model.vae_config)
        plan = inspect(model, Request(**_asked(question) | _run(question, chosen)))
        tuned = tuning.found(model)
    except DiffRhythmError as error:
        return SongAnswer(question.song, problems=str(error).splitlines(), warnings=[], model_hash=found)
    except OSError as error:
        words = f"{error.strerror}: {error.filename}; make it readable and writable, or set XDG_CACHE_HOME"
        return SongAnswer(question.song, problems=[words], warnings=[], model_hash=found)
    at_once = max(window.end - window.start for window in plan.windows)
    arithmetic = _arithmetic(question, model, profile, plan, tuned, chosen.steps)
    if question.preset == "auto":
        chosen = _auto(arithmetic, profile, plan)
    run = _run(question, chosen)
    arithmetic = _arithmetic(question, model, profile, plan, tuned, run["steps"])
    # Whoever names a solver means its own grid.
    usual = question.sampler is None and run["sampler"] == "sway"
    points = tuned.grid(run["steps"], run["cfg"]) if tuned and usual else None
    private, mapped = _memory(
        model.config, model.vae_config, plan.frames, at_once, arithmetic, chosen.chunk_frames
    )
    return SongAnswer(
        question.song,
        problems=[],
        warnings=[*_changed(question, model), *_slow(profile, arithmetic, at_once), *plan.warnings],
        duration=plan.duration,
        **run,
        grid=None if points is None else list(points),
        precision=arithmetic.precision,
        model_hash=model.hash,
        demo=model.demo,
        choice=_choice(question, chosen, run) + (" on a grid tuned to the model" if points else ""),
        private_bytes=private,
        mapped_bytes=mapped,
        model_folder=str(model.folder),
        lines=_lines(plan) if question.lines else [],
        chunk_frames=chosen.chunk_frames,
        overlap_frames=chosen.overlap_frames,
        **_work(model, plan, question.window, run, arithmetic, profile, chosen),
    )


@cache
def _profile(config: ModelConfig, vae: VaeConfig, *, again: bool = False) -> Profile:
    """What this machine takes for the work of a model of these sizes; measured where it is not known yet."""
    from diffrhythm import machine_profile
    from diffrhythm.precision import is_large

    def report(what: str) -> None:
        if is_large(config):
            print(f"{NOTE}measuring this machine, once, for up to half a minute: {what}", flush=True)

    return machine_profile.ensure(config, vae, again=again, report=report)


def _arithmetic(
    question: SongQuestion,
    model: Bundle,
    profile: Profile,
    plan: Plan,
    tuned: Tuning | None,
    steps: int,
) -> Choice:
    """Return how the song is calculated: as asked, else by the profile and by what a tuning found of int8.

    What needs more memory than this machine has is not taken unasked.
    """
    import psutil

    from diffrhythm import machine_profile, precision
    from diffrhythm.arithmetic import within_memory
    from diffrhythm.chunks import CHUNK_FRAMES
    from diffrhythm.generate import static_error

    at_once = max(window.end - window.start for window in plan.windows)
    harmful = tuned is not None and tuned.int8 is not None and not tuned.int8_is_harmless(steps)
    harmful_ones: tuple[Arithmetic, ...] = ("int8", "int8-static") if harmful else ()
    asked = precision.asked(question.precision)

    def settle(refused: Collection[Arithmetic]) -> Choice:
        return machine_profile.settle(
            profile,
            frames=at_once,
            passes=2 * steps * len(plan.windows),
            asked=asked,
            static_error=static_error(model),
            refused=(*harmful_ones, *refused),
        )

    def need_bytes(choice: Choice) -> int:
        return sum(_memory(model.config, model.vae_config, plan.frames, at_once, choice, CHUNK_FRAMES))

    if asked is not None:
        return settle(())
    return within_memory(settle, need_bytes, int(MEMORY_SHARE * psutil.virtual_memory().total))


def _lines(plan: Plan) -> list[SungLine]:
    from diffrhythm.lyrics import fits

    return [
        SungLine(
            number=fit.line.number,
            at_s=fit.line.seconds,
            text=fit.line.text,
            frame=fit.frame,
            late=fit.late,
            takes=fit.takes,
            has=fit.has,
            lost=fit.lost,
            sounds=list(fit.sounds),
            per_s=round(fit.per_s, 2) if math.isfinite(fit.per_s) else None,
        )
        for fit in fits(plan.lyrics, plan.alignment)
    ]


def _changed(question: SongQuestion, model: Bundle) -> list[str]:
    """A warning where the song is to be as one that was made with other files of its model."""
    if question.model_hash in (None, model.hash):
        return []
    return [f"{model.name}: its files have changed since the first one was made; this will be another song"]


def _slow(profile: Profile, arithmetic: Choice, frames: int) -> list[str]:
    """A warning where the precision that was asked for is much slower here than the published way."""
    published = profile.timing(PUBLISHED)
    if published is None or arithmetic.pass_s is None:
        return []
    ratio = arithmetic.pass_s / published.pass_s(frames)
    if ratio < SLOW:
        return []
    return [f"precision {arithmetic.precision} takes {ratio:.1f} times as long as fp32 here: leave it out"]


def _work(
    model: Bundle,
    plan: Plan,
    window: float | None,
    run: Mapping[str, Any],
    arithmetic: Choice,
    profile: Profile,
    chosen: Preset,
) -> dict[str, Any]:
    """Return a song's work, and how fast this machine does it by its profile."""
    from diffrhythm.precision import is_large
    from diffrhythm.sampling import passes_a_step

    pass_flops, decode_flops = _flops(
        model, plan.duration, window, chosen.chunk_frames, chosen.overlap_frames
    )
    decoder = _measured_decoder(model.vae_config, arithmetic, pass_flops)
    return {
        "passes": passes_a_step(run["sampler"], run["cfg"]) * len(plan.windows),
        "pass_flops": pass_flops,
        "decode_flops": decode_flops,
        "pass_s": arithmetic.pass_s or 0.0,
        "threads": arithmetic.threads or 0,
        # Small models are quick, whatever they are calculated in.
        "provisional": is_large(model.config) and not profile.is_quiet,
        "decoder_speed": decoder.speed,
        "decoder_around_s": decoder.around_s,
    }


def _measured_decoder(vae: VaeConfig, arithmetic: Choice, pass_flops: int) -> foresight.Decoder:
    """Return the decoder as this machine's profile has it."""
    from diffrhythm import cost
    from diffrhythm.vae_config import HOP, SAMPLE_RATE

    if arithmetic.decode_s is None or not arithmetic.pass_s:
        return foresight.UNKNOWN
    frames = SAMPLE_RATE // HOP
    decode_flop_s = cost.of_decoder(vae, frames) / (arithmetic.decode_s * frames * HOP / SAMPLE_RATE)
    speed = decode_flop_s / (pass_flops / arithmetic.pass_s)
    return foresight.Decoder(speed, arithmetic.open_s + foresight.CHECK_S)


def _memory(
    config: ModelConfig,
    vae: VaeConfig,
    frames: int,
    at_once: int,
    arithmetic: Choice,
    chunk_frames: int,
) -> tuple[int, int]:
    """What a song's process will have for itself, and what it shares with others of its model."""
    from diffrhythm import cost
    from diffrhythm.precision import PRECISION_OF

    compiled = arithmetic.passes != PUBLISHED
    private = cost.private_bytes(
        config,
        vae,
        frames=frames,
        at_once=at_once,
        chunk_frames=chunk_frames,
        precision=arithmetic.precision,
        compiled=compiled,
        decoder=PRECISION_OF[arithmetic.decoder],
    )
    return private, cost.mapped_bytes(config, compiled=compiled)


def _run(question: SongQuestion, chosen: Preset) -> dict[str, Any]:
    """Steps, guidance and solver: as asked, else as the preset has them."""
    return {
        "steps": chosen.steps if question.steps is None else question.steps,
        "cfg": chosen.cfg if question.cfg is None else question.cfg,
        "sampler": question.sampler or chosen.sampler,
    }


def _auto(arithmetic: Choice, profile: Profile, plan: Plan) -> Preset:
    """Return the preset that suits this machine, by how long sampling this song takes in standard.

    Programs that were busy while it was measured need not be while the song is made.
    """
    from diffrhythm import presets

    passes = 2 * presets.PRESETS["standard"].steps * len(plan.windows)
    threads = arithmetic.threads or processes.usable_cores()
    words = f"{arithmetic.precision} on {threads} core{'s' if threads > 1 else ''}"
    return presets.auto(passes * (arithmetic.pass_s or 0.0) * (1 - profile.busy), words)


def _choice(question: SongQuestion, chosen: Preset, run: Mapping[str, Any]) -> str:
    """Why these steps and this guidance."""
    asked = [name for name in ("steps", "cfg") if getattr(question, name) is not None]
    why = f"preset {question.preset}: {chosen.why}" if len(asked) < 2 else "as asked"
    if len(asked) == 1:
        why = (
            f"{'steps' if asked == ['steps'] else 'guidance'} as asked, the rest by preset {question.preset}"
        )
    return f"{run['steps']} steps, guidance {run['cfg']:g} ({why})"


def _asked(asked: SongQuestion | SongRequest) -> dict[str, Any]:
    """What a question and a request have in common, in the words of diffrhythm.generate."""
    return {
        "lyrics": asked.lyrics,
        "lyrics_source": asked.lyrics_source,
        "lyrics_first_line": asked.lyrics_first_line,
        "style": asked.style,
        "style_clip": Path(asked.style_audio) if asked.style_audio else None,
        "negative_style": asked.negative_style,
        "duration": asked.duration,
        "window": asked.window,
        "language": asked.language,
        "lyrics_compat": asked.lyrics_compat,
        "precision": asked.precision,
        "edit": _edit(asked),
    }


def _edit(asked: SongQuestion | SongRequest) -> Edit | None:
    from diffrhythm.editing import Edit

    if asked.edit_source is None:
        return None
    return Edit(Path(asked.edit_source), tuple((start, end) for start, end in asked.edit_spans))


# ---------------------------------------------------------------- sing


def sing(paper: Path) -> int:
    began = time.monotonic() - processes.age_s()
    request = read_message(paper, SongRequest)
    attempt, folder = Attempt(paper.parent), SongFolder(paper.parents[2])
    outcome = _attempt(request, attempt, folder, began)
    try:
        write_message(attempt.outcome, outcome)
    except OSError as error:
        _log_traceback()
        return EXIT_NO_ROOM if error.errno in _NO_DISK else 1
    if outcome.cause is None:
        _draw(attempt, request)
    return EXIT.get(outcome.cause, 1)


def _draw(attempt: Attempt, request: SongRequest) -> None:
    """A picture of the sound, once its outcome is written: nothing that happens here costs the song."""
    from diffrhythm import audio, files, pictures

    try:
        sound = audio.read(attempt.audio(request.format))
        files.replace(attempt.spectrogram, pictures.spectrogram(sound))
    except Exception:  # noqa: BLE001 — a song without its picture is a song
        _log_traceback()


def _attempt(request: SongRequest, attempt: Attempt, folder: SongFolder, began: float) -> Outcome:
    """The song, or why there is none; the traceback goes to the log, the one line to the outcome."""
    try:
        # A disk may be full at the very first beat.
        pulse = Pulse(folder.heartbeat, song=request.song, attempt=request.attempt, density=request.density)
        pulse.start()
        return _make(request, attempt, pulse, began)
    except Exception as error:  # noqa: BLE001 — whatever it is, the parent shall hear of it in words
        return _failed(request, _cause(error), error)


def _cause(error: Exception) -> Cause:
    """Memory first: a bundle that could not be read for want of it is not a bad one."""
    if _is_out_of_memory(error):
        return "out-of-memory"
    if isinstance(error, NumbersError):
        return "numbers"
    if isinstance(error, BundleError):
        return "no-bundle"
    if isinstance(error, DiffRhythmError):  # no second attempt would read anything else
        return "bad-input"
    return "no-disk" if isinstance(error, OSError) and error.errno in _NO_DISK else "crash"


def _is_out_of_memory(error: BaseException) -> bool:
    """Did an allocation fail, be it behind this error?"""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    if not isinstance(error, DiffRhythmError) and any(words in str(error).lower() for words in _NO_MEMORY):
        return True
    behind = error.__cause__ or error.__context__
    return behind is not None and _is_out_of_memory(behind)


def _failed(request: SongRequest, cause: Cause, error: BaseException) -> Outcome:
    _log_traceback()
    words = str(error) or type(error).__name__
    if cause == "out-of-memory":
        words = f"out of memory: {' '.join(words.split())}"
    return Outcome(request.attempt, cause, words if cause != "crash" else f"{type(error).__name__}: {words}")


def _log_traceback() -> None:
    with suppress(OSError):  # the log may be on the very disk that is full
        traceback.print_exc()


def _make(request: SongRequest, attempt: Attempt, pulse: Pulse, began: float) -> Outcome:
    import torch

    from diffrhythm import bundle
    from diffrhythm.generate import estimate, generate

    torch.set_num_threads(request.threads)
    model = bundle.load(request.model)
    if model.hash != request.model_hash:
        raise BundleError(
            f"{request.model}: changed since this batch was checked; run the same command again"
        )
    resume = _resume(request)
    steps = _Steps(request, attempt, pulse, began, model, _decoder(request))
    steps.passes = 0 if resume is None else resume.passes
    if request.mode == "estimate":
        if resume is None or request.duration is None:
            raise CheckpointError(f"no usable checkpoint: {request.checkpoint}: make the song again")
        song = estimate(
            model,
            resume,
            duration=request.duration,
            window=request.window,
            chunk_frames=request.chunk_frames,
            overlap_frames=request.overlap_frames,
            edit=_edit(request),
            seed=request.seed,
            on_event=steps.event,
        )
    else:
        make = partial(
            generate,
            model,
            **_asked(request),
            seed=request.seed,
            steps=request.density,
            cfg=request.cfg,
            sampler=request.sampler,
            # With other steps than were asked for, the sampler's own grid has to do.
            grid=tuple(request.grid) if request.grid and len(request.grid) == request.density + 1 else None,
            chunk_frames=request.chunk_frames,
            overlap_frames=request.overlap_frames,
            on_event=steps.event,
            on_step=steps.step,
        )
        resumed = None
        try:
            resumed = make(resume=resume)
        except CheckpointError:  # of another song, or of a version that counted otherwise
            _log_traceback()
            steps.passes = 0
        # Behind the error, whose frames keep the model that was opened.
        song = make() if resumed is None else resumed
    steps.event(Event("write"))
    return _write(request, attempt, model, song, resume, steps)


def _write(
    request: SongRequest,
    attempt: Attempt,
    model: Bundle,
    song: Song,
    resume: State | None,
    steps: _Steps,
) -> Outcome:
    """Put the song beside its request, at its loudness and with its tags."""
    from diffrhythm import audio, pictures

    began = time.monotonic()
    sound = audio.fade_out(song.audio, request.fade_out or 0.0)  # loudness is of what will be heard
    if request.loudness is not None:
        sound = audio.to_loudness(sound, request.loudness)
    file = attempt.audio(request.format)
    job, _, name = request.song.partition("/")
    tags = audio.Tags(
        title=_title(request, name),
        album=job,
        style=request.style or Path(request.style_audio or "").name,
        seed=request.seed,
        model=model.name,
        demo=model.demo,
    )
    audio.write(file, sound, request.format, subtype=SUBTYPES[request.bits], tags=tags)
    seconds = {**song.seconds, "write": time.monotonic() - began}
    decoder = steps.decoder_shown(song.seconds["decode"])
    made = {
        "sha256": sha256(file),
        "degraded": _degraded(request, song, resume),
        "model": model.name,
        "duration": song.duration,
        "samples": sound.shape[-1],
        "sample_rate": song.sample_rate,
        "time_grid": list(song.time_grid),
        "windows": [asdict(window) for window in song.windows],
        "passes": song.passes,
        "phases": {phase: round(took, 3) for phase, took in seconds.items()},
        "sound_sha256": audio.digest(sound),
        "checks": _checks(file, sound, request.format),
        "latent_std": round(song.latent_std, 4),
        "warnings": list(song.warnings),
        "lines": _read_along(request, song.duration),
        "outline": pictures.outline(sound),
        "precision": song.precision,
        "arithmetic": {"passes": song.arithmetic.passes, "decoder": song.arithmetic.decoder},
        "decoder": None if decoder is None else asdict(decoder),
        **steps.paced(),
        "versions": {name: version(name) for name in ("torch", "numpy", "diffrhythm-runner")},
    }
    return Outcome(request.attempt, None, "made", t=1.0, song=made)


def _title(request: SongRequest, name: str) -> str:
    """The title in the lyrics, with what tells a take from the others; else the song's name."""
    from diffrhythm.lyrics import parse_lrc

    if request.lyrics is None or request.lyrics_compat == "published":
        return name
    title, take = parse_lrc(request.lyrics).title, name.partition(".")[2]
    return f"{title} ({take})" if title and take else title or name


def _checks(file: Path, sound: Audio, format: Format) -> dict[str, Any]:
    """What a player finds in the file: mp3 and ogg give back other samples than they were given."""
    from diffrhythm import audio

    return asdict(audio.check(sound if format in ("wav", "flac") else audio.decoded(file)))


def _read_along(request: SongRequest, duration: float) -> list[dict[str, float | str]]:
    """The lines that are sung and when, for those who read along."""
    from diffrhythm.lyrics import parse_lrc

    published = request.lyrics_compat == "published"
    lines = parse_lrc(request.lyrics or "", source=request.lyrics_source, published=published)
    return [{"start": line.seconds, "text": line.text} for line in lines if line.seconds < duration]


def _resume(request: SongRequest) -> State | None:
    """The checkpoint's state, its remaining grid as dense as asked; None: begin from the noise.

    A checkpoint that cannot be read costs its steps, not the song.
    """
    from diffrhythm.sampling import load_state

    if request.checkpoint is None:
        return None
    try:
        state = load_state(Path(request.checkpoint))
    except CheckpointError:
        _log_traceback()
        return None
    return state.thinned(request.density)


@dataclass(slots=True)
class _Steps:
    """What happens at every step: foresight, checkpoint, step log, beat; in this order.

    decoder: as it is foreseen. passes: of the transformer, so far. pass_s: seconds of one, at each step of
    this attempt. chunks: seconds of each decoded one. doubted: the machine's profile is in doubt.
    """

    request: SongRequest
    attempt: Attempt
    pulse: Pulse
    began: float
    model: Bundle
    decoder: foresight.Decoder
    passes: int = 0
    last: float = field(default_factory=time.monotonic)
    seconds: list[float] = field(default_factory=list)
    pass_s: list[float] = field(default_factory=list)
    chunks: list[float] = field(default_factory=list)
    left: foresight.Left | None = None
    doubted: bool = False

    def event(self, event: Event) -> None:
        """A phase began, or a chunk was encoded or decoded; steps come by way of `step`."""
        if event.phase == "sample" and event.step > 0:
            return
        if event.step == 0:  # a phase begins, and what the one before it used is free
            processes.give_back()
        self.last = time.monotonic()
        if event.phase == "decode" and event.step > 0:
            self.chunks.append(event.seconds)
        self.pulse.progress(
            **_paces(self.chunks if event.phase == "decode" else []),
            phase=event.phase,
            step=event.step,
            steps=event.steps,
            t=event.t,
            passes=event.passes,
            note=event.note,
            step_s=None,
            eta_s=self._left_at(event),
        )

    def _left_at(self, event: Event) -> float | None:
        """Seconds to the song's end behind sampling; None before it."""
        if event.phase == "write":
            return self._write_s
        if event.phase != "decode":
            return None
        foreseen_s = None if self.left is None else self.left.decode
        if event.step == 0:
            return None if foreseen_s is None else foreseen_s + self._write_s
        return foresight.decoding_s(self.chunks, event.steps - event.step, foreseen_s) + self._write_s

    @property
    def _write_s(self) -> float:
        return foresight.WRITE_S * (self.request.duration or 0.0)

    def step(self, state: State) -> State:
        from diffrhythm.sampling import save_state

        now = time.monotonic()
        self.seconds.append(now - self.last)
        self.pass_s.append(self.seconds[-1] / max(1, state.passes - self.passes))
        self.last, self.passes = now, state.passes
        state, note = self._thinned(state)
        slower = self._slower()
        if slower is not None and not self.doubted:
            self._doubt()
            note = "; ".join(filter(None, (note, _slower_words(slower))))
        save_state(self.attempt.checkpoint, state)
        self.left = self._left(state)
        line = {
            "step": state.step,
            "steps": state.steps,
            "t": state.reached,
            "seconds": round(self.seconds[-1], 4),
            "passes": state.passes,
            "latent_std": round(state.latent_std, 4),
            "left": {phase: round(left_s, 3) for phase, left_s in asdict(self.left).items()},
            "wall": round(time.time(), 3),
        }
        with self.attempt.steps.open("a") as log:
            log.write(json.dumps(line) + "\n")
        self.pulse.progress(
            phase="sample",
            step=state.step,
            steps=state.steps,
            # As float, 12 steps may be 11.9999999.
            density=math.floor(min((state.density, *state.later)) + 1e-6),
            t=state.reached,
            passes=state.passes,
            latent_std=state.latent_std,
            slower=slower,
            step_s=statistics.median(self.seconds[-foresight.PACED :]),
            eta_s=self.left.all,
            **_paces(self.pass_s),
            **({"note": note} if note else {}),
        )
        return state

    def _slower(self) -> float | None:
        """Return how many times as long as profiled a pass takes, where that is much; else None.

        A small model's pace depends more on what else a machine does than on the machine.
        """
        from diffrhythm.precision import is_large

        if not is_large(self.model.config):
            return None
        return foresight.much_slower(self.pass_s, self.request.pass_s)

    def _doubt(self) -> None:
        from diffrhythm import machine_profile

        self.doubted = True
        machine_profile.doubt(self.model.config, self.model.vae_config)

    def _left(self, state: State) -> foresight.Left:
        from diffrhythm.sampling import passes_left

        passes = passes_left(state, cfg=self.request.cfg, sampler=self.request.sampler)
        pass_s = foresight.pace(self.pass_s)
        pass_flops, decode_flops = self._flops()
        return foresight.Left(
            sample=passes * pass_s,
            decode=foresight.decode_s(
                self.decoder, pass_s=pass_s, pass_flops=pass_flops, decode_flops=decode_flops
            ),
            write=self._write_s,
        )

    def _flops(self) -> tuple[int, int]:
        request = self.request
        duration = request.duration or self.model.longest
        return _flops(self.model, duration, request.window, request.chunk_frames, request.overlap_frames)

    def paced(self) -> dict[str, Any]:
        """Seconds of a pass and its work, for the forecast of others; empty where too little was measured."""
        if len(self.pass_s) < foresight.MEASURED_STEPS:
            return {}
        return {"pass_s": foresight.pace(self.pass_s), "pass_flops": self._flops()[0]}

    def decoder_shown(self, decoded_s: float) -> foresight.Decoder | None:
        """As this song has shown it; None where too little was measured."""
        if self.request.duration is None or len(self.pass_s) < foresight.MEASURED_STEPS:
            return None
        pass_flops, decode_flops = self._flops()
        return foresight.decoder_shown(
            self.chunks,
            decoded_s=decoded_s,
            pass_s=foresight.pace(self.pass_s),
            pass_flops=pass_flops,
            decode_flops=decode_flops,
        )

    def _thinned(self, state: State) -> tuple[State, str]:
        """The state with a grid that fits the time, and a word about it."""
        if not self.request.foresight or len(self.seconds) < foresight.MEASURED_STEPS:
            return state, ""
        left, remaining = self._left(state), state.steps - state.step
        elapsed_s = time.monotonic() - self.began - self.pulse.lost_s
        keep = foresight.steps_that_fit(
            sample_s=left.sample,
            left_s=foresight.sampling_s(self.request.timeout_s, left.decode + left.write) - elapsed_s,
            remaining=remaining,
            t=state.t - len(state.later),  # each window to come is a whole grid more
        )
        if keep is None:
            return state, ""
        return state.spread(keep), f"foresight: {keep} steps instead of {remaining} to end in time"


def _slower_words(ratio: float) -> str:
    return (
        f"a pass takes {ratio:.1f} times as long as this machine's profile says; "
        "the machine is measured again before the next song"
    )


def _paces(seconds: Sequence[float]) -> dict[str, Any]:
    """What a beat tells of the seconds of passes, or chunks, so far."""
    return {"paces_s": [round(each, 4) for each in seconds[-PACES:]], "fastest_s": min(seconds, default=None)}


def _flops(
    model: Bundle, duration: float, window: float | None, chunk_frames: int, overlap_frames: int | None
) -> tuple[int, int]:
    """Of a pass, which is over one window, and of all chunks of the decoder."""
    from diffrhythm import chunks, cost
    from diffrhythm.bundle import frames_of

    at_once = model.duration_frames(min(duration, window or duration))
    frames = max(at_once, frames_of(duration))
    if overlap_frames is None:
        decoded = chunks.cut(model.vae_config, frames, chunk_frames).computed_frames
    else:
        decoded = sum(
            span.stop - span.start for span in chunks.chunk_spans(frames, chunk_frames, overlap_frames)
        )
    return (
        cost.of_pass(model.config, at_once),
        cost.of_decoder(model.vae_config, decoded),
    )


def _decoder(request: SongRequest) -> foresight.Decoder:
    """Return the decoder as a song before has shown it, else as the machine's profile has it."""
    speed, around_s = request.decoder_speed, request.decoder_around_s
    return foresight.UNKNOWN if speed is None or around_s is None else foresight.Decoder(speed, around_s)


def _degraded(request: SongRequest, song: Song, resume: State | None) -> str | None:
    """How the song is less than what was asked; None: it is not."""
    if request.mode == "estimate":
        t = resume.t if resume is not None else 0.0
        return f"an early estimate of its end, from t = {t:.2f}"
    walked = len(song.time_grid) - 1
    return f"{walked} steps instead of {request.steps}" if walked < request.steps else None


# ---------------------------------------------------------------- compress


def compress(paper: Path) -> int:
    """Write the paper's sounds as mp3 beside it, 0.mp3 and on, until they have so many bytes. One that cannot
    be read is passed over."""
    from diffrhythm import audio
    from diffrhythm.errors import AudioError

    asked = read_json(paper)
    left = asked["most_bytes"]
    for number, sound in enumerate(map(Path, asked["sounds"])):
        small = paper.with_name(f"{number}.mp3")
        try:
            audio.write(small, audio.read(sound), "mp3")
        except AudioError:
            _log_traceback()
            continue
        left -= small.stat().st_size
        if left < 0:
            small.unlink()
            break
    return 0


# ---------------------------------------------------------------- models


def models(paper: Path) -> int:
    """Do what the paper asks and write on it what came of it; how far it is goes to stderr."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))  # clearing up on the way
    question = read_paper(paper, Question)
    verbs = {"list": _list, "pull": _pull, "import": _import, "verify": _verify, "path": _path}
    try:
        if question.verb in ("tune", "calibrate"):
            work = _tune if question.verb == "tune" else _calibrate
            answer = work(question, Steps(sys.stderr, paper.with_name(MOVED)))
        else:
            answer = verbs[question.verb](question, Meter(sys.stderr))
    except DiffRhythmError as error:
        answer = Answer(problems=[str(error)])
    except OSError as error:
        answer = Answer(
            problems=[f"{error.strerror}: {error.filename or 'the disk'}; make room, run it again"]
        )
    write_paper(paper, answer)
    return 0


def _list(question: Question, report: Meter) -> Answer:
    from diffrhythm import bundle, published

    rows = [_row(bundle.load("demo"))]
    for name, model in published.MODELS.items():
        folder = published.models_folder() / name
        absent = Model(
            name, "absent", str(folder), model.bundle_bytes, _durations(model.durations), model.licence
        )
        try:
            rows.append(_row(bundle.load(name)))
        except BundleError as error:
            there = (folder / bundle.ABOUT).exists()
            rows.append(
                replace(absent, state="damaged", note=str(error))
                if there
                else replace(absent, note=f"runner models pull {name}")
            )
    return Answer(models=[asdict(row) for row in rows])


def _row(here: Bundle) -> Model:
    size = sum(entry.bytes for entry in here.about.files.values())
    durations = here.about.model_dump()["durations"]
    return Model(here.name, "whole", str(here.folder), size, _durations(durations), here.about.licence)


def _durations(durations: list[float] | dict[str, float]) -> str:
    if isinstance(durations, dict):
        return f"{durations['min']:g}-{durations['max']:g} s"
    return ", ".join(f"{seconds:g}" for seconds in durations) + " s"


def _pull(question: Question, report: Meter) -> Answer:
    from diffrhythm import hub, mulan, published

    model, folder = _published(question), published.models_folder()
    made = hub.pull(model, folder, source=Path(question.source) if question.source else None, report=report)
    hub.pull_encoder(report=report)
    words = [_made(model.name, folder, made), f"licences: {model.licence}; style encoder: {mulan.LICENCE}"]
    return Answer(words=words)


def _import(question: Question, report: Meter) -> Answer:
    from diffrhythm import install, published

    model, folder = _published(question), published.models_folder()
    made = install.import_files(
        model,
        folder,
        transformer=Path(question.dit or ""),
        vae=Path(question.vae or ""),
        source=Path(question.source or ""),
        report=report,
    )
    return Answer(words=[_made(model.name, folder, made)])


def _published(question: Question) -> Published:
    from diffrhythm.published import MODELS

    if question.name not in MODELS:
        raise BundleError(f"no published model {question.name!r}: NAME; choose {' or '.join(MODELS)}")
    return MODELS[question.name]


def _made(name: str, folder: Path, made: bool) -> str:
    return f"{name}: {'ready' if made else 'was there, and is whole'}: {folder / name}"


def _verify(question: Question, report: Meter) -> Answer:
    from diffrhythm import bundle

    words, problems = [], []
    for name in [question.name] if question.name else ["demo", *_installed()]:
        try:
            model = bundle.load(name)
            bundle.verify(model, report)
            words.append(f"{model.name}: whole: {model.folder}")
        except BundleError as error:
            problems.append(str(error))
    return Answer(words=words, problems=problems)


def _tune(question: Question, report: Steps) -> Answer:
    import torch

    from diffrhythm import bundle, tuning

    torch.set_num_threads(processes.usable_cores())
    model = bundle.load(question.name or "")
    made = tuning.tune(model, songs=question.songs, steps=question.steps, report=report)
    words = [
        f"{len(grid.points) - 1} steps: error {grid.error:.3f} on the grid that was found, "
        f"{grid.swayed_error:.3f} on the usual one: {'taken' if grid.is_better else 'left'}"
        for grid in made.grids
    ]
    if made.int8 is not None:
        words.append(
            f"int8 adds {made.int8.error:.3f} to an error of {made.int8.of_steps:.3f}: "
            f"{'harmless' if made.int8.is_harmless else 'left to those who ask for it'}"
        )
    return Answer(words=[*words, f"written: {model.folder / tuning.FILE}"])


def _calibrate(question: Question, report: Steps) -> Answer:
    by_hand = f"by hand: runner models calibrate {question.name}"
    try:
        return Answer(words=_calibrated(question, report, by_hand))
    except DiffRhythmError as error:
        if not question.unasked:
            raise
        return Answer(words=[f"not calibrated for int8: {error}; {by_hand}"])


def _calibrated(question: Question, report: Steps, by_hand: str) -> list[str]:
    import torch

    from diffrhythm import bundle, calibration, calibration_file, precision

    torch.set_num_threads(processes.usable_cores())
    model = bundle.load(question.name or "")
    if question.unasked:
        why_not = calibration.why_not(
            model.config,
            is_calibrated=calibration_file.found(model) is not None,
            int8_is_worth_trying=not precision.INT8_FLAGS.isdisjoint(precision.cpu_flags()),
        )
        if why_not:
            return [f"not calibrated for int8: {why_not}; {by_hand}"]
    made = calibration.calibrate(model, songs=question.songs, report=report)
    counts = Counter(made.forms.values())
    found = calibration_file.found(model)
    return [
        f"velocity off by {made.error:.1%} in static int8, {made.dynamic_error:.1%} in dynamic: "
        f"{'static' if found is not None and found.serves else 'dynamic'} is taken where int8 is",
        f"linears: {counts['static']} static, {counts['dynamic']} dynamic, {counts['float']} in float",
        f"written: {model.folder / calibration_file.FILE}",
    ]


def _installed() -> list[str]:
    """Names of the published models that are here, whole or not."""
    from diffrhythm import bundle, published

    return [name for name in published.MODELS if (published.models_folder() / name / bundle.ABOUT).exists()]


def _path(question: Question, report: Meter) -> Answer:
    from diffrhythm import bundle

    return Answer(folder=str(bundle.load(question.name or "").folder))


# ---------------------------------------------------------------- examine

# Above, reading every byte takes longer than anybody waits for; sizes are compared.
READ_WHOLE_BYTES = 2**28


def examine(paper: Path) -> int:
    """Say on the paper what of the model half works on this machine, and how fast."""
    asked = read_message(paper, Examination)
    write_message(paper, _examined(asked), durable=False)
    return 0


def _examined(asked: Examination) -> Examination:
    from diffrhythm import health

    broken = list(health.packages())
    if broken:
        return replace(asked, broken=broken)
    from diffrhythm import files, precision, published

    folder = files.cache_folder()
    arithmetic, found = "", None
    try:
        wanted = precision.asked("auto")
        found = _machine_arithmetic(published.BASE.config, wanted, again=asked.measure)
        arithmetic = wanted or precision.PRECISION_OF[cast("Arithmetic", found.chosen)]
    except DiffRhythmError as error:
        arithmetic = str(error)
    return replace(
        asked,
        packages=len(health.NATIVE) + len(health.PURE),
        torch=version("torch"),
        espeak=health.espeak(),
        encoders=list(health.encoders()),
        cache_folder=str(folder),
        cache=health.cache(folder),
        cached=sum(1 for _ in (folder / "styles").glob("*.f32")),
        precision=arithmetic,
        models=[_facts(asked.model)] if asked.model else _usual_facts(),
        arithmetic=found,
    )


def _machine_arithmetic(config: ModelConfig, wanted: Precision | None, *, again: bool) -> MachineArithmetic:
    """Return what was measured on this machine at the published size, and what follows from it."""
    from diffrhythm import machine_profile
    from diffrhythm.vae_config import VaeConfig

    vae, frames = VaeConfig(), config.max_frames
    profile = _profile(config, vae, again=again)
    choice = machine_profile.settle(profile, frames=frames, asked=wanted)
    candidates = [
        MeasuredArithmetic(each.name, round(each.pass_s(frames), 3), each.decode_s, each.threads, each.error)
        for each in profile.timings
    ]
    return MachineArithmetic(
        chosen=choice.passes,
        decoder=choice.decoder,
        reason=choice.reason,
        published_pass_s=next(each.pass_s for each in candidates if each.name == PUBLISHED),
        candidates=candidates,
        frames=frames,
        busy=round(profile.busy, 3),
        measured_wall=profile.measured_wall,
    )


def _usual_facts() -> list[ModelFacts]:
    """Of the demo and every published model that is here; without any, what the smaller one would take."""
    from diffrhythm import published

    return [_facts(name) for name in ("demo", *(_installed() or [published.BASE.name]))]


def _facts(name: str) -> ModelFacts:
    from diffrhythm import bundle, published
    from diffrhythm.vae_config import VaeConfig

    try:
        model = bundle.load(name)
        size = sum(entry.bytes for entry in model.about.files.values())
        if size <= READ_WHOLE_BYTES:
            bundle.verify(model)
        facts = ModelFacts(model.name, here=True, bytes=size, verified=size <= READ_WHOLE_BYTES)
        facts = replace(facts, style=_style_problem(model))
        config, vae, duration = model.config, model.vae_config, model.longest
        frames = model.duration_frames(duration)
    except DiffRhythmError as error:
        known = published.MODELS.get(name)
        there = (published.models_folder() / name / bundle.ABOUT).exists()
        if known is None or there:
            return ModelFacts(name, here=False, problem=str(error))
        facts = ModelFacts(name, here=False, bytes=known.bundle_bytes)
        config, vae, frames = known.config, VaeConfig(), known.config.max_frames
        listed = known.durations
        duration = listed["max"] if isinstance(listed, dict) else max(listed)
    return _timed(replace(facts, duration=duration), config, vae, frames)


def _style_problem(model: Bundle) -> str:
    from importlib.util import find_spec

    from diffrhythm import mulan

    if model.about.style_encoder != "muq-mulan":
        return ""
    if find_spec("muq") is None:
        return (
            "the style encoder's packages are not installed; "
            "get them with: make setup EXTRA=mulan, or install diffrhythm-runner[mulan]"
        )
    try:
        mulan.locate(model)
    except BundleError as error:
        return str(error)
    return ""


def _timed(facts: ModelFacts, config: ModelConfig, vae: VaeConfig, frames: int) -> ModelFacts:
    """With the arithmetic that would be chosen, and of a large model about what its longest song takes in it.

    A small one's pace depends more on what else a machine does than on the machine.
    """
    from diffrhythm import chunks, machine_profile, precision, presets
    from diffrhythm.vae_config import HOP, SAMPLE_RATE

    facts = replace(facts, large=precision.is_large(config))
    try:
        wanted = precision.asked("auto")
    except DiffRhythmError:  # said once, as the arithmetic of this machine
        return facts
    choice = machine_profile.settle(_profile(config, vae), frames=frames, asked=wanted)
    private, mapped = _memory(config, vae, frames, frames, choice, chunks.CHUNK_FRAMES)
    facts = replace(facts, precision=choice.precision, need_bytes=private + mapped)
    if not facts.large or choice.pass_s is None:
        return facts
    decoded = chunks.cut(vae, frames, chunks.CHUNK_FRAMES).computed_frames
    decode_s = (choice.decode_s or 0.0) * decoded * HOP / SAMPLE_RATE
    passes = 2 * presets.preset("standard").steps
    return replace(facts, song_s=passes * choice.pass_s + choice.open_s + decode_s)


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    sys.exit(main(sys.argv[1:]))
