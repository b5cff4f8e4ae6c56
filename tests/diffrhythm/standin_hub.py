"""A hub and a host of source files on loopback that answer as the real ones do, and misbehave as asked."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from published_files import Files

from diffrhythm import mulan
from diffrhythm.published import SOURCE_COMMIT, SOURCE_REPOSITORY

COMMIT = "c0ffee" + "0" * 34


@dataclass
class Hub:
    """What it serves, how it misbehaves, what it was asked.

    hosted: path below a repository's commit → content. drops: at each GET of content the next one is taken:
    how many bytes are sent before the connection breaks. answers: likewise, statuses sent instead of content.
    swapped: content sent in place of that whose SHA-256 is stated.
    """

    address: str
    hosted: dict[tuple[str, str], bytes]
    commit: str = COMMIT
    commits: set[str] = field(default_factory=set)  # further ones with the same files
    drops: list[int] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    swapped: dict[bytes, bytes] = field(default_factory=dict)
    ignores_range: bool = False
    states_sum: bool = True
    asked: list[str] = field(default_factory=list)
    ranges: list[str] = field(default_factory=list)
    sent: int = 0
    tokens: list[tuple[str, str]] = field(default_factory=list)

    def find(self, repository: str, revision: str, path: str) -> bytes | None:
        there = revision in (self.commit, "main") or revision in self.commits
        return self.hosted.get((repository, path)) if there else None


@contextmanager
def serving(files: Files) -> Iterator[Hub]:
    model = files.model
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hosted = {
        (model.transformer.repository, model.transformer.path): files.transformer.read_bytes(),
        (model.vae.repository, model.vae.path): files.vae.read_bytes(),
        **{
            (SOURCE_REPOSITORY, file.path): (files.source / file.path).read_bytes()
            for file in (model.phonemes, model.negative_style)
        },
    }
    server.hub = Hub(f"http://127.0.0.1:{server.server_port}", hosted)  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.hub  # type: ignore[attr-defined]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def host_encoder(hub: Hub) -> dict[str, bytes]:
    """Hosts the style encoder's files, true by name alone; their contents by their names in a bundle."""
    contents = {name: f"content of {name}".encode() for name in mulan.FILES}
    for name, file in mulan.FILES.items():
        hub.hosted[file.repository, file.path] = contents[name]
    hub.commits = set(mulan.COMMITS.values())
    return contents


class Handler(BaseHTTPRequestHandler):
    """/OWNER/NAME/resolve/REVISION/PATH sends on to /content/SHA256 at another host, as the hub does.

    /OWNER/NAME/COMMIT/PATH is a source file.
    """

    protocol_version = "HTTP/1.1"

    @property
    def hub(self) -> Hub:
        return self.server.hub  # type: ignore[attr-defined, no-any-return]

    def log_message(self, *_: object) -> None:
        """Nothing: the tests look at what was asked."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.hub.asked.append(f"{self.command} {self.path}")
        self.hub.tokens.append((self.path, self.headers.get("Authorization", "")))
        if found := re.fullmatch(r"/(.+?/.+?)/resolve/(.+?)/(.+)", self.path):
            self._resolve(self.hub.find(*found.groups()), found[2])
        elif found := re.fullmatch(r"/content/([0-9a-f]{64})", self.path):
            self._content(next(c for c in self.hub.hosted.values() if sha(c) == found[1]))
        elif found := re.fullmatch(rf"/({SOURCE_REPOSITORY})/({SOURCE_COMMIT})/(.+)", self.path):
            self._content(self.hub.hosted[found[1], found[3]])
        else:
            self._say(404)

    def _resolve(self, content: bytes | None, revision: str) -> None:
        if content is None:
            self._say(404, {"X-Error-Code": "RevisionNotFound"})
            return
        stated = sha(content) if self.hub.states_sum else hashlib.sha1(content).hexdigest()  # git's own
        self._say(
            302,
            {
                "Location": f"{self.hub.address.replace('127.0.0.1', 'localhost')}/content/{sha(content)}",
                "X-Repo-Commit": self.hub.commit if revision == "main" else revision,
                "X-Linked-Etag": f'"{stated}"',
                "X-Linked-Size": str(len(content)),
            },
        )

    def _content(self, content: bytes) -> None:
        if self.hub.answers and (status := self.hub.answers.pop(0)) != 200:
            self._say(status)
            return
        content = self.hub.swapped.get(content, content)
        asked = self.headers.get("Range", "")
        self.hub.ranges.append(asked)
        start = 0 if self.hub.ignores_range else int(asked[6:-1] or 0)  # bytes=N-
        body = content[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.hub.drops:
            body = body[: self.hub.drops.pop(0)]
            self.close_connection = True
        self.wfile.write(body)
        self.hub.sent += len(body)

    def _say(self, status: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": "0", **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
