"""The worker of `benchmarks.faults`: `python -m benchmarks.stricken REQUEST`.

A request whose lyrics are lyrics goes to the real worker, one whose lyrics are a script to the naughty child,
with two more words:
    strike KIND LEDGER WORDS, …    note it in the ledger, then do the words; only once for a song
    struck KIND LEDGER WORDS, …    the same, in every attempt
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from benchmarks import strikes
from runner.files import read_message
from runner.messages import SongRequest
from tests.faults.child import Child

REAL = [sys.executable, "-P", "-m", "runner.worker", "sing"]


class Stricken(Child):
    def do_strike(self, kind: str, ledger: str, *words: str) -> None:
        if not any(each.song == self.request.song for each in strikes.read(Path(ledger))):
            self.do_struck(kind, ledger, *words)

    def do_struck(self, kind: str, ledger: str, *words: str) -> None:
        strikes.note(Path(ledger), strikes.now(kind, self.request.song, self.request.attempt))
        for line in " ".join(words).split(", "):
            word, *rest = line.split()
            getattr(self, "do_" + word.replace("-", "_"))(*rest)


def main(paper: Path) -> None:
    if (read_message(paper, SongRequest).lyrics or "").startswith("["):
        os.execv(REAL[0], [*REAL, str(paper)])
    Stricken(paper).play()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
