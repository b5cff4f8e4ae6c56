"""Presets by name."""

import subprocess
import sys

import pytest

from diffrhythm.errors import RequestError
from diffrhythm.presets import PRESETS, auto, preset
from diffrhythm.solvers import SOLVERS


def test_each_better_preset_takes_more_steps_and_no_more_than_the_plain_ones_it_stands_for() -> None:
    plain = {"preview": 4, "draft": 8, "standard": 16, "high": 32, "max": 64}
    steps = [preset(name).steps for name in plain]
    assert steps == sorted(set(steps))
    assert all(preset(name).steps <= most for name, most in plain.items())


def test_every_preset_names_a_sampler() -> None:
    assert {preset.sampler for preset in PRESETS.values()} <= SOLVERS.keys()


def test_the_reference_is_the_published_run_of_32_points() -> None:
    reference = preset("reference")
    assert (reference.steps, reference.cfg, reference.sampler) == (31, 4.0, "euler")


def test_a_misspelt_preset_is_answered_with_the_nearest() -> None:
    with pytest.raises(RequestError, match="did you mean standard"):
        preset("standart")


def test_auto_is_standard_with_less_guidance_where_that_takes_no_longer_than_a_night_can_bear() -> None:
    chosen = auto(360.0, "bf16 on 2 cores")
    assert (chosen.name, chosen.steps) == ("standard", PRESETS["standard"].steps)
    assert chosen.cfg < PRESETS["high"].cfg
    assert "sampling takes about 6 min in bf16 on 2 cores" in chosen.why
    assert "less than a minute" in auto(5.0, "fp32 on 2 cores").why


def test_auto_is_draft_on_a_slow_machine_and_says_so() -> None:
    chosen = auto(45 * 60.0, "fp32 on 1 core")
    assert (chosen.name, chosen.steps) == ("draft", PRESETS["draft"].steps)
    assert "standard would take about 45 min in fp32 on 1 core" in chosen.why


def test_reading_presets_does_not_import_torch() -> None:
    code = "import sys, diffrhythm.presets; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
