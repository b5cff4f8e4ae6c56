"""English numbers, money, fractions and ordinals in words, the way the published front end says them.

The only user of inflect, whose import takes 1.5 s: imported by the first line with a digit.
"""

from __future__ import annotations

import re
from functools import cache, lru_cache
from typing import Any

# Each begins where digits begin: tried within a run of them, a long run would take its square in time.
_THOUSANDS = re.compile(r"(?<![\d,])\d{1,3}(?:,\d{3})+(?![\d,])")  # and not the "1,2,3" of a song
_POUNDS = re.compile(r"£(\d+)")
_DOLLARS = re.compile(r"\$(\d{1,15})(?:\.(\d{1,2})(?!\d))?")
_FRACTION = re.compile(r"(?<!\d)(\d+)/(\d+)")
_DECIMAL = re.compile(r"(?<!\d)(\d+)\.(\d+)")
_PERCENT = re.compile(r"(?<=\d)%")
_ORDINAL = re.compile(r"(?<!\d)(\d+)(st|nd|rd|th)\b", re.IGNORECASE)
_NUMBER = re.compile(r"\d+")

# inflect has names for longer ones, but nobody sings them: they are read digit by digit.
_LONGEST_NAMED = 15


def in_words(text: str) -> str:
    """text with every number in words: $4.50 → four dollars, fifty cents; 1999 → nineteen ninety-nine."""
    text = _THOUSANDS.sub(lambda m: m[0].replace(",", ""), text)
    text = _POUNDS.sub(r"\1 pounds", text)
    text = _DOLLARS.sub(lambda m: _dollars(int(m[1]), int((m[2] or "0").ljust(2, "0"))), text)
    text = _FRACTION.sub(lambda m: _fraction(m[1], m[2]), text)
    text = _DECIMAL.sub(r"\1 point \2", text)
    text = _PERCENT.sub(" percent", text)
    text = _ORDINAL.sub(lambda m: _ordinal(m[1]), text)
    return _NUMBER.sub(lambda m: f" {_cardinal(m[0])} ", text)


def _dollars(dollars: int, cents: int) -> str:
    parts = []
    if dollars or not cents:
        parts.append(f"{dollars} dollar{'s' if dollars != 1 else ''}")
    if cents:
        parts.append(f"{cents} cent{'s' if cents != 1 else ''}")
    return ", ".join(parts)


def _fraction(over: str, under: str) -> str:
    names = {"2": "half" if over == "1" else "halves", "4": "quarter" if over == "1" else "quarters"}
    return f"{_cardinal(over)} {names.get(under) or _ordinal(under)}"


def _ordinal(digits: str) -> str:
    if len(digits) > _LONGEST_NAMED:
        return _cardinal(digits)
    return str(_inflect().ordinal(_inflect().number_to_words(int(digits), andword="")))


@lru_cache(maxsize=256)
def _cardinal(digits: str) -> str:
    if len(digits) > _LONGEST_NAMED:
        return " ".join(_cardinal(digit) for digit in digits)
    number = int(digits)
    if 1000 < number < 3000:
        return _as_a_year(number)
    return str(_inflect().number_to_words(number, andword=""))


def _as_a_year(number: int) -> str:
    if number == 2000:
        return "two thousand"
    if 2000 < number < 2010:
        return f"two thousand {_cardinal(str(number % 100))}"
    if number % 100 == 0:
        return f"{_cardinal(str(number // 100))} hundred"
    return str(_inflect().number_to_words(number, andword="", zero="oh", group=2)).replace(", ", " ")


@cache
def _inflect() -> Any:
    import inflect

    return inflect.engine()
