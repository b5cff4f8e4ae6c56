"""Chunks of the decoder's two parts against one call of the whole, over random small decoders."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffrhythm import chunks, vae
from diffrhythm.chunks import Part
from diffrhythm.vae_config import HOP, LATENT_CHANNELS, VaeConfig

# Powers of two that multiply to HOP. A block of stride 1 loses a sample of each call, so that torch's own
# decoder cannot be cut.
STRIDES = [(2, 4, 4, 8, 8), (1024, 2), (8, 16, 16), (2, 1024), (2048,), (32, 64), (2,) * 11]

configs = st.builds(
    lambda strides, channels: VaeConfig(channels, (1,) * len(strides), strides),
    st.sampled_from(STRIDES),
    st.integers(1, 2),
)


def decoder(config: VaeConfig, seed: int = 0) -> vae.Decoder:
    torch.manual_seed(seed)
    return vae.Vae(config, "cpu").decoder.requires_grad_(False).eval()


def length(config: VaeConfig, part: Part) -> int:
    """Positions of a part's input that are enough for what its middle depends on."""
    return 2 * chunks.reach(config, part) + 5


@settings(max_examples=15)
@given(configs, st.integers(1, 70), st.integers(1, 20))
def test_chunks_of_any_length_give_the_sound_of_the_whole_but_for_rounding(
    config: VaeConfig, frames: int, chunk_frames: int
) -> None:
    made, cut = decoder(config), chunks.cut(config, frames, chunk_frames)
    latents = torch.randn(1, frames, LATENT_CHANNELS, generator=torch.Generator().manual_seed(frames))
    calls: list[tuple[int, int]] = []
    sound = vae.decode_in_parts(
        latents, vae.parts(made), cut, on_chunk=lambda done, of: calls.append((done, of))
    )
    whole = made(latents.transpose(1, 2))
    assert sound.shape == (1, 2, frames * HOP)
    assert (sound - whole).abs().max() <= 1e-5 * whole.abs().max()
    assert calls == [(done, len(calls)) for done in range(1, len(calls) + 1)]


@pytest.mark.parametrize("part", ["coarse", "fine", "whole"])
@pytest.mark.parametrize("strides", STRIDES)
def test_the_reach_is_what_gradients_reach(strides: tuple[int, ...], part: Part) -> None:
    config = VaeConfig(2, (1,) * len(strides), strides)
    made = decoder(config).double()
    coarse, fine = made.parts()
    layers = {"coarse": coarse, "fine": fine, "whole": made.layers}[part]
    positions = length(config, part)
    middle = positions // 2
    channels = made.coarse_width if part == "fine" else LATENT_CHANNELS
    x = torch.randn(1, channels, positions, dtype=torch.float64, requires_grad=True)
    made_of = layers(x)
    a_position = made_of.shape[-1] // positions
    made_of[..., middle * a_position : (middle + 1) * a_position].square().sum().backward()
    assert x.grad is not None
    reached = x.grad.abs().sum(dim=(0, 1)).nonzero().flatten()
    farthest = max(middle - int(reached.min()), int(reached.max()) - middle)
    assert farthest == chunks.reach(config, part)


def test_the_published_decoder_sees_ten_frames_on_each_side_and_its_fine_part_one() -> None:
    config = VaeConfig()
    assert chunks.reach(config) == 10
    assert chunks.reach(config, "fine") == chunks.cut(config, 64, 64).rate


@given(st.integers(1, 6144), st.sampled_from([16, 32, chunks.CHUNK_FRAMES, 128]))
def test_little_is_computed_twice_of_the_published_and_the_demos_sizes(
    frames: int, chunk_frames: int
) -> None:
    for strides in (2, 4, 4, 8, 8), (1024, 2):
        cut = chunks.cut(VaeConfig(2, (1,) * len(strides), strides), frames, chunk_frames)
        assert cut.computed_frames <= (1 + 3 / chunk_frames) * frames + 1


@given(st.integers(1, 5000), st.integers(1, 300), st.integers(0, 100))
def test_even_chunks_are_as_few_as_can_be_and_hardly_overlap_more_than_asked(
    total: int, most: int, overlap: int
) -> None:
    most = max(most, overlap + 1)
    longest = chunks.even(total, most, overlap)
    assert longest <= most
    fewest = max(1, math.ceil((total - overlap) / (most - overlap)))
    spans = chunks.chunk_spans(total, longest, min(overlap, longest - 1))
    assert len(spans) <= fewest
    assert sum(span.stop - span.start for span in spans) < total + (fewest - 1) * overlap + fewest


@pytest.mark.parametrize("chunk_frames", [1, 16, 32, 64, 128, 6144])
def test_a_coder_that_is_called_as_a_whole_gets_the_published_chunk_or_a_shorter_one(
    chunk_frames: int,
) -> None:
    chunk = chunks.published_chunk(chunk_frames)
    assert chunks.PUBLISHED_OVERLAP_FRAMES < chunk <= chunks.PUBLISHED_CHUNK_FRAMES
    assert chunks.published_chunk(chunks.CHUNK_FRAMES) == chunks.PUBLISHED_CHUNK_FRAMES
