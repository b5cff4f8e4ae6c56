"""The demo bundle: part of the package, whole, small, and the one that its card speaks of."""

import json
from importlib.resources import files

import numpy as np
import pytest
import torch

from diffrhythm import bundle
from diffrhythm.bundle import DEMO, TRANSFORMER, VAE, Bundle
from diffrhythm.phonemes import Inventory
from diffrhythm.vae import decode
from training import pack, style_encoder
from training.styles import SYLLABLE_FRAMES


def test_the_bundle_says_that_it_is_a_demo_and_is_whole(demo_bundle: Bundle) -> None:
    assert demo_bundle.demo
    bundle.verify(demo_bundle)


def test_the_bundle_is_found_in_the_package_and_has_nothing_beside_its_files_and_card() -> None:
    assert bundle.load("demo").folder == DEMO == files("diffrhythm") / "demo"
    about = bundle.describe(DEMO)
    assert {path.name for path in DEMO.iterdir()} == {*about.files, bundle.ABOUT, pack.CARD}


def test_the_bundle_is_small_enough_to_ship() -> None:
    assert sum(path.stat().st_size for path in DEMO.iterdir()) <= pack.LARGEST_BYTES


def test_the_bundle_is_of_the_training_program_of_today(demo_bundle: Bundle) -> None:
    about = json.loads((DEMO / bundle.ABOUT).read_text())
    assert about["versions"] == {"demo": pack.VERSION}
    assert demo_bundle.about.syllable_frames == SYLLABLE_FRAMES
    assert demo_bundle.inventory == Inventory.demo()
    assert np.array_equal(demo_bundle.negative_style, style_encoder.null_style().numpy())


@pytest.mark.parametrize("name", [TRANSFORMER, VAE])
def test_weights_are_stored_in_a_byte_each(demo_bundle: Bundle, name: str) -> None:
    model = demo_bundle.open_transformer() if name == TRANSFORMER else demo_bundle.open_vae()
    numbers = sum(weight.numel() for weight in model.state_dict().values())  # type: ignore[union-attr]
    assert (DEMO / name).stat().st_size < 1.2 * numbers


def test_prompts_not_learnt_from_are_heard_as_their_style(demo_bundle: Bundle) -> None:
    texts = style_encoder.texts_of("heldout")
    found = [demo_bundle.words.embed_text(text) for text, _ in texts]
    assert style_encoder.accuracy(found, [label for _, label in texts]) > 0.9


def test_the_sound_follows_the_latents(demo_bundle: Bundle) -> None:
    latents = torch.randn(1, 40, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        one, other = (decode(each, demo_bundle.open_vae().decoder)[0].numpy() for each in (latents, -latents))
    assert np.isfinite(one).all()
    assert 0.001 < np.abs(one).max() < 10
    assert np.corrcoef(one.ravel(), other.ravel())[0, 1] < 0.5
