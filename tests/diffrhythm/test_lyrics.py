from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffrhythm.errors import LyricsError
from diffrhythm.lyrics import LARGEST_FILE, Fit, Line, align, fits, held, parse_lrc
from diffrhythm.phonemes import Inventory
from diffrhythm.phonemes.inventory import is_vowel

DEMO = Inventory.demo()
COMMA, STOP = DEMO.ids[","], DEMO.ids["."]
JOBS = Path(__file__).parents[2] / "jobs" / "lyrics"


def _read(text: str) -> list[tuple[float, str]]:
    return [(line.seconds, line.text) for line in parse_lrc(text)]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("[00:03.50]hi", [(3.5, "hi")]),
        ("[00:03.512]hi", [(3.512, "hi")]),
        ("[00:03.5]hi", [(3.5, "hi")]),
        ("[00:03]hi", [(3.0, "hi")]),
        ("[0:03.05]hi", [(3.05, "hi")]),
        ("[01:02:50]hi", [(62.5, "hi")]),
        ("[120:00.00]hi", [(7200.0, "hi")]),
        ("  [00:03.50]  hi  there ", [(3.5, "hi there")]),
        ("\ufeff[00:03.50]hi", [(3.5, "hi")]),
        ("[00:01.00][00:05.00] [00:09.00]again", [(1.0, "again"), (5.0, "again"), (9.0, "again")]),
        ("[00:01.00]<00:01.00>one <00:01.50>by <00:02.00>one", [(1.0, "one by one")]),
        ("[00:05.00]words [00:07.00] inside", [(5.0, "words inside")]),
        ("[00:05.00]", []),
        ("[00:05.00]   ", []),
        ("", []),
    ],
)
def test_a_row_is_read_as_people_write_it(row: str, expected: list[tuple[float, str]]) -> None:
    assert _read(row) == expected


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_any_line_end_will_do_and_lines_keep_their_numbers(end: str) -> None:
    lines = parse_lrc(end.join(["[ti:Song]", "", "[00:01.00]one", "[00:02.00]two", ""])).lines
    assert [(line.number, line.text) for line in lines] == [(3, "one"), (4, "two")]


def test_an_inline_text_counts_lines_from_where_it_stands() -> None:
    lines = parse_lrc("[00:01.00]one", source="night.yaml", first_line=12).lines
    assert lines[0].where == "night.yaml:12"


def test_tags_are_kept_and_the_title_is_the_ti_tag() -> None:
    lyrics = parse_lrc("[TI:A: song]\n[ar:Nobody]\n[length:01:30]\n[00:01.00]one")
    assert lyrics.title == "A: song"
    assert dict(lyrics.tags) == {"ti": "A: song", "ar": "Nobody", "length": "01:30"}
    assert parse_lrc("").title == ""


def test_a_positive_offset_brings_words_earlier_wherever_it_stands() -> None:
    assert _read("[00:02.00]one\n[offset:+500]") == [(1.5, "one")]
    assert _read("[offset:-250]\n[00:02.00]one") == [(2.25, "one")]


def test_an_offset_never_moves_words_before_the_song_and_says_so() -> None:
    lyrics = parse_lrc("[offset:3000]\n[00:02.00]one")
    assert lyrics.lines[0].seconds == 0.0
    assert "lyrics.lrc:2: the offset" in lyrics.warnings[0]


def test_lines_out_of_order_are_sorted_and_named() -> None:
    lyrics = parse_lrc("[00:05.00]second\n[00:01.00]first\n[00:01.00]at once", source="x.lrc")
    assert [line.text for line in lyrics] == ["first", "at once", "second"]
    assert [warning.split(": ")[0] for warning in lyrics.warnings] == ["x.lrc:2", "x.lrc:3"]


def test_a_chorus_with_several_stamps_is_no_disorder() -> None:
    assert parse_lrc("[00:01.00][00:09.00]chorus\n[00:05.00]verse").warnings == ()


def test_a_label_is_named_and_not_sung() -> None:
    lyrics = parse_lrc("[Chorus]\n[00:01.00]one")
    assert len(lyrics) == 1
    assert lyrics.warnings[0].startswith("lyrics.lrc:1: [Chorus] is not sung")


def test_every_bad_line_is_shown_with_its_place_and_its_cure() -> None:
    with pytest.raises(LyricsError) as caught:
        parse_lrc("no time\n[00:01.00]fine\n[aa:bb.cc]letters\n[offset:soon]", source="song.lrc")
    rows = str(caught.value).splitlines()
    assert rows[0] == "song.lrc:1: no time before 'no time', write [mm:ss.xx] before it"
    assert rows[-1] == "song.lrc:4: offset 'soon', give milliseconds such as [offset:+250]"


def test_a_damaged_stamp_is_an_error_and_not_a_tag() -> None:
    for row in ("[00:xx.00]words", "[00.01.00]words", "[00:01.0000]words", "00:01.00 words"):
        with pytest.raises(LyricsError, match="no time before"):
            parse_lrc(row)


def test_seconds_from_sixty_on_are_read_with_a_warning() -> None:
    lyrics = parse_lrc("[00:75.00]late")
    assert lyrics.lines[0].seconds == 75.0
    assert "75 seconds" in lyrics.warnings[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[00:03.50]  hi ", [(3.5, "hi", 1)]),
        ("[00:03.512]hi", [(3.51, "]hi", 1)]),
        ("[00:75.00]hi\r\n[00:-3.00]no", [(75.0, "hi", 1), (-3.0, "no", 2)]),
        ("[00:05.00]", [(5.0, "", 1)]),
        ("\n\n  [00:03.50]hi\n  [00:04.50]lost\n[00:02.00]first", [(3.5, "hi", 3), (2.0, "first", 5)]),
        ("[00:03.5]x\n[00:03]x\n[0:03.00]x\n[ti:x]\nx", []),
        ("\ufeff[00:03.50]x", []),
    ],
)
def test_the_published_columns_drop_what_does_not_fit(
    text: str, expected: list[tuple[float, str, int]]
) -> None:
    lines = parse_lrc(text, published=True).lines
    assert [(line.seconds, line.text, line.number) for line in lines] == expected


@pytest.mark.parametrize(
    ("content", "wrong"),
    [
        (b"\x00\x01\x02", "binary"),
        (b"RIFF\x24\x00\xff\xffWAVE", "binary"),
        ("[00:01.00]你好".encode("gbk"), "not UTF-8"),
        ("[00:01.00]hi".encode("utf-16"), "UTF-16"),
        (b"[00:01.00]" + b"x" * LARGEST_FILE, "1 MiB"),
        (b"[00:01.00]" + b"x" * 3000, "characters"),
        (b"[00:01.00]x\n" * 3000, "more than 2000 lines"),
    ],
)
def test_what_is_no_lyrics_is_refused(content: bytes, wrong: str) -> None:
    with pytest.raises(LyricsError, match=wrong):
        parse_lrc(content)


def test_bytes_are_read_as_utf_8() -> None:
    assert parse_lrc("\ufeff[00:01.00]你好".encode()).lines[0].text == "你好"


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=st.sampled_from("[]<>:.0159 \n\r\tax#offset-你\ufeff\x00"), max_size=80))
def test_any_text_is_read_or_refused_and_never_crashes(text: str) -> None:
    try:
        lyrics = parse_lrc(text)
    except LyricsError:
        return
    assert [line.seconds for line in lyrics] == sorted(line.seconds for line in lyrics)
    assert all(line.seconds >= 0 and line.text for line in lyrics)


def test_ids_stand_one_a_frame_from_the_lines_time_on_and_end_with_a_stop() -> None:
    alignment = align([Line(1.0, "hi", 1)], DEMO, frames=40)
    assert alignment.ids.dtype == np.int64
    wanted = np.zeros(40, dtype=np.int64)
    wanted[21:24] = [DEMO.ids["h"], DEMO.ids["aɪ"], STOP]
    np.testing.assert_array_equal(alignment.ids, wanted)


def test_a_stop_within_a_line_becomes_a_comma() -> None:
    ids = align([Line(0.0, "no. no.", 1)], DEMO, frames=20).ids
    assert ids[ids != 0].tolist().count(COMMA) == 2
    assert ids[ids != 0].tolist().count(STOP) == 1


def test_a_line_that_does_not_fit_pushes_the_next_one_and_both_are_named() -> None:
    lines = [Line(0.0, "so many many words", 1), Line(0.1, "next", 2)]
    alignment = align(lines, DEMO)
    first, second = alignment.placed
    assert second.start == first.end
    assert len(alignment.warnings) == 1
    assert alignment.warnings[0].startswith("lyrics.lrc:2: sung ")
    assert "lyrics.lrc:1" in alignment.warnings[0]


def test_a_line_past_the_end_and_a_line_cut_by_it_are_named() -> None:
    lines = [Line(0.9, "hello there my friend", 1), Line(2.0, "never", 2)]
    alignment = align(lines, DEMO, frames=25)
    assert [(p.start, p.end) for p in alignment.placed] == [(19, 25), (25, 25)]
    assert np.count_nonzero(alignment.ids) == 6
    assert "lyrics.lrc:1: cut by the end" in alignment.warnings[0]
    assert "lyrics.lrc:2: not sung" in alignment.warnings[1]


def test_a_line_has_the_time_up_to_the_next_one_that_is_sung_or_the_songs_end() -> None:
    lines = [Line(1.0, "hi", 1), Line(1.2, "!!!", 2), Line(2.0, "hi", 3), Line(9.0, "hi", 4)]
    one, two, three, four = fits(lines, align(lines, DEMO, frames=60))
    assert one == Fit(lines[0], frame=21, sounds=("h", "aɪ"), takes=3, has=43 - 21)
    assert one.per_s == pytest.approx(2 / (22 * 2048 / 44100))
    assert (two, four) == (Fit(lines[1]), Fit(lines[3]))
    assert (three.frame, three.has, three.lost) == (43, 60 - 43, 0)
    assert fits(lines[:0], align([], DEMO, frames=60)) == []


def test_a_dense_line_makes_the_next_one_late_and_the_end_cuts_the_last() -> None:
    lines = [Line(0.0, "hi", 1), Line(0.1, "hi", 2)]
    dense, late = fits(lines, align(lines, DEMO, frames=5))
    assert (dense.takes, dense.has, dense.late, dense.lost) == (3, 2, 0, 0)
    assert (late.frame, late.takes, late.has, late.late, late.lost) == (3, 3, 3, 1, 1)


def test_a_held_phone_counts_once() -> None:
    lines = [Line(0.0, "la la", 1)]
    (fit,) = fits(lines, align(lines, DEMO, frames=60, syllable_frames=6))
    assert fit.sounds == ("l", "æ", "l", "æ")
    assert fit.takes == 1 + 6 + 12 + 1


def test_a_line_at_or_after_max_secs_is_left_out_and_named() -> None:
    alignment = align([Line(1.0, "one", 1), Line(2.0, "two", 2)], DEMO, frames=100, max_secs=2.0)
    assert [p.line.number for p in alignment.placed] == [1]
    assert alignment.warnings[0].startswith("lyrics.lrc:2: not sung, begins at 2.00 s")


def test_a_line_of_digits_is_named_and_the_others_are_sung() -> None:
    alignment = align([Line(0.0, "123", 1), Line(1.0, "hi", 2)], DEMO, frames=60)
    assert [p.line.number for p in alignment.placed] == [2]
    assert alignment.warnings[0].startswith("lyrics.lrc:1: nothing to sing in '123'")


def test_a_line_of_digits_is_sung_in_the_language_given() -> None:
    assert align([Line(0.0, "7", 1)], DEMO, language="zh").placed[0].phones.phones == ("tʃʰ", "i→")


def test_an_unknown_symbol_is_named_with_its_line() -> None:
    alignment = align([Line(0.0, "you ♥ me", 7)], DEMO)
    assert alignment.warnings[0].startswith("lyrics.lrc:7: not sung: ♥ in 'you ♥ me'")


def test_the_last_line_is_sung_with_the_base_models_frames() -> None:
    assert len(align([Line(0.0, "only", 1)], DEMO, frames=2048).placed) == 1
    assert len(align([Line(0.0, "only", 1)], DEMO, frames=2048, published=True).placed) == 0


def test_without_frames_the_song_is_as_long_as_its_words() -> None:
    lines = [Line(10.0, "hi", 1)]
    free = align(lines, DEMO)
    assert len(free.ids) == 215 + 3
    assert free.end_seconds == pytest.approx(218 * 2048 / 44100)
    assert free.warnings == ()
    assert align(lines, DEMO, frames=10).end_seconds == free.end_seconds


def test_no_lines_are_an_instrumental() -> None:
    alignment = align([], DEMO, frames=100)
    assert not alignment.ids.any()
    assert alignment.end_seconds == 0.0
    assert len(align([], DEMO).ids) == 0


def test_the_published_way_refuses_a_line_without_a_language() -> None:
    with pytest.raises(LyricsError, match=r"lyrics\.lrc:3: shows no language"):
        align([Line(1.0, "…", 3)], DEMO, frames=2048, published=True)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 6), st.sampled_from(["hi", "你好", "one two three"])), max_size=6),
    st.integers(0, 150),
)
def test_every_line_is_laid_whole_and_in_order_or_named(lines: list[tuple[float, str]], frames: int) -> None:
    alignment = align([Line(s, w, i) for i, (s, w) in enumerate(sorted(lines), 1)], DEMO, frames=frames)
    assert len(alignment.ids) == frames
    assert np.count_nonzero(alignment.ids) == sum(p.end - p.start for p in alignment.placed)
    for before, after in zip(alignment.placed, alignment.placed[1:], strict=False):
        assert before.end <= after.start
    for placed in alignment.placed:
        whole = placed.end - placed.start == len(placed.phones.ids) + 1
        assert whole or any(placed.line.where in warning for warning in alignment.warnings)


@pytest.mark.parametrize("path", sorted(JOBS.glob("*.lrc")), ids=lambda path: path.name)
def test_the_example_songs_are_sung_whole_and_in_time(path: Path) -> None:
    lyrics = parse_lrc(path.read_bytes(), source=path.name)
    alignment = align(lyrics, DEMO)
    assert lyrics.title
    assert lyrics.warnings == alignment.warnings == ()
    assert 5 <= len(lyrics) <= 8
    assert 15 <= alignment.end_seconds <= 30
    assert not any(placed.phones.unknown for placed in alignment.placed)


def test_vowels_of_a_held_line_begin_a_syllable_apart_whatever_stands_between_them() -> None:
    frames = held(("k", "æ", "n", "d", "_", "ð", "ə", "k", "aɪ", "t", "s"), 6)
    begins = [i for i, phone in enumerate(frames) if is_vowel(phone) and frames[i - 1] != phone]
    assert [frames[i] for i in begins] == ["æ", "ə", "aɪ"]
    assert begins == [1, 7, 13]
    assert "_" not in frames
    # The last vowel and what follows it take two syllables.
    assert len(frames) == 13 + 12


def test_a_vowel_behind_which_more_consonants_stand_than_fit_is_held_for_another_syllable() -> None:
    frames = held(("ɛ", "ŋ", "k", "θ", "s", "s", "l", "iː"), 6)
    assert frames.count("ɛ") == 12 - 6
    assert held(("m", "m"), 6) == ["m", "m"]


def test_a_line_laid_held_keeps_its_time_and_its_end_mark() -> None:
    inventory = Inventory.demo()
    line = Line(1.0, "la la", 1)
    plain = align([line], inventory)
    sung = align([line], inventory, syllable_frames=6)
    assert sung.placed[0].start == plain.placed[0].start == 21
    assert len(sung.ids) - 21 == 1 + 6 + 12 + 1
    assert sung.ids[-1] == plain.ids[-1] == inventory.ids["."]


@pytest.mark.parametrize("time", ["0:nan   ", "0:1e99  ", "0:-inf  "])
def test_a_published_time_that_no_song_has_is_refused(time: str) -> None:
    lines = parse_lrc(f"[{time}]la\n[00:01.00]lo\n", published=True).lines
    with pytest.raises(LyricsError, match=r"lyrics\.lrc:1: begins at"):
        align(lines, Inventory.demo(), published=True)


def test_a_warning_is_a_printable_line() -> None:
    (warning,) = parse_lrc("[ve\x1brse]\n[00:01.00]la").warnings
    assert warning == r"lyrics.lrc:1: [ve\x1brse] is not sung, put a time before it if it should be"


def test_published_lyrics_have_the_bounds_of_a_song_too() -> None:
    with pytest.raises(LyricsError, match=r"lyrics\.lrc:2: 5009 characters, break it"):
        parse_lrc("[00:01.00]la\n[00:02.00]" + "- " * 2500, published=True)
    with pytest.raises(LyricsError, match=r"lyrics\.lrc:2001: more than 2000 lines"):
        parse_lrc("[00:01.00]la\n" * 3000, published=True)
