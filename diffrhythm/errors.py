"""What can go wrong in the model half, by what happened.

    DiffRhythmError
    ├── InputError              the user's lyrics, style, audio or request cannot be used
    │   ├── LyricsError
    │   ├── StyleError
    │   ├── AudioError
    │   └── RequestError        a duration, step count or preset that the model cannot make
    ├── BundleError             the model's files are missing, damaged or of another shape
    ├── NumbersError            the arithmetic went wrong; a safer precision may cure it
    │   ├── NotFiniteError
    │   ├── RunawayError
    │   └── SilenceError
    ├── EspeakError             espeak-ng cannot be loaded, so no English can be sung
    └── CheckpointError         a checkpoint is damaged or belongs to another song

Messages have three parts: what is wrong, where, what to do.
"""

from __future__ import annotations

# A path has 4096 bytes at most, what is said of it a sentence or two.
_LONGEST_LINE = 5000


class DiffRhythmError(Exception):
    """Base of every error that this package raises on purpose. str() gives one line, see `one_line`."""

    def __str__(self) -> str:
        return one_line(super().__str__())


def one_line(text: str) -> str:
    """text on one line that every terminal and log can show, whatever stands in it; cut in the middle."""
    if not text.isprintable():
        text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    half = _LONGEST_LINE // 2
    return text if len(text) <= _LONGEST_LINE else f"{text[:half]} … {text[-half:]}"


class InputError(DiffRhythmError):
    """What the user gave cannot be used."""


class LyricsError(InputError):
    """Lyrics that cannot be read or sung; str() gives one line for each mistake, from file:line on."""

    def __str__(self) -> str:
        return "\n".join(map(one_line, str(self.args[0]).split("\n")))


class StyleError(InputError):
    """A style text or clip that cannot be embedded."""


class AudioError(InputError):
    """An audio file that cannot be read, or is too short or silent."""


class RequestError(InputError):
    """A duration, step count, sampler or preset that this model cannot make."""


class BundleError(DiffRhythmError):
    """A model bundle that is missing, damaged, or of another shape than it says."""


class NumbersError(DiffRhythmError):
    """The arithmetic went wrong; a safer precision may cure it."""


class NotFiniteError(NumbersError):
    """NaN or infinity in a latent or in the sound."""


class RunawayError(NumbersError):
    """A latent far outside the range that the model was trained on."""


class SilenceError(NumbersError):
    """The decoded song is silent."""


class EspeakError(DiffRhythmError):
    """espeak-ng cannot be loaded, so no English can be sung."""


class CheckpointError(DiffRhythmError):
    """A checkpoint that is damaged or belongs to another song."""
