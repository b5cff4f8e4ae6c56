"""A bundle in the models folder, whole or not at all, made of published files.

It is made in a folder beside its place and renamed when every byte is on disk. One process at a time works on
a model, by a kernel lock; so whatever half-made lies there when the lock is got belongs to nobody and goes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffrhythm import bundle, files
from diffrhythm.bundle import ABOUT, NEGATIVE_STYLE, PHONEMES, FileEntry, Origin
from diffrhythm.digest import Report, sha256, silent
from diffrhythm.errors import BundleError
from diffrhythm.published import SOURCE_COMMIT, SOURCE_REPOSITORY, PinnedFile, Published

# Besides the weights: headers, phone table, style, and what a disk should keep free.
_SPARE_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Source:
    """A published file on this machine, and where it came from."""

    path: Path
    origin: Origin


@dataclass(frozen=True, slots=True)
class Sources:
    """All that a bundle is made of."""

    transformer: Source
    vae: Source
    phonemes: Source
    negative_style: Source

    @property
    def origins(self) -> list[Origin]:
        return [each.origin for each in (self.transformer, self.vae, self.phonemes, self.negative_style)]


def import_files(
    model: Published,
    folder: Path,
    *,
    transformer: Path,
    vae: Path,
    source: Path,
    report: Report = silent,
) -> bool:
    """Makes the bundle folder/<name> of files on this machine; False if it is there, of the same files.

    transformer: the published cfm_model.pt. vae: the published vae_model.pt. source: a copy of the source
    repository, for phone table and negative style. A bundle made of other files is replaced.
    Raises BundleError; then folder is as it was.
    """
    sources = Sources(
        _local(transformer, report),
        _local(vae, report),
        pinned(model.phonemes, source),
        pinned(model.negative_style, source),
    )
    with exclusive(model, folder):
        there = whole(folder / model.name, report)
        if there is not None and _sums(there.about.origins) == _sums(sources.origins):
            return False
        install(model, folder, sources, report)
    return True


def install(model: Published, folder: Path, sources: Sources, report: Report = silent) -> None:
    """Makes the bundle folder/<name>; to be called inside `exclusive`. Raises BundleError."""
    from diffrhythm import convert  # it loads torch

    convert.checked_shapes(sources.transformer.path, model.config)
    check_disk(folder, model.bundle_bytes)
    workshop = _workshop(model, folder)
    workshop.mkdir()
    try:
        entries = convert.write_transformer(sources.transformer.path, model.config, workshop, report)
        vae, entry = convert.write_vae(sources.vae.path, workshop, report)
        entries |= entry
        entries[PHONEMES] = convert.copy(sources.phonemes.path, workshop / PHONEMES)
        entries[NEGATIVE_STYLE] = convert.copy(sources.negative_style.path, workshop / NEGATIVE_STYLE)
        about = _about(model, vae.to_dict(), sources.origins, entries)
        files.replace(workshop / ABOUT, json.dumps(about, indent=2).encode())
        _check(workshop)
        _put_in_place(model, folder)
    finally:
        shutil.rmtree(workshop, ignore_errors=True)


@contextmanager
def exclusive(model: Published, folder: Path) -> Iterator[None]:
    """No other process works on this model meanwhile; what one that was killed left half-made is gone.

    Raises BundleError if one is at work, or folder cannot be written.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(files.alone(folder / f".{model.name}.lock", wait=False))
        except BlockingIOError as error:
            raise BundleError(
                f"another process is making {model.name}: {folder}; wait until it has ended"
            ) from error
        except OSError as error:
            raise BundleError(
                f"cannot be written ({error.strerror}): {folder}; set DIFFRHYTHM_MODELS to another folder"
            ) from error
        _tidy(model, folder)
        yield


def whole(folder: Path, report: Report = silent) -> bundle.Bundle | None:
    """The bundle in folder, every byte of it read, or None if there is none or it is damaged."""
    try:
        there = bundle.read(folder)
        bundle.verify(there, report)
    except BundleError:
        return None
    return there


def pinned(file: PinnedFile, root: Path) -> Source:
    """A file of the source repository in this copy of it. Raises BundleError if it is not that file."""
    path = root / file.path
    if not path.is_file():
        raise BundleError(f"no such file: {path}; name the folder of a copy of {SOURCE_REPOSITORY}")
    if path.stat().st_size != file.bytes or sha256(path) != file.sha256:
        raise BundleError(
            f"not the published file: {path}; take {SOURCE_REPOSITORY} at commit {SOURCE_COMMIT}"
        )
    return Source(path, pinned_origin(file))


def pinned_origin(file: PinnedFile) -> Origin:
    return Origin(
        file=file.path,
        source=f"https://github.com/{SOURCE_REPOSITORY}",
        commit=SOURCE_COMMIT,
        bytes=file.bytes,
        sha256=file.sha256,
    )


def check_disk(folder: Path, needed: int) -> None:
    """Raises BundleError unless this many bytes are free, and some to spare."""
    free = shutil.disk_usage(folder).free
    if free < needed + _SPARE_BYTES:
        raise BundleError(
            f"{needed / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free: {folder}; make room, "
            "or set DIFFRHYTHM_MODELS to a folder on another disk"
        )


def _local(path: Path, report: Report) -> Source:
    if path.exists() and not path.is_file():  # a pipe or a device might never end
        raise BundleError(f"not a file: {path}; check the path")
    try:
        origin = Origin(
            file=path.name,
            source="a file of this machine",
            commit=None,
            bytes=path.stat().st_size,
            sha256=sha256(path, report),
        )
    except OSError as error:
        raise BundleError(f"cannot be read ({error.strerror}): {path}; check the path") from error
    return Source(path, origin)


def _sums(origins: list[Origin]) -> list[str]:
    return sorted(origin.sha256 for origin in origins)


def _about(
    model: Published, vae: dict[str, object], origins: list[Origin], entries: dict[str, FileEntry]
) -> dict[str, Any]:
    return {
        "schema": 1,
        "kind": "diffrhythm",
        "name": model.name,
        "demo": False,
        "licence": model.licence,
        "source": f"https://huggingface.co/{model.transformer.repository}",
        "versions": {},
        "transformer": model.config.to_dict(),
        "vae": vae,
        "style_encoder": "muq-mulan",
        "durations": model.durations,
        "frames": model.frames,
        "origins": [origin.model_dump() for origin in origins],
        "files": {name: entry.model_dump() for name, entry in entries.items()},
    }


def _check(folder: Path) -> None:
    """Opens what was made as a song will open it. Raises BundleError."""
    made = bundle.read(folder)
    if len(made.inventory) > made.config.text_rows:
        raise BundleError(
            f"{len(made.inventory)} phones for {made.config.text_rows} rows: {folder / PHONEMES}; "
            "get the published files again"
        )
    _ = made.negative_style
    made.open_transformer()
    made.open_vae()


def _put_in_place(model: Published, folder: Path) -> None:
    """The workshop becomes the bundle; a song that has the old one open keeps it."""
    target, outgoing = folder / model.name, _outgoing(model, folder)
    if target.exists():
        target.rename(outgoing)
    _workshop(model, folder).rename(target)
    files.sync_folder(folder)
    shutil.rmtree(outgoing, ignore_errors=True)


def _tidy(model: Published, folder: Path) -> None:
    """Clears away what a killed process left; a bundle that was to be replaced and is not, comes back."""
    target, outgoing = folder / model.name, _outgoing(model, folder)
    if outgoing.exists() and not target.exists():
        outgoing.rename(target)
    for left in (_workshop(model, folder), outgoing):
        shutil.rmtree(left, ignore_errors=True)


def _workshop(model: Published, folder: Path) -> Path:
    return folder / f".{model.name}.making"


def _outgoing(model: Published, folder: Path) -> Path:
    return folder / f".{model.name}.old"
