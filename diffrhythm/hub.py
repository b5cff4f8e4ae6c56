"""Fetches a published model, going on where an earlier attempt stopped, and makes the bundle of it.

The hub library finds files, speaks to mirrors ($HF_ENDPOINT) and knows the user's token. It begins each
download anew, though, so the bytes are fetched here, by range, into a folder that outlives the process.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, BinaryIO

import httpx
from huggingface_hub import (
    get_hf_file_metadata,
    get_session,
    get_token,
    hf_hub_download,
    hf_hub_url,
    try_to_load_from_cache,
)
from huggingface_hub.errors import OfflineModeIsEnabled
from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]

from diffrhythm import bundle, mulan
from diffrhythm.bundle import Origin
from diffrhythm.digest import Report, sha256, silent
from diffrhythm.errors import BundleError
from diffrhythm.install import (
    Source,
    Sources,
    check_disk,
    exclusive,
    install,
    pinned,
    pinned_origin,
    whole,
)
from diffrhythm.published import SOURCE_COMMIT, SOURCE_REPOSITORY, HubFile, PinnedFile, Published

CODE = "https://raw.githubusercontent.com"

_NEWEST = "main"
# A server that says nothing for so long has dropped the line.
_SILENCE_S = 30.0
# Tries without a single new byte before giving up; the waits between them double from one second, 15 in all.
_TRIES = 5

# Answers of a server that may be of another mind a second later.
_BUSY = {408, 429, 500, 502, 503, 504}

Pause = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class Remote:
    """A file to be fetched. origin: what it has to be. headers: the user's token, if that host may see it."""

    url: str
    origin: Origin
    headers: dict[str, str]


def pull(
    model: Published,
    folder: Path,
    *,
    source: Path | None = None,
    report: Report = silent,
    endpoint: str | None = None,
    code: str = CODE,
    pause: Pause = time.sleep,
) -> bool:
    """Fetches the model and makes the bundle folder/<name>; False if it is there and every byte is right.

    source: a copy of the source repository, in place of fetching its two files. endpoint: the hub's address,
    $HF_ENDPOINT or the public one by default. code: where files of source repositories are. pause(seconds).
    A damaged bundle is made again from the commits that it records. Raises BundleError; what was fetched by
    then is kept, and the next pull goes on from there.
    """
    with exclusive(model, folder):
        if whole(folder / model.name, report) is not None:
            return False
        recorded = _recorded(folder / model.name)
        transformer = _on_hub(model.transformer, recorded, endpoint)
        vae = _on_hub(model.vae, recorded, endpoint)
        downloads = folder / f".{model.name}.download"
        downloads.mkdir(exist_ok=True)
        missing = sum(each.origin.bytes - _size(_place(each, downloads)) for each in (transformer, vae))
        check_disk(folder, missing + model.bundle_bytes)

        def small(file: PinnedFile) -> Source:
            return pinned(file, source) if source else fetch(_in_code(file, code), downloads, report, pause)

        sources = Sources(
            phonemes=small(model.phonemes),
            negative_style=small(model.negative_style),
            vae=fetch(vae, downloads, report, pause),
            transformer=fetch(transformer, downloads, report, pause),
        )
        install(model, folder, sources, report)
        shutil.rmtree(downloads)
    return True


def pull_encoder(*, report: Report = silent, endpoint: str | None = None, cache: Path | None = None) -> bool:
    """Fetches the style encoder's files into the hub's cache, where all models look; False if all are there.

    At pinned commits, by the hub library, which takes up a dropped connection but begins a file anew in
    another process. cache: in place of the hub's own. Raises BundleError.
    """
    missing = [
        file
        for file in mulan.FILES.values()
        if not isinstance(_cached(file, cache), str)  # it may also know that the hub has no such file
    ]
    for file in missing:
        try:
            path = hf_hub_download(
                file.repository,
                file.path,
                revision=mulan.COMMITS[file.repository],
                endpoint=endpoint,
                cache_dir=cache,
                tqdm_class=_bar(f"fetch {file.path} of {file.repository}", report),
            )
        except (httpx.HTTPError, OSError, ValueError) as error:
            raise BundleError(
                f"not fetched ({_words(error)}): {file.repository} {file.path}; run it again"
            ) from error
        _check_blob(Path(path), report)
    return bool(missing)


def _cached(file: HubFile, cache: Path | None) -> object:
    return try_to_load_from_cache(
        file.repository, file.path, cache_dir=cache, revision=mulan.COMMITS[file.repository]
    )


def _bar(what: str, report: Report) -> type[tqdm]:
    """A progress bar for the hub library that draws nothing and tells report."""

    class Bar(tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **{**options, "disable": True})  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> None:
            self.n += n or 0
            report(what, int(self.n), int(self.total or self.n))

    return Bar


def _check_blob(path: Path, report: Report) -> None:
    """Large files lie in the cache under the SHA-256 that the hub stated; others are as small as a page."""
    blob = path.resolve()
    if re.fullmatch(r"[0-9a-f]{64}", blob.name) and sha256(blob, report) != blob.name:
        path.unlink()
        blob.unlink()
        raise BundleError(f"fetched with another SHA-256 than the hub states: {path}; run it again")


def fetch(remote: Remote, folder: Path, report: Report = silent, pause: Pause = time.sleep) -> Source:
    """The file in folder, every byte of it checked, whatever an earlier attempt left there included.

    Raises BundleError: out of reach, not there, or other bytes than it should have (then they are removed).
    """
    path = _place(remote, folder)
    _complete(remote, path, report, pause)
    found = sha256(path, report)
    if found != remote.origin.sha256:
        path.unlink()
        raise BundleError(
            f"fetched with SHA-256 {found} and not {remote.origin.sha256}: {remote.url}; run it again"
        )
    return Source(path, remote.origin)


def _complete(remote: Remote, path: Path, report: Report, pause: Pause) -> None:
    """Fetches what is missing of path, in as many connections as it takes while each brings something."""
    failures = 0
    while (had := _size(path)) < remote.origin.bytes:
        problem = _append(remote, path, report)
        if _size(path) > had:
            failures = 0
            continue
        failures += 1
        if failures == _TRIES:
            raise BundleError(f"{problem}: {remote.url}; run it again later, it goes on where it stopped")
        pause(2.0 ** (failures - 1))


def _append(remote: Remote, path: Path, report: Report) -> str:
    """Adds to path what one connection brings; why it ended, if that was too early."""
    had = _size(path)
    headers = {**remote.headers, "Range": f"bytes={had}-", "Accept-Encoding": "identity"}
    try:
        with get_session().stream("GET", remote.url, headers=headers, timeout=_SILENCE_S) as response:
            status = response.status_code
            if status in _BUSY:
                return f"the server answers {status}"
            if status >= HTTPStatus.BAD_REQUEST:
                raise BundleError(f"the server answers {status}: {remote.url}; see who may read it")
            goes_on = status == HTTPStatus.PARTIAL_CONTENT and had == _first_byte(response)
            with path.open("ab" if goes_on else "wb") as file:
                _receive(response, file, had if goes_on else 0, remote, report)
    except httpx.HTTPError as error:
        return f"the connection was lost ({_words(error)})"
    return "the server sent too little"


def _receive(response: httpx.Response, file: BinaryIO, done: int, remote: Remote, report: Report) -> None:
    total = remote.origin.bytes
    # Not in pieces of a size of our own: one that is half full when the line breaks would be lost.
    for piece in response.iter_bytes():
        done += len(piece)
        if done > total:
            raise BundleError(f"more than the {total} bytes it should have: {remote.url}; run it again")
        file.write(piece)
        report(f"fetch {Path(remote.origin.file).name}", done, total)


def _first_byte(response: httpx.Response) -> int | None:
    """Where an answer in part begins."""
    stated = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return int(stated[1]) if stated else None


def _on_hub(file: HubFile, recorded: dict[tuple[str, str], Origin], endpoint: str | None) -> Remote:
    """Where the file is, at the commit that the bundle records, else at the newest."""
    page = f"https://huggingface.co/{file.repository}"
    was = recorded.get((page, file.path))
    asked = hf_hub_url(file.repository, file.path, revision=was.commit if was else _NEWEST, endpoint=endpoint)
    try:
        found = get_hf_file_metadata(asked, timeout=_SILENCE_S, endpoint=endpoint)
    except (httpx.HTTPError, OfflineModeIsEnabled) as error:
        raise BundleError(
            f"out of reach ({_words(error)}): {asked}; see whether the network is there"
        ) from error
    if not (found.commit_hash and found.size and re.fullmatch(r"[0-9a-f]{64}", found.etag or "")):
        raise BundleError(f"the server states no commit, size and SHA-256: {asked}; use another HF_ENDPOINT")
    origin = Origin(
        file=file.path, source=page, commit=found.commit_hash, bytes=found.size, sha256=found.etag or ""
    )
    if was is not None and origin != was:
        raise BundleError(
            f"{found.size} bytes of SHA-256 {found.etag}, and at the first pull {was.bytes} of {was.sha256}: "
            f"{asked}; do not trust it, or remove the bundle to begin anew"
        )
    url = hf_hub_url(file.repository, file.path, revision=found.commit_hash, endpoint=endpoint)
    return Remote(url, origin, _authorization())


def _authorization() -> dict[str, str]:
    """The user's token for the hub, if there is one."""
    token = get_token()
    return {"Authorization": f"Bearer {token}"} if token else {}


def _in_code(file: PinnedFile, code: str) -> Remote:
    return Remote(f"{code}/{SOURCE_REPOSITORY}/{SOURCE_COMMIT}/{file.path}", pinned_origin(file), headers={})


def _recorded(folder: Path) -> dict[tuple[str, str], Origin]:
    """What an earlier pull wrote down, by source and file, even where the bundle is damaged otherwise."""
    try:
        origins = bundle.describe(folder).origins
    except BundleError:
        return {}
    return {(origin.source, origin.file): origin for origin in origins if origin.commit}


def _place(remote: Remote, folder: Path) -> Path:
    """By its sum, so that bytes of another version are never gone on from."""
    return folder / f"{remote.origin.sha256[:16]}-{Path(remote.origin.file).name}"


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _words(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
