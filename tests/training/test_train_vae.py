"""The autoencoder's linear beginning, what its losses are of, and what is shipped of it."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from diffrhythm import vae
from diffrhythm.vae_config import HOP, LATENT_CHANNELS
from training import train_vae
from training.dataset import Dataset
from training.songs import compose

FRAMES = 96
STYLES = ("pop", "guofeng")


@pytest.fixture(scope="module")
def songs() -> Dataset:
    audio = [np.round(compose(4, style, frames=FRAMES).audio * 32767).astype(np.int16) for style in STYLES]
    return Dataset(np.stack(audio), STYLES, np.zeros((len(STYLES), FRAMES), np.int64))


@pytest.fixture(scope="module")
def begun(songs: Dataset) -> vae.Vae:
    return train_vae.fresh(0, songs).requires_grad_(False)


def _sound(songs: Dataset) -> Tensor:
    return torch.from_numpy(songs.audio.astype(np.float32) / 32767)


def _coded(model: vae.Vae, sound: Tensor) -> tuple[Tensor, Tensor]:
    """Mean latents [b, c, t], and what comes back of them."""
    mean, _ = train_vae.moments(model, sound)
    return mean, model.decoder(mean)


@pytest.mark.parametrize("hop", [2, 64])
def test_windows_of_analysis_and_synthesis_add_up_to_the_sound(hop: int) -> None:
    sound = torch.randn(2, 9 * hop)
    kernels = train_vae._atoms(torch.eye(4 * hop), 2)
    rows = train_vae.windowed(sound, hop)
    made = torch.nn.functional.conv_transpose1d(rows.T[None], kernels, stride=hop)[0]
    # At both ends, one window of two is missing.
    assert torch.allclose(made[:, hop:-hop], sound[:, hop:-hop], atol=1e-5)


def test_kernels_find_what_windows_find() -> None:
    sound, directions = torch.randn(2, 640), torch.randn(5, 2 * 2 * 64)
    by_kernel = torch.nn.functional.conv1d(sound[None], train_vae._atoms(directions, 2), stride=64)[0]
    assert torch.allclose(by_kernel, (train_vae.windowed(sound, 64) @ directions.T).T, atol=1e-4)


def test_principal_directions_are_orthonormal_and_the_first_hold_most() -> None:
    rows = torch.randn(300, 6) * torch.tensor([1.0, 9.0, 2.0, 0.1, 5.0, 0.3])
    found = train_vae.principal(rows, 3)
    assert torch.allclose(found @ found.T, torch.eye(3), atol=1e-5)
    assert found.abs().argmax(dim=1).tolist() == [1, 4, 2]


def test_principal_directions_of_few_rows_are_those_of_the_same_rows_and_silent_ones() -> None:
    rows = torch.randn(5, 20) * torch.tensor([[1.0], [9.0], [2.0], [0.5], [5.0]])
    few = train_vae.principal(rows, 3)
    many = train_vae.principal(torch.cat([rows, torch.zeros(20, 20)]), 3)
    assert torch.allclose((few @ many.T).abs(), torch.eye(3), atol=1e-4)


def test_the_linear_beginning_is_nearer_to_the_songs_than_silence(songs: Dataset, begun: vae.Vae) -> None:
    sound = _sound(songs)
    _, made = _coded(begun, sound)
    assert made.shape == sound.shape
    assert 10 * math.log10(float(sound.square().mean() / (made - sound).square().mean())) > 2


def test_settling_leaves_the_sound_as_it_was_and_makes_latents_of_deviation_1(
    songs: Dataset, begun: vae.Vae
) -> None:
    settled = vae.Vae(train_vae.CONFIG)
    vae.load_weights(settled, train_vae.settle(begun.state_dict(), songs))
    (before, made), (after, made_after) = _coded(begun, _sound(songs)), _coded(settled, _sound(songs))
    assert float(before.square().mean().sqrt()) != pytest.approx(1, abs=0.1)
    assert float(after.square().mean().sqrt()) == pytest.approx(1, abs=1e-3)
    assert torch.allclose(made, made_after, atol=1e-4)


def test_a_settled_encoder_draws_nothing(songs: Dataset, begun: vae.Vae) -> None:
    settled = vae.Vae(train_vae.CONFIG)
    vae.load_weights(settled, train_vae.settle(begun.state_dict(), songs))
    _, deviation = train_vae.moments(settled, _sound(songs))
    assert float(deviation.max()) == pytest.approx(1e-4, rel=1e-3)


def test_losses_are_of_what_comes_back_and_can_be_descended(songs: Dataset, begun: vae.Vae) -> None:
    model = vae.Vae(train_vae.CONFIG, "cpu")
    model.load_state_dict(begun.state_dict())
    sound = _sound(songs)[..., : 24 * HOP]
    optimiser = torch.optim.AdamW(model.parameters(), 1e-4)
    found = []
    for _ in range(3):
        torch.manual_seed(0)
        losses = train_vae.losses(model, sound)
        optimiser.zero_grad()
        torch.autograd.backward(losses.total)
        optimiser.step()
        found.append(losses.total.item())
    assert found[2] < found[1] < found[0]


def test_the_same_sound_has_no_spectral_distance_and_half_as_loud_the_share_of_a_half() -> None:
    sound = torch.randn(1, 2, 8 * HOP)
    assert [float(d) for d in train_vae.spectral_distance(sound, sound)] == [0, 0]
    log, linear = train_vae.spectral_distance(0.5 * sound, sound)
    assert float(linear) == pytest.approx(0.5, abs=0.01)
    assert float(log) == pytest.approx(math.log(2), abs=0.05)


def test_crops_begin_on_frames() -> None:
    numbers = np.repeat(np.arange(train_vae.FRAMES), HOP).astype(np.int16)
    data = Dataset(np.stack([[numbers, numbers]]), ("pop",), np.zeros((1, train_vae.FRAMES), np.int64))
    crops = train_vae.crops(data, np.random.default_rng(0)) * 32767
    assert crops.shape == (train_vae.BATCH, 2, train_vae.CROP_FRAMES * HOP)
    changes = crops.diff(dim=-1).abs() > 0.5
    assert changes.sum() == train_vae.BATCH * 2 * (train_vae.CROP_FRAMES - 1)
    assert (changes.nonzero()[:, 2] % HOP == HOP - 1).all()


def test_latents_of_the_beginning_are_as_many_as_the_published_ones(begun: vae.Vae) -> None:
    mean, deviation = train_vae.moments(begun, torch.zeros(1, 2, 8 * HOP))
    assert mean.shape == deviation.shape == (1, LATENT_CHANNELS, 8)
