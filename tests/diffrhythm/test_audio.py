"""Sound and files: measures with known answers, damage that is noticed, files that are whole or absent."""

import resource
from pathlib import Path

import numpy as np
import pytest
import soundfile

from diffrhythm.audio import (
    FORMATS,
    Audio,
    Format,
    Subtype,
    Tags,
    check,
    decoded,
    digest,
    fade_out,
    loudness,
    mono,
    normalise,
    read,
    read_middle,
    resample,
    stereo,
    to_int16,
    to_loudness,
    true_peak,
    verify,
    write,
)
from diffrhythm.errors import AudioError, NotFiniteError, SilenceError
from diffrhythm.vae_config import SAMPLE_RATE

TAGS = Tags("Harbour Lights", "pop, warm piano", 7, "demo", demo=True, album="evening")


def tone(seconds: float = 1.0, hertz: float = 440.0, peak: float = 0.5, rate: int = SAMPLE_RATE) -> Audio:
    t = np.arange(round(seconds * rate)) / rate
    return np.stack([np.sin(2 * np.pi * hertz * t)] * 2).astype(np.float32) * np.float32(peak)


def test_a_sine_measures_its_peak_its_rms_and_no_silence() -> None:
    found = check(tone(2.0))
    assert found.peak == pytest.approx(0.5, abs=1e-4)
    assert found.rms == pytest.approx(0.5 / np.sqrt(2), rel=1e-3)
    assert found.silence == 0


def test_a_full_scale_kilohertz_in_one_channel_measures_minus_3_lufs() -> None:
    # The calibration of ITU-R BS.1770: 997 Hz at 0 dBFS in one channel reads −3.01 LUFS.
    sine = tone(5.0, 997.0, 1.0, 48000)
    sine[1] = 0
    assert loudness(sine, 48000) == pytest.approx(-3.01, abs=0.05)


@pytest.mark.parametrize("audio", [tone(0.3), tone(2.0, peak=1e-6)])
def test_what_is_too_short_or_too_faint_has_no_loudness(audio: Audio) -> None:
    assert loudness(audio) is None


def test_the_longest_silence_is_a_share_of_the_song() -> None:
    song = tone(4.0)
    song[:, SAMPLE_RATE : 3 * SAMPLE_RATE] = 0
    assert check(song).silence == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_single_bad_sample_is_found_and_placed(bad: float) -> None:
    song = tone(2.0)
    song[1, SAMPLE_RATE] = bad
    with pytest.raises(NotFiniteError, match=r"1 samples .* at 1\.00 s"):
        check(song)


def test_a_song_of_zeros_or_of_one_click_is_silent() -> None:
    silence = np.zeros((2, SAMPLE_RATE * 5), np.float32)
    with pytest.raises(SilenceError, match="silent"):
        check(silence)
    silence[:, 0] = 0.5
    with pytest.raises(SilenceError, match="98%"):
        check(silence)


def test_normalising_reaches_the_peak_and_leaves_silence_alone() -> None:
    assert np.abs(normalise(tone(peak=1e-3), -6)).max() == pytest.approx(10 ** (-6 / 20), rel=1e-5)
    assert not normalise(np.zeros((2, 10), np.float32)).any()
    assert np.isfinite(normalise(np.full((2, 4), 1e-42, np.float32))).all()


def test_normalising_and_writing_refuse_what_is_not_finite(tmp_path: Path) -> None:
    song = tone()
    song[0, 3] = np.nan
    for act in (normalise, to_int16, lambda audio: write(tmp_path / "song.wav", audio)):
        with pytest.raises(NotFiniteError):
            act(song)
    assert list(tmp_path.iterdir()) == []


def test_loudness_is_reached_when_the_peak_allows_it() -> None:
    assert loudness(to_loudness(tone(3.0), -20.0)) == pytest.approx(-20.0, abs=0.05)


def test_loudness_yields_to_the_true_peak() -> None:
    assert true_peak(to_loudness(tone(3.0), 0.0)) == pytest.approx(10 ** (-1 / 20), rel=1e-3)


def test_the_true_peak_lies_between_the_samples() -> None:
    # A quarter of the rate, 45° off: every sample is at 0.707 of the wave's peak.
    n = np.arange(SAMPLE_RATE)
    wave = np.sin(np.pi / 2 * n + np.pi / 4)[None].astype(np.float32)
    assert np.abs(wave).max() < 0.71
    # The edges ring; the middle is what counts.
    fade = np.hanning(SAMPLE_RATE).astype(np.float32)
    assert true_peak(wave * fade) == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("hertz", [997.0, SAMPLE_RATE / 6, SAMPLE_RATE / 4, SAMPLE_RATE / 3])
def test_a_song_is_never_brought_above_its_true_peak(hertz: float) -> None:
    song = np.roll(tone(3.0, hertz, 1.0), 1, axis=1) * np.hanning(3 * SAMPLE_RATE).astype(np.float32)
    assert check(to_loudness(song, -5.0)).true_peak <= -0.999


def test_a_song_fades_to_nothing_and_is_left_alone_before_that() -> None:
    song = np.ones((2, 4 * SAMPLE_RATE), np.float32)
    faded = fade_out(song, 1.0)
    assert (faded[:, : 3 * SAMPLE_RATE] == 1).all()
    assert (np.diff(faded[0, 3 * SAMPLE_RATE :]) <= 0).all()
    assert faded[0, 3 * SAMPLE_RATE + SAMPLE_RATE // 2] == pytest.approx(0.5, abs=1e-3)
    assert (faded[:, -1] == 0).all()
    assert (song == 1).all()


def test_no_more_than_half_of_a_song_fades() -> None:
    faded = fade_out(np.ones((2, 1000), np.float32), 30.0)
    assert (faded[:, :500] == 1).all()
    assert faded[0, 500] < 1
    assert fade_out(np.ones((2, 1), np.float32), 30.0).all()


def test_a_digest_is_of_the_samples_alone() -> None:
    song = tone()
    assert digest(song) == digest(np.asfortranarray(song))
    song[1, 7] += 1e-6
    assert digest(song) != digest(tone())


def test_int16_truncates_towards_zero() -> None:
    audio = np.array([[0.99999, -0.99999, 2.0, -2.0]], np.float32)
    assert to_int16(audio).tolist() == [[32766, -32766, 32767, -32767]]


def test_channels_become_two_or_one() -> None:
    left_right = np.array([[1, 1], [0, 0]], np.float32)
    assert stereo(left_right) is left_right
    assert mono(left_right).tolist() == [[0.5, 0.5]]
    assert stereo(np.ones((1, 3), np.float32)).shape == stereo(np.ones((6, 3), np.float32)).shape == (2, 3)


def test_resampling_keeps_a_tone() -> None:
    assert resample(tone(rate=48000), 48000, SAMPLE_RATE)[0, 1000:-1000] == pytest.approx(
        tone()[0, 1000:-1000], abs=2e-3
    )


@pytest.mark.parametrize("format", FORMATS)
def test_a_written_song_has_its_exact_length_its_tags_and_its_sound(tmp_path: Path, format: Format) -> None:
    path, song = tmp_path / f"song.{format}", tone(1.2345)
    write(path, song, format, tags=TAGS)
    assert verify(path, 1.2345) == song.shape[1] / SAMPLE_RATE
    assert np.sqrt(np.mean((read(path) - song) ** 2)) < 0.01
    with soundfile.SoundFile(path) as file:
        assert (file.title, file.genre, file.album) == (TAGS.title, TAGS.style, TAGS.album)
        assert file.artist == "DiffRhythm (AI)"
        assert file.comment == "made by AI: seed 7, model demo, made by the demo model"
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("format", FORMATS)
def test_no_format_garbles_a_tag(tmp_path: Path, format: Format) -> None:
    path = tmp_path / f"song.{format}"
    write(path, tone(), format, tags=Tags("海の光 𝄞\0\n", "é" * 5000, 7, "half \udcff", demo=False))
    with soundfile.SoundFile(path) as file:
        assert file.title == "海の光 𝄞"
        assert file.genre == "é" * 500
        assert file.comment == "made by AI: seed 7, model half ?"
    assert verify(path, 1.0) == 1


def test_what_is_heard_of_a_lossy_file_is_nearly_what_was_written(tmp_path: Path) -> None:
    for format in FORMATS:
        write(tmp_path / f"song.{format}", tone(3.0), format)
        heard = check(decoded(tmp_path / f"song.{format}"))
        assert heard.true_peak == pytest.approx(20 * np.log10(0.5), abs=0.3)
    (tmp_path / "song.ogg").write_bytes(b"OggS")
    with pytest.raises(AudioError, match=str(tmp_path)):
        decoded(tmp_path / "song.ogg")


@pytest.mark.parametrize(("subtype", "error"), [("PCM_16", 5e-5), ("PCM_24", 2e-7), ("FLOAT", 0)])
def test_wav_has_three_depths(tmp_path: Path, subtype: Subtype, error: float) -> None:
    write(tmp_path / "song.wav", tone(), subtype=subtype)
    assert np.abs(read(tmp_path / "song.wav") - tone()).max() <= error


def test_a_long_ogg_is_written_in_pieces_that_the_encoder_survives(tmp_path: Path) -> None:
    write(tmp_path / "song.ogg", tone(95.0), "ogg")
    assert verify(tmp_path / "song.ogg") == 95


def test_a_full_disk_passes_through_and_leaves_the_old_song_alone(tmp_path: Path) -> None:
    path = tmp_path / "song.wav"
    path.write_bytes(b"old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            write(path, tone())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["song.wav"]


@pytest.mark.parametrize("format", FORMATS)
def test_a_cut_file_does_not_verify(tmp_path: Path, format: Format) -> None:
    path = tmp_path / f"song.{format}"
    write(path, tone(3.0), format, tags=TAGS)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(AudioError, match=str(path)):
        verify(path, 3.0)


def test_a_song_of_another_length_does_not_verify(tmp_path: Path) -> None:
    write(tmp_path / "song.wav", tone(2.0))
    with pytest.raises(AudioError, match="88200 samples where 88201 belong"):
        verify(tmp_path / "song.wav", 88201 / SAMPLE_RATE)


@pytest.mark.parametrize("name", ["words.wav", "words.raw", "words.mp3", "absent.wav", "."])
def test_what_is_no_sound_file_is_refused_by_name(tmp_path: Path, name: str) -> None:
    if name.startswith("words"):
        (tmp_path / name).write_text("la la la")
    with pytest.raises(AudioError, match=str(tmp_path)):
        read(tmp_path / name)


@pytest.mark.parametrize(
    ("samples", "reason"),
    [
        (np.zeros((1, 2)), "1 samples"),
        (np.zeros((SAMPLE_RATE, 2)), "silent"),
        (np.full((SAMPLE_RATE, 2), np.nan), "NaN"),
        (np.ones((SAMPLE_RATE, 9)), "9 channels"),
    ],
)
def test_sound_that_cannot_be_used_is_refused(tmp_path: Path, samples: Audio, reason: str) -> None:
    soundfile.write(tmp_path / "odd.wav", samples, SAMPLE_RATE, subtype="FLOAT")
    with pytest.raises(AudioError, match=reason):
        read(tmp_path / "odd.wav")


def test_a_file_of_more_than_twenty_minutes_is_refused_unread(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "long.wav", np.zeros(1201 * 4000, np.int16), 4000)
    with pytest.raises(AudioError, match="20 minutes"):
        read(tmp_path / "long.wav")


def test_the_middle_of_a_clip_is_ten_seconds_of_mono_at_24_khz(tmp_path: Path) -> None:
    # 21.5 s: the middle starts at floor(10.75) − 5 = 5 s. Only that second of the file sounds.
    song = np.zeros((2, round(21.5 * SAMPLE_RATE)), np.float32)
    song[:, 5 * SAMPLE_RATE : 6 * SAMPLE_RATE] = tone()
    write(tmp_path / "clip.wav", song)
    clip = read_middle(tmp_path / "clip.wav")
    assert clip.shape == (1, 240000)
    assert np.abs(clip[0, :500]).max() > 0.4
    assert np.abs(clip[0, 23000:24000]).max() > 0.4
    assert np.abs(clip[0, 25000:]).max() < 1e-3


def test_a_clip_below_ten_seconds_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "clip.wav", tone(9.99))
    with pytest.raises(AudioError, match=r"9\.99 s is too short"):
        read_middle(tmp_path / "clip.wav")


@pytest.mark.parametrize(("rate", "channels", "seconds"), [(44101, 1, 11), (48000, 8, 601)])
def test_a_sound_that_would_need_gigabytes_is_refused_unread(
    tmp_path: Path, rate: int, channels: int, seconds: int
) -> None:
    path = tmp_path / "clip.flac"
    soundfile.write(path, np.full((rate, channels), 0.5), rate)
    content = bytearray(path.read_bytes())
    content[22:26] = (seconds * rate).to_bytes(4, "big")  # the length that it says
    path.write_bytes(content)
    for reader in (read, read_middle):
        with pytest.raises(AudioError, match="use a whole file, stereo, at 44100 or 48000 Hz"):
            reader(path)


def test_a_file_whose_name_is_not_utf_8_is_read(tmp_path: Path) -> None:
    path = tmp_path / "clip\udcff.wav"
    write(path, tone())
    assert verify(path) == 1.0
    assert read(path).shape == (2, SAMPLE_RATE)
