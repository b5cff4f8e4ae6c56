"""What a training run leaves, so that it can be stopped at any moment and gone on with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch


class Part(Protocol):
    """What has a state: a model, its average, an optimiser."""

    def state_dict(self) -> Any: ...

    def load_state_dict(self, state: Any, /) -> Any: ...


Parts = Mapping[str, Part]

# Between two checkpoints: what a run that is stopped may lose.
EVERY_S = 60.0


def save(path: Path, parts: Parts, config: Mapping[str, object], seconds: float, step: int) -> None:
    """Writes the parts, the model's sizes, and how long and how far the training went; all or nothing."""
    state = {name: part.state_dict() for name, part in parts.items()}
    new = path.with_suffix(".new")
    torch.save({**state, "config": dict(config), "seconds": seconds, "step": step}, new)
    new.replace(path)


def load(path: Path, parts: Parts) -> tuple[float, int]:
    """Gives the parts what was saved of them; the seconds and steps spent so far, 0 and 0 without a file."""
    if not path.exists():
        return 0.0, 0
    state = torch.load(path, weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(state[name])
    return state["seconds"], state["step"]


def log(folder: Path, facts: Mapping[str, float]) -> None:
    """Shows how far the training is, and adds it to folder/losses.jsonl."""
    line = json.dumps(facts)
    print(line, flush=True)
    with (folder / "losses.jsonl").open("a") as file:
        file.write(line + "\n")
