"""A model in the form in which DiffRhythm is published: the same files, names and keys, but small."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import published_vae
import torch
from torch import Tensor

from diffrhythm import phonemes
from diffrhythm.config import ModelConfig
from diffrhythm.published import BASE, PinnedFile, Published
from diffrhythm.transformer import DiT

CONFIG = ModelConfig(dim=64, depth=2, ff_mult=1, conv_layers=1)


@dataclass(frozen=True)
class Files:
    """The files of one small published model, and its entry in the table of models."""

    model: Published
    transformer: Path
    vae: Path
    source: Path


def make(folder: Path) -> Files:
    source = folder / "repository"
    _source(source)
    return Files(
        small_model(source),
        save(checkpoint(), folder / "cfm_model.pt"),
        published_vae.traced(published_vae.vae("hooked"), folder / "vae_model.pt"),
        source,
    )


def small_model(source: Path, config: ModelConfig = CONFIG) -> Published:
    """The published model in all but its sizes, and with the two files that are in source."""
    return replace(
        BASE,
        config=config,
        parameters=sum(tensor.numel() for tensor in weights(config).values()),
        phonemes=_pin(source, BASE.phonemes),
        negative_style=_pin(source, BASE.negative_style),
    )


def weights(config: ModelConfig = CONFIG) -> dict[str, Tensor]:
    """Random weights by their names in the model."""
    torch.manual_seed(11)
    return {name: tensor.clone() for name, tensor in DiT(config).state_dict().items()}


def checkpoint(dtype: torch.dtype = torch.float16) -> dict[str, object]:
    state = {f"transformer.{name}": tensor.to(dtype) for name, tensor in weights().items()}
    return {"model_state_dict": state, "step": 7}


def save(content: object, path: Path) -> Path:
    torch.save(content, path)
    return path


def _source(folder: Path) -> None:
    """A copy of the source repository, as far as it is read: the demo's phones and a style of our own."""
    table = Path(phonemes.__file__).with_name("demo.json").read_bytes()
    style = np.random.default_rng(5).standard_normal((1, 512), dtype=np.float32)
    for file in (BASE.phonemes, BASE.negative_style):
        (folder / file.path).parent.mkdir(parents=True)
    (folder / BASE.phonemes.path).write_bytes(table)
    np.save(folder / BASE.negative_style.path, style / np.linalg.norm(style))


def _pin(source: Path, file: PinnedFile) -> PinnedFile:
    content = (source / file.path).read_bytes()
    return PinnedFile(file.path, len(content), hashlib.sha256(content).hexdigest())
