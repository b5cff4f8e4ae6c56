"""Weights in a quarter of their size: int8 with one float32 scale for each row of the first dimension.

In a packed file a weight X is stored as int8 X and float32 X.scale, [rows]: the weight is X · scale, row by
row. A row is an output channel of a linear or a convolution, and an input channel of a transposed
convolution, where scales for the output channels leave the same error or a little more (measured: 0.4 to
1.0 % of the weights either way). What is small, or is to be exact, stands beside them in a floating type.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from diffrhythm.errors import BundleError

SCALE = ".scale"

# The largest int8 that has its negative.
_STEPS = 127
# A matrix below these would save less than its scales and its error cost.
_LEAST_NUMBERS = 4096
_LEAST_ROW = 16

Keep = Callable[[str, Tensor], bool]


def pack(tensors: Mapping[str, Tensor], keep: Keep = lambda name, weight: False) -> dict[str, Tensor]:
    """The same weights, the large matrices among them as int8 and scale.

    keep(name, weight): those that are to stay exact to 11 bits, in float16. Vectors and small matrices stay
    float32.
    """
    packed: dict[str, Tensor] = {}
    for name, weight in tensors.items():
        weight = weight.detach().to("cpu", torch.float32)
        if not _is_large(weight):
            packed[name] = weight.contiguous()
        elif keep(name, weight):
            packed[name] = weight.to(torch.float16).contiguous()
        else:
            packed[name], packed[name + SCALE] = quantise(weight)
    return packed


def quantise(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Nearest steps of 1/127 of each row's largest number, and that step: int8 and float32 [rows]."""
    scale = weight.flatten(1).abs().amax(dim=1) / _STEPS
    # A row of zeros has no step; any makes zeros of it.
    scale[scale == 0] = 1
    return (weight / _by_row(scale, weight)).round().to(torch.int8).contiguous(), scale


def unpack(tensors: dict[str, Tensor], source: Path) -> dict[str, Tensor]:
    """The weights of a file, a packed one's in float32 under their plain names; another's as they are.

    Raises BundleError naming `source` for an int8 weight without a scale that fits it.
    """
    packed = [name for name, weight in tensors.items() if weight.dtype == torch.int8]
    if not packed:
        return tensors
    scales = {name: _scale(tensors, name, source) for name in packed}
    return {
        name: weight * scales[name] if name in scales else weight.float()
        for name, weight in tensors.items()
        if name.removesuffix(SCALE) not in scales or name in scales
    }


def _is_large(weight: Tensor) -> bool:
    return weight.ndim > 1 and weight.numel() >= _LEAST_NUMBERS and weight[0].numel() >= _LEAST_ROW


def _scale(tensors: Mapping[str, Tensor], name: str, source: Path) -> Tensor:
    """The scale of a packed weight, shaped to be multiplied with it."""
    weight, scale = tensors[name], tensors.get(name + SCALE)
    if scale is None:
        raise _damaged(f"weight {name} is int8 without {name}{SCALE}", source)
    rows = weight.shape[:1]
    if scale.shape != rows or scale.dtype != torch.float32:
        raise _damaged(
            f"{name}{SCALE} is {scale.dtype} {list(scale.shape)}, not float32 {list(rows)}", source
        )
    if not torch.isfinite(scale).all():
        raise _damaged(f"{name}{SCALE} is not finite", source)
    return _by_row(scale, weight)


def _by_row(scale: Tensor, weight: Tensor) -> Tensor:
    return scale.reshape(-1, *[1] * (weight.ndim - 1))


def _damaged(what: str, source: Path) -> BundleError:
    return BundleError(f"{what}: {source}; get the bundle again")
