"""What crosses a process border: requests, beats, outcomes, and the state of a batch.

Each is a frozen dataclass with a schema number, written whole and read with suspicion (see `files`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

SCHEMA = 1

Mode = Literal["sing", "estimate"]
Format = Literal["wav", "flac", "mp3", "ogg"]
Bits = Literal[16, 24, 32]
Preset = Literal["auto", "preview", "draft", "standard", "high", "max", "reference"]
Precision = Literal["auto", "fp32", "bf16", "int8"]
Phase = Literal["load", "lyrics", "style", "encode", "sample", "decode", "write"]
SongState = Literal["queued", "running", "done", "degraded", "failed", "interrupted", "left"]
FINAL_STATES: frozenset[SongState] = frozenset({"done", "degraded", "failed"})

Cause = Literal[
    "timeout",  # the attempt's or the song's time ran out
    "stalled",  # no progress
    "swap-thrash",
    "memory-ceiling",
    "out-of-memory",  # the system's killer, or an allocation that failed
    "numbers",  # NaN, a runaway latent, silence
    "crash",  # a signal or an odd exit
    "no-disk",
    "bad-input",
    "no-bundle",
    "interrupted",  # stopped by the user
    "lost",  # the parent or the machine died
]
MEMORY_CAUSES: frozenset[Cause] = frozenset({"swap-thrash", "memory-ceiling", "out-of-memory"})
FREE_CAUSES: frozenset[Cause] = frozenset({"interrupted", "lost"})

# The worker's exit code without memory or disk; without an outcome beside it, it was the disk.
EXIT_NO_ROOM = 5
# What a child prints before a line that is meant for the user.
NOTE = "note: "


@dataclass(frozen=True, slots=True)
class SongRequest:
    """What one attempt at a song is asked to do; all paths are absolute.

    series is the number of the attempt with which this making of the song began: what is older belongs to
    another request, or to one that has failed. epoch: when the batch began that makes all songs anew, if
    this is one (seconds since 1970), else 0. steps is what the user asked for, density what this attempt
    may still afford: solver steps over the whole of [0, 1]. grid: points of the steps asked for, None for the
    sampler's own. estimate: decode the checkpoint's estimate of the song's end instead of sampling on.
    decoder_speed, decoder_around_s: of the nearest song made before, else as the machine's profile has them
    (see foresight.Decoder). pass_s: seconds that a pass takes by that profile; None: unknown. attempts: how
    many each family of causes gets; 0: not told. memory_bytes: the ceiling of its private memory; None:
    there is none.
    """

    song: str  # "<job>/<name>"
    attempt: int
    series: int
    fingerprint: str
    model: str
    model_hash: str
    lyrics: str | None
    lyrics_source: str
    lyrics_first_line: int
    style: str | None
    style_audio: str | None
    negative_style: str | None
    duration: float | None
    seed: int
    steps: int
    cfg: float
    sampler: str
    language: str
    lyrics_compat: str
    format: Format
    bits: Bits
    loudness: float | None
    density: int
    precision: str
    threads: int
    chunk_frames: int
    checkpoint: str | None
    foresight: bool
    timeout_s: float
    mode: Mode = "sing"
    epoch: float = 0.0
    edit_source: str | None = None
    edit_spans: list[list[float]] = field(default_factory=list)  # start and end in seconds of each
    decoder_speed: float | None = None
    decoder_around_s: float | None = None
    window: float | None = None
    grid: list[float] | None = None
    attempts: int = 0
    memory_bytes: int | None = None
    fade_out: float | None = None
    pass_s: float | None = None
    overlap_frames: int | None = None
    schema: int = SCHEMA


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The newest word of a child. Times ending in _mono are the machine's monotonic clock, in seconds.

    eta_s: what is left of the song, decoding and writing included; None as long as nothing is measured.
    private: bytes of memory of its own, in RAM and in swap. phase_mono: when the phase began; 0: not told.
    spent_s: seconds of each phase before it. paces_s: seconds a pass, or a chunk, at the newest steps of this
    phase, oldest first; fastest_s: of all its steps. slower: how many times as long a pass takes as the
    machine's profile says, where that is much; else None.
    """

    seq: int
    song: str
    attempt: int
    pid: int
    pid_started: int  # clock ticks after boot
    boot_id: str
    phase: Phase
    step: int
    steps: int
    density: int
    passes: int
    t: float | None
    wall: float  # seconds since 1970, for people only
    progress_mono: float
    alive_mono: float
    cpu_s: float
    step_s: float | None
    eta_s: float | None
    rss: int
    swap: int
    major_faults: int
    latent_std: float | None
    note: str
    private: int = 0
    phase_mono: float = 0.0
    spent_s: dict[str, float] = field(default_factory=dict)
    paces_s: list[float] = field(default_factory=list)
    fastest_s: float | None = None
    slower: float | None = None
    schema: int = SCHEMA


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended: told by the child when it could, else by the parent that saw it end.

    cause is None for a finished song. evidence: the readings behind a kill, newest last.
    slower: as in its last heartbeat. song: what the finished song is made of (time grid, seconds per phase,
    checks, …), else empty. began_wall, ended_wall: seconds since 1970, 0 where nobody saw it. memory:
    points of its curve, each seconds since it began, then bytes of private memory, in RAM at all, and in
    swap (see curve.py).
    """

    attempt: int
    cause: Cause | None
    message: str
    t: float | None = None
    density: int | None = None
    exit_code: int | None = None
    elapsed_s: float = 0.0
    peak_rss: int = 0
    peak_swap: int = 0
    peak_private: int = 0
    slept_s: float = 0.0  # time in which the machine slept or nobody was served, not charged
    song: dict[str, Any] = field(default_factory=dict)
    evidence: list[dict[str, Any]] = field(default_factory=list)
    began_wall: float = 0.0
    ended_wall: float = 0.0
    memory: list[list[float]] = field(default_factory=list)
    slower: float | None = None
    schema: int = SCHEMA


@dataclass(frozen=True, slots=True)
class QueuedSong:
    """One song of a batch as the parent sees it. duration: seconds of sound; 0: not told."""

    song: str
    state: SongState
    note: str = ""
    attempt: int = 0
    attempts: int = 0
    file: str | None = None
    seconds: float | None = None
    duration: float = 0.0


@dataclass(frozen=True, slots=True)
class Batch:
    """outputs/batch.json: who runs or ran last, and how every song of it stands. epoch: as in SongRequest.

    stopping: it was asked to end, and its songs save their state. until_wall: when it is to end, seconds
    since 1970; None: when all is made.
    """

    pid: int
    pid_started: int
    boot_id: str
    started_wall: float
    finished_wall: float | None
    workers: int
    songs: list[QueuedSong]
    epoch: float = 0.0
    stopping: bool = False
    until_wall: float | None = None
    schema: int = SCHEMA


@dataclass(frozen=True, slots=True)
class SongQuestion:
    """What the check child has to know of a song to say whether, and how, it can be made."""

    song: str
    model: str
    lyrics: str | None
    lyrics_source: str
    lyrics_first_line: int
    style: str | None
    style_audio: str | None
    negative_style: str | None
    duration: float | None
    preset: str
    steps: int | None
    cfg: float | None
    sampler: str | None
    language: str
    lyrics_compat: str
    precision: str
    edit_source: str | None = None
    edit_spans: list[list[float]] = field(default_factory=list)
    window: float | None = None
    lines: bool = False  # to be told of each
    model_hash: str | None = None  # of the files that a song which this one repeats was made with


@dataclass(frozen=True, slots=True)
class SungLine:
    """A line of lyrics as the model would sing it; see diffrhythm.lyrics.Fit.

    number: of the line in its file. at_s: its time. frame: None if it is not sung. late, takes, has, lost:
    frames. sounds: its phones.
    """

    number: int
    at_s: float
    text: str
    frame: int | None
    late: int
    takes: int
    has: int
    lost: int
    sounds: list[str]
    per_s: float | None


@dataclass(frozen=True, slots=True)
class SongAnswer:
    """How a song will be made: everything open in the question is decided. problems: why it can't be made.

    grid: points of the steps where the model was tuned, None for the sampler's own. model_hash: of the
    bundle's files, which lie in model_folder; empty where there is none. choice: why these steps and
    guidance, in words for people. private_bytes, mapped_bytes: memory that the song will have for itself, and
    its model's files, which all songs of it share. gpus: so many it is made on, where there are so many.
    lines: of its lyrics, where they were asked for.

    passes: of the transformer, for one step in all windows. pass_flops, decode_flops: the work of one, and
    of decoding the song. pass_s: seconds of one pass on `threads` threads, which is the best number of them,
    as this machine's profile has both; 0: unknown. provisional: other programs were busy when it was
    measured. decoder_speed, decoder_around_s: of a decoder that no song has shown yet (see
    foresight.Decoder). chunk_frames, overlap_frames: of the decoder, see diffrhythm.generate.
    """

    song: str
    problems: list[str]
    warnings: list[str]
    duration: float = 0.0
    steps: int = 0
    cfg: float = 0.0
    sampler: str = "euler"
    grid: list[float] | None = None
    precision: str = "fp32"
    model_hash: str = ""
    demo: bool = False
    choice: str = ""
    private_bytes: int = 0
    mapped_bytes: int = 0
    lines: list[SungLine] = field(default_factory=list)
    passes: int = 0
    pass_flops: int = 0
    decode_flops: int = 0
    pass_s: float = 0.0
    threads: int = 0
    provisional: bool = False
    decoder_speed: float = 1.0
    decoder_around_s: float = 0.0
    model_folder: str = ""
    gpus: int = 0
    chunk_frames: int = 64
    overlap_frames: int | None = None


@dataclass(frozen=True, slots=True)
class Check:
    """All questions of a batch, then all answers, in the same order."""

    questions: list[SongQuestion]
    answers: list[SongAnswer]
    schema: int = SCHEMA


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What a child finds of a model. problem: why it cannot sing here, and what to do; else "".

    here: its files are. large: of the published size. verified: every byte was read. style: what its style
    encoder lacks. duration, song_s, need_bytes: of its longest song, about what making it with preset
    standard takes, and the memory that this needs; song_s is 0 where it was not measured.
    """

    name: str
    here: bool
    problem: str = ""
    large: bool = False
    bytes: int = 0
    verified: bool = False
    style: str = ""
    precision: str = ""
    duration: float = 0.0
    song_s: float = 0.0
    need_bytes: int = 0


@dataclass(frozen=True, slots=True)
class MeasuredArithmetic:
    """What one arithmetic takes on this machine, at the published size.

    pass_s: seconds of one pass on this many threads. decode_s: of decoding a second of sound; None: the
    decoder was not measured in it. error: of a pass, relative to float32; None: unknown.
    """

    name: str
    pass_s: float
    decode_s: float | None
    threads: int
    error: float | None


@dataclass(frozen=True, slots=True)
class MachineArithmetic:
    """How songs of the published size are calculated on this machine, and why; see diffrhythm.arithmetic.

    frames: of a pass. busy: the share of the cores that other programs took while it was measured.
    measured_wall: when that was, in seconds since 1970.
    """

    chosen: str
    decoder: str
    reason: str
    published_pass_s: float
    candidates: list[MeasuredArithmetic]
    frames: int
    busy: float
    measured_wall: float


@dataclass(frozen=True, slots=True)
class Examination:
    """What `runner doctor` asks a child, model, and then what the child found. model: None: those here.

    broken: packages that cannot be imported, and why. espeak, encoders, cache: what is wrong with them.
    cache_folder: where styles are kept. precision: of large models, or why none could be chosen. measure:
    measure this machine again. arithmetic: what was measured, None where it could not be.
    """

    model: str | None
    measure: bool = False
    broken: list[str] = field(default_factory=list)
    packages: int = 0
    torch: str = ""
    espeak: str = ""
    encoders: list[str] = field(default_factory=list)
    cache_folder: str = ""
    cache: str = ""
    cached: int = 0
    precision: str = ""
    models: list[ModelFacts] = field(default_factory=list)
    arithmetic: MachineArithmetic | None = None
    schema: int = SCHEMA
