"""The morning's page: one HTML file beside the songs, heard without a network; or one that can be sent."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import webbrowser
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote_to_bytes

from runner import charts, status
from runner.errors import ForeignFileError, OutputError, RunnerError
from runner.files import opened, write_bytes, write_json
from runner.machine import wsl_of
from runner.page import Page, Piece, Track, gather
from runner.songfolder import Outputs
from runner.status import Survey
from runner.words import size

TEMPLATES = Path(__file__).with_name("templates")

# -P: files in the folder where this was started are not the worker's modules.
COMPRESSOR = (sys.executable, "-P", "-m", "runner.worker", "compress")
COMPRESS_S = 3600.0
# What mails carry (25 MB), after two rounds of base64 and beside the pictures: nine songs of 95 s.
MOST_SENT_BYTES = 13_000_000
_PICTURE_BYTES = 2**20
_PNG = b"\x89PNG"


def show(outputs: Outputs, *, open_it: bool = False, embed: bool = False) -> int:
    """Write the page and print its path; 1 where there is nothing to tell of.

    embed: one that can be sent to somebody. Raises OutputError where it cannot be written.
    """
    survey = status.look(outputs)
    if survey.batch is None and not survey.rows and not survey.problems:
        print(f"{outputs.folder}: nothing here yet; `runner batch` makes songs", file=sys.stderr)
        return 1
    path = write_to_send(outputs, survey) if embed else write(outputs, survey)
    print(path)
    if open_it and not opens(path):
        print(f"{path}: no browser could be started; open the file yourself", file=sys.stderr)
    return 0


def write(outputs: Outputs, survey: Survey | None = None) -> Path:
    """Write outputs/report.html, whole or not at all; its path. Raises OutputError where that fails."""
    return _put(outputs.report, gather(outputs, survey or status.look(outputs)))


def write_to_send(outputs: Outputs, survey: Survey) -> Path:
    """Write outputs/report-to-send.html, which needs no file beside it; its path.

    Raises OutputError as `write`, RunnerError where the sounds could not be compressed.
    """
    return _put(outputs.report_to_send, embedded(outputs, gather(outputs, survey)))


def _put(path: Path, page: Page) -> Path:
    try:
        write_bytes(path, render(page).encode(errors="replace"), durable=False)
    except OSError as error:
        words = f"no report: {error.strerror}: {path}; mend that, then `runner report`"
        raise OutputError(words) from error
    return path


def at_end(outputs: Outputs) -> tuple[Path | None, str]:
    """Write the page at the end of a batch; its path, and a line that says where it is, or why there is none.

    What goes wrong here changes nothing of the batch.
    """
    try:
        path = write(outputs)
        return path, f"report: {path}"
    except RunnerError as error:
        return None, str(error)
    except Exception as error:  # noqa: BLE001 — songs that are made stay made, whatever a page about them meets
        return None, f"no report: a defect of the runner ({type(error).__name__}: {error}): please report it"


def opens(path: Path, kernel: str = os.uname().release) -> bool:
    """Show the page in a browser, on WSL in Windows's; whether one could be started."""
    if wsl_of(kernel):
        return _opens_in_windows(path)
    with suppress(webbrowser.Error, OSError):
        return webbrowser.open(path.resolve().as_uri())
    return False


def _opens_in_windows(path: Path) -> bool:
    viewer, converter = shutil.which("wslview"), shutil.which("wslpath")
    with suppress(OSError, subprocess.SubprocessError):
        if viewer:
            return subprocess.run([viewer, str(path)], check=False, timeout=30).returncode == 0
        explorer = shutil.which("explorer.exe")
        if explorer and converter:
            command = [converter, "-w", str(path.resolve())]
            name = subprocess.run(
                command, check=True, timeout=30, capture_output=True, text=True
            ).stdout.strip()
            subprocess.run([explorer, name], check=False, timeout=30)  # it ends with 1 whatever happens
            return True
    return False


# ---------------------------------------------------------------- a page to send


def embedded(outputs: Outputs, page: Page) -> Page:
    """The page with its pictures and sounds in it, and without links; sounds as long as a mail takes them."""
    tracks = [track for piece in (*page.fresh, *page.older) for track in piece.tracks]
    sounds = _compressed([_path(outputs, track.sound) for track in tracks]) if tracks else []
    whole = {track.anchor: _whole(outputs, track, sound) for track, sound in zip(tracks, sounds, strict=True)}

    def filled(pieces: Sequence[Piece]) -> tuple[Piece, ...]:
        return tuple(
            replace(piece, tracks=tuple(whole[track.anchor] for track in piece.tracks)) for piece in pieces
        )

    return replace(page, fresh=filled(page.fresh), older=filled(page.older), embedded=True)


def _whole(outputs: Outputs, track: Track, sound: bytes) -> Track:
    picture = b""
    if track.spectrogram:
        with suppress(OSError, ForeignFileError), opened(_path(outputs, track.spectrogram)) as file:
            picture = file.read(_PICTURE_BYTES)
    if not picture.startswith(_PNG):  # what else may lie there is not to be sent to anybody
        picture = b""
    return replace(track, sound=_data("audio/mpeg", sound), spectrogram=_data("image/png", picture))


def _compressed(sounds: Sequence[Path]) -> list[bytes]:
    """Each as an mp3, empty where it could not be read or is one too many: a child does it, which may load
    what reads sounds."""
    from runner import check

    with tempfile.TemporaryDirectory(prefix="runner-report-") as name:
        paper, log = Path(name, "sounds.json"), Path(name, "worker.log")
        write_json(paper, {"sounds": [str(path.resolve()) for path in sounds], "most_bytes": MOST_SENT_BYTES})
        exit_code = check.run([*COMPRESSOR, str(paper)], log, COMPRESS_S)
        if exit_code != 0:
            said = log.read_text(errors="replace").strip().splitlines() or ["it said nothing"]
            raise RunnerError(f"the sounds could not be compressed: {said[-1]}; `runner report` links them")
        small = [Path(name, f"{number}.mp3") for number in range(len(sounds))]
        return [path.read_bytes() if path.is_file() else b"" for path in small]


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}" if content else ""


def _path(outputs: Outputs, href: str) -> Path:
    return outputs.folder / os.fsdecode(unquote_to_bytes(href))


# ---------------------------------------------------------------- page → HTML


def render(page: Page) -> str:
    """The page as one HTML file. Whatever stands in the songs' texts stays text; no address outside is
    asked for, and no script runs but the page's own.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    from runner import __version__

    room = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    room.filters |= {"clock": clock, "size": size}
    style, script = ((TEMPLATES / name).read_text() for name in ("report.css", "report.js"))
    return room.get_template("report.html").render(
        page=page,
        charts=charts,
        version=__version__,
        style=style,
        script=script,
        style_hash=_hash(style),
        script_hash=_hash(script),
    )


def clock(seconds: float) -> str:
    """3:07."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def _hash(text: str) -> str:
    """As a content security policy names what may run."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
