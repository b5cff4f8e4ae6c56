"""The measures of songs, held against songs of which the truth is known."""

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest

from benchmarks.listening import lrc
from diffrhythm.lyrics import Alignment, align, parse_lrc
from diffrhythm.vae_config import HOP, SAMPLE_RATE
from training import listening
from training.listening import Ear, Ears, Floats, Sound, Sounds
from training.songs import Song, compose, inventory, performance
from training.styles import STYLES, SYLLABLE_FRAMES

FRAMES = 432

every_style = pytest.mark.parametrize("style", sorted(STYLES))


@cache
def song(style: str) -> Song:
    """The first song of a style with held-out lyrics in it."""
    return next(
        found
        for seed in range(40, 60)
        if len((found := compose(seed, style, "heldout", FRAMES)).alignment.placed) > 2
    )


@cache
def voices(style: str) -> Floats:
    return listening.renditions(song(style).alignment, style, seed=7)


def distances(sound: Sound, style: str) -> Floats:
    return listening.line_distances(sound, song(style).alignment, voices(style))


def band(style: str) -> Sound:
    return song(style).audio - song(style).voice


def wave(hertz: float, seconds: float = 2.0) -> Sound:
    t = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return np.sin(2 * np.pi * hertz * t).astype(np.float32)


def noise(seed: int, frames: int = 40) -> Sound:
    return (0.1 * np.random.default_rng(seed).standard_normal((2, frames * HOP))).astype(np.float32)


@every_style
def test_lines_of_another_melody_and_band_are_nearer_to_their_own_words(style: str) -> None:
    found = distances(song(style).audio, style)
    assert listening.own_nearer(found) >= 0.95
    assert listening.own_nearest(found) >= 0.8


@every_style
def test_words_are_heard_through_a_band_twice_as_loud(style: str) -> None:
    assert listening.own_nearer(distances(song(style).audio + band(style), style)) >= 0.9


@pytest.mark.slow
def test_a_band_without_a_voice_is_at_chance() -> None:
    found = np.concatenate([distances(band(style), style) for style in STYLES])
    # Some fifty lines: three standard errors are 0.2 of the pairs, and 0.17 of the lines.
    assert 0.3 < listening.own_nearer(found) < 0.7
    assert listening.own_nearest(found) < 0.37


@pytest.mark.slow
def test_a_song_of_other_words_is_not_nearer_to_those_asked_for() -> None:
    found = []
    for style in STYLES:
        other = listening._rivals(song(style).alignment, 6, np.random.default_rng(99))[-1]
        found.append(distances(performance(other, style, seed=5).audio, style))
    assert listening.own_nearer(np.concatenate(found)) < 0.7


@cache
def ears() -> Ears:
    return listening.teach(5, 216)


def phones_heard(sounds: Sounds, change: Callable[[Song], Sound]) -> float:
    """The share in a song of each style of what it has become."""
    shares = [ears().phones(change(song(style)), song(style).alignment)[sounds] for style in STYLES]
    return float(np.mean(shares))


@pytest.mark.slow
@pytest.mark.parametrize("sounds", ["vowels", "consonants"])
def test_phones_are_heard_where_they_are_sung_and_not_where_others_are(sounds: Sounds) -> None:
    sung = phones_heard(sounds, lambda song: song.audio)
    assert sung > 0.25
    assert phones_heard(sounds, lambda song: song.audio - song.voice) < sung / 2
    assert phones_heard(sounds, lambda song: np.roll(song.audio, 12 * HOP, axis=1)) < sung / 2


def test_runs_of_phones_are_where_the_song_has_them() -> None:
    alignment = align(parse_lrc("[00:01.00]See"), inventory(), frames=60, syllable_frames=SYLLABLE_FRAMES)
    (line,) = alignment.placed
    assert listening.sung_runs(alignment, "consonants") == [("s", slice(line.start, line.start + 1))]
    (vowel,) = listening.sung_runs(alignment, "vowels")
    assert vowel == ("i", slice(line.start + 1, line.start + len(line.phones.phones)))


@every_style
def test_the_voice_rises_in_lines_and_the_band_does_not(style: str) -> None:
    alignment = song(style).alignment
    assert listening.voice_rise(song(style).audio, alignment) > 4
    assert abs(listening.voice_rise(band(style), alignment)) < 3


def test_a_rise_without_gaps_is_refused() -> None:
    everywhere = Alignment(np.ones(10, np.int64), (), 0.0, ())
    with pytest.raises(ValueError, match="gap"):
        listening.voice_rise(noise(0), everywhere)


def test_every_rendition_has_lines_where_the_song_has_them() -> None:
    alignment = song("pop").alignment
    for rival in listening._rivals(alignment, 4, np.random.default_rng(0)):
        for own, other in zip(alignment.placed, rival.placed, strict=True):
            assert other.line.text != own.line.text
            assert abs(other.start - own.start) <= 3
            assert abs(other.end - own.end) <= 9


def test_cepstra_hear_the_vowel_and_not_how_loud_it_is() -> None:
    power = listening.mel_power(noise(1)[0])
    assert np.allclose(listening.cepstra(power), listening.cepstra(4 * power))
    assert not np.allclose(listening.cepstra(power), listening.cepstra(power[::-1]))


def test_a_tone_is_in_the_band_of_its_frequency() -> None:
    bands = [int(listening.mel_power(wave(hertz)).mean(axis=0).argmax()) for hertz in (200, 1000, 3500)]
    # Of 40 bands between 80 and 8,000 Hz by mels: 1 + 41 · (mel(f) − 121) / (2,840 − 121), less one.
    assert bands == [1, 12, 28]


def test_log_mel_gives_silence_nothing() -> None:
    assert np.all(listening.log_mel(np.zeros(4 * HOP, np.float32)) == 0)


def test_warping_forgives_a_window_and_not_a_line() -> None:
    a = listening.cepstra(listening.mel_power(noise(2)[0]))
    assert listening.warped(a, a) == 0
    one_later = listening.warped(a, np.roll(a, 1, axis=0))
    ten_later = listening.warped(a, np.roll(a, 10, axis=0))
    assert one_later < 0.3 * ten_later


@pytest.mark.slow
def test_styles_of_songs_with_other_words_are_all_heard() -> None:
    heard = [ears().style(song(style).audio) for style in STYLES]
    assert heard == list(STYLES)
    assert [ears().style(0.1 * song(style).audio) for style in STYLES] == heard


def test_groups_that_differ_in_one_measure_are_told_apart() -> None:
    rng = np.random.default_rng(3)
    groups = {
        name: list(rng.standard_normal((20, 5)) + shift * np.eye(5)[2])
        for name, shift in (("low", -3), ("high", 3))
    }
    ear = listening.discriminants(groups)
    right = [ear.hear(each) == name for name, group in groups.items() for each in group]
    assert np.mean(right) > 0.97
    assert np.abs(ear.weights[1] - ear.weights[0]).argmax() == 2


def test_several_measures_of_one_sound_are_heard_together() -> None:
    ear = Ear(("a", "b"), np.array([[1.0], [-1.0]]), np.zeros(2))
    assert ear.hear(np.array([2.0])) == "a"
    assert ear.hear(np.array([[2.0], [-1.0], [-3.0]])) == "b"


def test_a_sound_is_at_no_distance_from_itself() -> None:
    sound = noise(4)
    assert listening.mel_distance(sound, sound) == 0
    assert listening.spectral_distance(sound, sound) == 0
    assert listening.si_sdr(0.5 * sound, sound) == pytest.approx(60, abs=0.01)


def test_half_as_loud_is_six_decibels_away() -> None:
    sound = noise(5)
    assert listening.mel_distance(0.5 * sound, sound) == pytest.approx(6.02, abs=0.1)
    assert listening.spectral_distance(0.5 * sound, sound) == pytest.approx(6.02, abs=0.3)


def test_distortion_is_what_is_not_the_sound() -> None:
    sound, other = noise(6), noise(7)
    assert listening.si_sdr(sound + 0.1 * other, sound) == pytest.approx(20, abs=0.2)
    assert listening.si_sdr(np.zeros_like(sound), sound) == pytest.approx(-60, abs=0.01)


def test_baselines_get_worse_from_the_first_to_the_last() -> None:
    sound = song("folk").audio
    another = compose(77, "folk", "heldout", FRAMES).audio
    found = listening.baselines(sound, another, np.random.default_rng(0))
    distance = {name: listening.mel_distance(made, sound) for name, made in found.items()}
    assert distance["8 bits a sample"] < 1
    assert distance["low-passed at 4 kHz"] < distance["another song of its style"]
    assert distance["another song of its style"] < distance["noise of its spectrum"] < distance["silence"]


def test_a_low_pass_keeps_what_is_below_four_kilohertz() -> None:
    low, high = (np.stack([wave(hertz)] * 2) for hertz in (3500, 4500))
    passed = listening.baselines(low + high, low, np.random.default_rng(0))["low-passed at 4 kHz"]
    assert np.allclose(passed, low, atol=1e-3)


def test_noise_of_a_spectrum_has_the_levels_of_the_song_at_no_time() -> None:
    sound = song("techno").audio
    scattered = listening.baselines(sound, sound, np.random.default_rng(0))["noise of its spectrum"]
    made, given = (np.abs(np.fft.rfft(each))[:, 1:-1] for each in (scattered, sound))
    assert np.allclose(made, given, atol=1e-2)
    assert abs(listening.si_sdr(scattered, sound)) > 20


@every_style
def test_lyrics_written_as_a_user_writes_them_lie_on_the_same_frames(style: str) -> None:
    written = parse_lrc(lrc(song(style).alignment))
    read = align(written, inventory(), frames=FRAMES, syllable_frames=SYLLABLE_FRAMES)
    assert np.array_equal(read.ids, song(style).alignment.ids)
