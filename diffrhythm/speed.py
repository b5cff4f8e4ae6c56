"""How fast this machine is at a model's passes, from one block of it; a forecast for a whole song.

t latent frames · d model width
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from diffrhythm import cost
from diffrhythm import precision as arithmetic
from diffrhythm.config import ModelConfig
from diffrhythm.precision import Precision
from diffrhythm.transformer import DiT
from diffrhythm.vae_config import VaeConfig

# An eighth of the published song: one of its blocks takes 0.15 s at 0.25 TFLOP/s.
FRAMES = 256
SAMPLE_S = 1.0
# With guidance, every step asks twice.
PASSES = 2
# The decoder's convolutions are that much slower, operation by operation, than the passes: in bf16 46 s for
# 10.3 TFLOP beside 13.4 s for 5.0; in fp32 with vectors of 256 bits 1.4 (benchmarks/README.md).
DECODER_SLOWDOWN = 1.7


def measure(config: ModelConfig, precision: Precision, *, sample_s: float = SAMPLE_S) -> float:
    """Floating point operations a second in the blocks of a model of these sizes, on torch's threads.

    The fastest of at least two passes and as many as go into sample_s: what else the machine does, and a
    first pass, only make it slower. The weights are made up: they cost what any do.
    """
    one = replace(config, depth=1)
    frames = min(FRAMES, config.max_frames)
    once = _pass(one, frames, precision)
    took: list[float] = []
    while len(took) < 2 or sum(took) < sample_s:
        began = time.perf_counter()
        once()
        took.append(time.perf_counter() - began)
    return cost.of_pass(one, frames) / min(took)


def forecast(config: ModelConfig, vae: VaeConfig, *, frames: int, steps: int, flop_s: float) -> float:
    """About how many seconds a song of so many frames and steps takes at this speed, without loading."""
    sampling = steps * PASSES * cost.of_pass(config, frames) / flop_s
    return sampling + DECODER_SLOWDOWN * cost.of_decoder(vae, frames) / flop_s


@torch.inference_mode()
def _pass(config: ModelConfig, frames: int, precision: Precision) -> Callable[[], Any]:
    """What runs the blocks once, the way that a song would."""
    with torch.device("meta"):
        model = DiT(config)
    model.to_empty(device="cpu").requires_grad_(False)
    for weight in model.parameters():
        weight.fill_(config.dim**-0.5)
    h = torch.randn(1, frames, config.dim, generator=torch.Generator().manual_seed(0))
    if arithmetic.passes_are_compiled(precision, config, arithmetic.cpu_flags()):
        return _compiled(model, h, precision)
    rotary = model.rotary(frames)

    @torch.inference_mode()
    def once() -> None:
        out = h + model.input_embed.conv_pos_embed(h)
        for block in model.transformer_blocks:
            out = block(out, rotary)

    return once


def _compiled(model: DiT, h: torch.Tensor, precision: Precision) -> Callable[[], Any]:
    from diffrhythm import compiled, graphs

    # A model of one block would spare it.
    graph = compiled.graph(model, h.shape[1], precision, (), {})
    passes = graphs.compiled(graph, precision=precision, threads=torch.get_num_threads())
    request = passes.create_infer_request()
    return lambda: graphs.run(request, h)
