"""How fast a processor calculates products of matrices: a probe of its speed now, and its limit.

n numbers per side
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import numpy as np
import openvino
import torch
from openvino import opset13 as ops
from torch import Tensor
from torch.nn import functional as F

from diffrhythm import graphs, packed
from diffrhythm.precision import Precision

# Numbers per side of the probe's product: the published way's main operator at 2048 frames.
PROBED = 2048
REPEATS = 5
# Numbers per side of products that stay in the cache, and how many of them follow each other.
CACHED = 512
CACHED_PRODUCTS = 16


def probe() -> float:
    """Return seconds of one large product by torch in float32, the least of several."""
    a, b = torch.ones(PROBED, PROBED), torch.ones(PROBED, PROBED)
    return _least_s(partial(F.linear, a, b))


def limit(precision: Precision) -> float:
    """Return operations per second of products that stay in the cache, the most of several.

    By OpenVINO, in this precision or in fp32, whichever is faster.
    """
    x = F.normalize(torch.randn(CACHED, CACHED, generator=torch.Generator().manual_seed(1)))
    threads = torch.get_num_threads()
    seconds = []
    for each in {"fp32", precision}:
        products = graphs.compiled(cached_products(x, each), precision=each, threads=threads)
        seconds.append(_least_s(partial(graphs.run, products.create_infer_request(), x)))
    return CACHED_PRODUCTS * 2 * CACHED**3 / min(seconds)


def cached_products(weight: Tensor, precision: Precision) -> openvino.Model:
    """Return a graph of products of x [n, n] with the weight [n, n], one behind the other."""
    x = ops.parameter(list(weight.shape), np.float32)
    y = x
    steps, scale = packed.quantise(weight)
    for _ in range(CACHED_PRODUCTS):
        if precision == "int8":
            stored = ops.multiply(graphs.constant(steps), graphs.constant(scale[:, None]))
        else:
            stored = graphs.constant(weight)
        y = ops.matmul(y, stored, False, True)
    return openvino.Model([y], [x], "products")


def _least_s(run: Callable[[], object]) -> float:
    run()
    seconds = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    return min(seconds)
