import pytest
import torch

from diffrhythm import guidance

P = torch.tensor([[[1.0, 2.0]]])
Q = torch.tensor([[[0.5, 4.0]]])


def test_the_conditional_velocity_is_pushed_away_from_the_null_one() -> None:
    assert torch.equal(guidance.combine(P, Q, 4.0), torch.tensor([[[3.0, -6.0]]]))


def test_two_equal_velocities_stay_as_they_are() -> None:
    assert torch.equal(guidance.combine(P, P, 7.0), P)


@pytest.mark.parametrize(
    ("cfg", "on"), [(4.0, True), (1e-5, True), (9.9e-6, False), (0.0, False), (-1.0, False)]
)
def test_guidance_too_weak_to_matter_is_off(cfg: float, on: bool) -> None:
    assert guidance.is_on(cfg) is on
