"""Foresight: a child that knows its own pace knows what is left of its song, and makes it fit the time. Pure.

Passes of the transformer are measured as they go. The decoder is foreseen from them: by the work of both
(diffrhythm/cost.py) and by how much faster or slower it gets through its own, which a song of the same model
has shown before, or, for the first one, the machine's profile.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from runner.verdict import MIN_DENSITY

# After so many measured steps the pace is trusted; the first is often slower (cold caches).
MEASURED_STEPS = 2
# Of so many newest ones: the machine's speed changes over a night.
PACED = 5
# A pass that takes this many times as long as the machine's profile says puts the profile in doubt.
MUCH_SLOWER = 2.0
# Loudness and encoding, seconds for each of sound (benchmarks/foresight.py).
WRITE_S = 0.01
# Kept free besides what is foreseen behind sampling, as a share of it.
DOUBT = 0.15
# Of an attempt's time the last beats and the end of the process take theirs, too.
RESERVE_S = 5.0


@dataclass(frozen=True, slots=True)
class Decoder:
    """What decoding takes. speed: operations a second, to those of the passes. around_s: seconds that do not
    grow with the song, to open and compile the decoder and to check its sound.
    """

    speed: float
    around_s: float


# Where neither a song nor the machine's profile tells: as fast as the passes.
UNKNOWN = Decoder(1.0, 2.0)
# Seconds behind decoding, to join and check the sound: 1.2 s with the demo's decoder on a core of Zen 3
# (benchmarks/foresight.py).
CHECK_S = 1.2


@dataclass(frozen=True, slots=True)
class Shown:
    """What a finished song tells of others of its model: of their decoder, and how much memory for itself its
    process had. None where it does not tell. duration: seconds. flop_s: operations a second of its passes, on
    so many threads. around_s: seconds besides sampling, decoding and writing.
    """

    model_hash: str
    precision: str
    duration: float
    decoder: Decoder | None
    private: int | None = None
    threads: int = 0
    flop_s: float | None = None
    around_s: float | None = None


@dataclass(frozen=True, slots=True)
class Left:
    """Seconds of what is left of a song, by phase."""

    sample: float
    decode: float
    write: float

    @property
    def all(self) -> float:
        return self.sample + self.decode + self.write


def pace(seconds: Sequence[float]) -> float:
    """Seconds a pass, or a chunk, goes on to take by those measured, oldest first; at least one.

    The lower middle of the newest: of two the faster, since the first warms up and any may be held up.
    """
    newest = sorted(seconds[-PACED:])
    return newest[(len(newest) - 1) // 2]


def much_slower(pass_s: Sequence[float], expected_s: float | None) -> float | None:
    """Return how many times as long a pass takes as expected, where that puts the expectation in doubt.

    pass_s: seconds of a pass at each step so far. expected_s: by the machine's profile; None: unknown.
    """
    if not expected_s or len(pass_s) < MEASURED_STEPS:
        return None
    ratio = pace(pass_s) / expected_s
    return round(ratio, 2) if ratio >= MUCH_SLOWER else None


def decode_s(decoder: Decoder, *, pass_s: float, pass_flops: float, decode_flops: float) -> float:
    """Seconds from the end of sampling to a checked sound. The flops: of one pass, and of all chunks."""
    return pass_s * decode_flops / pass_flops / decoder.speed + decoder.around_s


def decoder_shown(
    chunks: Sequence[float], *, decoded_s: float, pass_s: float, pass_flops: float, decode_flops: float
) -> Decoder | None:
    """What a song that was made shows of its decoder; None where something took no time.

    chunks: seconds of each, the first with the opening in it. decoded_s: of the whole phase.
    """
    if not chunks or not pace(chunks) > 0 or not pass_s > 0:
        return None
    chunks_s = len(chunks) * pace(chunks)
    speed = decode_flops / chunks_s / (pass_flops / pass_s)
    return Decoder(speed, max(0.0, decoded_s - chunks_s))


def decoder_of_nearest(
    songs: Sequence[Shown], *, model_hash: str, precision: str, duration: float
) -> Decoder | None:
    """The decoder of the `nearest` song that tells of it; None: there is no such song.

    Work is reckoned for every duration, but a processor is not as good at all of it.
    """
    told = [song for song in songs if song.decoder is not None]
    found = nearest(told, model_hash=model_hash, precision=precision, duration=duration)
    return None if found is None else found.decoder


def nearest(songs: Sequence[Shown], *, model_hash: str, precision: str, duration: float) -> Shown | None:
    """The song of this model and arithmetic whose duration is nearest, of several the last."""
    alike = [song for song in songs if (song.model_hash, song.precision) == (model_hash, precision)]
    return min(reversed(alike), key=lambda song: abs(math.log(song.duration / duration)), default=None)


def decoding_s(chunks: Sequence[float], chunks_left: int, foreseen_s: float | None) -> float:
    """Seconds that the rest of the chunks takes, by those decoded so far.

    chunks: their seconds, oldest first. foreseen_s: for all of them. The first has the decoder's opening in
    it, so that it tells of the others only where nothing else does.
    """
    if foreseen_s is None or len(chunks) >= MEASURED_STEPS:
        return chunks_left * pace(chunks)
    return foreseen_s * chunks_left / (len(chunks) + chunks_left)


def sampling_s(timeout_s: float, after_s: float) -> float:
    """How much of an attempt's time sampling may have used when it ends.

    after_s: seconds that decoding and writing are foreseen to take.
    """
    return timeout_s - max((1 + DOUBT) * after_s, min(RESERVE_S, timeout_s / 2))


def steps_that_fit(*, sample_s: float, left_s: float, remaining: int, t: float) -> int | None:
    """How many of the remaining steps to keep so that sampling ends in time; None: all of them fit.

    sample_s: seconds that all of them take; left_s: that there are. Never fewer than the floor of MIN_DENSITY
    steps over [0, 1] leaves for what remains after t, and at least one.
    """
    left_s = max(0.0, left_s)
    if sample_s <= left_s:
        return None
    floor = max(1, math.ceil((1 - t) * MIN_DENSITY - 1e-9))
    kept = max(floor, int(remaining * left_s / sample_s))
    return kept if kept < remaining else None
