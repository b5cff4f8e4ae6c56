from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from diffrhythm.phonemes import Inventory
from diffrhythm.vae_config import HOP, SAMPLE_RATE
from training.instruments import TUNING
from training.voice import CONTINUES, MARKS, SINGERS, VOWELS, Part, parts_of, sing

PHONES = [phone for phone in Inventory.demo().ids if phone not in MARKS and phone != CONTINUES]
LOW, HIGH = SINGERS["low"], SINGERS["high"]


def _sung(frames: list[str | None], hz: float = 110.0, singer: str = "low") -> NDArray[np.float32]:
    return sing(frames, np.full(len(frames), hz), SINGERS[singer])


def _spectrum(sound: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Frequencies and power."""
    power = np.abs(np.fft.rfft(sound * np.hanning(len(sound)))) ** 2
    return np.fft.rfftfreq(len(sound), 1 / SAMPLE_RATE), power


def _centroid(sound: NDArray[np.float32]) -> float:
    hz, power = _spectrum(sound)
    return float((hz * power).sum() / power.sum())


def _around(sound: NDArray[np.float32], hz: float, wide: float = 120.0) -> float:
    """Power within wide Hz of hz, dB."""
    at, power = _spectrum(sound)
    return float(10 * np.log10(power[np.abs(at - hz) < wide].sum()))


def _note(sound: NDArray[np.float32]) -> float:
    """Hz by the first peak of the autocorrelation between 80 and 600 Hz."""
    power = np.abs(np.fft.rfft(sound, 2 * len(sound))) ** 2
    same = np.fft.irfft(power)[: len(sound)]
    lags = np.arange(SAMPLE_RATE // 600, SAMPLE_RATE // 80)
    best = lags[np.argmax(same[lags] >= 0.95 * same[lags].max())]
    near = np.arange(best, best + 20)
    peak = int(near[np.argmax(same[near])])
    before, here, after = same[peak - 1 : peak + 2]
    return float(SAMPLE_RATE / (peak + (before - after) / (2 * (before - 2 * here + after))))


@pytest.mark.parametrize("phone", PHONES)
def test_every_phone_of_the_demo_sounds(phone: str) -> None:
    sound = _sung([None, phone, phone, None])
    assert sound.dtype == np.float32
    assert sound.shape == (4 * HOP,)
    assert np.isfinite(sound).all()
    assert np.sqrt(np.mean(sound[HOP : 3 * HOP] ** 2)) > 0.01
    assert np.max(np.abs(sound)) == pytest.approx(1)


@pytest.mark.parametrize("mark", sorted(MARKS))
def test_a_mark_is_silence(mark: str) -> None:
    assert not _sung([mark, mark]).any()
    between = _sung(["ɑː", "ɑː", mark, mark, mark, "ɑː", "ɑː"])
    assert np.abs(between[3 * HOP : 4 * HOP]).max() < 1e-3


def test_nothing_sounds_where_nothing_is_sung() -> None:
    sound = _sung([None] * 4 + ["ɑː"] * 6 + [None] * 6)
    assert not sound[: 3 * HOP].any()
    assert not sound[11 * HOP :].any()
    assert not _sung([None] * 3).any()
    assert _sung([]).shape == (0,)


def test_an_underscore_continues_the_sound_before_it() -> None:
    assert np.array_equal(_sung(["n", "ɑː", CONTINUES, CONTINUES]), _sung(["n", "ɑː", "ɑː", "ɑː"]))
    assert not _sung([CONTINUES, CONTINUES]).any()


@pytest.mark.parametrize("singer", SINGERS)
@pytest.mark.parametrize(("phone", "vowel"), [("iː", "i"), ("ɑː", "ɑ"), ("ɛ", "ɛ"), ("uː", "u")])
def test_a_vowel_is_loudest_at_its_own_first_two_formants(phone: str, vowel: str, singer: str) -> None:
    sound = _sung([phone] * 8, 100.0, singer)[2 * HOP : 6 * HOP]
    first, second, third, _ = (hz * SINGERS[singer].formant_scale for hz in VOWELS[vowel])
    for hz, valley in [(first, (first + second) / 2), (second, (first + second) / 2)]:
        if second - first > 600:
            assert _around(sound, hz) > _around(sound, valley) + 4
    assert _around(sound, second) > _around(sound, (second + third) / 2)


def test_formants_peak_where_the_table_says() -> None:
    for phone, vowel in [("iː", "i"), ("ɑː", "ɑ")]:
        sound = _sung([phone] * 10, 60.0)[2 * HOP : 8 * HOP]
        hz, power = _spectrum(sound)
        smooth = np.convolve(power, np.hanning(2 * int(70 / hz[1]) + 1), mode="same")
        for formant in VOWELS[vowel][:3]:
            near = np.abs(hz - formant) < 150
            assert abs(hz[near][np.argmax(smooth[near])] - formant) < 65


@pytest.mark.parametrize("singer", SINGERS)
@pytest.mark.parametrize("hz", [110.0, 196.0, 261.63, 440.0])
def test_the_note_is_the_one_asked_for(hz: float, singer: str) -> None:
    sound = _sung(["ɑː"] * 5, hz, singer)[HOP : 4 * HOP]
    assert _note(sound) == pytest.approx(hz, rel=0.005)


def test_a_note_begins_with_its_frame() -> None:
    sound = sing(["ɑː"] * 8, np.repeat([200.0, 300.0], 4), LOW)
    assert _note(sound[2 * HOP : 4 * HOP]) == pytest.approx(200, rel=0.005)
    assert _note(sound[4 * HOP : 5 * HOP]) == pytest.approx(300, rel=0.01)


@pytest.mark.parametrize("phone", ["ɑː", "iː", "s", "z", "m", "h"])
@pytest.mark.parametrize(("notes", "period"), [(24, HOP), (27, 2 * HOP)])
def test_a_held_sound_has_the_same_wave_in_every_frame_or_every_second(
    phone: str, notes: int, period: int
) -> None:
    held = _sung([phone] * 10, notes * TUNING)[2 * HOP : 8 * HOP]
    assert np.abs(held[period:] - held[:-period]).max() < 1e-3


def test_a_note_has_the_same_wave_whatever_was_sung_before() -> None:
    after_low, after_high = (
        sing(["ɑː"] * 8, TUNING * np.repeat([before, 24], 4), LOW)[5 * HOP : 7 * HOP] for before in (20, 36)
    )
    assert np.corrcoef(after_low, after_high)[0, 1] > 0.999


def test_what_is_read_of_pitch_is_what_is_sung() -> None:
    frames = [None, "ɑː", "ɑː", None, "iː"]
    holes = np.array([np.nan, 200.0, 200.0, 0.0, 200.0])
    assert np.array_equal(sing(frames, holes, LOW), sing(frames, np.full(5, 200.0), LOW))


def test_hissing_consonants_lie_where_they_are_told_apart() -> None:
    s, sh, curled, back = (_centroid(_sung([phone] * 4)) for phone in ("s", "ʃ", "s`", "x"))
    assert 5000 < s < 9000
    assert 2800 < sh < 5000
    assert curled < sh
    assert back < curled


def test_a_stop_is_closed_before_it_bursts() -> None:
    sound = _sung(["ɑː"] * 4 + ["t"] + ["ɑː"] * 4)
    closure = sound[4 * HOP + 650 : 4 * HOP + 850]
    burst = sound[4 * HOP + 1000 : 5 * HOP]
    assert np.abs(closure).max() < 0.05
    assert np.abs(burst).max() > 0.25


def test_h_is_breath_through_the_vowel_that_follows() -> None:
    before_i, before_a = (_sung(["h"] * 4 + [vowel] * 4)[HOP : 3 * HOP] for vowel in ("iː", "ɑː"))
    assert _around(before_i, 2250) > _around(before_i, 1090) + 6
    assert _around(before_a, 1090) > _around(before_a, 1800) + 6


def test_a_diphthong_glides_over_its_length() -> None:
    sound = _sung(["aɪ"] * 8, 100.0)
    frames = [sound[at * HOP : (at + 1) * HOP] for at in (1, 4, 5, 7)]
    toward = [_around(frame, 1950, 200) - _around(frame, 1320, 200) for frame in frames]
    assert toward[0] + 3 < toward[1]
    assert toward[1] + 3 < toward[2]
    assert toward[2] + 3 < toward[3]


@pytest.mark.parametrize(
    ("phone", "targets"),
    [
        ("iɑʊ↓", ["i", "ɑ", "ʊ"]),
        ("uaɪ→", ["u", "a", "ɪ"]),
        ("aɪɚ", ["a", "ɪ", "ɚ"]),
        ("iə", ["i", "ə"]),
        ("ts`ʰɹ↓↑", ["ʅ"]),
        ("sɹ↓", ["ɿ"]),
        ("p⁼wo↑", ["o"]),
        ("ɥæn↑", ["ɥ", "æ"]),
    ],
)
def test_a_final_passes_through_its_vowels(phone: str, targets: list[str]) -> None:
    assert [part.formants for part in parts_of(phone) if part.voice == 1] == [VOWELS[v] for v in targets]


def test_a_final_that_ends_in_a_nasal_ends_darker() -> None:
    sound = _sung(["ɑŋ→"] * 10)
    assert _around(sound[8 * HOP : 9 * HOP], 730) < _around(sound[2 * HOP : 3 * HOP], 730) - 10


def test_tone_and_length_marks_leave_the_sound_as_it_is() -> None:
    assert parts_of("uan↓↑") == parts_of("uan→") == parts_of("uan")
    assert parts_of("iːː") == parts_of("iː") == parts_of("i")


def test_a_high_singer_has_higher_formants() -> None:
    assert _centroid(_sung(["ɑː"] * 6, 200.0, "high")) > 1.05 * _centroid(_sung(["ɑː"] * 6, 200.0, "low"))


def test_the_same_line_sounds_the_same_each_time() -> None:
    line: list[str | None] = ["s", "ɑː", "ɑː", "t", "iː"]
    assert np.array_equal(_sung(line), _sung(line))


def test_a_vowel_is_louder_than_a_consonant_and_equal_to_other_vowels() -> None:
    sound = _sung(["ɑː"] * 6 + ["n"] * 6 + ["iː"] * 6 + ["s"] * 6)
    ah, n, ee, s = (np.sqrt(np.mean(sound[at * HOP : (at + 4) * HOP] ** 2)) for at in (1, 7, 13, 19))
    assert ee == pytest.approx(ah, rel=0.35)
    assert n < 0.8 * ah
    assert 0.1 * ah < s < 0.6 * ah


def test_a_consonant_leaves_its_vowel_a_third_even_of_one_frame() -> None:
    end = _sung([None, "ts`ʰɹ↓", "iː", "iː"], 200.0)[2 * HOP - HOP // 4 : 2 * HOP]
    assert np.sqrt(np.mean(end**2)) > 0.1
    assert _around(end, 500, 400) > _around(end, 6000, 3000) + 6


@pytest.mark.parametrize(
    ("frames", "hz", "said"),
    [
        (["ɑː", "q"], [100.0, 100.0], "no rule for the sound 'q'"),
        (["ɑː", "ɑː"], [100.0], "1 notes for 2 frames"),
        (["ɑː", "ɑː"], [100.0, 0.0], "pitch 0.0 Hz at frame 1"),
        (["ɑː"], [float("nan")], "pitch nan Hz at frame 0"),
    ],
)
def test_what_cannot_be_sung_is_refused(frames: list[str | None], hz: list[float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        sing(frames, np.array(hz), HIGH)


def test_a_part_without_levels_is_silent() -> None:
    assert Part(None).silent
    assert not Part(None, breath=0.1).silent
