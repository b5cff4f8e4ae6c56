from __future__ import annotations

import itertools
import logging
import shutil
from pathlib import Path
from string import ascii_lowercase

import espeakng_loader
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffrhythm.errors import EspeakError
from diffrhythm.phonemes import Inventory
from diffrhythm.phonemes.english import read, spoken, voice
from diffrhythm.phonemes.numbers import in_words


def _said(text: str) -> str:
    return " ".join(read(text)[0])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1999", "nineteen ninety-nine"),
        ("2000", "two thousand"),
        ("2007", "two thousand seven"),
        ("2024", "twenty twenty-four"),
        ("1001", "ten oh one"),
        ("1900", "nineteen hundred"),
        ("3000", "three thousand"),
        ("1,000,000", "one million"),
        ("1,2,3", "one , two , three"),
        ("405", "four hundred five"),
        ("0", "zero"),
        ("$4.50", "four dollars, fifty cents"),
        ("$4.5", "four dollars, fifty cents"),
        ("$1", "one dollar"),
        ("$0.01", "one cent"),
        ("£20", "twenty pounds"),
        ("1/2", "one half"),
        ("3/4", "three quarters"),
        ("50/50", "fifty fiftieth"),
        ("21st", "twenty-first"),
        ("3.14", "three point fourteen"),
        ("100%", "one hundred percent"),
        ("5-4", "five - four"),
        ("1234567890123456", "one two three four five six seven eight nine zero one two three four five six"),
        ("no digits", "no digits"),
    ],
)
def test_numbers_are_read_in_words(text: str, words: str) -> None:
    assert " ".join(in_words(text).split()) == words


def test_a_number_of_ten_thousand_digits_is_read_digit_by_digit() -> None:
    assert in_words("1" * 10_000).split() == ["one"] * 10_000
    assert in_words(f"{'1' * 10_000}st").split() == ["one"] * 10_000


def test_abbreviations_are_read_in_full_whatever_their_case() -> None:
    assert spoken("MR. Jones of St. James")[0] == "mister. Jones of saint. James"


def test_hyphens_join_and_apostrophes_part_as_the_model_was_taught() -> None:
    assert _said("well-worn") == _said("wellworn")
    assert _said("don't") == "d ɑː n ' t iː _"
    assert _said("don’t") == _said("don't")


def test_consonants_that_the_model_knows_as_one_are_merged_within_a_word_only() -> None:
    assert _said("trade the drum") == "tɹ eɪ d _ ð ə _ dɹ ʌ m _"
    assert _said("lights") == "l aɪ ts _"
    assert "ts" not in read("light sea")[0]


def test_punctuation_stands_alone_and_takes_the_place_of_the_word_mark() -> None:
    assert _said("Wait... what, now?") == "w eɪ t … w ʌ t , n aʊ ?"


def test_a_stretch_is_closed_only_after_a_letter_that_mandarin_has() -> None:
    assert read("night")[0][-1] == "_"
    assert read("love")[0][-1] == "v"


@pytest.mark.parametrize("text", ["", "   ", "...", "'", "—", "_", "()"])
def test_text_without_words_is_no_error(text: str) -> None:
    assert set(read(text)[0]) <= {"…", "'"}


def test_espeak_says_nothing_on_the_log(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.DEBUG):
        read("of the morning in the rain, déjà vu")
    assert not caplog.records
    assert capfd.readouterr() == ("", "")


def test_every_phone_of_a_list_of_words_is_in_the_demo_inventory() -> None:
    demo = Inventory.demo()
    words = [
        *("".join(pair) for pair in itertools.product(ascii_lowercase, repeat=2)),
        *(f"{a}{b}{c}" for a in ("", "b", "ch", "tr", "th", "qu") for b in _VOWELS for c in _CODAS),
        *_ODD_WORDS.split(),
    ]
    lacking = {phone for word in words for phone in read(word)[0] if phone not in demo}
    assert not lacking


_VOWELS = (
    "a",
    "ai",
    "au",
    "e",
    "ea",
    "ee",
    "i",
    "igh",
    "o",
    "oa",
    "oi",
    "oo",
    "ou",
    "ow",
    "u",
    "ure",
    "ire",
    "eer",
)
_ODD_WORDS = """
    croissant denouement unary wii loch Bach Llanelli uh-huh genre vision button bottle Bonjour ensemble über
    señor Reykjavik fire hour lawyer poor more door four
"""
_CODAS = ("", "n", "ng", "r", "re", "rt", "ll", "st", "tion", "t", "ts", "ds", "ck", "th", "ge")


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=40))
def test_any_text_can_be_read(text: str) -> None:
    phones, left_out = read(text)
    assert all(phones)
    assert all(len(char) == 1 for char in left_out)


def _wheel() -> Path:
    return Path(espeakng_loader.get_library_path())


@pytest.mark.parametrize("lost", ["libespeak-ng.so", "espeak-ng-data/phontab", "espeak-ng-data/en_dict"])
def test_an_espeak_that_lacks_a_file_is_an_error_with_the_cure(lost: str, tmp_path: Path) -> None:
    library = tmp_path / "libespeak-ng.so"
    shutil.copy(_wheel(), library)
    data = tmp_path / "espeak-ng-data"
    data.mkdir()
    for name in ("phontab", "phonindex", "phondata", "intonations", "en_dict"):
        (data / name).symlink_to(_wheel().parent / "espeak-ng-data" / name)
    (tmp_path / lost).unlink()
    with pytest.raises(EspeakError, match="missing, run: pip install") as caught:
        voice(library)
    assert str(tmp_path / lost) in str(caught.value)


def test_an_espeak_that_is_no_library_is_an_error_with_the_cure(tmp_path: Path) -> None:
    library = tmp_path / "libespeak-ng.so"
    library.write_bytes(b"not a library")
    (tmp_path / "espeak-ng-data").symlink_to(_wheel().parent / "espeak-ng-data")
    with pytest.raises(EspeakError, match="cannot be loaded"):
        voice(library)
