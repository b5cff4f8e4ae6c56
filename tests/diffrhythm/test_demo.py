"""The demo bundle: the same bits each time, safe to build twice at once, and a sound worth hearing."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from diffrhythm import bundle, demo
from diffrhythm.bundle import ABOUT, TRANSFORMER, VAE, Bundle
from diffrhythm.vae import decode
from diffrhythm.vae_config import HOP, SAMPLE_RATE

ROOT = Path(__file__).parents[2]

PINNED_VAE = "259925da34f5bdd7b98ceaadce9c4420bb4a6f4e281a19f5f41554a8c0b57e88"
PINNED_TRANSFORMER = "c8e9e254138f4b4a6fc68db902f67451889e7c0bf052e5498d4df6b4e5bf3263"


def digest(weights: dict[str, NDArray[np.float32]]) -> str:
    found = hashlib.sha256()
    for name in sorted(weights):
        found.update(name.encode())
        found.update(weights[name].astype("<f4").tobytes())
    return found.hexdigest()


def test_the_bundle_says_that_it_is_a_demo_and_is_whole(demo_bundle: Bundle) -> None:
    assert demo_bundle.demo
    assert demo_bundle.config.max_frames == 2048
    bundle.verify(demo_bundle)


def test_two_builds_are_the_same_byte_for_byte(demo_bundle: Bundle, tmp_path: Path) -> None:
    demo.build(tmp_path)
    for file in demo_bundle.folder.iterdir():
        assert (tmp_path / file.name).read_bytes() == file.read_bytes()


def test_the_weights_are_the_same_on_every_machine(demo_bundle: Bundle) -> None:
    """Pinned: a machine whose sums differ makes another song of the same seed."""
    assert digest(demo.vae_weights(demo.VAE)) == PINNED_VAE
    assert digest(demo.transformer_weights(demo_bundle.config)) == PINNED_TRANSFORMER


def test_two_processes_that_build_at_once_both_get_the_whole_bundle(tmp_path: Path) -> None:
    code = "from diffrhythm import bundle; b = bundle.load('demo'); bundle.verify(b); print(b.folder, b.hash)"
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    builders = [
        subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=environment, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    answers = {builder.communicate()[0] for builder in builders}
    assert [builder.returncode for builder in builders] == [0, 0]
    assert len(answers) == 1
    models = list((tmp_path / "diffrhythm" / "models").iterdir())
    assert [model.name[:5] for model in models] == ["demo-"], "a workshop was left behind"


def test_a_build_that_was_cut_short_leaves_nothing_to_stumble_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    # What a killed builder leaves: a half-filled workshop beside the place of the bundle.
    workshop = tmp_path / "diffrhythm" / "models" / ".demo-000000000000.abc"
    workshop.mkdir(parents=True)
    (workshop / TRANSFORMER).write_bytes(b"half")
    assert bundle.load("demo").demo


def test_a_damaged_bundle_is_named_and_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    built = bundle.load("demo").folder
    (built / VAE).write_bytes(b"")
    with pytest.raises(bundle.BundleError, match=r"demo-[0-9a-f]{12}/vae\.safetensors"):
        bundle.load("demo")


def test_the_decoder_hums_below_a_kilohertz_neither_faint_nor_clipped(demo_bundle: Bundle) -> None:
    latents = torch.randn(1, 100, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        sound = decode(latents, demo_bundle.open_vae().decoder)[0].numpy()
    power = np.abs(np.fft.rfft(sound.mean(axis=0) * np.hanning(sound.shape[1]))) ** 2
    hertz = np.fft.rfftfreq(sound.shape[1], 1 / SAMPLE_RATE)
    assert 0.1 < np.abs(sound).max() < 1
    assert np.corrcoef(sound)[0, 1] > 0.5, "the sides cancel in mono"
    assert power[(hertz > 30) & (hertz < 1000)].sum() > 0.95 * power.sum()


def test_the_sound_follows_the_latents(demo_bundle: Bundle) -> None:
    latents = torch.zeros(1, 100, 64)
    latents[:, 50:] = torch.randn(64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        sound = decode(latents, demo_bundle.open_vae().decoder)[0].numpy()
    before, after = sound[:, : 40 * HOP], sound[:, 60 * HOP :]
    assert np.abs(after).max() > 100 * np.abs(before).max()


def test_the_description_is_bare_of_what_differs_between_machines(demo_bundle: Bundle) -> None:
    about = json.loads((demo_bundle.folder / ABOUT).read_text())
    assert about["versions"] == {"rule": demo.RULE}
