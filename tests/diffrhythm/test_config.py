import subprocess
import sys

import pytest

from diffrhythm.config import ModelConfig
from diffrhythm.errors import BundleError


def test_the_published_models_differ_only_in_their_longest_song() -> None:
    base, full = ModelConfig.base().to_dict(), ModelConfig.full().to_dict()
    assert {name for name in base if base[name] != full[name]} == {"max_frames"}
    assert (base["dim"], base["depth"], base["max_frames"], full["max_frames"]) == (2048, 16, 2048, 6144)


def test_only_the_full_model_is_told_the_duration() -> None:
    assert not ModelConfig.base().embeds_duration
    assert ModelConfig.full().embeds_duration


def test_a_configuration_survives_a_dict() -> None:
    config = ModelConfig(dim=128, depth=3, conv_layers=1, text_rows=40)
    assert ModelConfig.from_dict(config.to_dict()) == config


def test_text_is_fused_behind_the_first_half_of_the_blocks() -> None:
    assert ModelConfig(depth=5).fusion_layers == 2


@pytest.mark.parametrize(
    ("change", "named"),
    [({"dim": None}, "dim"), ({"head_count": 32}, "head_count"), ({"depth": None, "x": 1}, "depth")],
)
def test_missing_and_unknown_fields_are_named(change: dict[str, object], named: str) -> None:
    values = {**ModelConfig.base().to_dict(), **change}
    with pytest.raises(BundleError, match=named):
        ModelConfig.from_dict({name: value for name, value in values.items() if value is not None})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("dim", 96),
        ("dim", 0),
        ("dim", -64),
        ("dim", 128.0),
        ("dim", True),
        ("dim", "128"),
        ("dim", 1 << 40),
        ("depth", 0),
        ("text_dim", 256),
        ("max_frames", 0),
        ("text_rows", 10**9),
    ],
)
def test_impossible_sizes_are_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(BundleError, match=name):
        ModelConfig.from_dict({**ModelConfig.base().to_dict(), name: value})


def test_configuration_and_grids_do_not_load_torch() -> None:
    code = "import sys, diffrhythm.config, diffrhythm.grids; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
