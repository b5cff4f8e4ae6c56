"""How far a long work has come, on stderr: one line that changes, or a line for every tenth."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

# A terminal takes more, a reader does not.
_EVERY_S = 0.2
# Work that is over sooner needs no words where there is no terminal.
_SMALL_BYTES = 10 * 10**6


@dataclass
class Meter:
    """Called with what is done, and bytes done of all; rates are of this run alone."""

    to: TextIO
    now: Callable[[], float] = time.monotonic
    _what: str = ""
    _began: tuple[float, int] = field(default=(0.0, 0))
    _said: float = -1.0
    _tenth: int = -1

    def __call__(self, what: str, done: int, total: int) -> None:
        if what != self._what:
            self._what, self._began, self._said, self._tenth = what, (self.now(), done), -1.0, -1
        if self.to.isatty():
            self._redraw(done, total)
        elif total >= _SMALL_BYTES:
            self._mark(done, total)

    def _redraw(self, done: int, total: int) -> None:
        if 0 <= self._said > self.now() - _EVERY_S and done < total:
            return
        self._said = self.now()
        # Back to the line's begin, and clear what is longer than this.
        print(
            f"\r\x1b[K{self._line(done, total)}", end="\n" if done >= total else "", file=self.to, flush=True
        )

    def _mark(self, done: int, total: int) -> None:
        tenth = 10 * done // total
        if tenth > self._tenth:
            self._tenth = tenth
            print(self._line(done, total), file=self.to, flush=True)

    def _line(self, done: int, total: int) -> str:
        seconds, began = self.now() - self._began[0], self._began[1]
        return line(self._what, done, total, (done - began) / seconds if seconds > 0 else None)


@dataclass
class Steps:
    """How far a long work in steps has come, on a reader's stderr: a line for each tenth of each part of it.

    Called with what is being made, steps done, and steps in all; touches `moved` each time.
    """

    to: TextIO
    moved: Path
    now: Callable[[], float] = time.monotonic
    _last: float | None = None

    def __call__(self, what: str, step: int, steps: int) -> None:
        self.moved.touch()
        now = self.now()
        took = "" if self._last is None else f", {now - self._last:.1f} s a step"
        self._last = now
        if self.to.isatty():
            print(f"\r\x1b[K{what}: step {step} of {steps}{took}", end="", file=self.to, flush=True)
            if step == steps:
                print(file=self.to, flush=True)
        elif 10 * step // steps > 10 * (step - 1) // steps:
            print(f"{what}: step {step} of {steps}{took}", file=self.to, flush=True)


def line(what: str, done: int, total: int, rate: float | None) -> str:
    """`fetch cfm_model.pt  40 %  0.9 of 2.2 GB  12 MB/s`; rate in bytes per second, None where unknown."""
    share = 100 * done // total if total else 100
    speed = f"  {rate / 1e6:.0f} MB/s" if rate else ""
    scale, unit = (1e9, "GB") if total >= 10**9 else (1e6, "MB")
    return f"{what}  {share} %  {done / scale:.1f} of {total / scale:.1f} {unit}{speed}"
