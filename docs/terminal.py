"""The picture of the README: a batch of example songs, with two that have too little time, and what is known
of one of them. All of it is what the program wrote to a terminal.

Example: python docs/terminal.py > docs/terminal.svg   (some minutes)
"""

from __future__ import annotations

import io
import os
import pty
import re
import shutil
import subprocess
import sys
import tempfile
import termios
import threading
import time
from contextlib import suppress
from pathlib import Path

from rich.console import Console
from rich.text import Text

from runner.songfolder import Outputs
from runner.status import Survey, look

ROOT = Path(__file__).parents[1]
RUNNER = (sys.executable, "-m", "runner.cli")
WIDTH, HEIGHT = 106, 40
# As the live view goes up, over what it drew last.
UP = "\x1b[1A\x1b[2K"
LATE = "jobs/late.yaml"
# The first notices by itself that 96 steps would take too long, the second is ended.
TOO_LITTLE_TIME = """
model: demo
defaults: {style: "folk song, acoustic guitar", duration: 30, steps: 96, seed: 5}
songs:
  - {name: late-train, lyrics: lyrics/harbour-lights.lrc, timeout: 90s}
  - {name: paper-boats, lyrics: lyrics/harbour-lights.lrc, timeout: 60s, foresight: false}
"""
PATIENCE_S = 900.0


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(ROOT / "jobs", folder / "jobs")
        (folder / LATE).write_text(TOO_LITTLE_TIME)
        jobs = ["jobs/chinese.yaml", LATE, "jobs/english.yaml", "jobs/instrumental.yaml"]
        table = watched(folder, ["batch", *jobs, "--workers", "2"])
    print(svg(table))


def watched(folder: Path, arguments: list[str]) -> str:
    """What stands on the terminal of a batch at a moment that shows much, and what is known of one song."""
    controller, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (HEIGHT, WIDTH))
    written: list[bytes] = []
    threading.Thread(target=drain, args=(controller, written), daemon=True).start()
    process = subprocess.Popen(
        [*RUNNER, *arguments], cwd=folder, env=environment(), stdout=terminal, stderr=terminal
    )
    try:
        song = await_moment(Outputs(folder / "outputs"), process)
        table = b"".join(written).decode().split(UP)[-1].replace("\r", "").strip("\n")
        detail = subprocess.run(
            [*RUNNER, "status", song],
            cwd=folder,
            env=environment() | {"FORCE_COLOR": "1"},
            capture_output=True,
            text=True,
            check=True,
        )
    finally:
        process.terminate()
        process.wait()
        os.close(terminal)
    asked = [f"$ runner batch jobs/*.yaml --workers 2\n{table}", f"$ runner status {song}\n{detail.stdout}"]
    return "\n\n".join(asked)


def environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return kept | {
        "PYTHONPATH": str(ROOT),
        "TERM": "xterm-256color",
        "LANG": "C.UTF-8",
        "COLUMNS": str(WIDTH),
    }


def drain(controller: int, written: list[bytes]) -> None:
    """Keep what is written to the terminal, until it is closed."""
    with suppress(OSError):
        while part := os.read(controller, 2**16):
            written.append(part)


def await_moment(outputs: Outputs, process: subprocess.Popen[bytes]) -> str:
    """The song that has been ended once, as soon as it is under way again, and others stand in other ways."""
    until = time.monotonic() + PATIENCE_S
    while process.poll() is None and time.monotonic() < until:
        song = moment(look(outputs, earlier=False))
        if song is not None:
            time.sleep(1.0)  # the view looks once a second
            return song
        time.sleep(0.5)
    raise SystemExit("the batch ended before there was anything to show: is this machine much faster?")


def moment(now: Survey) -> str | None:
    states = {row.state for row in now.own}
    under_way = [row for row in now.own if len(row.paces_s) >= 4 and row.step + 2 < row.steps]
    again = [row.song for row in under_way if row.ended]
    return again[0] if {"done", "degraded", "queued"} <= states and again and len(under_way) == 2 else None


def svg(written: str) -> str:
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, emoji=False)
    for line in Text.from_ansi(written).split("\n", allow_blank=True):
        if line.plain.startswith("$"):
            line.stylize("bold")
        console.print(line, highlight=False, overflow="crop", no_wrap=True)
    drawn = console.export_svg(title="DiffRhythm Runner")
    # The fonts are the reader's own: nothing is fetched when the picture is shown.
    return re.sub(r"@font-face \{.*?\}\s*|<!--.*?-->\s*", "", drawn, flags=re.DOTALL)


if __name__ == "__main__":
    main()
