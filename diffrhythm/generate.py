"""The pipeline of one song: lyrics → style → (encode →) load → sample → decode → checks, told in Events.

t latent frames · n samples
One big thing is in memory at a time: the style encoder goes before the transformer comes, and that
before the VAE.
"""

from __future__ import annotations

import html
import inspect as signatures
import math
import sys
import time
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, get_args

import torch

from diffrhythm import (
    audio,
    calibration_file,
    chunks,
    conditioning,
    editing,
    machine_profile,
    sampling,
    solvers,
    vae,
)
from diffrhythm import style as styles
from diffrhythm.arithmetic import PUBLISHED, Choice
from diffrhythm.audio import FORMATS, Audio, Checks, Tags
from diffrhythm.bundle import Bundle, frames_of
from diffrhythm.chunks import CHUNK_FRAMES, Cut
from diffrhythm.editing import Edit, Known
from diffrhythm.errors import BundleError, CheckpointError, LyricsError, RequestError, StyleError
from diffrhythm.events import Event, Phase
from diffrhythm.lyrics import Alignment, Lyrics, align, parse_lrc
from diffrhythm.phonemes import Language
from diffrhythm.precision import INT8_FLAGS, PRECISION_OF, Arithmetic, Precision, cpu_flags, is_large
from diffrhythm.precision import asked as asked_precision
from diffrhythm.presets import preset as preset_named
from diffrhythm.sampling import Before, Passes, State
from diffrhythm.transformer import DiT
from diffrhythm.vae_config import LATENT_CHANNELS, SAMPLE_RATE
from diffrhythm.windows import Window, cover

Compat = Literal["ours", "published"]
OnEvent = Callable[[Event], None]
# May give the same state with another grid to go on with (sampling.OnStep).
OnStep = Callable[[State], State | None]

# What follows the last line when the song's length is ours to choose.
TAIL_S = 4.0
# Between the samples and in lossy formats a song rises above its own peak.
PEAK_DBFS = -1.0
# Frames that the windows of a long song share at least: 8 s, a bar of a slow song and more.
OVERLAP = 172
# The demo, which holds each vowel for so many frames, has beats of 2, 3 or 4 vowels, counted from its first
# frame. It goes on in time only in windows that begin on a beat of all three (benchmarks/seams.py).
SYLLABLES = 12

_MAX_STEPS = 1000
_MAX_CFG = 100.0
_MAX_CHUNK = 6144
# A notebook keeps what it shows: an mp3 of so much is about ten megabytes in it.
_LONGEST_SHOWN_S = 600.0
# As job files have it: beyond, a time in the lyrics is a slip of the pen.
_LONGEST_S = 3600.0


@dataclass(frozen=True, slots=True)
class Request:
    """What a song is asked to be; see generate."""

    lyrics: str | None
    style: str | None = None
    style_clip: Path | None = None
    negative_style: str | None = None
    duration: float | None = None
    window: float | None = None
    seed: int = 0
    steps: int = 16
    cfg: float = 4.0
    sampler: str = "euler"
    grid: tuple[float, ...] | None = None
    language: Language = "auto"
    lyrics_compat: Compat = "ours"
    lyrics_source: str = "lyrics.lrc"
    lyrics_first_line: int = 1
    precision: str = "auto"
    chunk_frames: int = CHUNK_FRAMES
    overlap_frames: int | None = None
    edit: Edit | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What a request comes to with this model, known before any weight is read.

    duration: seconds. frames: of the latent. windows: that cover them, one where the song is made at once.
    arithmetic: how it is calculated on this machine. warnings: about the lyrics, one line each.
    """

    duration: float
    frames: int
    windows: tuple[Window, ...]
    lyrics: Lyrics
    alignment: Alignment
    arithmetic: Choice
    warnings: tuple[str, ...]

    @property
    def precision(self) -> Precision:
        """Return the precision of the transformer's passes."""
        return self.arithmetic.precision


@dataclass(frozen=True, slots=True)
class Song:
    """A finished song, or the estimate of one.

    audio: float32 [2, n], n = round(duration · sample_rate), peak at −1 dBFS. seconds: what each phase took.
    time_grid: the points that were really walked; its last is 1 for a finished song; of a song in windows,
    those of the one with the fewest. windows: see windows.py. passes: of the transformer. latent_std: of what
    was decoded. checks: of audio. precision: of the transformer, None for an estimate. arithmetic: what
    calculated its passes and its sound. tags: what a file of it says. In a notebook a song shows itself
    with a player.
    """

    audio: Audio = field(repr=False)
    sample_rate: int
    duration: float
    seconds: Mapping[Phase, float] = field(repr=False)
    time_grid: tuple[float, ...] = field(repr=False)
    windows: tuple[Window, ...] = field(repr=False)
    passes: int
    warnings: tuple[str, ...]
    latent_std: float = field(repr=False)
    checks: Checks
    precision: Precision | None
    arithmetic: Choice
    tags: Tags

    def write(self, path: Path | str, *, loudness: float | None = None) -> None:
        """Put the song at path, whole or not at all: wav, flac, ogg or mp3 by its ending, with its tags.

        loudness: LUFS, or as near as a true peak of −1 dB allows; None: as it is, peak at −1 dBFS.
        Raises RequestError for another ending, OSError for a folder that is not there or cannot be written.
        """
        path = Path(path)
        format = next((each for each in FORMATS if path.suffix.lower() == f".{each}"), None)
        if format is None:
            endings = ", ".join(f".{each}" for each in FORMATS)
            raise RequestError(f"no sound file ends in {path.suffix!r}: {path}; choose one of {endings}")
        sound = self.audio if loudness is None else audio.to_loudness(self.audio, loudness, self.sample_rate)
        tags = replace(self.tags, title=self.tags.title or path.stem)
        audio.write(path, sound, format, rate=self.sample_rate, tags=tags)

    def _repr_html_(self) -> str:
        """A line about the song, and a player with the sound in it."""
        about = f"{self.duration:g} s, {self.tags.style}, seed {self.tags.seed}, model {self.tags.model}"
        if self.duration > _LONGEST_SHOWN_S:
            return f"<p>{html.escape(about)}: too long to play here; song.write(…) puts it in a file</p>"
        sound = b64encode(audio.encode(self.audio, "mp3", rate=self.sample_rate)).decode()
        return (
            f"<p>{html.escape(about)}</p>"
            f'<audio controls preload="metadata" src="data:audio/mpeg;base64,{sound}"></audio>'
        )


def generate(
    bundle: Bundle,
    *,
    lyrics: str | None = None,
    style: str | None = None,
    style_clip: Path | None = None,
    negative_style: str | None = None,
    duration: float | None = None,
    window: float | None = None,
    seed: int = 0,
    preset: str = "standard",
    steps: int | None = None,
    cfg: float | None = None,
    sampler: str | None = None,
    grid: tuple[float, ...] | None = None,
    language: Language = "auto",
    lyrics_compat: Compat = "ours",
    lyrics_source: str = "lyrics.lrc",
    lyrics_first_line: int = 1,
    precision: str = "auto",
    chunk_frames: int | None = None,
    overlap_frames: int | None = None,
    edit: Edit | None = None,
    on_event: OnEvent | None = None,
    on_step: OnStep | None = None,
    resume: State | None = None,
) -> Song:
    """A song from lyrics and a style.

    bundle: what load gives.
    lyrics: LRC text, a line a time: "[00:01.00]Good night"; None: an instrumental. lyrics_source and
    lyrics_first_line: where it is written, for messages; lyrics_compat: read as the published program does,
    or with no line lost. language: of lines that do not show theirs: auto, en or zh.
    style or style_clip: a text, or an audio file of ten seconds or more; one of the two is needed.
    negative_style: a text to move away from; None: the model's own.
    duration: seconds; None: as the lyrics need, within what the model makes. window: seconds of the
    overlapping windows that a longer song is made in; None: at once.
    seed: the same one makes the same song. preset: preview, draft, standard, high, max or reference; steps,
    cfg (guidance) and sampler stand above what it has. grid: points of the steps in [0, 1], one more than
    steps; None: the sampler's own. precision: fp32, bf16, int8 or auto. chunk_frames: that are decoded at
    once, 2048 samples each; less takes less memory. overlap_frames: that such chunks share, each of which
    passes the whole decoder; None: chunks that give the sound of the whole (chunks.py). None for both: as the
    preset has them; reference has the published 128 and 32.
    edit: parts of a given song to make anew; without a duration, the song is as long as that one.
    on_event: told of every phase, step and chunk. on_step: given the state after each step, for keeping; it
    may thin what is left of the grid. resume: such a state to go on from. An exception that either raises,
    or Ctrl-C, ends the making there.

    Raises InputError (lyrics, style, audio, request), BundleError, NumbersError, CheckpointError.
    """
    chosen = preset_named(preset)
    if chunk_frames is None:
        chunk_frames = chosen.chunk_frames
        overlap_frames = chosen.overlap_frames if overlap_frames is None else overlap_frames
    request = Request(
        lyrics=lyrics,
        style=style,
        style_clip=style_clip,
        negative_style=negative_style,
        duration=duration,
        window=window,
        seed=seed,
        steps=chosen.steps if steps is None else steps,
        cfg=chosen.cfg if cfg is None else cfg,
        sampler=sampler or chosen.sampler,
        grid=grid,
        language=language,
        lyrics_compat=lyrics_compat,
        lyrics_source=lyrics_source,
        lyrics_first_line=lyrics_first_line,
        precision=precision,
        chunk_frames=chunk_frames,
        overlap_frames=overlap_frames,
        edit=edit,
    )
    progress = _Progress(on_event)
    progress.begin("lyrics")
    if precision == "auto" and asked_precision(precision) is None and is_large(bundle.config):
        machine_profile.ensure(
            bundle.config,
            bundle.vae_config,
            report=lambda what: progress.say(f"measuring this machine, once: {what}"),
        )
    plan = inspect(bundle, request)
    progress.begin("style")
    positive, negative = _styles(bundle, request)
    known = _known(bundle, edit, plan.duration, plan.frames, seed, chunk_frames, progress)
    state = _sample(bundle, request, plan, positive, negative, known, progress, on_step, resume)
    return _finish(
        bundle,
        state.joined(state.x_t),
        known,
        duration=plan.duration,
        windows=plan.windows,
        chunk_frames=chunk_frames,
        overlap_frames=overlap_frames,
        time_grid=state.walked,
        passes=state.passes,
        warnings=plan.warnings,
        precision=plan.precision,
        arithmetic=plan.arithmetic,
        tags=_tags(bundle, style or Path(style_clip or "").name, seed),
        progress=progress,
    )


def estimate(
    bundle: Bundle,
    state: State,
    *,
    duration: float,
    window: float | None = None,
    chunk_frames: int = CHUNK_FRAMES,
    overlap_frames: int | None = None,
    edit: Edit | None = None,
    seed: int = 0,
    on_event: OnEvent | None = None,
) -> Song:
    """The song that a checkpoint's flow points to: x_1 ≈ x_t + (1 − t) v, decoded.

    window, edit, seed: those that it was begun with. Raises RequestError for a duration that the state does
    not hold, also where its last window has not begun, NumbersError as generate does.
    """
    windows, latents = _windows(bundle, duration, window), state.joined(state.estimate())
    if latents.shape[1] != windows[-1].end:
        raise RequestError(
            f"checkpoint of {latents.shape[1]} frames for a song of {duration:g} s: estimate: "
            "give the duration that it was begun with"
        )
    progress = _Progress(on_event)
    known = _known(bundle, edit, duration, windows[-1].end, seed, chunk_frames, progress)
    return _finish(
        bundle,
        latents,
        known,
        duration=duration,
        windows=windows,
        chunk_frames=chunk_frames,
        overlap_frames=overlap_frames,
        time_grid=state.time_grid[: state.position + 1],
        passes=state.passes,
        warnings=(f"estimated from t = {state.t:.3f}, step {state.step} of {state.steps}",),
        precision=None,
        arithmetic=choice(bundle, windows[0].end),
        tags=_tags(bundle, "", seed),
        progress=progress,
    )


def inspect(bundle: Bundle, request: Request) -> Plan:
    """What the request comes to: all of its input read and checked, no weight loaded.

    Raises InputError as generate would.
    """
    _check_numbers(request)
    for text_or_clip in (_asked_style(request), request.negative_style):
        if text_or_clip is not None:
            styles.check(text_or_clip, bundle)
    asked = asked_precision(request.precision)
    lines = parse_lrc(
        request.lyrics or "",
        source=request.lyrics_source,
        first_line=request.lyrics_first_line,
        published=request.lyrics_compat == "published",
    )
    _check_words(request, lines)
    samples = 0 if request.edit is None else editing.read_source(request.edit).shape[1]
    duration = _duration(bundle, request, lines, samples)
    windows = _windows(bundle, duration, request.window)
    frames = windows[-1].end
    if request.edit is not None:
        if len(windows) > 1:
            raise RequestError(
                f"an edit of {duration:g} s in windows of {request.window:g} s: window: only a song that is "
                "made at once can be edited; leave window out, or choose a model of longer songs"
            )
        editing.spans_to_make(request.edit, samples=samples, duration=duration, frames=frames)
    alignment = _align(bundle, request, lines, frames, duration)
    warnings = (*lines.warnings, *alignment.warnings)
    at_once = max(window.end - window.start for window in windows)
    return Plan(duration, frames, windows, lines, alignment, choice(bundle, at_once, asked), warnings)


def choice(bundle: Bundle, frames: int, asked: Precision | None = None) -> Choice:
    """Return how passes over this many frames, and the sound, are calculated on this machine.

    asked: the precision that the user wants; None: the best by what was measured on this machine, where it
    was (machine_profile.ensure), else the published way.
    """
    return machine_profile.settle(
        machine_profile.load(bundle.config, bundle.vae_config),
        frames=frames,
        asked=asked,
        static_error=static_error(bundle),
    )


def static_error(bundle: Bundle) -> float | None:
    """Return the error of the bundle's static int8; None where int8 songs are made in the dynamic form.

    Raises BundleError for a calibration that is damaged.
    """
    has_int8 = not INT8_FLAGS.isdisjoint(cpu_flags())
    calibration = calibration_file.in_use(bundle, has_int8=has_int8)
    return None if calibration is None else calibration.error


def _windows(bundle: Bundle, duration: float, window: float | None) -> tuple[Window, ...]:
    """What covers a song of this duration; see generate. Raises RequestError where the model cannot."""
    at_once = None if window is None else bundle.duration_frames(window, "window")
    if at_once is None or window is None or duration <= window:
        return (Window(0, bundle.duration_frames(duration)),)
    overlap = min(OVERLAP, at_once // 2)
    step = SYLLABLES * (bundle.about.syllable_frames or 0)
    step = step if 0 < step <= at_once - overlap else 1
    return cover(max(frames_of(duration), at_once), window=at_once, overlap=overlap, step=step)


def _duration(bundle: Bundle, request: Request, lines: Lyrics, samples: int) -> float:
    """Seconds asked for; else those of the source to edit; else what the lyrics need and a tail; without any,
    the longest the model makes.
    """
    if request.duration is not None:
        return request.duration
    if request.edit is not None:
        return bundle.fitting_duration(samples / SAMPLE_RATE)
    if not lines.lines:
        return bundle.longest
    needed = _align(bundle, request, lines, None, None).end_seconds + TAIL_S
    if request.window is not None and needed > bundle.longest:
        if needed > _LONGEST_S:
            raise RequestError(f"lyrics to {needed:.0f} s: duration: a song has {_LONGEST_S:.0f} s at most")
        return needed
    return bundle.fitting_duration(needed)


def _check_numbers(request: Request) -> None:
    if not 1 <= request.steps <= _MAX_STEPS:
        raise RequestError(f"{request.steps} steps: steps: choose 1 to {_MAX_STEPS}, or a preset")
    if request.grid is not None and len(request.grid) != request.steps + 1:
        raise RequestError(
            f"{request.steps} steps on {len(request.grid)} points: grid: give one more than steps"
        )
    if not 0 <= request.cfg <= _MAX_CFG:  # NaN is in no range
        raise RequestError(f"guidance {request.cfg}: cfg: choose 0 to {_MAX_CFG:g}; 4 is the published one")
    if not 0 <= request.seed < 2**63:
        raise RequestError(f"seed {request.seed}: seed: choose 0 to {2**63 - 1}")
    least = 1 if request.overlap_frames is None else request.overlap_frames + 1
    if not least <= request.chunk_frames <= _MAX_CHUNK:
        raise RequestError(
            f"chunks of {request.chunk_frames} frames: chunk_frames: "
            f"choose {least} to {_MAX_CHUNK}; {CHUNK_FRAMES} is the usual one"
        )
    if request.overlap_frames is not None and request.overlap_frames < 0:
        raise RequestError(f"overlap of {request.overlap_frames} frames: overlap_frames: choose 0 or more")
    if request.duration is not None and not math.isfinite(request.duration):
        raise RequestError(f"duration {request.duration}: duration: give it in seconds")
    if request.lyrics_compat not in get_args(Compat):
        raise RequestError(
            f"lyrics_compat {request.lyrics_compat!r}: lyrics_compat: choose ours or published"
        )
    if request.language not in get_args(Language):
        raise RequestError(f"language {request.language!r}: language: choose auto, en or zh")
    solvers.named(request.sampler)


def _check_words(request: Request, lines: Lyrics) -> None:
    """Lyrics without a line would make an instrumental without a word; the published program does that."""
    if request.lyrics is not None and request.lyrics_compat == "ours" and not lines.lines:
        raise LyricsError(
            f"{request.lyrics_source}:{request.lyrics_first_line}: no words in these lyrics, "
            "write some behind their times, or leave lyrics out for an instrumental"
        )


def _asked_style(request: Request) -> str | Path:
    if (request.style is None) == (request.style_clip is None):
        found = "no style" if request.style is None else "a style text and a style clip"
        raise StyleError(f"{found}: style: give either words or an audio file")
    return request.style if request.style is not None else Path(request.style_clip or "")


def _align(
    bundle: Bundle, request: Request, lines: Lyrics, frames: int | None, max_secs: float | None
) -> Alignment:
    return align(
        lines,
        bundle.inventory,
        frames=frames,
        max_secs=max_secs,
        language=request.language,
        published=request.lyrics_compat == "published",
        syllable_frames=bundle.about.syllable_frames,
    )


def _styles(bundle: Bundle, request: Request) -> tuple[torch.Tensor, torch.Tensor]:
    """The style asked for and the one to move away from, [512] each."""
    positive = styles.embed(_asked_style(request), bundle)
    negative = (
        bundle.negative_style
        if request.negative_style is None
        else styles.embed(request.negative_style, bundle)
    )
    return torch.from_numpy(positive), torch.from_numpy(negative)


def _known(
    bundle: Bundle,
    edit: Edit | None,
    duration: float,
    frames: int,
    seed: int,
    chunk_frames: int,
    progress: _Progress,
) -> Known | None:
    if edit is None:
        return None
    progress.begin("encode")
    return editing.encode(
        bundle,
        edit,
        duration=duration,
        frames=frames,
        seed=seed,
        chunk_frames=chunk_frames,
        on_chunk=progress.chunk,
    )


def _sample(
    bundle: Bundle,
    request: Request,
    plan: Plan,
    positive: torch.Tensor,
    negative: torch.Tensor,
    known: Known | None,
    progress: _Progress,
    on_step: OnStep | None,
    resume: State | None,
) -> State:
    """The state at the end of the grid. The transformer lives no longer than this call."""
    passed = plan.arithmetic.passes
    progress.begin("load", note=f"{passed} on {torch.get_num_threads()} threads")
    model = bundle.open_transformer()
    transformer = passes(bundle, model, frames=plan.windows[0].end, arithmetic=passed)
    progress.begin("sample")
    noise = seeded_noise(request.seed, plan.frames)
    last = resume

    def stepped(state: State) -> State:
        nonlocal last
        progress.step(state)
        last = (on_step(state) if on_step else None) or state
        progress.restart_clock()
        return last

    for number in range(_begun(resume, plan), len(plan.windows)):
        window = plan.windows[number]
        begun = last if last is not None and last.window == number else None
        steps, later, before = request.steps, (request.steps,) * (len(plan.windows) - 1), None
        if begun is not None:
            before = begun.before
        elif last is not None:
            steps, later, before = last.later[0], last.later[1:], last.passed_on(window.known)
        # What was made before a window is known to it, as the rest of its song is to an edit.
        given = known if before is None else _given(before, window)
        song = conditioning.build(
            model,
            text_ids=torch.from_numpy(plan.alignment.ids[window.start : window.end]),
            style=positive,
            negative_style=negative,
            known=None if given is None else given.latents,
            duration_frames=window.end - window.start,
        )
        progress.restart_clock()
        sampling.sample(
            transformer,
            song,
            noise[:, window.start : window.end],
            steps=steps,
            cfg=request.cfg,
            sampler=request.sampler,
            # A window that is to be made in fewer steps has them where the sampler puts them.
            grid=request.grid if request.grid and len(request.grid) == steps + 1 else None,
            spans=None if given is None else given.spans,
            on_step=stepped,
            resume=begun,
            before=before,
            later=later,
        )
    if last is None:
        raise AssertionError("a run of at least one step, or a resumed one, has a last state")
    return last


def _begun(state: State | None, plan: Plan) -> int:
    """The number of the window that a state to resume is in. Raises CheckpointError where it is in none."""
    if state is None:
        return 0
    number, windows = state.window, len(plan.windows)
    fits = number + 1 + len(state.later) == windows
    if fits and state.before is not None:
        window = plan.windows[number]
        made = (state.before.latents.shape[1], state.before.known)
        fits = made == (window.start + window.known, window.known)
    if not fits:
        raise CheckpointError("checkpoint of other windows: resume: begin this song afresh")
    return number


def _given(before: Before, window: Window) -> Known:
    """What a window knows: its first frames, which have been made."""
    frames = window.end - window.start
    latents = torch.zeros(1, frames, LATENT_CHANNELS)
    latents[:, : window.known] = before.latents[:, window.start :]
    return Known(latents, ((window.known, frames),))


def passes(bundle: Bundle, model: DiT, *, frames: int, arithmetic: Arithmetic) -> Passes:
    """Return what calculates the passes of the bundle's model over this many frames in this arithmetic.

    Raises BundleError for a calibration that is damaged, or that int8-static would need and is not there.
    """
    if arithmetic == PUBLISHED:
        return model.float()
    from diffrhythm import compiled, quantised  # openvino takes a while to import

    lowered, static, linears = PRECISION_OF[arithmetic], None, None
    if arithmetic == "int8-static":
        static = calibration_file.found(bundle)
        if static is None:
            raise BundleError(f"no calibration of {bundle.name}: run: runner models calibrate {bundle.name}")
    if lowered == "int8":
        linears = quantised.linears(bundle, model, compiled.SENSITIVE_BLOCKS, static)
    return compiled.Compiled(
        model,
        frames=frames,
        precision=lowered,
        threads=torch.get_num_threads(),
        quantised=linears,
        calibration=static,
    )


def seeded_noise(seed: int, frames: int) -> torch.Tensor:
    """x_0 of this seed, [1, t, c]: the published draw, from a generator of its own."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(frames, LATENT_CHANNELS, generator=generator)[None]


def _finish(
    bundle: Bundle,
    made: torch.Tensor,
    known: Known | None,
    *,
    duration: float,
    windows: tuple[Window, ...],
    chunk_frames: int,
    overlap_frames: int | None,
    time_grid: tuple[float, ...],
    passes: int,
    warnings: tuple[str, ...],
    precision: Precision | None,
    arithmetic: Choice,
    tags: Tags,
    progress: _Progress,
) -> Song:
    """made [1, t, c], with what is known, decoded, cut to the duration, checked and brought to its peak."""
    latents = made if known is None else known.keep(made)
    progress.begin("decode")
    decoded = _decoded(bundle, latents, chunk_frames, overlap_frames, arithmetic.decoder, progress.chunk)
    raw = decoded[0, :, : round(duration * SAMPLE_RATE)].numpy()
    audio.refuse_unheard(raw)
    sound = audio.normalise(raw, PEAK_DBFS)
    checks = audio.check(sound)
    return Song(
        audio=sound,
        sample_rate=SAMPLE_RATE,
        duration=duration,
        seconds=progress.end(),
        time_grid=time_grid,
        windows=windows,
        passes=passes,
        warnings=warnings,
        latent_std=float(latents.std()),
        checks=checks,
        precision=precision,
        arithmetic=arithmetic,
        tags=tags,
    )


def _tags(bundle: Bundle, style: str, seed: int) -> Tags:
    return Tags(title="", style=style, seed=seed, model=bundle.name, demo=bundle.demo)


def _decoded(
    bundle: Bundle,
    latents: torch.Tensor,
    chunk_frames: int,
    overlap_frames: int | None,
    arithmetic: Arithmetic,
    on_chunk: vae.OnChunk,
) -> torch.Tensor:
    """Return the sound of latents [1, t, c] in this arithmetic; chunks as generate says.

    A TorchScript (torchscript.py) has no parts: it is called as published.
    """
    decoder, frames = bundle.open_vae().decoder, latents.shape[1]
    with torch.inference_mode():
        if overlap_frames is None and isinstance(decoder, vae.Decoder):
            cut = chunks.cut(bundle.vae_config, frames, chunk_frames)
            return vae.decode_in_parts(latents, _parts(decoder, cut, arithmetic), cut, on_chunk=on_chunk)
        if overlap_frames is None:
            chunk_frames = chunks.published_chunk(chunk_frames)
            overlap_frames = chunks.PUBLISHED_OVERLAP_FRAMES
        return vae.decode(
            latents,
            _decoder(decoder, min(chunk_frames, frames), arithmetic),
            chunk_frames=chunk_frames,
            overlap=overlap_frames,
            on_chunk=on_chunk,
        )


def _parts(decoder: vae.Decoder, cut: Cut, arithmetic: Arithmetic) -> vae.Parts:
    """Return the decoder in two parts, in this arithmetic."""
    if arithmetic == PUBLISHED:
        return vae.parts(decoder)
    from diffrhythm import compiled_vae  # openvino takes a while to import

    lowered = PRECISION_OF[arithmetic]
    return compiled_vae.parts(decoder, cut, precision=lowered, threads=torch.get_num_threads())


def _decoder(decoder: vae.Coder, frames: int, arithmetic: Arithmetic) -> vae.Coder:
    """Return the decoder for chunks of this many frames, in this arithmetic."""
    if arithmetic == PUBLISHED or not isinstance(decoder, vae.Decoder):
        return decoder
    from diffrhythm import compiled_vae  # openvino takes a while to import

    lowered = PRECISION_OF[arithmetic]
    return compiled_vae.compiled(decoder, frames=frames, precision=lowered, threads=torch.get_num_threads())


@dataclass(slots=True)
class _Progress:
    """Tells on_event what moves, and how long it took; keeps the seconds of each phase."""

    on_event: OnEvent | None
    seconds: dict[Phase, float] = field(default_factory=dict)
    phase: Phase | None = None
    phase_began: float = 0.0
    step_began: float = 0.0

    def begin(self, phase: Phase, note: str = "") -> None:
        self.end()
        self.phase, self.phase_began = phase, time.monotonic()
        self.restart_clock()
        self._tell(Event(phase, note=note))

    def say(self, note: str) -> None:
        """Tell on_event what the phase is at."""
        if self.phase is not None:
            self._tell(Event(self.phase, note=note))

    def step(self, state: State) -> None:
        self._tell(
            Event(
                "sample",
                step=state.step,
                steps=state.steps,
                seconds=time.monotonic() - self.step_began,
                t=state.reached,
                passes=state.passes,
                latent_std=state.latent_std,
            )
        )

    def chunk(self, done: int, chunks: int) -> None:
        assert self.phase is not None
        self._tell(Event(self.phase, step=done, steps=chunks, seconds=time.monotonic() - self.step_began))
        self.restart_clock()

    def restart_clock(self) -> None:
        """The next step or chunk begins now: what was done between them is not its time."""
        self.step_began = time.monotonic()

    def end(self) -> Mapping[Phase, float]:
        """Seconds of each phase, the one that ends now included."""
        if self.phase is not None:
            self.seconds[self.phase] = time.monotonic() - self.phase_began
        self.phase = None
        return self.seconds

    def _tell(self, event: Event) -> None:
        if self.on_event:
            self.on_event(event)


class _CallableModule(ModuleType):
    """Once this module is imported, `diffrhythm.generate` is the module: calling it makes a song as well."""

    def __call__(self, *arguments: Any, **asked: Any) -> Song:
        return generate(*arguments, **asked)

    __signature__ = signatures.signature(generate)
    __call__.__doc__ = generate.__doc__


sys.modules[__name__].__class__ = _CallableModule
