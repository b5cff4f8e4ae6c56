"""What was asked, as a fingerprint; what was made, as song.json; and whether the one is the other."""

from __future__ import annotations

import hashlib
import json
import platform
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from runner import __version__, machine
from runner.errors import ForeignFileError
from runner.files import opened, read_json, write_json
from runner.messages import Outcome, SongAnswer, SongRequest
from runner.processes import MAX_FILE_BYTES
from runner.songfolder import SongFolder
from runner.spec import Song

SCHEMA = 1


def fingerprint(song: Song, answer: SongAnswer) -> str:
    """SHA-256 of what was asked: content, not paths; not the machine, the arithmetic or our version.

    A seed that was not asked for is none here: the one drawn belongs to the making. Nor are steps that were
    left to the machine (preset auto), or the grid that its tuned model has for them.
    """
    asked: dict[str, Any] = {
        "model": answer.model_hash,
        "lyrics": song.lyrics,
        "style": song.style,
        "style_audio": sha256(song.style_audio) if song.style_audio else None,
        "negative_style": song.negative_style,
        "duration": answer.duration,
        "seed": song.seed,
        "steps": "auto" if song.preset == "auto" and song.steps is None else answer.steps,
        "cfg": answer.cfg,
        "sampler": answer.sampler,
        "language": song.language,
        "lyrics_compat": song.lyrics_compat,
        "format": song.format,
        "bits": song.bits,
        "loudness": song.loudness,
        "take": song.take,
    }
    if song.edit_source is not None:
        asked["edit"] = {"source": sha256(song.edit_source), "spans": song.edit_spans}
    if song.window is not None and song.window < answer.duration:
        asked["window"] = song.window
    if song.fade_out is not None:
        asked["fade_out"] = song.fade_out
    return hashlib.sha256(json.dumps(asked, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def sha256(path: Path) -> str:
    with opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write(
    folder: SongFolder, request: SongRequest, answer: SongAnswer, outcomes: list[Outcome], sound: Path
) -> dict[str, Any]:
    """Write song.json for a sound that already has its final name; the manifest is what makes it done."""
    last = outcomes[-1]
    content: dict[str, Any] = {
        "schema": SCHEMA,
        "song": folder.id,
        "state": "degraded" if last.song.get("degraded") else "done",
        "degraded": last.song.get("degraded"),
        "file": sound.name,
        "sha256": sha256(sound),
        "demo": answer.demo,
        "seed": request.seed,
        "fingerprint": request.fingerprint,
        "model_hash": answer.model_hash,
        "request": asdict(request),
        "attempts": [
            {
                key: value
                for key, value in asdict(outcome).items()
                if key not in ("song", "evidence", "memory", "schema")
            }
            for outcome in outcomes
        ],
        "seconds": round(sum(outcome.elapsed_s for outcome in outcomes), 3),
        "peak_rss": max(outcome.peak_rss for outcome in outcomes),
        "peak_swap": max(outcome.peak_swap for outcome in outcomes),
        "runner": __version__,
        "machine": {
            "system": platform.platform(),
            "python": platform.python_version(),
            **machine.name(),
        },
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    # What its maker tells besides; of what is ours, an engine of somebody else's has no say.
    content |= {key: value for key, value in last.song.items() if key not in content}
    write_json(folder.manifest, content)
    return content


def finished(folder: SongFolder, fingerprint: str) -> dict[str, Any] | None:
    """The manifest of a song that was made as asked and whose sound is intact; else None."""
    try:
        content = read_json(folder.manifest)
        sound = folder.folder / Path(content["file"]).name
        if content["state"] not in ("done", "degraded") or content["fingerprint"] != fingerprint:
            return None
        # No child of ours can have written a larger one.
        is_whole = sound.stat().st_size <= MAX_FILE_BYTES and content["sha256"] == sha256(sound)
        return content if is_whole else None
    except (OSError, ForeignFileError, KeyError, TypeError, ValueError):
        return None
