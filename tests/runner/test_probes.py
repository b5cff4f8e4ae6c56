"""What /proc says of real children; what it does not say is None."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from folders import beat_of, child, me

from runner import probes
from runner.files import write_message
from tests.faults.batches import wait_for

MIB = 1 << 20
NOBODY = 2**30  # above every pid


@pytest.fixture
def beat_file(tmp_path: Path) -> Path:
    return tmp_path / "heartbeat.json"


@contextmanager
def busy_child(mib: int) -> Iterator[int]:
    """A child with that much private memory and at least 0.2 s of CPU time."""
    code = (
        f"import os, time\nkept = [os.urandom({MIB}) for _ in range({mib})]\n"
        "while sum(os.times()[:2]) < 0.2: pass\nprint(flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process.pid
        finally:
            process.kill()


def test_a_childs_memory_and_cpu_time_are_read(beat_file: Path) -> None:
    with busy_child(100) as pid:
        reading = probes.read(pid, beat_file, attempt=1)
        assert reading.anon is not None
        assert 100 * MIB < reading.anon < 160 * MIB
        assert reading.rss is not None
        assert reading.rss >= reading.anon
        assert reading.cpu_s is not None
        assert 0.2 <= reading.cpu_s < 60
        assert reading.swap is not None
        assert reading.major_faults is not None


def test_the_clocks_are_this_moments(beat_file: Path) -> None:
    before = time.monotonic(), time.clock_gettime(time.CLOCK_BOOTTIME)
    reading = probes.read(os.getpid(), beat_file, attempt=1)
    after = time.monotonic(), time.clock_gettime(time.CLOCK_BOOTTIME)
    assert before[0] <= reading.mono <= after[0]
    assert before[1] <= reading.boot <= after[1]


def test_the_faults_are_the_kernels_own_count(beat_file: Path) -> None:
    counted = resource.getrusage(resource.RUSAGE_SELF).ru_majflt
    assert (probes.read(os.getpid(), beat_file, attempt=1).major_faults or 0) - counted in (0, 1)


def test_of_a_process_that_is_gone_only_the_machine_is_known(beat_file: Path) -> None:
    reading = probes.read(NOBODY, beat_file, attempt=1)
    assert (reading.cpu_s, reading.anon, reading.rss, reading.swap) == (None, None, None, None)
    assert reading.major_faults is None
    assert reading.available is not None


def test_of_a_zombie_no_memory_is_known(beat_file: Path) -> None:
    with subprocess.Popen(["true"]) as process:
        wait_for(lambda: psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE)
        assert probes.read(process.pid, beat_file, attempt=1).rss is None


def test_the_machines_memory_is_what_psutil_says() -> None:
    total, available = probes.total_bytes(), probes.available_bytes()
    assert total == psutil.virtual_memory().total
    assert available is not None
    assert 0 < available < total


def test_what_this_kernel_counts_is_read_and_what_it_does_not_is_none(beat_file: Path) -> None:
    reading = probes.read(os.getpid(), beat_file, attempt=1)
    vmstat, pressure = Path("/proc/vmstat"), Path("/proc/pressure/memory")
    assert (reading.swapped_in is not None) == (vmstat.exists() and "\npswpin " in vmstat.read_text())
    assert (reading.stalled_s is not None) == _can_be_read(pressure)


def _can_be_read(path: Path) -> bool:
    try:
        return "full " in path.read_text()
    except OSError:
        return False


def test_a_table_with_odd_lines_gives_the_lines_that_are_sizes(tmp_path: Path) -> None:
    table = tmp_path / "status"
    table.write_text(
        "Name:\tpython 5 kB\nVmRSS:\t    12 kB\nThreads:\t3\n\nno colon here\nHugePages_Total:  0\n"
    )
    table.write_text(table.read_text().replace("Name:\tpython 5 kB\n", ""))
    assert probes._fields(table) == {"VmRSS": 12 * 1024}
    assert probes._fields(tmp_path / "absent") == {}


@pytest.mark.parametrize("card", ["proc/driver/nvidia/gpus/0000:01:00.0", "dev/dxg"])
def test_a_gpu_is_one_that_nvidias_driver_tells_of_or_windows_lends(tmp_path: Path, card: str) -> None:
    assert not probes.has_gpu(tmp_path)
    (tmp_path / card).mkdir(parents=True)
    assert probes.has_gpu(tmp_path)


@pytest.mark.parametrize(
    ("changes", "is_its_own"),
    [({}, True), ({"attempt": 1}, False), ({"pid": 1}, False)],
    ids=["its own", "of an earlier attempt", "of another process"],
)
def test_only_the_childs_own_beat_counts(beat_file: Path, changes: dict[str, int], is_its_own: bool) -> None:
    with child() as who:
        beat = replace(beat_of(who, attempt=2), **changes)  # type: ignore[arg-type]
        write_message(beat_file, beat)
        assert probes.read(who.pid, beat_file, attempt=2).beat == (beat if is_its_own else None)


@pytest.mark.parametrize("content", [None, b"", b'{"schema": 1, "seq": \xff', b'{"schema": 99}'])
def test_a_beat_that_cannot_be_read_is_none(beat_file: Path, content: bytes | None) -> None:
    if content is not None:
        beat_file.write_bytes(content)
    assert probes.read(me().pid, beat_file, attempt=1).beat is None


def test_the_machine_tells_its_free_memory_and_what_is_in_swap() -> None:
    told = probes.memory()
    assert told.available is not None
    assert 0 < told.available < (probes.total_bytes() or 0)
    assert told.swapped is not None
    assert 0 <= told.swapped <= (probes.swap_bytes() or 0)
