"""The demo's style encoder: grams, like texts alike, and nothing believed of a damaged file."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from diffrhythm import words
from diffrhythm.bundle import STYLE, Bundle
from diffrhythm.errors import BundleError

Arrays = dict[str, NDArray[np.generic]]


@pytest.fixture
def encoder(demo_bundle: Bundle) -> words.Encoder:
    return demo_bundle.words


def noise(*, low: bool) -> words.Array:
    white = np.random.default_rng(1).standard_normal(10 * words.SOUND_RATE).astype(np.float32)
    return np.cumsum(white).astype(np.float32) / 200 if low else white / 4


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Pop", ["<pop>", "<po", "pop", "op>"]),
        ("a b!", ["<a>", "<a>", "<b>", "<b>"]),
        ("古典风", ["古", "典", "风", "古典", "典风"]),
        ("风jazz", ["风", "<jazz>", "<ja", "jaz", "azz", "zz>"]),
        ("ＰＯＰ", ["<pop>", "<po", "pop", "op>"]),
        (" …!", []),
    ],
)
def test_a_text_is_cut_into_its_grams(text: str, expected: list[str]) -> None:
    assert words.grams(text) == expected
    assert len(words.buckets(text, 7)) == len(expected)
    assert all(0 <= bucket < 7 for bucket in words.buckets(text, 7))


def test_like_texts_are_nearer_than_unlike_ones(encoder: words.Encoder) -> None:
    piano = encoder.embed_text("warm piano, female voice")
    assert piano @ encoder.embed_text("Warm PIANO — female voice!") == pytest.approx(1, abs=1e-6)
    near = piano @ encoder.embed_text("warm pianos, female voices")
    assert near > 0.6
    assert near > piano @ encoder.embed_text("heavy metal")


def test_a_text_never_heard_of_has_a_style_too(encoder: words.Encoder) -> None:
    for text in ("x", "ñandú", "𝕏", "1", "い"):
        assert np.linalg.norm(encoder.embed_text(text)) == pytest.approx(1, abs=1e-6)


def test_a_dark_and_a_bright_sound_have_unlike_styles(encoder: words.Encoder) -> None:
    dark, bright = (encoder.embed_sound(noise(low=low)) for low in (True, False))
    assert dark @ bright < 0.9


def test_a_sound_half_as_loud_has_the_same_measures() -> None:
    sound = noise(low=False)
    assert np.abs(words.measures(sound) - words.measures(sound / 2)).max() < 1e-3


def test_silence_has_a_style(encoder: words.Encoder) -> None:
    assert np.isfinite(encoder.embed_sound(np.zeros(10 * words.SOUND_RATE, np.float32))).all()


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda tensors: tensors.pop("words_out"), "its tensors are"),
        (lambda tensors: tensors.update(more=np.zeros(1, np.float32)), "its tensors are"),
        (lambda tensors: tensors.update(words=np.zeros((8, 3), np.float32)), "words_out has the shape"),
        (lambda tensors: tensors.update(words=np.zeros((0, 64), np.float32)), "words has the shape"),
        (lambda tensors: tensors.update(words=np.zeros(64, np.float32)), "words has the shape"),
        (lambda tensors: tensors.update(sound_in=np.zeros((64, 9), np.float32)), "sound_in has the shape"),
        (lambda tensors: tensors.update(sound_in=np.float32(1)[...]), "has the shape"),
        (lambda tensors: tensors.update(words_bias=np.zeros(512, np.int32)), "words_bias is int32"),
        (lambda tensors: tensors.update(words_bias=np.full(512, np.nan, np.float32)), "not finite"),
    ],
)
def test_a_file_that_is_no_encoder_is_refused(
    demo_bundle: Bundle, tmp_path: Path, damage: Callable[[Arrays], object], named: str
) -> None:
    tensors: Arrays = dict(load_file(demo_bundle.folder / STYLE))
    damage(tensors)
    path = tmp_path / STYLE
    save_file(tensors, path)
    with pytest.raises(BundleError, match=rf"{named}.*: .*style\.safetensors; get the bundle again"):
        words.read(path)


@pytest.mark.parametrize("garbage", [b"", b"garbage", b"\xff" * 2048])
def test_a_file_that_is_no_safetensors_is_refused(tmp_path: Path, garbage: bytes) -> None:
    path = tmp_path / STYLE
    path.write_bytes(garbage)
    with pytest.raises(BundleError, match=r"cannot read .*style\.safetensors"):
        words.read(path)


def test_numbers_of_half_size_are_widened(demo_bundle: Bundle, tmp_path: Path) -> None:
    tensors = load_file(demo_bundle.folder / STYLE)
    save_file({name: values.astype(np.float16) for name, values in tensors.items()}, tmp_path / STYLE)
    found = words.read(tmp_path / STYLE)
    assert found.words.dtype == np.float32
    text = "warm piano"
    assert found.embed_text(text) @ demo_bundle.words.embed_text(text) == pytest.approx(1, abs=1e-4)


def test_an_encoder_of_zeros_is_named_and_makes_no_style(encoder: words.Encoder) -> None:
    zeros = words.Encoder(**{name: 0 * getattr(encoder, name) for name in encoder.__slots__})
    with pytest.raises(BundleError, match="no direction"):
        zeros.embed_text("pop")
