"""Songs of 96 to 285 seconds: the form of 6144 frames, small, from lyrics to sound."""

import hashlib
import json
from typing import Any

import pytest
from safetensors.numpy import save_file

from diffrhythm import bundle
from diffrhythm.bundle import Bundle
from diffrhythm.config import ModelConfig
from diffrhythm.errors import RequestError
from diffrhythm.generate import Request, generate, inspect
from diffrhythm.vae_config import SAMPLE_RATE, VaeConfig
from tests import humming

CONFIG = ModelConfig(dim=64, depth=2, ff_mult=1, conv_layers=1, text_rows=364, max_frames=6144)
SMALL_VAE = VaeConfig(channels=2)


@pytest.fixture(scope="module")
def full(demo_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle that says of itself what that of the published full model says."""
    folder = tmp_path_factory.mktemp("full")
    save_file(humming.transformer_weights(CONFIG), folder / bundle.TRANSFORMER)
    save_file(humming.vae_weights(SMALL_VAE), folder / bundle.VAE)
    for name in (bundle.PHONEMES, bundle.NEGATIVE_STYLE, bundle.STYLE):
        (folder / name).write_bytes((demo_bundle.folder / name).read_bytes())
    about: dict[str, Any] = json.loads((demo_bundle.folder / bundle.ABOUT).read_text()) | {
        "name": "full",
        "transformer": CONFIG.to_dict(),
        "vae": SMALL_VAE.to_dict(),
        "durations": {"min": 96.0, "max": 285.0},
        "frames": "duration",
        "files": {
            path.name: {
                "bytes": path.stat().st_size,
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            }
            for path in folder.iterdir()
        },
    }
    (folder / bundle.ABOUT).write_text(json.dumps(about))
    return bundle.load(folder)


@pytest.mark.parametrize("duration", [95.0, 95.99, 285.01, 300.0])
def test_a_length_outside_of_the_form_is_refused(full: Bundle, duration: float) -> None:
    with pytest.raises(RequestError, match="choose 96 to 285"):
        inspect(full, Request(None, style="pop", duration=duration))


def test_lines_behind_95_seconds_are_sung_to_the_last(full: Bundle) -> None:
    lyrics = "[00:10.00]Low tide\n[03:10.00]Lights are low along the harbour\n"
    plan = inspect(full, Request(lyrics, style="pop"))
    assert plan.warnings == ()
    assert plan.alignment.placed[-1].start == int(190 * SAMPLE_RATE / 2048)
    assert 190 < plan.duration < 200


def test_short_lyrics_get_the_shortest_song_and_none_the_longest(full: Bundle) -> None:
    short = inspect(full, Request("[00:10.00]Low tide\n", style="pop"))
    longest = inspect(full, Request(None, style="pop"))
    assert (short.duration, short.frames) == (96.0, 2068)
    assert (longest.duration, longest.frames) == (285.0, 6137)


@pytest.mark.slow
@pytest.mark.parametrize("duration", [96.0, 123.456, 285.0])
def test_a_long_song_is_made_to_the_sample(full: Bundle, duration: float) -> None:
    song = generate(
        full, lyrics=None, style="pop", duration=duration, seed=1, steps=1, cfg=0.0, precision="fp32"
    )
    assert song.audio.shape == (2, round(duration * SAMPLE_RATE))
    assert song.checks.silence == 0
