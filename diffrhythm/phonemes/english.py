"""English text → phones, by espeak-ng (voice en-us, no stress).

The reading is that of the published model, which was trained on it, oddities included: the apostrophe is a
pause ("don't" is sung "don tee") and a hyphen joins its words ("well-worn" is one word).

espeak-ng is loaded on first use from the espeakng-loader wheel. Its version shows: 1.52 says ɔːɹ where 1.51
said oːɹ (four, door, anymore).
"""

from __future__ import annotations

import logging
import re
import unicodedata
from functools import cache
from pathlib import Path
from typing import Any

from diffrhythm.errors import EspeakError
from diffrhythm.phonemes import chinese, numbers
from diffrhythm.phonemes.punctuation import MARKS, plain_marks

# What espeak-ng's en-us voice says, after the merges and replacements below (oː and oːɹ: version 1.51). Found
# by speaking the words of the Python manual, every spelling of up to three letters and 8,000 syllables.
_CONSONANTS = "p b t d k ɡ f v θ ð s z ʃ ʒ h tʃ dʒ m n ŋ j w ɹ r l ɾ ts dz tɹ dɹ"
_VOWELS = "iː i iːː ɪ eɪ ɛ æ ɑː ɑ̃ ɔ ɔː ɔ̃ oː oʊ ʊ u uː ʌ ə ɚ ɜː aɪ aʊ ɔɪ iə aɪə aɪɚ ɪɹ ɛɹ ʊɹ ɑːɹ ɔːɹ oːɹ"
CONSONANTS = tuple(_CONSONANTS.split())
ALPHABET = (*CONSONANTS, *_VOWELS.split())

WORD_MARK = "_"

_MERGED = (("t", "ɹ"), ("d", "ɹ"), ("t", "s"), ("d", "z"), ("ɪ", "ɹ"), ("oː", "ɹ"))
_REPLACED = {"ɐ": "ɚ", "ᵻ": "ɪ", "əl": "l", "x": "k", "ɬ": "l", "ʔ": "t", "n̩": "n"}

_ABBREVIATIONS = {
    "mr": "mister",
    "mrs": "misess",
    "dr": "doctor",
    "drs": "doctors",
    "st": "saint",
    "co": "company",
    "jr": "junior",
    "maj": "major",
    "gen": "general",
    "rev": "reverend",
    "lt": "lieutenant",
    "hon": "honorable",
    "sgt": "sergeant",
    "capt": "captain",
    "esq": "esquire",
    "ltd": "limited",
    "col": "colonel",
    "ft": "fort",
    "etc": "et cetera",
    "btw": "by the way",
}
_ABBREVIATION = re.compile(rf"\b({'|'.join(_ABBREVIATIONS)})\b", re.IGNORECASE)
_MARK = re.compile(f"([{re.escape(''.join(MARKS))}])")
_DATA_FILES = ("phontab", "phonindex", "phondata", "intonations", "en_dict")
_CLOSED = frozenset("".join(chinese.alphabet())) - frozenset("→↑↓") | {"ː"}


def read(text: str) -> tuple[list[str], list[str]]:
    """The phones of one stretch of English, "_" between words, marks included; and the characters left out.

    A stretch that ends in a letter that Mandarin uses too is closed by "_".
    Raises EspeakError where espeak-ng is missing or broken.
    """
    said, left_out = spoken(text)
    pieces = [piece.strip() for piece in _MARK.split(said)]
    words = iter(_say([piece for piece in pieces if piece and piece not in MARKS]))
    spelled = [[piece] if piece in MARKS else next(words) for piece in pieces if piece]
    phones = [phone for piece in spelled for phone in piece]
    if phones and phones[-1][-1] in _CLOSED:
        phones.append(WORD_MARK)
    return _as_trained(phones), left_out


def spoken(text: str) -> tuple[str, list[str]]:
    """text as it is read out: numbers, money and abbreviations in words, only letters and MARKS left.

    With it the characters that were left out.
    """
    text = numbers.in_words(plain_marks(text))
    text = _ABBREVIATION.sub(lambda m: _ABBREVIATIONS[m[0].lower()], text)
    left_out = [c for c in text if not _is_spoken(c)]
    return "".join(c for c in text if _is_spoken(c)), left_out


def _is_spoken(char: str) -> bool:
    if char.isalpha():
        return char.isascii() or unicodedata.name(char, "").startswith("LATIN ")
    return char.isspace() or char.isalnum() or char == "_" or char in MARKS


def _say(words: list[str]) -> list[list[str]]:
    from phonemizer.separator import Separator

    if not words:
        return []
    lines = _voice().phonemize(words, separator=Separator(phone="|", word="|_|"), strip=True)
    return [[phone for phone in line.split("|") if phone] for line in lines]


def _as_trained(found: list[str]) -> list[str]:
    for first, second in _MERGED:
        found = _merge(found, first, second)
    return [_REPLACED.get(phone, phone) for phone in found]


def _merge(found: list[str], first: str, second: str) -> list[str]:
    merged: list[str] = []
    for phone in found:
        if phone == second and merged and merged[-1] == first:
            merged[-1] = first + second
        else:
            merged.append(phone)
    return merged


@cache
def _voice() -> Any:
    import espeakng_loader

    return voice(Path(espeakng_loader.get_library_path()))


def voice(library: Path) -> Any:
    """phonemizer's espeak backend on a library of espeak-ng, its data in espeak-ng-data beside it.

    Raises EspeakError. Files are looked for first: without its data espeak-ng ends the process.
    """
    data = library.parent / "espeak-ng-data"
    for needed in (library, *(data / name for name in _DATA_FILES)):
        if not needed.is_file():
            raise EspeakError(f"{needed}: missing, run: pip install --force-reinstall espeakng-loader")
    try:
        from phonemizer.backend import EspeakBackend
        from phonemizer.backend.espeak.wrapper import EspeakWrapper

        EspeakWrapper.set_library(str(library))
        EspeakWrapper.set_data_path(str(data))
        return EspeakBackend("en-us", language_switch="remove-flags", logger=_quiet_logger())
    except (RuntimeError, OSError) as error:
        raise EspeakError(
            f"{library}: espeak-ng cannot be loaded ({error}), run: pip install --force-reinstall "
            "espeakng-loader; its copy in the temporary folder must not be on a noexec mount"
        ) from error


def _quiet_logger() -> logging.Logger:
    """For phonemizer, which warns of a "words count mismatch" wherever espeak joins two words."""
    return logging.Logger("espeak", level=logging.ERROR)
