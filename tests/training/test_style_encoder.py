"""The learned style encoder: texts and sounds point to their style, and to nowhere by accident."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffrhythm import words
from training import style_encoder
from training.style_encoder import NAMES, Clips, Texts

# Three styles in words and two that share one.
TEXTS: Texts = [
    (text, NAMES.index(name))
    for name, texts in {
        "jazz": ["jazz, walking bass", "late jazz club, warm piano", "爵士，钢琴"],
        "rock": ["rock, loud guitar", "hard rock, drums", "摇滚吉他"],
        "waltz": ["waltz in three", "ballroom waltz, warm piano", "华尔兹"],
    }.items()
    for text in texts
]


@pytest.fixture(scope="module")
def learnt() -> words.Encoder:
    return style_encoder.encoder(
        style_encoder.learn_texts(TEXTS, steps=100) | style_encoder.learn_sounds(tones(0.1))
    )


def tone(label: int, phase: float) -> NDArray[np.float32]:
    """Half a second that is brighter with each label."""
    t = np.arange(words.SOUND_RATE // 2) / words.SOUND_RATE
    return (0.3 * np.sin(2 * np.pi * 200 * 1.5**label * t + phase)).astype(np.float32)


def tones(phase: float) -> Clips:
    found = [(words.measures(tone(label, phase * k)), label) for label in range(len(NAMES)) for k in range(3)]
    return Clips(
        torch.from_numpy(np.stack([values for values, _ in found])), torch.tensor([n for _, n in found])
    )


def likeness(style: NDArray[np.float32]) -> dict[str, float]:
    return dict(zip(NAMES, (style_encoder.prototypes() @ torch.from_numpy(style)).tolist(), strict=True))


def test_the_directions_are_at_right_angles_and_the_null_pass_has_its_own() -> None:
    directions = torch.cat([style_encoder.prototypes(), style_encoder.null_style()[None]])
    assert directions.shape == (len(NAMES) + 1, 512)
    assert torch.allclose(directions @ directions.T, torch.eye(len(directions)), atol=1e-6)


def test_a_seed_gives_the_same_encoder_each_time() -> None:
    def once() -> dict[str, Tensor]:
        return style_encoder.learn_texts(TEXTS, steps=3)

    first, second = once(), once()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(style_encoder.prototypes(1), style_encoder.prototypes(2))


@pytest.mark.parametrize(
    ("text", "name"),
    [("Jazz!", "jazz"), ("loud rock", "rock"), ("a slow waltz", "waltz"), ("华尔兹", "waltz")],
)
def test_a_text_points_to_its_style(learnt: words.Encoder, text: str, name: str) -> None:
    found = likeness(learnt.embed_text(text))
    assert max(found, key=lambda each: found[each]) == name
    assert found[name] > 0.75


def test_a_text_of_two_styles_points_between_them(learnt: words.Encoder) -> None:
    found = likeness(learnt.embed_text("jazz waltz"))
    assert min(found["jazz"], found["waltz"]) > 0.5
    assert found["rock"] < 0.3


def test_a_text_of_which_nothing_is_known_points_to_no_style(learnt: words.Encoder) -> None:
    found = likeness(learnt.embed_text("xyzzy"))
    assert max(found.values()) < 0.6
    assert np.isfinite(list(found.values())).all()


def test_a_sound_points_to_its_style(learnt: words.Encoder) -> None:
    for label, name in enumerate(NAMES):
        assert likeness(learnt.embed_sound(tone(label, 0.5)))[name] > 0.8


def test_accuracy_counts_what_points_to_its_own_direction() -> None:
    styles = list(style_encoder.prototypes().numpy())
    labels = list(range(len(NAMES)))
    assert style_encoder.accuracy(styles, labels) == 1
    assert style_encoder.accuracy(styles, labels[1:] + labels[:1]) == 0


@pytest.mark.slow
def test_songs_and_prompts_not_learnt_from_are_told_apart() -> None:
    tensors = style_encoder.learn(style_encoder.texts_of("train"), style_encoder.clips_of("train", 1))
    learnt = style_encoder.encoder(tensors)
    for part in ("train", "heldout"):
        texts = style_encoder.texts_of(part)
        found = [learnt.embed_text(text) for text, _ in texts]
        assert style_encoder.accuracy(found, [label for _, label in texts]) > 0.9
    told = [line.split("% of")[0].split(": ") for line in style_encoder.report(tensors, songs=1).splitlines()]
    assert [what for what, _ in told] == ["prompts", "clips"]
    assert all(float(share) > 90 for _, share in told)
