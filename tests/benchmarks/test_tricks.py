"""The experiments do what their names say, and nothing else to a song."""

import math

import pytest
import torch
from torch import Tensor

from benchmarks import tricks
from diffrhythm import conditioning, grids, solvers
from diffrhythm.conditioning import Conditioning
from diffrhythm.config import ModelConfig
from diffrhythm.sampling import sample
from diffrhythm.transformer import DiT

CFG = 3.0


@pytest.fixture(scope="module")
def model() -> DiT:
    torch.manual_seed(0)
    made = DiT(ModelConfig(dim=64, depth=4, ff_mult=2, conv_layers=1, text_rows=20))
    made.requires_grad_(False).eval()
    return made


@pytest.fixture(scope="module")
def song(model: DiT) -> Conditioning:
    generator = torch.Generator().manual_seed(1)
    styles = torch.randn(2, 512, generator=generator)
    return conditioning.build(
        model,
        text_ids=torch.arange(12) % 5,
        style=styles[0],
        negative_style=styles[1],
        duration_frames=12,
    )


@pytest.fixture(scope="module")
def noise() -> Tensor:
    return torch.randn(1, 12, 64, generator=torch.Generator().manual_seed(2))


def made(
    model: DiT,
    song: Conditioning,
    noise: Tensor,
    trick: tricks.Trick,
    cfg: float = CFG,
    sampler: str = "euler",
) -> tuple[Tensor, float]:
    """Latents in 8 steps, and the passes they took."""
    passes = tricks.Passes(model, song, trick.passes())
    latents = tricks.walk(trick.guide(passes, cfg), noise, grids.uniform(8), tricks.SOLVERS[sampler])
    return latents, passes.count


@pytest.mark.parametrize("sampler", solvers.SOLVERS.keys() & tricks.SOLVERS.keys())
@pytest.mark.parametrize("cfg", [0.0, CFG])
def test_without_a_trick_a_song_is_the_librarys_own(
    model: DiT, song: Conditioning, noise: Tensor, sampler: str, cfg: float
) -> None:
    latents, passes = made(model, song, noise, tricks.Trick(), cfg, sampler)
    assert torch.equal(latents, sample(model, song, noise, steps=8, cfg=cfg, sampler=sampler))
    assert passes == 8 * solvers.SOLVERS[sampler].evaluations * (2 if cfg else 1)


def test_guidance_within_an_interval_costs_null_passes_there_alone(
    model: DiT, song: Conditioning, noise: Tensor
) -> None:
    plain, _ = made(model, song, noise, tricks.Trick())
    unguided, _ = made(model, song, noise, tricks.Trick(), cfg=0.0)
    everywhere, passes = made(model, song, noise, tricks.Trick(tricks.within(0, 1)))
    assert torch.equal(everywhere, plain)
    assert passes == 16
    nowhere, passes = made(model, song, noise, tricks.Trick(tricks.within(0, 0)))
    assert torch.equal(nowhere, unguided)
    assert passes == 8
    # Steps begin at 0, 1/8, …: those at 2/8 and 3/8 lie inside, that at 4/8 outside.
    inside, passes = made(model, song, noise, tricks.Trick(tricks.within(0.25, 0.5)))
    assert passes == 8 + 2
    assert not torch.equal(inside, plain)


@pytest.mark.parametrize(
    ("every", "after", "nulls"),
    [(1, 0.0, 8), (2, 0.0, 4), (3, 0.0, 3), (2, 0.5, 6), (2, 1.0, 8)],
)
def test_a_held_difference_saves_null_passes_behind_its_beginning(
    model: DiT, song: Conditioning, noise: Tensor, every: int, after: float, nulls: int
) -> None:
    plain, _ = made(model, song, noise, tricks.Trick())
    latents, passes = made(model, song, noise, tricks.Trick(tricks.held(every, after)))
    assert passes == 8 + nulls
    if nulls == 8:
        torch.testing.assert_close(latents, plain, rtol=1e-5, atol=1e-5)  # p + d w and p + (p − q) w
    else:
        assert not torch.allclose(latents, plain, rtol=1e-3)


def test_blocks_are_reused_every_other_time_and_only_where_little_changed(
    model: DiT, song: Conditioning, noise: Tensor
) -> None:
    plain, _ = made(model, song, noise, tricks.Trick())
    never, passes = made(model, song, noise, tricks.Trick(passes=lambda: tricks.reusing(0.0)))
    torch.testing.assert_close(never, plain)
    assert passes == 16
    always, passes = made(model, song, noise, tricks.Trick(passes=lambda: tricks.reusing(math.inf)))
    assert passes == 8 + 8 * 2 / 4  # the first and the last of four blocks
    assert not torch.allclose(always, plain, rtol=1e-3)


def test_each_song_begins_with_nothing_to_reuse(model: DiT, song: Conditioning, noise: Tensor) -> None:
    trick = tricks.Trick(tricks.held(2), lambda: tricks.reusing(math.inf))
    first, _ = made(model, song, noise, trick)
    again, _ = made(model, song, noise, trick)
    assert torch.equal(first, again)


def test_adams_bashforth_is_exact_where_the_velocity_grows_with_time() -> None:
    """v = t: x(1) is 1/2 but for what the first step, which is Euler's, leaves out."""
    grid = (0.0, 0.1, 0.4, 1.0)
    x_1 = tricks.walk(lambda t, x: t.expand_as(x), torch.zeros(1, 2, 3), grid, tricks.SOLVERS["ab2"])
    assert torch.allclose(x_1, torch.full_like(x_1, 0.5 - 0.1**2 / 2))


@pytest.mark.parametrize("sampler", ["ab2", "dpm2"])
def test_a_multistep_solver_quarters_its_error_with_half_the_step(sampler: str) -> None:
    def off(steps: int) -> float:
        # Away from the ends, where the time of dpm2 is infinite.
        grid = [0.2 + 0.6 * point for point in grids.uniform(steps)]
        x = tricks.walk(lambda t, x: x, torch.ones(1, 1, 1), grid, tricks.SOLVERS[sampler])
        return abs(float(x) - math.exp(0.6))

    assert off(16) / off(32) == pytest.approx(4, rel=0.2)


def test_a_flow_to_one_song_is_followed_exactly_by_its_estimate() -> None:
    """v = (song - x) / (1 - t): the estimate is the song at every time, and the path is straight."""
    grid = (0.0, 0.1, 0.4, 0.7, 0.9)
    x_t = tricks.walk(
        lambda t, x: (2 - x) / (1 - t), torch.full((1, 2, 3), 5.0), grid, tricks.SOLVERS["dpm2"]
    )
    assert torch.allclose(x_t, torch.full_like(x_t, 0.1 * 5 + 0.9 * 2))


@pytest.mark.parametrize("steps", [6, 7, 10, 12, 16])
def test_a_pruned_grid_is_a_grid_of_so_many_steps(steps: int) -> None:
    grid = tricks.pruned(steps)
    grids.check(grid)
    assert len(grid) == steps + 1
