"""The wheel and the sdist: what is in them, and that a runner installed from one makes songs."""

from __future__ import annotations

import json
import os
import shutil
import site
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from dataclasses import dataclass
from email import message_from_string
from importlib.metadata import Distribution
from importlib.util import find_spec
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# Without the repository on the path, or what else the tests' own process was told.
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PIP_"))}

# What git or tests may have left in a checkout.
LITTER = shutil.ignore_patterns(
    ".git",
    ".venv",
    "__pycache__",
    ".*_cache",
    ".hypothesis",
    "*.egg-info",
    "build",
    "dist",
    "outputs",
    "shared",
)

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Built:
    checkout: Path
    sdist: Path
    wheel: Path  # of the checkout
    wheel_of_sdist: Path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("packages")
    checkout = folder / "checkout"
    shutil.copytree(ROOT, checkout, ignore=LITTER)
    (checkout / "outputs").mkdir()
    (checkout / "outputs" / ".gitkeep").touch()
    # A build may not take what an earlier one, or a night, has left.
    (checkout / "outputs" / "song.wav").write_bytes(b"a night's song")
    (checkout / "tests" / "__pycache__").mkdir()
    (checkout / "tests" / "__pycache__" / "old.pyc").touch()
    build(checkout, folder / "both")  # an sdist, and a wheel of that
    build(checkout, folder / "wheel", "--wheel")
    return Built(
        checkout,
        next((folder / "both").glob("*.tar.gz")),
        next((folder / "wheel").glob("*.whl")),
        next((folder / "both").glob("*.whl")),
    )


def build(source: Path, into: Path, *options: str) -> None:
    command = [sys.executable, "-m", "build", "--no-isolation", *options, "--outdir", into, source]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "DeprecationWarning" not in done.stdout + done.stderr


def names_of(package: Path) -> set[str]:
    if package.suffix == ".whl":
        with zipfile.ZipFile(package) as file:
            return {name for name in file.namelist() if not name.endswith("/")}
    with tarfile.open(package) as file:
        return {member.name.partition("/")[2] for member in file.getmembers() if member.isfile()}


def tracked() -> set[str]:
    if not (ROOT / ".git").exists():
        pytest.skip("no clone, so that nobody says what belongs to it")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    return {name for name in listed.split("\0") if name}


def test_the_wheel_holds_the_packages_their_data_and_the_licence_and_nothing_else(built: Built) -> None:
    names = names_of(built.wheel)
    data = {"diffrhythm/py.typed", "runner/py.typed", "diffrhythm/phonemes/demo.json"}
    data |= {f"diffrhythm/demo/{file.name}" for file in (ROOT / "diffrhythm" / "demo").iterdir()}
    data |= {str(file.relative_to(ROOT)) for file in (ROOT / "runner" / "templates").glob("*")}
    assert data <= names
    assert {name.partition("/")[0].removesuffix(".dist-info") for name in names} == {
        "diffrhythm",
        "runner",
        f"diffrhythm_runner-{PROJECT['version']}",
    }
    code = {
        str(path.relative_to(ROOT))
        for each in ("runner", "diffrhythm")
        for path in (ROOT / each).rglob("*.py")
    }
    assert {name for name in names if name.endswith(".py")} == code
    assert [name for name in names if name.endswith("/licenses/LICENSE")]


def test_the_sdist_holds_what_the_repository_holds(built: Built) -> None:
    made = {name for name in names_of(built.sdist) if ".egg-info/" not in name} - {"PKG-INFO", "setup.cfg"}
    assert made == tracked()


def test_a_wheel_of_the_sdist_is_that_of_the_checkout(built: Built) -> None:
    assert names_of(built.wheel_of_sdist) == names_of(built.wheel)


def test_what_the_wheel_says_of_itself_is_what_the_project_file_says(built: Built) -> None:
    name = f"diffrhythm_runner-{PROJECT['version']}.dist-info/METADATA"
    with zipfile.ZipFile(built.wheel) as file:
        about = message_from_string(file.read(name).decode())
    assert (about["Name"], about["Version"]) == (PROJECT["name"], PROJECT["version"])
    assert (about["License-Expression"], about["License-File"]) == ("Apache-2.0", "LICENSE")
    assert about["Description-Content-Type"] == "text/markdown"
    assert about.get_payload().strip() == (ROOT / "README.md").read_text().strip()
    said = {str(Requirement(text)) for text in about.get_all("Requires-Dist", []) if "extra ==" not in text}
    assert said == {str(Requirement(text)) for text in PROJECT["dependencies"]}
    assert set(about.get_all("Provides-Extra", [])) == set(PROJECT["optional-dependencies"])
    assert "Typing :: Typed" in about.get_all("Classifier", [])


# ---------------------------------------------------------------- installed


@pytest.fixture(scope="module")
def installed(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel, and what it needs from where these tests have it."""
    venv = tmp_path_factory.mktemp("installed") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True, timeout=300)
    python = venv / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python] if find_spec("pip") else ["uv", "pip"]
    if not find_spec("pip") and shutil.which("uv") is None:
        pytest.skip("there is neither pip nor the uv that made this environment")
    where = [] if find_spec("pip") else ["--python", python]
    subprocess.run(
        [*pip, "install", *where, "--quiet", "--no-index", "--no-deps", built.wheel],
        env=ENVIRONMENT,
        check=True,
        timeout=300,
    )
    # Only now: an installer would meddle with the runner that it found there. The wheel's own comes first.
    (library,) = (venv / "lib").glob("python*/site-packages")
    (library / "the-tests-own.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    return venv


def runner(venv: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [venv / "bin" / "runner", *arguments],
        cwd=folder,
        env=ENVIRONMENT | {"XDG_CACHE_HOME": str(folder / "cache")},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_the_installed_runner_is_the_wheels_own(installed: Path, tmp_path: Path) -> None:
    command = "import runner, diffrhythm; print(runner.__file__, diffrhythm.__file__)"
    said = subprocess.run(
        [installed / "bin" / "python", "-c", command],
        cwd=tmp_path,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert [str(installed) in each for each in said] == [True, True]
    (library,) = (installed / "lib").glob("python*/site-packages")
    (about,) = library.glob("*.dist-info")
    assert Distribution.at(about).version == PROJECT["version"]
    assert runner(installed, tmp_path, "--version").stdout.strip() == PROJECT["version"]


def test_the_installed_runner_examines_this_machine(installed: Path, tmp_path: Path) -> None:
    said = runner(installed, tmp_path, "doctor", "--model", "demo", "--json")
    findings = {each["name"]: each for each in json.loads(said.stdout)["findings"]}
    assert findings["python"]["state"] == "ok", findings["python"]
    assert "packages" not in findings
    assert findings["model"]["state"] == "ok", findings["model"]


def test_the_installed_runner_makes_a_song_far_from_the_repository(installed: Path, tmp_path: Path) -> None:
    lyrics = "[00:00.50]Carry me home"
    done = runner(
        installed, tmp_path, "sing", "--lyrics", lyrics, "--style", "pop", "--name", "far",
        "--duration", "3", "--preset", "preview",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "outputs/sing/far/song.json").read_text())["state"] == "done"
