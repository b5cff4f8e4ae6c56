from typing import Any

import golden
import pytest
import torch
from torch import Tensor

from diffrhythm import conditioning
from diffrhythm.conditioning import Conditioning
from diffrhythm.config import ModelConfig
from diffrhythm.errors import RequestError
from diffrhythm.transformer import DiT

FRAMES = 24
CONFIG = ModelConfig(dim=64, depth=2, conv_layers=1, text_rows=12, max_frames=6144)


def model(weight_seed: int = 7) -> DiT:
    return golden.model_of(CONFIG, weight_seed)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def asked(**changes: Any) -> dict[str, Any]:
    """A whole request, but for `changes`."""
    return {
        "text_ids": torch.arange(FRAMES) % 12,
        "style": random(512, seed=1),
        "negative_style": random(512, seed=2),
        "known": random(FRAMES, 64, seed=3),
        "duration_frames": FRAMES,
        "start_time": 0.0,
    } | changes


def song(dit: DiT | None = None, **changes: Any) -> Conditioning:
    return conditioning.build(dit or model(), **asked(**changes))


def test_the_same_request_has_the_same_hash() -> None:
    assert song().hash == song(model()).hash


@pytest.mark.parametrize(
    "change",
    [
        {"text_ids": torch.zeros(FRAMES, dtype=torch.int64)},
        {"style": random(512, seed=9)},
        {"negative_style": random(512, seed=9)},
        {"known": None},
        {"known": random(FRAMES, 64, seed=9)},
        {"duration_frames": FRAMES + 1},
        {"start_time": 0.5},
    ],
    ids=lambda change: next(iter(change)),
)
def test_another_request_has_another_hash(change: dict[str, Any]) -> None:
    assert song(**change).hash != song().hash


def test_another_model_has_another_hash() -> None:
    assert song(model(weight_seed=8)).hash != song().hash


def test_each_span_set_has_a_hash_of_its_own() -> None:
    whole = song()
    hashes = {conditioning.with_spans(whole, spans).hash for spans in ([], [(0, 4)], [(0, 5)])}
    assert len(hashes | {whole.hash}) == 4


def test_a_span_hides_the_known_latent_as_if_it_had_never_been_there() -> None:
    latent = random(FRAMES, 64, seed=3)
    hidden = latent.clone()
    hidden[3:9] = 0
    hidden[20:] = 0
    spans = [(3, 9), (20, 999)]
    result = conditioning.with_spans(song(known=latent), spans).conditional.inputs
    assert torch.equal(result, song(known=hidden).conditional.inputs)


def test_spans_need_something_known_beside_them() -> None:
    nothing = song(known=None)
    conditioning.with_spans(nothing, [(0, FRAMES)])
    with pytest.raises(RequestError, match="known latent"):
        conditioning.with_spans(nothing, [(0, FRAMES - 1)])


@pytest.mark.parametrize("span", [(5, 3), (-2, 4)])
def test_a_span_that_runs_backwards_or_begins_before_the_song_is_refused(span: tuple[int, int]) -> None:
    with pytest.raises(RequestError, match="span"):
        conditioning.with_spans(song(), [span])


def test_the_null_pass_knows_nothing_of_lyrics_style_and_source() -> None:
    first = song().null
    other = song(text_ids=torch.ones(FRAMES, dtype=torch.int64), style=random(512, seed=8), known=None).null
    assert torch.equal(first.inputs, other.inputs)
    assert all(torch.equal(a, b) for a, b in zip(first.fusion, other.fusion, strict=True))


def test_a_source_longer_than_the_song_is_cut() -> None:
    latent = random(FRAMES + 10, 64, seed=3)
    assert song(known=latent).hash == song(known=latent[:FRAMES]).hash


def test_a_batch_of_requests_is_its_items() -> None:
    both = song(style=random(2, 512, seed=1), start_time=torch.tensor([0.0, 0.5]))
    second = song(style=random(2, 512, seed=1)[1], start_time=0.5)
    assert both.latent_shape == (2, FRAMES, 64)
    assert golden.distance(both.conditional.inputs[1:], second.conditional.inputs) < golden.ONE_PASS
    assert golden.distance(both.scalars[1:], second.scalars) < golden.ONE_PASS


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text_ids": torch.full((FRAMES,), 12)}, "0 to 11"),
        ({"text_ids": torch.full((FRAMES,), -1)}, "0 to 11"),
        ({"text_ids": torch.zeros(FRAMES)}, "whole numbers"),
        ({"text_ids": torch.zeros(0, dtype=torch.int64)}, "whole numbers"),
        ({"text_ids": torch.zeros(6145, dtype=torch.int64)}, "6144 at most"),
        ({"style": random(511)}, "style"),
        ({"style": torch.full((512,), float("nan"))}, "style with NaN"),
        ({"negative_style": random(1, 1, 512)}, "negative style"),
        ({"known": random(FRAMES - 1, 64)}, "known latent"),
        ({"known": random(FRAMES, 63)}, "known latent"),
        ({"known": random(64)}, "known latent"),
        ({"duration_frames": 6145}, "duration"),
        ({"start_time": -0.1}, "start time"),
        ({"start_time": float("nan")}, "start time"),
    ],
)
def test_what_the_model_cannot_take_is_refused_in_one_line(change: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message) as raised:
        song(**change)
    assert "\n" not in str(raised.value)
