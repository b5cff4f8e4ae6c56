"""Numbers drawn from a name: the same bits on every machine.

numpy's normal generators may differ in the last bit between versions and C libraries; raw PCG64 words do not.
"""

from __future__ import annotations

import math
import zlib

import numpy as np
from numpy.typing import NDArray

# Standard deviation of the sum of four independent uniform integers of 0 … 65535.
_QUARTERS_STD = math.sqrt((65536**2 - 1) / 3)


def draw(name: str, shape: tuple[int, ...], seed: int = 0) -> NDArray[np.float32]:
    """Nearly normal numbers, mean 0, deviation 1, within ±3.47: float32 of this shape, in C order.

    Each is the centred sum of the four 16-bit quarters of one PCG64 word; integers until one last product.
    """
    generator = np.random.PCG64(zlib.crc32(name.encode()) ^ seed)
    words = generator.random_raw(math.prod(shape)).astype("<u8")
    sums = words.view("<u2").reshape(-1, 4).sum(axis=1, dtype=np.int64) - 2 * 65535
    numbers: NDArray[np.float32] = (sums / _QUARTERS_STD).astype(np.float32).reshape(shape)
    return numbers
