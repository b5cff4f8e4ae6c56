"""What this machine makes of a model's work: measured once in each arithmetic, and kept in the user's cache.

A sample is one block of the transformer, the convolutions over positions, attention alone, and one short
chunk of the decoder, all with random weights of the model's sizes. What runs between takes next to nothing.
Samples of all arithmetics take turns, and the least of each counts: whatever else the machine does only
makes them slower.

t latent frames · d model width · h heads
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import platform
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

import psutil
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn
from torch.nn import functional as F

from diffrhythm import arithmetic, files, smoothquant, vae
from diffrhythm.arithmetic import PASSES, PUBLISHED, Candidate, Choice
from diffrhythm.config import HEADS, ModelConfig
from diffrhythm.precision import (
    MAX_ISA,
    PRECISION_OF,
    Arithmetic,
    Precision,
    cpu_flags,
    has_native_bf16,
    is_large,
    worth_trying,
)
from diffrhythm.transformer import DiT
from diffrhythm.vae_config import HOP, LATENT_CHANNELS, SAMPLE_RATE, VaeConfig

# Of the way a profile is measured: files of another one are measured again.
SCHEMA = 1
# A profile of the published size takes this long at most, but for the round that is under way.
LIMIT_S = 24.0
# Numbers of frames that a block is measured at: the most that torch is expected to take BLOCK_S for. Fewer
# say less: on Zen 3, torch takes twice as long a frame at 2048 frames as at 1024 where freed memory is
# given back.
BLOCK_FRAMES = (256, 512, 1024, 2048)
BLOCK_S = 3.0
# Attention grows with the square of the frames, so it is measured by itself.
ATTENTION_FRAMES = 1024
# Frames of the decoder's chunk, about a second of sound.
DECODED_FRAMES = 24
MOST_ROUNDS = 3
# An arithmetic that takes this many times as long as the published way is not measured again.
HOPELESS = 1.5
# A machine whose other programs take a larger share of its cores than this is busy.
BUSY = 0.1
# Another number of threads has to be faster by this share to be taken.
THREADS_GAIN = 0.05

_MAX_BYTES = 2**20

_log = logging.getLogger(__name__)

# report(what): a line for people, each time that something begins.
Report = Callable[[str], None]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


Seconds = Annotated[float, Field(gt=0, lt=1e6)]


class Timing(_Part):
    """What one arithmetic takes for a model's work on this machine.

    frame_s: seconds of a pass for each of its frames, without attention. pair_s: of attention, for each pair
    of frames. load_s: of making the transformer ready. decode_s: of decoding a second of sound, None where
    the decoder was not measured in it; open_s: of making the decoder ready. threads: that it was measured
    on. error, decode_error: relative, against torch in float32; None: not known without the model's own
    weights.
    """

    name: Arithmetic
    frame_s: Seconds
    pair_s: Annotated[float, Field(ge=0, lt=1e6)]
    threads: Annotated[int, Field(ge=1)]
    error: Annotated[float, Field(ge=0)] | None
    decode_s: Seconds | None
    load_s: Annotated[float, Field(ge=0)] = 0.0
    open_s: Annotated[float, Field(ge=0)] = 0.0
    decode_error: Annotated[float, Field(ge=0)] | None = None

    def pass_s(self, frames: int) -> float:
        """Return seconds of one pass over this many frames."""
        return self.frame_s * frames + self.pair_s * frames**2


class Profile(_Part):
    """A machine and a model's sizes, and how long its work takes. measured_wall: when. took_s: measuring it.

    busy: the share of the cores that other programs took meanwhile.
    """

    format: Literal[1] = Field(default=1, alias="schema")
    machine: dict[str, str | int]
    sizes: dict[str, int | list[int]]
    measured_wall: float
    took_s: float
    busy: float
    timings: list[Timing]

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, populate_by_name=True)

    def candidates(self, frames: int, *, static_error: float | None = None) -> list[Candidate]:
        """Return the arithmetics to choose a song's passes from.

        static_error: of int8-static, measured on the model's own weights; None: they are not calibrated, so
        that it is no candidate.
        """
        return [
            Candidate(
                each.name,
                each.pass_s(frames),
                static_error if each.name == "int8-static" else each.error,
                each.load_s,
            )
            for each in self.timings
            if each.name != "int8-static" or static_error is not None
        ]

    def decoders(self) -> list[Candidate]:
        """Return the arithmetics to choose the decoder from; their seconds are of one second of sound."""
        return [
            Candidate(each.name, each.decode_s, each.decode_error)
            for each in self.timings
            if each.decode_s is not None
        ]

    def timing(self, name: Arithmetic) -> Timing | None:
        """Return what was measured of this arithmetic; None where it was not."""
        return next((each for each in self.timings if each.name == name), None)

    @property
    def is_quiet(self) -> bool:
        """Return whether other programs left the machine alone while it was measured."""
        return self.busy <= BUSY


# ---------------------------------------------------------------- kept


def load(config: ModelConfig, vae_config: VaeConfig) -> Profile | None:
    """Return what was measured on this machine for a model of these sizes, unless it is in doubt."""
    return None if _doubt(config, vae_config).exists() else _read(path(config, vae_config))


def ensure(
    config: ModelConfig,
    vae_config: VaeConfig,
    *,
    again: bool = False,
    report: Report = lambda what: None,
    limit_s: float = LIMIT_S,
) -> Profile:
    """Return what was measured on this machine for a model of these sizes; measure it where that is needed.

    It is needed without a profile, with one in doubt, with one that was measured while the machine was busy
    if it is quiet now, or with `again`. A cache that cannot be written is logged, and costs another
    measurement each time.
    """
    file = path(config, vae_config)
    kept = None if again else load(config, vae_config)
    if kept is not None and (kept.is_quiet or _is_busy_now()):
        return kept
    try:
        with files.alone(file.with_suffix(".lock")):  # of several at once, one measures
            fresh = _read(file)
            if fresh is not None and fresh != kept and not again and not _doubt(config, vae_config).exists():
                return fresh
            found = measure(config, vae_config, report=report, limit_s=limit_s)
            if kept is not None:
                found = least(kept, found)
            files.replace(file, found.model_dump_json(by_alias=True, indent=1).encode())
            _doubt(config, vae_config).unlink(missing_ok=True)
            return found
    except OSError as error:
        _log.warning("machine profile not kept (%s): %s; it is measured each time", error, file)
        return measure(config, vae_config, report=report, limit_s=limit_s)


def doubt(config: ModelConfig, vae_config: VaeConfig) -> None:
    """Have the profile measured again before it is used again."""
    marker = _doubt(config, vae_config)
    try:
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()
    except OSError as error:
        _log.warning("machine profile not marked (%s): %s", error, marker)


def least(first: Profile, second: Profile) -> Profile:
    """Return the second profile with the lesser figures of both, and the lesser share of other programs."""
    before = {each.name: each for each in first.timings}
    timings = [
        each
        if each.name not in before or before[each.name].threads != each.threads
        else each.model_copy(
            update={
                "frame_s": min(each.frame_s, before[each.name].frame_s),
                "pair_s": min(each.pair_s, before[each.name].pair_s),
                "decode_s": min(
                    (s for s in (each.decode_s, before[each.name].decode_s) if s is not None), default=None
                ),
            }
        )
        for each in second.timings
    ]
    return second.model_copy(update={"timings": timings, "busy": min(first.busy, second.busy)})


def path(config: ModelConfig, vae_config: VaeConfig) -> Path:
    """Return where the profile of this machine and these sizes is kept, whether it is there or not."""
    of = json.dumps([SCHEMA, machine(), _sizes(config, vae_config)], sort_keys=True)
    return files.cache_folder() / "profiles" / f"{hashlib.sha256(of.encode()).hexdigest()[:16]}.json"


def machine(root: Path = Path("/")) -> dict[str, str | int]:
    """Return what a profile depends on besides the model's sizes. root: the folder of proc and sys."""
    cpuinfo = _text(root / "proc/cpuinfo").partition("\n\n")[0]
    lines = (line.partition(":") for line in cpuinfo.splitlines())
    values = {name.strip(): value.strip() for name, _, value in lines}
    names = ("model name", "cpu family", "model", "stepping", "microcode")
    flags = hashlib.sha256(values.get("flags", values.get("Features", "")).encode()).hexdigest()[:8]
    return {
        "processor": " ".join(filter(None, (values.get(name, "") for name in names))) or platform.processor(),
        "flags": flags,
        "host": _text(root / "sys/class/dmi/id/product_name"),
        "cores": usable_cores(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "torch": version("torch"),
        "openvino": version("openvino"),
        "held_to": os.environ.get(MAX_ISA, ""),
    }


def usable_cores() -> int:
    """Return how many processors this process may run on."""
    return len(os.sched_getaffinity(0))


def _sizes(config: ModelConfig, vae_config: VaeConfig) -> dict[str, int | list[int]]:
    return {
        **{name: config.to_dict()[name] for name in ("dim", "depth", "ff_mult")},
        "channels": vae_config.channels,
        "multiples": list(vae_config.multiples),
        "strides": list(vae_config.strides),
    }


def _doubt(config: ModelConfig, vae_config: VaeConfig) -> Path:
    return path(config, vae_config).with_suffix(".doubt")


def _read(file: Path) -> Profile | None:
    try:
        if file.stat().st_size > _MAX_BYTES:
            return None
        return Profile.model_validate_json(file.read_bytes())
    except (OSError, ValidationError):  # what can be measured again need not be readable
        return None


def _is_busy_now() -> bool:
    """Return whether other programs are busy; it takes half a second."""
    before, began = _busy_s(), time.perf_counter()
    time.sleep(0.5)
    return (_busy_s() - before) / ((time.perf_counter() - began) * (os.cpu_count() or 1)) > BUSY


def _text(file: Path) -> str:
    try:
        return file.read_text(errors="replace").strip()
    except OSError:
        return ""


# ---------------------------------------------------------------- choosing


def settle(
    profile: Profile | None,
    *,
    frames: int,
    passes: int = PASSES,
    asked: Precision | None = None,
    static_error: float | None = None,
    refused: Collection[Arithmetic] = (),
) -> Choice:
    """Return how a song is calculated, by what was measured on this machine.

    profile: of its model's sizes; None: nothing was measured, and the published way is taken. frames: of its
    longest window. passes: of the song. asked: the precision that the user wants; None: auto. static_error:
    see Profile.candidates. refused: arithmetics that harm this model, which auto does not take.
    """
    candidates = [] if profile is None else profile.candidates(frames, static_error=static_error)
    if asked is not None and not any(PRECISION_OF[each.name] == asked for each in candidates):
        static = asked == "int8" and static_error is not None
        name: Arithmetic = "int8-static" if static else PUBLISHED if asked == "fp32" else asked
        published = next((each.seconds for each in candidates if each.name == PUBLISHED), None)
        # About as long as the published way is a guess, and better than none.
        choice = Choice(name, pass_s=published, reason="as asked; not measured on this machine")
    elif not candidates:
        choice = Choice(PUBLISHED)
    else:
        assert profile is not None
        chosen = arithmetic.choose(candidates, precision=asked, passes=passes, refused=refused)
        timing = profile.timing(chosen.name)
        assert timing is not None
        choice = Choice(
            chosen.name,
            threads=timing.threads,
            pass_s=chosen.seconds,
            reason=arithmetic.reason(chosen, candidates),
        )
    return choice if profile is None else _with_decoder(choice, profile, asked)


def _with_decoder(choice: Choice, profile: Profile, asked: Precision | None) -> Choice:
    decoders = profile.decoders()
    if not decoders:
        return choice
    # Who asks for fp32 gets a decoder in it, too.
    exact = asked if asked == "fp32" else None
    chosen = arithmetic.choose(decoders, precision=exact, budget=arithmetic.DECODER_ERROR_BUDGET)
    timing = profile.timing(chosen.name)
    assert timing is not None
    return replace(choice, decoder=chosen.name, decode_s=timing.decode_s, open_s=timing.open_s)


# ---------------------------------------------------------------- measuring

Run = Callable[[], Tensor]


@dataclass(slots=True)
class _Sample:
    """The parts of one arithmetic's work, and the least seconds of each so far.

    load_s: of making a whole transformer ready. open_s: of making the decoder ready.
    """

    name: Arithmetic
    threads: int
    runs: dict[str, Run]
    load_s: float = 0.0
    open_s: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)
    made: dict[str, Tensor] = field(default_factory=dict)

    def round(self) -> None:
        """Run every part once more."""
        torch.set_num_threads(self.threads)
        for part, run in self.runs.items():
            began = time.perf_counter()
            made = run()
            took = time.perf_counter() - began
            # The first run of a part warms it up; it counts only until there is another.
            self.seconds[part] = min(took, self.seconds[part]) if part in self.made else took
            self.made.setdefault(part, made)


@torch.inference_mode()
def measure(
    config: ModelConfig, vae_config: VaeConfig, *, report: Report, limit_s: float = LIMIT_S
) -> Profile:
    """Measure this machine with a model of these sizes. It changes torch's number of threads meanwhile."""
    began, before = time.perf_counter(), _busy_s()
    threads, cores = torch.get_num_threads(), usable_cores()
    try:
        work = _Work.of(config, vae_config)
        samples: list[_Sample] = []
        for name in worth_trying(cpu_flags()) if is_large(config) else ("torch-fp32",):
            if samples and time.perf_counter() - began > limit_s / 2:
                break
            report(f"{name} on {cores} threads")
            sample = work.sample(name, cores)
            sample.round()
            samples.append(sample)
        for _ in range(MOST_ROUNDS - 1):
            for sample in samples:
                if _is_hopeful(sample, samples[0]):
                    sample.round()
            if time.perf_counter() - began > limit_s * 0.7:
                break
        timings = [_timing(sample, samples[0], work) for sample in samples]
        if is_large(config):
            timings = _on_best_threads(timings, samples, work, report, began + limit_s)
    finally:
        torch.set_num_threads(threads)
    took_s = time.perf_counter() - began
    return Profile(
        machine=machine(),
        sizes=_sizes(config, vae_config),
        measured_wall=time.time(),
        took_s=took_s,
        busy=max(0.0, min(1.0, (_busy_s() - before) / (took_s * (os.cpu_count() or 1)))),
        timings=timings,
    )


def thread_counts(cores: int, physical: int | None) -> list[int]:
    """Return numbers of threads that may be better than one for each usable core, the most first.

    Of two logical cores of one physical core, one may do; of a processor with slow and fast cores, the fast
    ones may. WSL shows neither, so that both are measured.
    """
    counts = {physical or cores, math.ceil(3 * cores / 4)}
    if cores > 4:
        counts.add(math.ceil(cores / 2))
    return sorted((each for each in counts if each < cores), reverse=True)


def _is_hopeful(sample: _Sample, published: _Sample) -> bool:
    return sample.seconds["block"] <= HOPELESS * published.seconds["block"]


def _busy_s() -> float:
    """Return CPU seconds that others have used so far, those that a hypervisor took included."""
    times, own = psutil.cpu_times(), psutil.Process().cpu_times()
    busy = times.user + times.nice + times.system + getattr(times, "steal", 0.0)
    return float(busy - own.user - own.system)


def _timing(sample: _Sample, published: _Sample, work: _Work) -> Timing:
    seconds, frames = sample.seconds, work.frames
    pair_s = seconds["attention"] / work.attention_frames**2
    blocks_s = max(seconds["block"] - seconds["positions"] - pair_s * frames**2, 0.1 * seconds["block"])
    frame_s = (work.depth * blocks_s + seconds["positions"]) / frames
    exact = published.made["block"] - work.h
    error = float((sample.made["block"] - published.made["block"]).norm() / exact.norm())
    decoded = sample.made.get("decode")
    return Timing(
        name=sample.name,
        frame_s=frame_s,
        pair_s=work.depth * pair_s,
        threads=sample.threads,
        # Ranges that no calibration found say nothing about those of real weights.
        error=None if sample.name == "int8-static" else error,
        decode_s=None if decoded is None else seconds["decode"] / work.decoded_s,
        load_s=sample.load_s,
        open_s=sample.open_s,
        decode_error=None
        if decoded is None
        else float((decoded - published.made["decode"]).norm() / published.made["decode"].norm()),
    )


def _on_best_threads(
    timings: Sequence[Timing], samples: Sequence[_Sample], work: _Work, report: Report, until: float
) -> list[Timing]:
    """Return the timings, the fastest one's on the number of threads that it is fastest on."""
    best = min(timings, key=lambda each: each.pass_s(work.frames))
    sample = next(each for each in samples if each.name == best.name)
    found = best
    for count in thread_counts(usable_cores(), psutil.cpu_count(logical=False)):
        if time.perf_counter() > until:
            break
        report(f"{best.name} on {count} threads")
        other = work.sample(best.name, count, decoder=False)
        other.round()
        other.round()
        gain = other.seconds["block"] / sample.seconds["block"]
        if gain < (1 - THREADS_GAIN) * found.pass_s(work.frames) / best.pass_s(work.frames):
            found = best.model_copy(
                update={"frame_s": gain * best.frame_s, "pair_s": gain * best.pair_s, "threads": count}
            )
    return [found if each.name == best.name else each for each in timings]


@dataclass(frozen=True, slots=True)
class _Work:
    """A block and a decoder of a model's sizes, and what they are given. h: [1, t, d]. qkv: [1, h, t, d / h]
    each. latents: [1, c, t].
    """

    model: DiT
    decoder: vae.Decoder
    depth: int
    frames: int
    attention_frames: int
    h: Tensor
    qkv: tuple[Tensor, Tensor, Tensor]
    latents: Tensor

    @classmethod
    def of(cls, config: ModelConfig, vae_config: VaeConfig) -> _Work:
        generator = torch.Generator().manual_seed(0)
        with torch.device("meta"):
            model = DiT(replace(config, depth=1))
            decoder = vae.Decoder(vae_config)
        for module in (model, decoder):
            module.to_empty(device="cpu").requires_grad_(False)
            random_weights(module, generator)
        most = max(config.max_frames, BLOCK_FRAMES[0])
        attention_frames = min(ATTENTION_FRAMES, most)
        shape = (3, 1, HEADS, attention_frames, config.head_dim)
        q, k, v = torch.randn(shape, generator=generator)
        work = cls(
            model=model,
            decoder=decoder,
            depth=config.depth,
            frames=BLOCK_FRAMES[0],
            attention_frames=attention_frames,
            h=torch.randn(1, most, config.dim, generator=generator),
            qkv=(q, k, v),
            latents=torch.randn(1, LATENT_CHANNELS, DECODED_FRAMES, generator=generator),
        )
        frames = _affordable(work.torch_block(BLOCK_FRAMES[0]), most)
        return replace(work, frames=frames, h=work.h[:, :frames].contiguous())

    @property
    def decoded_s(self) -> float:
        return self.latents.shape[-1] * HOP / SAMPLE_RATE

    def sample(self, name: Arithmetic, threads: int, *, decoder: bool = True) -> _Sample:
        """Return what runs the parts of the work in this arithmetic, the way that a song would."""
        if name == "torch-fp32":
            runs: dict[str, Run] = {
                "block": self.torch_block(self.frames),
                "positions": partial(self.model.input_embed.conv_pos_embed, self.h),
                "attention": partial(F.scaled_dot_product_attention, *self.qkv),
            }
            if decoder:
                runs["decode"] = partial(self.decoder, self.latents)
            return _Sample(name, threads, runs)
        return self._compiled(name, threads, decoder=decoder)

    def torch_block(self, frames: int) -> Run:
        h, rotary = self.h[:, :frames].contiguous(), self.model.rotary(frames)

        def run() -> Tensor:
            out: Tensor = h + self.model.input_embed.conv_pos_embed(h)
            for block in self.model.transformer_blocks:
                out = block(out, rotary)
            return out

        return run

    def _compiled(self, name: Arithmetic, threads: int, *, decoder: bool) -> _Sample:
        from diffrhythm import compiled, compiled_vae  # openvino takes a while to import

        precision = PRECISION_OF[name]
        heads = tuple(self.qkv[0].shape)
        began = time.perf_counter()
        # Its speed does not depend on the numbers, its error does.
        calibration = smoothquant.crude(self.model) if name == "int8-static" else None
        block = compiled.block(self.model, self.frames, precision, threads, calibration)
        load_s = self.depth * (time.perf_counter() - began)
        runs: dict[str, Run] = {
            "block": partial(block, self.h),
            "positions": partial(compiled.positions(self.model, self.frames, precision, threads), self.h),
            "attention": partial(compiled.attention(heads, precision, threads), *self.qkv),
        }
        sample = _Sample(name, threads, runs, load_s)
        if decoder and _decodes(name) and vae.is_large(self.decoder):
            began = time.perf_counter()
            coder = compiled_vae.compiled(
                self.decoder,
                frames=DECODED_FRAMES,
                precision="bf16" if name == "bf16" else "fp32",
                threads=threads,
            )
            sample.open_s = time.perf_counter() - began
            runs["decode"] = partial(coder, self.latents)
        return sample


def _decodes(name: Arithmetic) -> bool:
    return name == "fp32" or (name == "bf16" and has_native_bf16(cpu_flags()))


def random_weights(module: nn.Module, generator: torch.Generator) -> None:
    """Give a module random weights that keep activations near the size of what comes in."""
    for name, weight in module.named_parameters():
        if weight.ndim < 2:
            weight.fill_(0.0 if name.endswith(("bias", "alpha", "beta")) else 1.0)
        else:
            weight.normal_(generator=generator).mul_(weight[0].numel() ** -0.5)


def _affordable(block: Run, most: int) -> int:
    """Return the most frames that a block is expected to take BLOCK_S for."""
    block()
    began = time.perf_counter()
    block()
    frame_s = (time.perf_counter() - began) / BLOCK_FRAMES[0]
    fitting = [frames for frames in BLOCK_FRAMES if frames <= most and frames * frame_s <= BLOCK_S]
    return max(fitting, default=BLOCK_FRAMES[0])
