"""Real swap: a child that really thrashes is killed for it, one that swaps and works is left alone.

Its control group has no limit, but is asked again and again to give its memory back. (One that is too small
for its process fails it, sooner or later, where the disk is slow: it waits for ever, or gets no page.)

Needs root, a swap file and a memory control group; skipped with its reason where they cannot be had.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner.files import read_json
from runner.songfolder import Outputs, SongFolder
from tests.faults.batches import Parent, causes, job, outcomes, state

MIB = 1 << 20
CGROUP_V1 = Path("/sys/fs/cgroup/memory")
CGROUP_V2 = Path("/sys/fs/cgroup")
pytestmark = pytest.mark.slow


@pytest.fixture
def swap(tmp_path: Path) -> Iterator[None]:
    """512 MiB of swap on a file."""
    if os.geteuid() != 0:
        pytest.skip("swap files need root")
    file = tmp_path / "swapfile"
    with file.open("wb") as content:
        for _ in range(512):
            content.write(bytes(MIB))
    file.chmod(0o600)
    for command in (["mkswap", str(file)], ["swapon", str(file)]):
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            pytest.skip(f"there is no {command[0]} here")
        if done.returncode != 0:
            pytest.skip(f"{command[0]}: {done.stderr.strip()}")
    yield
    subprocess.run(["swapoff", str(file)], check=True)


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """A control group whose memory the kernel takes back as soon as it is used."""
    v1 = (CGROUP_V1 / "memory.limit_in_bytes").exists()
    group = (CGROUP_V1 if v1 else CGROUP_V2) / f"diffrhythm-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made: {error.strerror}")
    reclaim = group / ("memory.force_empty" if v1 else "memory.reclaim")
    try:
        if not reclaim.exists():
            pytest.skip(f"this kernel has no {reclaim.name} for new control groups")
        with squeezed(reclaim):
            yield group
    finally:
        group.rmdir()


@contextlib.contextmanager
def squeezed(reclaim: Path) -> Iterator[None]:
    """Writes "all of it" to the file that takes memory back, twenty times a second."""
    ended = threading.Event()

    def squeeze() -> None:
        while not ended.wait(0.05):
            with contextlib.suppress(OSError):  # less than all could be had
                reclaim.write_text("1G")

    thread = threading.Thread(target=squeeze)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@pytest.fixture
def folder(tmp_path: Path) -> SongFolder:
    return Outputs(tmp_path / "outputs").song("night/song")


def test_a_child_that_really_thrashes_is_killed_for_it_and_retried_smaller(
    tmp_path: Path, folder: SongFolder, swap: None, cgroup: Path
) -> None:
    script = f"only 1\ncgroup {cgroup}\nsteps 3 0.05\nthrash 160"
    parent = Parent(tmp_path, [job(script, stall_s=120.0, timeout_s=180.0)], thrash_s=6.0)
    assert parent.wait(timeout_s=200) == 0, parent.err
    first, second = (read_json(attempt.request) for attempt in folder.attempts())
    killed = outcomes(folder)[0]
    assert causes(folder) == ["swap-thrash", None], killed["message"]
    assert "major faults/s of its own" in killed["message"]
    assert killed["peak_swap"] > 0
    assert len(killed["evidence"]) >= 6
    assert (first["precision"], second["precision"]) == ("bf16", "int8")
    assert second["density"] == first["density"] // 2


def test_a_child_that_uses_swap_but_makes_progress_is_left_alone(
    tmp_path: Path, folder: SongFolder, swap: None, cgroup: Path
) -> None:
    script = f"cgroup {cgroup}\neat 200\ntouch 60 8"
    parent = Parent(tmp_path, [job(script, stall_s=120.0, timeout_s=180.0)], thrash_s=4.0)
    assert parent.wait(timeout_s=200) == 0, parent.err
    assert (state(folder), causes(folder)) == ("done", [None])
    assert outcomes(folder)[0]["peak_swap"] > 50 * MIB
