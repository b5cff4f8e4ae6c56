"""A naughty child without torch: does what the script in its request's lyrics says, one word a line.

Runs in the worker's place: `python child.py REQUEST`. The words:
    steps N SECONDS      N steps of that length, each with a beat and a checkpoint (a text file with its step)
    hang                 sleep for ever, with an alive thread that goes on beating
    freeze               stop all threads (SIGSTOP)
    spin                 compute for ever without progress
    ignore-term          ignore SIGTERM from here on
    fork / setsid / daemon   start a process that sleeps for ever: in the group, in its own session,
                         or doubly forked with an empty environment
    eat MIB              take that much private memory and keep it
    breed MIB            start a process that takes that much; end with code 1 if it is killed
    map MIB              map a file of that size and read all of it, twice; end with code 1 if the second time
                         it had to come from the disk again
    cgroup PATH          join the control group of that path
    thrash MIB           take that much memory and touch its pages at random for ever
    touch N MIB          N steps of 0.05 s, each touching MIB of the memory that was eaten
    lie                  end as made, with a sound that has another sum
    garbage              write bytes that are no beat over the heartbeat
    no-beat              from here on beat no more
    silent               leave no outcome
    signal NAME          die of it
    exit N               end with that code at once
    fail CAUSE           end with an outcome of that cause
    only K               the rest of the script is for the first K attempts; later ones finish at once
Without an end in the script the song is made: a few bytes with the name of a wav.
"""

from __future__ import annotations

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
from pathlib import Path

from runner.files import read_message, write_message
from runner.heartbeat import Pulse
from runner.messages import Cause, Outcome, SongRequest
from runner.songfolder import Attempt, SongFolder

SLEEPER = [sys.executable, "-c", "import time; time.sleep(3600)"]


class Child:
    def __init__(self, paper: Path) -> None:
        self.request = read_message(paper, SongRequest)
        self.attempt, self.folder = Attempt(paper.parent), SongFolder(paper.parents[2])
        r = self.request
        self.pulse: Pulse | None = Pulse(
            self.folder.heartbeat, song=r.song, attempt=r.attempt, density=r.density
        )
        self.kept: list[bytearray] = []
        self.step = 0
        if r.checkpoint is not None:
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
        content = f"{self.request.seed} {self.step}".encode()
        sound.write_bytes(content)
        if self.request.density < self.request.steps:
            degraded = f"{self.request.density} steps instead of {self.request.steps}"
        song = {"sha256": hashlib.sha256(content).hexdigest(), "degraded": degraded, "resumed_at": self.step}
        write_message(self.attempt.outcome, Outcome(self.request.attempt, None, "made", song=song))

    def do_steps(self, count: str, seconds: str) -> None:
        if self.pulse is not None and self.step == 0:
            self.pulse.start()
        total = max(int(count), self.step)
        while self.step < total:
            time.sleep(float(seconds))
            self.step += 1
            temporary = self.attempt.checkpoint.with_suffix(".tmp")
            temporary.write_text(str(self.step))
            temporary.replace(self.attempt.checkpoint)
            t = self.step / total
            with self.attempt.steps.open("a") as log:
                log.write(json.dumps({"step": self.step, "t": t}) + "\n")
            if self.pulse is not None:
                self.pulse.progress(phase="sample", step=self.step, steps=total, t=t, step_s=float(seconds))

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
        subprocess.Popen(SLEEPER)

    def do_setsid(self) -> None:
        subprocess.Popen(SLEEPER, start_new_session=True)

    def do_daemon(self) -> None:
        code = f"import subprocess; subprocess.Popen({SLEEPER!r}, start_new_session=True, env={{}})"
        subprocess.run([sys.executable, "-c", code], check=True)

    def do_eat(self, mib: str) -> None:
        for _ in range(int(mib)):
            self.kept.append(bytearray(os.urandom(4096)) * 256)

    def do_breed(self, mib: str) -> None:
        code = f"import os; kept = [bytearray(os.urandom(4096)) * 256 for _ in range({mib})]"
        if subprocess.run([sys.executable, "-c", code], check=False).returncode != 0:
            os._exit(1)

    def do_map(self, mib: str) -> None:
        file = self.attempt.folder / "weights"
        with file.open("wb") as content:
            for _ in range(int(mib)):
                content.write(os.urandom(1 << 20))
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

    def do_lie(self) -> None:
        """Ends as made, with a sound of another sum."""
        self.finish()
        self.attempt.audio(self.request.format).write_bytes(b"something else")
        os._exit(0)

    def do_garbage(self) -> None:
        self.pulse = None
        self.folder.heartbeat.write_bytes(b'{"schema": 1, "seq": \xff\xfe')

    def do_no_beat(self) -> None:
        self.pulse = None

    def do_silent(self) -> None:
        os._exit(0)

    def do_signal(self, name: str) -> None:
        os.kill(os.getpid(), signal.Signals[name])
        time.sleep(10)

    def do_exit(self, code: str) -> None:
        os._exit(int(code))

    def do_fail(self, cause: Cause) -> None:
        write_message(self.attempt.outcome, Outcome(self.request.attempt, cause, f"failed by {cause}"))
        os._exit(1)


if __name__ == "__main__":
    Child(Path(sys.argv[1])).play()
