"""Makes the demo bundle of what training left: packed weights, bundle.json and the model's card.

    python -m training.pack --vae vae.pt --dit dit.pt --style style.safetensors --facts facts.json \
        --out diffrhythm/demo

A checkpoint is a torch file of "config", the sizes as a dictionary, and "ema", the weights. facts.json is one
object of names and values: what the card says of the training.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from diffrhythm import bundle, files, packed, vae
from diffrhythm.config import ModelConfig
from diffrhythm.errors import BundleError
from diffrhythm.phonemes import Inventory, inventory
from diffrhythm.transformer import DiT, load_weights
from diffrhythm.vae_config import VaeConfig
from training import style_encoder
from training.styles import STYLES, SYLLABLE_FRAMES

# Counted up with every bundle that is shipped.
VERSION = "3"
SHORTEST_S = 2.0
# A third above the 30 s that it was trained on: further, the song falls apart.
LONGEST_S = 40.0
# Of all files together: what a package and a repository can carry.
LARGEST_BYTES = 16 * 10**6

CARD = "CARD.md"

# Its columns are latents, text, style and time, of which style's are the largest by far: in one scale a row,
# the rest lost so much that velocities were 11 % off, and 1.4 % with this one matrix in float16.
UNLIKE_COLUMNS = "input_embed.proj.weight"

Facts = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Trained:
    """What training left. style: of words.Encoder."""

    config: ModelConfig
    transformer: Mapping[str, Tensor]
    vae_config: VaeConfig
    vae: Mapping[str, Tensor]
    style: Mapping[str, Tensor]


def read(dit: Path, vae_file: Path, style: Path) -> Trained:
    """The two checkpoints and the style encoder. Raises BundleError where weights and sizes disagree."""
    of_dit, of_vae = (torch.load(path, map_location="cpu", weights_only=True) for path in (dit, vae_file))
    config = ModelConfig.from_dict(of_dit["config"])
    vae_config = VaeConfig.from_dict(of_vae["config"])
    with torch.device("meta"):
        empty = DiT(config)
    load_weights(empty, of_dit["ema"])
    vae.load_weights(vae.Vae(vae_config), of_vae["ema"])
    return Trained(config, of_dit["ema"], vae_config, of_vae["ema"], load_file(style))


def write(trained: Trained, facts: Facts, folder: Path) -> bundle.Bundle:
    """The bundle in this folder, bundle.json last. Raises BundleError for one that cannot be used."""
    contents = {
        bundle.TRANSFORMER: save(
            packed.pack(trained.transformer, keep=lambda name, _: name == UNLIKE_COLUMNS)
        ),
        bundle.VAE: save(packed.pack(trained.vae)),
        bundle.STYLE: save({name: values.half().contiguous() for name, values in trained.style.items()}),
        bundle.PHONEMES: Path(inventory.__file__).with_name("demo.json").read_bytes(),
        bundle.NEGATIVE_STYLE: _npy(style_encoder.null_style()),
    }
    _refuse_unfit(trained, contents)
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in contents.items():
        files.replace(folder / name, data)
    files.replace(folder / CARD, card(trained, facts).encode())
    files.replace(folder / bundle.ABOUT, (json.dumps(about(trained, contents), indent=2) + "\n").encode())
    return bundle.read(folder)


def about(trained: Trained, contents: Mapping[str, bytes]) -> dict[str, object]:
    """What bundle.json says."""
    return {
        "schema": 1,
        "kind": "diffrhythm",
        "name": "demo",
        "demo": True,
        "licence": "Apache-2.0",
        "source": f"trained by training/ on songs of its own making; see {CARD}",
        "versions": {"demo": VERSION},
        "transformer": trained.config.to_dict(),
        "vae": trained.vae_config.to_dict(),
        "style_encoder": "words",
        "durations": {"min": SHORTEST_S, "max": LONGEST_S},
        "frames": "duration",
        "syllable_frames": SYLLABLE_FRAMES,
        "files": {
            name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for name, data in contents.items()
        },
    }


def card(trained: Trained, facts: Facts) -> str:
    """CARD.md: what the model is, what it learned from, what it cannot do."""
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    return f"""\
# The demo model

A DiffRhythm of {_millions(trained.transformer)} million parameters (width {trained.config.dim}, \
{trained.config.depth} blocks) with an autoencoder of
{_millions(trained.vae)} million. It is here to show the whole way from lyrics to sound, on any computer and
with nothing downloaded; for music, get a published model: `runner models list`.

It sings English and Chinese over a band in one of {len(STYLES)} styles:
{", ".join(sorted(STYLES))}.
From one vowel to the next are {SYLLABLE_FRAMES} latent frames (0.28 s).

## What it learned from

Songs that `training/` makes by program: a formant voice that sings written lyrics over instruments that are
formulas. There are no recordings in them, and nobody's music or voice. The code makes the same songs again
from their seeds.

| | |
| --- | --- |
{rows}

Most weights are stored as int8 with a float32 scale for each row (`diffrhythm/packed.py`).

## What it cannot do

- The voice is a synthesiser's, with a veil of noise about it: the autoencoder is small.
- A style that is none of the {len(STYLES)} becomes the one, or the mixture, that its words are nearest to.
- Songs of {SHORTEST_S:g} to {LONGEST_S:g} s; it was trained on 30 s, and is best there.

Licence: Apache-2.0, code and weights.
"""


def error(exact: Mapping[str, Tensor], stored: Mapping[str, Tensor]) -> float:
    """Root mean square of what packing changed, over that of the weights."""
    changed = sum(float((stored[name] - weight).double().square().sum()) for name, weight in exact.items())
    whole = sum(float(weight.double().square().sum()) for weight in exact.values())
    return (changed / whole) ** 0.5 if whole else 0.0


def _refuse_unfit(trained: Trained, contents: Mapping[str, bytes]) -> None:
    phones, size = len(Inventory.demo()), sum(map(len, contents.values()))
    if trained.config.text_rows != phones:
        raise BundleError(
            f"{trained.config.text_rows} phones where the demo has {phones}: the transformer; train it anew"
        )
    if size > LARGEST_BYTES:
        raise BundleError(
            f"{size / 1e6:.1f} MB where {LARGEST_BYTES / 1e6:g} are allowed: the demo; train a smaller model"
        )


def _millions(weights: Mapping[str, Tensor]) -> str:
    return f"{sum(weight.numel() for weight in weights.values()) / 1e6:.1f}"


def _npy(values: Tensor) -> bytes:
    file = io.BytesIO()
    np.save(file, values.numpy())
    return file.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the demo bundle of trained weights.")
    for name, words in (
        ("vae", "checkpoint of the autoencoder"),
        ("dit", "checkpoint of the transformer"),
        ("style", "safetensors of training.style_encoder"),
        ("facts", "JSON of what the card says of the training"),
        ("out", "folder of the bundle"),
    ):
        parser.add_argument(f"--{name}", type=Path, required=True, help=words)
    asked = parser.parse_args()
    trained = read(asked.dit, asked.vae, asked.style)
    made = write(trained, json.loads(asked.facts.read_text()), asked.out)
    for path in sorted(asked.out.iterdir()):
        print(f"{path.stat().st_size / 1e6:8.3f} MB  {path.name}")
    for name, exact in ((bundle.TRANSFORMER, trained.transformer), (bundle.VAE, trained.vae)):
        path = made.folder / name
        print(f"weights {error(exact, packed.unpack(load_file(path), path)):.2%} off: {name}")


if __name__ == "__main__":
    main()
