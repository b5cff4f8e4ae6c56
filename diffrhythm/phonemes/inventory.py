"""The phones that a model knows and their ids.

A table on disk is JSON, {"vocab": {phone: number}}, numbers from 0: the form of the published model's table.
The model's ids are number + 1, since 0 is its filler.

demo.json, the table of the demo bundle, numbers what our two converters can say in the order of
`converters_phones`. Made by

    python -c "from diffrhythm.phonemes import inventory; print(inventory.demo_table(), end='')"
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from diffrhythm.errors import BundleError
from diffrhythm.phonemes import chinese, english
from diffrhythm.phonemes.punctuation import MARKS

FILLER = 0
COMMA, STOP = ",", "."

# The text embedding has 364 rows: the filler and 363 phones.
MOST_PHONES = 363
_LARGEST_FILE = 1 << 20
_DEMO = Path(__file__).with_name("demo.json")


@dataclass(frozen=True, slots=True)
class Inventory:
    """phone → id, 1 … 363. Has "," and ".", which separate and end lines."""

    ids: Mapping[str, int]

    @classmethod
    def read(cls, path: Path) -> Inventory:
        """The table in a file. Raises BundleError where it is missing, damaged or not such a table."""
        try:
            with path.open("rb") as file:
                content = file.read(_LARGEST_FILE + 1)
            if len(content) > _LARGEST_FILE:
                raise BundleError(
                    f"{path}: a phone table of more than {_LARGEST_FILE} bytes, pull the model again"
                )
            return cls.from_json(content.decode(), source=str(path))
        except (OSError, UnicodeDecodeError) as error:
            raise BundleError(
                f"{path}: the phone table cannot be read ({error}), pull the model again"
            ) from error

    @classmethod
    def from_json(cls, text: str, *, source: str = "phonemes.json") -> Inventory:
        """The table in a text; of a phone listed twice the last number counts. Raises BundleError."""
        try:
            table = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise BundleError(
                f"{source}: the phone table is no JSON ({error}), pull the model again"
            ) from error
        wrong = _what_is_wrong(table)
        if wrong:
            raise BundleError(f"{source}: {wrong}, pull the model again")
        return cls(MappingProxyType({phone: number + 1 for phone, number in table["vocab"].items()}))

    @classmethod
    def demo(cls) -> Inventory:
        """The table of the demo bundle."""
        return cls.read(_DEMO)

    def __len__(self) -> int:
        """Rows that a text embedding for it needs: the largest id and the filler."""
        return max(self.ids.values()) + 1

    def __contains__(self, phone: str) -> bool:
        return phone in self.ids


def _what_is_wrong(table: object) -> str:
    vocab = table.get("vocab") if isinstance(table, dict) else None
    if not isinstance(vocab, dict):
        return 'the phone table has no "vocab"'
    for phone, number in vocab.items():
        if type(number) is not int or not 0 <= number < MOST_PHONES:
            return f"the number of phone {phone!r} is not one of 0 … {MOST_PHONES - 1}"
    if len(set(vocab.values())) != len(vocab):
        return "two phones have the same number"
    if not {COMMA, STOP} <= vocab.keys():
        return 'the phone table lacks "," or "."'
    return ""


def is_vowel(phone: str) -> bool:
    """Whether a phone is sung on a note of its own: a vowel, or a Chinese final with all that is in it."""
    return not (
        phone in MARKS
        or phone == english.WORD_MARK
        or phone in english.CONSONANTS
        or phone in chinese.CONSONANTS
    )


def converters_phones() -> Iterable[str]:
    """Every phone that the two converters can say, each once: marks, English, Chinese."""
    return dict.fromkeys((*MARKS, english.WORD_MARK, *english.ALPHABET, *chinese.alphabet()))


def demo_table() -> str:
    """The text of demo.json."""
    vocab = {phone: number for number, phone in enumerate(converters_phones())}
    return json.dumps({"vocab": vocab}, ensure_ascii=False, indent=0) + "\n"
