"""Lyrics laid on frames against the published program's arrays (sets of text are never committed).

The reference spoke with espeak-ng 1.51, whose r-vowels differ in a few words (oːɹ, here ɔːɹ or ɔː ɹ). Cases
that have one are compared by what is sung, r-vowels all written alike; all others id by id, frame by frame.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from diffrhythm.errors import LyricsError
from diffrhythm.lyrics import Alignment, Lyrics, align, parse_lrc
from diffrhythm.phonemes import Inventory

SHARED = Path(__file__).parents[2].parent / "shared"
UPSTREAM = SHARED / "upstream-data"
FOLDERS = [SHARED / "golden", *(Path(f) for f in [os.environ.get("DIFFRHYTHM_GOLDEN")] if f)]


@dataclass(frozen=True)
class Case:
    told: dict[str, Any]
    folder: Path

    @property
    def name(self) -> str:
        return f"{self.told['name']}-{self.told['max_frames']}-{self.told['max_secs']}"

    @property
    def frames(self) -> int:
        if self.told["max_frames"] == 2048:
            return 2048
        return min(int(self.told["max_secs"] * 44100 / 2048), 6144)

    @property
    def text(self) -> str:
        if "lrc_file" in self.told:
            return (UPSTREAM / "lrc" / self.told["lrc_file"]).read_text(encoding="utf-8")
        return str(self.told.get("lrc", self.told.get("text")))

    @property
    def ids(self) -> NDArray[np.int64]:
        if "runs" not in self.told:
            with np.load(self.folder / "lrc_frames.npz", allow_pickle=False) as arrays:
                return np.asarray(arrays[self.told["name"]], dtype=np.int64)
        ids = np.zeros(self.frames, dtype=np.int64)
        for start, run in self.told["runs"]:
            ids[start : start + len(run)] = run
        return ids

    def read(self) -> Lyrics:
        return parse_lrc(self.text, published=True)

    def laid(self) -> Alignment:
        inventory = Inventory.read(UPSTREAM / "vocab.json")
        max_secs = self.told["max_secs"]
        return align(self.read(), inventory, frames=self.frames, max_secs=max_secs, published=True)


def _cases() -> list[Case]:
    paths = sorted(path for folder in FOLDERS for path in folder.glob("lrc_*.json"))
    return [
        Case(told, path.parent)
        for path in paths
        for told in json.loads(path.read_text(encoding="utf-8"))["cases"]
    ]


pytestmark = pytest.mark.skipif(
    not _cases() or not UPSTREAM.is_dir(), reason=f"no lrc_*.json in {FOLDERS} or no {UPSTREAM}"
)
each_case = pytest.mark.parametrize("case", _cases(), ids=lambda case: case.name)


@each_case
def test_the_published_columns_are_read(case: Case) -> None:
    wanted = case.told["parsed"]
    lines = case.read().lines
    assert [line.seconds for line in lines] == [seconds for seconds, _ in wanted]
    assert all(text in (None, line.text) for line, (_, text) in zip(lines, wanted, strict=True))


@each_case
def test_the_published_frames_are_filled(case: Case) -> None:
    if "error" in case.told:
        with pytest.raises(LyricsError):
            case.laid()
        return
    alignment = case.laid()
    assert len(alignment.ids) == case.told["end_frame"] == case.frames
    inventory = Inventory.read(UPSTREAM / "vocab.json")
    assert _without_r(alignment.ids, inventory) == _without_r(case.ids, inventory)
    if not set(case.ids.tolist()) & {inventory.ids["oːɹ"]}:
        np.testing.assert_array_equal(alignment.ids, case.ids)


def _without_r(ids: NDArray[np.int64], inventory: Inventory) -> list[int]:
    """What is sung, r-vowels all written alike."""
    name = {number: phone for phone, number in inventory.ids.items()}
    phones = "|".join(name[number] for number in ids.tolist() if number)
    alike = phones.replace("oːɹ", "ɔːɹ").replace("ɔː|ɹ", "ɔːɹ")
    return [inventory.ids[phone] for phone in alike.split("|") if phone]
