"""What was measured of a machine: kept, read with suspicion, and what follows from it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffrhythm import machine_profile, precision
from diffrhythm.arithmetic import PUBLISHED
from diffrhythm.config import ModelConfig
from diffrhythm.machine_profile import Profile, Timing, settle, thread_counts
from diffrhythm.vae_config import VaeConfig

SMALL = ModelConfig(dim=64, depth=2, ff_mult=2, conv_layers=1, text_rows=8, max_frames=64)
VAE = VaeConfig(channels=8)


def timing(name: precision.Arithmetic, pass_s: float, error: float | None = 0.0, **changes: object) -> Timing:
    made = Timing(
        name=name, frame_s=pass_s / 2000, pair_s=0.0, threads=2, error=error, decode_s=None, decode_error=None
    )
    return made.model_copy(update=changes)


def profile(*timings: Timing, busy: float = 0.0) -> Profile:
    return Profile(machine={}, sizes={}, measured_wall=0.0, took_s=1.0, busy=busy, timings=list(timings))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    threads = torch.get_num_threads()
    yield
    assert torch.get_num_threads() == threads


def test_a_machine_is_measured_once_and_then_read() -> None:
    said: list[str] = []
    first = machine_profile.ensure(SMALL, VAE, report=said.append)
    assert said
    said.clear()
    assert machine_profile.ensure(SMALL, VAE, report=said.append) == first
    assert machine_profile.load(SMALL, VAE) == first
    assert not said


def test_every_arithmetic_of_a_large_model_is_measured_with_its_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(precision, "LARGE", 1)
    monkeypatch.setattr(machine_profile, "worth_trying", lambda flags: ("torch-fp32", "int8", "bf16", "fp32"))
    found = {
        each.name: each for each in machine_profile.measure(SMALL, VAE, report=lambda what: None).timings
    }
    assert set(found) == {"torch-fp32", "int8", "bf16", "fp32"}
    assert found["torch-fp32"].error == 0.0
    assert 0 < (found["fp32"].error or 0) < 1e-5
    assert 1e-4 < (found["int8"].error or 0) < 0.1
    for each in found.values():
        assert each.pass_s(64) < each.pass_s(128)


def test_a_profile_in_doubt_is_measured_again_before_it_is_used() -> None:
    first = machine_profile.ensure(SMALL, VAE)
    machine_profile.doubt(SMALL, VAE)
    assert machine_profile.load(SMALL, VAE) is None
    second = machine_profile.ensure(SMALL, VAE)
    assert second.measured_wall > first.measured_wall
    assert machine_profile.load(SMALL, VAE) == second


def test_a_busy_machine_is_measured_again_once_it_is_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = profile(timing(PUBLISHED, 1e6), busy=0.5)
    file = machine_profile.path(SMALL, VAE)
    file.parent.mkdir(parents=True)
    file.write_text(slow.model_dump_json(by_alias=True))
    monkeypatch.setattr(machine_profile, "_is_busy_now", lambda: True)
    assert machine_profile.ensure(SMALL, VAE) == slow
    monkeypatch.setattr(machine_profile, "_is_busy_now", lambda: False)
    assert machine_profile.ensure(SMALL, VAE).timings[0].frame_s < slow.timings[0].frame_s


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"schema": 2}', "\x00" * 100])
def test_a_damaged_profile_is_measured_again(content: str) -> None:
    file = machine_profile.path(SMALL, VAE)
    file.parent.mkdir(parents=True)
    file.write_text(content)
    assert machine_profile.load(SMALL, VAE) is None
    assert machine_profile.ensure(SMALL, VAE) == machine_profile.load(SMALL, VAE)


def test_a_cache_that_cannot_be_written_costs_a_measurement_and_no_more(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").write_text("a file where the folder belongs")
    assert machine_profile.ensure(SMALL, VAE).timings
    assert "not kept" in caplog.text
    assert machine_profile.load(SMALL, VAE) is None


def test_another_machine_and_other_sizes_have_profiles_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    here = machine_profile.path(SMALL, VAE)
    assert machine_profile.path(replace(SMALL, max_frames=128), VAE) == here
    assert machine_profile.path(replace(SMALL, dim=128), VAE) != here
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert machine_profile.path(SMALL, VAE) != here


def test_a_machine_is_known_by_its_processor_and_its_host(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "sys/class/dmi/id").mkdir(parents=True)
    first_core = "processor\t: 0\nmodel name\t: Some CPU\nmodel\t: 106\nmicrocode\t: 0x1\nflags\t: avx2\n"
    cpuinfo = f"{first_core}\nprocessor\t: 1\n"
    (tmp_path / "proc/cpuinfo").write_text(cpuinfo)
    (tmp_path / "sys/class/dmi/id/product_name").write_text("Laptop\n")
    first = machine_profile.machine(tmp_path)
    assert (first["processor"], first["host"]) == ("Some CPU 106 0x1", "Laptop")
    (tmp_path / "proc/cpuinfo").write_text(cpuinfo.replace("avx2", "avx2 avx512f"))
    assert machine_profile.machine(tmp_path)["flags"] != first["flags"]


def test_the_least_of_two_measurements_counts() -> None:
    first = profile(timing(PUBLISHED, 4.0, decode_s=1.0), busy=0.5)
    second = profile(timing(PUBLISHED, 6.0, decode_s=0.5), timing("fp32", 3.0), busy=0.2)
    both = machine_profile.least(first, second)
    assert [each.pass_s(2000) for each in both.timings] == [4.0, 3.0]
    assert (both.timings[0].decode_s, both.busy) == (0.5, 0.2)


@given(st.integers(1, 256), st.none() | st.integers(1, 256))
def test_numbers_of_threads_are_fewer_than_the_cores_and_more_than_none(
    cores: int, physical: int | None
) -> None:
    counts = thread_counts(cores, physical)
    assert all(1 <= each < cores for each in counts)
    assert counts == sorted(set(counts), reverse=True)


def test_physical_cores_are_tried() -> None:
    assert 8 in thread_counts(16, 8)
    assert 1 in thread_counts(2, 1)
    assert thread_counts(1, 1) == []


# ---------------------------------------------------------------- settling


def test_without_a_profile_songs_are_made_in_the_published_way() -> None:
    assert settle(None, frames=2000).passes == PUBLISHED
    assert settle(None, frames=2000, asked="fp32").passes == PUBLISHED
    assert settle(None, frames=2000, asked="int8").passes == "int8"
    assert settle(None, frames=2000, asked="int8", static_error=0.5).passes == "int8-static"


def test_the_fastest_that_was_measured_is_taken_with_its_threads_and_seconds() -> None:
    found = profile(timing(PUBLISHED, 20.0), timing("int8", 9.0, 0.02, threads=6))
    choice = settle(found, frames=2000)
    assert (choice.passes, choice.threads, choice.pass_s) == ("int8", 6, 9.0)
    assert choice.precision == "int8"


def test_static_int8_needs_a_calibration_of_the_model() -> None:
    found = profile(timing(PUBLISHED, 20.0), timing("int8", 9.0, 0.02), timing("int8-static", 8.0, None))
    assert settle(found, frames=2000).passes == "int8"
    assert settle(found, frames=2000, asked="int8").passes == "int8"
    assert settle(found, frames=2000, static_error=0.02).passes == "int8-static"
    assert settle(found, frames=2000, static_error=0.2).passes == "int8"


def test_attention_makes_another_arithmetic_the_fastest_for_long_songs() -> None:
    found = profile(timing(PUBLISHED, 20.0, pair_s=1e-6), timing("int8", 9.0, 0.02, pair_s=6e-6))
    assert settle(found, frames=2000).passes == PUBLISHED
    assert settle(found, frames=500).passes == "int8"


def test_an_exact_song_has_an_exact_decoder() -> None:
    found = profile(
        timing(PUBLISHED, 20.0, decode_s=1.0, decode_error=0.0),
        timing("fp32", 19.0, 1e-6, decode_s=0.8, decode_error=1e-5),
        timing("bf16", 10.0, 0.003, decode_s=0.3, decode_error=0.005),
    )
    assert settle(found, frames=2000, asked="fp32").decoder == "fp32"
    assert settle(found, frames=2000).decoder == "bf16"
    assert settle(found, frames=2000).decode_s == 0.3


def test_the_file_says_which_machine_it_is_of() -> None:
    machine_profile.ensure(SMALL, VAE)
    kept = json.loads(machine_profile.path(SMALL, VAE).read_text())
    assert kept["schema"] == machine_profile.SCHEMA
    assert kept["machine"]["cores"] == machine_profile.usable_cores()
    assert kept["sizes"]["dim"] == SMALL.dim


FIGURES = st.floats(1e-6, 1e3)


@st.composite
def profiles(draw: st.DrawFn) -> Profile:
    """The figures of any machine: the published way and some of the others."""
    names = draw(st.lists(st.sampled_from(precision.ARITHMETICS[1:]), unique=True))
    return profile(
        *(
            Timing(
                name=name,
                frame_s=draw(FIGURES),
                pair_s=draw(st.just(0.0) | FIGURES),
                threads=draw(st.integers(1, 64)),
                error=0.0 if name == PUBLISHED else draw(st.none() | st.floats(0, 1)),
                load_s=0.0 if name == PUBLISHED else draw(st.floats(0, 1e3)),
                decode_s=draw(FIGURES) if name == PUBLISHED else draw(st.none() | FIGURES),
                decode_error=0.0 if name == PUBLISHED else draw(st.floats(0, 1)),
            )
            for name in (PUBLISHED, *names)
        ),
        busy=draw(st.floats(0, 1)),
    )


@given(profiles(), st.integers(1, 6144), st.integers(1, 2000), st.none() | st.floats(0, 1))
def test_on_no_machine_is_auto_slower_than_the_published_way(
    found: Profile, frames: int, passes: int, static_error: float | None
) -> None:
    choice = settle(found, frames=frames, passes=passes, static_error=static_error)
    published, chosen = found.timing(PUBLISHED), found.timing(choice.passes)
    assert published is not None
    assert chosen is not None
    song_s = passes * chosen.pass_s(frames) + chosen.load_s
    assert song_s <= passes * published.pass_s(frames) * (1 + 1e-9)
    assert choice.decode_s is not None
    assert published.decode_s is not None
    assert choice.decode_s <= published.decode_s
