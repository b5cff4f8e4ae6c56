"""Records what the watcher reads of a child whose memory is taken away, and judges what was recorded.

Recording needs root, 2 GiB under /tmp and control groups; it makes a swap file and removes it again.

Example: python -m benchmarks.traces --record            all cases, about a quarter of an hour
         python -m benchmarks.traces --record thrash reload
         python -m benchmarks.traces --replay            what verdict makes of each
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import machine
from runner import probes
from runner.messages import Heartbeat
from runner.supervise import TICK_S
from runner.verdict import Kill, Limits, Reading, Watch, judge, observe

FOLDER = Path(__file__).parents[1] / "tests/faults/traces"
MEMORY = Path("/sys/fs/cgroup/memory")
BLKIO = Path("/sys/fs/cgroup/blkio")
SWAP_MIB = 1024
WEIGHTS_MIB = 400
MIB = 1 << 20
# A slow disk, bytes a second.
SLOW_DISK = 12 * MIB

SQUEEZE = 'while sleep 0.05; do echo 0 > "$0/memory.force_empty"; done'
# Memory for a third of the weights. (The squeeze would take the kernel's notes of what it took, too.)
TOO_LITTLE = 'echo 140000000 > "$0/memory.limit_in_bytes"'
# As WSL's autoMemoryReclaim=gradual does: a little every second. memory.reclaim is not in cgroup v1; a limit
# just under what is used, taken away at once, is the same.
GRADUAL = """while sleep 1; do
    echo $(($(cat "$0/memory.usage_in_bytes") - 12582912)) > "$0/memory.limit_in_bytes"
    echo -1 > "$0/memory.limit_in_bytes"
done"""


@dataclass(frozen=True, slots=True)
class Case:
    """One recording, of length_s. child: what traced_child is asked; inside: in the control group.

    trouble: a shell loop on that group, which begins after healthy_s. storm: another process works there
    meanwhile. watcher: this one goes there, too. squeezed: the child starts with its memory in swap.
    """

    about: str
    child: str
    trouble: str = ""
    storm: bool = False
    squeezed: bool = False
    swap: bool = True
    watcher: bool = False  # sits in the control group, too
    slow_disk: bool = False
    inside: bool = True
    healthy_s: float = 10.0
    length_s: float = 50.0


CASES = {
    "thrash": Case("private memory taken again and again", "--private 160 --touches 2000000", SQUEEZE),
    "thrash-late": Case(
        "the same, and the watcher's own memory, too",
        "--private 160 --touches 2000000",
        SQUEEZE,
        watcher=True,
    ),
    "swaps-and-goes-on": Case(
        "swaps hard, and a step comes all the same", "--private 160 --touches 4000 --compute 0.1", SQUEEZE
    ),
    "swapped-out": Case(
        "300 MiB lie in swap, the child works on the rest",
        "--private 330 --hot 30 --touches 20000 --compute 0.5",
        squeezed=True,
    ),
    "gradual": Case(
        "a little is taken every second", "--private 300 --hot 100 --touches 40000 --compute 0.3", GRADUAL
    ),
    "gradual-one-long-step": Case(
        "the same in the first step, which is long",
        "--private 300 --hot 100 --touches 1000000000",
        GRADUAL,
    ),
    "mapped": Case(
        "weights taken again and again, no swap",
        "--file {weights} --touches 300000 --warm",
        SQUEEZE,
        swap=False,
    ),
    "mapped-alone": Case(
        "too little memory for them, and a disk that reads nothing ahead",
        "--file {weights} --touches 300000 --warm --alone",
        TOO_LITTLE,
        swap=False,
    ),
    "mapped-and-goes-on": Case(
        "weights taken again and again, and a step comes all the same",
        "--file {weights} --touches 60 --compute 0.1 --warm",
        SQUEEZE,
        swap=False,
    ),
    "reload": Case(
        "weights used a moment ago, taken, and loaded again from a slow disk",
        "--file {weights} --load",
        slow_disk=True,
        swap=False,
        healthy_s=0.0,
        length_s=45.0,
    ),
    "reread": Case(
        "such weights, read in no order by the first step",
        "--file {weights} --touches 2000000",
        slow_disk=True,
        swap=False,
        healthy_s=0.0,
        length_s=45.0,
    ),
    "storm": Case(
        "another process thrashes beside a child that works",
        "--private 100 --touches 20000 --compute 0.7",
        SQUEEZE,
        storm=True,
        inside=False,
    ),
    "storm-one-long-step": Case(
        "another process thrashes beside a child within one long step, its memory in swap",
        "--private 100 --hot 1 --touches 1 --compute 3600",
        SQUEEZE,
        storm=True,
        inside=False,
        squeezed=True,
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--record", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)}; none: all")
    parser.add_argument("--replay", action="store_true", help="judge all that were recorded")
    asked = parser.parse_args()
    if asked.record is not None:
        for name in asked.record or CASES:
            record(name, CASES[name])
    if asked.replay:
        show()


# ---------------------------------------------------------------- recording


def record(name: str, case: Case) -> None:
    with contextlib.ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="traces-")))
        weights = written(place / "weights")
        if case.swap:
            stack.enter_context(swap(place / "swap"))
        group = stack.enter_context(cgroup(MEMORY))
        words = case.child.format(weights=weights).split()
        if case.slow_disk:
            use_and_take(weights, group)
            disk = stack.enter_context(cgroup(BLKIO))
            number = f"{os.major(weights.stat().st_dev)}:{os.minor(weights.stat().st_dev)}"
            (disk / "blkio.throttle.read_bps_device").write_text(f"{number} {SLOW_DISK}")
            words += ["--group", str(disk)]
        if case.inside or case.squeezed:
            words += ["--group", str(group)]
        child = stack.enter_context(running("benchmarks.traced_child", str(place / "beats"), *words))
        if case.squeezed:
            time.sleep(5)
            (group / "memory.force_empty").write_text("0")
        if case.squeezed and not case.inside:
            (MEMORY / "cgroup.procs").write_text(str(child.pid))
        lines = list(watched(child.pid, place, case, group, stack))
    FOLDER.mkdir(exist_ok=True)
    head = {"case": name, "about": case.about, "trouble_s": case.healthy_s, "kernel": os.uname().release}
    text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in [head, *lines])
    (FOLDER / f"{name}.jsonl").write_text(text)
    print(f"{name}: {len(lines)} readings, {len(text) / 1e3:.0f} kB", flush=True)


def watched(
    pid: int, place: Path, case: Case, group: Path, stack: contextlib.ExitStack
) -> Iterator[dict[str, Any]]:
    """Readings as the parent takes them; the trouble begins in between."""
    beats = place / "beats"
    first = probes.read(pid, beats, attempt=1)
    end, calm = first.mono + case.length_s, True
    while (reading := probes.read(pid, beats, attempt=1)).mono < end:
        if calm and reading.mono >= first.mono + case.healthy_s:
            calm = False
            begin(case, place, group, stack)
        yield line(reading, first)
        time.sleep(TICK_S - time.monotonic() % TICK_S)


def begin(case: Case, place: Path, group: Path, stack: contextlib.ExitStack) -> None:
    if case.storm:
        words = [str(place / "storm"), "--private", "300", "--touches", "100000000", "--group", str(group)]
        stack.enter_context(running("benchmarks.traced_child", *words))
    if case.watcher:
        (group / "cgroup.procs").write_text(str(os.getpid()))
        stack.callback((MEMORY / "cgroup.procs").write_text, str(os.getpid()))
    if case.trouble:
        stack.enter_context(
            ended(subprocess.Popen(["sh", "-c", case.trouble, str(group)], stderr=subprocess.DEVNULL))
        )


def written(weights: Path) -> Path:
    """A file that is on the disk and in nobody's memory."""
    with weights.open("wb") as content:
        content.write(os.urandom(WEIGHTS_MIB * MIB))
        content.flush()
        os.fsync(content.fileno())
        os.posix_fadvise(content.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return weights


def use_and_take(weights: Path, group: Path) -> None:
    """What an earlier song leaves: the kernel remembers the pages of its weights as much used."""
    beats = weights.with_name("earlier")
    words = [str(beats), "--file", str(weights), "--touches", "1000000", "--group", str(group)]
    with running("benchmarks.traced_child", *words):
        time.sleep(15)
        (group / "memory.force_empty").write_text("0")


@contextlib.contextmanager
def running(module: str, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    with ended(subprocess.Popen([sys.executable, "-m", module, *words])) as process:
        yield process


@contextlib.contextmanager
def ended(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def swap(file: Path) -> Iterator[None]:
    with file.open("wb") as content:
        for _ in range(SWAP_MIB):
            content.write(bytes(MIB))
    file.chmod(0o600)
    subprocess.run(["mkswap", str(file)], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["swapon", str(file)], check=True)
    try:
        yield
    finally:
        subprocess.run(["swapoff", str(file)], check=True)


@contextlib.contextmanager
def cgroup(controller: Path) -> Iterator[Path]:
    group = controller / f"diffrhythm-traces-{os.getpid()}"
    group.mkdir()
    try:
        yield group
    finally:
        group.rmdir()


def line(reading: Reading, first: Reading) -> dict[str, Any]:
    """A reading as it is kept: times from the first one on, and of the beat what can be progress."""
    kept: dict[str, Any] = {
        name: round(value, 3) if isinstance(value, float) else value
        for name, value in asdict(replace(reading, beat=None)).items()
        if name != "beat"
    }
    kept |= {"mono": round(reading.mono - first.mono, 3), "boot": round(reading.boot - first.boot, 3)}
    beat = reading.beat
    if beat is not None:
        kept |= {"phase": beat.phase, "step": beat.step, "step_s": beat.step_s}
        kept |= {"progress": round(beat.progress_mono - first.mono, 3)}
    return kept


# ---------------------------------------------------------------- judging


@dataclass(frozen=True, slots=True)
class Trace:
    """A recording: when the trouble began, in seconds from its first reading, and all readings."""

    name: str
    about: str
    trouble_s: float
    readings: tuple[Reading, ...]


def load(file: Path) -> Trace:
    head, *lines = [json.loads(line) for line in file.read_text().splitlines()]
    return Trace(head["case"], head["about"], head["trouble_s"], tuple(map(_reading, lines)))


def traces() -> list[Trace]:
    return [load(file) for file in sorted(FOLDER.glob("*.jsonl"))]


def _reading(kept: dict[str, Any]) -> Reading:
    beat = _beat(kept) if "phase" in kept else None
    names = Reading.__dataclass_fields__
    return Reading(**{name: value for name, value in kept.items() if name in names}, beat=beat)


def _beat(kept: dict[str, Any]) -> Heartbeat:
    return Heartbeat(
        seq=0,
        song="night/song",
        attempt=1,
        pid=1,
        pid_started=0,
        boot_id="",
        phase=kept["phase"],
        step=kept["step"],
        steps=0,
        density=32,
        passes=0,
        t=None,
        wall=0.0,
        progress_mono=kept["progress"],
        alive_mono=kept["progress"],
        cpu_s=0.0,
        step_s=kept["step_s"],
        eta_s=None,
        rss=0,
        swap=0,
        major_faults=0,
        latent_std=None,
        note="",
    )


def replay(readings: tuple[Reading, ...], limits: Limits) -> tuple[Kill | None, Watch]:
    """The kill, if there is one, and the watch as it was then or at the end."""
    watch = Watch()
    for reading in readings:
        watch = observe(watch, reading)
        kill = judge(watch, limits)
        if kill is not None:
            return kill, watch
    return None, watch


def show() -> None:
    machine.header("What is judged of recorded traces (thrash_s = 20, stall by phase)")
    print(f"{'trace':24} {'length':>7} {'verdict':14} {'after':>7}  words")
    for trace in traces():
        kill, watch = replay(trace.readings, Limits(timeout_s=3600))
        length = trace.readings[-1].mono
        if kill is None:
            print(f"{trace.name:24} {length:5.0f} s  goes on")
            continue
        after = f"{watch.charged_s - trace.trouble_s:5.1f} s"
        print(f"{trace.name:24} {length:5.0f} s  {kill.cause:14} {after}  {kill.message}")


if __name__ == "__main__":
    main()
