"""Classifier-free guidance: two velocities become one."""

from __future__ import annotations

from torch import Tensor

# Below this the published sampler leaves the null pass out.
LEAST = 1e-5


def is_on(cfg: float) -> bool:
    """Whether guidance of strength `cfg` needs the null pass at all."""
    return cfg >= LEAST


def combine(p: Tensor, q: Tensor, cfg: float) -> Tensor:
    """p + (p - q) * cfg: the conditional velocity pushed away from the null one.

    p, q: [b, t, c], conditional and null. cfg: the published strength w (the usual scale is w + 1).
    Source: Ho and Salimans, arXiv 2207.12598.
    """
    return p + (p - q) * cfg
