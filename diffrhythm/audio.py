"""Sound as numbers and as files: read, resample, check, normalise, write.

Audio is float32 numpy [channels, n]; full scale is ±1.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import soundfile
from numpy.typing import NDArray

from diffrhythm import files, id3
from diffrhythm.errors import AudioError, NotFiniteError, SilenceError
from diffrhythm.vae_config import SAMPLE_RATE

Audio = NDArray[np.float32]
Format = Literal["wav", "flac", "ogg", "mp3"]
FORMATS: tuple[Format, ...] = get_args(Format)
Subtype = Literal["PCM_16", "PCM_24", "FLOAT"]

CLIP_RATE = 24000
CLIP_S = 10

# What a reader accepts: an hour of stereo at 48 kHz is 1.4 GB as float32, twenty minutes are 460 MB, or 0.9
# GB at 96 kHz. A small file may say, or even hold, much more.
_MAX_SECONDS = 20 * 60
_MAX_NUMBERS = _MAX_SECONDS * 96_000 * 2
_MAX_CHANNELS = 8
_RATES = range(4000, 384001)
# Resampling keeps a filter for every phase of the two rates to each other: 8 GB from 44101 to 44100 Hz.
_MAX_PHASES = 2**24

# Below one step of 16 bits nothing is left to hear, and normalising would only amplify rounding.
_SILENT_PEAK = 1 / 32768
# A window counts as silent 60 dB below the song's peak.
_SILENT_WINDOW_S = 0.1
_SILENT_RATIO = 1e-3
_MAX_SILENCE = 0.95

# libsndfile's Vorbis encoder keeps a whole call on its stack: long single writes crash it.
_WRITE_FRAMES = 65536


@dataclass(frozen=True, slots=True)
class Checks:
    """What a song's sound measures.

    peak, rms: of full scale. loudness: LUFS (ITU-R BS.1770), None below 0.4 s or when gated away.
    silence: longest run of silence as a share of the song, 0 … 1. true_peak: dBTP, between the samples.
    """

    peak: float
    rms: float
    loudness: float | None
    silence: float
    true_peak: float


@dataclass(frozen=True, slots=True)
class Tags:
    """What a file says about its song; demo: made by the demo model, which is no singer.

    album: the songs that it was made with.
    """

    title: str
    style: str
    seed: int
    model: str
    demo: bool
    album: str = ""


def check(audio: Audio, rate: int = SAMPLE_RATE) -> Checks:
    """Measures of a song fit to be kept. Raises as refuse_unheard does."""
    peak, silence = refuse_unheard(audio, rate)
    # einsum sums in float64 without a float64 copy of the song.
    rms = math.sqrt(float(np.einsum("cn,cn->", audio, audio, dtype=np.float64)) / audio.size)
    return Checks(peak, rms, loudness(audio, rate), silence, _decibels(true_peak(audio, rate)))


def refuse_unheard(audio: Audio, rate: int = SAMPLE_RATE) -> tuple[float, float]:
    """Peak of a song and its longest silence (see Checks).

    Raises NotFiniteError for a NaN or infinity anywhere, SilenceError when there is nothing to hear. Ask
    before normalising, which would make a hiss of what is next to nothing.
    """
    _refuse_not_finite(audio, rate)
    peak = float(np.abs(audio).max())
    if peak < _SILENT_PEAK:
        raise SilenceError(
            f"the song is silent: peak {peak:.2g} of full scale, in all {audio.shape[1] / rate:.1f} s; "
            "try again with precision fp32, then another seed"
        )
    silence = _longest_silence(audio, rate, peak * _SILENT_RATIO)
    if silence > _MAX_SILENCE:
        raise SilenceError(
            f"the song is silent for {silence:.0%} of its {audio.shape[1] / rate:.1f} s in one piece; "
            "try again with precision fp32, then another seed"
        )
    return peak, silence


def normalise(audio: Audio, peak_dbfs: float = 0.0) -> Audio:
    """audio scaled to this peak; all zeros come back unchanged.

    Raises NotFiniteError, where a plain division would make the whole song silent.
    """
    _refuse_not_finite(audio)
    peak = float(np.abs(audio).max(initial=0.0))
    if peak == 0:
        return audio
    return (audio / np.float32(peak) * np.float32(_amplitude(peak_dbfs))).astype(np.float32)


def loudness(audio: Audio, rate: int = SAMPLE_RATE) -> float | None:
    """Integrated loudness in LUFS (ITU-R BS.1770-4); None below a block of 0.4 s or when all is gated."""
    import pyloudnorm  # scipy comes with it, half a second that reading a file does without

    meter = pyloudnorm.Meter(rate)
    if audio.shape[1] <= meter.block_size * rate:
        return None
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # the mean of no ungated block is NaN, with a warning
        lufs = float(meter.integrated_loudness(audio.T))
    return lufs if math.isfinite(lufs) else None


def to_loudness(audio: Audio, lufs: float, rate: int = SAMPLE_RATE, true_peak_db: float = -1.0) -> Audio:
    """audio at this loudness, or as near as a true peak of true_peak_db allows: a gain, never a limiter.

    Too short or too faint to have a loudness: scaled to the true peak.
    """
    _refuse_not_finite(audio, rate)
    summit = true_peak(audio, rate)
    if summit < np.finfo(np.float32).tiny:
        return audio
    most = _amplitude(true_peak_db) / summit
    measured = loudness(audio, rate)
    wanted = most if measured is None else _amplitude(lufs - measured)
    return audio * np.float32(min(wanted, most))


def fade_out(audio: Audio, seconds: float, rate: int = SAMPLE_RATE) -> Audio:
    """audio whose last seconds, at most half of it, fall to nothing: half a period of a cosine."""
    n = min(round(seconds * rate), audio.shape[1] // 2)
    if n <= 0:
        return audio
    faded = audio.copy()
    faded[:, -n:] *= (0.5 + 0.5 * np.cos(np.pi * np.arange(1, n + 1) / n)).astype(np.float32)
    return faded


def true_peak(audio: Audio, rate: int = SAMPLE_RATE) -> float:
    """Highest level between the samples, of full scale: at four times the rate (ITU-R BS.1770-4, annex 2)."""
    piece, margin = 10 * rate, 64  # in pieces, as four times a long song is a gigabyte
    highest = float(np.abs(audio).max(initial=0.0))
    for start in range(0, audio.shape[1], piece):
        oversampled = resample(audio[:, max(0, start - margin) : start + piece + margin], rate, 4 * rate)
        highest = max(highest, float(np.abs(oversampled).max()))
    return highest


def to_int16(audio: Audio) -> NDArray[np.int16]:
    """audio clamped to ±1, times 32767, truncated towards zero, as the published code does after scaling."""
    _refuse_not_finite(audio)
    return (np.clip(audio, -1, 1) * np.float32(32767)).astype(np.int16)


def resample(audio: Audio, rate: int, wanted: int) -> Audio:
    """audio at another rate (windowed sinc, torchaudio's default)."""
    if rate == wanted:
        return audio
    import torch  # a reader of files at the right rate never needs it
    from torchaudio.functional import resample as torch_resample

    resampled = torch_resample(torch.from_numpy(np.ascontiguousarray(audio)), rate, wanted)
    return resampled.numpy()  # type: ignore[no-any-return]


def stereo(audio: Audio) -> Audio:
    """[2, n]: two channels as they are, any other number as its mean on both sides."""
    return audio if audio.shape[0] == 2 else np.repeat(mono(audio), 2, axis=0)


def mono(audio: Audio) -> Audio:
    """[1, n]: the mean of the channels."""
    mean: Audio = audio.mean(axis=0, keepdims=True, dtype=np.float32)
    return mean


def read(path: Path, rate: int = SAMPLE_RATE) -> Audio:
    """A whole audio file as stereo [2, n] at this rate.

    Raises AudioError: not a sound file, damaged, longer than 20 minutes, empty, silent, or with NaN in it.
    """
    with _open(path) as file:
        found = _read_frames(file, path, start=0, frames=file.frames)
        return resample(stereo(found), file.samplerate, rate)


def read_middle(path: Path, seconds: int = CLIP_S, rate: int = CLIP_RATE) -> Audio:
    """The middle of an audio file as mono [1, seconds·rate], from floor(length / 2) − seconds / 2.

    Raises AudioError as read does, and for a file shorter than that.
    """
    with _open(path) as file:
        length = file.frames / file.samplerate
        if length < seconds:
            raise AudioError(
                f"style clip of {length:.2f} s is too short: {path}; it needs {seconds} s or more"
            )
        start = int((length // 2 - seconds / 2) * file.samplerate)
        found = _read_frames(file, path, start=start, frames=seconds * file.samplerate)
        clip = resample(mono(found), file.samplerate, rate)[:, : seconds * rate]
    return np.pad(clip, ((0, 0), (0, seconds * rate - clip.shape[1])))


def write(
    path: Path,
    audio: Audio,
    format: Format = "wav",
    *,
    subtype: Subtype | None = None,
    rate: int = SAMPLE_RATE,
    tags: Tags | None = None,
) -> None:
    """Put audio at path, whole or not at all (files.replace). Samples beyond ±1 are clipped.

    subtype: of wav PCM_16 (default), PCM_24 or FLOAT; of flac PCM_16 (default) or PCM_24.
    Raises OSError for a full disk or a read-only folder, NotFiniteError for NaN or infinity.
    """
    # Encoded in memory: through libsndfile's own files, a full disk is an error without its number.
    files.replace(path, encode(audio, format, subtype=subtype, rate=rate, tags=tags))


def encode(
    audio: Audio,
    format: Format,
    *,
    subtype: Subtype | None = None,
    rate: int = SAMPLE_RATE,
    tags: Tags | None = None,
) -> bytes | memoryview:
    """The bytes of a sound file; see write. Raises NotFiniteError for NaN or infinity."""
    _refuse_not_finite(audio, rate)
    if subtype is None and format in ("wav", "flac"):
        subtype = "PCM_16"
    samples = to_int16(audio) if subtype == "PCM_16" else np.clip(audio, -1, 1)
    encoded = io.BytesIO()
    named = {} if tags is None else _named(tags)
    with soundfile.SoundFile(
        encoded, "w", rate, audio.shape[0], format=format.upper(), subtype=subtype
    ) as file:
        for name, text in named.items() if format != "mp3" else ():
            setattr(file, name, text)
        for start in range(0, samples.shape[1], _WRITE_FRAMES):
            file.write(samples[:, start : start + _WRITE_FRAMES].T)
    sound = encoded.getbuffer()
    return id3.tag(named) + sound if named and format == "mp3" else sound


def digest(audio: Audio) -> str:
    """SHA-256 of the samples, whatever file they are put in."""
    return hashlib.sha256(np.ascontiguousarray(audio).data).hexdigest()


def decoded(path: Path) -> Audio:
    """What a player hears of a file of ours [channels, n], of any length. Raises AudioError if damaged."""
    try:
        samples, _ = soundfile.read(os.fsencode(path), dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise AudioError(f"damaged audio file: {path} ({error}); make the song again") from error
    return np.ascontiguousarray(samples.T)


def verify(path: Path, seconds: float | None = None) -> float:
    """Seconds of a sound file, read through from start to end.

    Raises AudioError when it cannot be read, holds fewer samples than its header says, holds NaN, or is not
    round(seconds · rate) samples long.
    """
    with _open(path) as file:
        rate, wanted, found = file.samplerate, file.frames, 0
        try:
            for block in file.blocks(_WRITE_FRAMES, dtype="float32", always_2d=True):
                found += len(block)
                if not np.isfinite(block).all():
                    raise AudioError(f"NaN in the sound: {path}; delete the file and make the song again")
        except soundfile.LibsndfileError as error:
            raise AudioError(f"damaged audio file: {path} ({error}); make the song again") from error
        if seconds is not None:
            wanted = round(seconds * rate)
        if found != wanted or (file.format == "MP3" and _is_cut_mp3(path)):
            raise AudioError(f"cut, {found} samples where {wanted} belong: {path}; make the song again")
    return found / rate  # type: ignore[no-any-return]


def _open(path: Path) -> soundfile.SoundFile:
    """A sound file of bounded length, open for reading."""
    if not path.is_file():
        raise AudioError(f"no such audio file: {path}; check the path")
    try:
        file = soundfile.SoundFile(os.fsencode(path))  # of a str that is not UTF-8 it makes no name
    except (soundfile.LibsndfileError, TypeError) as error:  # TypeError: ".raw", which says nothing of itself
        raise AudioError(f"not a readable audio file: {path} ({error}); use wav, flac, ogg or mp3") from error
    reason = _unacceptable(file)
    if reason:
        file.close()
        raise AudioError(
            f"{reason}: {path}; use a whole file, stereo, at 44100 or 48000 Hz, of at most "
            f"{_MAX_SECONDS // 60} minutes"
        )
    return file


def _is_cut_mp3(path: Path) -> bool:
    """Whether an mp3 is shorter than its own Xing header says; libsndfile plays what is lost as silence."""
    data = path.read_bytes()
    # An ID3v2 tag in front tells its size in four bytes of 7 bits.
    size = data[6] << 21 | data[7] << 14 | data[8] << 7 | data[9] if data[:3] == b"ID3" else -10
    stream = data[size + 10 :]
    at = stream[:200].find(b"Xing")
    if at < 0 or not stream[at + 7] & 2:  # no header, or none that counts bytes
        return False
    return len(stream) < int.from_bytes(stream[at + 12 : at + 16], "big")


def _unacceptable(file: soundfile.SoundFile) -> str | None:
    if file.samplerate not in _RATES or not all(
        _phases(file.samplerate, wanted) <= _MAX_PHASES for wanted in (SAMPLE_RATE, CLIP_RATE)
    ):
        return f"sample rate of {file.samplerate} Hz"
    if file.channels > _MAX_CHANNELS:
        return f"{file.channels} channels"
    if file.frames > _MAX_SECONDS * file.samplerate:
        return f"audio of {file.frames / file.samplerate / 60:.0f} minutes"
    if file.frames * file.channels > _MAX_NUMBERS:
        return f"{file.channels} channels of {file.frames} samples"
    if file.frames < 2:
        return f"audio of {file.frames} samples"
    return None


def _phases(rate: int, wanted: int) -> int:
    return rate * wanted // math.gcd(rate, wanted) ** 2


def _read_frames(file: soundfile.SoundFile, path: Path, start: int, frames: int) -> Audio:
    """Frames of an open file as [channels, frames], fit to be used."""
    try:
        file.seek(start)
        found: Audio = file.read(frames, dtype="float32", always_2d=True).T
    except soundfile.LibsndfileError as error:
        raise AudioError(f"damaged audio file: {path} ({error}); export it again") from error
    if not np.isfinite(found).all():
        raise AudioError(f"NaN or infinity in the sound: {path}; export the file again")
    if np.abs(found).max(initial=0.0) < _SILENT_PEAK:
        raise AudioError(f"the sound is silent: {path}; use a file with something to hear")
    return found


def _refuse_not_finite(audio: Audio, rate: int = SAMPLE_RATE) -> None:
    # One sum instead of a mask of the whole song; float64, so that loud float32 cannot overflow it.
    if math.isfinite(float(audio.sum(dtype=np.float64))):
        return
    bad = ~np.isfinite(audio)
    first_s = int(bad.any(axis=0).argmax()) / rate
    raise NotFiniteError(
        f"{int(bad.sum())} samples are NaN or infinite, the first at {first_s:.2f} s of the sound; "
        "try again with precision fp32"
    )


def _longest_silence(audio: Audio, rate: int, threshold: float) -> float:
    """Longest run of windows whose peak stays under threshold, as a share of all windows."""
    window = max(1, int(_SILENT_WINDOW_S * rate))
    starts = np.arange(0, audio.shape[1], window)
    peaks = np.maximum.reduceat(np.abs(audio).max(axis=0), starts)
    longest = run = 0
    for quiet in peaks < threshold:
        run = run + 1 if quiet else 0
        longest = max(longest, run)
    return longest / len(starts)


def _named(tags: Tags) -> dict[str, str]:
    """Tags as soundfile names them; lengths bounded, since some containers are."""
    comment = f"made by AI: seed {tags.seed}, model {tags.model}"
    named = {
        "title": tags.title,
        "artist": "DiffRhythm (AI)",
        "album": tags.album,
        "genre": tags.style,
        "comment": comment + (", made by the demo model" if tags.demo else ""),
        "software": "DiffRhythm Runner",
    }
    # A NUL would end the text early, line breaks confuse players, half a character is in no container.
    cleaned = {
        name: " ".join(text.replace("\0", " ").split())[:500].encode(errors="replace").decode()
        for name, text in named.items()
    }
    return {name: text for name, text in cleaned.items() if text}


def _amplitude(decibels: float) -> float:
    return float(10 ** (decibels / 20))


def _decibels(amplitude: float) -> float:
    return 20 * math.log10(amplitude)
