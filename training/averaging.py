"""The exponential moving average of a model's weights, which is what is shipped."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Average:
    """Weights averaged over about 1 / (1 − decay) steps; fewer at the beginning."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self.weights = {name: value.detach().clone() for name, value in model.state_dict().items()}

    def update(self, model: nn.Module) -> None:
        """Takes the model's weights in, after a step."""
        self.steps += 1
        # The first steps' weights are not worth remembering.
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        with torch.no_grad():
            for name, value in model.state_dict().items():
                self.weights[name].lerp_(value, 1 - decay)

    def state_dict(self) -> dict[str, Tensor]:
        """The averaged weights under their model's names."""
        return self.weights

    def load_state_dict(self, weights: dict[str, Tensor]) -> None:
        """Goes on from these. They count as settled."""
        self.weights = {name: value.clone() for name, value in weights.items()}
        self.steps = 1_000_000
