"""The last step to 16 bits against the published code's: sets wav_int16 and vae_stub.

Where the published code turns NaN into a file of silence, ours refuses.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import golden
import numpy as np
import pytest

from diffrhythm.audio import normalise, to_int16
from diffrhythm.errors import NotFiniteError


def pairs() -> Iterator[Any]:
    for file, ending in (("wav_int16", ".int16"), ("vae_stub", ".out")):
        for place, path in golden.files(f"{file}.npz"):
            with np.load(path) as arrays:
                for name in arrays.files:
                    if name.endswith(".in") and not name.startswith("normalize"):
                        case = name.removesuffix(".in")
                        yield pytest.param(arrays[name], arrays[case + ending], id=f"{place}-{file}-{case}")


@pytest.mark.parametrize(("given", "expected"), list(pairs()))
def test_sixteen_bits_are_the_published_ones_or_refused(given: Any, expected: Any) -> None:
    # A batch of songs [b, 2, n] is one after the other in the published file.
    song = np.concatenate(list(given), axis=-1) if given.ndim == 3 else given
    if np.isfinite(song).all():
        assert np.array_equal(to_int16(normalise(song)), expected)
    else:
        with pytest.raises(NotFiniteError):
            normalise(song)
        assert not expected.any()


@pytest.mark.parametrize(("place", "path"), golden.files("vae_stub.npz"))
def test_reference_sound_is_brought_to_minus_6_dbfs_as_published(place: str, path: Path) -> None:
    with np.load(path) as arrays:
        given, expected = arrays["normalize_-6dBFS.in"], arrays["normalize_-6dBFS.out"]
    assert normalise(given, -6) == pytest.approx(expected, rel=1e-6, abs=1e-9)
