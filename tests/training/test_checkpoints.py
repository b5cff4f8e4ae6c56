"""A training run that was stopped and goes on as if it had not been."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from training import checkpoints
from training.averaging import Average


class Run:
    """A small model in training, its average and its optimiser."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = nn.Linear(3, 2)
        # What an average of so few steps remembers does not depend on how many there were.
        self.average = Average(self.model, 0.1)
        self.optimiser = torch.optim.AdamW(self.model.parameters(), 0.1)

    @property
    def parts(self) -> checkpoints.Parts:
        return {"model": self.model, "ema": self.average, "optimiser": self.optimiser}

    def step(self, number: int) -> None:
        loss = self.model(torch.ones(1, 3) * number).square().sum()
        self.optimiser.zero_grad()
        torch.autograd.backward(loss)
        self.optimiser.step()
        self.average.update(self.model)

    @property
    def weights(self) -> list[Tensor]:
        return [*self.model.parameters(), *self.average.weights.values()]


def test_a_run_without_a_checkpoint_begins_at_nothing(tmp_path: Path) -> None:
    run, untouched = Run(), Run()
    assert checkpoints.load(tmp_path / "run.pt", run.parts) == (0.0, 0)
    assert all(torch.equal(a, b) for a, b in zip(run.weights, untouched.weights, strict=True))


def test_a_resumed_run_comes_to_the_same_weights_as_one_that_was_never_stopped(tmp_path: Path) -> None:
    whole, stopped, resumed = Run(), Run(), Run()
    for number in range(6):
        whole.step(number)
    for number in range(3):
        stopped.step(number)
    checkpoints.save(tmp_path / "run.pt", stopped.parts, {"dim": 3}, 12.5, 3)
    spent, step = checkpoints.load(tmp_path / "run.pt", resumed.parts)
    assert (spent, step) == (12.5, 3)
    for number in range(step, 6):
        resumed.step(number)
    assert all(torch.equal(a, b) for a, b in zip(whole.weights, resumed.weights, strict=True))


def test_a_checkpoint_holds_the_averaged_weights_and_the_sizes(tmp_path: Path) -> None:
    run = Run()
    run.step(1)
    checkpoints.save(tmp_path / "run.pt", run.parts, {"dim": 3}, 1.0, 1)
    state = torch.load(tmp_path / "run.pt", weights_only=True)
    assert state["config"] == {"dim": 3}
    assert torch.equal(state["ema"]["weight"], run.average.weights["weight"])


def test_a_checkpoint_that_cannot_be_written_leaves_the_last_one(tmp_path: Path) -> None:
    run = Run()
    checkpoints.save(tmp_path / "run.pt", run.parts, {}, 1.0, 1)
    before = (tmp_path / "run.pt").read_bytes()
    with pytest.raises(AttributeError):
        # A function made in a function cannot be stored.
        checkpoints.save(tmp_path / "run.pt", run.parts, {"odd": lambda: 0}, 2.0, 2)
    assert (tmp_path / "run.pt").read_bytes() == before
    assert checkpoints.load(tmp_path / "run.pt", Run().parts) == (1.0, 1)
