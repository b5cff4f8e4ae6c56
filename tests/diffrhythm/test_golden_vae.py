"""Chunked decoding and encoding against the published code's, with stand-ins for the coders.

Sets vae_chunks and vae_stub; golden.py says where they lie.
"""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import golden
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffrhythm.vae import decode, encode
from diffrhythm.vae_config import HOP

Numbers = NDArray[np.float32]


def cases(file: str) -> Iterator[Any]:
    for place, path in golden.files(f"{file}.json"):
        for name, about in json.loads(path.read_text())["cases"].items():
            yield pytest.param(path.with_suffix(".npz"), name, about, id=f"{place}-{name}")


def repeat(z: Tensor) -> Tensor:
    """[b, 64, t] → [b, 2, HOP·t]: the mean of a frame's channels, and its negative."""
    mean = z.mean(dim=1)
    return torch.stack([mean, -mean], dim=1).repeat_interleave(HOP, dim=-1)


def ramp(z: Tensor) -> Tensor:
    """As repeat, but channel 0 tells the frame's place in the chunk and channel 1 which chunk it is."""
    frames = z.shape[-1]
    place = z.mean(dim=1) + torch.arange(frames) / 1000
    chunk = (frames + z[:, 0, :1]).expand(-1, frames)
    return torch.stack([place, chunk], dim=1).repeat_interleave(HOP, dim=-1)


@pytest.mark.parametrize(("file", "name", "about"), list(cases("vae_chunks")))
def test_each_frame_comes_from_the_published_chunk(file: Path, name: str, about: dict[str, Any]) -> None:
    source, kind, mode = name.split(".")
    with np.load(file) as arrays:
        latents = torch.from_numpy(arrays[f"z.{source}"]).transpose(1, 2)
        expected = arrays[name]
    sizes = re.fullmatch(r"chunked_o(\d+)_c(\d+)", mode)
    overlap, chunk = (int(sizes[1]), int(sizes[2])) if sizes else (0, latents.shape[1])
    decoder = {"repeat": repeat, "ramp": ramp}[kind]
    sound = decode(latents, decoder, chunk_frames=chunk, overlap=overlap)
    assert list(sound.shape) == about["shape"]
    assert sound[..., ::HOP].numpy() == pytest.approx(expected, abs=1e-6)
    by_frame = sound.unflatten(-1, (-1, HOP))
    assert torch.equal(by_frame, by_frame[..., :1].expand_as(by_frame))


def wobble(frames: int) -> Numbers:
    return (1 + 0.5 * np.sin(0.2 * np.arange(frames))).astype(np.float32)


def shifted(rows: Numbers, by: int) -> Numbers:
    """rows[..., f + by], 0 outside."""
    frames = rows.shape[-1]
    padded = np.pad(rows, [(0, 0)] * (rows.ndim - 1) + [(abs(by), abs(by))])
    return padded[..., abs(by) + by : abs(by) + by + frames]


class StandInDecoder:
    """The decoder of vae_stub: sees its neighbours and its place in the call; notes what it was given."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []

    def __call__(self, z: Tensor) -> Tensor:
        self.calls.append(list(z.shape))
        d, j = np.arange(64), np.arange(HOP)
        mix = np.stack([np.cos(0.37 * d + 0.1), np.sin(0.61 * d + 0.3)]) / 8
        h = np.einsum("cd,bdf->bcf", mix, z.numpy())
        taps = (0.1, -0.2, 0.3, 1, 0.5, -0.25, 0.15)
        g = wobble(z.shape[-1]) * sum(w * shifted(h, k - 3) for k, w in enumerate(taps))
        shape = np.stack(
            [
                0.2 + np.cos(2 * math.pi * 3 * j / HOP),
                np.sin(2 * math.pi * 5 * j / HOP + 0.4) - 0.3,
            ]
        )
        return torch.from_numpy((g[..., None] * shape[:, None]).astype(np.float32)).flatten(-2)


class StandInEncoder:
    """The encoder of vae_stub."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []

    def __call__(self, audio: Tensor) -> Tensor:
        self.calls.append(list(audio.shape))
        frames = audio.unflatten(-1, (-1, HOP)).numpy().astype(np.float64)
        low, high = frames.mean(axis=-1), np.abs(frames).mean(axis=-1)
        k = np.arange(128)[:, None]
        a = (
            np.cos(0.11 * k) * low[:, :1]
            + np.sin(0.23 * k) * low[:, 1:]
            + 0.5 * np.cos(0.31 * k + 1) * high.sum(axis=1, keepdims=True)
        )
        e = wobble(frames.shape[-2]) * (a + 0.5 * shifted(a, -2) - 0.25 * shifted(a, 2))
        return torch.from_numpy(e.astype(np.float32))


def relative_error(ours: Numbers, reference: Numbers) -> float:
    return float(np.linalg.norm(ours - reference) / np.linalg.norm(reference))


def stub_cases(kind: str) -> list[Any]:
    pattern = re.compile(kind + r"\d+_")
    return [case for case in cases("vae_stub") if pattern.match(case.values[1])]


@pytest.mark.parametrize(("file", "name", "about"), stub_cases("n"))
def test_decoding_calls_the_decoder_and_places_its_sound_as_published(
    file: Path, name: str, about: dict[str, Any]
) -> None:
    batch, _, samples = about["shape"]
    frames = samples // HOP
    rng = np.random.Generator(np.random.PCG64(5000 + frames))
    z = rng.standard_normal((batch, 64, frames), dtype=np.float32)
    chunk = about.get("chunk_size", 128) if about["chunked"] else frames
    overlap = about.get("overlap", 32) if about["chunked"] else 0
    decoder = StandInDecoder()
    sound = decode(torch.from_numpy(z).transpose(1, 2), decoder, chunk_frames=chunk, overlap=overlap).numpy()
    assert decoder.calls == about["decoder_calls"]
    assert list(sound.shape) == about["shape"]
    assert np.linalg.norm(sound.astype(np.float64)) == pytest.approx(about["norm"], rel=1e-5)
    with np.load(file) as arrays:
        assert relative_error(sound[..., ::211], arrays[name]) < 1e-5


@pytest.mark.parametrize(("file", "name", "about"), stub_cases("enc"))
def test_encoding_calls_the_encoder_and_places_its_moments_as_published(
    file: Path, name: str, about: dict[str, Any]
) -> None:
    frames = about["shape"][-1]
    rng = np.random.Generator(np.random.PCG64(6000 + frames))
    sound = np.float32(0.2) * rng.standard_normal((1, 2, HOP * frames), dtype=np.float32)
    encoder = StandInEncoder()
    chunk, overlap = (frames, 0) if name.endswith("whole") else (128, 32)
    moments = encode(torch.from_numpy(sound), encoder, chunk_frames=chunk, overlap=overlap)
    assert encoder.calls == about["encoder_calls"]
    with np.load(file) as arrays:
        assert relative_error(moments.transpose(1, 2)[:, ::8].numpy(), arrays[name]) < 1e-5
