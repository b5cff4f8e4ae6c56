"""Phones against the published program's, line by line (sets of text are never committed).

The reference spoke with espeak-ng 1.51; where a set says what 1.52 makes of a line, that is what we expect.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from diffrhythm.phonemes import Inventory, to_ids

SHARED = Path(__file__).parents[2].parent / "shared"
TABLE = SHARED / "upstream-data" / "vocab.json"
FOLDERS = [SHARED / "golden", *(Path(f) for f in [os.environ.get("DIFFRHYTHM_GOLDEN")] if f)]


def _sets() -> list[Any]:
    paths = sorted(path for folder in FOLDERS for path in folder.glob("g2p_*.json"))
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def _lines(language: str) -> Iterator[tuple[str, list[str]]]:
    """Each line of a language with the phones that it should have."""
    newer = {d["text"]: d["phones_here"] for s in _sets() for d in s.get("differences", [])}
    for lines in (value for s in _sets() for value in s.values() if isinstance(value, list)):
        for line in lines:
            if "phones" in line and _language(line["text"]) == language:
                wanted = line.get("espeak_1_52", line)["phones"]
                yield line["text"], newer.get(line["text"], wanted).split("|")


def _language(text: str) -> str:
    chinese = any("\u4e00" <= c <= "\u9fa5" for c in text)
    english = any(c.isascii() and c.isalpha() for c in text)
    return "mixed" if chinese and english else "chinese" if chinese else "english"


@pytest.fixture(scope="module")
def inventory() -> Inventory:
    if not TABLE.is_file():
        pytest.skip(f"no published phone table at {TABLE}")
    return Inventory.read(TABLE)


@pytest.mark.parametrize(("language", "enough"), [("english", 0.99), ("chinese", 0.97), ("mixed", 0.97)])
def test_lines_are_read_as_the_published_program_reads_them(
    language: str, enough: float, inventory: Inventory
) -> None:
    lines = list(_lines(language))
    if not lines:
        pytest.skip(f"no g2p_*.json with {language} lines in {FOLDERS}")
    different = []
    for text, phones in lines:
        wanted = tuple(inventory.ids[phone] for phone in phones if phone in inventory)
        found = to_ids(text, inventory)
        if found.ids != wanted:
            different.append(f"{text}\n  {'|'.join(found.phones)}\n  {'|'.join(phones)}")
    assert 1 - len(different) / len(lines) >= enough, "\n".join(different)


def test_lines_that_the_published_program_refuses_have_no_phones_here(inventory: Inventory) -> None:
    refused = [
        line["text"]
        for lines in (value for s in _sets() for value in s.values() if isinstance(value, list))
        for line in lines
        if "error" in line
    ]
    if not refused:
        pytest.skip(f"no g2p_*.json with refused lines in {FOLDERS}")
    assert [text for text in refused if to_ids(text, inventory).ids] == []
