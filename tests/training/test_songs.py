"""Songs by program: the same from a seed each time, and exact to the frame."""

from itertools import groupby

import numpy as np
import pytest

from diffrhythm.lyrics import held
from diffrhythm.phonemes import to_ids
from diffrhythm.phonemes.inventory import is_vowel
from diffrhythm.vae_config import HOP
from training.songs import LOUDEST, VOICE_LEVEL, Song, compose, inventory, sung_frames
from training.styles import STYLES, SYLLABLE_FRAMES
from training.voice import parts_of

FRAMES = 324
SEEDS = range(8)


@pytest.fixture(scope="module")
def songs() -> list[Song]:
    return [compose(seed, frames=FRAMES) for seed in SEEDS]


def test_a_seed_makes_the_same_song_each_time_and_another_seed_another(songs: list[Song]) -> None:
    again = compose(SEEDS[1], frames=FRAMES)
    assert again.style == songs[1].style
    assert np.array_equal(again.audio, songs[1].audio)
    assert np.array_equal(again.alignment.ids, songs[1].alignment.ids)
    assert not np.array_equal(again.audio, songs[2].audio)


def test_a_song_is_in_the_style_asked_for_and_held_out_ones_have_other_lyrics() -> None:
    song, unheard = compose(3, "waltz", frames=FRAMES), compose(3, "waltz", "heldout", FRAMES)
    assert song.style == unheard.style == "waltz"
    assert {p.line.text for p in song.alignment.placed}.isdisjoint(
        p.line.text for p in unheard.alignment.placed
    )


def test_styles_and_languages_differ_from_seed_to_seed(songs: list[Song]) -> None:
    assert len({song.style for song in songs}) > 3
    assert {song.style for song in songs} <= STYLES.keys()
    assert len({p.line.text.isascii() for song in songs for p in song.alignment.placed}) == 2


def test_a_song_is_stereo_as_long_as_its_frames_and_not_too_loud(songs: list[Song]) -> None:
    for song in songs:
        assert song.audio.shape == (2, FRAMES * HOP)
        assert song.voice.shape == (FRAMES * HOP,)
        assert song.alignment.ids.shape == (FRAMES,)
        assert song.audio.dtype == song.voice.dtype == np.float32
        assert np.abs(song.audio).max() <= LOUDEST + 1e-6


def test_the_voice_is_heard_where_the_lines_are_and_nowhere_else(songs: list[Song]) -> None:
    for song in songs:
        sung = np.array([phone is not None for phone in sung_frames(song.alignment)])
        # A sound rings out.
        ringing = sung | np.append(sung[1:], False) | np.insert(sung[:-1], 0, False)
        assert not song.voice[np.repeat(~ringing, HOP)].any()
        sung = np.repeat(sung, HOP)
        if sung.any():
            assert 0.5 * VOICE_LEVEL < np.sqrt(np.mean(song.voice[sung] ** 2)) < 1.01 * VOICE_LEVEL


def test_vowels_begin_on_the_grid_of_syllables(songs: list[Song]) -> None:
    onsets = 0
    for song in songs:
        frames = sung_frames(song.alignment)
        for begin, phone in enumerate(frames):
            if phone is not None and is_vowel(phone) and frames[begin - 1] != phone:
                assert begin % SYLLABLE_FRAMES == 0
                onsets += 1
    assert onsets > 50


def test_no_line_is_cut(songs: list[Song]) -> None:
    placed = [line for song in songs for line in song.alignment.placed]
    assert len(placed) > 10
    for line in placed:
        phones = held(to_ids(line.line.text, inventory()).phones, SYLLABLE_FRAMES)
        assert line.end - line.start == len(phones) + 1
    for song in songs:
        assert not song.alignment.warnings
        assert all(line.end <= FRAMES for line in song.alignment.placed)


def test_a_held_note_repeats_frame_by_frame(songs: list[Song]) -> None:
    """Notes are multiples of half the frame rate: each second frame is the same, or each."""
    nearness = []
    for song in songs:
        begin = 0
        for phone, group in groupby(sung_frames(song.alignment)):
            end = begin + len(list(group))
            # Of a held last vowel, what lies between its glides from and to what is beside it.
            if phone is not None and is_vowel(phone) and end - begin > 8 and len(parts_of(phone)) == 1:
                for frame in range(begin + 2, end - 4):
                    here, later = (song.voice[at * HOP : (at + 1) * HOP] for at in (frame, frame + 2))
                    nearness.append(float(np.corrcoef(here, later)[0, 1]))
            begin = end
    assert len(nearness) > 10
    assert min(nearness) > 0.99
