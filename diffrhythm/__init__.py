"""DiffRhythm on a CPU: lyrics and a style become a song.

    model = diffrhythm.load("demo")
    song = diffrhythm.generate(model, lyrics="[00:01.00]Good night, harbour", style="folk, guitar")
    song.write("good-night.wav")

Importing this package does not import torch; the names below are loaded on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffrhythm.bundle import Bundle, load
    from diffrhythm.editing import Edit
    from diffrhythm.errors import DiffRhythmError
    from diffrhythm.events import Event
    from diffrhythm.generate import Song, generate

__all__ = ["Bundle", "DiffRhythmError", "Edit", "Event", "Song", "generate", "load"]

_HOMES = {
    "Bundle": "diffrhythm.bundle",
    "DiffRhythmError": "diffrhythm.errors",
    "Edit": "diffrhythm.editing",
    "Event": "diffrhythm.events",
    "Song": "diffrhythm.generate",
    "generate": "diffrhythm.generate",
    "load": "diffrhythm.bundle",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'diffrhythm' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """What an editor or a notebook offers after the dot."""
    return __all__
