"""Chinese text → phones: jieba's words, pypinyin's readings, tone sandhi, then an initial and a final each.

A final carries its tone as arrows: → first, ↑ second, ↓↑ third, ↓ fourth, none neutral. The reading is
that of the published model, which was trained on it; its lexicon and its classifier of ambiguous characters
are not to be had, pypinyin stands in for both. One word less is lost: the published reading drops a 不 at the
end of a stretch.

jieba and pypinyin are loaded on first use. No cache file is written: many songs may start at once.
"""

from __future__ import annotations

import re
import unicodedata
import warnings
from functools import cache
from typing import Any

from diffrhythm.phonemes.punctuation import MARKS, plain_marks

_ARROW = {"5": "", "1": "→", "2": "↑", "3": "↓↑", "4": "↓"}


def _table(pairs: str) -> dict[str, str]:
    return dict(pair.split(":", 1) for pair in pairs.split())


_INITIALS = _table(
    "b:p⁼ p:pʰ m:m f:f d:t⁼ t:tʰ n:n l:l g:k⁼ k:kʰ h:x j:tʃ⁼ q:tʃʰ x:ʃ "
    "zh:ts`⁼ ch:ts`ʰ sh:s` r:ɹ` z:ts⁼ c:tsʰ s:s"
)
_FINALS = _table(
    "a:a o:o e:ə ê:ɛ ai:aɪ ei:eɪ ao:ɑʊ ou:oʊ an:an en:ən ang:ɑŋ eng:əŋ er:əɹ ong:ʊŋ "
    "i:i ia:ia ie:iɛ iao:iɑʊ iu:ioʊ ian:jɛn in:in iang:iɑŋ ing:iŋ iong:jʊŋ "
    "u:u ua:ua uo:uo uai:uaɪ ui:ueɪ uan:uan un:uən uang:uɑŋ v:ɥ ve:ɥɛ van:ɥæn vn:ɥn"
)
# Syllables without an initial are spelled with y or w in its place.
_ZERO_INITIAL = _table(
    "yi:i ya:ia ye:ie yao:iao you:iu yan:ian yin:in yang:iang ying:ing yong:iong yo:o "
    "wu:u wa:ua wo:uo wai:uai wei:ui wan:uan wen:un wang:uang weng:ong yu:v yue:ve yuan:van yun:vn"
)
# 嗯, 呣, 哼 have no vowel in the dictionary.
_HUMMED = _table("m:en n:en ng:eng hm:hen hng:heng")
_BUZZING = ("zh", "ch", "sh", "r", "z", "c", "s")  # their i is no i
_LABIAL = ("b", "p", "m", "f")  # with o they are one phone: p⁼wo

_HAN = "\u4e00-\u9fa5"
_UNSPOKEN = re.compile(f"[^{_HAN}{re.escape(''.join(MARKS))}]")
_MARK = re.compile(f"([{re.escape(''.join(MARKS))}])")
_SYLLABLE = re.compile(r"(zh|ch|sh|[bpmfdtnlgkhjqxrzcs]?)([a-zê]+)([1-5])")
# cn2an knows no longer numbers.
_LONG_NUMBER = re.compile(r"[0-9]{16,}")
_DIGITS = "零一二三四五六七八九"
_SPELLED = str.maketrans("0123456789", _DIGITS)


CONSONANTS = tuple(_INITIALS.values())


def alphabet() -> tuple[str, ...]:
    """Every phone that this module can say, in a fixed order."""
    toned = list(_FINALS.values())
    toned += [_INITIALS[initial] + "wo" for initial in _LABIAL]
    toned += [_INITIALS[initial] + "ɹ" for initial in _BUZZING]
    return (*_INITIALS.values(), *(final + tone for final in toned for tone in _ARROW.values()))


def read(text: str) -> tuple[list[str], list[str]]:
    """The phones of one stretch of Chinese, marks included; and the characters left out."""
    said, left_out = spoken(text)
    phones: list[str] = []
    for word in words(said):
        if word in MARKS:
            phones.append(word)
            continue
        for char, syllable in zip(word, _syllables(word), strict=True):
            found = phones_of(syllable)
            phones += found
            left_out += [] if found else [char]
    return phones, left_out


def spoken(text: str) -> tuple[str, list[str]]:
    """text as it is read out: numbers in words, only Chinese characters and MARKS; and what was left out."""
    text = plain_marks(_numbers_in_words(text))
    left_out = [c for c in text if _UNSPOKEN.match(c)]
    return _UNSPOKEN.sub("", text), left_out


def words(text: str) -> list[str]:
    """The words of text, with 不, 一 and 儿 joined to the word that decides their tone."""
    pieces = [piece for piece in _MARK.split(text) if piece]
    cut = [word for piece in pieces for word in ([piece] if piece in MARKS else _cutter().lcut(piece))]
    return _with_er(_with_yi(_with_bu(cut)))


def _syllables(word: str) -> list[str]:
    """Pinyin of each character of a word, as spoken, its tone as a digit (5 neutral)."""
    return sandhi(word, _reading(word))


def phones_of(syllable: str) -> list[str]:
    """Initial and final of one pinyin syllable with its tone: zhong1 → ts`⁼, ʊŋ→; [] of one that is none."""
    syllable = _HUMMED.get(syllable[:-1], syllable[:-1]) + syllable[-1:]
    spelled = _SYLLABLE.fullmatch(syllable)
    if not spelled:
        return []
    initial, final, tone = spelled.groups()
    if initial in _BUZZING and final == "i":
        return [_INITIALS[initial] + ("" if tone == "5" else "ɹ" + _ARROW[tone])]
    if initial in _LABIAL and final == "o":
        return [_INITIALS[initial] + "wo" + _ARROW[tone]]
    if initial in ("j", "q", "x") and final.startswith("u"):
        final = "v" + final[1:]
    if not initial:
        final = _ZERO_INITIAL.get(final, final)
    if final not in _FINALS:
        return []
    return [*([_INITIALS[initial]] if initial else []), _FINALS[final] + _ARROW[tone]]


def sandhi(word: str, syllables: list[str]) -> list[str]:
    """syllables (pinyin, each ending in its tone) of one word with the tones that they have when spoken."""
    return _third(_er(word, _yi(word, _bu(word, syllables))))


def _bu(word: str, syllables: list[str]) -> list[str]:
    """好不好: neutral; 不去: rising before a falling tone."""
    spoken = list(syllables)
    if len(word) == 3 and word[1] == "不":
        spoken[1] = "bu5"
        return spoken
    for i, char in enumerate(word[:-1]):
        if char == "不" and syllables[i + 1].endswith("4"):
            spoken[i] = "bu2"
    return spoken


def _yi(word: str, syllables: list[str]) -> list[str]:
    """看一看: neutral; 第一, 一月, 二零一: level; else rising before a falling tone, else falling."""
    spoken = list(syllables)
    if "一" not in word or all(char in _DIGITS for char in word):
        return spoken
    if len(word) == 3 and word[1] == "一" and word[0] == word[2]:
        spoken[1] = "yi5"
    elif word.startswith("第一"):
        spoken[1] = "yi1"
    elif word.startswith(("一月", "一日", "一号")):
        spoken[0] = "yi1"
    else:
        for i, char in enumerate(word[:-1]):
            if char == "一":
                spoken[i] = "yi2" if syllables[i + 1].endswith("4") else "yi4"
    return spoken


def _er(word: str, syllables: list[str]) -> list[str]:
    """花儿: neutral at the end of a word, but not in 女儿."""
    return [*syllables[:-1], "er5"] if len(word) > 1 and word[-1] == "儿" and word != "女儿" else syllables


def _third(syllables: list[str]) -> list[str]:
    """The first of two third tones rises in words of two or twice two; three keep theirs, as trained."""
    if len(syllables) not in (2, 4):
        return syllables
    spoken = list(syllables)
    for i in range(0, len(syllables), 2):
        if syllables[i].endswith("3") and syllables[i + 1].endswith("3"):
            spoken[i] = syllables[i][:-1] + "2"
    return spoken


def _with_bu(cut: list[str]) -> list[str]:
    joined: list[str] = []
    for word in cut:
        if joined and joined[-1] == "不" and word not in MARKS:
            joined[-1] += word
        else:
            joined.append(word)
    return joined


def _with_yi(cut: list[str]) -> list[str]:
    joined: list[str] = []
    for word in cut:
        if joined[-1:] == ["一"] and word not in MARKS:
            joined[-1] += word
            if joined[-2:-1] == [word]:  # 走 一 走
                joined[-2:] = [word + joined[-1]]
        else:
            joined.append(word)
    return joined


def _with_er(cut: list[str]) -> list[str]:
    joined: list[str] = []
    for word in cut:
        if word == "儿" and joined and joined[-1] not in MARKS:
            joined[-1] += word
        else:
            joined.append(word)
    return joined


def _reading(word: str) -> list[str]:
    """Pinyin of each character as the dictionary has it; "" of one that it lacks."""
    from pypinyin import Style, lazy_pinyin

    def unread(chars: str) -> list[str]:
        return [""] * len(chars)

    return list(lazy_pinyin(word, style=Style.TONE3, neutral_tone_with_five=True, errors=unread))  # type: ignore[arg-type]


def _numbers_in_words(text: str) -> str:
    if not any(c.isdecimal() for c in text):
        return text
    import cn2an

    text = _LONG_NUMBER.sub(lambda m: m[0].translate(_SPELLED), re.sub(r"\d", _ascii_digit, text))
    return str(cn2an.transform(text, "an2cn")).translate(_SPELLED)


def _ascii_digit(found: re.Match[str]) -> str:
    return str(unicodedata.decimal(found[0]))


@cache
def _cutter() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # jieba is of 2020: pkg_resources, escapes that are none
        import jieba

    cutter = jieba.Tokenizer()
    # What its initialize() does, less the cache in the shared temporary folder (0.6 s instead of 0.4).
    cutter.FREQ, cutter.total = cutter.gen_pfdict(cutter.get_dict_file())
    cutter.initialized = True
    return cutter
