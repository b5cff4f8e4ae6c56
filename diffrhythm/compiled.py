"""The transformer's passes as one graph, compiled by OpenVINO for the processor that it is on.

The graph is transformer.py's from the convolutions of positions to the last block, for songs of one number of
frames. What is before and behind it is small and stays torch's.

t latent frames · d model width
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

import numpy as np
import openvino
from openvino import opset13 as ops
from torch import Tensor, nn

from diffrhythm import graphs, packed
from diffrhythm.config import CONV_GROUPS, HEADS
from diffrhythm.graphs import Node
from diffrhythm.precision import Precision
from diffrhythm.quantised import Linears
from diffrhythm.smoothquant import INPUT_OF, LEAST, MOST, Calibration
from diffrhythm.transformer import (
    MLP_FRAMES,
    NORM_EPS,
    Block,
    Constants,
    ConvPositions,
    DiT,
    GatedMLP,
    Modulation,
    RMSNorm,
)

# Stay in bfloat16 where the rest is int8: on the demo model, all that int8 lost of a song was lost in the
# first block (docs/quality.md).
SENSITIVE_BLOCKS = frozenset({0})

# Of pass: conditional and null.
KINDS = 2

# [1, t, h, d / h] ↔ [1, h, t, d / h]
_FRAMES_AND_HEADS = np.array((0, 2, 1, 3))


class Compiled:
    """The passes of a transformer for songs of `frames` frames, one song at a time.

    precision: fp32, bf16, or int8, where weights have a scale a row, and inputs one for each group of
    graphs.INT8_GROUP numbers, found as they come. spared: blocks that stay in bf16 then. threads: of the
    processor. quantised: linears whose int8 is made already. calibration: int8 is static by it, and it says
    which linears are not.
    """

    def __init__(
        self,
        model: DiT,
        *,
        frames: int,
        precision: Precision,
        threads: int,
        spared: Collection[int] = SENSITIVE_BLOCKS,
        quantised: Linears | None = None,
        calibration: Calibration | None = None,
    ) -> None:
        self._model = model
        self._passes = graphs.compiled(
            graph(model, frames, precision, spared, quantised or {}, calibration),
            precision=precision,
            threads=threads,
        )
        # By the identity of the constants, which are kept with them: a kind of pass each.
        self._requests: dict[int, tuple[Constants, Any]] = {}

    def modulation(self, t: float | Tensor, scalars: Tensor) -> Modulation:
        """See DiT.modulation."""
        return self._model.modulation(t, scalars)

    def velocity(self, x_t: Tensor, modulation: Modulation, constants: Constants) -> Tensor:
        """dx/dt at x_t: [1, t, c] float32. See DiT.velocity."""
        h = self._model.input_embed.projected(x_t, constants.inputs + modulation.row)
        behind = graphs.run(self._request(constants), h)
        return self._model.velocity_behind(behind, modulation)

    def _request(self, constants: Constants) -> Any:
        """What runs this kind of pass: what the text adds is handed over once."""
        if id(constants) not in self._requests:
            if len(self._requests) == KINDS:  # the window before is over
                self._requests.pop(next(iter(self._requests)))
            request = self._passes.create_infer_request()
            for i, text in enumerate(constants.fusion, 1):
                request.set_input_tensor(i, openvino.Tensor(text.contiguous().numpy(), shared_memory=True))
            self._requests[id(constants)] = constants, request
        return self._requests[id(constants)][1]


def graph(
    model: DiT,
    frames: int,
    precision: Precision,
    spared: Collection[int],
    quantised: Linears,
    calibration: Calibration | None = None,
) -> openvino.Model:
    """Inputs: h behind the input's projection, then the fusion of each block that has one, [1, t, d] each.

    Output: h behind the last block. calibration: of static int8; None: int8 is dynamic.
    """
    shape = [1, frames, model.config.dim]
    h, *fusion = (ops.parameter(shape, np.float32) for _ in range(1 + model.config.fusion_layers))
    rotary = model.rotary(frames)
    cos, sin = (ops.constant(each.numpy()[None, None]) for each in (rotary.cos, rotary.sin))
    out = ops.add(h, _convolved(h, model.input_embed.conv_pos_embed))
    for i, block in enumerate(model.transformer_blocks):
        assert isinstance(block, Block)
        out = _block(out, block, cos, sin, _arithmetic(i, block, precision, spared, quantised, calibration))
        if i < len(fusion):
            out = ops.add(out, fusion[i])
    return openvino.Model([out], [h, *fusion], "passes")


# ---------------------------------------------------------------- parts of a pass, to be timed by themselves

Part = Callable[..., Tensor]


def block(
    model: DiT, frames: int, precision: Precision, threads: int, calibration: Calibration | None = None
) -> Part:
    """Return what runs the positions and the blocks of a model without fusion: [1, t, d] → [1, t, d]."""
    return _part(graph(model, frames, precision, (), {}, calibration), precision, threads)


def positions(model: DiT, frames: int, precision: Precision, threads: int) -> Part:
    """Return what runs the convolutions over positions: [1, t, d] → [1, t, d]."""
    h = ops.parameter([1, frames, model.config.dim], np.float32)
    out = _convolved(h, model.input_embed.conv_pos_embed)
    return _part(openvino.Model([out], [h], "positions"), precision, threads)


def attention(shape: Sequence[int], precision: Precision, threads: int) -> Part:
    """Return what runs attention for q, k and v of this shape: four times [1, h, t, d / h]."""
    q, k, v = (ops.parameter(list(shape), np.float32) for _ in range(3))
    out = ops.scaled_dot_product_attention(q, k, v)
    return _part(openvino.Model([out], [q, k, v], "attention"), precision, threads)


def _part(model: openvino.Model, precision: Precision, threads: int) -> Part:
    request = graphs.compiled(model, precision=precision, threads=threads).create_infer_request()
    return partial(graphs.run, request)


# ---------------------------------------------------------------- the graph's nodes


def _convolved(h: Node, positions: ConvPositions) -> Node:
    out = ops.transpose(h, np.array((0, 2, 1)))
    for conv in positions.conv1d:
        if isinstance(conv, nn.Conv1d):
            width, inputs, taps = conv.weight.shape
            kernel = graphs.constant(conv.weight.reshape(CONV_GROUPS, width // CONV_GROUPS, inputs, taps))
            ends = [taps // 2]
            out = ops.group_convolution(out, kernel, [1], ends, ends, [1])
            assert conv.bias is not None
            out = ops.mish(ops.add(out, graphs.constant(conv.bias[:, None])))
    return ops.transpose(out, np.array((0, 2, 1)))


def _block(h: Node, block: Block, cos: Node, sin: Node, linears: _Linears) -> Node:
    attention = block.self_attn
    x = _norm(h, linears.gains("attention", block.input_layernorm))
    heads = np.array((0, 0, HEADS, attention.head_dim))
    q, k, v = (
        ops.transpose(ops.reshape(linears.product(x, each), heads, True), _FRAMES_AND_HEADS)
        for each in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    y = ops.scaled_dot_product_attention(_rotate(q, cos, sin), _rotate(k, cos, sin), v)
    y = ops.reshape(ops.transpose(y, _FRAMES_AND_HEADS), np.array((0, 0, HEADS * attention.head_dim)), True)
    h = ops.add(h, linears.product(y, attention.o_proj))
    x = _norm(h, linears.gains("mlp", block.post_attention_layernorm))
    return ops.add(h, _mlp(x, block.mlp, linears))


def _mlp(x: Node, mlp: GatedMLP, linears: _Linears) -> Node:
    """The frames in pieces, as transformer.py has them."""
    frames = x.get_output_shape(0)[1]
    lengths = [min(MLP_FRAMES, frames - start) for start in range(0, frames, MLP_FRAMES)]
    pieces = ops.variadic_split(x, np.int64(1), np.array(lengths)).outputs() if len(lengths) > 1 else [x]
    made = [_gated(piece, mlp, linears) for piece in pieces]
    return ops.concat(made, 1) if len(made) > 1 else made[0]


def _gated(x: Node, mlp: GatedMLP, linears: _Linears) -> Node:
    gate, up = linears.product(x, mlp.gate_proj), linears.product(x, mlp.up_proj)
    return linears.product(ops.multiply(ops.swish(gate), up), mlp.down_proj)


def _norm(h: Node, gains: Tensor) -> Node:
    power = ops.reduce_mean(ops.multiply(h, h), np.array([-1]), True)
    return ops.multiply(ops.divide(h, ops.sqrt(ops.add(power, np.float32(NORM_EPS)))), graphs.constant(gains))


def _rotate(x: Node, cos: Node, sin: Node) -> Node:
    first, second = ops.split(x, np.int64(-1), 2).outputs()
    turned = ops.concat([ops.negative(second), first], -1)
    return ops.add(ops.multiply(x, cos), ops.multiply(turned, sin))


class _Linears:
    """Products with the weights of one block. quantised: None where the weights are not int8."""

    def __init__(self, quantised: Linears | None) -> None:
        self._quantised = quantised
        # A weight is one constant, however many pieces of the frames pass it.
        self._weights: dict[nn.Linear, Node] = {}

    def gains(self, name: str, norm: RMSNorm) -> Tensor:
        """Gains of the norm before this input (smoothquant.NORM_OF): [d]."""
        return norm.weight

    def product(self, x: Node, linear: nn.Linear) -> Node:
        """x [1, t, k] → [1, t, rows]."""
        if linear not in self._weights:
            self._weights[linear] = self._weight(linear)
        return ops.matmul(x, self._weights[linear], False, True)

    def _weight(self, linear: nn.Linear) -> Node:
        if self._quantised is None:
            return graphs.constant(linear.weight)
        return _dequantised(*(self._quantised.get(linear) or packed.quantise(linear.weight.float())))


class _StaticLinears(_Linears):
    """The same as a calibration has them.

    Of a FakeQuantize before int8 weights OpenVINO makes one int8 kernel with them.
    """

    def __init__(self, number: int, block: Block, calibration: Calibration, quantised: Linears) -> None:
        super().__init__(quantised)
        self._number, self._block, self._calibration = number, block, calibration
        self._names = {block.get_submodule(name): name for name in INPUT_OF}
        # The input that was quantised last, and what came of it, for all linears that read it.
        self._last: tuple[Node, Node] | None = None

    def gains(self, name: str, norm: RMSNorm) -> Tensor:
        return self._calibration.gains(self._number, self._block, name)

    def product(self, x: Node, linear: nn.Linear) -> Node:
        name = self._names[linear]
        if self._calibration.form(self._number, name) == "static":
            x = self._rounded(x, self._calibration.step(self._number, name))
        return super().product(x, linear)

    def _rounded(self, x: Node, step: float) -> Node:
        if self._last is None or self._last[0] is not x:
            ends = np.float32(LEAST * step), np.float32(MOST * step)
            self._last = x, ops.fake_quantize(x, *ends, *ends, MOST - LEAST + 1)
        return self._last[1]

    def _weight(self, linear: nn.Linear) -> Node:
        name = self._names[linear]
        assert self._quantised is not None
        if linear in self._quantised:
            return _dequantised(*self._quantised[linear])
        weight = self._calibration.weight(self._number, self._block, name)
        if self._calibration.form(self._number, name) == "float":
            return ops.constant(weight.numpy())
        return _dequantised(*packed.quantise(weight))


def _arithmetic(
    number: int,
    block: Block,
    precision: Precision,
    spared: Collection[int],
    quantised: Linears,
    calibration: Calibration | None,
) -> _Linears:
    if precision != "int8":
        return _Linears(None)
    if calibration is not None:
        return _StaticLinears(number, block, calibration, quantised)
    return _Linears(None if number in spared else quantised)


def _dequantised(steps: Tensor, scale: Tensor) -> Node:
    return ops.multiply(graphs.constant(steps), graphs.constant(scale[:, None]))
