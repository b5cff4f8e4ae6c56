"""MuQ-MuLan: a style text, or ten seconds of sound → what the published models hear as style.

The published encoder in the classes of the `muq` package (the extra "mulan"), from five published files, fp32
on the CPU. It lives no longer than one call. Nothing here reaches for the network: the files lie in the
bundle, or in the hub's cache on this machine.

The weights cannot be had where this was written, so no embedding was ever compared with a published one; the
path from files to embedding is tested with a small encoder of random weights.
"""

from __future__ import annotations

import gc
import hashlib
import json
import pickle  # for the name of its error alone  # nosec B403
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from diffrhythm.audio import Audio
from diffrhythm.bundle import Bundle
from diffrhythm.errors import BundleError, StyleError
from diffrhythm.published import HubFile

if TYPE_CHECKING:
    from torch import Tensor, nn

CONFIG = "mulan.json"
WEIGHTS = "mulan.bin"
AUDIO_CONFIG = "muq.json"
TEXT_CONFIG = "roberta.json"
TOKENIZER = "roberta-tokenizer.json"

# By their names in a bundle, where they lie as they are published. The weights (2.6 GB) are the whole
# encoder's: of the two models that it was built on only the sizes and the tokenizer are needed.
FILES: dict[str, HubFile] = {
    CONFIG: HubFile("OpenMuQ/MuQ-MuLan-large", "config.json"),
    WEIGHTS: HubFile("OpenMuQ/MuQ-MuLan-large", "pytorch_model.bin"),
    AUDIO_CONFIG: HubFile("OpenMuQ/MuQ-large-msd-iter", "config.json"),
    TEXT_CONFIG: HubFile("FacebookAI/xlm-roberta-base", "config.json"),
    TOKENIZER: HubFile("FacebookAI/xlm-roberta-base", "tokenizer.json"),
}
# The commits that other public projects pin. MuQ-MuLan's has no safetensors: those were taken back, as their
# names did not fit.
COMMITS = {
    "OpenMuQ/MuQ-MuLan-large": "2e01c796b71dca71b45251384c04cd7b237c9020",
    "OpenMuQ/MuQ-large-msd-iter": "0562a57814f6f8bbd9fdea0a25921a2fce1a841a",
    "FacebookAI/xlm-roberta-base": "e73636d4f797dec63c3081bb6ed5c7b0bb3f2089",
}
LICENCE = "CC-BY-NC-4.0 (MuQ-MuLan's weights), MIT (XLM-RoBERTa)"

STYLE_DIM = 512

# XLM-RoBERTa's tokenizer has 9 MB; its weights are not among these.
_MAX_JSON_BYTES = 64 * 2**20
# Positions that RoBERTa leaves out: it counts from the padding's id, 1, on.
_UNUSED_POSITIONS = 2
# Modules whose functions fill new weights; transformers puts its own in the place of torch's.
_FILLERS = ("torch.nn.init", "transformers.initialization")

Paths = Mapping[str, Path]


def embed_text(text: str, paths: Paths) -> NDArray[np.float32]:
    """float32 [512], of unit length. Raises StyleError as check does, BundleError for damaged files."""
    check_text(text, paths)
    return _embedding(lambda encoder: encoder.get_text_latents(raw_texts=[text]), paths)


def embed_clip(clip: Audio, paths: Paths) -> NDArray[np.float32]:
    """float32 [512], of unit length, of ten seconds at 24 kHz: [1, 240000]. Raises BundleError."""
    import torch

    return _embedding(lambda encoder: encoder.get_audio_latents(torch.from_numpy(clip)), paths)


def check_text(text: str, paths: Paths) -> None:
    """Raises StyleError for a text of more tokens than the encoder has places, without loading it."""
    most = _json(paths[TEXT_CONFIG]).get("max_position_embeddings", 0) - _UNUSED_POSITIONS
    tokens = len(_tokenizer(paths)(text)["input_ids"])
    if tokens > most:
        raise StyleError(f"style text of {tokens} tokens: style: at most {most} fit; shorten it")


def locate(bundle: Bundle) -> dict[str, Path]:
    """Where the files are on this machine, by their names in a bundle: there, else in the hub's cache.

    Raises BundleError when one is in neither.
    """
    if _in_bundle(bundle):
        return {name: bundle.folder / name for name in FILES}
    from huggingface_hub import try_to_load_from_cache

    paths = {}
    for name, file in FILES.items():
        found = try_to_load_from_cache(file.repository, file.path, revision=COMMITS[file.repository])
        if not isinstance(found, str):
            raise BundleError(
                f"no {file.path} of the style encoder {file.repository}: {bundle.folder} or the hub's cache; "
                f"get it with: runner models pull {bundle.name}"
            )
        paths[name] = Path(found)
    return paths


def identity(bundle: Bundle) -> str:
    """A hash that is another for every other encoder, known without reading a file."""
    known = (
        [bundle.about.files[name].sha256 for name in FILES]
        if _in_bundle(bundle)
        else [f"{file.repository}@{COMMITS[file.repository]}/{file.path}" for file in FILES.values()]
    )
    return hashlib.sha256("\n".join(known).encode()).hexdigest()


def _in_bundle(bundle: Bundle) -> bool:
    return bundle.about.files.keys() >= FILES.keys()


def _embedding(ask: Callable[[Any], Tensor], paths: Paths) -> NDArray[np.float32]:
    """The one row of what the encoder answers, which muq has made of unit length."""
    found = _answer(ask, paths)
    # Modules and hooks refer to each other: left to itself the collector may come after the transformer.
    gc.collect()
    if found.shape != (1, STYLE_DIM):
        raise _damaged(paths[CONFIG], f"an encoder of {found.shape[-1]} numbers, not {STYLE_DIM}")
    # NaN compares false, so this refuses it too.
    if not abs(float(np.linalg.norm(found)) - 1) < 1e-3:
        raise _damaged(paths[WEIGHTS], "weights that make no style")
    style: NDArray[np.float32] = found[0]
    return style


def _answer(ask: Callable[[Any], Tensor], paths: Paths) -> NDArray[np.float32]:
    """What muq's MuLanModel answers. The encoder lives no longer than this call."""
    import torch

    with torch.inference_mode():
        latents: NDArray[np.float32] = ask(_load(paths)["mulan"]).numpy()
    return latents


def _load(paths: Paths) -> nn.ModuleDict:
    """The encoder under the key that its published weights begin with, in float32, its file mapped."""
    encoder = _build(paths)
    try:
        # assign keeps the mapped file's memory in place of a copy.
        encoder.load_state_dict(_weights(paths[WEIGHTS]), strict=True, assign=True)
    except RuntimeError as error:
        raise _damaged(paths[WEIGHTS], f"not this encoder's weights ({_line(error)})") from error
    return encoder.float().eval()


def _build(paths: Paths) -> nn.ModuleDict:
    """The encoder with its weights not yet filled in.

    muq's own constructors would load the weights of both base models first, 2.4 GB that the encoder's own
    then replace; so the two places where they do are overridden (of muq 0.1.0, which the extra pins).
    """
    _check_installed(paths)
    from muq import MuQ, MuQConfig
    from muq.muq_mulan.models.audio import AudioSpectrogramTransformerPretrained
    from muq.muq_mulan.models.mulan import MuLanModel
    from muq.muq_mulan.models.text import TextTransformerPretrained
    from torch import nn
    from transformers import XLMRobertaConfig, XLMRobertaModel

    config, audio, text = (_json(paths[name]) for name in (CONFIG, AUDIO_CONFIG, TEXT_CONFIG))

    class Sound(AudioSpectrogramTransformerPretrained):  # type: ignore[misc]
        def _init_pretrained_model(self, model_name: str) -> None:
            self.model = MuQ(_known(MuQConfig, audio))

    class Words(TextTransformerPretrained):  # type: ignore[misc]
        def _init_pretrained_model(self) -> Any:
            return XLMRobertaModel(XLMRobertaConfig(**text))

        def _init_tokenizer(self) -> Any:
            return _tokenizer(paths)

    try:
        # transformers 5 asks a configuration for this; the one in the file is older.
        audio["w2v2_config"].setdefault("_attn_implementation", "eager")
        with _unfilled(), _muq_silenced():
            mulan = MuLanModel(
                _tower(Sound, config, "audio"), _tower(Words, config, "text"), **config["mulan"]
            )
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError, ZeroDivisionError) as error:
        raise _damaged(paths[CONFIG], f"no sizes of an encoder ({_line(error)})") from error
    return nn.ModuleDict({"mulan": mulan})


def _tower(kind: Any, config: Mapping[str, Any], side: str) -> Any:
    """One half of the encoder: a base model with a small transformer on top."""
    base = config[f"{side}_model"]
    own = {"use_layer_idx": base["use_layer_idx"]} if side == "audio" else {}
    return kind(
        model_name=base["name"],
        model_dim=base["model_dim"],
        frozen_pretrained=False,
        **own,
        **config[f"{side}_transformer"],
    )


def _known(kind: Any, values: Mapping[str, Any]) -> Any:
    """A dataclass of the values that it has fields for, as the hub's own loader fills it."""
    return kind(**{field.name: values[field.name] for field in fields(kind) if field.name in values})


def _check_installed(paths: Paths) -> None:
    try:
        import muq  # noqa: F401
    except ImportError as error:
        raise BundleError(
            f"the style encoder's packages are not installed ({_line(error)}): {paths[WEIGHTS]}; "
            "get them with: make setup EXTRA=mulan, or install diffrhythm-runner[mulan]"
        ) from error


def _tokenizer(paths: Paths) -> Any:
    """Text → token ids and mask, as the text model wants them."""
    _check_installed(paths)
    from transformers import PreTrainedTokenizerFast

    _bounded(paths[TOKENIZER])
    try:
        return PreTrainedTokenizerFast(
            tokenizer_file=str(paths[TOKENIZER]),
            pad_token="<pad>",  # a token of text  # nosec B106
            model_input_names=["input_ids", "attention_mask"],
        )
    except Exception as error:  # the tokenizers library raises bare Exception
        raise _damaged(paths[TOKENIZER], f"no tokenizer ({_line(error)})") from error


def _weights(path: Path) -> dict[str, Tensor]:
    """Tensors by name, mapped: nothing of them is read yet. A pickle, so read by torch's safe unpickler."""
    import torch

    try:
        weights = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except OSError as error:
        raise _damaged(path, f"cannot be read ({error.strerror})") from error
    except pickle.UnpicklingError as error:
        # torch's own words advise to load it unsafely.
        raise _damaged(path, "a pickle of more than weights, which was not run") from error
    except (RuntimeError, ValueError, KeyError, EOFError, AttributeError, TypeError, IndexError) as error:
        raise _damaged(path, f"damaged ({_line(error)})") from error
    if not isinstance(weights, dict) or not all(isinstance(each, torch.Tensor) for each in weights.values()):
        raise _damaged(path, "no dictionary of weights")
    return weights


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(_bounded(path).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(path, f"not JSON ({_line(error)})") from error
    if not isinstance(content, dict):
        raise _damaged(path, "not a JSON object")
    return content


def _bounded(path: Path) -> Path:
    if not path.is_file() or path.stat().st_size > _MAX_JSON_BYTES:
        raise _damaged(path, "missing, or too large for what it should be")
    return path


@contextmanager
def _unfilled() -> Iterator[None]:
    """Modules made inside leave their random beginnings out: memory that is never touched costs nothing.

    Made on the meta device instead, they would lack the buffers that no weights file holds.
    """
    from torch.overrides import TorchFunctionMode

    class Unfilled(TorchFunctionMode):
        def __torch_function__(
            self, function: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
        ) -> Any:
            if getattr(function, "__module__", None) in _FILLERS:
                return args[0] if args else (kwargs or {})["tensor"]
            return function(*args, **(kwargs or {}))

    with Unfilled():
        yield


@contextmanager
def _muq_silenced() -> Iterator[None]:
    """muq's quantizer, which no embedding uses, is built with a function that torch would rather see gone."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r".*torch\.nn\.utils\.weight_norm", FutureWarning)
        yield


def _damaged(path: Path, why: str) -> BundleError:
    return BundleError(f"{why}: {path}; get the style encoder again")


def _line(error: Exception) -> str:
    """An error's words on one line, which does not end in pages of keys."""
    return " ".join(str(error).split())[:200]
