"""A model of the published size with random weights: its load, its memory, and a song of 95 s by the runner.

Example: python -m benchmarks.full_size --bundle full-size --steps 2 --precision bf16

The bundle is made where it is not there yet: 5 GB on disk in float32, as an imported model has it, and 10 GB
of memory while it is made; about half of both with --stored bfloat16. A cold start drops the bundle's files
from the page cache first.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file

from benchmarks import machine
from diffrhythm import bundle
from diffrhythm.config import ModelConfig
from diffrhythm.digest import sha256
from diffrhythm.vae_config import VaeConfig
from runner import heartbeat
from runner.files import read_json
from runner.messages import Heartbeat
from runner.songfolder import Outputs
from tests import humming
from tests.faults.batches import ROOT

HOLDER = str(Path(__file__).with_name("weights_holder.py"))
EVERY_S = 0.2
JOB = """\
model: {model}
songs:
  - name: song
    style: pop song, warm piano
    lyrics: |
      [00:10.00]Lights are low along the harbour
      [01:20.00]Every ship has gone to sleep
    duration: 95
    seed: 1
    steps: {steps}
    precision: {precision}
    foresight: false
    timeout: 10h
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--bundle", type=Path, required=True, help="folder of the bundle, made if absent")
    parser.add_argument("--stored", choices=["float32", "bfloat16", "float16"], default="float32")
    parser.add_argument("--precision", choices=["fp32", "bf16", "int8"], default="bf16")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3, help="loads, each way")
    parser.add_argument(
        "--processes", type=int, nargs="*", default=[1, 4], help="that hold the model at once"
    )
    asked = parser.parse_args()
    folder = asked.bundle.resolve()
    if not (folder / bundle.ABOUT).is_file():
        make(folder, getattr(torch, asked.stored))
    machine.header(f"The published size in {asked.precision}: {size(folder) / 1e9:.2f} GB at {folder}")
    for words, is_cold in (("cold", True), ("warm", False)):
        loads = [load(folder, asked.precision, is_cold=is_cold) for _ in range(asked.repeats)]
        machine.figure(f"open the transformer, {words}", [each["open_s"] for each in loads], "s")
        machine.figure("  and a step of 16 frames", [each["first_s"] for each in loads], "s")
    for count in asked.processes:
        show_memory(folder, asked.precision, count)
    if asked.steps:
        show_song(folder, asked.precision, asked.steps)


# ---------------------------------------------------------------- the bundle


def make(folder: Path, dtype: torch.dtype) -> None:
    """A bundle of the published sizes, its weights by a rule, so that it hums at full size."""
    folder.mkdir(parents=True, exist_ok=True)
    config, vae = ModelConfig.base(), VaeConfig()
    save(folder / bundle.TRANSFORMER, humming.transformer_weights(config), dtype)
    save(folder / bundle.VAE, humming.vae_weights(vae), torch.float32)
    small = bundle.load("demo")
    for name in (bundle.PHONEMES, bundle.NEGATIVE_STYLE, bundle.STYLE):
        (folder / name).write_bytes((small.folder / name).read_bytes())
    about = json.loads((small.folder / bundle.ABOUT).read_text()) | {
        "name": "full-size",
        "source": "made by benchmarks/full_size.py; learnt from nothing",
        "transformer": config.to_dict(),
        "vae": vae.to_dict(),
        "durations": [95.0],
        "frames": "all",
        "files": {
            name: {"bytes": (folder / name).stat().st_size, "sha256": sha256(folder / name)}
            for name in (*bundle.FILES, bundle.STYLE)
        },
    }
    (folder / bundle.ABOUT).write_text(json.dumps(about, indent=2))


def save(path: Path, weights: humming.Weights, dtype: torch.dtype) -> None:
    # Each float32 tensor goes as soon as it is converted.
    save_file({name: torch.from_numpy(weights.pop(name)).to(dtype) for name in list(weights)}, path)
    with path.open("rb") as file:
        os.fsync(file.fileno())  # only pages that are on the disk can be dropped from memory


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


# ---------------------------------------------------------------- load and memory


def load(folder: Path, precision: str, *, is_cold: bool) -> dict[str, float]:
    """Seconds of opening and of the first step, in a process of their own."""
    if is_cold:
        drop_from_page_cache(folder)
    holder, told = hold(folder, precision)
    release([holder])
    return told


def drop_from_page_cache(folder: Path) -> None:
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def show_memory(folder: Path, precision: str, count: int) -> None:
    holders = [hold(folder, precision)[0] for _ in range(count)]
    each = [memory(holder.pid) for holder in holders]
    release(holders)
    words = f"{count} process{'es' if count > 1 else ''} that hold the transformer"
    machine.figure(f"{words}, shared once", [sum(m.pss for m in each)], "GB")
    machine.figure("  of which private to each", [m.private for m in each], "GB")


def hold(folder: Path, precision: str) -> tuple[subprocess.Popen[str], dict[str, float]]:
    """A process that holds the transformer, every weight read, and what it took."""
    holder = subprocess.Popen(
        [sys.executable, HOLDER, str(folder), precision],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert holder.stdout is not None
    line = holder.stdout.readline()
    if not line:
        raise SystemExit(f"the model could not be held: exit code {holder.wait()}")
    return holder, json.loads(line)


def release(holders: Sequence[subprocess.Popen[str]]) -> None:
    for holder in holders:
        holder.communicate()


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of a process: pss counts a page shared by n processes as 1/n, private is written or its own."""

    rss: int
    pss: int
    private: int


def memory(pid: int) -> Memory:
    """Raises OSError when there is no such process."""
    fields: dict[str, int] = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, value = line.split()[:2]
        fields[name.rstrip(":")] = int(value) * 1024
    return Memory(fields["Rss"], fields["Pss"], fields["Anonymous"])


# ---------------------------------------------------------------- a song


@dataclass(slots=True)
class Peaks:
    """The most that a song's process had in each phase, by its beats."""

    by_phase: dict[str, Memory] = field(default_factory=dict)

    def look(self, beat: Heartbeat) -> None:
        try:
            now = memory(beat.pid)
        except OSError:
            return
        before = self.by_phase.get(beat.phase, Memory(0, 0, 0))
        self.by_phase[beat.phase] = Memory(
            max(now.rss, before.rss), max(now.pss, before.pss), max(now.private, before.private)
        )


def show_song(folder: Path, precision: str, steps: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        (place / "night.yaml").write_text(JOB.format(model=folder, steps=steps, precision=precision))
        song = Outputs(place / "outputs").song("night/song")
        began, peaks = time.perf_counter(), Peaks()
        batch = subprocess.Popen(
            [sys.executable, "-m", "runner.cli", "batch", "night.yaml"],
            cwd=place,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        while batch.poll() is None:
            beat = heartbeat.read(song.heartbeat)
            if isinstance(beat, Heartbeat):
                peaks.look(beat)
            time.sleep(EVERY_S)
        if batch.returncode != 0:
            raise SystemExit("".join(attempt.log.read_text() for attempt in song.attempts()))
        made = read_json(song.manifest)
        log = [json.loads(line) for line in song.attempts()[-1].steps.read_text().splitlines()]
        machine.figure(f"a song of 95 s in {steps} steps, all of it", [time.perf_counter() - began], "s")
        machine.figure("  a step of two passes", [line["seconds"] for line in log], "s")
        for phase, peak in peaks.by_phase.items():
            machine.figure(f"  {phase}", [made["phases"].get(phase, 0.0)], "s")
            machine.figure("    most resident, mapped weights with it", [peak.rss], "GB")
            machine.figure("    most of its own", [peak.private], "GB")


if __name__ == "__main__":
    main()
