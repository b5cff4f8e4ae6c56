"""A model bundle: a folder of bundle.json, memory-mapped weights, phone inventory and negative style.

bundle.json (schema 1) says which model it is, its sizes, the durations it can make, where it comes from, and
the size and SHA-256 of every file that the model is made of. Nothing is loaded before it is asked for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from tokenize import TokenError
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from diffrhythm import words
from diffrhythm.config import ModelConfig
from diffrhythm.digest import Report, sha256, silent
from diffrhythm.errors import BundleError, RequestError
from diffrhythm.phonemes import Inventory
from diffrhythm.published import MODELS, models_folder
from diffrhythm.vae_config import HOP, SAMPLE_RATE, VaeConfig

if TYPE_CHECKING:
    from torch import Tensor

    from diffrhythm.torchscript import ScriptedVae
    from diffrhythm.transformer import DiT
    from diffrhythm.vae import Vae

ABOUT = "bundle.json"
TRANSFORMER = "dit.safetensors"
VAE = "vae.safetensors"
# In its place: the published TorchScript, where its weights could not be made ours.
VAE_SCRIPT = "vae.pt"
PHONEMES = "phonemes.json"
NEGATIVE_STYLE = "negative_style.npy"
FILES = (TRANSFORMER, VAE, PHONEMES, NEGATIVE_STYLE)
# Of a bundle whose style encoder is "words".
STYLE = "style.safetensors"
# Trained by training/, and part of this package.
DEMO = Path(__file__).parent / "demo"

_MAX_ABOUT_BYTES = 2**20

Seconds = Annotated[float, Field(gt=0, le=3600)]


class _Part(BaseModel):
    """JSON of which every field is known, of its type, and final."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Range(_Part):
    """Any duration from min to max, in seconds."""

    min: Seconds
    max: Seconds

    @model_validator(mode="after")
    def _in_order(self) -> Range:
        if self.min > self.max:
            raise ValueError(f"min {self.min:g} is above max {self.max:g}")
        return self


class FileEntry(_Part):
    """What a file of the bundle has to be."""

    bytes: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Origin(_Part):
    """A published file that the bundle was made of. commit: of its repository; None: given by hand."""

    file: str
    source: str
    commit: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None
    bytes: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$")]


class About(_Part):
    """bundle.json. frames: "all" when every song fills the model's frames, "duration" when it has its own.

    syllable_frames: from one sung vowel to the next; None: one frame a phone, as published.
    """

    format: Literal[1] = Field(alias="schema")
    kind: Literal["diffrhythm"]
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,63}$")]
    demo: bool
    licence: str
    source: str
    versions: dict[str, str]
    transformer: dict[str, int]
    vae: dict[str, int | list[int]]
    style_encoder: Literal["words", "muq-mulan"]
    durations: Range | Annotated[list[Seconds], Field(min_length=1)]
    frames: Literal["all", "duration"]
    syllable_frames: Annotated[int, Field(ge=1, le=64)] | None = None
    origins: list[Origin] = Field(default_factory=list)
    files: dict[FileName, FileEntry]

    @model_validator(mode="after")
    def _whole(self) -> About:
        wanted = {VAE_SCRIPT if name == VAE and VAE_SCRIPT in self.files else name for name in FILES}
        if self.style_encoder == "words":
            wanted.add(STYLE)
        missing = sorted(wanted - self.files.keys())
        if missing:
            raise ValueError(f"no entry for {', '.join(missing)}")
        return self


@dataclass(frozen=True)
class Bundle:
    """A bundle whose description is sound and whose files have the sizes that it states.

    hash: SHA-256 of bundle.json, and so, through the sums it lists, of the whole model.
    """

    folder: Path
    about: About = field(repr=False)
    config: ModelConfig = field(repr=False)
    vae_config: VaeConfig = field(repr=False)
    hash: str

    @property
    def name(self) -> str:
        return self.about.name

    @property
    def demo(self) -> bool:
        return self.about.demo

    @property
    def longest(self) -> float:
        """Seconds of the longest song that the model makes."""
        durations = self.about.durations
        return durations.max if isinstance(durations, Range) else max(durations)

    def fitting_duration(self, seconds: float) -> float:
        """The shortest duration that the model makes and that holds this many seconds, else its longest."""
        durations = self.about.durations
        if isinstance(durations, Range):
            return min(max(seconds, durations.min), durations.max)
        return min((choice for choice in durations if choice >= seconds), default=self.longest)

    def check_duration(self, seconds: float, key: str = "duration") -> None:
        """Raises RequestError, naming the key that asks for it, for a duration that the model cannot make at
        once.
        """
        durations = self.about.durations
        if isinstance(durations, Range):
            fits, wanted = (
                durations.min <= seconds <= durations.max,
                f"{durations.min:g} to {durations.max:g}",
            )
        else:
            fits, wanted = seconds in durations, " or ".join(f"{choice:g}" for choice in sorted(durations))
        if not fits and seconds > self.longest and key == "duration":
            raise RequestError(
                f"{self.name} cannot make {seconds:g} s at once: duration: choose {wanted}, another model, "
                f"or `window: {self.longest:g}` to make it in overlapping windows"
            )
        if not fits:
            raise RequestError(
                f"{self.name} cannot make {seconds:g} s: {key}: choose {wanted}, or another model"
            )

    def duration_frames(self, seconds: float, key: str = "duration") -> int:
        """Latent frames of a song of this many seconds: enough to hold them, or all that the model has.

        Raises RequestError as check_duration does.
        """
        self.check_duration(seconds, key)
        return self.config.max_frames if self.about.frames == "all" else frames_of(seconds)

    @cached_property
    def inventory(self) -> Inventory:
        """The phones that the model knows, and their ids."""
        return Inventory.read(self.folder / PHONEMES)

    @cached_property
    def negative_style(self) -> NDArray[np.float32]:
        """[512] float32: the style of the null pass."""
        path = self.folder / NEGATIVE_STYLE
        try:
            style = np.load(path, allow_pickle=False).reshape(-1)
        except (ValueError, OSError, EOFError, SyntaxError, TokenError) as error:
            raise BundleError(f"cannot read ({error}): {path}; get the bundle again") from error
        if (
            style.shape != (self.config.style_dim,)
            or style.dtype != np.float32
            or not np.isfinite(style).all()
        ):
            raise BundleError(f"not {self.config.style_dim} finite float32: {path}; get the bundle again")
        return style  # type: ignore[no-any-return]

    @cached_property
    def words(self) -> words.Encoder:
        """What makes styles of texts and sounds where the bundle's encoder is "words". Raises BundleError."""
        return words.read(self.folder / STYLE)

    def open_transformer(self) -> DiT:
        """The transformer, its file mapped and read as it is used.

        Weights of the blocks stay in the type that they are stored in (compiled.py takes any); for use by
        torch, call its `float()`. All others are float32. A packed file (packed.py) is read and unpacked
        instead.
        """
        import torch

        from diffrhythm import transformer

        with torch.device("meta"):
            model = transformer.DiT(self.config)
        transformer.load_weights(model, self._tensors(TRANSFORMER))
        for name, weight in model.named_parameters():
            if not name.startswith(transformer.COMPILED):
                weight.data = weight.data.float()
        return model

    def open_vae(self) -> Vae | ScriptedVae:
        """The autoencoder in float32, its file mapped and read as it is used; a TorchScript is loaded.

        A packed file (packed.py) is read and unpacked instead.
        """
        from diffrhythm import torchscript, vae

        if VAE_SCRIPT in self.about.files:
            return torchscript.load(self.folder / VAE_SCRIPT)
        autoencoder = vae.Vae(self.vae_config)
        vae.load_weights(autoencoder, self._tensors(VAE))
        return autoencoder

    def _tensors(self, name: str) -> dict[str, Tensor]:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        from diffrhythm import packed

        path = self.folder / name
        try:
            tensors = load_file(path)
        except (SafetensorError, OSError) as error:
            raise BundleError(f"cannot read ({error}): {path}; get the bundle again") from error
        return packed.unpack(tensors, path)


def frames_of(seconds: float) -> int:
    """Latent frames that hold so many seconds."""
    return math.ceil(round(seconds * SAMPLE_RATE) / HOP)


def load(name_or_path: str | Path) -> Bundle:
    """The bundle of this name ("demo", of this package; a published model, once pulled) or in this folder.

    Raises BundleError: no such bundle, a description that is not sound, a file missing or of another size.
    """
    name = str(name_or_path)
    if name == "demo":
        return read(DEMO)
    if name in MODELS:
        return read(installed(name))
    return read(Path(name_or_path))


def installed(name: str) -> Path:
    """Folder of the published model of this name. Raises BundleError naming the command that gets it."""
    folder = models_folder() / name
    if not (folder / ABOUT).is_file():
        raise BundleError(f"no model {name}: {folder}; get it with: runner models pull {name}")
    return folder


def read(folder: Path) -> Bundle:
    """The bundle in this folder."""
    about = describe(folder)
    _check_sizes(folder, about)
    return Bundle(
        folder=folder,
        about=about,
        config=ModelConfig.from_dict(about.transformer),
        vae_config=VaeConfig.from_dict(about.vae),
        hash=sha256(folder / ABOUT),
    )


def describe(folder: Path) -> About:
    """What the bundle in this folder says of itself, be its other files there or not. Raises BundleError."""
    path = folder / ABOUT
    if not path.is_file():
        names = ", ".join(("demo", *MODELS))
        raise BundleError(f"no model bundle: {folder}; give the folder of a {ABOUT}, or one of {names}")
    _check_inside(path)
    if path.stat().st_size > _MAX_ABOUT_BYTES:
        raise BundleError(f"{path.stat().st_size} bytes are no description: {path}; get the bundle again")
    try:
        return About.model_validate_json(path.read_bytes())
    except OSError as error:
        raise BundleError(f"cannot read ({error.strerror}): {path}; make it readable") from error
    except ValidationError as error:
        raise BundleError(f"{_first_fault(error)}: {path}; get the bundle again") from error


def verify(bundle: Bundle, report: Report = silent) -> None:
    """Reads every file. Raises BundleError naming those whose SHA-256 is another than it says."""
    changed = [
        name
        for name, entry in bundle.about.files.items()
        if sha256(bundle.folder / name, report) != entry.sha256
    ]
    if changed:
        raise BundleError(
            f"changed since it was made: {', '.join(changed)} in {bundle.folder}; get the bundle again"
        )


def _check_sizes(folder: Path, about: About) -> None:
    for name, entry in about.files.items():
        path = folder / name
        if not path.is_file():
            raise BundleError(f"missing file of the model: {path}; get the bundle again")
        _check_inside(path)
        if path.stat().st_size != entry.bytes:
            raise BundleError(
                f"{path.stat().st_size} bytes where {entry.bytes} belong: {path}; get the bundle again"
            )


def _check_inside(path: Path) -> None:
    """Raises BundleError for a link that leads out of its bundle: others' bundles name no files of ours.

    The demo is ours, and some installers make packages of links.
    """
    if path.parent != DEMO and not path.resolve().is_relative_to(path.parent.resolve()):
        raise BundleError(f"a link out of the bundle: {path}; put the file itself there")


def _first_fault(error: ValidationError) -> str:
    """One line of a validation error: where in the JSON, and what."""
    first = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, first['loc'])) or 'the whole'}: {first['msg']}"
