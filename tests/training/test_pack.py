"""The demo bundle made of checkpoints: usable, small, and refused where it could not be used."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from diffrhythm import bundle
from diffrhythm.config import ModelConfig
from diffrhythm.errors import BundleError
from diffrhythm.phonemes import Inventory
from diffrhythm.transformer import DiT
from diffrhythm.vae import Vae
from diffrhythm.vae_config import VaeConfig
from training import pack, style_encoder
from training.pack import Trained

CONFIG = ModelConfig(dim=64, depth=2, ff_mult=1, conv_layers=1, text_rows=len(Inventory.demo()))
VAE_CONFIG = VaeConfig(channels=2)
FACTS = {"Songs": 4096, "Steps of the transformer": 90_000}


@pytest.fixture(scope="module")
def trained() -> Trained:
    torch.manual_seed(1)
    return Trained(
        CONFIG,
        DiT(CONFIG).state_dict(),
        VAE_CONFIG,
        Vae(VAE_CONFIG, device="cpu").state_dict(),
        style_encoder.learn_texts([("jazz", 0), ("rock", 1)], steps=2)
        | style_encoder.learn_sounds(style_encoder.Clips(torch.randn(20, 128), torch.arange(20) % 10)),
    )


@pytest.fixture
def made(trained: Trained, tmp_path: Path) -> bundle.Bundle:
    return pack.write(trained, FACTS, tmp_path / "demo")


def test_the_bundle_is_whole_and_opens(made: bundle.Bundle) -> None:
    bundle.verify(made)
    assert made.demo
    assert made.about.syllable_frames == 6
    assert made.negative_style @ style_encoder.null_style().numpy() == pytest.approx(1, abs=1e-6)
    assert np.linalg.norm(made.words.embed_text("jazz")) == pytest.approx(1, abs=1e-6)
    assert len(made.inventory) == CONFIG.text_rows
    made.open_vae()


def test_weights_are_packed_and_near_what_they_were(trained: Trained, made: bundle.Bundle) -> None:
    found = made.open_transformer().state_dict()
    assert 0 < pack.error(trained.transformer, found) < 0.01
    size = (made.folder / bundle.TRANSFORMER).stat().st_size
    assert size < 1.5 * sum(weight.numel() for weight in trained.transformer.values())


def test_the_input_projection_keeps_eleven_bits(trained: Trained, made: bundle.Bundle) -> None:
    exact = trained.transformer[pack.UNLIKE_COLUMNS]
    found = made.open_transformer().state_dict()[pack.UNLIKE_COLUMNS]
    assert (found - exact).abs().max() <= exact.abs().max() * 2**-11


def test_two_writings_are_the_same_byte_for_byte(
    trained: Trained, made: bundle.Bundle, tmp_path: Path
) -> None:
    again = pack.write(trained, FACTS, tmp_path / "again").folder
    for file in made.folder.iterdir():
        assert (again / file.name).read_bytes() == file.read_bytes()


def test_the_card_gives_the_facts_and_can_be_mended_without_the_bundle_being_another(
    made: bundle.Bundle,
) -> None:
    card = made.folder / pack.CARD
    assert "| Songs | 4096 |" in card.read_text()
    card.write_text(card.read_text() + "\n")
    assert bundle.read(made.folder).hash == made.hash


def test_checkpoints_are_read_as_training_leaves_them(trained: Trained, tmp_path: Path) -> None:
    for name, config, weights in (
        ("dit.pt", CONFIG.to_dict(), trained.transformer),
        ("vae.pt", VAE_CONFIG.to_dict(), trained.vae),
    ):
        torch.save({"ema": dict(weights), "config": config, "step": 1}, tmp_path / name)
    save_file(dict(trained.style), tmp_path / "style.safetensors")
    found = pack.read(tmp_path / "dit.pt", tmp_path / "vae.pt", tmp_path / "style.safetensors")
    assert (found.config, found.vae_config) == (CONFIG, VAE_CONFIG)
    assert pack.error(trained.transformer, found.transformer) == 0


def test_weights_of_other_sizes_than_they_say_are_refused(trained: Trained, tmp_path: Path) -> None:
    wider = CONFIG.to_dict() | {"dim": 128}
    torch.save({"ema": dict(trained.transformer), "config": wider}, tmp_path / "dit.pt")
    torch.save({"ema": dict(trained.vae), "config": VAE_CONFIG.to_dict()}, tmp_path / "vae.pt")
    save_file(dict(trained.style), tmp_path / "style.safetensors")
    with pytest.raises(BundleError, match="do not fit"):
        pack.read(tmp_path / "dit.pt", tmp_path / "vae.pt", tmp_path / "style.safetensors")


def test_a_model_of_other_phones_is_refused(trained: Trained, tmp_path: Path) -> None:
    other = replace(trained, config=replace(CONFIG, text_rows=7))
    with pytest.raises(BundleError, match="7 phones where the demo has"):
        pack.write(other, FACTS, tmp_path / "demo")
    assert not (tmp_path / "demo").exists()


def test_a_bundle_too_large_to_ship_is_refused(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pack, "LARGEST_BYTES", 10**6)
    with pytest.raises(BundleError, match=r"MB where 1 are allowed"):
        pack.write(trained, FACTS, tmp_path / "demo")
    assert not (tmp_path / "demo").exists()


def test_the_description_is_bare_of_what_differs_between_machines(made: bundle.Bundle) -> None:
    about = json.loads((made.folder / bundle.ABOUT).read_text())
    assert about["versions"] == {"demo": pack.VERSION}
    assert str(made.folder) not in json.dumps(about)
