"""Reference numbers of the published model code: where they lie, how to read them, the models they belong to.

A set is a file `<kind>_<configuration>.npz`, such as sample_a.npz; `tiny_configs.json` beside it gives the
sizes and the weight seed of each configuration. tests/golden/README.md describes the arrays.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffrhythm.config import ModelConfig
from diffrhythm.transformer import DiT, load_weights

REPOSITORY = Path(__file__).parents[2]
# By the word that a test's name shows; those outside the repository only where they are there.
PLACES = {
    "committed": REPOSITORY / "tests" / "golden",
    "shared": REPOSITORY.parent / "shared" / "golden",
    "given": Path(os.environ.get("DIFFRHYTHM_GOLDEN", "/nonexistent")),
}

ONE_PASS = 1e-5
ONE_RUN = 1e-4


@dataclass(frozen=True)
class GoldenSet:
    """One npz file of reference numbers and the model that made them."""

    path: Path
    place: str

    def __str__(self) -> str:
        return f"{self.place}-{self.path.stem}"

    @property
    def arrays(self) -> dict[str, Tensor]:
        return _arrays(self.path)

    @property
    def cases(self) -> dict[str, Any]:
        cases: dict[str, Any] = json.loads(self.path.with_suffix(".json").read_text())["cases"]
        return cases

    @property
    def model(self) -> DiT:
        return _model(self.path.parent, self.path.stem.partition("_")[2])


def sets(kind: str) -> list[GoldenSet]:
    """Every set of this kind, `<kind>_*.npz`."""
    return [GoldenSet(path, place) for place, path in _files(f"{kind}_*.npz")]


def files(name: str) -> list[tuple[str, Path]]:
    """Every file of this name with the word for its place."""
    return list(_files(name))


def model_of(config: ModelConfig, weight_seed: int) -> DiT:
    """A model with weights by the rule of the golden sets."""
    with torch.device("meta"):
        model = DiT(config)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    load_weights(model, {name: weight(name, shape, weight_seed) for name, shape in shapes.items()})
    return model


def weight(name: str, shape: tuple[int, ...], weight_seed: int) -> Tensor:
    """The weights of one key, named without the checkpoint's prefix."""
    seed = zlib.crc32(f"transformer.{name}".encode()) ^ weight_seed
    n = np.random.Generator(np.random.PCG64(seed)).standard_normal(shape, dtype=np.float32)
    if name.endswith("text_embed.text_embed.weight"):
        scaled = n
    elif name.endswith((".grn.gamma", ".grn.beta")):
        scaled = np.float32(0.3) * n
    elif len(shape) >= 2:
        scaled = n * np.float32(1 / np.sqrt(np.prod(shape[1:])))
    elif name.endswith("norm.weight"):
        scaled = 1 + np.float32(0.1) * n
    else:
        scaled = np.float32(0.02) * n
    return torch.from_numpy(np.asarray(scaled, dtype=np.float32))


def distance(result: Tensor, reference: Tensor) -> float:
    """Relative L2 error, in float64."""
    assert result.shape == reference.shape
    reference = reference.double()
    error = torch.linalg.vector_norm(result.double() - reference)
    return float(error / torch.linalg.vector_norm(reference))


def configuration(values: dict[str, Any]) -> ModelConfig:
    """Our configuration of an entry of tiny_configs.json, whose `heads` the published code ignores too."""
    sizes = values["model"]
    return ModelConfig(
        dim=sizes["dim"],
        depth=sizes["depth"],
        ff_mult=sizes["ff_mult"],
        text_dim=sizes["text_dim"],
        conv_layers=sizes["conv_layers"],
        text_rows=sizes["text_num_embeds"] + 1,
        latent_channels=sizes["mel_dim"],
        max_frames=values["max_frames"],
    )


def _files(pattern: str) -> Iterator[tuple[str, Path]]:
    for place, folder in PLACES.items():
        for path in sorted(folder.glob(pattern)):
            yield place, path


@cache
def _arrays(path: Path) -> dict[str, Tensor]:
    with np.load(path, allow_pickle=False) as arrays:
        return {name: torch.from_numpy(np.asarray(arrays[name])) for name in arrays.files}


@cache
def _model(folder: Path, name: str) -> DiT:
    values = json.loads((folder / "tiny_configs.json").read_text())[name]
    return model_of(configuration(values), values["weight_seed"])
