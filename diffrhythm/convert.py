"""Published files → the weights of a bundle: checked whole, then written one tensor after the other.

A published checkpoint is a pickle, which could run code: it is opened by torch's unpickler for weights only,
from an archive with nothing packed in it. Its 2.2 GB are mapped and read a few tensors at a time, so that
converting needs no more memory than those.

Weights are written in float32, whatever they were: every float16 and bfloat16 number is a float32 number, so
fp32 arithmetic gives what the published model gives in fp32, the other arithmetics round from the same
numbers, and, float32 being what the model is calculated in, all processes share one mapped copy where float16
would have to be widened in each of them.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle  # for the name of its error alone  # nosec B403
import re
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from diffrhythm import torchscript, transformer
from diffrhythm.bundle import TRANSFORMER, VAE, VAE_SCRIPT, FileEntry
from diffrhythm.config import ModelConfig
from diffrhythm.digest import PIECE_BYTES, Report, silent
from diffrhythm.errors import BundleError
from diffrhythm.vae_config import VaeConfig

# The published checkpoint: a dictionary whose weights are in this entry, under keys with this prefix.
ENTRY = "model_state_dict"
PREFIX = "transformer."

_EXACT_IN_FLOAT32 = (torch.float32, torch.float16, torch.bfloat16)

# The pickle beside the numbers; it holds names and shapes, about 40 kB.
_MAX_PICKLE_BYTES = 64 * 2**20
# Tensors read between two openings of the checkpoint. Closing it is what gives the mapped memory back; the
# largest tensors have 64 MiB, so eight of them bound what is held at a time.
_TENSORS_AT_ONCE = 8


def write_transformer(
    source: Path, config: ModelConfig, folder: Path, report: Report = silent
) -> dict[str, FileEntry]:
    """dit.safetensors in folder, from a published checkpoint; its entry for bundle.json.

    Raises BundleError naming source and, where one is to blame, the key.
    """
    shapes = checked_shapes(source, config)
    return {
        TRANSFORMER: _write(folder / TRANSFORMER, shapes, _tensors_of(source, shapes), source, report),
    }


def write_vae(source: Path, folder: Path, report: Report = silent) -> tuple[VaeConfig, dict[str, FileEntry]]:
    """vae.safetensors in folder, from a published TorchScript; its sizes, its entry for bundle.json.

    Where ours would not give the same sound, vae.pt, the TorchScript as it is, and the published sizes.
    Raises BundleError for a file that is no VAE.
    """
    extracted = torchscript.extract(source)
    if extracted is None:
        return VaeConfig(), {VAE_SCRIPT: copy(source, folder / VAE_SCRIPT, report)}
    config, tensors = extracted
    tensors = dict(sorted(tensors.items()))
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    return config, {VAE: _write(folder / VAE, shapes, tensors.items(), source, report)}


def copy(source: Path, target: Path, report: Report = silent) -> FileEntry:
    """The same bytes at target, safe on disk."""
    digest, done, total = hashlib.sha256(), 0, source.stat().st_size
    with source.open("rb") as read, target.open("xb") as written:
        while piece := read.read(PIECE_BYTES):
            written.write(piece)
            digest.update(piece)
            done += len(piece)
            report(f"write {target.name}", done, total)
        written.flush()
        os.fsync(written.fileno())
    return FileEntry(bytes=done, sha256=digest.hexdigest())


def checked_shapes(source: Path, config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Shapes of a published checkpoint's weights, by name without prefix, in order of names.

    Raises BundleError unless they are exactly those of a model of these sizes.
    """
    tensors = _open(source)
    with torch.device("meta"):
        model = transformer.DiT(config)
    try:
        transformer.load_weights(model, tensors)
    except BundleError as error:
        raise BundleError(f"{source}: {error}") from error
    return {name: tuple(tensors[name].shape) for name in sorted(tensors)}


def _tensors_of(source: Path, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
    """Each tensor by its name, in this order, the file opened anew every few of them."""
    left = list(names)
    while left:
        now, left = left[:_TENSORS_AT_ONCE], left[_TENSORS_AT_ONCE:]
        tensors = _open(source)
        for name in now:
            yield name, tensors.pop(name)


def _open(source: Path) -> dict[str, Tensor]:
    """The checkpoint's tensors, mapped, by name without prefix. Nothing of them is read yet."""
    _check_archive(source)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about kinds of tensors that are refused below
            content = torch.load(source, map_location="cpu", mmap=True, weights_only=True)
    except OSError as error:
        raise _unusable(source, f"cannot be read ({error.strerror})") from error
    except Exception as error:  # a damaged pickle raises whatever it likes
        raise _unusable(source, _why(error)) from error
    weights = content.get(ENTRY) if isinstance(content, dict) else None
    if not isinstance(weights, dict):
        raise _unusable(source, f"no entry {ENTRY!r} with weights")
    return _without_prefix(source, weights)


def _without_prefix(source: Path, weights: dict[object, object]) -> dict[str, Tensor]:
    tensors = {}
    for key, value in weights.items():
        if not isinstance(key, str) or not key.startswith(PREFIX):
            raise _unusable(source, f"surplus {str(key)[:100]!r}, which starts not with {PREFIX!r}")
        if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_quantized:
            raise _unusable(source, f"{key} is no plain tensor")
        if value.dtype not in _EXACT_IN_FLOAT32:
            raise _unusable(source, f"{key} is {value.dtype}")
        tensors[key.removeprefix(PREFIX)] = value
    return tensors


def _check_archive(source: Path) -> None:
    """Raises BundleError unless source is an archive as torch.save writes it, unpacked, of a small pickle."""
    if source.exists() and not source.is_file():  # a pipe would make us wait, a device may never end
        raise _unusable(source, "no file")
    try:
        with zipfile.ZipFile(source) as archive:
            entries = archive.infolist()
    except OSError as error:
        raise _unusable(source, f"cannot be read ({error.strerror})") from error
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise _unusable(source, f"no checkpoint, or a cut one ({error})") from error
    if any("/code/" in entry.filename for entry in entries):
        raise _unusable(source, "a TorchScript, no checkpoint")
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise _unusable(source, "an archive with packed entries, which a checkpoint never has")
    pickles = [entry for entry in entries if entry.filename.endswith(".pkl")]
    if not pickles or sum(entry.file_size for entry in pickles) > _MAX_PICKLE_BYTES:
        raise _unusable(source, "an archive that holds no weights as torch saves them")


def _why(error: Exception) -> str:
    """torch's own words advise to load the file unsafely: say only what was found."""
    if isinstance(error, pickle.UnpicklingError):
        found = re.search(r"GLOBAL (\S+)", str(error))
        return f"a pickle with code in it ({found[1] if found else 'not weights alone'}), which was not run"
    return f"a damaged checkpoint ({str(error).strip().partition(chr(10))[0][:200]})"


def _write(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    tensors: Iterable[tuple[str, Tensor]],
    source: Path,
    report: Report,
) -> FileEntry:
    """A safetensors file of float32, one tensor in memory at a time, safe on disk; its entry for bundle.json.

    The safetensors library would want all tensors in memory at once, widened. shapes and tensors: in the
    same order.
    """
    header = _header(shapes)
    total = len(header) + 4 * sum(map(_count, shapes.values()))
    digest, done = hashlib.sha256(header), len(header)
    with path.open("xb") as file:
        file.write(header)
        for name, tensor in tensors:
            if tuple(tensor.shape) != shapes[name]:
                raise _unusable(source, f"{name} changed while it was read")
            if not bool(torch.isfinite(tensor).all()):
                raise _unusable(source, f"{name} holds numbers that are not finite")
            content = tensor.detach().float().contiguous().numpy().data.cast("B")
            file.write(content)
            digest.update(content)
            done += content.nbytes
            report(f"write {path.name}", done, total)
        file.flush()
        os.fsync(file.fileno())
    return FileEntry(bytes=done, sha256=digest.hexdigest())


def _header(shapes: Mapping[str, tuple[int, ...]]) -> bytes:
    """Length, then JSON of each tensor's dtype, shape and place, filled up to a multiple of eight bytes.

    Source: the safetensors format, https://github.com/huggingface/safetensors#format.
    """
    entries, start = {}, 0
    for name, shape in shapes.items():
        stop = start + 4 * _count(shape)
        entries[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, stop]}
        start = stop
    text = json.dumps({"__metadata__": {"format": "pt"}, **entries}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _count(shape: tuple[int, ...]) -> int:
    return torch.Size(shape).numel()


def _unusable(source: Path, why: str) -> BundleError:
    return BundleError(f"{why}: {source}; get the published file again")
