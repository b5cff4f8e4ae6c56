"""The last step to 16 bits against the published code's: sets wav_int16 and vae_stub.

Where the published code turns NaN into a file of silence, ours refuses.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffrhythm.audio import normalise, to_int16
from diffrhythm.errors import NotFiniteError

REPOSITORY = Path(__file__).parents[2]
FOLDERS = [
    folder
    for folder in (
        REPOSITORY / "tests" / "golden",
        REPOSITORY.parent / "shared" / "golden",
        Path(os.environ.get("DIFFRHYTHM_GOLDEN", "/nonexistent")),
    )
    if folder.is_dir()
]


def pairs() -> Iterator[Any]:
    for folder in FOLDERS:
        for file, ending in (("wav_int16", ".int16"), ("vae_stub", ".out")):
            if not (folder / f"{file}.npz").is_file():
                continue
            with np.load(folder / f"{file}.npz") as golden:
                for name in golden.files:
                    if name.endswith(".in") and not name.startswith("normalize"):
                        case = name.removesuffix(".in")
                        yield pytest.param(
                            golden[name], golden[case + ending], id=f"{folder.name}-{file}-{case}"
                        )


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


@pytest.mark.parametrize("folder", [f for f in FOLDERS if (f / "vae_stub.npz").is_file()], ids=str)
def test_reference_sound_is_brought_to_minus_6_dbfs_as_published(folder: Path) -> None:
    with np.load(folder / "vae_stub.npz") as golden:
        given, expected = golden["normalize_-6dBFS.in"], golden["normalize_-6dBFS.out"]
    assert normalise(given, -6) == pytest.approx(expected, rel=1e-6, abs=1e-9)
