"""The published models by name: their sizes, where their files are published, where their bundles lie here.

The weights are on the hub. Which commit of a hub repository is the right one could not be established where
this was written, so none is pinned here: the first pull takes the newest, records its commit and the hub's
own SHA-256 in bundle.json, and every later pull compares with those. Phone table and negative style come from
the source repository and are pinned here, by commit, size and SHA-256.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from diffrhythm.config import ModelConfig

# The newest commit, of 2025-11-27; both files have been the same since the first, of 2025-03-05.
SOURCE_REPOSITORY = "ASLP-lab/DiffRhythm"
SOURCE_COMMIT = "28ad63c0f096fe2ee258bcabbcf081d5d9366afd"


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a hub repository."""

    repository: str
    path: str


@dataclass(frozen=True, slots=True)
class PinnedFile:
    """A file of the source repository, of which every byte is known."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Published:
    """A published model. parameters: of its transformer. durations, frames: as bundle.json states them."""

    name: str
    config: ModelConfig
    parameters: int
    durations: list[float] | dict[str, float]
    frames: str
    transformer: HubFile
    vae: HubFile
    phonemes: PinnedFile
    negative_style: PinnedFile
    licence: str

    @property
    def bundle_bytes(self) -> int:
        """About what its bundle takes: float32 weights, and an autoencoder of 0.6 GB."""
        return 4 * self.parameters + _VAE_BYTES


# Float32 numbers of the published sizes, encoder and decoder.
_VAE_BYTES = 4 * 156_000_000
_VAE = HubFile("ASLP-lab/DiffRhythm-vae", "vae_model.pt")
_PHONEMES = PinnedFile(
    "g2p/g2p/vocab.json", 5802, "0f5c44e05f79df8ae4fd77d7772950436a8bacc83d134fdf0ae3c72412b5676a"
)
_NEGATIVE_STYLE = PinnedFile(
    "infer/example/vocal.npy", 2176, "6cb7d74eb7a8eda12acb8247b21d373928301db8a8cb0db480d341799fed3ce5"
)
_LICENCE = "Apache-2.0 (transformer); the autoencoder is derived from Stable Audio Open, see its repository"

BASE = Published(
    name="diffrhythm-1.2",
    config=ModelConfig.base(),
    parameters=1_109_315_648,
    durations=[95.0],
    frames="all",
    transformer=HubFile("ASLP-lab/DiffRhythm-1_2", "cfm_model.pt"),
    vae=_VAE,
    phonemes=_PHONEMES,
    negative_style=_NEGATIVE_STYLE,
    licence=_LICENCE,
)
FULL = Published(
    name="diffrhythm-1.2-full",
    config=ModelConfig.full(),
    parameters=1_109_709_888,
    durations={"min": 96.0, "max": 285.0},
    frames="duration",
    transformer=HubFile("ASLP-lab/DiffRhythm-1_2-full", "cfm_model.pt"),
    vae=_VAE,
    phonemes=_PHONEMES,
    negative_style=_NEGATIVE_STYLE,
    licence=_LICENCE,
)
MODELS = {model.name: model for model in (BASE, FULL)}


def models_folder() -> Path:
    """Where bundles with a name lie: $DIFFRHYTHM_MODELS, else diffrhythm/models in the user's data folder."""
    own = os.environ.get("DIFFRHYTHM_MODELS", "")
    if own:
        return Path(own).expanduser().absolute()
    data = Path(os.environ.get("XDG_DATA_HOME", ""))
    # The XDG rule: a relative path counts as unset.
    return (data if data.is_absolute() else Path.home() / ".local" / "share") / "diffrhythm" / "models"
