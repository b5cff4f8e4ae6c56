"""One pass as the published program computes it: float32 by torch, without anything of ours.

Each pass embeds the lyrics again, norms are composed of single operations, and attention is given a mask of
zeros, as the layers of transformers' Llama do it. Modules of diffrhythm/transformer.py are used for their
weights and for what is small, so that this stays the same when those become faster.

t latent frames · c latent channels (64) · d model width · h heads
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from diffrhythm.config import HEADS
from diffrhythm.transformer import NORM_EPS, Block, DiT, Rotary


def velocity(
    model: DiT, x_t: Tensor, t: float, *, text_ids: Tensor, style: Tensor, duration_frames: int
) -> Tensor:
    """Return dx/dt at x_t: [1, t, c] float32.

    model: in float32. x_t: [1, t, c]. t: in [0, 1]. text_ids: [t], zeros in the null pass. style: [512].
    """
    frames = x_t.shape[1]
    text = model.text_embed(text_ids[None])
    duration = torch.tensor([duration_frames / model.config.max_frames])
    modulation = model.modulation(t, model.embed_scalars(torch.zeros(1), duration))
    h: Tensor = model.input_embed(x_t, model.input_embed.constant_part(text, style[None]) + modulation.row)
    rotary, mask = model.rotary(frames), torch.zeros(1, 1, frames, frames)
    for i, block in enumerate(model.transformer_blocks):
        assert isinstance(block, Block)
        h = _block(h, block, rotary, mask)
        if i < len(model.text_fusion_linears):
            h = h + model.text_fusion_linears[i](text)
    return model.velocity_behind(h, modulation)


def _block(h: Tensor, block: Block, rotary: Rotary, mask: Tensor) -> Tensor:
    attention, mlp = block.self_attn, block.mlp
    x = _norm(h, block.input_layernorm.weight)
    q, k, v = (
        each(x).unflatten(-1, (HEADS, -1)).transpose(1, 2)
        for each in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    y = F.scaled_dot_product_attention(_rotate(q, rotary), _rotate(k, rotary), v, attn_mask=mask)
    h = h + attention.o_proj(y.transpose(1, 2).flatten(2))
    x = _norm(h, block.post_attention_layernorm.weight)
    out: Tensor = h + mlp.down_proj(F.silu(mlp.gate_proj(x)) * mlp.up_proj(x))
    return out


def _norm(h: Tensor, gains: Tensor) -> Tensor:
    return gains * (h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + NORM_EPS))


def _rotate(x: Tensor, rotary: Rotary) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * rotary.cos + torch.cat([-second, first], dim=-1) * rotary.sin
