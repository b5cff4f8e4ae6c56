"""The file of a model's calibration for static int8, beside the model's description, with its evidence.

k channels of an input
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from diffrhythm.bundle import Bundle
from diffrhythm.config import ModelConfig
from diffrhythm.errors import BundleError
from diffrhythm.smoothquant import INPUT_OF, INPUTS, Calibration, Form, Input

FILE = "calibration.safetensors"

_MAX_BYTES = 2**26
_EVIDENCE = "evidence"

Error = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Evidence(BaseModel):
    """What a calibration was found by, and how good it is. model: the bundle's hash.

    frames: of each song. times: of its passes, in [0, 1]. error, dynamic_error: of the velocity, relative to
    float32, in the forms that were chosen and in the dynamic one; static_error: with every linear static.
    linears: what each linear alone adds to it in each form. forms: that were chosen.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    format: Literal[1] = Field(default=1, alias="schema")
    model: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    songs: Annotated[int, Field(ge=1)]
    frames: Annotated[int, Field(ge=1)]
    times: list[float]
    error: Error
    dynamic_error: Error
    static_error: Error
    linears: dict[str, dict[Form, Error]]
    forms: dict[str, Form]


def found(here: Bundle) -> Calibration | None:
    """What was found for this very model; None where it was never calibrated, or has changed since.

    Raises BundleError for a file that cannot be read.
    """
    path = here.folder / FILE
    try:
        if not path.is_file() and (path.exists() or path.is_symlink()):
            raise _damaged(path, "not a file")
        if path.stat().st_size > _MAX_BYTES:
            raise _damaged(path, f"{path.stat().st_size} bytes")
        with safe_open(path, framework="pt") as file:
            evidence = Evidence.model_validate_json((file.metadata() or {}).get(_EVIDENCE, ""))
            if evidence.model != here.hash:
                return None
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _damaged(path, f"cannot read: {error.strerror}") from error
    except SafetensorError as error:
        raise _damaged(path, str(error)) from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise _damaged(path, f"{'.'.join(map(str, first['loc'])) or 'the whole'}: {first['msg']}") from error
    inputs = inputs_of(tensors, here.config)
    if inputs is None or sizes(here.config).keys() != evidence.forms.keys():
        raise _damaged(path, "tensors of another model")
    return Calibration(inputs, evidence.forms, evidence.error, evidence.dynamic_error)


def in_use(here: Bundle, *, has_int8: bool) -> Calibration | None:
    """The calibration that int8 songs of this model are made with; None: they are made in dynamic int8.

    has_int8: whether the processor has dot products of int8. Without, static kernels are slower than float32
    and add pairs of products in 16 bits, which is not enough.
    """
    calibration = found(here) if has_int8 else None
    return calibration if calibration is not None and calibration.serves else None


def content(inputs: Mapping[str, Input], evidence: Evidence) -> bytes:
    """What a calibration's file holds."""
    return saved(inputs, {_EVIDENCE: evidence.model_dump_json(by_alias=True)})


def saved(inputs: Mapping[str, Input], about: dict[str, str] | None = None) -> bytes:
    factors = {f"{name}.factors": each.factors.contiguous() for name, each in inputs.items()}
    return save(factors | {f"{name}.step": torch.tensor(each.step) for name, each in inputs.items()}, about)


def sizes(config: ModelConfig) -> dict[str, int]:
    """Weights of each linear of the blocks."""
    return {
        f"{i}.{name}": config.dim**2 * (1 if name.startswith("self_attn.") else config.ff_mult)
        for i in range(config.depth)
        for name in INPUT_OF
    }


def inputs_of(tensors: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Input] | None:
    """The inputs of a file; None where they are not those of a model of these sizes."""
    wanted: dict[str, tuple[int, ...]] = {}
    for name, width in _widths(config).items():
        wanted[f"{name}.factors"], wanted[f"{name}.step"] = (width,), ()
    if {name: tuple(tensor.shape) for name, tensor in tensors.items()} != wanted:
        return None
    if not all(t.dtype == torch.float32 and bool((t.isfinite() & (t > 0)).all()) for t in tensors.values()):
        return None
    return {
        name: Input(tensors[f"{name}.factors"], float(tensors[f"{name}.step"])) for name in _widths(config)
    }


def _widths(config: ModelConfig) -> dict[str, int]:
    """Channels of each input of the blocks."""
    inner = config.ff_mult * config.dim
    return {
        f"{i}.{name}": inner if name == "gated" else config.dim
        for i in range(config.depth)
        for name in INPUTS
    }


def _damaged(path: Path, what: str) -> BundleError:
    return BundleError(f"no calibration ({what}): {path}; delete it, and calibrate again")
