"""The blocks' linears in int8, made once for a model and kept, so that every song maps the same ones.

They are kept in the user's cache and not in the bundle, which may be another user's or on a disk that nobody
may write to.
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
from diffrhythm.transformer import DiT

# Of a linear: steps int8 [rows, columns] and scale float32 [rows], see packed.quantise.
Linears = Mapping[nn.Module, tuple[Tensor, Tensor]]

# Of the rule that weights become int8 by.
SCHEMA = 1

_log = logging.getLogger(__name__)


def linears(bundle: Bundle, model: DiT, spared: Collection[int]) -> Linears:
    """Steps and scales of all linears of the bundle's model but for those of the spared blocks.

    Made of the model's weights where they are not kept yet; a cache that cannot be written is logged, and
    each song makes them anew.
    """
    named = {
        f"{i}.{name}": module
        for i, block in enumerate(model.transformer_blocks)
        for name, module in block.named_modules()
        if isinstance(module, nn.Linear) and i not in spared
    }
    path = files.cache_folder() / "int8" / f"{SCHEMA}-{bundle.hash}.safetensors"
    try:
        with files.alone(path.with_suffix(".lock")):  # others of this batch wait, and then read
            kept = _read(path, named) or _keep(path, _made(named), named)
    except (OSError, SafetensorError) as error:  # the latter is what a full disk comes to
        _log.warning("int8 weights not cached (%s): %s; each song makes them anew", error, path)
        kept = _made(named)
    return {module: (kept[name], kept[name + packed.SCALE]) for name, module in named.items()}


def _keep(path: Path, made: dict[str, Tensor], named: Mapping[str, nn.Linear]) -> dict[str, Tensor]:
    """What was made, from its file: mapped, in place of a gigabyte of our own."""
    for left in path.parent.glob(f".{path.name}.*.tmp"):  # by one who was killed
        left.unlink()
    with files.whole(path) as temporary:
        save_file(made, temporary)
    return _read(path, named) or made


def _made(named: Mapping[str, nn.Linear]) -> dict[str, Tensor]:
    made: dict[str, Tensor] = {}
    for name, linear in named.items():
        made[name], made[name + packed.SCALE] = packed.quantise(linear.weight.detach().float())
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
