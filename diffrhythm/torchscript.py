"""The autoencoder as published, a TorchScript file: opened with suspicion, used as it is or made ours.

b batch · t latent frames (HOP samples each) · c latent channels (64) · n samples = HOP·t
A TorchScript is a program. It cannot run Python, but it can write and read files, so what it calls is read
before it is loaded; this is a guard against a file that was meant to be a VAE and is none, not a sandbox.
"""

from __future__ import annotations

import logging
import re
import warnings
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffrhythm.errors import BundleError
from diffrhythm.vae import Coder, Vae, fold_weight_norm, load_weights
from diffrhythm.vae_config import AUDIO_CHANNELS, HOP, LATENT_CHANNELS, VaeConfig

# The published pair holds 156 M float32 numbers, 0.63 GB.
MAX_BYTES = 2 * 2**30
# Its program is about 100 kB of text.
_MAX_PROGRAM_BYTES = 16 * 2**20
# What a program of tensors alone never says: aten::save and aten::from_file touch files, __setstate__ runs
# while the file is loaded, and ops.* reaches operators of other libraries (rpc, c10d).
_FORBIDDEN = re.compile(rb"\b(?:save|from_file|__setstate__|rpc_\w+|ops\.(?!prim\b)\w+)\b")

# Largest relative L2 difference at which two decoders are the same: rounding alone gives 1e-6.
TOLERANCE = 1e-5
# Two seconds of sound for the full-size pair on two cores, and long enough for every inner edge.
_COMPARED_FRAMES = 16

_ADVICE = "get the published vae_model.pt again"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ScriptedVae:
    """The published pair, run as it is; stands where a Vae does.

    encoder: [b, 2, n] → [b, 2c, t]. decoder: [b, c, t] → [b, 2, n]. weights: by their names in the file.
    """

    encoder: Coder
    decoder: Coder
    weights: dict[str, Tensor]


def load(path: Path) -> ScriptedVae:
    """The autoencoder in this TorchScript file, on the CPU.

    Raises BundleError: no TorchScript, cut, too large, a program that does more than reckon, no VAE of
    64 channels and 2048 samples a frame.
    """
    _check_archive(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # torch's own, of all TorchScript
            module = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]
    except (RuntimeError, MemoryError) as error:  # the latter of a damaged length
        raise _unusable(path, f"damaged TorchScript ({_first_line(error)})") from error
    script = ScriptedVae(
        _method(module, "encode_export", path), _method(module, "decode_export", path), module.state_dict()
    )
    _check_shapes(script, path)
    return script


def extract(path: Path) -> tuple[VaeConfig, dict[str, Tensor]] | None:
    """Sizes and float32 weights, as vae.Vae names them, of the autoencoder in this TorchScript file.

    None, and a warning in the log that says why, where ours with these weights does not give the same sound
    and the same moments as the script does: then the script itself has to be used. Raises as load does.
    """
    script = load(path)
    try:
        config, weights = _ours(script.weights)
        vae = Vae(config)
        load_weights(vae, weights)
    except BundleError as error:
        _log.warning("%s: not the layout of Stable Audio (%s); the TorchScript itself is used", path, error)
        return None
    decoding, encoding = difference(vae, script)
    if not max(decoding, encoding) < TOLERANCE:  # so written that NaN is a difference
        _log.warning(
            "%s: ours differs from it by %.2g decoding, %.2g encoding (relative L2); "
            "the TorchScript itself is used",
            path,
            decoding,
            encoding,
        )
        return None
    return config, weights


def difference(vae: Vae, script: ScriptedVae) -> tuple[float, float]:
    """Relative L2 between the two, decoding and encoding the same random input, from soft to loud."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, LATENT_CHANNELS, _COMPARED_FRAMES, generator=generator)
    audio = torch.randn(1, AUDIO_CHANNELS, _COMPARED_FRAMES * HOP, generator=generator)
    with torch.inference_mode():
        return (
            _relative(vae.decoder, script.decoder, latents * torch.linspace(0, 4, latents.shape[-1])),
            _relative(vae.encoder, script.encoder, audio * torch.linspace(0, 1, audio.shape[-1])),
        )


def _relative(ours: Coder, theirs: Coder, given: Tensor) -> float:
    reference = theirs(given).float()
    return float(torch.linalg.vector_norm(ours(given) - reference) / torch.linalg.vector_norm(reference))


def _ours(weights: dict[str, Tensor]) -> tuple[VaeConfig, dict[str, Tensor]]:
    """Sizes and weights by our names. Raises BundleError for another layout."""
    named: dict[str, Tensor] = {}
    for key, value in weights.items():
        # Whatever the two are wrapped in, and whichever of torch's weight norms they were made with.
        if part := re.search(r"(?:^|\.)((?:encoder|decoder)\.layers\..+)", key):
            name = part[1].replace("parametrizations.weight.original0", "weight_g")
            name = name.replace("parametrizations.weight.original1", "weight_v")
            if name in named:
                raise BundleError(f"two weights called {name}")
            named[name] = value.detach().float()
    try:
        return _config(named), fold_weight_norm(named)
    except KeyError as error:
        raise BundleError(f"no weight called {error.args[0]}") from error


def _config(weights: dict[str, Tensor]) -> VaeConfig:
    """Sizes, told by the shapes of the encoder's strided convolutions. Raises KeyError, BundleError."""
    channels = _shape(weights, "encoder.layers.0")[0]
    multiples: list[int] = []
    strides: list[int] = []
    # The encoder's last two layers are a Snake and a convolution, the ones between its blocks.
    while f"encoder.layers.{len(strides) + 1}.layers.4.bias" in weights:
        wide, _, taps = _shape(weights, f"encoder.layers.{len(strides) + 1}.layers.4")
        multiples.append(wide // channels)
        strides.append(taps // 2)
    return VaeConfig(channels, tuple(multiples), tuple(strides))


def _shape(weights: dict[str, Tensor], layer: str) -> torch.Size:
    normed = f"{layer}.weight_v"
    return weights[normed if normed in weights else f"{layer}.weight"].shape


def _check_archive(path: Path) -> None:
    """Raises BundleError unless this is a TorchScript archive of bounded size whose program only reckons."""
    try:
        size = path.stat().st_size
        if not path.is_file():  # a pipe would make us wait for ever, a device may never end
            raise _unusable(path, "no file")
        if size > MAX_BYTES:
            raise _unusable(path, f"{size} bytes are more than any VAE has")
        with zipfile.ZipFile(path) as archive:
            _check_entries(path, archive)
    except OSError as error:
        raise _unusable(path, f"cannot be read ({error.strerror})") from error
    except (
        zipfile.BadZipFile,
        zlib.error,
        NotImplementedError,
        RuntimeError,
        EOFError,
        ValueError,
    ) as error:
        raise _unusable(path, f"no TorchScript, or a cut one ({error})") from error


def _check_entries(path: Path, archive: zipfile.ZipFile) -> None:
    entries = archive.infolist()
    program = [entry for entry in entries if re.fullmatch(r"[^/]+/code/.+\.py", entry.filename)]
    if not program or not any(re.fullmatch(r"[^/]+/data\.pkl", entry.filename) for entry in entries):
        raise _unusable(path, "no TorchScript, though an archive (weights alone?)")
    if (
        sum(entry.file_size for entry in entries) > MAX_BYTES
        or sum(entry.file_size for entry in program) > _MAX_PROGRAM_BYTES
    ):
        raise _unusable(path, "TorchScript that unpacks to more than any VAE has")
    for entry in program:
        if found := _FORBIDDEN.search(archive.read(entry)):
            raise _unusable(path, f"TorchScript that calls {found[0].decode()}, which no VAE needs")


def _method(module: Any, name: str, path: Path) -> Coder:
    if not hasattr(module, name):
        raise _unusable(path, f"TorchScript without {name}, so no VAE")
    return getattr(module, name)  # type: ignore[no-any-return]


def _check_shapes(script: ScriptedVae, path: Path) -> None:
    frames = 2
    for coder, given, wanted in (
        (script.decoder, (1, LATENT_CHANNELS, frames), (1, AUDIO_CHANNELS, frames * HOP)),
        (script.encoder, (1, AUDIO_CHANNELS, frames * HOP), (1, 2 * LATENT_CHANNELS, frames)),
    ):
        try:
            with torch.inference_mode():
                found = coder(torch.zeros(given))
        except RuntimeError as error:
            raise _unusable(path, f"TorchScript that takes no {list(given)} ({_last_line(error)})") from error
        if not isinstance(found, Tensor) or tuple(found.shape) != wanted:
            shape = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise _unusable(path, f"TorchScript that makes {shape} of {list(given)}, not {list(wanted)}")


def _unusable(path: Path, why: str) -> BundleError:
    return BundleError(f"{why}: {path}; {_ADVICE}")


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def _last_line(error: Exception) -> str:
    """Where a TorchScript's own error says what happened."""
    return str(error).strip().rpartition("\n")[2]
