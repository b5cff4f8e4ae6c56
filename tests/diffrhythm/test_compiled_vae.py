"""The compiled decoder against torch's own."""

from functools import cache

import golden
import pytest
import torch
from torch import Tensor, nn

from diffrhythm import compiled_vae, vae
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


def test_a_layer_without_an_operation_is_refused() -> None:
    with pytest.raises(TypeError, match="GELU"):
        compiled_vae._behind(None, nn.GELU())
