"""Names, shapes and rule-made weights against the published checkpoints' and the reference's."""

import json
from pathlib import Path

import golden
import pytest
import torch

from diffrhythm.config import ModelConfig
from diffrhythm.transformer import DiT

KEY_LISTS = [pytest.param(path, id=place) for place, path in golden.files("full_state_dict.json")]
CONFIGS = [
    pytest.param(path, name, id=f"{place}-{name}")
    for place, path in golden.files("tiny_configs.json")
    for name in json.loads(path.read_text())
]


def shapes(config: ModelConfig) -> dict[str, list[int]]:
    with torch.device("meta"):
        model = DiT(config)
    return {f"transformer.{name}": list(tensor.shape) for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("path", KEY_LISTS)
def test_the_base_model_has_every_published_key_and_shape_and_no_other(path: Path) -> None:
    assert shapes(ModelConfig.base()) == json.loads(path.read_text())["base_2048"]


@pytest.mark.parametrize("path", KEY_LISTS)
def test_the_full_model_has_four_more(path: Path) -> None:
    published = json.loads(path.read_text())
    assert shapes(ModelConfig.full()) == published["base_2048"] | published["full_6144_extra"]


@pytest.mark.parametrize("path", KEY_LISTS)
def test_the_models_have_the_published_numbers_of_parameters(path: Path) -> None:
    published = json.loads(path.read_text())["parameters"]
    with torch.device("meta"):
        base, full = DiT(ModelConfig.base()), DiT(ModelConfig.full())
    assert sum(weight.numel() for weight in base.parameters()) == published["base_2048"]
    assert sum(weight.numel() for weight in full.parameters()) == published["full_6144"]


@pytest.mark.parametrize(("path", "name"), CONFIGS)
def test_the_weight_rule_gives_the_reference_weights(path: Path, name: str) -> None:
    values = json.loads(path.read_text())[name]
    state = golden._model(path.parent, name).state_dict()
    assert {f"transformer.{key}" for key in state} == values["state"].keys()
    for key, tensor in state.items():
        stated = values["state"][f"transformer.{key}"]
        assert list(tensor.shape) == stated["shape"]
        assert tensor.flatten()[:4].tolist() == pytest.approx(stated["first4"], rel=1e-6)
        assert float(tensor.double().std(correction=0)) == pytest.approx(stated["std"], rel=1e-4)
