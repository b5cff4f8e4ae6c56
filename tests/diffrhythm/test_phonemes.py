from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from diffrhythm.errors import BundleError
from diffrhythm.phonemes import Inventory, segments, to_ids
from diffrhythm.phonemes.inventory import MOST_PHONES, demo_table

DEMO = Inventory.demo()


def _table(**changes: int) -> str:
    return json.dumps({"vocab": {",": 0, ".": 1, "h": 2} | changes})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hello 世界", [("hello ", "en"), ("世界", "zh")]),
        ("我love你", [("我", "zh"), ("love", "en"), ("你", "zh")]),
        ("“永远”有", [("“永远”有", "zh")]),
        ("3 times, 三次!", [("3 times, ", "en"), ("三次!", "zh")]),
        ("在KTV唱到3点", [("在", "zh"), ("KTV", "en"), ("唱到3点", "zh")]),
        ("123, …!", []),
        ("", []),
    ],
)
def test_what_shows_no_language_goes_with_the_stretch_before_it(
    text: str, expected: list[tuple[str, str]]
) -> None:
    assert segments(text) == expected


def test_stretches_together_are_the_whole_line() -> None:
    line = "  ♥ 1 hello，世界 2 and 你 3!"
    assert "".join(stretch for stretch, _ in segments(line)) == line


def test_english_before_chinese_ends_in_a_word_mark_and_at_the_end_of_a_line_in_none() -> None:
    assert " ".join(to_ids("Good night晚安", DEMO).phones) == "ɡ ʊ d _ n aɪ t _ uan↓↑ an→"
    assert " ".join(to_ids("晚安 good night", DEMO).phones) == "uan↓↑ an→ ɡ ʊ d _ n aɪ t"


def test_a_line_of_digits_has_no_phones_until_its_language_is_given() -> None:
    assert to_ids("123!", DEMO).ids == ()
    assert to_ids("7!", DEMO, "en").phones == ("s", "ɛ", "v", "ə", "n", "!")
    assert to_ids("7!", DEMO, "zh").phones == ("tʃʰ", "i→", "!")


@pytest.mark.parametrize(
    ("text", "unknown"),
    [
        ("hello ありがとう", ("あ", "り", "が", "と", "う")),
        ("you & me", ("&",)),
        ("我♥你", ("♥",)),
        ("Привет", tuple("Привет")),
        ("我们々", ("々",)),
        ("“hello” (world) — the—end", ()),
        ("“你好”（世界）《歌》", ()),
    ],
)
def test_what_cannot_be_sung_is_named_and_plain_punctuation_is_not(
    text: str, unknown: tuple[str, ...]
) -> None:
    assert to_ids(text, DEMO).unknown == unknown


def test_a_phone_that_the_inventory_lacks_is_named() -> None:
    phones = to_ids("hello", Inventory.from_json(_table()))
    assert phones.ids == (3,)
    assert phones.phones == ("h",)
    assert phones.unknown == ("ə", "l", "oʊ")


def test_a_letter_and_its_accent_in_two_characters_sound_as_in_one() -> None:
    assert to_ids("re\u0301sume\u0301", DEMO) == to_ids("r\u00e9sum\u00e9", DEMO) != to_ids("resume", DEMO)


def test_the_committed_demo_table_is_the_one_that_the_converters_make() -> None:
    path = Path(__file__).parents[2] / "diffrhythm" / "phonemes" / "demo.json"
    assert path.read_text(encoding="utf-8") == demo_table()


def test_demo_ids_begin_after_the_filler_and_fit_the_models_table() -> None:
    ids = sorted(DEMO.ids.values())
    assert ids == list(range(1, len(ids) + 1))
    assert len(ids) <= MOST_PHONES
    assert len(DEMO) == ids[-1] + 1


def test_a_number_in_a_table_becomes_an_id_one_higher() -> None:
    assert dict(Inventory.from_json(_table()).ids) == {",": 1, ".": 2, "h": 3}


def test_of_a_phone_listed_twice_the_last_number_counts() -> None:
    assert Inventory.from_json('{"vocab": {",": 0, ".": 1, "ç": 5, "ç": 7}}').ids["ç"] == 8


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("{", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ("[]", 'no "vocab"'),
        ('{"vocab": []}', 'no "vocab"'),
        (_table(x=-1), "'x'"),
        (_table(x=363), "'x'"),
        ('{"vocab": {",": 0, ".": true}}', "'.'"),
        (_table(x=2), "same number"),
        ('{"vocab": {",": 0}}', 'lacks ","'),
    ],
)
def test_a_damaged_table_is_refused_in_one_line(text: str, wrong: str) -> None:
    with pytest.raises(BundleError) as caught:
        Inventory.from_json(text, source="phonemes.json")
    message = str(caught.value)
    assert message.startswith("phonemes.json: ")
    assert wrong in message
    assert "\n" not in message


def test_a_missing_or_oversized_or_binary_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="cannot be read"):
        Inventory.read(tmp_path / "none.json")
    (tmp_path / "large.json").write_bytes(b" " * ((1 << 20) + 1))
    with pytest.raises(BundleError, match="more than"):
        Inventory.read(tmp_path / "large.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\x00")
    with pytest.raises(BundleError, match="cannot be read"):
        Inventory.read(tmp_path / "binary.json")


def _loaded_after(statement: str) -> set[str]:
    probe = f"import sys; {statement}; print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    return set(out.stdout.split())


def test_importing_lyrics_loads_no_backend() -> None:
    heavy = {"torch", "numpy", "phonemizer", "espeakng_loader", "jieba", "pypinyin", "cn2an", "inflect"}
    assert not heavy & _loaded_after("import diffrhythm.lyrics")


def test_each_language_loads_only_its_own_backend() -> None:
    call = "from diffrhythm.phonemes import Inventory, to_ids; to_ids({!r}, Inventory.demo())"
    english = _loaded_after(call.format("hello"))
    assert "phonemizer" in english
    assert not {"jieba", "pypinyin", "cn2an", "inflect", "torch"} & english
    chinese = _loaded_after(call.format("你好"))
    assert {"jieba", "pypinyin"} <= chinese
    assert not {"phonemizer", "cn2an", "inflect", "torch"} & chinese
