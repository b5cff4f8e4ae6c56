from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pypinyin import Style, pinyin

from diffrhythm.phonemes import Inventory
from diffrhythm.phonemes.chinese import alphabet, phones_of, read, sandhi, words


def _said(text: str) -> str:
    return " ".join(read(text)[0])


@pytest.mark.parametrize(
    ("text", "phones"),
    [
        ("你好", "n i↑ x ɑʊ↓↑"),
        ("月亮", "ɥɛ↓ l iɑŋ↓"),
        ("旅行", "l ɥ↓↑ ʃ iŋ↑"),
        ("军队", "tʃ⁼ ɥn→ t⁼ ueɪ↓"),
        ("模仿", "mwo↑ f ɑŋ↓↑"),
        ("知识", "ts`⁼ɹ→ s`ɹ↑"),
        ("日子", "ɹ`ɹ↓ ts⁼"),
        ("永远", "jʊŋ↑ ɥæn↓↑"),
        ("老翁", "l ɑʊ↓↑ ʊŋ→"),
        ("为了你", "ueɪ↓ l ə n i↓↑"),
        ("嗯", "ən↑"),
    ],
)
def test_a_syllable_is_an_initial_and_a_final_with_its_tone(text: str, phones: str) -> None:
    assert _said(text) == phones


@pytest.mark.parametrize(
    ("word", "written", "spoken"),
    [
        ("不去", "bu4 qu4", "bu2 qu4"),
        ("不来", "bu4 lai2", "bu4 lai2"),
        ("好不好", "hao3 bu4 hao3", "hao3 bu5 hao3"),
        ("一个", "yi1 ge4", "yi2 ge4"),
        ("一天", "yi1 tian1", "yi4 tian1"),
        ("看一看", "kan4 yi1 kan4", "kan4 yi5 kan4"),
        ("第一天", "di4 yi1 tian1", "di4 yi1 tian1"),
        ("一月", "yi2 yue4", "yi1 yue4"),
        ("二零一", "er4 ling2 yi1", "er4 ling2 yi1"),
        ("一千二百", "yi1 qian1 er4 bai3", "yi4 qian1 er4 bai3"),
        ("洗脸", "xi3 lian3", "xi2 lian3"),
        ("展览馆", "zhan3 lan3 guan3", "zhan3 lan3 guan3"),
        ("花儿", "hua1 er2", "hua1 er5"),
        ("女儿", "nv3 er2", "nv3 er2"),
    ],
)
def test_tones_change_in_company(word: str, written: str, spoken: str) -> None:
    assert sandhi(word, written.split()) == spoken.split()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("我不想走", ["我", "不想", "走"]),
        ("街头走一走", ["街头", "走一走"]),
        ("你说不，我不", ["你", "说", "不", ",", "我", "不"]),
    ],
)
def test_bu_yi_and_er_join_the_word_that_decides_their_tone(text: str, expected: list[str]) -> None:
    assert words(text.replace("，", ",")) == expected


def test_no_bu_is_lost_at_the_end_of_a_line() -> None:
    assert _said("我说不") == "uo↓↑ s` uo→ p⁼ u↓"


@pytest.mark.parametrize(
    ("text", "read_as"),
    [
        ("2024年", "二零二四年"),
        ("30%的", "百分之三十的"),
        ("唱到3点", "唱到三点"),
        ("1234567890123456号", "一二三四五六七八九零一二三四五六号"),
    ],
)
def test_numbers_are_read_in_characters(text: str, read_as: str) -> None:
    assert _said(text) == _said(read_as)


def test_full_width_marks_become_the_models_marks_and_quotes_go() -> None:
    assert _said("好..好？？") == "x ɑʊ↓↑ . . x ɑʊ↓↑ ? ?"
    assert _said("啊！真的吗？“好”，…") == "a ! ts`⁼ ən→ t⁼ ə m a ? x ɑʊ↓↑ , …"


def test_every_reading_of_every_character_is_in_the_demo_inventory() -> None:
    demo = Inventory.demo()
    assert all(phone in demo for phone in alphabet())
    assert len(set(alphabet())) == len(alphabet())


@pytest.mark.slow
def test_every_character_in_every_reading_can_be_said_in_the_alphabet() -> None:
    known = set(alphabet())
    for code in range(0x4E00, 0x9FA6):
        char = chr(code)
        for syllable in pinyin(char, style=Style.TONE3, neutral_tone_with_five=True, heteronym=True)[0]:
            phones = phones_of(syllable)
            assert phones or syllable.startswith(char), (char, syllable)
            assert set(phones) <= known, (char, syllable)


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x9FFF), max_size=30))
def test_any_text_can_be_read(text: str) -> None:
    phones, _ = read(text)
    assert all(phones)
