"""The diffusion transformer of DiffRhythm 1.2: what moves a noisy latent towards a song.

b batch · t latent frames · c latent channels (64) · d model width · h heads

One pass is `velocity(x_t, modulation, constants)`: `constants` hold what neither x_t nor the time changes
(made once per song by conditioning.py), `modulation` what the time alone decides (shared by the conditional
and the null pass). The names of modules and weights are those of the published checkpoints without their
`transformer.` prefix. Nothing here knows a solver.

All of it calculates in float32. compiled.py has the same passes in other arithmetic, and faster.

Source of the equations: DiffRhythm, arXiv 2503.01183; its text encoder and input follow F5-TTS, arXiv
2410.06885, its blocks Llama, arXiv 2302.13971.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffrhythm.config import CONV_GROUPS, HEADS, ModelConfig
from diffrhythm.errors import BundleError

NORM_EPS = 1e-6
ROTARY_BASE = 10000.0
# Sines and cosines of one scalar (time, start, duration), and the width of what is made of them.
SINUSOID_DIM = 256
SCALAR_DIM = 512
# Frames that pass an MLP at a time: inside it they are four times as wide as elsewhere, and would be the most
# that a long song needs (benchmarks/long_pass.py). Songs of 95 s fit whole.
MLP_FRAMES = 2048
# Inner channels that a product of an MLP makes at a time. The block of the published size at 2048 frames took
# 1951 ms in place of 2110 (least of 5, two threads, AMD Zen 3, MKL): the pieces stay in the cache.
MLP_CHANNELS = 2048
# What the names begin with of weights that compiled.py takes over: nearly all of a pass, and of the memory.
COMPILED = ("transformer_blocks.", "input_embed.conv_pos_embed.")


@dataclass(frozen=True, slots=True)
class Rotary:
    """Cosines and sines of the rotary position embedding: [t, d / h], both halves alike."""

    cos: Tensor
    sin: Tensor


@dataclass(frozen=True, slots=True)
class Constants:
    """What one kind of pass (conditional or null) needs and neither x_t nor the time changes.

    inputs: [b, t, d], the input projection of all but x_t and the time. fusion: of each block that text is
    added behind, [b, t, d].
    """

    inputs: Tensor
    fusion: tuple[Tensor, ...]
    rotary: Rotary


@dataclass(frozen=True, slots=True)
class Modulation:
    """What the time decides, [b, 1, d] each: a row for the input, the last norm's scale and shift."""

    row: Tensor
    scale: Tensor
    shift: Tensor


class DiT(nn.Module):
    """The transformer. Build it under `torch.device("meta")` when weights are to be loaded."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.dim
        self.time_embed = ScalarEmbedding()
        self.start_time_embed = ScalarEmbedding()
        if config.embeds_duration:
            self.duration_time_embed = ScalarEmbedding()
        self.text_embed = TextEmbedding(config)
        self.input_embed = InputEmbedding(config)
        self.transformer_blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.text_fusion_linears = nn.ModuleList(
            nn.Sequential(nn.Linear(config.text_dim, dim), nn.SiLU()) for _ in range(config.fusion_layers)
        )
        self.norm_out = ModulatedNorm(dim)
        self.proj_out = nn.Linear(dim, config.latent_channels)

    def velocity(self, x_t: Tensor, modulation: Modulation, constants: Constants) -> Tensor:
        """dx/dt at x_t: [b, t, c] float32.

        x_t: [b, t, c] float32. A batch of one in `modulation` and `constants` serves every item of x_t.
        """
        h: Tensor = self.input_embed(x_t, constants.inputs + modulation.row)
        for i, block in enumerate(self.transformer_blocks):
            h = block(h, constants.rotary)
            if i < len(constants.fusion):
                h = h + constants.fusion[i]
        return self.velocity_behind(h, modulation)

    def velocity_behind(self, h: Tensor, modulation: Modulation) -> Tensor:
        """dx/dt of what leaves the last block: [b, t, d] → [b, t, c]."""
        v: Tensor = self.proj_out(self.norm_out(h, modulation.scale, modulation.shift))
        return v

    def modulation(self, t: float | Tensor, scalars: Tensor) -> Modulation:
        """What the time t, in [0, 1], decides. scalars: [b, 512], from `embed_scalars`."""
        time: Tensor = self.time_embed(
            torch.as_tensor(t, dtype=torch.float32, device=self.device).reshape(-1)
        )
        c = time + scalars
        scale, shift = self.norm_out.modulate(c)
        return Modulation(row=self.input_embed.time_row(c), scale=scale, shift=shift)

    def embed_scalars(self, start_time: Tensor, duration: Tensor) -> Tensor:
        """The part of the time embedding that is the same in the whole song: [b, 512].

        start_time, duration: [b] or [1], in [0, 1], as shares of the longest song.
        """
        c: Tensor = self.start_time_embed(start_time)
        if self.config.embeds_duration:
            c = c + self.duration_time_embed(duration)
        return c

    def fuse_text(self, text: Tensor) -> tuple[Tensor, ...]:
        """What the embedded text [b, t, 512] adds behind each of the first blocks: [b, t, d] each."""
        return tuple(linear(text) for linear in self.text_fusion_linears)

    def rotary(self, frames: int) -> Rotary:
        """The rotary table of positions 0 … frames - 1."""
        size = self.config.head_dim
        device = self.device
        exponents = torch.arange(0, size, 2, dtype=torch.float32, device=device) / size
        positions = torch.arange(frames, dtype=torch.float32, device=device)
        angles = torch.outer(positions, 1.0 / ROTARY_BASE**exponents).repeat(1, 2)
        return Rotary(cos=angles.cos(), sin=angles.sin())

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.proj_out.weight.device


def load_weights(model: DiT, tensors: Mapping[str, Tensor]) -> None:
    """Gives the model its weights, without a copy, and makes it ready for inference.

    tensors: of every key of the model's state dict, floating point, of its shape. Memory-mapped ones stay so.
    Raises BundleError naming keys that are missing, surplus, of another shape or not floating point.
    """
    wanted = {name: tensor.shape for name, tensor in model.state_dict().items()}
    shared = sorted(wanted.keys() & tensors.keys())
    faults = [
        *(f"missing {name}" for name in sorted(wanted.keys() - tensors.keys())),
        *(f"surplus {name}" for name in sorted(tensors.keys() - wanted.keys())),
        *(
            f"{name} is {list(tensors[name].shape)}, not {list(wanted[name])}"
            for name in shared
            if tensors[name].shape != wanted[name]
        ),
        *(f"{name} is {tensors[name].dtype}" for name in shared if not tensors[name].is_floating_point()),
    ]
    if faults:
        more = f" and {len(faults) - 8} more" if len(faults) > 8 else ""
        raise BundleError(
            f"weights do not fit the model: {'; '.join(faults[:8])}{more}: pull or import the model again"
        )
    model.load_state_dict(dict(tensors), strict=True, assign=True)
    model.requires_grad_(False).eval()


class ScalarEmbedding(nn.Module):
    """A number in [0, 1] → 512 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.time_mlp = nn.Sequential(
            nn.Linear(SINUSOID_DIM, SCALAR_DIM), nn.SiLU(), nn.Linear(SCALAR_DIM, SCALAR_DIM)
        )

    def forward(self, value: Tensor) -> Tensor:
        """[b] → [b, 512]."""
        out: Tensor = self.time_mlp(sinusoid(value))
        return out


def sinusoid(value: Tensor) -> Tensor:
    """Sines, then cosines of 1000 · value at 128 frequencies from 1 to 1/10000: [b] → [b, 256]."""
    half = SINUSOID_DIM // 2
    k = torch.arange(half, dtype=torch.float32, device=value.device)
    frequencies = torch.exp(k * (-math.log(10000) / (half - 1)))
    angles = 1000 * value[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


class _Table(nn.Embedding):
    """An embedding that is not filled where there is nothing to fill."""

    def reset_parameters(self) -> None:
        # Drawing numbers on the meta device imports half of torch's compiler, 0.9 s of every song.
        if not self.weight.is_meta:
            super().reset_parameters()


class TextEmbedding(nn.Module):
    """Phone ids → text channels, each frame's depending on the whole song (GRN): not to be made in pieces."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.text_embed = _Table(config.text_rows, config.text_dim)
        self.text_blocks = nn.Sequential(*(TextBlock(config.text_dim) for _ in range(config.conv_layers)))

    def forward(self, ids: Tensor) -> Tensor:
        """[b, t] int64 → [b, t, 512]."""
        text: Tensor = self.text_embed(ids)
        out: Tensor = self.text_blocks(text + frame_positions(text.shape[1], text.shape[2], text.device))
        return out


def frame_positions(frames: int, dim: int, device: torch.device) -> Tensor:
    """Cosines, then sines of each frame's number: [t, dim]."""
    frequencies = 1.0 / ROTARY_BASE ** (torch.arange(0, dim, 2, dtype=torch.float32, device=device) / dim)
    angles = torch.outer(torch.arange(frames, dtype=torch.float32, device=device), frequencies)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class TextBlock(nn.Module):
    """A ConvNeXt V2 block over time. Source: arXiv 2301.00808."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv1d(dim, dim, kernel_size=7, padding=3, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.pwconv1 = nn.Linear(dim, 2 * dim)
        self.grn = GlobalResponseNorm(2 * dim)
        self.pwconv2 = nn.Linear(2 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """[b, t, 512] → [b, t, 512]."""
        y: Tensor = self.dwconv(x.transpose(1, 2)).transpose(1, 2)
        y = self.pwconv2(self.grn(F.gelu(self.pwconv1(self.norm(y)))))
        return x + y


class GlobalResponseNorm(nn.Module):
    """Lets a channel's loudness over the whole song, against that of the others, scale it."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, 1, dim))
        self.beta = nn.Parameter(torch.zeros(1, 1, dim))

    def forward(self, x: Tensor) -> Tensor:
        """[b, t, channels] → [b, t, channels]."""
        loudness = torch.linalg.vector_norm(x, dim=1, keepdim=True)
        share = loudness / (loudness.mean(dim=-1, keepdim=True) + NORM_EPS)
        out: Tensor = self.gamma * (x * share) + self.beta + x
        return out


class InputEmbedding(nn.Module):
    """Latent, known latent, text, style and time → the width of the blocks, with positions by convolution.

    The projection takes their concatenation [x_t, known, text, style, time]; being linear it is the sum of
    one projection each, so the parts that stay the same are made once per song.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.widths = [
            config.latent_channels,
            config.latent_channels,
            config.text_dim,
            config.style_dim,
            SCALAR_DIM,
        ]
        self.proj = nn.Linear(sum(self.widths), config.dim)
        self.conv_pos_embed = ConvPositions(config.dim)

    def forward(self, x_t: Tensor, rest: Tensor) -> Tensor:
        """x_t [b, t, c] and the projection of all the rest [b, t, d] → [b, t, d]."""
        h = self.projected(x_t, rest)
        out: Tensor = h + self.conv_pos_embed(h)
        return out

    def projected(self, x_t: Tensor, rest: Tensor) -> Tensor:
        """The same without the positions."""
        return F.linear(x_t, self._weights()[0]) + rest

    def known_part(self, known: Tensor) -> Tensor:
        """The known latent's part of the projection: [b, t, c] → [b, t, d]."""
        return F.linear(known, self._weights()[1])

    def constant_part(self, text: Tensor, style: Tensor) -> Tensor:
        """Text's and style's part of the projection, and its bias: [b, t, 512], [b, 512] → [b, t, d]."""
        _, _, text_weight, style_weight, _ = self._weights()
        return F.linear(text, text_weight, self.proj.bias) + F.linear(style, style_weight)[:, None]

    def time_row(self, c: Tensor) -> Tensor:
        """The time's part of the projection, the same in every frame: [b, 512] → [b, 1, d]."""
        return F.linear(c, self._weights()[4])[:, None]

    def _weights(self) -> tuple[Tensor, ...]:
        return torch.split(self.proj.weight, self.widths, dim=1)


class ConvPositions(nn.Module):
    """Two wide grouped convolutions over time: positions relative to the neighbours."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv1d = nn.Sequential(
            nn.Conv1d(dim, dim, kernel_size=31, padding=15, groups=CONV_GROUPS),
            nn.Mish(),
            nn.Conv1d(dim, dim, kernel_size=31, padding=15, groups=CONV_GROUPS),
            nn.Mish(),
        )

    def forward(self, h: Tensor) -> Tensor:
        """[b, t, d] → [b, t, d]."""
        out: Tensor = self.conv1d(h.transpose(1, 2)).transpose(1, 2)
        return out


class Block(nn.Module):
    """Attention and a gated MLP, each behind a norm and added to what came in. No biases."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = GatedMLP(config.dim, config.ff_mult * config.dim)
        self.input_layernorm = RMSNorm(config.dim)
        self.post_attention_layernorm = RMSNorm(config.dim)

    def forward(self, h: Tensor, rotary: Rotary) -> Tensor:
        """[b, t, d] → [b, t, d]."""
        h = h + self.self_attn(self.input_layernorm(h), rotary)
        out: Tensor = h + self.mlp(self.post_attention_layernorm(h))
        return out


class RMSNorm(nn.Module):
    """Root mean square norm."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, h: Tensor) -> Tensor:
        """[b, t, d] → [b, t, d]."""
        return F.rms_norm(h, h.shape[-1:], self.weight, NORM_EPS)


class Attention(nn.Module):
    """Attention of every frame to every frame: neither a causal mask nor one of padding."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim = config.dim
        self.head_dim = config.head_dim
        self.q_proj = nn.Linear(dim, dim, bias=False)
        self.k_proj = nn.Linear(dim, dim, bias=False)
        self.v_proj = nn.Linear(dim, dim, bias=False)
        self.o_proj = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor, rotary: Rotary) -> Tensor:
        """[b, t, d] → [b, t, d]."""
        q = rotate(self._heads(self.q_proj(x)), rotary)
        k = rotate(self._heads(self.k_proj(x)), rotary)
        # The kernel reads keys and values once for each block of queries: together in memory it took 267 ms
        # in place of 297 (32 heads, 2048 frames, least of 4, AMD Zen 3).
        q, k, v = q.contiguous(), k.contiguous(), self._heads(self.v_proj(x)).contiguous()
        y = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.o_proj(y.transpose(1, 2).flatten(2))
        return out

    def _heads(self, x: Tensor) -> Tensor:
        """[b, t, d] → [b, h, t, d / h]."""
        return torch.unflatten(x, -1, (HEADS, self.head_dim)).transpose(1, 2)


def rotate(x: Tensor, rotary: Rotary) -> Tensor:
    """Turns the channel pairs (i, i + half) of x [b, h, t, d / h] by its frames' angles; x's dtype.

    Source: RoFormer, arXiv 2104.09864, in the half-split order of Llama's published weights.
    """
    first, second = x.chunk(2, dim=-1)
    turned = torch.cat([-second, first], dim=-1)
    return (x * rotary.cos + turned * rotary.sin).to(x.dtype)  # training may mix dtypes


class GatedMLP(nn.Module):
    """down(SiLU(gate x) · up x)."""

    def __init__(self, dim: int, inner: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(dim, inner, bias=False)
        self.up_proj = nn.Linear(dim, inner, bias=False)
        self.down_proj = nn.Linear(inner, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[b, t, d] → [b, t, d]."""
        if x.shape[1] <= MLP_FRAMES:
            return self._gated(x)
        return torch.cat([self._gated(piece) for piece in torch.split(x, MLP_FRAMES, dim=1)], dim=1)

    def _gated(self, x: Tensor) -> Tensor:
        if self._is_whole():
            out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
            return out
        rows = x.flatten(0, -2)
        summed = torch.zeros_like(rows)
        weights = self.gate_proj.weight, self.up_proj.weight, self.down_proj.weight.t()
        for gate, up, down in zip(*(torch.split(each, MLP_CHANNELS) for each in weights), strict=True):
            inner = F.silu(F.linear(rows, gate), inplace=True).mul_(F.linear(rows, up))
            summed.addmm_(inner, down)
        return summed.view_as(x)

    def _is_whole(self) -> bool:
        """Return whether each linear is called once: for gradients, for hooks, and where one was replaced.

        calibration.py observes linears by hooks, and puts others in their place.
        """
        linears = (self.gate_proj, self.up_proj, self.down_proj)
        is_plain = all(
            type(each) is nn.Linear and not each._forward_hooks and not each._forward_pre_hooks
            for each in linears
        )
        return torch.is_grad_enabled() or not is_plain or self.gate_proj.out_features <= MLP_CHANNELS


class ModulatedNorm(nn.Module):
    """The last norm, scaled and shifted by the time."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(SCALAR_DIM, 2 * dim)

    def modulate(self, c: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and shift [b, 1, d] of the time embedding c [b, 512]."""
        scale, shift = self.linear(F.silu(c))[:, None].chunk(2, dim=-1)
        return scale, shift

    def forward(self, h: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """[b, t, d] → [b, t, d]."""
        return F.layer_norm(h, h.shape[-1:], eps=NORM_EPS) * (1 + scale) + shift
