"""What is read of a machine, from folders that stand for others."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runner import machine
from runner.cgroups import memory_limit
from runner.machine import disk_of, place, read, usable_memory, wsl_of

WSL2 = "5.15.167.4-microsoft-standard-WSL2"
MOUNTS = """\
22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw
23 22 0:5 / /mnt/c rw,noatime - 9p C:\\134 rw
24 22 0:6 / /mnt/my\\040disk rw shared:7 - tmpfs tmpfs rw
25 23 0:7 / /mnt/c/linux rw - ext4 /dev/sdb rw
a line that is none
"""


def put(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    return root


@pytest.fixture
def wsl(tmp_path: Path) -> Path:
    """The root of a WSL 2 that runs cron, with limits in its .wslconfig."""
    return put(
        tmp_path / "root",
        {
            "proc/sys/kernel/osrelease": f"{WSL2}\n",
            "proc/meminfo": "MemTotal:  2048 kB\nMemAvailable: 1024 kB\nSwapTotal: 512 kB\nSwapFree: 0 kB\n",
            "proc/cpuinfo": "processor : 0\nmodel name\t: A  Chip @ 3 GHz\nprocessor : 1\n",
            "proc/loadavg": "0.50 0.40 0.30 1/100 7\n",
            "proc/1/comm": "systemd\n",
            "proc/77/comm": "cron\n",
            "proc/self/cgroup": "0::/a/b\n",
            "proc/self/mountinfo": MOUNTS,
            "sys/fs/cgroup/cgroup.controllers": "cpu memory\n",
            "sys/fs/cgroup/a/memory.max": "1000000\n",
            "sys/fs/cgroup/a/b/memory.max": "max\n",
            "mnt/c/Users/you/.wslconfig": "[wsl2]\nMemory = 6GB\nprocessors=4\n swap=0\n",
        },
    )


def test_a_wsl_is_read_from_its_files(wsl: Path, tmp_path: Path) -> None:
    found = read(tmp_path / "outputs", root=wsl, path="")
    assert (found.wsl, found.kernel, found.processor) == (2, WSL2, "A Chip @ 3 GHz")
    assert (found.memory, found.available, found.swap, found.swap_free) == (2**21, 2**20, 2**19, 0)
    assert (found.memory_limit, found.cgroup, found.pressure, found.load) == (1_000_000, "v2", False, 0.5)
    assert (found.init, found.cron, found.crontab) == ("systemd", True, False)
    assert found.wsl_limits == {"memory": "6GB", "swap": "0"}


def test_of_an_empty_folder_nothing_is_known_and_nothing_breaks(tmp_path: Path) -> None:
    found = read(tmp_path / "outputs", root=tmp_path / "nowhere", path="")
    assert (found.wsl, found.wsl_limits, found.memory, found.memory_limit, found.load) == (
        0,
        None,
        None,
        None,
        None,
    )
    assert (found.cron, found.pressure, found.cgroup, found.init) == (False, False, "", "")


@pytest.mark.parametrize(
    ("kernel", "version"),
    [(WSL2, 2), ("6.6.87.2-WSL2-custom", 2), ("4.4.0-19041-Microsoft", 1), ("6.8.0-45-generic", 0), ("", 0)],
)
def test_a_kernels_release_says_which_wsl_it_is(kernel: str, version: int) -> None:
    assert wsl_of(kernel) == version


@pytest.mark.parametrize(
    ("folder", "disk"),
    [
        ("/home/you", "ext4"),
        ("/mnt/c/songs", "9p"),
        ("/mnt/cellar", "ext4"),
        ("/mnt/my disk/x", "tmpfs"),
        ("/mnt/c/linux/x", "ext4"),
    ],
)
def test_a_folder_is_on_the_nearest_mount_above_it(folder: str, disk: str) -> None:
    assert disk_of(Path(folder), MOUNTS) == disk


def test_the_lower_of_two_limits_counts_in_cgroups_of_either_kind(tmp_path: Path) -> None:
    put(
        tmp_path,
        {
            "proc/self/cgroup": "4:memory:/box/inner\n1:cpu:/x\n0::/\n",
            "sys/fs/cgroup/memory/box/memory.limit_in_bytes": "5000\n",
            "sys/fs/cgroup/memory/box/inner/memory.limit_in_bytes": "9223372036854771712\n",
            "sys/fs/cgroup/memory.max": "7000\n",
        },
    )
    assert memory_limit(tmp_path) == 5000


def test_a_folder_that_is_not_there_yet_is_judged_by_the_one_above(tmp_path: Path) -> None:
    found = place(tmp_path / "a" / "b", Path("/proc/self/mountinfo"))
    assert (found.folder, found.is_folder, found.writable) == (str(tmp_path / "a" / "b"), True, True)
    assert found.free is not None
    file = tmp_path / "file"
    file.touch()
    assert not place(file / "inside", Path("/proc/self/mountinfo")).is_folder


def test_what_holds_songs_to_their_memory_is_our_own_group_or_systemd_or_nothing(
    wsl: Path, tmp_path: Path
) -> None:
    assert read(tmp_path / "outputs", root=wsl, path="").holder == ""
    group = {"cgroup.controllers": "memory\n", "cgroup.subtree_control": "", "cgroup.events": "populated 1\n"}
    put(wsl / "sys/fs/cgroup/a/b", group | {"cgroup.procs": f"{os.getpid()}\n"})
    assert read(tmp_path / "outputs", root=wsl, path="").holder == "v2"


def test_memory_that_we_may_count_on_is_the_machines_or_what_a_group_leaves_us() -> None:
    assert usable_memory(8, 5) == usable_memory(5, None) == usable_memory(None, 5) == 5
    assert usable_memory(None, None) is None


def test_this_machine_can_be_read(tmp_path: Path) -> None:
    found = machine.read(tmp_path)
    assert found.cores >= 1
    assert found.memory is not None
    assert found.out.disk
