"""The sizes of a model, as a bundle states them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

from diffrhythm.errors import BundleError

# The published code ignores its configured number of heads and always makes 32.
HEADS = 32
# Groups of the convolution over the input, as published.
CONV_GROUPS = 16
# The 2048-frame model has no embedding of the song's duration.
FRAMES_WITHOUT_DURATION = 2048
# Far above any real model; keeps a damaged file from asking for all the memory there is.
LARGEST = {
    "dim": 16384,
    "depth": 256,
    "ff_mult": 16,
    "text_dim": 512,
    "conv_layers": 64,
    "text_rows": 65536,
    "max_frames": 65536,
    "latent_channels": 1024,
    "style_dim": 16384,
}


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Every size of the transformer. The defaults are those of the published 95-second model.

    dim: model width. depth: blocks. ff_mult: inner width of a block's MLP in widths. text_dim: width of
    the text embedding. conv_layers: convolution blocks over the text. text_rows: rows of the phone table,
    filler included. max_frames: longest song in latent frames. latent_channels, style_dim: widths of a
    latent frame and of a style.

    Raises BundleError for sizes that the model cannot have.
    """

    dim: int = 2048
    depth: int = 16
    ff_mult: int = 4
    text_dim: int = 512
    conv_layers: int = 4
    text_rows: int = 364
    max_frames: int = 2048
    latent_channels: int = 64
    style_dim: int = 512

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            _check_size(name, value)
        if self.dim % (2 * HEADS):
            raise _unusable("dim", self.dim, f"a multiple of {2 * HEADS} ({HEADS} heads of even size)")
        if self.text_dim != 512:
            raise _unusable("text_dim", self.text_dim, "512, as the published text fusion takes")

    @classmethod
    def base(cls) -> ModelConfig:
        """The published model for songs of 95 s (2048 frames)."""
        return cls()

    @classmethod
    def full(cls) -> ModelConfig:
        """The published model for songs of 96 to 285 s (up to 6144 frames)."""
        return cls(max_frames=6144)

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> ModelConfig:
        """The configuration that `values` state; every field must be there and no other.

        Raises BundleError naming the missing, unknown or impossible fields.
        """
        names = {field.name for field in fields(cls)}
        missing, unknown = sorted(names - values.keys()), sorted(values.keys() - names)
        if missing or unknown:
            raise BundleError(
                f"model configuration: missing {missing or 'nothing'}, unknown {unknown or 'nothing'}: "
                "bundle.json was written for another version; pull or import the model again"
            )
        return cls(**values)  # type: ignore[arg-type]  # __post_init__ checks types and ranges

    def to_dict(self) -> dict[str, int]:
        """The fields as plain numbers, for bundle.json."""
        return asdict(self)

    @property
    def block_weights(self) -> int:
        """Numbers in the matrices of all blocks."""
        return self.depth * (4 + 3 * self.ff_mult) * self.dim**2

    @property
    def head_dim(self) -> int:
        """Channels of one attention head."""
        return self.dim // HEADS

    @property
    def embeds_duration(self) -> bool:
        """Whether the model is told how long the song is."""
        return self.max_frames > FRAMES_WITHOUT_DURATION

    @property
    def fusion_layers(self) -> int:
        """Blocks, counted from the first, that the text is added behind."""
        return self.depth // 2


def _check_size(name: str, value: object) -> None:
    if type(value) is not int or not 1 <= value <= LARGEST[name]:
        raise _unusable(name, value, f"a whole number from 1 to {LARGEST[name]}")


def _unusable(name: str, value: object, wanted: str) -> BundleError:
    return BundleError(
        f"model configuration: {name} is {value!r} and has to be {wanted}: "
        "bundle.json is damaged; pull or import the model again"
    )
