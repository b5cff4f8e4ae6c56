"""All that is constant in one song, computed once: what both kinds of pass share and what each needs.

b batch · t latent frames · c latent channels (64) · d model width
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from diffrhythm.errors import RequestError
from diffrhythm.transformer import Constants, DiT

# Frames to make new: from the first to before the last.
Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Conditioning:
    """What a song is made from, ready for the passes. A batch of one serves a batch of any size.

    conditional, null: constants of the two passes. all_new: the conditional inputs [b, t, d] where no latent
    is known. scalars: [b, 512] of start and duration. known: [b, t, c] or None. latent_shape: b, t, c of the
    noise that the song begins with. hash: SHA-256 of what was asked, the same in every arithmetic.
    """

    conditional: Constants
    null: Constants
    all_new: Tensor
    scalars: Tensor
    known: Tensor | None
    latent_shape: tuple[int, int, int]
    hash: str


def build(
    model: DiT,
    *,
    text_ids: Tensor,
    style: Tensor,
    negative_style: Tensor,
    known: Tensor | None = None,
    duration_frames: float | Tensor,
    start_time: float | Tensor = 0.0,
) -> Conditioning:
    """Everything about a song that its passes share.

    text_ids: [t] or [b, t] whole numbers, one phone per frame, 0 where none; their number is the song's.
    style, negative_style: [512] or [b, 512]. known: [t, c] or [b, t, c], a latent to edit, 0 where unknown;
    what is longer than the song is cut. duration_frames: the song's length that the model is told, one number
    or [b]. start_time: where in the song the first frame lies, in [0, 1], one number or [b].

    Raises RequestError for ids, shapes or lengths that the model cannot take.
    """
    device, config = model.device, model.config
    ids = _ids(text_ids, model).to(device)
    frames = ids.shape[1]
    positive = _batched(style, "style", (config.style_dim,)).to(device)
    negative = _batched(negative_style, "negative style", (config.style_dim,)).to(device)
    latent = None if known is None else _known(known, frames, model).to(device)
    duration = _scalar(duration_frames, "duration in frames", config.max_frames) / config.max_frames
    start = _scalar(start_time, "start time", 1)

    with torch.no_grad():
        rotary = model.rotary(frames)
        text, no_text = model.text_embed(ids), model.text_embed(torch.zeros_like(ids[:1]))
        all_new = model.input_embed.constant_part(text, positive)
        inputs = all_new if latent is None else all_new + model.input_embed.known_part(latent)
        return Conditioning(
            conditional=Constants(inputs, model.fuse_text(text), rotary),
            null=Constants(
                model.input_embed.constant_part(no_text, negative), model.fuse_text(no_text), rotary
            ),
            all_new=all_new,
            scalars=model.embed_scalars(start.float().to(device), duration.float().to(device)),
            known=latent,
            latent_shape=(inputs.shape[0], frames, config.latent_channels),
            hash=_hash(model, ids, positive, negative, latent, duration, start),
        )


def with_spans(conditioning: Conditioning, spans: Sequence[Span]) -> Conditioning:
    """The same song with the known latent hidden in `spans` of frames, which are to be made new.

    Spans past the end are cut, as published. Raises RequestError for a reversed or negative one, or where
    nothing is known of a frame that is not to be made new.
    """
    new = in_spans(conditioning, spans)
    if conditioning.known is None and not bool(new.all()):
        raise RequestError("spans to make new, but no known latent: edit: give the source audio to edit")
    inputs = torch.where(new, conditioning.all_new, conditioning.conditional.inputs)
    asked = json.dumps([conditioning.hash, [list(span) for span in spans]])
    return replace(
        conditioning,
        conditional=replace(conditioning.conditional, inputs=inputs),
        hash=hashlib.sha256(asked.encode()).hexdigest(),
    )


def in_spans(conditioning: Conditioning, spans: Sequence[Span]) -> Tensor:
    """Whether each frame of the song lies in one of `spans`: [t, 1] bool."""
    new = torch.zeros(conditioning.latent_shape[1], 1, dtype=torch.bool, device=conditioning.all_new.device)
    for start, end in spans:
        if not 0 <= start <= end:
            raise RequestError(
                f"span [{start}, {end}): edit: a span has to run forward from frame 0 or later"
            )
        new[start:end] = True
    return new


def _ids(text_ids: Tensor, model: DiT) -> Tensor:
    """[b, t] int64, checked: an id outside the table fails late or not at all on some machines."""
    if text_ids.is_floating_point() or text_ids.dim() not in (1, 2) or not text_ids.numel():
        raise RequestError(
            f"text ids of shape {list(text_ids.shape)}: lyrics: whole numbers [t] or [b, t] needed"
        )
    ids = text_ids.long().reshape(-1, text_ids.shape[-1])
    if ids.shape[1] > model.config.max_frames:
        raise RequestError(
            f"{ids.shape[1]} frames: duration: this model makes {model.config.max_frames} at most; "
            "shorten the song"
        )
    lowest, highest = int(ids.min()), int(ids.max())
    if lowest < 0 or highest >= model.config.text_rows:
        raise RequestError(
            f"text ids from {lowest} to {highest}: lyrics: this model knows 0 to "
            f"{model.config.text_rows - 1}; use the phone table of the same bundle"
        )
    return ids


def _known(known: Tensor, frames: int, model: DiT) -> Tensor:
    """[b, t, c], cut to the song."""
    if known.dim() < 2:
        raise RequestError(f"known latent of shape {list(known.shape)}: edit: frames and channels needed")
    latent = _batched(known, "known latent", (known.shape[-2], model.config.latent_channels))
    if latent.shape[1] < frames:
        raise RequestError(
            f"known latent of {latent.shape[1]} frames for a song of {frames}: edit: "
            "give a source as long as the song, or shorten the song"
        )
    return latent[:, :frames]


def _batched(values: Tensor, name: str, shape: tuple[int, ...]) -> Tensor:
    """values as [b, *shape] float32."""
    if values.dim() - len(shape) not in (0, 1) or values.shape[-len(shape) :] != shape:
        raise RequestError(
            f"{name} of shape {list(values.shape)}: request: {list(shape)} needed, or a batch of it"
        )
    batched = values.float().reshape(-1, *shape)
    if not torch.isfinite(batched).all():
        raise RequestError(f"{name} with NaN or infinity: request: make it again from its source")
    return batched


def _scalar(value: float | Tensor, name: str, most: float) -> Tensor:
    """value as [b] float64, within 0 … most."""
    values = torch.as_tensor(value, dtype=torch.float64).reshape(-1)
    if not bool(((values >= 0) & (values <= most)).all()):
        raise RequestError(f"{name} {values.tolist()}: request: has to lie between 0 and {most}")
    return values


def _hash(model: DiT, *asked: Tensor | None) -> str:
    """SHA-256 of the model's sizes, a sample of its weights and all that was asked.

    The last bias stands for the weights: training changes it, no precision touches it, and it is read anyway.
    """
    digest = hashlib.sha256(json.dumps(model.config.to_dict(), sort_keys=True).encode())
    for tensor in (model.proj_out.bias.detach().float(), *asked):
        digest.update(b"none" if tensor is None else str((tensor.dtype, tuple(tensor.shape))).encode())
        if tensor is not None:
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
