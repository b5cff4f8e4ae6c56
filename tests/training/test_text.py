"""The words of the training songs: singable, told apart, and of every sound."""

from collections import Counter
from itertools import combinations
from typing import get_args

import numpy as np
import pytest

from diffrhythm.phonemes import Inventory, Phones, chinese, english, to_ids
from diffrhythm.phonemes.inventory import is_vowel
from training.styles import STYLES
from training.text import PROMPTS, Language, Part, lines, prompt, song_lines

PARTS: tuple[Part, ...] = get_args(Part)
DEMO = Inventory.demo()

# Of words that English borrowed, or of espeak-ng 1.51 alone; they hardly occur in any line.
RARE = {"r", "iːː", "ɑ̃", "ɔ̃", "oː", "u", "oːɹ"}

every_part = pytest.mark.parametrize("part", PARTS)
every_language = pytest.mark.parametrize("language", get_args(Language))
every_style = pytest.mark.parametrize("style", PROMPTS)


def read(language: Language, part: Part) -> dict[str, Phones]:
    return {line: to_ids(line, DEMO, language) for line in lines(language, part)}


@pytest.mark.parametrize(("language", "least"), [("en", 500), ("zh", 350)])
def test_one_line_in_eight_is_held_out(language: Language, least: int) -> None:
    train, heldout = lines(language, "train"), lines(language, "heldout")
    assert len(train) + len(heldout) >= least
    assert len(heldout) == (len(train) + len(heldout)) // 8


@every_language
def test_no_line_is_written_twice_or_in_both_parts(language: Language) -> None:
    written = Counter(line.casefold() for part in PARTS for line in lines(language, part))
    assert [line for line, times in written.items() if times > 1] == []


@every_part
def test_an_english_line_has_four_to_nine_syllables_and_nothing_unknown(part: Part) -> None:
    for line, phones in read("en", part).items():
        assert phones.unknown == (), line
        assert 4 <= sum(map(is_vowel, phones.phones)) <= 9, line


@every_part
def test_a_chinese_line_has_four_to_eight_characters_and_nothing_unknown(part: Part) -> None:
    for line, phones in read("zh", part).items():
        assert phones.unknown == (), line
        assert 4 <= len(line) <= 8, line


@every_part
@every_language
def test_a_line_has_no_marks_which_would_be_pauses(language: Language, part: Part) -> None:
    for line in lines(language, part):
        assert line.replace(" ", "").isalpha(), line


def test_every_english_phone_is_sung_at_least_five_times_in_training() -> None:
    sung = Counter(phone for phones in read("en", "train").values() for phone in phones.phones)
    assert {phone for phone in english.ALPHABET if sung[phone] < 5} == RARE


def test_every_chinese_initial_and_final_is_sung_at_least_five_times_in_training() -> None:
    sung = Counter(phone.rstrip("→↑↓") for phones in read("zh", "train").values() for phone in phones.phones)
    sounds = {phone.rstrip("→↑↓") for phone in chinese.alphabet()}
    # 诶, 哦 and 佛
    assert {sound for sound in sounds if sung[sound] < 5} == {"ɛ", "o", "fwo"}


@every_part
@every_language
def test_a_song_has_lines_of_its_part_none_twice(language: Language, part: Part) -> None:
    chosen = song_lines(np.random.default_rng(1), language, 16, part)
    assert len(set(chosen)) == len(chosen) == 16
    assert set(chosen) <= set(lines(language, part))


def test_the_same_seed_chooses_the_same_words() -> None:
    one, two = (np.random.default_rng(7) for _ in range(2))
    assert song_lines(one, "zh", 9) == song_lines(two, "zh", 9)
    assert prompt("jazz", one) == prompt("jazz", two)


def test_every_style_has_prompts() -> None:
    assert PROMPTS.keys() == STYLES.keys()


@every_style
def test_a_style_has_enough_prompts_in_both_languages(style: str) -> None:
    prompts = PROMPTS[style]
    assert len(prompts.train) >= 100
    assert 5 <= len(prompts.heldout) <= 8
    for part in (prompts.train, prompts.heldout):
        assert {text.isascii() for text in part} == {True, False}


def test_no_prompt_is_of_two_styles_or_of_both_parts_or_written_twice() -> None:
    groups = [set(group) for prompts in PROMPTS.values() for group in (prompts.train, prompts.heldout)]
    assert [one & two for one, two in combinations(groups, 2) if one & two] == []
    written = [text for prompts in PROMPTS.values() for text in (*prompts.train, *prompts.heldout)]
    assert len(written) == len(set(written))


@every_part
@every_style
def test_a_prompt_is_one_of_its_style_and_part(style: str, part: Part) -> None:
    rng = np.random.default_rng(3)
    said = {prompt(style, rng, part) for _ in range(20)}
    assert len(said) > 1
    assert said <= set(PROMPTS[style].train if part == "train" else PROMPTS[style].heldout)
