"""The transformer in training: the same model as the one that sings, batches in the stated shares."""

import numpy as np
import pytest
import torch
from torch import Tensor

from diffrhythm import conditioning, words
from diffrhythm.config import ModelConfig
from diffrhythm.transformer import DiT
from training import style_encoder, train_dit
from training.styles import STYLES
from training.train_dit import Batch, Songs

TINY = ModelConfig(dim=64, depth=2, ff_mult=1, conv_layers=1, text_rows=train_dit.CONFIG.text_rows)
FRAMES = 24


def _tiny(seed: int) -> DiT:
    """A model in which nothing is zero, so that all of it is heard."""
    torch.manual_seed(seed)
    model = DiT(TINY)
    with torch.no_grad():
        for weight in model.parameters():
            if not weight.any():
                weight.normal_(std=0.1)
    return model


def _batch(songs: int, seed: int) -> Batch:
    draw = torch.Generator().manual_seed(seed)
    known = torch.randn(songs, FRAMES, 64, generator=draw)
    known[:, 6:14] = 0
    return Batch(
        x_1=torch.randn(songs, FRAMES, 64, generator=draw),
        ids=torch.randint(0, TINY.text_rows, (songs, FRAMES), generator=draw),
        style=torch.nn.functional.normalize(torch.randn(songs, 512, generator=draw), dim=1),
        known=known,
    )


@pytest.mark.parametrize("t", [0.0, 0.3, 0.95])
def test_what_is_trained_is_what_sings(t: float) -> None:
    model, batch = _tiny(0), _batch(2, 1)
    x_t = torch.randn(2, FRAMES, 64)
    made = conditioning.build(
        model,
        text_ids=batch.ids,
        style=batch.style,
        negative_style=style_encoder.null_style(),
        known=batch.known,
        duration_frames=FRAMES,
    )
    with torch.no_grad():
        trained = train_dit.velocity(model, x_t, torch.full((2,), t), batch)
        sings = model.velocity(x_t, model.modulation(t, made.scalars), made.conditional)
    assert sings.abs().mean() > 0.1
    assert torch.allclose(trained, sings, atol=1e-5)


def test_songs_left_without_lyrics_and_style_are_the_null_pass() -> None:
    model, batch = _tiny(0), _batch(1, 1)
    null = style_encoder.null_style()
    x_t = torch.randn(1, FRAMES, 64)
    made = conditioning.build(
        model, text_ids=batch.ids, style=batch.style, negative_style=null, duration_frames=FRAMES
    )
    without = Batch(batch.x_1, torch.zeros_like(batch.ids), null[None], torch.zeros_like(batch.known))
    with torch.no_grad():
        trained = train_dit.velocity(model, x_t, torch.tensor([0.4]), without)
        sings = model.velocity(x_t, model.modulation(0.4, made.scalars), made.null)
    assert torch.allclose(trained, sings, atol=1e-5)


def test_each_song_of_a_batch_has_its_own_time() -> None:
    model, batch = _tiny(0), _batch(2, 1)
    x_t, t = torch.randn(2, FRAMES, 64), torch.tensor([0.1, 0.8])
    with torch.no_grad():
        together = train_dit.velocity(model, x_t, t, batch)
        second = Batch(batch.x_1[1:], batch.ids[1:], batch.style[1:], batch.known[1:])
        alone = train_dit.velocity(model, x_t[1:], t[1:], second)
    assert torch.allclose(together[1:], alone, atol=1e-5)


def test_a_perfect_velocity_has_no_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = _batch(4, 2)

    def perfect(_: DiT, x_t: Tensor, t: Tensor, batch: Batch) -> Tensor:
        return (batch.x_1 - x_t) / (1 - t[:, None, None])

    monkeypatch.setattr(train_dit, "velocity", perfect)
    assert float(train_dit.loss(_tiny(0), batch, torch.Generator().manual_seed(0))) < 1e-6


def test_a_fresh_model_has_no_velocity() -> None:
    model, batch = train_dit.fresh(0), _batch(1, 1)
    with torch.no_grad():
        assert not train_dit.velocity(model, batch.x_1, torch.tensor([0.5]), batch).any()


def test_the_loss_falls_over_some_steps() -> None:
    model, batch = _tiny(0), _batch(2, 3)
    optimisers = train_dit.optimisers(model)
    found = []
    for _ in range(12):
        loss = train_dit.loss(model, batch, torch.Generator().manual_seed(0))
        for optimiser in optimisers.values():
            optimiser.zero_grad()
        torch.autograd.backward(loss)
        for optimiser in optimisers.values():
            optimiser.step()
        found.append(loss.item())
    assert found[-1] < 0.8 * found[0]


def test_every_weight_is_trained_by_one_optimiser_and_only_matrices_by_muon() -> None:
    model = _tiny(0)
    trained = {
        name: [weight for group in optimiser.param_groups for weight in group["params"]]
        for name, optimiser in train_dit.optimisers(model).items()
    }
    assert sum(map(len, trained.values())) == len(list(model.parameters()))
    assert {id(w) for weights in trained.values() for w in weights} == {id(w) for w in model.parameters()}
    assert all(weight.ndim == 2 for weight in trained["muon"])
    assert any(weight is model.proj_out.weight for weight in trained["adamw"])


@pytest.fixture(scope="module")
def drawn() -> list[Batch]:
    """Batches of songs that have a phone in every frame."""
    rng = np.random.default_rng(0)
    count, frames = len(STYLES), max(train_dit.LENGTHS)
    songs = Songs(torch.ones(count, frames, 2), torch.ones(count, frames, dtype=torch.int64), tuple(STYLES))
    encoder = words.Encoder(
        **{
            name: rng.standard_normal(shape).astype(np.float32)
            for name, shape in {
                "words": (512, 4),
                "words_out": (512, 4),
                "words_bias": (512,),
                "sound_in": (4, words.MEASURES),
                "sound_in_bias": (4,),
                "sound_out": (512, 4),
                "sound_out_bias": (512,),
            }.items()
        }
    )
    return [train_dit.batch_of(songs, encoder, rng) for _ in range(150)]


def test_lyrics_style_and_known_parts_come_in_the_stated_shares(drawn: list[Batch]) -> None:
    null = style_encoder.null_style()
    wordless = [not ids.any() for batch in drawn for ids in batch.ids]
    styleless = [torch.equal(style, null) for batch in drawn for style in batch.style]
    known = [bool(known.any()) for batch in drawn for known in batch.known]
    # Within three standard deviations of 1200 draws.
    assert np.mean(wordless) == pytest.approx(train_dit.NULL, abs=0.03)
    assert np.mean(np.subtract(styleless, wordless, dtype=int)) == pytest.approx(
        train_dit.STYLELESS, abs=0.017
    )
    assert np.mean(known) == pytest.approx(train_dit.KNOWN, abs=0.03)
    assert all(style for words, style in zip(wordless, styleless, strict=True) if words)


def test_what_is_known_of_a_song_is_all_but_one_stretch_of_it(drawn: list[Batch]) -> None:
    for batch in drawn:
        for known in batch.known[batch.known.any(dim=2).any(dim=1)]:
            hidden = ~known.any(dim=1)
            assert torch.equal(known[~hidden], torch.ones_like(known[~hidden]))
            edges = torch.nn.functional.pad(hidden.int(), (1, 1)).diff().abs().sum()
            assert edges == 2
            assert len(known) / 4 - 1 <= hidden.sum() <= len(known) / 2


def test_batches_are_of_the_stated_lengths(drawn: list[Batch]) -> None:
    lengths = [batch.x_1.shape[1] for batch in drawn]
    for length, odds in zip(train_dit.LENGTHS, train_dit.LENGTH_ODDS, strict=True):
        assert lengths.count(length) / len(drawn) == pytest.approx(odds, abs=0.12)
    assert all(batch.ids.shape == batch.x_1.shape[:2] == batch.known.shape[:2] for batch in drawn)


def test_the_rate_rises_stays_and_falls_to_nothing() -> None:
    assert train_dit.rate(0, 0) == pytest.approx(1 / train_dit.WARMUP)
    assert train_dit.rate(0.3, 500) == train_dit.rate(0.6, 1000) == 1
    assert train_dit.rate(1, 2000) == pytest.approx(0.01)
