"""Real processes only: who lives, what binds a child, and that nothing of a tree is left."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from folders import me

from runner import processes
from runner.processes import Identity, Limits
from tests.faults.batches import wait_for

SLEEP = "import time; time.sleep(600)"
SLEEPER = [sys.executable, "-S", "-c", SLEEP]
# Each writes "ready" once its processes are there.
READY = f"import subprocess, sys, time; S = [sys.executable, '-S', '-c', {SLEEP!r}]\n"
GROUP = READY + "subprocess.Popen(S); print('ready'); time.sleep(600)"
SETSID = READY + "subprocess.Popen(S, start_new_session=True); print('ready'); time.sleep(600)"
# The sleeper's own parent ends at once, and its environment is empty.
DAEMON = READY + "subprocess.Popen(S, start_new_session=True, env={}); print('ready')"
DEAF = READY + "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready'); time.sleep(600)"
POLITE = READY + (
    "import signal; signal.signal(signal.SIGTERM, lambda *_: (print('saved'), sys.exit(7)))\n"
    "print('ready'); time.sleep(600)"
)
LIMITS = Limits(threads=3, nice=5, file_bytes=1 << 20, oom_score_adj=321)


@pytest.fixture
def mark() -> str:
    return f"/test/{uuid.uuid4()}//"


@pytest.fixture(autouse=True)
def no_trace(mark: str) -> Iterator[None]:
    yield
    left = processes.marked(mark)
    processes.signal_all(left, signal.SIGKILL)
    assert left == []


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


@contextmanager
def spawned(code: str, log: Path, mark: str, limits: Limits = LIMITS) -> Iterator[subprocess.Popen[bytes]]:
    """A child in the state that it writes "ready" in; ended with the block."""
    process = processes.spawn([sys.executable, "-S", "-c", code], log=log, mark=mark, limits=limits, env={})
    try:
        wait_for(lambda: "ready" in log.read_text())
        yield process
    finally:
        process.kill()
        process.wait()


def of(process: subprocess.Popen[bytes]) -> Identity:
    who = processes.identity(process.pid)
    assert who is not None
    return who


def end(find: Callable[[], list[Identity]], grace_s: float, **more: Callable[[], bool]) -> list[Identity]:
    return asyncio.run(processes.end_tree(find, grace_s=grace_s, **more))


# ---------------------------------------------------------------- who lives


def test_this_process_is_itself_and_alive() -> None:
    assert processes.identity(os.getpid()) == me()
    assert processes.is_alive(me())


def test_a_pid_that_is_used_again_or_of_another_boot_is_another_process() -> None:
    assert not processes.is_alive(replace(me(), started=me().started - 1))
    assert not processes.is_alive(replace(me(), boot_id="an earlier boot"))


def test_a_zombie_and_a_pid_without_a_process_live_no_more() -> None:
    with subprocess.Popen(["true"]) as process:
        wait_for(lambda: processes.identity(process.pid) is None)
        assert Path(f"/proc/{process.pid}").exists()  # not yet waited for
    assert processes.identity(process.pid) is None


def test_a_name_with_spaces_and_parentheses_does_not_confuse(tmp_path: Path) -> None:
    program = tmp_path / "a) R 1 (b"
    program.symlink_to("/bin/sleep")
    with subprocess.Popen([program, "600"]) as process:
        wait_for(lambda: Path(f"/proc/{process.pid}/comm").read_text().strip() == "a) R 1 (b")
        who = of(process)
        assert processes.is_alive(who)
        assert process.pid in processes.children()
        process.kill()


# ---------------------------------------------------------------- what binds a child


def test_a_childs_limits_are_set_before_it_runs(log: Path, mark: str) -> None:
    with spawned("print('ready'); " + SLEEP, log, mark) as process:
        pid = process.pid
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        assert resource.prlimit(pid, resource.RLIMIT_CORE) == (0, 0)
        assert resource.prlimit(pid, resource.RLIMIT_FSIZE) == (1 << 20, 1 << 20)
        assert int(stat[2]) == int(stat[3]) == pid  # a group and a session of its own
        assert int(stat[16]) == os.getpriority(os.PRIO_PROCESS, 0) + 5
        assert Path(f"/proc/{pid}/oom_score_adj").read_text().strip() in ("321", own_oom_score())
        assert {b"OMP_NUM_THREADS=3", b"MKL_NUM_THREADS=3", b"PYTHONUNBUFFERED=1"} <= set(environment)
        assert Path(f"/proc/{pid}/fd/0").readlink() == Path("/dev/null")


def own_oom_score() -> str:
    return Path("/proc/self/oom_score_adj").read_text().strip()


def test_what_a_child_says_on_both_streams_is_added_to_its_log(log: Path, mark: str) -> None:
    log.write_text("earlier\n")
    code = "import sys; print('out'); print('err', file=sys.stderr); print('ready'); " + SLEEP
    with spawned(code, log, mark):
        assert log.read_text() == "earlier\nout\nerr\nready\n"


def test_a_file_that_grows_beyond_its_bound_is_an_error_of_the_child_and_not_its_death(
    tmp_path: Path, log: Path, mark: str
) -> None:
    code = (
        f"try: open({str(tmp_path / 'wild')!r}, 'wb').write(bytes(2 << 20))\n"
        f"except OSError as error: print(error.strerror, 'ready')\n{SLEEP}"
    )
    with spawned(code, log, mark):
        assert log.read_text() == "File too large ready\n"


def test_a_child_dies_with_the_process_that_spawned_it(tmp_path: Path, log: Path, mark: str) -> None:
    code = (
        "import sys, time; from pathlib import Path; from runner import processes\n"
        f"child = processes.spawn({SLEEPER!r}, log=Path({str(log)!r}), mark={mark!r},"
        " limits=processes.Limits(threads=1), env={})\n"
        "print(child.pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert processes.identity(pid) is not None
        parent.kill()
    wait_for(lambda: processes.identity(pid) is None)


# ---------------------------------------------------------------- finding a tree


def test_the_mark_finds_a_child_and_its_descendants_by_any_beginning_of_it(log: Path, mark: str) -> None:
    with spawned(SETSID, log, f"{mark}song/1|") as process:
        found = processes.marked(mark)
        assert of(process) in found
        assert len(found) == 2
        assert processes.marked(f"{mark}song/2|") == []
        end(lambda: processes.marked(mark), 0.0)


def test_the_mark_never_finds_this_process_itself(mark: str) -> None:
    code = f"from runner import processes; print(processes.marked({mark!r}))"
    environment = os.environ | {processes.MARK: mark}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("code", [GROUP, SETSID], ids=["in its group", "in a session of its own"])
def test_a_tree_holds_the_leader_and_its_descendants_and_not_us(code: str, log: Path, mark: str) -> None:
    with spawned(code, log, "no mark//") as process:
        found = processes.tree(of(process), mark)
        assert of(process) in found
        assert len(found) == 2
        assert me() not in found
        assert end(lambda: processes.tree(of(process), mark) if process.poll() is None else [], 0.0) == []


def test_a_tree_whose_leader_has_died_is_found_by_its_group(log: Path, mark: str) -> None:
    with spawned(GROUP, log, "no mark//") as process:
        leader = of(process)
        process.kill()
        process.wait()
        (left,) = processes.tree(leader, mark)
        assert left != leader
        assert end(lambda: processes.tree(leader, mark), 0.0) == []
        assert not processes.is_alive(left)


def test_a_stranger_with_the_leaders_pid_is_not_taken_for_the_tree(log: Path, mark: str) -> None:
    with spawned("print('ready'); " + SLEEP, log, "no mark//") as process:
        dead = replace(of(process), started=of(process).started - 1)
        assert processes.tree(dead, mark) == []


# ---------------------------------------------------------------- ending a tree


def test_grace_lets_a_child_save_its_state(log: Path, mark: str) -> None:
    with spawned(POLITE, log, mark) as process:
        assert end(lambda: processes.tree(of(process), mark) if process.poll() is None else [], 60.0) == []
        assert process.wait() == 7
        assert log.read_text() == "ready\nsaved\n"


def test_a_child_that_ignores_the_first_signal_is_killed_with_all_of_its_tree(log: Path, mark: str) -> None:
    with spawned(DEAF, log, mark) as process:
        leader = of(process)
        assert end(lambda: processes.tree(leader, mark), 0.1) == []
        assert process.wait() == -signal.SIGKILL


def test_a_stopped_child_is_ended_too(log: Path, mark: str) -> None:
    with spawned(POLITE, log, mark) as process:
        leader = of(process)
        process.send_signal(signal.SIGSTOP)
        assert end(lambda: processes.tree(leader, mark), 60.0) == []
        assert process.wait() == 7


def test_hurry_cuts_the_grace_short(log: Path, mark: str) -> None:
    asked: list[bool] = []

    def hurry() -> bool:
        asked.append(True)
        return len(asked) > 3

    with spawned(DEAF, log, mark) as process:
        leader = of(process)
        assert end(lambda: processes.tree(leader, mark), 3600.0, hurry=hurry) == []
        assert process.wait() == -signal.SIGKILL
        assert len(asked) == 4


def test_who_was_seen_once_is_pursued_when_it_is_found_no_more(log: Path, mark: str) -> None:
    with spawned(DEAF, log, mark) as process:
        sightings = [[of(process)]]
        assert end(lambda: sightings.pop() if sightings else [], 0.0) == []
        assert process.wait() == -signal.SIGKILL


def test_the_end_of_nothing_is_nothing() -> None:
    assert end(list, 3600.0) == []


def test_signals_go_to_no_stranger_with_the_pid(log: Path, mark: str) -> None:
    with spawned("print('ready'); " + SLEEP, log, mark) as process:
        processes.signal_all([replace(of(process), started=1)], signal.SIGKILL)
        assert processes.is_alive(of(process))


# ---------------------------------------------------------------- orphans

ADOPTS = """
import os, signal, subprocess, sys
from runner import processes
own = subprocess.Popen(["true"])                   # ends, and is a zombie until its Popen asks
processes.adopt_orphans()
subprocess.run([sys.executable, "-S", "-c", {daemon!r}], stdout=subprocess.DEVNULL)
stray, = processes.adopted({{own.pid}})
assert processes.children() == {{own.pid, stray.pid}}
processes.reap_adopted({{own.pid}})                # takes no exit of who lives
assert processes.is_alive(stray)
os.kill(stray.pid, signal.SIGKILL)
while processes.identity(stray.pid) or processes.identity(own.pid):
    pass
assert processes.adopted({{own.pid}}) == []
assert processes.children() == {{own.pid, stray.pid}}
processes.reap_adopted({{own.pid}})
assert processes.children() == {{own.pid}}
assert own.wait() == 0
"""


def test_an_orphan_that_comes_to_us_is_found_and_its_exit_taken_and_our_own_childs_is_not() -> None:
    code = ADOPTS.format(daemon=DAEMON)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
