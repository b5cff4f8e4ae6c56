"""Ten styles: in time, in tune, told apart by their first seconds."""

from itertools import pairwise, product

import numpy as np
import pytest
from numpy.typing import NDArray

from diffrhythm.vae_config import HOP, SAMPLE_RATE
from training.instruments import DRUMS, TIMBRES, TUNING, hertz, sound
from training.styles import MAJOR, STYLES, Bar, Style, accompany, chord_at, is_strong, melody

every_style = pytest.mark.parametrize("style", STYLES.values(), ids=STYLES.keys())

# Four lines of nine syllables, with a breath between them.
ONSETS = [line + 6 * place for line in (48, 126, 204, 282) for place in range(9)]

MIDI = {hertz(pitch): pitch for pitch in range(48, 97)}


def played(style: Style, seed: int, frames: int = 96) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    tonic = style.tonics[rng.integers(len(style.tonics))]
    return accompany(style, tonic, style.progressions[rng.integers(len(style.progressions))], frames, rng)


def sung(style: Style, tonic: int, progression: tuple[int, ...], seed: int) -> list[int]:
    """The melody as MIDI numbers."""
    line = melody(style, tonic, progression, ONSETS, np.random.default_rng(seed))
    return [MIDI[f] for f in line]


def spectrum(audio: NDArray[np.float32]) -> NDArray[np.float64]:
    """Power of the middle channel per frame, [frame, bin]."""
    return np.abs(np.fft.rfft(audio.mean(0).reshape(-1, HOP) * np.hanning(HOP), axis=1)) ** 2


def look(audio: NDArray[np.float32]) -> NDArray[np.float64]:
    """Mean and deviation in time of the loudness in 24 bands from 60 Hz to 12 kHz."""
    edges = np.geomspace(60, 12_000, 25) / SAMPLE_RATE * HOP
    power = np.add.reduceat(spectrum(audio), edges.astype(int), axis=1)[:, :24]
    bands = np.log(power + 1e-4)
    return np.concatenate([bands.mean(0), bands.std(0)])


def keys(style: Style) -> list[tuple[int, tuple[int, ...]]]:
    return list(product(style.tonics, style.progressions))


@every_style
def test_an_accompaniment_is_finite_stereo_and_leaves_room_for_a_voice(style: Style) -> None:
    for seed in range(3):
        audio = played(style, seed, frames=100)
        assert audio.shape == (2, 100 * HOP)
        assert audio.dtype == np.float32
        assert np.isfinite(audio).all()
        assert np.abs(audio).max() <= 0.901
        assert float(np.sqrt((audio**2).mean())) == pytest.approx(style.level, rel=0.01)
        assert 0.5 < float(np.std(audio[0]) / np.std(audio[1])) < 2


@every_style
def test_the_same_seed_plays_and_sings_the_same_and_another_does_not(style: Style) -> None:
    assert np.array_equal(played(style, 1, frames=48), played(style, 1, frames=48))
    assert not np.array_equal(played(style, 1, frames=48), played(style, 2, frames=48))
    tonic, progression = keys(style)[0]
    assert sung(style, tonic, progression, 1) == sung(style, tonic, progression, 1)
    assert sung(style, tonic, progression, 1) != sung(style, tonic, progression, 2)


@every_style
def test_every_bar_is_played_from_the_first_to_the_last(style: Style) -> None:
    audio = played(style, 0, frames=4 * style.bar_frames)
    bars = (audio.reshape(2, 4, -1) ** 2).mean((0, 2))
    assert bars.min() > 0.3 * bars.max()


@every_style
def test_every_sound_of_a_bar_begins_within_it_and_exists(style: Style) -> None:
    for (tonic, progression), figure in product(keys(style), (0, 1)):
        for start in range(0, len(progression) * style.bar_frames, style.bar_frames):
            chord = chord_at(style, tonic, progression, start)
            for hit in style.band(Bar(tonic, style.tune, chord, figure)):
                assert 0 <= hit.frame < style.bar_frames
                assert hit.instrument in (DRUMS if hit.pitch == 0 else TIMBRES)


@every_style
def test_the_band_plays_only_notes_of_the_style_s_key(style: Style) -> None:
    for (tonic, progression), figure in product(keys(style), (0, 1)):
        for start in range(0, len(progression) * style.bar_frames, style.bar_frames):
            bar = Bar(tonic, style.tune, chord_at(style, tonic, progression, start), figure)
            assert all((h.pitch - tonic) % 12 in style.harmony for h in style.band(bar) if h.pitch)


def test_the_kick_of_techno_is_on_every_beat() -> None:
    style = STYLES["techno"]
    low = spectrum(played(style, 0, frames=192))[:, 2:8].sum(1)
    rise = np.diff(low, prepend=0)
    assert sorted(np.argsort(rise)[-16:]) == list(range(0, 192, 12))


def test_chords_change_with_the_bar() -> None:
    pop = STYLES["pop"]
    assert chord_at(pop, 48, (1, 5, 6, 4), 47) == (48, 52, 55)
    assert chord_at(pop, 48, (1, 5, 6, 4), 48) == (55, 59, 62)
    assert chord_at(pop, 48, (1, 5, 6, 4), 4 * 48) == (48, 52, 55)


@every_style
def test_a_melody_stays_in_the_register_and_the_scale(style: Style) -> None:
    for (tonic, progression), seed in product(keys(style), range(5)):
        notes = sung(style, tonic, progression, seed)
        assert len(notes) == len(ONSETS)
        assert all(style.register[0] <= note <= style.register[1] for note in notes)
        assert all((note - tonic) % 12 in style.tune for note in notes)


@every_style
def test_a_melody_moves_in_small_steps_within_a_line(style: Style) -> None:
    for (tonic, progression), seed in product(keys(style), range(5)):
        notes = sung(style, tonic, progression, seed)
        for (a, left), (b, right) in pairwise(zip(ONSETS, notes, strict=True)):
            assert b - a > 6 or abs(right - left) <= 7


@every_style
def test_strong_beats_and_ends_of_lines_are_notes_of_the_chord(style: Style) -> None:
    last = {a for a, b in pairwise([*ONSETS, 999]) if b - a > 6}
    for (tonic, progression), seed in product(keys(style), range(5)):
        for onset, note in zip(ONSETS, sung(style, tonic, progression, seed), strict=True):
            if onset in last or is_strong(style, onset):
                assert note % 12 in {p % 12 for p in chord_at(style, tonic, progression, onset)}


def test_two_seeds_of_each_style_are_enough_to_tell_the_others() -> None:
    taught = {name: np.array([look(played(s, seed)) for seed in (0, 1)]) for name, s in STYLES.items()}
    scale = np.concatenate(list(taught.values())).std(0)
    for name, style in STYLES.items():
        for seed in range(2, 6):
            # Two seconds from anywhere.
            begin = 7 * seed * HOP
            seen = look(played(style, seed)[:, begin : begin + 43 * HOP])
            far = {other: float((((seen - t.mean(0)) / scale) ** 2).sum()) for other, t in taught.items()}
            assert min(far, key=far.__getitem__) == name


def test_white_keys_from_the_middle_to_the_second_g_are_pure() -> None:
    pure = [24, 27, 30, 32, 36, 40, 45, 48, 54, 60, 64, 72]
    assert [hertz(pitch) / TUNING for pitch in range(60, 80) if pitch % 12 in MAJOR] == pure


@every_style
def test_all_that_is_sung_and_played_is_on_white_keys(style: Style) -> None:
    for tonic, progression in keys(style):
        assert all((tonic + step) % 12 in MAJOR for step in (*style.tune, *style.harmony))
        assert all((note % 12) in MAJOR for note in sung(style, tonic, progression, 0))


@pytest.mark.parametrize("pitch", range(36, 97))
def test_a_note_is_tuned_near_its_even_step_to_half_the_frame_rate(pitch: int) -> None:
    in_tuning = hertz(pitch) / TUNING
    assert in_tuning == round(in_tuning)
    assert abs(hertz(pitch) - 516.8 * 2 ** ((pitch - 72) / 12)) < 0.51 * TUNING


@pytest.mark.parametrize("instrument", ["square", "flute", "accordion"])
def test_a_held_note_has_the_same_wave_in_every_second_frame(instrument: str) -> None:
    held = sound(instrument, 62, 12)[2 * HOP : 10 * HOP]
    assert np.abs(held[2 * HOP :] - held[: -2 * HOP]).max() < 1e-3


@pytest.mark.parametrize("instrument", TIMBRES)
def test_a_note_is_at_its_pitch_and_below_the_hearing_limit(instrument: str) -> None:
    note = sound(instrument, 57, 20).astype(np.float64)
    power = np.abs(np.fft.rfft(note * np.hanning(note.size))) ** 2
    hz = np.fft.rfftfreq(note.size, 1 / SAMPLE_RATE)
    near = np.abs(hz / hertz(57) - np.round(hz / hertz(57))) < 0.02 * np.maximum(1, hz / hertz(57))
    fundamental = (hz > 0.98 * hertz(57)) & (hz < 1.02 * hertz(57))
    assert power[fundamental].sum() > 0.05 * power.sum()
    assert power[near].sum() > 0.95 * power.sum() or instrument == "power chord"
    assert power[hz > 14_000].sum() < 1e-4 * power.sum()


@pytest.mark.parametrize("instrument", [*TIMBRES, *DRUMS])
def test_a_sound_peaks_at_one_and_starts_and_ends_in_silence(instrument: str) -> None:
    made = sound(instrument, 57, 6)
    assert float(np.abs(made).max()) == pytest.approx(1)
    assert np.abs(made[-1]) < 0.02
    assert np.abs(made[0]) < 0.02 or instrument in DRUMS


@pytest.mark.parametrize("instrument", DRUMS)
def test_a_drum_sounds_the_same_in_every_process(instrument: str) -> None:
    first = sound(instrument)
    sound.cache_clear()
    assert np.array_equal(sound(instrument), first)
