"""Lyrics → phones → the ids that the model was trained on.

A line is cut into stretches of English and Chinese, each read by its own converter. Converters load what they
need on first use, so importing this package is quick.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Literal

from diffrhythm.phonemes import chinese, english
from diffrhythm.phonemes.inventory import Inventory
from diffrhythm.phonemes.punctuation import missed

__all__ = ["Inventory", "Language", "Phones", "segments", "to_ids"]

Language = Literal["auto", "en", "zh"]

_STRETCH = re.compile(
    r"[^A-Za-z\u4e00-\u9fa5]*(?:(?P<en>[A-Za-z][^\u4e00-\u9fa5]*)|(?P<zh>[\u4e00-\u9fa5][^A-Za-z]*))"
)


@dataclass(frozen=True, slots=True)
class Phones:
    """A line as the model reads it.

    ids, phones: one of each per sound, in order; no end mark.
    unknown: what could not be sung: phones that the inventory lacks, characters that no converter reads.
    """

    ids: tuple[int, ...]
    phones: tuple[str, ...]
    unknown: tuple[str, ...]


def to_ids(text: str, inventory: Inventory, language: Language = "auto") -> Phones:
    """The phones of a line and their ids.

    language: how to read a line that shows none (digits, punctuation); with "auto" such a line has no phones.
    Raises EspeakError where English cannot be spoken.
    """
    text = unicodedata.normalize("NFC", text)
    phones: list[str] = []
    left_out: list[str] = []
    stretches = segments(text)
    if not stretches:
        stretches, left_out = ([], list(text)) if language == "auto" else ([(text, language)], [])
    for stretch, spoken in stretches:
        found, skipped = (english if spoken == "en" else chinese).read(stretch)
        phones += found
        left_out += skipped
    if phones and phones[-1] == english.WORD_MARK:
        phones.pop()
    known = tuple(phone for phone in phones if phone in inventory)
    unknown = dict.fromkeys([*missed(left_out), *(phone for phone in phones if phone not in inventory)])
    return Phones(tuple(inventory.ids[phone] for phone in known), known, tuple(unknown))


def segments(text: str) -> list[tuple[str, Language]]:
    """Stretches of text and their language; what has none goes with the stretch before it, or the first one.

    [] where nothing in text shows a language.
    """
    return [(m[0], "en" if m["en"] else "zh") for m in _STRETCH.finditer(text)]
