"""A picture of `runner batch` at this moment: `python docs/picture.py OUTPUTS > docs/terminal.svg`."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

from rich.console import Console

from runner.songfolder import Outputs
from runner.status import look
from runner.view import render

WIDTH = 92


def main(folder: Path) -> None:
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, emoji=False)
    console.print("$ runner batch jobs/*.yaml --workers 2", style="bold")
    console.print(render(look(Outputs(folder), earlier=False), WIDTH, unicode=True))
    svg = console.export_svg(title="DiffRhythm Runner")
    # The fonts are the reader's own: nothing is fetched when the picture is shown.
    print(re.sub(r"@font-face \{.*?\}\s*|<!--.*?-->\s*", "", svg, flags=re.DOTALL))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
