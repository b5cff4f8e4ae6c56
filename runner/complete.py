"""What a shell offers after the tab key. Quick, and silent whatever it finds: nothing but files is read."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import get_args

import typer

from runner.errors import RunnerError
from runner.files import read_message
from runner.messages import Batch, Format, Precision, Preset
from runner.songfolder import Outputs

MODELS = ("demo", "diffrhythm-1.2", "diffrhythm-1.2-full")
# A shell may evaluate what it is offered, and anybody can have named a folder.
_HARMLESS = re.compile(r"\w[\w./-]*")


def songs(ctx: typer.Context, incomplete: str) -> list[str]:
    """Songs of the results' folder and of its newest batch."""
    outputs = _outputs(ctx)
    ids: set[str] = set()
    with suppress(OSError):
        ids |= {song.id for song in outputs.songs()}
    with suppress(OSError, RunnerError):
        ids |= {song.song for song in read_message(outputs.batch, Batch).songs}
    return _offered(ids, incomplete)


def made_songs(ctx: typer.Context, incomplete: str) -> list[str]:
    """Finished ones."""
    with suppress(OSError):
        there = _outputs(ctx).songs()
        made = {song.id for song in there if song.manifest.exists()}
        return _offered({song.id for song in there}, incomplete, made)
    return []


def models(incomplete: str) -> list[str]:
    return _beginning(MODELS, incomplete)


def published_models(incomplete: str) -> list[str]:
    return _beginning(MODELS[1:], incomplete)


def presets(incomplete: str) -> list[str]:
    return _beginning(get_args(Preset), incomplete)


def precisions(incomplete: str) -> list[str]:
    return _beginning(get_args(Precision), incomplete)


def formats(incomplete: str) -> list[str]:
    return _beginning(get_args(Format), incomplete)


def _outputs(ctx: typer.Context) -> Outputs:
    return Outputs(Path(ctx.params.get("out") or "outputs"))


def _offered(known: Iterable[str], incomplete: str, wanted: Iterable[str] | None = None) -> list[str]:
    """Names alone where one song of all known has them, as all commands take them; whole ids once a job is
    named. wanted: only of these.
    """
    known = set(known)
    ids = sorted(known if wanted is None else wanted)
    times = Counter(id.rpartition("/")[2] for id in known)
    names = [name if times[name := id.rpartition("/")[2]] == 1 else id for id in ids]
    return _beginning(filter(_HARMLESS.fullmatch, ids if "/" in incomplete else names), incomplete)


def _beginning(words: Iterable[str], incomplete: str) -> list[str]:
    return [word for word in words if word.startswith(incomplete)]
