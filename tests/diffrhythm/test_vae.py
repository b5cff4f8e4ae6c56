"""Latents ↔ sound: chunks that add up, shapes of the published layout, weights taken strictly."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from diffrhythm.chunks import chunk_spans
from diffrhythm.errors import BundleError
from diffrhythm.vae import (
    Snake,
    Vae,
    decode,
    draw_latents,
    encode,
    fold_weight_norm,
    load_weights,
)
from diffrhythm.vae_config import HOP, VaeConfig

SMALL = VaeConfig(channels=2)


@pytest.fixture(scope="module")
def vae() -> Vae:
    torch.manual_seed(0)
    return Vae(SMALL, device="cpu").requires_grad_(False).eval()


@given(st.integers(1, 700), st.integers(1, 150), st.integers(0, 149))
def test_every_frame_is_kept_by_some_chunk_and_no_chunk_is_longer_than_asked(
    length: int, chunk: int, overlap: int
) -> None:
    overlap = min(overlap, chunk - 1)
    covered = [0] * length
    for span in chunk_spans(length, chunk, overlap):
        assert span.stop - span.start == min(chunk, length)
        for frame in range(span.start + span.head, span.stop):
            covered[frame] += 1
    assert min(covered) >= 1


@pytest.mark.parametrize(("length", "chunk", "overlap"), [(0, 128, 32), (10, 8, 8), (10, 8, -1)])
def test_a_cut_that_cannot_be_made_is_refused(length: int, chunk: int, overlap: int) -> None:
    with pytest.raises(ValueError, match="cannot cut"):
        chunk_spans(length, chunk, overlap)


def test_each_chunk_is_told_as_it_ends() -> None:
    told: list[tuple[int, int]] = []
    decode(
        torch.zeros(1, 20, 64),
        lambda z: torch.zeros(1, 2, z.shape[-1] * HOP),
        chunk_frames=8,
        overlap=2,
        on_chunk=lambda done, chunks: told.append((done, chunks)),
    )
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_the_decoder_turns_each_frame_into_2048_stereo_samples(vae: Vae) -> None:
    assert decode(torch.randn(1, 5, 64), vae.decoder).shape == (1, 2, 5 * HOP)


def test_the_encoder_gives_a_mean_and_a_scale_for_each_whole_frame(vae: Vae) -> None:
    assert encode(torch.randn(1, 2, 5 * HOP + 700), vae.encoder).shape == (1, 5, 128)


def test_chunks_with_enough_overlap_give_the_same_sound_as_the_whole(vae: Vae) -> None:
    latents = torch.randn(1, 60, 64)
    whole = decode(latents, vae.decoder, chunk_frames=60)
    chunked = decode(latents, vae.decoder, chunk_frames=40, overlap=30)
    assert (whole - chunked).abs().max() < 1e-5 * whole.abs().max()


def test_latents_are_the_mean_plus_the_softplus_of_the_scale_times_noise() -> None:
    moments = torch.cat([torch.full((1, 1, 64), 2.0), torch.zeros(1, 1, 64)], dim=-1)
    drawn = draw_latents(moments, torch.full((1, 1, 64), 3.0))
    assert drawn == pytest.approx(2 + 3 * (0.6931472 + 1e-4))


def test_snake_is_x_plus_sine_squared_over_beta() -> None:
    snake = Snake(1)
    with torch.no_grad():
        snake.alpha.fill_(0.5)
        snake.beta.fill_(-0.3)
        x = torch.linspace(-2, 2, 9).reshape(1, 1, 9)
        expected = x + torch.sin(torch.tensor(0.5).exp() * x) ** 2 / torch.tensor(-0.3).exp()
        assert torch.allclose(snake(x), expected)


def test_the_published_decoder_has_the_published_number_of_parameters() -> None:
    # 78.1 M, Snake's two vectors per activation included; "meta" so that none is allocated.
    decoder = Vae(VaeConfig()).decoder
    assert sum(p.numel() for p in decoder.parameters()) == pytest.approx(78.1e6, rel=1e-3)


@pytest.mark.parametrize(
    "values",
    [
        {"channels": 4, "multiples": [1, 2, 4, 8, 16], "strides": [2, 2, 4, 8, 8]},
        {"channels": 4, "multiples": [1, 2], "strides": [2, 4, 4, 8, 8]},
        {"channels": "4", "multiples": [1, 2, 4, 8, 16], "strides": [2, 4, 4, 8, 8]},
        {"channels": 10**9, "multiples": [1, 2, 4, 8, 16], "strides": [2, 4, 4, 8, 8]},
        {"channels": 4, "multiples": [1, 2, 4, 8, 16]},
    ],
)
def test_sizes_that_no_autoencoder_has_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(BundleError, match="VAE configuration"):
        VaeConfig.from_dict(values)


def test_sizes_survive_their_way_through_json() -> None:
    assert VaeConfig.from_dict(json.loads(json.dumps(SMALL.to_dict()))) == SMALL


def test_weights_are_taken_as_they_are_without_a_copy(vae: Vae) -> None:
    tensors = vae.state_dict()
    fresh = Vae(SMALL)
    load_weights(fresh, tensors)
    key = "decoder.layers.0.weight"
    assert fresh.state_dict()[key].data_ptr() == tensors[key].data_ptr()
    assert torch.equal(fresh.decoder(torch.ones(1, 64, 2)), vae.decoder(torch.ones(1, 64, 2)))


@pytest.mark.parametrize("change", ["missing", "unknown", "shape"])
def test_weights_that_do_not_fit_are_named(vae: Vae, change: str) -> None:
    tensors = dict(vae.state_dict())
    if change == "missing":
        del tensors["decoder.layers.0.bias"]
    elif change == "unknown":
        tensors["decoder.extra"] = torch.zeros(1)
    else:
        tensors["decoder.layers.0.bias"] = torch.zeros(3)
    with pytest.raises(BundleError, match=r"decoder\.(layers\.0\.bias|extra)"):
        load_weights(Vae(SMALL), tensors)


@pytest.mark.parametrize("layer", [nn.Conv1d(3, 5, 7), nn.ConvTranspose1d(5, 3, 8)])
def test_folded_weight_norm_computes_the_same(layer: nn.Conv1d | nn.ConvTranspose1d) -> None:
    direction = torch.randn_like(layer.weight)
    gain = torch.randn(layer.weight.shape[0], 1, 1)
    folded = fold_weight_norm({"weight_v": direction, "weight_g": gain, "bias": torch.ones(1)})
    assert folded.keys() == {"weight", "bias"}
    assert torch.allclose(folded["weight"], torch._weight_norm(direction, gain, 0), atol=1e-6)
