"""The average of a model's weights over its last steps."""

import pytest
import torch
from torch import nn

from training.averaging import Average


def _set(model: nn.Linear, value: float) -> nn.Linear:
    nn.init.constant_(model.weight, value)
    return model


def test_an_average_begins_as_the_model_and_does_not_change_with_it() -> None:
    model = _set(nn.Linear(1, 1, bias=False), 1.0)
    average = Average(model, 0.9)
    _set(model, 5.0)
    assert average.weights["weight"].item() == 1


def test_the_first_steps_are_soon_forgotten() -> None:
    model = _set(nn.Linear(1, 1, bias=False), 100.0)
    average = Average(model, 0.999)
    for _ in range(60):
        average.update(_set(model, 1.0))
    assert average.weights["weight"].item() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("decay", [0.5, 0.9])
def test_a_settled_average_moves_by_the_share_that_its_decay_leaves(decay: float) -> None:
    model = _set(nn.Linear(1, 1, bias=False), 0.0)
    average = Average(model, decay)
    average.load_state_dict({"weight": torch.tensor([[2.0]])})
    average.update(_set(model, 1.0))
    assert average.weights["weight"].item() == pytest.approx(2 * decay + 1 - decay)


def test_an_average_gone_on_with_leaves_what_it_was_given_as_it_is() -> None:
    given = {"weight": torch.tensor([[2.0]])}
    average = Average(nn.Linear(1, 1, bias=False), 0.5)
    average.load_state_dict(given)
    average.update(_set(nn.Linear(1, 1, bias=False), 0.0))
    assert given["weight"].item() == 2
