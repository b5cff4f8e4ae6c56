"""How long a song will take, before it is begun: by songs made here, else by this machine's profile. Pure.

Its work is known (passes of the transformer, and the decoder, see diffrhythm/cost.py); how fast this machine
does it, songs of the same model and arithmetic have shown.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from runner import foresight
from runner.foresight import Decoder, Shown
from runner.messages import SongAnswer

# Of the songs that tell of it, those nearest in length; of equally near ones the newest.
TOLD_BY = 5
# How much longer it may take: measured songs differ by this much or more (benchmarks/forecast.py).
MEASURED_MARGIN = 0.15
# One or two songs do not show how much they differ here.
FEW, FEW_MARGIN = 3, 0.3
# The profile of a machine is of samples: whole passes of the published size were within 20 % of it
# (benchmarks/profile.py); a machine that slows down when it is warm is not.
PROFILE_MARGIN = 0.3
# Without a profile, nothing is known.
UNKNOWN_MARGIN = 1.0
# Start, imports and loading, where no song has shown them.
AROUND_S = 10.0
# More threads than this do not make a song much faster (diffrhythm/cost.py).
MOST_THREADS = 8


@dataclass(frozen=True, slots=True)
class Forecast:
    """What is left of a song, in seconds.

    step_s: of one step, in all its windows. around_s: of all else, from the start of its process to its end.
    left: the share of its steps that are to be made: 1 of a song without a checkpoint. by: the number of
    songs made here that it rests on; 0: it rests on the machine's profile. margin: how much longer it may
    take, as a share.
    """

    step_s: float
    around_s: float
    left: float = 1.0
    by: int = 0
    margin: float = PROFILE_MARGIN

    def seconds(self, density: int) -> float:
        """At so many steps over the whole of the song."""
        return self.around_s + math.ceil(self.left * density - 1e-9) * self.step_s

    def steps_within(self, limit_s: float, *, most: int, least: int) -> int:
        """The most steps with which it takes no longer than that; never fewer than least."""
        fitting = (n for n in range(most, least, -1) if self.seconds(n) <= limit_s)
        return next(fitting, min(most, least))


def forecast(
    answer: SongAnswer, songs: Sequence[Shown], *, precision: str, threads: int, left: float = 1.0
) -> Forecast:
    """Of the song that was answered for, in this arithmetic and on so many threads. songs: made before."""
    told = _telling(answer, songs, precision, threads)
    speeds = [song.flop_s * _threads(threads) / _threads(song.threads) for song in told if song.flop_s]
    if speeds:
        pass_s = answer.pass_flops / median(speeds)
        least = FEW_MARGIN if len(speeds) < FEW else MEASURED_MARGIN
        margin = max(least, (max(speeds) - min(speeds)) / min(speeds) / 2)
    else:
        pass_s = profile_pass_s(answer, threads)
        margin = PROFILE_MARGIN if pass_s else UNKNOWN_MARGIN
    around = [song.around_s for song in told if song.around_s is not None]
    return Forecast(
        step_s=answer.passes * pass_s,
        around_s=(median(around) if around else AROUND_S) + _after_s(answer, songs, precision, pass_s),
        left=left,
        by=len(speeds),
        margin=margin,
    )


def profile_pass_s(answer: SongAnswer, threads: int) -> float:
    """Return seconds of a pass on this many threads, by the machine's profile; 0: unknown.

    On fewer threads than the profile's a pass takes as much longer; more do not make it faster.
    """
    measured_on = answer.threads or _threads(threads)
    return answer.pass_s * measured_on / max(1, min(threads, measured_on))


def _telling(answer: SongAnswer, songs: Sequence[Shown], precision: str, threads: int) -> list[Shown]:
    """Songs made here that tell of this one's pace, nearest first; on as many threads if there are any."""
    alike = [
        song
        for song in songs
        if (song.model_hash, song.precision) == (answer.model_hash, precision) and song.flop_s
    ]
    same = [song for song in alike if song.threads == threads] or alike
    newest_first = same[::-1]
    return sorted(newest_first, key=lambda song: abs(math.log(song.duration / answer.duration)))[:TOLD_BY]


def _after_s(answer: SongAnswer, songs: Sequence[Shown], precision: str, pass_s: float) -> float:
    """Seconds behind sampling: decoding, writing."""
    write_s = foresight.WRITE_S * answer.duration
    if not answer.pass_flops:  # nothing was reckoned of it
        return write_s
    decoder = foresight.decoder_of_nearest(
        songs, model_hash=answer.model_hash, precision=precision, duration=answer.duration
    ) or Decoder(answer.decoder_speed, answer.decoder_around_s)
    return write_s + foresight.decode_s(
        decoder, pass_s=pass_s, pass_flops=answer.pass_flops, decode_flops=answer.decode_flops
    )


def _threads(count: int) -> int:
    return max(1, min(count, MOST_THREADS))
