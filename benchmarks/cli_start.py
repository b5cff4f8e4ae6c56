"""How long `runner --help` and `runner status` take, and what of it are imports.

Example: python -m benchmarks.cli_start --runs 20 --songs 20
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import imports, machine, naughty

AIM_S = 0.25
RUNNER = ("-m", "runner.cli")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20, help="times that each command is run")
    parser.add_argument("--songs", type=int, default=20, help="songs that `runner status` shows")
    asked = parser.parse_args()
    machine.header("Start of the commands")
    with tempfile.TemporaryDirectory() as name:
        songs = make_songs(Path(name), asked.songs)
        out = ("--out", str(songs))
        commands = {
            "python -c pass": ("-c", "pass"),
            "runner --help": (*RUNNER, "--help"),
            f"runner status, {asked.songs} songs": (*RUNNER, "status", *out),
            f"runner status --json, {asked.songs} songs": (*RUNNER, "status", "--json", *out),
        }
        walls: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(asked.runs):
            for name, arguments in commands.items():  # in turns: what slows the machine slows all
                walls[name].append(wall_s(arguments))
        for name, values in walls.items():
            machine.figure(name, values, "s", aim=AIM_S if "runner" in name else None)
        print("of which imports, with -X importtime, which makes them slower:")
        bare = imported(commands["python -c pass"])
        for name, arguments in commands.items():
            print_imports(name, imported(arguments), bare)


def make_songs(folder: Path, count: int) -> Path:
    """Results of so many songs, really made by a batch, though without a model."""
    process = naughty.start(folder, ["steps 2 0"] * count, workers=4)
    if process.wait() != 0:
        raise SystemExit(f"the batch that was to be shown failed with exit code {process.returncode}")
    return folder / "outputs"


def wall_s(arguments: tuple[str, ...]) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def imported(arguments: tuple[str, ...]) -> list[imports.Import]:
    run = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments], check=True, capture_output=True, text=True
    )
    return imports.parse_all(run.stderr.splitlines())


def print_imports(name: str, found: list[imports.Import], bare: list[imports.Import]) -> None:
    """What is imported beyond what Python always is, and whether torch is."""
    own = {each.module for each in bare}
    beyond = [each for each in found if each.module not in own]
    packages = imports.by_package(beyond)
    torch = "torch IS LOADED" if "torch" in packages else "torch is not loaded"
    print(f"{name:<{machine.NAME_CELLS}} {sum(packages.values()):9.3f} s   {len(beyond)} modules, {torch}")
    if packages:
        print(f"    {imports.words(packages, 5)}")


if __name__ == "__main__":
    main()
