"""Calibrating a model: measured before it is believed, continued after a stop, kept with its evidence."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from diffrhythm import bundle, calibration, calibration_file, files, sampling, smoothquant
from diffrhythm.bundle import Bundle
from diffrhythm.calibration import Evidence
from diffrhythm.config import ModelConfig
from diffrhythm.errors import BundleError, RequestError
from diffrhythm.smoothquant import COSTS, Calibration, Form


def silent(what: str, step: int, steps: int) -> None:
    pass


def copy(here: Bundle, place: Path) -> Bundle:
    return bundle.load(shutil.copytree(here.folder, place))


@pytest.fixture
def small(demo_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """A copy of the demo, calibrated on a second of one song in two steps, with a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(calibration, "FRAMES", 24)
    monkeypatch.setattr(calibration, "STEPS", 2)
    return copy(demo_bundle, tmp_path / "demo")


@pytest.fixture(scope="module")
def once(demo_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Evidence]:
    """The same, calibrated once: for looking at only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(calibration, "FRAMES", 24)
        patch.setattr(calibration, "STEPS", 2)
        here = copy(demo_bundle, tmp_path_factory.mktemp("once") / "demo")
        return here, calibration.calibrate(here, songs=1, report=silent)


@pytest.fixture
def calibrated(once: tuple[Bundle, Evidence], tmp_path: Path) -> Bundle:
    """A calibrated copy, to be spoilt."""
    return copy(once[0], tmp_path / "calibrated")


# ---------------------------------------------------------------- calibrating


def test_a_model_is_calibrated_and_says_how_good_that_is(once: tuple[Bundle, Evidence]) -> None:
    here, made = once
    found = calibration_file.found(bundle.load(here.folder))
    assert found is not None
    assert (found.error, found.dynamic_error, found.forms) == (made.error, made.dynamic_error, made.forms)
    assert 0 < made.error <= made.static_error < 0.2
    assert made.error <= smoothquant.BUDGET or set(made.forms.values()) != {"static"}
    assert made.times == [0.0, pytest.approx(0.293, abs=1e-3)]
    assert set(made.linears) == set(made.forms)


def test_the_cost_is_never_above_that_of_the_dynamic_form(once: tuple[Bundle, Evidence]) -> None:
    here, made = once
    weights = calibration_file.sizes(here.config)
    dynamic = calibration.dynamic_forms(here.config)
    assert calibration.cost(made.forms, weights) <= calibration.cost(dynamic, weights)


def test_no_intermediate_result_is_left(small: Bundle) -> None:
    calibration.calibrate(small, songs=1, report=silent)
    assert not list((small.folder.parent / "cache").rglob("*.safetensors"))


def test_stopped_work_continues_where_it_was_and_finds_the_same(
    small: Bundle, once: tuple[Bundle, Evidence]
) -> None:
    done: list[tuple[str, int]] = []

    def stop(what: str, step: int, steps: int) -> None:
        done.append((what, step))
        if len(done) % 3 == 0:
            raise KeyboardInterrupt

    for _ in range(50):
        try:
            made = calibration.calibrate(small, songs=1, report=stop)
            break
        except KeyboardInterrupt:
            pass
    assert made == once[1]
    assert len(done) > 12
    assert len(set(done)) == len(done)  # each step once
    first, second = (calibration_file.found(here) for here in (small, once[0]))
    assert first is not None
    assert second is not None
    assert first.digest == second.digest


def test_a_damaged_intermediate_result_is_made_again(small: Bundle, once: tuple[Bundle, Evidence]) -> None:
    def stop(what: str, step: int, steps: int) -> None:
        if what.startswith("velocity, block by block") and step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibration.calibrate(small, songs=1, report=stop)
    for path in (small.folder.parent / "cache").rglob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:-3])
    assert calibration.calibrate(small, songs=1, report=silent) == once[1]


def test_a_folder_that_cannot_be_written_to_is_told_before_the_work(
    small: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "FILE", "no such folder/calibration.safetensors")
    monkeypatch.delattr(calibration, "Studio")
    with pytest.raises(BundleError, match="copy the bundle, and calibrate the copy"):
        calibration.calibrate(small, songs=1, report=silent)


def test_the_demo_of_the_program_is_not_written_to(demo_bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="calibrate the copy"):
        calibration.calibrate(demo_bundle, songs=1, report=silent)


@pytest.mark.parametrize("songs", [0, 4])
def test_songs_that_there_are_not_are_refused(small: Bundle, songs: int) -> None:
    with pytest.raises(RequestError, match="choose 1 to 3"):
        calibration.calibrate(small, songs=songs, report=silent)


def test_one_model_is_calibrated_once_at_a_time(small: Bundle) -> None:
    lock = files.cache_folder() / "calibration" / f"{small.hash}-1-24.lock"
    with files.alone(lock), pytest.raises(BundleError, match="is being calibrated already"):
        calibration.calibrate(small, songs=1, report=silent)


# ---------------------------------------------------------------- which form suits each linear

WEIGHTS = {"a": 4, "b": 4, "c": 1}
ERRORS: dict[str, dict[Form, float]] = {
    "a": {"static": 0.04, "dynamic": 0.01, "float": 0.0},
    "b": {"static": 0.01, "dynamic": 0.01, "float": 0.0},
    "c": {"static": 0.03, "dynamic": 0.03, "float": 0.0},
}
STATIC: dict[str, Form] = dict.fromkeys(WEIGHTS, "static")


def relaxed(budget: float, most_cost: float = 10.0) -> dict[str, Form]:
    measured = sum(each["static"] ** 2 for each in ERRORS.values()) ** 0.5
    return calibration.relaxed(ERRORS, WEIGHTS, STATIC, measured=measured, budget=budget, most_cost=most_cost)


def test_what_is_within_the_budget_stays_static() -> None:
    assert relaxed(0.06) == STATIC


def test_the_linear_that_costs_least_for_its_error_is_relaxed_first() -> None:
    assert relaxed(0.04) == STATIC | {"a": "dynamic"}


def test_a_linear_that_the_dynamic_form_does_not_help_stays_in_float() -> None:
    assert relaxed(0.02) == STATIC | {"a": "dynamic", "c": "float"}


def test_no_more_is_relaxed_than_the_time_allows() -> None:
    assert relaxed(0.0, most_cost=1.0) == STATIC
    assert relaxed(0.0, most_cost=1.1) == STATIC | {"a": "dynamic"}


figures = st.dictionaries(
    st.sampled_from("abcdefgh"),
    st.tuples(st.floats(0, 0.1), st.floats(0, 0.1), st.integers(1, 9)),
    min_size=1,
)


@given(figures, st.floats(0, 0.1), st.floats(1, 3.4), st.floats(0.5, 2))
def test_relaxing_keeps_to_the_budget_or_runs_out_of_ways(
    given_errors: dict[str, tuple[float, float, int]], budget: float, most_cost: float, scale: float
) -> None:
    weights = {name: size for name, (_, _, size) in given_errors.items()}
    errors: dict[str, dict[Form, float]] = {
        name: {"static": static, "dynamic": dynamic, "float": 0.0}
        for name, (static, dynamic, _) in given_errors.items()
    }
    static: dict[str, Form] = dict.fromkeys(weights, "static")
    alone = sum(each["static"] ** 2 for each in errors.values()) ** 0.5
    forms = calibration.relaxed(
        errors, weights, static, measured=scale * alone, budget=budget, most_cost=most_cost
    )
    assert calibration.cost(forms, weights) <= most_cost + 1e-9
    left = scale * sum(errors[name][form] ** 2 for name, form in forms.items()) ** 0.5
    assert left <= scale * alone + 1e-9
    room = (most_cost - calibration.cost(forms, weights)) * sum(weights.values())
    could = [
        name
        for name, now in forms.items()
        for form in COSTS
        if 1e-9 < (COSTS[form] - COSTS[now]) * weights[name] <= room - 1e-9
        and errors[name][form] ** 2 < errors[name][now] ** 2
    ]
    assert left <= budget + 1e-6 or not could


# ---------------------------------------------------------------- what was found


def change(here: Bundle, **changes: object) -> None:
    """Writes other evidence into a calibration."""
    path = here.folder / calibration_file.FILE
    with safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["evidence"])
    save_file(load_file(path), path, {"evidence": json.dumps(about | changes)})


def test_what_was_found_for_another_model_is_not_taken(calibrated: Bundle) -> None:
    change(calibrated, model="0" * 64)
    assert calibration_file.found(calibrated) is None


def test_a_model_that_was_never_calibrated_has_none(small: Bundle) -> None:
    assert calibration_file.found(small) is None


@pytest.mark.parametrize(
    "changes",
    [{"schema": 2}, {"error": -1.0}, {"error": None}, {"forms": {}}, {"forms": {"0.x": "static"}}, {"x": 1}],
    ids=str,
)
def test_damaged_evidence_is_an_error_that_says_what_to_do(
    calibrated: Bundle, changes: dict[str, object]
) -> None:
    change(calibrated, **changes)
    with pytest.raises(BundleError, match="delete it, and calibrate again"):
        calibration_file.found(calibrated)


def without(tensors: dict[str, torch.Tensor], name: str) -> None:
    del tensors[name]


SPOILT: dict[str, Callable[[dict[str, torch.Tensor]], None]] = {
    "missing": lambda tensors: without(tensors, "0.heads.step"),
    "surplus": lambda tensors: tensors.update(stray=torch.ones(2)),
    "zero": lambda tensors: tensors["1.mlp.factors"].zero_(),
    "not finite": lambda tensors: tensors["1.mlp.step"].fill_(float("nan")),
    "shape": lambda tensors: tensors.update({"1.mlp.factors": torch.ones(3)}),
    "type": lambda tensors: tensors.update({"1.mlp.step": torch.tensor(1.0, dtype=torch.float64)}),
}


@pytest.mark.parametrize("way", SPOILT)
def test_tensors_of_another_model_are_an_error(calibrated: Bundle, way: str) -> None:
    path = calibrated.folder / calibration_file.FILE
    tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        about = file.metadata()
    SPOILT[way](tensors)
    save_file(tensors, path, about)
    with pytest.raises(BundleError, match=r"tensors of another model.* delete it"):
        calibration_file.found(calibrated)


@pytest.mark.parametrize("content", [b"", b"\xff{", b" " * 1000])
def test_garbage_is_no_calibration(small: Bundle, content: bytes) -> None:
    (small.folder / calibration_file.FILE).write_bytes(content)
    with pytest.raises(BundleError, match="delete it"):
        calibration_file.found(small)


def test_what_is_no_file_is_no_calibration(small: Bundle) -> None:
    path = small.folder / calibration_file.FILE
    path.mkdir()
    with pytest.raises(BundleError, match="not a file"):
        calibration_file.found(small)
    path.rmdir()
    os.mkfifo(path)
    with pytest.raises(BundleError, match="not a file"):
        calibration_file.found(small)
    path.unlink()
    path.symlink_to(path.name)
    with pytest.raises(BundleError, match="delete it"):
        calibration_file.found(small)


def test_a_calibration_serves_within_the_budget_or_where_the_dynamic_form_is_worse() -> None:
    def serves(error: float, dynamic_error: float) -> bool:
        return Calibration({}, {}, error, dynamic_error).serves

    assert serves(0.02, 0.01)
    assert not serves(0.021, 0.01)
    assert serves(0.05, 0.06)
    assert not serves(float("nan"), 0.01)


def test_static_int8_is_in_use_where_the_processor_has_it(calibrated: Bundle) -> None:
    change(calibrated, error=0.01)
    found = calibration_file.in_use(calibrated, has_int8=True)
    assert found is not None
    assert found.error == 0.01
    assert calibration_file.in_use(calibrated, has_int8=False) is None
    change(calibrated, error=0.5, dynamic_error=0.1)
    assert calibration_file.in_use(calibrated, has_int8=True) is None


def test_models_are_calibrated_unasked_where_int8_could_be_faster() -> None:
    large, small = ModelConfig.base(), ModelConfig(dim=128, depth=2)

    def why_not(config: ModelConfig, is_calibrated: bool, worth: bool) -> str:
        return calibration.why_not(config, is_calibrated=is_calibrated, int8_is_worth_trying=worth)

    assert why_not(large, False, True) == ""
    assert "already" in why_not(large, True, True)
    assert "this processor" in why_not(large, False, False)
    assert "too small" in why_not(small, False, True)


def test_songs_in_int8_are_made_by_the_calibration(
    calibrated: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffrhythm import compiled, generate

    change(calibrated, error=0.01)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    used: list[Calibration | None] = []
    exact = compiled.graph

    def noted(*given: object) -> object:
        used.append(given[-1])  # type: ignore[arg-type]
        return exact(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(compiled, "graph", noted)
    for flags in (frozenset({"avx2", "avx_vnni"}), frozenset({"avx2"})):
        monkeypatch.setattr(generate, "cpu_flags", lambda flags=flags: flags)
        chosen = generate.choice(calibrated, 8, "int8").passes
        made: sampling.Passes = generate.passes(
            calibrated, calibrated.open_transformer(), frames=8, arithmetic=chosen
        )
        assert isinstance(made, compiled.Compiled)
    assert [each is None for each in used] == [False, True]
