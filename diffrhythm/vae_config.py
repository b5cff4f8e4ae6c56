"""The sizes of the autoencoder and of its sound, readable without torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

from diffrhythm.errors import BundleError

SAMPLE_RATE = 44100
AUDIO_CHANNELS = 2
LATENT_CHANNELS = 64
# Samples of one latent frame.
HOP = 2048

# Far above any real model; keeps a damaged file from asking for all the memory there is.
_LARGEST = 4096


@dataclass(frozen=True, slots=True)
class VaeConfig:
    """Sizes of an Oobleck autoencoder; the defaults are the published ones (78 M in the decoder).

    channels: width next to the samples. multiples: of that width, behind each stride, towards the frames.
    Raises BundleError for sizes that it cannot have.
    """

    channels: int = 128
    multiples: tuple[int, ...] = (1, 2, 4, 8, 16)
    strides: tuple[int, ...] = (2, 4, 4, 8, 8)

    def __post_init__(self) -> None:
        numbers = (self.channels, *self.multiples, *self.strides)
        if not all(type(number) is int and 1 <= number <= _LARGEST for number in numbers):
            raise _unusable(f"sizes {numbers} have to be whole numbers from 1 to {_LARGEST}")
        if len(self.multiples) != len(self.strides) or math.prod(self.strides) != HOP:
            raise _unusable(f"strides {self.strides} have to multiply to {HOP}, one per channel multiple")

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> VaeConfig:
        """The configuration that `values` state, lists as JSON has them; every field and no other.

        Raises BundleError.
        """
        names = {field.name for field in fields(cls)}
        if values.keys() != names:
            raise _unusable(f"fields {sorted(values)} have to be {sorted(names)}")
        return cls(**{name: tuple(v) if isinstance(v, list) else v for name, v in values.items()})  # type: ignore[arg-type]

    def to_dict(self) -> dict[str, object]:
        """The fields as JSON has them, for bundle.json."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels at each resolution, from samples to frames: one more than there are strides."""
        return tuple(self.channels * multiple for multiple in (1, *self.multiples))


def _unusable(why: str) -> BundleError:
    return BundleError(f"VAE configuration: {why}: bundle.json is damaged; pull or import the model again")
