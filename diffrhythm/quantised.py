"""The blocks' linears in int8, made once for a model and kept, so that every song maps the same ones.

They are kept in the user's cache and not in the bundle, which may be another user's or on a disk that nobody
may write to. Weights of a calibrated model differ from those of the same model without: they have a file of
their own.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from diffrhythm import files, packed
from diffrhythm.bundle import Bundle
from diffrhythm.smoothquant import INPUT_OF, Calibration
from diffrhythm.transformer import Block, DiT

# Of a linear: steps int8 [rows, columns] and scale float32 [rows], see packed.quantise.
Linears = Mapping[nn.Module, tuple[Tensor, Tensor]]

# Of the rule that weights become int8 by.
SCHEMA = 1

_log = logging.getLogger(__name__)


def linears(
    bundle: Bundle, model: DiT, spared: Collection[int], calibration: Calibration | None = None
) -> Linears:
    """Steps and scales of all linears of the bundle's model but for those of the spared blocks.

    calibration: its factors are in the weights then, and it says what is spared. Made of the model's
    weights where they are not kept yet; a cache that cannot be written is logged, and each song makes them
    anew.
    """
    named = _named(model, spared, calibration)
    form = "" if calibration is None else f"-{calibration.digest[:16]}"
    path = files.cache_folder() / "int8" / f"{SCHEMA}-{bundle.hash}{form}.safetensors"
    try:
        # Others of this batch wait, and then read.
        with files.alone(path.with_name(f"{SCHEMA}-{bundle.hash}.lock")):
            kept = _read(path, named) or _keep(path, bundle, _made(model, named, calibration), named)
    except (OSError, SafetensorError) as error:  # the latter is what a full disk comes to
        _log.warning("int8 weights not cached (%s): %s; each song makes them anew", error, path)
        kept = _made(model, named, calibration)
    return {linear: (kept[name], kept[name + packed.SCALE]) for name, linear in named.items()}


def _named(model: DiT, spared: Collection[int], calibration: Calibration | None) -> dict[str, nn.Linear]:
    """The linears to quantise, by "block.linear"."""
    named = {}
    for i, block in enumerate(model.transformer_blocks):
        for name in INPUT_OF:
            is_spared = i in spared if calibration is None else calibration.form(i, name) == "float"
            if not is_spared:
                linear = block.get_submodule(name)
                assert isinstance(linear, nn.Linear)
                named[f"{i}.{name}"] = linear
    return named


def _keep(
    path: Path, bundle: Bundle, made: dict[str, Tensor], named: Mapping[str, nn.Linear]
) -> dict[str, Tensor]:
    """What was made, from its file: mapped, in place of a gigabyte of our own."""
    # By one who was killed, or before the model was calibrated. A song that has it mapped keeps it.
    for left in (
        *path.parent.glob(f".*{bundle.hash}*.tmp"),
        *path.parent.glob(f"*-{bundle.hash}*.safetensors"),
    ):
        left.unlink()
    with files.whole(path) as temporary:
        save_file(made, temporary)
    return _read(path, named) or made


def _made(model: DiT, named: Mapping[str, nn.Linear], calibration: Calibration | None) -> dict[str, Tensor]:
    made: dict[str, Tensor] = {}
    for name, linear in named.items():
        weight = linear.weight.detach().float()
        if calibration is not None:
            number, _, within = name.partition(".")
            block = model.transformer_blocks[int(number)]
            assert isinstance(block, Block)
            weight = calibration.weight(int(number), block, within)
        made[name], made[name + packed.SCALE] = packed.quantise(weight)
    return made


def _read(path: Path, named: Mapping[str, nn.Linear]) -> dict[str, Tensor] | None:
    """What is kept, its file mapped; None where it is none of this model's."""
    try:
        kept = load_file(path)
    except (OSError, SafetensorError):
        return None
    wanted = {name: (torch.int8, linear.weight.shape) for name, linear in named.items()}
    wanted |= {
        name + packed.SCALE: (torch.float32, linear.weight.shape[:1]) for name, linear in named.items()
    }
    return kept if {name: (each.dtype, each.shape) for name, each in kept.items()} == wanted else None
