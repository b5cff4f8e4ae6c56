"""Static int8 of a block's linears: one scale for each input tensor, one for each row of weights.

Activations have a few channels that are much larger than the rest. Dividing such a channel of an input by a
factor, and multiplying the same column of the weights by it, leaves the product unchanged and both easier to
quantise. The division costs nothing at run time: the factors of an input that comes from a norm go into the
norm's gains, those of o's input into v's rows, and those of down's input into up's rows.
Source: SmoothQuant, arXiv 2211.10438.

n rows of activations · k channels of an input · d model width
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffrhythm import packed
from diffrhythm.transformer import Block, DiT, RMSNorm

# The inputs of a block's linears, and the linears that read each.
INPUTS: Mapping[str, tuple[str, ...]] = {
    "attention": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "heads": ("self_attn.o_proj",),
    "mlp": ("mlp.gate_proj", "mlp.up_proj"),
    "gated": ("mlp.down_proj",),
}
INPUT_OF = {linear: name for name, linears in INPUTS.items() for linear in linears}
# The linears whose rows are the channels of a later linear's input, and that input.
ROWS_OF = {"self_attn.v_proj": "heads", "mlp.up_proj": "gated"}
# Norms whose gains take the factors of an input.
NORM_OF = {"attention": "input_layernorm", "mlp": "post_attention_layernorm"}

# How a linear is calculated. static: see above. dynamic: int8 weights, and a scale for each group of channels
# of an input, found as it comes. float: the block's floating type.
Form = Literal["static", "dynamic", "float"]
# Time of a linear in each form, relative: 309, 364 and 1036 ms for the linears of one block of the published
# size at 2048 frames, on two Ice Lake cores with AVX-512 VNNI.
COSTS: Mapping[Form, float] = {"static": 1.0, "dynamic": 1.2, "float": 3.4}

# Relative error of the velocity that static int8 may have; a larger one only where the dynamic form's is
# larger still.
BUDGET = 0.02
# Largest and smallest int8.
MOST, LEAST = 127, -128
# Shares of the difficulty that move from an input to its weights; 0 leaves both as they are.
STRENGTHS = (0.0, 0.5, 0.65, 0.8)
# Clipping ranges that are tried, as shares of the largest absolute value.
RANGES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05)
# Rows of each weight matrix, evenly spaced, that errors of products are measured on.
SAMPLED_ROWS = 512
# A channel that is always zero has a factor, too.
_LEAST_MAGNITUDE = 1e-5


@dataclass(frozen=True, slots=True)
class Input:
    """How one input is quantised. factors: [k] that its channels are divided by. step: of what results."""

    factors: Tensor
    step: float


@dataclass(frozen=True)
class Calibration:
    """Static int8 of a model.

    inputs: by "block.input", such as "3.heads". forms: of each linear, by "block.linear", such as
    "0.mlp.down_proj". error, dynamic_error: of the velocity, relative to float32, in this form and with
    dynamic int8 in all blocks but the first; NaN where they were not measured.
    """

    inputs: Mapping[str, Input]
    forms: Mapping[str, Form]
    error: float = float("nan")
    dynamic_error: float = float("nan")

    @property
    def serves(self) -> bool:
        """Whether songs are made in this form."""
        return self.error <= max(BUDGET, self.dynamic_error)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all that the quantised weights depend on."""
        digest = hashlib.sha256(repr(sorted(self.forms.items())).encode())
        for name in sorted(self.inputs):
            digest.update(name.encode())
            digest.update(self.inputs[name].factors.contiguous().numpy().tobytes())
        return digest.hexdigest()

    def gains(self, number: int, block: Block, name: str) -> Tensor:
        """Gains of the norm before an input (see NORM_OF) of the block of this number: [d] float32."""
        norm = block.get_submodule(NORM_OF[name])
        assert isinstance(norm, RMSNorm)
        return norm.weight.detach().float() / self.inputs[f"{number}.{name}"].factors

    def weight(self, number: int, block: Block, name: str) -> Tensor:
        """Weights of a linear with the factors of its input and those of its rows: float32."""
        weight = weight_of(block, name) * self.inputs[f"{number}.{INPUT_OF[name]}"].factors
        if name in ROWS_OF:
            weight /= self.inputs[f"{number}.{ROWS_OF[name]}"].factors[:, None]
        return weight

    def form(self, number: int, name: str) -> Form:
        return self.forms[f"{number}.{name}"]

    def step(self, number: int, name: str) -> float:
        """Step of the input of a linear."""
        return self.inputs[f"{number}.{INPUT_OF[name]}"].step

    def module(self, number: int, block: Block, name: str, group: int) -> nn.Module | None:
        """What calculates a linear of the block in its form; None for the linear itself, in float.

        group: channels that share a scale in the dynamic form.
        """
        found, weight = self.inputs[f"{number}.{INPUT_OF[name]}"], weight_of(block, name)
        form = self.form(number, name)
        if form == "static":
            return Static(weight, found)
        if form == "dynamic":
            return Dynamic(weight, group, found.factors)
        return None


def arranged(inputs: Mapping[str, Input], forms: Mapping[str, Form]) -> Calibration:
    """Return the calibration of these forms, with factors of 1 for inputs that no static linear reads.

    What makes one scale for a whole input better makes scales for its groups worse.
    """
    kept = {}
    for key, found in inputs.items():
        number, _, name = key.partition(".")
        is_used = any(forms[f"{number}.{linear}"] == "static" for linear in INPUTS[name])
        kept[key] = found if is_used else replace(found, factors=torch.ones_like(found.factors))
    return Calibration(kept, forms)


def crude(model: DiT, step: float = 4 / MOST) -> Calibration:
    """Return a calibration that no data went into: every linear static, factors of 1, one step everywhere.

    For measuring speed alone, which does not depend on the numbers.
    """
    inputs: dict[str, Input] = {}
    forms: dict[str, Form] = {}
    for i, block in enumerate(model.transformer_blocks):
        assert isinstance(block, Block)
        for name, linears in INPUTS.items():
            inputs[f"{i}.{name}"] = Input(torch.ones(weight_of(block, linears[0]).shape[1]), step)
            forms |= dict.fromkeys((f"{i}.{linear}" for linear in linears), "static")
    return Calibration(inputs, forms)


# ---------------------------------------------------------------- finding factors and steps


def calibrated(largest: Tensor, rows: Tensor, shares: Tensor, weights: Sequence[Tensor]) -> Input:
    """Return the factors and the step with which these linears' products are the least wrong.

    largest: [k], largest absolute value of each channel. rows: [n, k], a sample of the input. shares: [n],
    how many frames each row stands for. weights: of the linears that read this input, [rows, k] each.
    """
    columns = torch.stack([weight.abs().amax(dim=0) for weight in weights]).amax(dim=0)
    weights = [weight[:: max(1, len(weight) // SAMPLED_ROWS)] for weight in weights]
    exact = [rows @ weight.T for weight in weights]
    best, least = None, float("inf")
    for strength in STRENGTHS:
        factors = smoothing(largest, columns, strength)
        step = best_step(rows / factors, shares, _importance(weights, factors))
        found = Input(factors, step)
        made = (Static(weight, found)(rows) for weight in weights)
        error = sum(squared_error(*each, shares) for each in zip(made, exact, strict=True))
        if error < least:
            best, least = found, error
    assert best is not None, "activations are finite, and so is some error"
    return best


def smoothing(largest: Tensor, columns: Tensor, strength: float) -> Tensor:
    """Return the factor of each channel, [k], with a geometric mean of 1.

    largest: of the absolute activations of a channel. columns: of the absolute weights of its column.
    strength: in [0, 1]; 0 gives ones, 1 makes all channels of the input equally large.
    """
    if strength == 0:
        return torch.ones_like(largest)
    logs = strength * largest.clamp(min=_LEAST_MAGNITUDE).log()
    logs -= (1 - strength) * columns.clamp(min=_LEAST_MAGNITUDE).log()
    return (logs - logs.mean()).exp()


def best_step(rows: Tensor, shares: Tensor, importance: Tensor) -> float:
    """Return the step whose rounding and clipping have the least weighted mean squared error.

    rows: [n, k]. shares: [n], weights of the rows. importance: [k], weights of the channels.
    """
    most = float(rows.abs().max()) / MOST
    if most == 0:
        return 1.0
    errors = {
        most * part: float(shares @ (rows - rounded(rows, most * part)).square() @ importance)
        for part in RANGES
    }
    return min(errors, key=lambda step: errors[step])


def squared_error(made: Tensor, exact: Tensor, shares: Tensor) -> float:
    """Return the squared relative error of rows [n, k]. shares: [n], weights of the rows."""
    return float(shares @ (made - exact).square().sum(dim=1) / (shares @ exact.square().sum(dim=1)))


def _importance(weights: Sequence[Tensor], factors: Tensor) -> Tensor:
    """How much an error of each channel of the smoothed input counts in the products: [k]."""
    smooth = [(weight * factors).square().sum(dim=0) for weight in weights]
    return torch.stack([each / each.sum() for each in smooth]).sum(dim=0)


# ---------------------------------------------------------------- the same arithmetic in torch


def rounded(x: Tensor, step: float) -> Tensor:
    """Return the nearest of the 256 numbers that int8 with this step has."""
    return (x / step).round_().clamp_(LEAST, MOST).mul_(step)


def dequantised(weight: Tensor) -> Tensor:
    """Return the float32 weights that int8 with a scale for each row has in their place."""
    steps, scale = packed.quantise(weight.float())
    return steps * scale[:, None]


class Static(nn.Module):
    """A linear in static int8, calculated in float32: exact but for float32's own rounding."""

    def __init__(self, weight: Tensor, found: Input) -> None:
        super().__init__()
        self.found = found
        self.weight = dequantised(weight * found.factors)

    def forward(self, x: Tensor) -> Tensor:
        """[…, k] → […, rows]."""
        return F.linear(rounded(x / self.found.factors, self.found.step), self.weight)


class Dynamic(nn.Module):
    """A linear whose input has a scale for each group of channels, found as it comes; in float32."""

    def __init__(self, weight: Tensor, group: int, factors: Tensor | None = None) -> None:
        super().__init__()
        self.group = group
        self.factors = torch.ones(weight.shape[1]) if factors is None else factors
        self.weight = dequantised(weight * self.factors)

    def forward(self, x: Tensor) -> Tensor:
        """[…, k] → […, rows]."""
        width = x.shape[-1]
        groups = torch.unflatten(F.pad(x / self.factors, (0, -width % self.group)), -1, (-1, self.group))
        steps = groups.abs().amax(dim=-1, keepdim=True).clamp_(min=1e-30) / MOST
        return F.linear(((groups / steps).round_() * steps).flatten(-2)[..., :width], self.weight)


@contextmanager
def replaced(block: Block, linears: Mapping[str, nn.Module]) -> Iterator[None]:
    """The block with other modules in place of these linears, for as long as the context lasts."""
    before = {name: block.get_submodule(name) for name in linears}
    try:
        for name, module in linears.items():
            put(block, name, module)
        yield
    finally:
        for name, module in before.items():
            put(block, name, module)


def put(block: Block, name: str, module: nn.Module) -> None:
    """Put a module in place of a linear of the block."""
    parent, _, attribute = name.rpartition(".")
    setattr(block.get_submodule(parent), attribute, module)


def weight_of(block: Block, name: str) -> Tensor:
    """Weights of a linear of the block: [rows, k] float32."""
    linear = block.get_submodule(name)
    assert isinstance(linear, nn.Linear)
    return linear.weight.detach().float()
