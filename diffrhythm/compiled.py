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
from diffrhythm.transformer import (
    MLP_FRAMES,
    NORM_EPS,
    Block,
    Constants,
    ConvPositions,
    DiT,
    GatedMLP,
    Modulation,
)

# Stay in bfloat16 where the rest is int8: on the demo model, all that int8 lost of a song was lost in the
# first block (docs/quality.md).
SENSITIVE_BLOCKS = frozenset({0})

# Of pass: conditional and null.
KINDS = 2
# A node of a linear's weights, in the arithmetic of its block.
Weight = Callable[[nn.Linear], Node]

# [1, t, h, d / h] ↔ [1, h, t, d / h]
_FRAMES_AND_HEADS = np.array((0, 2, 1, 3))


class Compiled:
    """The passes of a transformer for songs of `frames` frames, one song at a time.

    precision: fp32, bf16, or int8, where weights have a scale a row, and inputs one for each group of
    graphs.INT8_GROUP numbers, found as they come. spared: blocks that stay in bf16 then. threads: of the
    processor. quantised: linears whose int8 is made already.
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
    ) -> None:
        self._model = model
        self._passes = graphs.compiled(
            graph(model, frames, precision, spared, quantised or {}), precision=precision, threads=threads
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
    model: DiT, frames: int, precision: Precision, spared: Collection[int], quantised: Linears
) -> openvino.Model:
    """Inputs: h behind the input's projection, then the fusion of each block that has one, [1, t, d] each.

    Output: h behind the last block.
    """
    shape = [1, frames, model.config.dim]
    h, *fusion = (ops.parameter(shape, np.float32) for _ in range(1 + model.config.fusion_layers))
    rotary = model.rotary(frames)
    cos, sin = (ops.constant(each.numpy()[None, None]) for each in (rotary.cos, rotary.sin))
    out = ops.add(h, _convolved(h, model.input_embed.conv_pos_embed))
    for i, block in enumerate(model.transformer_blocks):
        assert isinstance(block, Block)
        lowered = "bf16" if precision == "int8" and i in spared else precision
        out = _block(out, block, cos, sin, partial(_weight, precision=lowered, quantised=quantised))
        if i < len(fusion):
            out = ops.add(out, fusion[i])
    return openvino.Model([out], [h, *fusion], "passes")


# ---------------------------------------------------------------- parts of a pass, to be timed by themselves

Part = Callable[..., Tensor]


def block(model: DiT, frames: int, precision: Precision, threads: int) -> Part:
    """Return what runs the positions and the blocks of a model without fusion: [1, t, d] → [1, t, d]."""
    return _part(graph(model, frames, precision, (), {}), precision, threads)


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


def _block(h: Node, block: Block, cos: Node, sin: Node, weight: Weight) -> Node:
    attention = block.self_attn
    x = _norm(h, block.input_layernorm.weight)
    heads = np.array((0, 0, HEADS, attention.head_dim))
    q, k, v = (
        ops.transpose(ops.reshape(_product(x, weight(each)), heads, True), _FRAMES_AND_HEADS)
        for each in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    y = ops.scaled_dot_product_attention(_rotate(q, cos, sin), _rotate(k, cos, sin), v)
    y = ops.reshape(ops.transpose(y, _FRAMES_AND_HEADS), np.array((0, 0, HEADS * attention.head_dim)), True)
    h = ops.add(h, _product(y, weight(attention.o_proj)))
    return ops.add(h, _mlp(_norm(h, block.post_attention_layernorm.weight), block.mlp, weight))


def _mlp(x: Node, mlp: GatedMLP, weight: Weight) -> Node:
    """The frames in pieces, as transformer.py has them."""
    gate, up, down = (weight(each) for each in (mlp.gate_proj, mlp.up_proj, mlp.down_proj))
    frames = x.get_output_shape(0)[1]
    lengths = [min(MLP_FRAMES, frames - start) for start in range(0, frames, MLP_FRAMES)]
    pieces = ops.variadic_split(x, np.int64(1), np.array(lengths)).outputs() if len(lengths) > 1 else [x]
    made = [
        _product(ops.multiply(ops.swish(_product(piece, gate)), _product(piece, up)), down)
        for piece in pieces
    ]
    return ops.concat(made, 1) if len(made) > 1 else made[0]


def _norm(h: Node, gains: Tensor) -> Node:
    power = ops.reduce_mean(ops.multiply(h, h), np.array([-1]), True)
    return ops.multiply(ops.divide(h, ops.sqrt(ops.add(power, np.float32(NORM_EPS)))), graphs.constant(gains))


def _rotate(x: Node, cos: Node, sin: Node) -> Node:
    first, second = ops.split(x, np.int64(-1), 2).outputs()
    turned = ops.concat([ops.negative(second), first], -1)
    return ops.add(ops.multiply(x, cos), ops.multiply(turned, sin))


def _product(x: Node, weight: Node) -> Node:
    return ops.matmul(x, weight, False, True)


def _weight(linear: nn.Linear, *, precision: Precision, quantised: Linears) -> Node:
    if precision != "int8":
        return graphs.constant(linear.weight)
    steps, scale = quantised.get(linear) or packed.quantise(linear.weight.float())
    return ops.multiply(graphs.constant(steps), graphs.constant(scale[:, None]))
