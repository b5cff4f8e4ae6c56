"""A naughty child without torch: does what the script in its request's lyrics says, one word a line.

Runs in the worker's place: `python child.py REQUEST`. The words:
    steps N SECONDS      N steps of that length, each with a beat and a checkpoint (a text file with its step)
    pad KIB              every sound and checkpoint from here on is so much longer
    say-clip             write the path of its clip, and what that holds, to the log
    hang                 sleep for ever, with an alive thread that goes on beating
    freeze               stop all threads (SIGSTOP)
    spin                 compute for ever without progress
    ignore-term          ignore SIGTERM from here on
    fork / setsid / daemon   start a process that sleeps for ever: in the group, in its own session,
                         or doubly forked with an empty environment; each keeps the log open
    hold                 as daemon, with both ends of a pipe open besides
    eat MIB              take that much private memory and keep it
    breed MIB            start a process that takes that much; end with code 1 if it is killed
    map MIB              map a file of that size and read all of it, twice; end with code 1 if the second time
                         it had to come from the disk again
    cgroup PATH          join the control group of that path
    thrash MIB           take that much memory and touch its pages at random for ever
    touch N MIB          N steps of 0.05 s, each touching MIB of the memory that was eaten
    say-env NAME         write what that variable of the environment is to the log, as NAME=VALUE
    tell NAME            send the parent that signal
    ask                  ask for this song to be stopped
    lie                  end as made, with a sound that has another sum
    phase NAME           a beat of that phase
    slower RATIO         a beat that says that a pass takes as many times as long as the profile says
    mute                 beat not even once (anywhere in the script)
    garbage KIND         put what is no beat of this attempt (see GARBAGE) over the heartbeat; beat no more
    no-beat              from here on beat no more
    half NAME            write half of that file under its own name: sound, outcome, checkpoint, or the song's
                         final-sound, manifest
    fill [FILE]          write until its own limit of 1 MiB is full, or, to a FILE that stays, the disk; then
                         end as the worker does
    flood MIB            write so much to the log
    made                 write sound and outcome of a finished song, and go on with the script
    silent               leave no outcome
    wait PATH            write nothing until there is a file of that path
    slow-disk SECONDS    from here on every fsync takes so much longer
    clock-back           the clock on the wall is a day late from here on
    signal NAME          die of it
    exit N               end with that code at once
    fail CAUSE           end with an outcome of that cause
    only K               the rest of the script is for the first K attempts; later ones finish at once
Without an end in the script the song is made: a few bytes with the name of a wav. The log has a line
`process PID STARTED` of every process that there was.
"""

from __future__ import annotations

import errno
import hashlib
import json
import mmap
import os
import random
import resource
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from runner import processes
from runner.files import read_message, write_bytes, write_message
from runner.heartbeat import Pulse
from runner.messages import Cause, Outcome, Phase, SongRequest
from runner.songfolder import Attempt, SongFolder

SLEEPER = ["sleep", "3600"]
FULL = {errno.ENOSPC, errno.EFBIG}
# What a defect, a power loss or another program may leave where a beat should be; changes of a good one.
GARBAGE: dict[str, bytes | dict[str, Any]] = {
    "torn": b'{"schema": 1, "seq": \xff\xfe',
    "empty": b"",
    "newer": {"schema": 99},
    "untyped": {"step": "three"},
    "stranger": {"song": "night/another", "attempt": 1, "pid": 1, "phase": "write", "step": 10**6},
    "infinite": {"t": float("inf"), "eta_s": float("nan"), "progress_mono": float("inf")},
    "beyond": {"step": 10**400, "progress_mono": 10**400},
}


def slow_fsync(seconds: float) -> None:
    """Every fsync of this process takes so much longer, as on a disk that is busy or far away."""
    fsync = os.fsync

    def slow(handle: int) -> None:
        time.sleep(seconds)
        fsync(handle)

    os.fsync = slow  # type: ignore[assignment]


class Child:
    def __init__(self, paper: Path) -> None:
        self.request = read_message(paper, SongRequest)
        self.attempt, self.folder = Attempt(paper.parent), SongFolder(paper.parents[2])
        r = self.request
        self.pulse: Pulse | None = None
        if "mute" not in (r.lyrics or "").split():
            self.pulse = Pulse(self.folder.heartbeat, song=r.song, attempt=r.attempt, density=r.density)
        known(os.getpid())
        self.kept: list[bytearray] = []
        self.paces_s: list[float] = []
        self.step = 0
        self.padding = b""
        if r.checkpoint is not None:
            with suppress(ValueError):  # half a checkpoint costs its steps, as with the worker
                self.step = int(Path(r.checkpoint).read_text())

    def play(self) -> None:
        if self.request.mode == "estimate":
            self.finish(degraded="an early estimate")
            return
        number = self.request.attempt - self.request.series + 1
        for line in (self.request.lyrics or "").splitlines():
            word, *rest = line.split()
            if word == "only":
                if number > int(rest[0]):
                    break
                continue
            getattr(self, "do_" + word.replace("-", "_"))(*rest)
        self.finish()

    def finish(self, degraded: str | None = None) -> None:
        sound = self.attempt.audio(self.request.format)
        content = f"{self.request.seed} {self.step}".encode() + self.padding
        write_bytes(sound, content)
        if self.request.density < self.request.steps:
            degraded = f"{self.request.density} steps instead of {self.request.steps}"
        song = {
            "sha256": hashlib.sha256(content).hexdigest(),
            "degraded": degraded,
            "resumed_at": self.step,
            "precision": self.request.precision,
            "duration": self.request.duration,
        }
        write_message(self.attempt.outcome, Outcome(self.request.attempt, None, "made", song=song))

    def do_steps(self, count: str, seconds: str) -> None:
        if self.pulse is not None and self.step == 0:
            self.pulse.start()
        total = max(int(count), self.step)
        while self.step < total:
            time.sleep(float(seconds))
            self.step += 1
            write_bytes(self.attempt.checkpoint, str(self.step).encode() + self.padding)
            t = self.step / total
            with self.attempt.steps.open("a") as log:
                line = {"step": self.step, "steps": total, "t": t, "seconds": float(seconds)}
                log.write(json.dumps(line) + "\n")
            if self.pulse is not None:
                self.paces_s.append(float(seconds))
                self.pulse.progress(
                    phase="sample",
                    step=self.step,
                    steps=total,
                    t=t,
                    step_s=float(seconds),
                    paces_s=self.paces_s[-12:],
                    fastest_s=min(self.paces_s),
                )

    def do_hang(self) -> None:
        while True:
            time.sleep(3600)

    def do_freeze(self) -> None:
        os.kill(os.getpid(), signal.SIGSTOP)

    def do_spin(self) -> None:
        while True:
            pass

    def do_ignore_term(self) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def do_fork(self) -> None:
        known(subprocess.Popen(SLEEPER).pid)

    def do_setsid(self) -> None:
        known(subprocess.Popen(SLEEPER, start_new_session=True).pid)

    def do_daemon(self) -> None:
        between = os.fork()
        if between == 0:
            known(subprocess.Popen(SLEEPER, start_new_session=True, env={}).pid)
            os._exit(0)
        os.waitpid(between, 0)

    def do_hold(self) -> None:
        for end in os.pipe():
            os.set_inheritable(end, True)
        between = os.fork()
        if between == 0:
            known(subprocess.Popen(SLEEPER, start_new_session=True, env={}, close_fds=False).pid)
            os._exit(0)
        os.waitpid(between, 0)

    def do_eat(self, mib: str) -> None:
        for _ in range(int(mib)):
            self.kept.append(bytearray(os.urandom(4096)) * 256)

    def do_breed(self, mib: str) -> None:
        code = f"import os; kept = [bytearray(os.urandom(4096)) * 256 for _ in range({mib})]"
        if subprocess.run([sys.executable, "-c", code], check=False).returncode != 0:
            os._exit(1)

    def do_map(self, mib: str) -> None:
        file = self.attempt.folder / "weights"
        with file.open("wb") as weights:
            for _ in range(int(mib)):
                weights.write(os.urandom(1 << 20))
        with file.open("rb") as content, mmap.mmap(content.fileno(), 0, prot=mmap.PROT_READ) as mapped:
            for _ in range(2):
                before = resource.getrusage(resource.RUSAGE_SELF).ru_majflt
                offsets = range(0, len(mapped), 4096)
                sum(mapped[offset] for offset in random.sample(offsets, len(offsets)))
        if resource.getrusage(resource.RUSAGE_SELF).ru_majflt - before > 100:
            os._exit(1)

    def do_cgroup(self, path: str) -> None:
        Path(path, "cgroup.procs").write_text(str(os.getpid()))

    def do_thrash(self, mib: str) -> None:
        self.do_eat(mib)
        while True:
            self.touch(64)

    def do_say_clip(self) -> None:
        clip = Path(self.request.style_audio or "")
        print(f"clip {clip} {clip.read_text()}", flush=True)

    def do_pad(self, kib: str) -> None:
        self.padding = b" " * (int(kib) << 10)

    def do_touch(self, count: str, mib: str) -> None:
        for _ in range(int(count)):
            self.touch(int(mib))
            self.do_steps(str(self.step + 1), "0.05")

    def touch(self, mib: int) -> None:
        """Write to one byte of every page of that many mebibytes, chosen at random."""
        for _ in range(mib):
            block = random.choice(self.kept)
            for offset in range(0, len(block), 4096):
                block[offset] ^= 1

    def do_say_env(self, name: str) -> None:
        print(f"{name}={os.environ.get(name, '')}", flush=True)

    def do_tell(self, name: str) -> None:
        os.kill(os.getppid(), signal.Signals[name])

    def do_ask(self) -> None:
        self.folder.stop.touch()

    def do_lie(self) -> None:
        """Ends as made, with a sound of another sum."""
        self.finish()
        self.attempt.audio(self.request.format).write_bytes(b"something else")
        os._exit(0)

    def do_phase(self, name: Phase) -> None:
        if self.pulse is not None:
            self.pulse.progress(phase=name)

    def do_slower(self, ratio: str) -> None:
        if self.pulse is not None:
            self.pulse.progress(slower=float(ratio))

    def do_mute(self) -> None:
        """Done by not beating at the start."""

    def do_garbage(self, kind: str = "torn") -> None:
        self.pulse = None
        beat = self.folder.heartbeat
        if kind == "huge":
            with beat.open("wb") as file:
                file.truncate(65 << 20)
            return
        content = GARBAGE[kind]
        if isinstance(content, dict):
            good = json.loads(beat.read_bytes()) if beat.exists() else {"schema": 1}
            content = json.dumps(good | content).encode()
        beat.write_bytes(content)

    def do_half(self, name: str) -> None:
        whole = {
            "sound": (self.attempt.audio("wav"), "seed and"),
            "outcome": (self.attempt.outcome, '{"schema": 1, "attempt": 1, "cause": null, "mess'),
            "checkpoint": (self.attempt.checkpoint, "\x00\x01"),
            "final-sound": (self.folder.audio("wav"), "seed and"),
            "manifest": (self.folder.manifest, '{"schema": 1, "state": "done", "file'),
        }
        path, content = whole[name]
        path.write_text(content)

    def do_fill(self, file: str = "") -> None:
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard if file else 1 << 20, hard))
        temporary = Path(file) if file else self.attempt.folder / ".song.wav.half.tmp"
        try:
            with temporary.open("wb", buffering=0) as sink:
                while True:
                    sink.write(bytes(1 << 16))
        except OSError as error:
            if error.errno not in FULL:
                raise
            print(error, flush=True)
        if not self.attempt.outcome.exists():
            if not file:
                temporary.unlink()
            words = os.strerror(errno.ENOSPC)
            with suppress(OSError):
                write_message(self.attempt.outcome, Outcome(self.request.attempt, "no-disk", words))
        os._exit(5)

    def do_flood(self, mib: str) -> None:
        line = b"no end of words\n" * 4096
        for _ in range(int(mib) << 4):
            os.write(1, line)

    def do_made(self) -> None:
        self.finish()

    def do_no_beat(self) -> None:
        self.pulse = None

    def do_silent(self) -> None:
        os._exit(0)

    def do_wait(self, path: str) -> None:
        while not Path(path).exists():
            time.sleep(0.02)

    def do_slow_disk(self, seconds: str) -> None:
        slow_fsync(float(seconds))

    def do_clock_back(self) -> None:
        now = time.time
        time.time = lambda: now() - 86_400.0

    def do_signal(self, name: str) -> None:
        number = int(name) if name.isdecimal() else signal.Signals[name]
        with suppress(OSError):  # SIGKILL; Python itself ignores SIGPIPE and SIGXFSZ
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        time.sleep(10)

    def do_exit(self, code: str) -> None:
        os._exit(int(code))

    def do_fail(self, cause: Cause) -> None:
        write_message(self.attempt.outcome, Outcome(self.request.attempt, cause, f"failed by {cause}"))
        os._exit(1)


def known(pid: int) -> None:
    who = processes.identity(pid)
    print(f"process {pid} {who.started if who else 0}", flush=True)


if __name__ == "__main__":
    Child(Path(sys.argv[1])).play()
