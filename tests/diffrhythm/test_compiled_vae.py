"""The compiled decoder against torch's own."""

import math
from functools import cache

import golden
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from diffrhythm import chunks, compiled_vae, graphs, vae
from diffrhythm.precision import Precision
from diffrhythm.vae_config import HOP, VaeConfig
from tests import humming

CONFIG = VaeConfig(channels=4)
FRAMES = 12
MOST: dict[Precision, float] = {"fp32": 1e-5, "bf16": 0.03}


@cache
def decoder() -> vae.Decoder:
    made = vae.Vae(CONFIG)
    weights = humming.vae_weights(CONFIG)
    vae.load_weights(made, {name: torch.from_numpy(weight) for name, weight in weights.items()})
    return made.decoder


def latents(frames: int) -> Tensor:
    return torch.randn(1, frames, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_compiled_decoder_gives_the_same_sound_within_its_rounding(precision: Precision) -> None:
    made = compiled_vae.compiled(decoder(), frames=FRAMES, precision=precision, threads=1)
    chunk = latents(FRAMES).transpose(1, 2)
    exact = decoder()(chunk)
    assert made(chunk).shape == (1, 2, FRAMES * HOP)
    assert golden.distance(made(chunk), exact) < MOST[precision]


def test_a_song_decoded_in_compiled_chunks_is_the_song() -> None:
    made = compiled_vae.compiled(decoder(), frames=FRAMES, precision="fp32", threads=1)
    song = latents(40)
    chunked = [vae.decode(song, each, chunk_frames=FRAMES, overlap=4) for each in (made, decoder())]
    assert golden.distance(*chunked) < MOST["fp32"]


def test_the_published_decoder_is_large_and_a_small_one_is_not() -> None:
    assert vae.is_large(vae.Vae(VaeConfig()).decoder)
    assert not vae.is_large(decoder())


def test_the_polynomial_is_the_squared_sine() -> None:
    u = np.linspace(-0.5, 0.5, 10001)
    found = u**2 * np.polynomial.polynomial.polyval(u**2, compiled_vae.sine_squared())
    assert np.abs(found - np.sin(np.pi * u) ** 2).max() < 1e-9


def run(layer: nn.Module, x: Tensor) -> Tensor:
    """The layer compiled on its own."""
    model = compiled_vae.graph(nn.Sequential(layer), x.shape[1], x.shape[2])
    request = graphs.compiled(model, precision="fp32", threads=1).create_infer_request()
    return graphs.run(request, x).clone()


@settings(max_examples=20)
@given(st.floats(1e-3, 1e4), st.floats(-1.5, 1.5), st.floats(-1, 3))
def test_a_compiled_snake_is_as_exact_as_its_float32_argument(
    largest: float, alpha: float, beta: float
) -> None:
    snake = vae.Snake(1).requires_grad_(False)
    snake.alpha.fill_(alpha)
    snake.beta.fill_(beta)
    x = largest * (2 * torch.rand(1, 1, 500, generator=torch.Generator().manual_seed(0)) - 1)
    sine = torch.sin(snake.alpha.double().exp() * x.double())
    exact = x + sine**2 / (snake.beta.double().exp() + 1e-9)
    sine_error = 3e-7 + 2e-7 * math.exp(alpha) * largest
    most = sine_error * math.exp(-beta) + 2e-7 * (largest + math.exp(-beta))
    assert (run(snake, x) - exact).abs().max() < most


def test_a_compiled_snake_leaves_zero_alone() -> None:
    assert run(vae.Snake(3), torch.zeros(1, 3, 8)).abs().max() == 0


@pytest.mark.parametrize("stride", [1, 2, 3, 4, 5, 8, 64])
@pytest.mark.parametrize("bias", [True, False])
def test_a_compiled_upsampling_is_torchs_transposed_convolution(stride: int, bias: bool) -> None:
    torch.manual_seed(stride)
    layer = nn.ConvTranspose1d(
        5, 3, 2 * stride, stride, padding=math.ceil(stride / 2), bias=bias
    ).requires_grad_(False)
    x = torch.randn(1, 5, 7)
    assert golden.distance(run(layer, x), layer(x)) < MOST["fp32"]


def test_an_upsampling_of_other_taps_is_refused() -> None:
    with pytest.raises(TypeError, match="ConvTranspose1d"):
        compiled_vae.graph(nn.Sequential(nn.ConvTranspose1d(2, 2, 5, 2)), 2, 8)


@settings(max_examples=8)
@given(
    st.sampled_from([(2, 4, 4, 8, 8), (1024, 2), (8, 16, 16), (2, 1024), (2048,)]),
    st.integers(1, 3),
    st.integers(1, 30),
    st.integers(1, 8),
)
def test_compiled_parts_give_the_sound_of_the_whole_by_torch(
    strides: tuple[int, ...], channels: int, frames: int, chunk_frames: int
) -> None:
    config = VaeConfig(channels, (1,) * len(strides), strides)
    torch.manual_seed(frames)
    made = vae.Vae(config, "cpu").decoder.requires_grad_(False)
    cut = chunks.cut(config, frames, chunk_frames)
    parts = compiled_vae.parts(made, cut, precision="fp32", threads=1)
    sound = vae.decode_in_parts(latents(frames), parts, cut)
    assert golden.distance(sound, made(latents(frames).transpose(1, 2))) < MOST["fp32"]


def test_a_layer_without_an_operation_is_refused() -> None:
    with pytest.raises(TypeError, match="GELU"):
        compiled_vae._behind(None, nn.GELU())
