"""A generator that is none of ours: sines, one more each step. It knows docs/reference/worker.md alone.

Nothing of the runner is imported: this is what somebody writes who wants another engine driven by it.
`engine.py check PAPER` and `engine.py sing REQUEST`.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import struct
import sys
import threading
import time
import traceback
import wave
from pathlib import Path
from typing import Any

RATE = 8_000
Json = dict[str, Any]


def put(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Whole, or not at all."""
    half = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with half.open("wb") as file:
        file.write(content)
        if durable:
            file.flush()
            os.fsync(file.fileno())
    half.replace(path)


def put_json(path: Path, content: Json, *, durable: bool = True) -> None:
    put(path, json.dumps(content).encode(), durable=durable)


def check(paper: Path) -> int:
    asked = json.loads(paper.read_bytes())
    put_json(paper, asked | {"answers": [answer(question) for question in asked["questions"]]})
    return 0


def answer(question: Json) -> Json:
    seconds = question["duration"] or 2.0
    problems = [] if seconds <= 10 else [f"{seconds:g} s: duration: this engine makes 10 s at the most"]
    return {
        "song": question["song"],
        "problems": problems,
        "warnings": [],
        "duration": seconds,
        "steps": question["steps"] or 8,
        "cfg": 1.0,
        "precision": "fp32",
        "model_hash": "sines-1",
        "choice": "sines",
        "private_bytes": 50_000_000,
    }


class Beats:
    """A beat at each step, and one a second in between that says no more than: still here."""

    def __init__(self, path: Path, request: Json) -> None:
        self.path, self.lock = path, threading.Lock()
        pid = os.getpid()
        with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123
            started = int(file.read().rpartition(")")[2].split()[19])
        self.beat: Json = {
            "schema": 1,
            "seq": 0,
            "song": request["song"],
            "attempt": request["attempt"],
            "pid": pid,
            "pid_started": started,
            "boot_id": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
            "phase": "load",
            "step": 0,
            "steps": request["density"],
            "density": request["density"],
            "passes": 0,
            "t": None,
            "step_s": None,
            "eta_s": None,
            "rss": 0,
            "swap": 0,
            "major_faults": 0,
            "latent_std": None,
            "note": "",
        }
        self.progress()
        threading.Thread(target=self.go_on, daemon=True).start()

    def progress(self, **changes: Any) -> None:
        self.send(progress_mono=time.monotonic(), **changes)

    def go_on(self) -> None:
        while True:
            time.sleep(1.0)
            self.send()

    def send(self, **changes: Any) -> None:
        with self.lock:
            self.beat |= changes | {
                "seq": self.beat["seq"] + 1,
                "wall": time.time(),
                "alive_mono": time.monotonic(),
                "cpu_s": time.process_time(),
            }
            put_json(self.path, self.beat, durable=False)


def sing(paper: Path) -> int:
    request = json.loads(paper.read_bytes())
    attempt = paper.parent
    try:
        song, t = make(request, attempt)
        outcome = {"cause": None, "message": "made", "t": t, "song": song}
        code = 0
    except ValueError as error:
        traceback.print_exc()
        outcome, code = {"cause": "bad-input", "message": str(error)}, 3
    except OSError as error:
        traceback.print_exc()
        outcome, code = {"cause": "no-disk", "message": str(error)}, 5
    put_json(attempt / "outcome.json", {"schema": 1, "attempt": request["attempt"]} | outcome)
    return code


def make(request: Json, attempt: Path) -> tuple[Json, float]:
    if problems := answer(request)["problems"]:
        raise ValueError(problems[0])
    beats = Beats(attempt.parents[1] / "heartbeat.json", request)
    state = resumed(request)
    while request["mode"] == "sing" and state["t"] < 1:
        began = time.monotonic()
        state = step(state, request)
        put_json(attempt / "checkpoint.safetensors", state)  # its name, whatever is in it
        with (attempt / "steps.jsonl").open("a") as log:
            log.write(json.dumps({"t": state["t"]}) + "\n")
        took = time.monotonic() - began
        beats.progress(phase="sample", step=len(state["partials"]), t=state["t"], step_s=took)
    beats.progress(phase="write")
    sound = attempt / f"song.{request['format']}"
    content = waves(state["partials"], request["duration"] or 2.0)
    with wave.open(str(sound), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes(content)
    fewer = len(state["partials"]) < request["steps"]
    return {
        "sha256": hashlib.sha256(sound.read_bytes()).hexdigest(),
        "degraded": f"{len(state['partials'])} partials instead of {request['steps']}" if fewer else None,
        "duration": request["duration"],
        "precision": "fp32",
    }, state["t"]


def resumed(request: Json) -> Json:
    """Where an earlier attempt was; from the beginning where that cannot be read."""
    try:
        state = json.loads(Path(request["checkpoint"]).read_bytes())
        return {"t": float(state["t"]), "partials": [float(each) for each in state["partials"]]}
    except (TypeError, KeyError, ValueError, OSError):
        return {"t": 0.0, "partials": []}


def step(state: Json, request: Json) -> Json:
    """One partial more, of so many as fit into [0, 1] at this density."""
    time.sleep(float(os.environ.get("DIFFRHYTHM_ENGINE_STEP_S", "0.02")))
    number = len(state["partials"])
    draw = random.Random(f"{request['seed']} {number}")
    t = state["t"] + 1 / request["density"]
    return {"t": 1.0 if t > 1 - 1e-9 else t, "partials": [*state["partials"], draw.uniform(100, 2000)]}


def waves(partials: list[float], seconds: float) -> bytes:
    loud = 20_000 / max(1, len(partials))
    samples = (
        int(loud * sum(math.sin(2 * math.pi * hertz * n / RATE) for hertz in partials))
        for n in range(int(RATE * seconds))
    )
    return b"".join(struct.pack("<h", sample) for sample in samples)


if __name__ == "__main__":
    sys.exit({"check": check, "sing": sing}[sys.argv[1]](Path(sys.argv[2])))
