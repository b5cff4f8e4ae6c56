"""What is not a letter: the marks that are sung as a pause, and the symbols that nobody sings."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

MARKS = (",", ".", "?", "!", ";", ":", "'", "…")

_PLAIN = str.maketrans(
    {
        "，": ",",
        "、": ",",
        "。": ".",
        "．": ".",
        "？": "?",
        "！": "!",
        "；": ";",
        "：": ":",
        "‘": "'",
        "’": "'",
        "⋯": "…",
    }
)


def plain_marks(text: str) -> str:
    """text with full-width and curly marks replaced by those of MARKS, and three dots by one ellipsis."""
    return text.translate(_PLAIN).replace("...", "…").replace("···", "…").replace("・・・", "…")


def missed(left_out: Iterable[str]) -> list[str]:
    """Those of the characters left out that a singer would miss: letters, numbers, signs such as & and ♥.

    Brackets, quotes, dashes and spaces are not.
    """
    return [c for c in left_out if unicodedata.category(c)[0] in "LNS" or c in "&@#%"]
