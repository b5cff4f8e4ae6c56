"""A song of which parts are made anew: the frames of those parts, and the latent of all the others.

t latent frames (HOP samples each) · c latent channels (64) · n samples = HOP·t
"""

from __future__ import annotations

import hashlib
import logging
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffrhythm import audio, files, vae
from diffrhythm.audio import Audio
from diffrhythm.bundle import Bundle, frames_of
from diffrhythm.chunks import published_chunk
from diffrhythm.conditioning import Span
from diffrhythm.errors import RequestError
from diffrhythm.vae import OnChunk
from diffrhythm.vae_config import HOP, LATENT_CHANNELS, SAMPLE_RATE

# As published: the peak that a song is brought to before it is encoded.
SOURCE_PEAK_DBFS = -6.0
# In a span, the song's own start or end.
EDGE = -1.0

# The encoder's noise has a generator of its own: x_0, drawn from the plain seed, must not be in it.
_SEED_SALT = 0x65646974

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Edit:
    """source: the song's sound file. spans: start and end in seconds of each part to make anew, in order.

    A start or end of −1 is the song's own. A source shorter than the song is gone on with, where the last
    span covers what it lacks.
    """

    source: Path
    spans: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Known:
    """latents: [1, t, c] of the source, 0 behind its end. spans: frames to make anew, in order."""

    latents: Tensor
    spans: tuple[Span, ...]

    def keep(self, made: Tensor) -> Tensor:
        """made [1, t, c] in the spans, elsewhere the source itself."""
        kept = self.latents.clone()
        for start, end in self.spans:
            kept[:, start:end] = made[:, start:end]
        return kept


def read_source(edit: Edit) -> Audio:
    """The source as stereo [2, n] at 44.1 kHz, its peak at −6 dBFS. Raises AudioError as audio.read does."""
    return audio.normalise(audio.read(edit.source), SOURCE_PEAK_DBFS)


def spans_to_make(edit: Edit, *, samples: int, duration: float, frames: int) -> tuple[Span, ...]:
    """Frames to make anew, in order, those behind the source's end included.

    A second falls into frame int(s · 44100 / 2048), as published. Raises RequestError for a source longer
    than the song, for spans that leave the song, are reversed or overlap, and for a song longer than its
    source where no span says so.
    """
    known = _frames(samples)
    if known > frames:
        raise RequestError(
            f"source of {samples / SAMPLE_RATE:.2f} s for a song of {duration:g} s: edit: cut {edit.source}, "
            "or choose a longer duration or a model of longer songs"
        )
    spans: list[Span] = []
    for start_s, end_s in edit.spans:
        span = _span(start_s, end_s, duration, frames)
        if spans and span[0] < spans[-1][1]:
            raise _unusable(
                start_s, end_s, "begins before the one ahead of it ends; put them in order, apart"
            )
        spans.append(span)
    sung = min(frames, frames_of(duration))
    if known < sung and not (spans and spans[-1][0] <= known and spans[-1][1] >= sung):
        raise RequestError(
            f"source of {samples / SAMPLE_RATE:.2f} s for a song of {duration:g} s: edit: to go on with it, "
            f"end with the span [{math.floor(samples / SAMPLE_RATE)}, -1]; else use a source of that length"
        )
    return (*spans, (known, frames)) if known < frames else tuple(spans)


def encode(
    bundle: Bundle,
    edit: Edit,
    *,
    duration: float,
    frames: int,
    seed: int,
    chunk_frames: int,
    on_chunk: OnChunk | None = None,
) -> Known:
    """What the source gives to the song: its latent, drawn with the song's seed.

    Raises AudioError as read_source, RequestError as spans_to_make.
    """
    source = read_source(edit)
    spans = spans_to_make(edit, samples=source.shape[1], duration=duration, frames=frames)
    moments = _moments(bundle, source, chunk_frames, on_chunk)
    generator = torch.Generator().manual_seed(seed ^ _SEED_SALT)
    noise = torch.randn(moments.shape[0], LATENT_CHANNELS, generator=generator)
    latents = torch.zeros(1, frames, LATENT_CHANNELS)
    latents[0, : moments.shape[0]] = vae.draw_latents(moments, noise)
    return Known(latents, spans)


def _span(start_s: float, end_s: float, duration: float, frames: int) -> Span:
    start = 0.0 if start_s == EDGE else start_s
    end = duration if end_s == EDGE else end_s
    if not 0 <= start < duration or not 0 <= end <= duration:  # NaN is in no range
        raise _unusable(start_s, end_s, f"leaves the song; choose from 0 to {duration:g}, or -1")
    # The end of the song is the end of its last frame, whole or not.
    span = int(start * SAMPLE_RATE / HOP), frames if end == duration else int(end * SAMPLE_RATE / HOP)
    if span[0] >= span[1]:
        raise _unusable(
            start_s, end_s, f"ends before it begins, or within a frame of {HOP / SAMPLE_RATE:.3f} s"
        )
    return span


def _moments(bundle: Bundle, source: Audio, chunk_frames: int, on_chunk: OnChunk | None) -> Tensor:
    """[t, 2c] of the source, kept on disk under its content and the model's hash.

    So all takes and attempts pay once, and a resumed song meets the very same numbers, whatever threads and
    chunks its new attempt has.
    """
    frames = _frames(source.shape[1])
    key = hashlib.sha256(bundle.hash.encode() + source.tobytes()).hexdigest()
    path = files.cache_folder() / "encoded" / f"{key}.f32"
    kept = _read(path, frames)
    if kept is not None:
        return kept
    whole = torch.from_numpy(np.pad(source, ((0, 0), (0, frames * HOP - source.shape[1]))))
    with torch.inference_mode():
        encoder = bundle.open_vae().encoder
        chunk = published_chunk(chunk_frames)  # the encoder has no parts
        moments = vae.encode(whole[None], encoder, chunk_frames=chunk, on_chunk=on_chunk)[0]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.replace(path, moments.numpy().astype("<f4").tobytes())
    except OSError as error:
        _log.warning("encoded source not cached (%s): %s; each attempt encodes it anew", error, path)
    return moments


def _read(path: Path, frames: int) -> Tensor | None:
    """Cached moments, or None if there are none or they are none."""
    size = frames * 2 * LATENT_CHANNELS * 4
    try:
        with path.open("rb") as file:
            entry = file.read(size + 1)
    except OSError:
        return None
    if len(entry) != size:
        return None
    moments = torch.from_numpy(np.frombuffer(entry, "<f4").astype(np.float32)).reshape(frames, -1)
    return moments if bool(torch.isfinite(moments).all()) else None


def _frames(samples: int) -> int:
    """Frames that hold so many samples."""
    return math.ceil(samples / HOP)


def _unusable(start_s: float, end_s: float, why: str) -> RequestError:
    return RequestError(f"span [{start_s:g}, {end_s:g}]: edit: {why}")
