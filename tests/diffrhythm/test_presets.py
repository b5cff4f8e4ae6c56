"""Presets by name."""

import subprocess
import sys

import pytest

from diffrhythm.errors import RequestError
from diffrhythm.presets import PRESETS, auto, preset


def test_each_better_preset_doubles_the_steps() -> None:
    names = ["preview", "draft", "standard", "high", "max"]
    assert [preset(name).steps for name in names] == [4, 8, 16, 32, 64]


def test_the_reference_is_the_published_run_of_32_points() -> None:
    reference = preset("reference")
    assert (reference.steps, reference.cfg, reference.sampler) == (31, 4.0, "euler")


def test_a_misspelt_preset_is_answered_with_the_nearest() -> None:
    with pytest.raises(RequestError, match="did you mean standard"):
        preset("standart")


def test_a_cpu_gets_fewer_steps_and_less_guidance_than_a_gpu_and_is_told_why() -> None:
    cpu, gpu = auto("cpu"), auto("cuda:0")
    assert (cpu.name, gpu.name) == ("standard", "high")
    assert cpu.cfg < gpu.cfg == PRESETS["high"].cfg
    assert "standard" in cpu.why
    assert "high" in gpu.why


def test_reading_presets_does_not_import_torch() -> None:
    code = "import sys, diffrhythm.presets; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
