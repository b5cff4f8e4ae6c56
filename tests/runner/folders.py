"""Outputs as a batch and its children leave them, written with the same functions that they use."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from runner.files import write_json, write_message
from runner.messages import Batch, Cause, Heartbeat, Outcome, QueuedSong, SongRequest
from runner.processes import Identity, boot_id, identity
from runner.songfolder import Attempt, Outputs, SongFolder

REQUEST = SongRequest(
    song="night/rain",
    attempt=1,
    series=1,
    fingerprint="f",
    model="demo",
    model_hash="m",
    lyrics=None,
    lyrics_source="",
    lyrics_first_line=1,
    style="pop",
    style_audio=None,
    negative_style=None,
    duration=95.0,
    seed=7,
    steps=32,
    cfg=4.0,
    sampler="euler",
    language="en",
    lyrics_compat="no",
    format="wav",
    bits=16,
    loudness=None,
    density=32,
    precision="fp32",
    threads=1,
    chunk_frames=128,
    checkpoint=None,
    foresight=True,
    timeout_s=2400.0,
)

# Nobody has these: pids end far below, and no boot has this name.
DEAD = Identity(2**30, 1, "a boot of long ago")


def me() -> Identity:
    who = identity(os.getpid())
    assert who is not None
    return who


@contextmanager
def child(code: str = "import time; time.sleep(600)") -> Iterator[Identity]:
    """A process that runs code, until the block ends."""
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        try:
            who = identity(process.pid)
            assert who is not None
            yield who
        finally:
            process.kill()


def beat_of(who: Identity, **changes: Any) -> Heartbeat:
    """A healthy beat of this moment: step 8 of 32, two seconds each."""
    now = time.monotonic()
    beat = Heartbeat(
        seq=9,
        song="night/rain",
        attempt=1,
        pid=who.pid,
        pid_started=who.started,
        boot_id=who.boot_id,
        phase="sample",
        step=8,
        steps=32,
        density=32,
        passes=16,
        t=0.25,
        wall=time.time(),
        progress_mono=now,
        alive_mono=now,
        cpu_s=0.0,
        step_s=2.0,
        eta_s=48.0,
        rss=3 * 2**30,
        swap=0,
        major_faults=0,
        latent_std=0.9,
        note="",
    )
    return replace(beat, **changes)


def write_batch(
    outputs: Outputs, songs: Sequence[QueuedSong], *, parent: Identity | None = None, finished: bool = False
) -> None:
    parent = parent or me()
    outputs.folder.mkdir(parents=True, exist_ok=True)
    began = time.time() - 60
    write_message(
        outputs.batch,
        Batch(
            pid=parent.pid,
            pid_started=parent.started,
            boot_id=parent.boot_id,
            started_wall=began,
            finished_wall=began + 50 if finished else None,
            workers=2,
            songs=list(songs),
        ),
    )


def add_attempt(song: SongFolder, cause: Cause | None = None, message: str = "", **request: Any) -> Attempt:
    """One more attempt; with a cause it has ended, else it runs."""
    attempt = song.new_attempt()
    write_message(attempt.request, replace(REQUEST, song=song.id, attempt=attempt.number, **request))
    if cause is not None:
        write_message(attempt.outcome, Outcome(attempt.number, cause, message, density=32, elapsed_s=60.0))
    return attempt


def write_manifest(song: SongFolder, *, series: int = 1, **changes: Any) -> None:
    song.folder.mkdir(parents=True, exist_ok=True)
    content = {"schema": 1, "state": "done", "degraded": None, "file": "song.wav", "seconds": 734.5}
    write_json(song.manifest, content | {"request": {"series": series}} | changes)


def moment(offset_s: float = 0.0) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(time.time() + offset_s))


def write_song(outputs: Outputs, id: str = "night/rain", **changes: Any) -> SongFolder:
    """A song that was made a moment ago, with something in the place of its sound."""
    song = outputs.song(id)
    request = {"series": 1, "attempt": 1, "style": "pop", "lyrics": "words", "steps": 12, "cfg": 3.0}
    content = {
        "request": request,
        "seed": 7,
        "duration": 30.0,
        "finished": moment(),
        "lines": [{"start": 2.0, "text": "first line"}, {"start": 4.5, "text": "second line"}],
        "outline": [1, 50, 100],
    }
    write_manifest(song, **content | changes)
    song.audio("wav").write_bytes(b"la")
    return song


def write_failure(song: SongFolder, message: str, *, series: int = 1, cause: Cause = "timeout") -> None:
    song.folder.mkdir(parents=True, exist_ok=True)
    write_json(
        song.failure,
        {"schema": 1, "state": "failed", "cause": cause, "message": message, "series": series},
    )


def this_boot() -> str:
    return boot_id()


def outputs_in(folder: Path) -> Outputs:
    outputs = Outputs(folder / "outputs")
    outputs.folder.mkdir()
    return outputs
