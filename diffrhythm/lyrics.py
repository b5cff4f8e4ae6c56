"""LRC text → timed lines → one phoneme id per latent frame.

A frame is 2048 samples at 44.1 kHz, so 21.5 frames are a second. A line's ids stand one per frame from its
time on and end with the id of "."; every other frame holds the filler 0. A bundle may have learnt phones that
are held instead (`held`).

    lyrics = parse_lrc(Path("song.lrc").read_bytes(), source="song.lrc")
    alignment = align(lyrics, inventory, frames=2048)

Without `published` no line is lost: what cannot be sung as written is an error or a warning. With it, lines
and frames are those of the published program, which drops some without a word.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby, islice, pairwise
from types import MappingProxyType
from typing import TYPE_CHECKING

from diffrhythm.errors import LyricsError, one_line
from diffrhythm.phonemes import Inventory, Language, Phones, segments, to_ids
from diffrhythm.phonemes.english import WORD_MARK
from diffrhythm.phonemes.inventory import COMMA, FILLER, STOP, is_vowel
from diffrhythm.vae_config import HOP, SAMPLE_RATE

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# The published program drops the last line, but only with the model of this many frames.
BASE_FRAMES = 2048

LARGEST_FILE = 1 << 20
LONGEST_LINE = 2000  # characters; more is no line of a song, and slow to speak
MOST_LINES = 2000
_MOST_SHOWN = 50
_LATEST_S = 60_000  # 999:59, and all that a stamp can say; the published columns can say inf, too
_MOST_OFFSET_MS = 600_000
_SILENT = frozenset({WORD_MARK, COMMA, STOP})


@dataclass(frozen=True, slots=True)
class Line:
    """A line to sing: when (seconds, ≥ 0), what, and where it is written (number from 1)."""

    seconds: float
    text: str
    number: int
    source: str = "lyrics.lrc"

    @property
    def where(self) -> str:
        return f"{self.source}:{self.number}"


@dataclass(frozen=True, slots=True)
class Lyrics:
    """The lines of a song in the order in which they are sung.

    tags: [ti:…], [ar:…] and the like, keys in lower case.
    """

    lines: tuple[Line, ...]
    warnings: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    source: str = "lyrics.lrc"

    @property
    def title(self) -> str:
        """The title tag, or empty."""
        return self.tags.get("ti", "")

    def __iter__(self) -> Iterator[Line]:
        return iter(self.lines)

    def __len__(self) -> int:
        return len(self.lines)


@dataclass(frozen=True, slots=True)
class Placed:
    """A line in its frames [start, end); end − start is less than it needs where the song ends within it."""

    line: Line
    phones: Phones
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Alignment:
    """Lyrics laid on the frames of a song.

    ids: int64 [t], 0 where nothing is sung. end_seconds: when the last line would end in a song long enough
    for it; 0.0 with no line.
    """

    ids: NDArray[np.int64]
    placed: tuple[Placed, ...]
    end_seconds: float
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Fit:
    """How a line fits into its time: as far as the next line that is sung, or the song's end.

    frame: where it is sung, late frames behind its time; None: it is not. sounds: its phones, a held one
    once. takes, has: frames that it needs and those up to there. lost: frames cut off by the song's end.
    per_s: sounds a second, if it had all that time and no more.
    """

    line: Line
    frame: int | None = None
    late: int = 0
    sounds: tuple[str, ...] = ()
    takes: int = 0
    has: int = 0
    lost: int = 0

    @property
    def per_s(self) -> float:
        return len(self.sounds) / _seconds_of(self.has) if self.has else math.inf * len(self.sounds)


def parse_lrc(
    text: str | bytes, *, source: str = "lyrics.lrc", first_line: int = 1, published: bool = False
) -> Lyrics:
    """The lines of an LRC file, sorted by time, its offset applied.

    first_line: the line of `source` on which text begins. published: read as the published program does, by
    fixed columns: a line that does not parse, and every tag, is dropped without a warning; nothing is sorted.
    Raises LyricsError, one line per mistake.
    """
    text = _decoded(text, source)
    if published:
        lines = tuple(islice(_published_lines(text, source, first_line), MOST_LINES + 1))
        if len(lines) > MOST_LINES:
            raise LyricsError(f"{lines[-1].where}: more than {MOST_LINES} lines, give one song")
        return Lyrics(lines, source=source)
    return _Reading(source).read(text.removeprefix("\ufeff"), first_line)


def align(
    lines: Iterable[Line],
    inventory: Inventory,
    *,
    frames: int | None = None,
    max_secs: float | None = None,
    language: Language = "auto",
    published: bool = False,
    syllable_frames: int | None = None,
) -> Alignment:
    """Each line from the frame of its time on, or after the line before it, one id a frame.

    frames: length of the song; None: as long as the lines need. max_secs: a line that begins at or after it
    is left out. language: how to read a line that shows none. published: as the published program: no
    warnings, with 2048 frames the last line is left out too, a line that shows no language raises
    LyricsError. syllable_frames: of a model that learnt held phones (`held`); not with `published`.
    """
    if published:
        return _aligned_as_published(list(lines), inventory, frames, max_secs)
    warnings: list[str] = []
    sung: list[tuple[Line, Phones]] = []
    for line in lines:
        phones = to_ids(line.text, inventory, language)
        warnings += _unsung(line, phones)
        if syllable_frames is not None:
            phones = _held_phones(phones, inventory, syllable_frames)
        if not phones.ids:
            continue
        if max_secs is not None and line.seconds >= max_secs:
            warnings.append(_too_late(line, max_secs))
            continue
        sung.append((line, phones))
    return _lay(sung, inventory, frames, warnings)


def fits(lines: Iterable[Line], alignment: Alignment) -> list[Fit]:
    """How each of the lines that were aligned fits into its time, those that are not sung as well."""
    length = len(alignment.ids)
    sung = [placed for placed in alignment.placed if placed.start < length]
    ends = [_frame_of(placed.line.seconds) for placed in sung[1:]] + [length]
    places = list(zip(sung, ends, strict=False))  # none is sung: an end for nobody
    found = []
    for line in lines:
        if places and places[0][0].line == line:
            found.append(_fit(*places.pop(0), length))
        else:
            found.append(Fit(line))
    return found


def _fit(placed: Placed, end: int, length: int) -> Fit:
    at, takes = _frame_of(placed.line.seconds), len(placed.phones.ids) + 1
    return Fit(
        placed.line,
        frame=placed.start,
        late=placed.start - at,
        sounds=tuple(phone for phone, _ in groupby(placed.phones.phones) if phone not in _SILENT),
        takes=takes,
        has=max(0, end - at),
        lost=max(0, placed.start + takes - length),
    )


def held(phones: Sequence[str], syllable_frames: int) -> list[str]:
    """The phone of each frame where vowels are held until the next syllable, as a singer would.

    A consonant or a pause takes one frame, the mark between words none. A vowel lasts so long that the next
    one begins syllable_frames after it, or a multiple where the consonants between them need more; the last
    one of a line as if two syllables were left.
    """
    sounds = [phone for phone in phones if phone != WORD_MARK]
    vowels = [i for i, phone in enumerate(sounds) if is_vowel(phone)]
    until = dict(pairwise([*vowels, len(sounds)]))
    frames: list[str] = []
    for i, phone in enumerate(sounds):
        if i not in until:
            frames.append(phone)
            continue
        after = until[i] - i - 1
        syllables = max(2 if i == vowels[-1] else 1, math.ceil((after + 1) / syllable_frames))
        frames += [phone] * (syllables * syllable_frames - after)
    return frames


def _held_phones(phones: Phones, inventory: Inventory, syllable_frames: int) -> Phones:
    frames = held(phones.phones, syllable_frames)
    return replace(phones, ids=tuple(inventory.ids[phone] for phone in frames), phones=tuple(frames))


def _decoded(text: str | bytes, source: str) -> str:
    if len(text) > LARGEST_FILE:
        raise LyricsError(f"{source}:1: more than {LARGEST_FILE >> 20} MiB, give the lyrics of one song")
    if isinstance(text, bytes):
        text = _decoded_bytes(text, source)
    if "\0" in text:
        raise LyricsError(
            f"{source}:{_line_of(text, chr(0))}: a binary file, give lyrics as LRC text in UTF-8"
        )
    return text


def _decoded_bytes(content: bytes, source: str) -> str:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise LyricsError(f"{source}:1: UTF-16, save the file as UTF-8 (iconv -f UTF-16 -t UTF-8)")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        kind = "a binary file" if b"\0" in content else "not UTF-8"
        raise LyricsError(
            f"{source}:{number}: {kind}, save the lyrics as UTF-8 text (from GBK: iconv -f GBK -t UTF-8)"
        ) from error


def _line_of(text: str, found: str) -> int:
    return text.count("\n", 0, text.index(found)) + 1


# A stamp: minutes, seconds, and a fraction of one to three digits after a point or, in some files, a colon.
_STAMP = re.compile(r"\[(\d{1,3}):(\d{1,2})(?:[.:](\d{1,3}))?\]")
_STAMPS = re.compile(rf"(?:{_STAMP.pattern}\s*)+")
_WORD_STAMP = re.compile(r"[<\[]\d{1,3}:\d{1,2}(?:[.:]\d{1,3})?[>\]]")
_TAG = re.compile(r"\[([A-Za-z#][\w#-]*):(.*)\]")
_LABEL = re.compile(r"\[[^\[\]:]*\]")


@dataclass(slots=True)
class _Reading:
    """One reading of a file: what was found so far."""

    source: str
    lines: list[Line] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    mistakes: list[str] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)
    offset_s: float = 0.0

    def read(self, text: str, first_line: int) -> Lyrics:
        for number, row in enumerate(text.splitlines(), start=first_line):
            self._read_row(row.strip(), number, f"{self.source}:{number}")
            if len(self.lines) > MOST_LINES:
                self.mistakes.append(f"{self.source}:{number}: more than {MOST_LINES} lines, give one song")
                break
        if self.mistakes:
            raise LyricsError(_all_of(self.mistakes))
        lines = [self._moved(line) for line in self.lines]
        self._note_order(lines)
        lines.sort(key=lambda line: line.seconds)
        return Lyrics(
            tuple(lines), tuple(map(one_line, self.warnings)), MappingProxyType(dict(self.tags)), self.source
        )

    def _read_row(self, row: str, number: int, where: str) -> None:
        stamps = _STAMPS.match(row)
        if len(row) > LONGEST_LINE:
            self.mistakes.append(f"{where}: {len(row)} characters, break it into lines of a song")
        elif stamps:
            self._read_sung(stamps[0], row[stamps.end() :], number, where)
        elif tag := _TAG.fullmatch(row):
            self._read_tag(tag[1].lower(), tag[2].strip(), where)
        elif _LABEL.fullmatch(row):
            self.warnings.append(f"{where}: {row} is not sung, put a time before it if it should be")
        elif row:
            self.mistakes.append(f"{where}: no time before {_short(row)}, write [mm:ss.xx] before it")

    def _read_sung(self, stamps: str, text: str, number: int, where: str) -> None:
        words = " ".join(_WORD_STAMP.sub(" ", text).split())
        for minutes, seconds, fraction in _STAMP.findall(stamps):
            if int(seconds) >= 60:
                self.warnings.append(
                    f"{where}: {seconds} seconds in a time, read as {minutes} min + {seconds} s"
                )
            if words:
                at = int(minutes) * 60 + float(f"{seconds}.{fraction or 0}")
                self.lines.append(Line(at, words, number, self.source))

    def _read_tag(self, key: str, value: str, where: str) -> None:
        self.tags[key] = value
        if key != "offset":
            return
        if re.fullmatch(r"[+-]?\d{1,7}", value) and abs(int(value)) <= _MOST_OFFSET_MS:
            self.offset_s = int(value) / 1000
        else:
            self.mistakes.append(f"{where}: offset {_short(value)}, give milliseconds such as [offset:+250]")

    def _moved(self, line: Line) -> Line:
        """line at its time less the offset: a positive offset brings the words earlier."""
        at = round(line.seconds - self.offset_s, 6)
        if at < 0:
            self.warnings.append(
                f"{line.where}: the offset moves it before the song, sung from 0 s, check the offset"
            )
        return Line(max(at, 0.0), line.text, line.number, line.source) if self.offset_s else line

    def _note_order(self, lines: list[Line]) -> None:
        by_number: dict[int, float] = {}
        latest = 0.0
        for line in lines:
            first = line.number not in by_number
            by_number.setdefault(line.number, line.seconds)
            if first and line.seconds < latest:
                self.warnings.append(
                    f"{line.where}: earlier than a line above it, sung in the order of the times"
                )
            latest = max(latest, line.seconds) if first else latest


def _all_of(mistakes: list[str]) -> str:
    shown = mistakes[:_MOST_SHOWN]
    more = [f"… and {len(mistakes) - len(shown)} more"] if len(mistakes) > len(shown) else []
    return "\n".join(shown + more)


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:39] + "…")


def _published_lines(text: str, source: str, first_line: int) -> Iterator[Line]:
    """Columns 2 to 9 of a line are mm:ss.xx, the words begin in column 11; what fails is no line."""
    blank_rows = text[: len(text) - len(text.lstrip())].count("\n")
    for number, row in enumerate(text.strip().split("\n"), start=first_line + blank_rows):
        try:
            minutes, seconds = row[1:9].split(":")
            at = int(minutes) * 60 + float(seconds)
        except ValueError:
            continue
        if len(row) > LONGEST_LINE:
            raise LyricsError(f"{source}:{number}: {len(row)} characters, break it into lines of a song")
        yield Line(at, row[10:].strip(), number, source)


def _aligned_as_published(
    lines: list[Line], inventory: Inventory, frames: int | None, max_secs: float | None
) -> Alignment:
    for line in lines:
        if not segments(line.text):
            raise LyricsError(f"{line.where}: shows no language: {_short(line.text)}, write it in letters")
    kept = [line for line in lines if max_secs is None or line.seconds < max_secs]
    for line in kept:
        if not abs(line.seconds) < _LATEST_S:  # so written that NaN is refused, too
            raise LyricsError(f"{line.where}: begins at {line.seconds:g} s, give a time within the song")
    if frames == BASE_FRAMES:
        kept = kept[:-1]
    return _lay([(line, to_ids(line.text, inventory)) for line in kept], inventory, frames, None)


def _lay(
    sung: list[tuple[Line, Phones]], inventory: Inventory, frames: int | None, warnings: list[str] | None
) -> Alignment:
    """sung laid on `frames` frames. warnings: those so far; None where none are wanted."""
    import numpy as np  # takes longer than all the rest of this module's import

    spans = _spans(sung)
    end = spans[-1][1] if spans else 0
    length = end if frames is None else frames
    ids = np.full(length, FILLER, dtype=np.int64)
    placed = []
    for (line, phones), (start, stop) in zip(sung, spans, strict=True):
        row = _line_ids(phones, inventory)[: max(length - start, 0)]
        ids[start : start + len(row)] = row
        placed.append(Placed(line, phones, min(start, length), min(stop, length)))
    if warnings is not None:
        warnings = warnings + _misfits(sung, spans, length)
    return Alignment(ids, tuple(placed), end * HOP / SAMPLE_RATE, tuple(map(one_line, warnings or ())))


def _spans(sung: list[tuple[Line, Phones]]) -> list[tuple[int, int]]:
    """Frames [start, end) that each line takes in a song without an end."""
    spans = []
    free = 0
    for line, phones in sung:
        start = max(_frame_of(line.seconds), free)
        free = start + len(phones.ids) + 1
        spans.append((start, free))
    return spans


def _line_ids(phones: Phones, inventory: Inventory) -> list[int]:
    """The ids of a line and its end mark, which is the id of "."; within the line a "." becomes a ","."""
    comma, stop = inventory.ids[COMMA], inventory.ids[STOP]
    return [*(comma if i == stop else i for i in phones.ids), stop]


def _frame_of(seconds: float) -> int:
    return int(seconds * SAMPLE_RATE / HOP)


def _seconds_of(frames: int) -> float:
    return frames * HOP / SAMPLE_RATE


def _unsung(line: Line, phones: Phones) -> list[str]:
    """Warnings about what of a line is not sung."""
    if not phones.ids:
        return [
            f"{line.where}: nothing to sing in {_short(line.text)}, write it in words or set the language"
        ]
    if phones.unknown:
        lost = " ".join(phones.unknown)
        return [f"{line.where}: not sung: {lost} in {_short(line.text)}, write it in other words"]
    return []


def _too_late(line: Line, song_s: float) -> str:
    return (
        f"{line.where}: not sung, begins at {line.seconds:.2f} s and the song ends at {song_s:.2f} s, "
        "move it or ask for a longer song"
    )


def _misfits(sung: list[tuple[Line, Phones]], spans: list[tuple[int, int]], length: int) -> list[str]:
    """Warnings about lines that begin late, past the end, or are cut by it."""
    found = []
    for i, ((line, _), (start, stop)) in enumerate(zip(sung, spans, strict=True)):
        late = start - _frame_of(line.seconds)
        if late:
            found.append(
                f"{line.where}: sung {_seconds_of(late):.2f} s late, the line before it "
                f"({sung[i - 1][0].where}) takes until {_seconds_of(start):.2f} s, move or shorten one"
            )
        if start >= length:
            found.append(_too_late(line, _seconds_of(length)))
        elif stop > length:
            found.append(
                f"{line.where}: cut by the end of the song, {stop - length} of {stop - start} sounds lost, "
                "move it or ask for a longer song"
            )
    return found
