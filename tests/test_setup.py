from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
LOCK = (ROOT / "requirements.lock").read_text()
EXTRA_LOCK = (ROOT / "requirements-mulan.lock").read_text()
TOOLS = ["bash", "env", "sed", "awk", "grep", "cat", "cksum", "dirname", "rm", "mkdir", "cp"]

# A Python that notes its pip calls in place of installing, and makes a .venv with itself inside.
PYTHON = """#!/usr/bin/env bash
case "$*" in
    "-m venv "*) mkdir -p .venv/bin; cp "$0" .venv/bin/python ;;
    "-m pip --version") ;;
    "-m pip "*"-e .") echo "constraint=$PIP_CONSTRAINT $*" >> calls; cp "$0" .venv/bin/runner ;;
    "-m pip "*) echo "constraint=$PIP_CONSTRAINT $*" >> calls ;;
    "-c import venv, ensurepip") exit ENSUREPIP ;;
    *) exec PYTHON "$@" ;;
esac
"""
UV = """#!/usr/bin/env bash
echo "uv $*" >> calls
if [[ "$1" == venv ]]; then mkdir -p .venv/bin; cp python .venv/bin/python; fi
if [[ "$*" == *"-e ."* ]]; then cp python .venv/bin/runner; fi
"""


class Clone:
    """A clone with a stand-in for Python, on a PATH that has the usual tools and nothing else."""

    def __init__(self, folder: Path, *, ensurepip: int = 0) -> None:
        self.folder = folder
        (folder / "bin").mkdir()
        for tool in TOOLS:
            (folder / "bin" / tool).symlink_to(shutil.which(tool) or pytest.fail(f"no {tool} here"))
        for name in (
            "requirements.lock",
            "requirements-mulan.lock",
            "pyproject.toml",
            "scripts/setup.sh",
            "scripts/without-cuda.awk",
        ):
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
        self.program(
            "python", PYTHON.replace("ENSUREPIP", str(ensurepip)).replace("PYTHON", sys.executable, 1)
        )

    def program(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)
        (self.folder / name).chmod(0o755)

    def set_up(self, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": str(self.folder / "bin"), "PYTHON": str(self.folder / "python"), **variables}
        return subprocess.run(
            ["bash", "scripts/setup.sh"],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )

    def calls(self) -> list[str]:
        """What was called since the last time, for pip without its options about noise."""
        file = self.folder / "calls"
        lines = file.read_text().splitlines() if file.exists() else []
        file.unlink(missing_ok=True)
        return [line.replace(" --quiet --disable-pip-version-check", "") for line in lines]


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone(tmp_path)


def packages(lock: str) -> dict[str, list[str]]:
    """Each `name==version ; marker` of the lock with its hashes."""
    found: dict[str, list[str]] = {}
    for line in lock.splitlines():
        if line.startswith("    --hash="):
            found[next(reversed(found))].append(line.strip().removesuffix(" \\"))
        else:
            found[line.removesuffix(" \\")] = []
    return found


def test_every_package_of_the_locks_has_a_hash() -> None:
    assert len(packages(LOCK)) > 50
    assert all(packages(LOCK + EXTRA_LOCK).values())


@pytest.mark.parametrize(("extra", "lock"), [("dev", LOCK), ("mulan", LOCK + EXTRA_LOCK)])
def test_the_locks_satisfy_the_project_file(extra: str, lock: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    locked = [Requirement(package) for package in packages(lock)]
    wanted = [Requirement(text) for text in project["dependencies"] + project["optional-dependencies"][extra]]
    for requirement in wanted:
        versions = [
            str(each.specifier)[2:] for each in locked if each.name.lower() == requirement.name.lower()
        ]
        assert versions, f"{requirement.name} is not in the lock: make lock"
        assert all(requirement.specifier.contains(version) for version in versions), requirement


def test_the_extras_lock_has_no_package_of_the_other() -> None:
    names = [{re.split("==", package)[0] for package in packages(lock)} for lock in (LOCK, EXTRA_LOCK)]
    assert not names[0] & names[1]


def test_the_lock_without_cuda_loses_torch_and_its_cuda_packages_and_nothing_else() -> None:
    command = ["awk", "-f", "scripts/without-cuda.awk", "requirements.lock"]
    kept = packages(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)
    assert kept.items() <= packages(LOCK).items()
    lost = {re.split("==", package)[0] for package in packages(LOCK).keys() - kept.keys()}
    assert {"torch", "torchaudio", "triton", "nvidia-cublas", "cuda-toolkit"} <= lost
    assert all(re.fullmatch("torch|torchaudio|triton|nvidia-.*|cuda-.*", name) for name in lost)
    assert any(package.startswith("torchdiffeq==") for package in kept)


def test_setup_installs_the_lock_by_its_hashes_then_the_runner(clone: Clone) -> None:
    done = clone.set_up(PIP_CONSTRAINT="/some/constraint.txt")
    assert done.returncode == 0, done.stderr
    assert clone.calls() == [
        "constraint=/dev/null -m pip install --no-deps --require-hashes -r requirements.lock",
        "constraint=/dev/null -m pip install --no-deps --no-build-isolation -e .",
    ]


def test_a_second_setup_does_nothing(clone: Clone) -> None:
    clone.set_up()
    clone.calls()
    assert clone.set_up().stdout == "setup: .venv is current\n"
    assert clone.calls() == []


@pytest.mark.parametrize("name", ["requirements.lock", "pyproject.toml"])
def test_setup_runs_again_in_the_same_venv_when_its_sources_change(clone: Clone, name: str) -> None:
    clone.set_up()
    clone.calls()
    with (clone.folder / name).open("a") as file:
        file.write("# changed\n")
    assert "keep .venv" in clone.set_up().stdout
    assert len(clone.calls()) == 2


def test_a_setup_that_was_cut_short_runs_again(clone: Clone) -> None:
    clone.set_up()
    clone.calls()
    (clone.folder / ".venv" / "bin" / "runner").unlink()
    clone.set_up()
    assert len(clone.calls()) == 2


def test_a_moved_folder_is_set_up_again(clone: Clone) -> None:
    clone.set_up()
    clone.calls()
    moved = clone.folder.rename(clone.folder.with_name("moved"))
    clone.folder = moved
    clone.set_up()
    assert len(clone.calls()) == 2


def test_torch_comes_from_the_index_that_the_user_names_and_later_setups_keep_it(clone: Clone) -> None:
    torch = re.findall(r"^torch(?:audio)?==[^ ]+", LOCK, re.MULTILINE)
    assert len(torch) == 2
    install_torch = f"install --no-deps --index-url https://index.example/cpu {' '.join(torch)}"
    assert clone.set_up(TORCH_INDEX="https://index.example/cpu").returncode == 0
    first, second, _ = clone.calls()
    assert first.endswith(install_torch)
    assert second.endswith("--require-hashes -r .venv/requirements-without-cuda.lock")
    assert clone.set_up().stdout == "setup: .venv is current\n"
    with (clone.folder / "pyproject.toml").open("a") as file:
        file.write("# changed\n")
    clone.set_up()
    assert clone.calls()[0].endswith(install_torch)


def test_an_extra_is_installed_after_the_lock_and_later_setups_keep_it(clone: Clone) -> None:
    assert clone.set_up(EXTRA="mulan").returncode == 0
    _, extra, _ = clone.calls()
    assert extra.endswith(
        "install --no-deps --no-build-isolation --require-hashes -r requirements-mulan.lock"
    )
    assert clone.set_up().stdout == "setup: .venv is current\n"
    with (clone.folder / "pyproject.toml").open("a") as file:
        file.write("# changed\n")
    clone.set_up()
    assert clone.calls()[1] == extra


def test_an_extra_can_be_added_to_a_venv_that_is_current(clone: Clone) -> None:
    clone.set_up()
    clone.calls()
    assert "keep .venv" in clone.set_up(EXTRA="mulan").stdout
    assert "-r requirements-mulan.lock" in clone.calls()[1]


def test_an_unknown_extra_is_told_with_those_there_are(clone: Clone) -> None:
    done = clone.set_up(EXTRA="mulen")
    assert (done.returncode, done.stderr) == (1, "setup: no extra mulen; there is: mulan\n")
    assert clone.calls() == []


def test_torchvision_comes_from_torchs_index(clone: Clone) -> None:
    clone.set_up(EXTRA="mulan", TORCH_INDEX="https://index.example/cpu")
    _, _, torchvision, extra, _ = clone.calls()
    assert re.search(r"--index-url https://index\.example/cpu torchvision==\S+$", torchvision)
    assert extra.endswith("-r .venv/requirements-mulan-without-cuda.lock")
    assert "torchvision" not in (clone.folder / ".venv/requirements-mulan-without-cuda.lock").read_text()


def test_uv_is_used_where_it_is_installed(clone: Clone) -> None:
    clone.program("bin/uv", UV)
    done = clone.set_up()
    assert done.returncode == 0, done.stderr
    python = clone.folder / "python"
    install = "uv pip install --quiet --compile-bytecode --python .venv/bin/python --no-deps"
    assert [call for call in clone.calls() if call != "uv --version"] == [
        f"uv venv --quiet --python {python} .venv",
        f"{install} --require-hashes -r requirements.lock",
        f"{install} --no-build-isolation -e .",
    ]


def test_a_python_without_venv_is_told_with_its_cure(tmp_path: Path) -> None:
    done = Clone(tmp_path, ensurepip=1).set_up()
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert (
        "has no venv module; install it (sudo apt install python3-venv), then run make setup again"
        in done.stderr
    )
    assert not (tmp_path / ".venv").exists()


@pytest.mark.parametrize("python", ["/no/such/python", "false"])
def test_a_python_that_does_not_fit_is_told_with_the_range_and_a_cure(clone: Clone, python: str) -> None:
    done = clone.set_up(PYTHON=python)
    requires = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert done.returncode == 1
    assert done.stderr.startswith(f"setup: no Python {requires} as {python}; install one")
    assert done.stderr.count("\n") == 1


def test_make_demo_sets_up_and_makes_every_example() -> None:
    # Without the variables of a make that runs these tests.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    shown = subprocess.run(
        ["make", "-n", "demo"], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert "scripts/setup.sh" in shown[0]
    assert shown[1] == ".venv/bin/runner batch jobs/*.yaml"
