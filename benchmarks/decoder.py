"""The autoencoder's decoder: seconds of a second of sound by each way of computing it, its error, its memory.

Ways: torch; compiled as it is; compiled with OpenVINO's own sine and transposed convolution, and with one of
the two. Whole: chunks of 128 frames that share 32, each through the whole decoder, as published. In parts:
chunks of the fine part (diffrhythm/chunks.py). Times are the least of all rounds, in which the ways take
turns; errors are against one call of torch's decoder. Memory is the growth of private memory, in a process of
its own. A large model's latents are random; a small one's are those of a song that it makes.

Example: python -m benchmarks.decoder --bundle full-size --chunks 16 64
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import product
from pathlib import Path
from typing import Literal, get_args
from unittest import mock

import numpy as np
import torch
from openvino import opset13 as ops
from torch import Tensor, nn

from benchmarks import machine
from diffrhythm import bundle, chunks, compiled_vae, graphs, precision, vae
from diffrhythm.bundle import Bundle
from diffrhythm.generate import generate
from diffrhythm.graphs import Node
from diffrhythm.precision import Precision
from diffrhythm.sampling import State
from diffrhythm.vae_config import HOP, LATENT_CHANNELS, SAMPLE_RATE

LYRICS = "[00:01.00]Every ship has gone to sleep\n[00:06.00]Low tide, good night\n"
OVERLAPS = (0, 4, 8, 12, 16, 20, 32, 48)
# Channels from which on a convolution would be in int8.
INT8_CHANNELS = 64
Lowering = Literal["ours", "sine", "transposed", "both"]
Decode = Callable[[], Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", default="demo", help="name or folder; benchmarks/full_size.py makes one")
    parser.add_argument("--frames", type=int, default=224, help="of the song")
    parser.add_argument("--chunks", type=int, nargs="+", default=[16, chunks.CHUNK_FRAMES])
    parser.add_argument("--precision", choices=get_args(Precision), default="fp32")
    parser.add_argument("--lowerings", choices=get_args(Lowering), nargs="+", default=["ours", "both"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--overlaps", action="store_true", help="error of published chunks by their overlap")
    parser.add_argument("--int8", action="store_true", help="error of convolutions in int8, by torch")
    parser.add_argument("--memory", action="store_true", help="of each chunk and nothing else")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    model = bundle.load(asked.bundle)
    machine.header(f"The decoder of {model.name}, {asked.frames} frames, {asked.threads} threads")
    if asked.memory:
        memory(asked)
        return
    latents = latents_of(model, asked.frames)
    with torch.inference_mode():
        speed(model, latents, asked)
        if asked.overlaps:
            overlaps(model, latents)
        if asked.int8:
            in_int8(model, latents)


def latents_of(model: Bundle, frames: int) -> Tensor:
    """[1, t, c]: of a song by a small model, normal ones for a large one."""
    if precision.is_large(model.config):
        return torch.randn(1, frames, LATENT_CHANNELS, generator=torch.Generator().manual_seed(0))
    kept: list[State] = []
    seconds = frames * HOP / SAMPLE_RATE
    generate(model, lyrics=LYRICS, style="pop", duration=seconds, preset="draft", on_step=kept.append)
    return kept[-1].joined(kept[-1].x_t)[:, :frames]


# ---------------------------------------------------------------- speed


def speed(model: Bundle, latents: Tensor, asked: argparse.Namespace) -> None:
    decoder = decoder_of(model)
    ways: dict[str, Decode] = {
        "torch, whole 128/32": partial(vae.decode, latents, decoder),
        **{
            f"torch, parts {frames}": in_parts(model, decoder, latents, frames, None)
            for frames in asked.chunks
        },
    }
    for lowering in asked.lowerings:
        with lowered(lowering):
            whole = compiled_vae.compiled(
                decoder,
                frames=min(chunks.PUBLISHED_CHUNK_FRAMES, latents.shape[1]),
                precision=asked.precision,
                threads=asked.threads,
            )
            name = f"compiled {asked.precision} ({lowering})"
            ways[f"{name}, whole 128/32"] = partial(vae.decode, latents, whole)
            for frames in asked.chunks if lowering == "ours" else ():
                ways[f"{name}, parts {frames}"] = in_parts(model, decoder, latents, frames, asked.precision)
    exact = decoder(latents.transpose(1, 2))
    least, errors = dict.fromkeys(ways, math.inf), {}
    for _ in range(asked.rounds):
        for name, decode in ways.items():
            began = time.perf_counter()
            sound = decode()
            least[name] = min(least[name], time.perf_counter() - began)
            errors[name] = snr_db(sound, exact)
    computed = {name: computed_share(model, latents.shape[1], name) for name in ways}
    first = next(iter(least.values()))
    print("\n| way | s per second of sound | times faster | computed twice | SNR dB |\n|---|---|---|---|---|")
    for name, took in least.items():
        per_second = took / (latents.shape[1] * HOP / SAMPLE_RATE)
        print(
            f"| {name} | {per_second:.3f} | {first / took:.2f} | {computed[name]:.1%} | {errors[name]:.0f} |"
        )


def computed_share(model: Bundle, frames: int, name: str) -> float:
    """Share of the song's frames that are computed twice."""
    if "whole" in name:
        spans = chunks.chunk_spans(frames, chunks.PUBLISHED_CHUNK_FRAMES, chunks.PUBLISHED_OVERLAP_FRAMES)
        return sum(span.stop - span.start for span in spans) / frames - 1
    return chunks.cut(model.vae_config, frames, int(name.split()[-1])).computed_frames / frames - 1


def decoder_of(model: Bundle) -> vae.Decoder:
    decoder = model.open_vae().decoder
    if not isinstance(decoder, vae.Decoder):
        raise SystemExit(f"{model.name} is a TorchScript: its decoder has no parts")
    return decoder


def in_parts(
    model: Bundle, decoder: vae.Decoder, latents: Tensor, chunk_frames: int, compiled: Precision | None
) -> Decode:
    cut = chunks.cut(model.vae_config, latents.shape[1], chunk_frames)
    threads = torch.get_num_threads()
    parts = (
        vae.parts(decoder)
        if compiled is None
        else compiled_vae.parts(decoder, cut, precision=compiled, threads=threads)
    )
    return partial(vae.decode_in_parts, latents, parts, cut)


def snr_db(sound: Tensor, exact: Tensor) -> float:
    noise = (sound.double() - exact).square().sum()
    return float(10 * torch.log10(exact.double().square().sum() / noise)) if noise else math.inf


@contextmanager
def lowered(lowering: Lowering) -> Iterator[None]:
    """Compile what is named by OpenVINO's own operation."""
    sine = compiled_vae._snake if lowering in ("ours", "transposed") else openvino_sine
    up = compiled_vae._upsampled if lowering in ("ours", "sine") else openvino_transposed
    with mock.patch.multiple(compiled_vae, _snake=sine, _upsampled=up):
        yield


def openvino_sine(x: Node, layer: vae.Snake) -> Node:
    wave = ops.sin(ops.multiply(x, graphs.constant(layer.alpha.exp()[:, None])))
    gain = graphs.constant((layer.beta.exp()[:, None] + 1e-9).reciprocal())
    return ops.add(x, ops.multiply(ops.multiply(wave, wave), gain))


def openvino_transposed(x: Node, layer: nn.ConvTranspose1d, stride: int) -> Node:
    ends = [int(layer.padding[0])]
    x = ops.convolution_backprop_data(
        x, graphs.constant(layer.weight), [stride], pads_begin=ends, pads_end=ends
    )
    return x if layer.bias is None else ops.add(x, graphs.constant(layer.bias[:, None]))


# ---------------------------------------------------------------- errors


def overlaps(model: Bundle, latents: Tensor) -> None:
    decoder = decoder_of(model)
    whole = decoder(latents.transpose(1, 2))
    print(f"\nThe decoder sees {chunks.reach(model.vae_config)} frames on each side.")
    print("\n| chunks of 128, overlap | SNR dB | worst difference, of the peak |\n|---|---|---|")
    for overlap in OVERLAPS:
        sound = vae.decode(latents, decoder, overlap=overlap)
        worst = float((sound - whole).abs().max() / whole.abs().max())
        print(f"| {overlap} | {snr_db(sound, whole):.0f} | {worst:.1g} |", flush=True)


def in_int8(model: Bundle, latents: Tensor) -> None:
    """Errors with inputs and weights of convolutions rounded to 8 bits, as integers would be multiplied.

    Weights by output channel; inputs in one range each, found on the song's first half as the one of least
    squared error. The error is that of the second half.
    """
    decoder = decoder_of(model)
    known, heard = latents.transpose(1, 2).chunk(2, dim=-1)
    exact = decoder(heard)
    wide = [
        (name, layer)
        for name, layer in decoder.named_modules()
        if isinstance(layer, (nn.Conv1d, nn.ConvTranspose1d)) and layer.in_channels >= INT8_CHANNELS
    ]
    print("\n| convolutions in int8 | of them | SNR dB |\n|---|---|---|")
    residual = re.compile(r"layers\.\d+\.layers\.\d+\.layers\.")
    for kind, chosen in {
        "all": [layer for _, layer in wide],
        "of residual units": [layer for name, layer in wide if residual.match(name)],
    }.items():
        scales = input_scales(decoder, chosen, known)
        with rounded(chosen, scales):
            print(f"| {kind} | {len(chosen)} | {snr_db(decoder(heard), exact):.0f} |", flush=True)


def input_scales(decoder: vae.Decoder, layers: Sequence[nn.Module], latents: Tensor) -> list[float]:
    seen: dict[nn.Module, float] = {}

    def hook(layer: nn.Module, arguments: tuple[Tensor]) -> None:
        some = arguments[0].flatten()[::37]
        most = float(some.abs().max())
        tried = [most * share / 127 for share in np.linspace(0.3, 1, 36)]
        seen[layer] = min(tried, key=lambda scale: float((to_int8(some, scale) - some).square().sum()))

    hooks = [layer.register_forward_pre_hook(hook) for layer in layers]
    decoder(latents)
    for each in hooks:
        each.remove()
    return [seen[layer] for layer in layers]


@contextmanager
def rounded(layers: Sequence[nn.Module], scales: Sequence[float]) -> Iterator[None]:
    hooks, weights = [], []
    for layer, scale in zip(layers, scales, strict=True):
        assert isinstance(layer, (nn.Conv1d, nn.ConvTranspose1d))
        weights.append(layer.weight.data)
        other = (1, 2) if isinstance(layer, nn.Conv1d) else (0, 2)
        by_channel = layer.weight.abs().amax(other, keepdim=True) / 127 + 1e-30
        layer.weight.data = to_int8(layer.weight.data, by_channel)

        def hook(_: nn.Module, arguments: tuple[Tensor], scale: float = scale) -> tuple[Tensor]:
            return (to_int8(arguments[0], scale),)

        hooks.append(layer.register_forward_pre_hook(hook))
    yield
    for each in hooks:
        each.remove()
    for layer, weight in zip(layers, weights, strict=True):
        layer.weight.data = weight


def to_int8(values: Tensor, scale: float | Tensor) -> Tensor:
    return (values / scale).round().clamp(-127, 127) * scale


# ---------------------------------------------------------------- memory


def memory(asked: argparse.Namespace) -> None:
    print()
    for compiled, frames in product((None, asked.precision), asked.chunks):
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            grown = pool.submit(grown_bytes, asked.bundle, asked.frames, frames, compiled, asked.threads)
            name = f"{compiled or 'torch'}, chunks of {frames}"
            packed, peak = grown.result()
        machine.figure(f"{name}: private memory when opened", [packed], "MB")
        machine.figure(f"{name}: at its peak", [peak], "MB")


def grown_bytes(
    name: str, frames: int, chunk_frames: int, compiled: Precision | None, threads: int
) -> tuple[float, float]:
    """Private memory that decoding has, besides what the process had before: when opened, and at its peak."""
    torch.set_num_threads(threads)
    model = bundle.load(name)
    latents = torch.zeros(1, frames, LATENT_CHANNELS)
    before = private_bytes()
    peak, done = 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.005):
            peak = max(peak, private_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    with torch.inference_mode():
        decode = in_parts(model, decoder_of(model), latents, chunk_frames, compiled)
        opened = private_bytes()
        decode()
    done.set()
    watcher.join()
    return float(opened - before), float(peak - before)


def private_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    found = re.search(r"^RssAnon:\s+(\d+) kB", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


if __name__ == "__main__":
    main()
