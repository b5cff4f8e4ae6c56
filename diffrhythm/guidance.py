"""Classifier-free guidance: two velocities become one.

p conditional velocity · q null velocity
"""

from __future__ import annotations

from torch import Tensor

# Below this the published sampler leaves the null pass out.
LEAST = 1e-5
# From this t on, what the null pass is worth changes so slowly that it serves two steps (docs/quality.md).
HOLD_FROM = 0.4


def is_on(cfg: float) -> bool:
    """Whether guidance of strength `cfg` needs the null pass at all."""
    return cfg >= LEAST


def holds(t: float) -> bool:
    """Whether a step at time t may take p - q from the step before it, if that one calculated it."""
    return t >= HOLD_FROM


def along(p: Tensor, difference: Tensor, cfg: float) -> Tensor:
    """p + difference * cfg: the conditional velocity pushed away from the null one q, difference = p - q.

    p, difference: [b, t, c]. cfg: the published strength w (the usual scale is w + 1).
    Source: Ho and Salimans, arXiv 2207.12598.
    """
    return p + difference * cfg
