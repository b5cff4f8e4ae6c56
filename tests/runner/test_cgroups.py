"""Where groups can be made, on folders that stand for other machines; what real ones do."""

from __future__ import annotations

import os
import pwd
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner import cgroups, processes
from runner.cgroups import Group, Site, Songs, Systemd
from tests.faults.batches import wait_for

ME = os.getpid()
SLEEPERS = (
    "import subprocess, sys, time\n"
    "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
    "time.sleep(600)"
)
YOU = pwd.struct_passwd(("you", "x", 1000, 1000, "", "/home/you", "/bin/sh"))


def put(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    return root


def v2(name: str = "a/b", *, controllers: str = "cpu memory pids", within: str = f"{ME}") -> dict[str, str]:
    """A machine with cgroup v2 whose group of that name holds us."""
    group = f"sys/fs/cgroup/{name}"
    return {
        "proc/self/cgroup": f"0::/{name}\n",
        "sys/fs/cgroup/cgroup.controllers": "cpu memory pids\n",
        f"{group}/cgroup.controllers": f"{controllers}\n",
        f"{group}/cgroup.subtree_control": "",
        f"{group}/cgroup.events": "populated 1\n",
        f"{group}/cgroup.procs": f"{within}\n",
    }


V1 = {
    "proc/self/cgroup": "4:memory:/box\n1:cpu:/x\n0::/\n",
    "sys/fs/cgroup/memory/box/cgroup.procs": f"1\n{ME}\n",
    "sys/fs/cgroup/unified/cgroup.controllers": "hugetlb\n",
}
AT_TOP = {
    "proc/self/cgroup": "0::/\n",
    "sys/fs/cgroup/cgroup.controllers": "memory\n",
    "sys/fs/cgroup/cgroup.subtree_control": "",
    "sys/fs/cgroup/cgroup.procs": f"1\n{ME}\n",
}
IN_A_CONTAINER = {
    "proc/self/cgroup": "4:memory:/docker/0123\n",
    "sys/fs/cgroup/memory/cgroup.procs": f"{ME}\n",
}
SYSTEMD = {"run/systemd/system/x": ""}


@pytest.mark.parametrize(
    ("files", "kind", "group"),
    [
        (v2(), "v2", "a/b"),
        (v2(within=f"{ME}\n{ME + 1}"), "", ""),  # somebody else would have to be moved
        (v2(within="1"), "", ""),  # a table that is not about us
        (v2(controllers="cpu pids"), "", ""),
        (v2() | SYSTEMD, "", ""),  # a unit of systemd's that is not ours to divide
        (v2(f"app.slice/diffrhythm-{ME}.scope") | SYSTEMD, "v2", f"app.slice/diffrhythm-{ME}.scope"),
        (AT_TOP, "v2", ""),
        (V1, "v1", "memory/box"),  # hybrid: the memory controller is in v1
        (IN_A_CONTAINER, "v1", "memory"),
        (V1 | {"sys/fs/cgroup/memory/box/cgroup.procs": "1\n"}, "", ""),
        ({"proc/self/cgroup": "0::/\n"}, "", ""),
        ({}, "", ""),
    ],
)
def test_groups_are_made_only_where_they_hold_and_nobody_else_is_moved(
    tmp_path: Path, files: dict[str, str], kind: str, group: str
) -> None:
    found = cgroups.site(put(tmp_path, files))
    assert found == (Site(kind, tmp_path / "sys/fs/cgroup" / group) if kind else None)


def test_a_unit_that_systemd_has_delegated_is_ours_to_divide(tmp_path: Path) -> None:
    root = put(tmp_path, v2() | SYSTEMD)
    try:
        os.setxattr(root / "sys/fs/cgroup/a/b", "user.delegate", b"1")
    except OSError as error:
        pytest.skip(f"no attributes of files here: {error.strerror}")
    assert cgroups.site(root) == Site("v2", root / "sys/fs/cgroup/a/b")


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is closed to root")
def test_a_group_that_may_not_be_written_is_not_ours(tmp_path: Path) -> None:
    root = put(tmp_path, v2())
    (root / "sys/fs/cgroup/a/b/cgroup.procs").chmod(0o444)
    assert cgroups.site(root) is None


@pytest.mark.parametrize(
    "missing", [None, "run/systemd/system", "run/user/1000/bus", "var/lib/systemd/linger/you"]
)
def test_a_user_gets_a_group_from_systemd_only_if_it_outlives_the_login(
    tmp_path: Path, missing: str | None
) -> None:
    files = v2() | SYSTEMD | {"run/user/1000/bus": "", "var/lib/systemd/linger/you": ""}
    root = put(tmp_path, {name: text for name, text in files.items() if not missing or missing not in name})
    assert cgroups.systemd(root, YOU) == (None if missing else Systemd(root / "run/user/1000"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root is given a scope by the machine's systemd")
@pytest.mark.parametrize(
    ("limits", "asked"),
    [
        ({}, True),
        ({"a/memory.max": "max", "a/b/cpu.max": "max 100000"}, True),
        ({"a/memory.max": "8589934592"}, False),
        ({"a/b/memory.high": "8589934592"}, False),
        ({"a/b/cpu.max": "50000 100000"}, False),
    ],
)
def test_nobody_is_moved_out_of_limits_that_somebody_has_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limits: dict[str, str], asked: bool
) -> None:
    files = v2() | SYSTEMD | {f"sys/fs/cgroup/{name}": text for name, text in limits.items()}
    root, told = put(tmp_path, files), tmp_path / "told"
    put(tmp_path, {"bin/busctl": f"#!/bin/sh\n: >{told}\nexit 1\n"})
    (tmp_path / "bin/busctl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    assert cgroups.seek(root) is None
    assert told.exists() == asked


def test_of_orphaned_groups_only_those_of_the_dead_of_our_own_pids_are_swept(tmp_path: Path) -> None:
    me = processes.identity(ME)
    assert me is not None
    ours = cgroups._namespace()
    alive, dead = f"diffrhythm-{ours}.{ME}.{me.started}", f"diffrhythm-{ours}.{ME}.{me.started - 1}"
    others = [f"diffrhythm-{ours + 1}.{ME}.1", "diffrhythm-test-1", "user.slice"]
    for name in (alive, dead, f"{dead}.parent", *others):
        (tmp_path / name).mkdir()
    (tmp_path / dead / "1").mkdir()
    cgroups.sweep(Site("v1", tmp_path))
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted([alive, *others])


@pytest.mark.parametrize(
    ("kind", "files", "killed", "full"),
    [
        ("v2", {"memory.events": "low 0\nhigh 0\nmax 31\noom 1\noom_kill 2\noom_group_kill 1\n"}, 2, True),
        ("v2", {"memory.events": "max 31\noom 0\noom_kill 1\n"}, 1, False),
        ("v1", {"memory.oom_control": "under_oom 0\noom_kill 1\n", "memory.failcnt": "9\n"}, 1, True),
        ("v1", {"memory.oom_control": "under_oom 0\noom_kill 0\n", "memory.failcnt": "0\n"}, 0, False),
    ],
)
def test_a_group_tells_of_its_own_dead_and_whether_its_limit_was_why(
    tmp_path: Path, kind: cgroups.Kind, files: dict[str, str], killed: int, full: bool
) -> None:
    held = Group(kind, put(tmp_path, files), 1000).tell()
    assert held is not None
    assert (held.limit, held.killed, held.full) == (1000, killed, full)
    assert Group(kind, tmp_path / "nowhere", 1000).tell() is None


def test_where_no_group_can_be_made_there_is_none_and_nothing_breaks(tmp_path: Path) -> None:
    with cgroups.held(None, 1000) as songs:
        assert songs is None
    with cgroups.held(Site("v1", tmp_path / "nowhere"), 1000) as songs:
        assert songs is None
    assert Songs("v1", tmp_path / "nowhere", 1000).group(10) is None
    assert cgroups.seek(tmp_path) is None


@pytest.fixture
def unlimited() -> Iterator[Group]:
    """A real group of v2, with no controllers if need be."""
    for top in (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified")):
        folder = top / f"diffrhythm-test-{ME}"
        if (top / "cgroup.controllers").exists() and os.access(top, os.W_OK):
            folder.mkdir()
            yield Group("v2", folder, 0)
            folder.rmdir()
            return
    pytest.skip("no group of cgroup v2 can be made here")


def test_a_child_and_its_children_are_born_into_the_group_and_ended_with_it_at_a_stroke(
    tmp_path: Path, unlimited: Group
) -> None:
    if not (unlimited.folder / "cgroup.kill").exists():
        pytest.skip("this kernel has no cgroup.kill (before 5.14)")
    child = processes.spawn(
        [sys.executable, "-c", SLEEPERS],
        log=tmp_path / "log",
        mark="/test//",
        limits=processes.Limits(threads=1),
        env={},
        group=unlimited.entry,
    )
    wait_for(lambda: len(unlimited.members()) == 2)
    unlimited.kill()
    assert child.wait(timeout=120) == -9
    wait_for(lambda: not unlimited.members())


def test_a_child_whose_group_is_gone_sings_without_it(tmp_path: Path) -> None:
    child = processes.spawn(
        [sys.executable, "-c", "print('here')"],
        log=tmp_path / "log",
        mark="/test//",
        limits=processes.Limits(threads=1),
        env={},
        group=tmp_path / "gone" / "cgroup.procs",
    )
    assert child.wait(timeout=120) == 0
    assert (tmp_path / "log").read_text() == "here\n"
