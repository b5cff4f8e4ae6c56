"""The doors between the rooms of the house: who may import whom, and who may load torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# A module loads only modules of its own floor and of the floors above it in this list.
FLOORS = [
    {"errors", "events", "config", "vae_config", "files", "grids", "guidance", "solvers", "presets"},
    {"bundle", "lyrics", "phonemes", "style", "audio", "vae"},
    {"transformer", "precision"},
    {"conditioning", "graphs"},
    {"sampling", "compiled", "compiled_vae"},
    {"generate"},
]
PURE = {"grids", "solvers", "guidance"}


def modules_of(package: str) -> dict[str, ast.Module]:
    """Each module of the package by its dotted name, parsed."""
    found = {}
    for file in sorted((ROOT / package).rglob("*.py")):
        parts = file.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = ast.parse(file.read_text())
    return found


MODULES = {package: modules_of(package) for package in ("diffrhythm", "runner")}
NAMES = set().union(*MODULES.values())


def imported(tree: ast.AST, *, when_loaded: bool = False) -> Iterator[str]:
    """Modules that the code imports; when_loaded: without those for types only or inside functions."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are written in full here"
            module = node.module or ""
            inner = [f"{module}.{alias.name}" for alias in node.names]
            yield from (name if name in NAMES else module for name in inner)
        elif not (when_loaded and (is_function(node) or is_for_types(node))):
            yield from imported(node, when_loaded=when_loaded)


def is_function(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)


def is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def reaches(tree: ast.AST, package: str) -> bool:
    return any(name.split(".")[0] == package for name in imported(tree))


def room(module: str) -> str:
    """diffrhythm.phonemes.english → phonemes."""
    return module.partition(".")[2].partition(".")[0]


def test_both_packages_were_found() -> None:
    assert {"diffrhythm.transformer", "diffrhythm.sampling", "diffrhythm.generate"} <= NAMES
    assert {"runner.cli", "runner.spec", "runner.batch", "runner.status", "runner.worker"} <= NAMES


def test_diffrhythm_never_imports_runner() -> None:
    assert [name for name, tree in MODULES["diffrhythm"].items() if reaches(tree, "runner")] == []


def test_only_the_worker_imports_both_packages() -> None:
    assert [name for name, tree in MODULES["runner"].items() if reaches(tree, "diffrhythm")] == [
        "runner.worker"
    ]


def test_inside_diffrhythm_imports_go_one_way() -> None:
    floor = {name: number for number, names in enumerate(FLOORS) for name in names}
    assert {
        f"{room(module)} imports {room(name)}"
        for module, tree in MODULES["diffrhythm"].items()
        for name in imported(tree, when_loaded=True)
        if name.startswith("diffrhythm.") and floor.get(room(name), -1) > floor.get(room(module), len(FLOORS))
    } == set()


@pytest.mark.parametrize("package", ["diffrhythm", "runner"])
def test_no_modules_load_each_other_in_a_circle(package: str) -> None:
    graph = {
        module: {name for name in imported(tree, when_loaded=True) if name in NAMES and name != module}
        for module, tree in MODULES[package].items()
    }
    assert list(TopologicalSorter(graph).static_order())


def test_grids_solvers_and_guidance_know_no_model() -> None:
    known = {
        room(name)
        for module in PURE
        for name in imported(MODULES["diffrhythm"][f"diffrhythm.{module}"])
        if name.startswith("diffrhythm.")
    }
    assert known <= {"errors"} | PURE


def test_the_transformer_knows_no_solver() -> None:
    rooms = {room(name) for name in imported(MODULES["diffrhythm"]["diffrhythm.transformer"])}
    assert rooms.isdisjoint(PURE | {"sampling"})


@pytest.mark.parametrize(
    "modules",
    [("diffrhythm",), tuple(name for name in MODULES["runner"] if name != "runner.worker")],
    ids=["diffrhythm", "runner without its worker"],
)
def test_loading_it_loads_neither_torch_nor_ray(modules: tuple[str, ...]) -> None:
    code = f"import sys, {', '.join(modules)}\nprint(*sys.modules)"
    child = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = child.stdout.split()
    assert set(modules) <= set(loaded)
    heavy = ("torch", "torchaudio", "torchdiffeq", "ray", "jinja2", "PIL")
    assert [name for name in loaded if name.split(".")[0] in heavy] == []
