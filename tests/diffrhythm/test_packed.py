"""Packed weights: a quarter of the size, near what they were, and never believed when damaged."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from diffrhythm.errors import BundleError
from diffrhythm.packed import pack, unpack

SOURCE = Path("dit.safetensors")


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("shape", [(64, 64), (64, 16, 7), (16, 512)])
def test_no_number_is_further_off_than_half_a_step_of_its_row(shape: tuple[int, ...]) -> None:
    # Rows of sizes far apart: a scale for all of them would fail.
    weight = drawn(*shape) * torch.logspace(-3, 3, shape[0]).reshape(-1, *[1] * (len(shape) - 1))
    found = unpack(pack({"a.weight": weight, "large": drawn(64, 64)}), SOURCE)["a.weight"]
    half_step = weight.flatten(1).abs().amax(dim=1) / 127 / 2
    error = (found - weight).flatten(1).abs().amax(dim=1)
    assert (error <= half_step * 1.0001).all()
    assert (error > 0).all()


def test_a_large_matrix_takes_a_quarter_of_its_bytes() -> None:
    packed = pack({"weight": drawn(256, 256)})
    assert {name: (value.dtype, tuple(value.shape)) for name, value in packed.items()} == {
        "weight": (torch.int8, (256, 256)),
        "weight.scale": (torch.float32, (256,)),
    }


def test_vectors_and_small_matrices_stay_exact() -> None:
    tensors = {"bias": drawn(8192), "small": drawn(8, 8), "thin": drawn(1024, 1, 7), "scale": drawn(16)}
    packed = pack(tensors | {"weight": drawn(64, 64)})
    found = unpack(packed, SOURCE)
    assert all(torch.equal(found[name], value) for name, value in tensors.items())


def test_what_is_to_be_kept_stays_exact_to_eleven_bits() -> None:
    weight = drawn(64, 64)
    packed = pack({"kept": weight, "other": weight}, keep=lambda name, weight: name == "kept")
    assert packed["kept"].dtype == torch.float16
    found = unpack(packed, SOURCE)
    assert found["kept"].dtype == torch.float32
    assert (found["kept"] - weight).abs().max() <= weight.abs().max() * 2**-11


def test_rows_of_zeros_stay_zeros() -> None:
    weight = drawn(64, 64)
    weight[3] = 0
    found = unpack(pack({"weight": weight}), SOURCE)["weight"]
    assert torch.isfinite(found).all()
    assert not found[3].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_file_that_is_not_packed_passes_as_it_is(dtype: torch.dtype) -> None:
    tensors = {"weight": drawn(64, 64).to(dtype), "other.scale": drawn(64).to(dtype)}
    assert unpack(tensors, SOURCE) is tensors


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda packed: packed.pop("weight.scale"), r"weight is int8 without weight\.scale"),
        (lambda packed: packed.update({"weight.scale": torch.ones(3)}), r"weight\.scale is .* \[3\]"),
        (lambda packed: packed.update({"weight.scale": torch.ones(64, 1)}), r"weight\.scale is .* \[64, 1\]"),
        (lambda packed: packed.update({"weight.scale": torch.ones(64).half()}), "float16"),
        (lambda packed: packed.update({"weight.scale": torch.full((64,), torch.nan)}), "not finite"),
        (lambda packed: packed.update({"weight": torch.tensor(1, dtype=torch.int8)}), "not float32"),
    ],
)
def test_a_damaged_packing_is_refused_with_its_file(
    damage: Callable[[dict[str, Tensor]], object], named: str
) -> None:
    packed = pack({"weight": drawn(64, 64)})
    damage(packed)
    with pytest.raises(BundleError, match=rf"{named}.*: dit\.safetensors; get the bundle again"):
        unpack(packed, SOURCE)
