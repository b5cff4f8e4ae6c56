"""The pages of the reference, made from the code whenever the site is built (a hook of mkdocs)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, Field, fields
from inspect import cleandoc, getsource
from typing import Any, get_args

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from runner import cli, errors, messages, spec
from runner.songfolder import Outputs

# What the fields of files are, where neither a name nor a comment in the code says it.
MEANINGS = {
    "alive_mono": "of the newest sign of life, which a thread gives every second (s, monotonic)",
    "attempt": "its number, from 1",
    "attempts": "every attempt of this making: its outcome without song and evidence",
    "began_wall": "when (s since 1970); 0: nobody saw it",
    "bits": "of a sample",
    "boot_id": "the kernel's name for this boot",
    "cause": "why it ended, see [causes](causes.md); null: the song is made",
    "cfg": "guidance, as published",
    "checkpoint": "to go on from; null: from the beginning",
    "checks": "of the sound: peak, rms, loudness in LUFS, true_peak in dBTP, longest silence as a share",
    "chunk_frames": "latent frames (46.4 ms each) that are decoded at once",
    "cpu_s": "processor time so far (s)",
    "arithmetic": "what calculated the passes and decoded the sound",
    "decoder": "how this machine decoded it, for foreseeing the next: speed, and seconds around it",
    "decoder_speed": "of the nearest song made before, else by the machine's profile",
    "degraded": "how the song is less than asked; null: it is not",
    "demo": "made by the demo model",
    "density": "solver steps over the whole of [0, 1] that this attempt can afford",
    "duration": "of the song (s)",
    "elapsed_s": "charged to the attempt (s)",
    "ended_wall": "when (s since 1970); 0: nobody saw it",
    "eta_s": "what is left of the song (s)",
    "evidence": "readings before a kill, the newest last",
    "exit_code": "of the child; −n: signal n",
    "fade_out": "seconds in which the end fades",
    "fastest_s": "seconds a pass or chunk at the fastest of this phase",
    "file": "name of the sound file",
    "fingerprint": "SHA-256 of what was asked",
    "finished": "when, in local time with its zone",
    "finished_wall": "end of the batch (s since 1970); null: it runs or died",
    "foresight": "take fewer steps where time would run out",
    "format": "of the sound file",
    "latent_std": "standard deviation of the latent; near 1 when finished",
    "lines": "the lyrics' lines with their times",
    "loudness": "LUFS; null: peak at full scale",
    "lyrics": "LRC text; null: instrumental",
    "lyrics_source": "where they are written, for messages",
    "machine": "system, Python, processor, cores and memory",
    "major_faults": "pages that had to come from a disk, so far",
    "memory": "points of its curve: seconds, then bytes private, in RAM, in swap",
    "memory_bytes": "ceiling of its private memory; null: none",
    "message": "the same in words",
    "model": "name, or folder of the bundle",
    "model_hash": "SHA-256 of the bundle's description, and so of all its files",
    "note": "a few words for people",
    "outline": "of the sound, for a picture",
    "overlap_frames": "those that chunks of the whole decoder share; null: the decoder is cut in two parts",
    "paces_s": "seconds a pass or chunk of this phase, the newest last",
    "pass_flops": "work of a pass of the transformer",
    "pass_s": "seconds that a pass took, or takes by the machine's profile",
    "passes": "of the transformer so far",
    "peak_private": "memory of its own at most (bytes)",
    "peak_rss": "memory at most, mapped weights included (bytes)",
    "peak_swap": "swap at most (bytes)",
    "phase": "where in the making",
    "phase_mono": "when the phase began (s, monotonic); 0: not told",
    "phases": "seconds of each phase of the last attempt",
    "pid": "of the process",
    "pid_started": "with pid and boot_id: which process that is (clock ticks after boot)",
    "precision": "arithmetic of the transformer",
    "private": "memory of its own now, in RAM and in swap (bytes)",
    "progress_mono": "when something last moved (s, monotonic)",
    "request": "all of request.json of the last attempt",
    "rss": "memory now (bytes)",
    "runner": "version of the program",
    "sample_rate": "per second",
    "samples": "of each channel",
    "schema": "version of this kind of file",
    "seconds": "of all attempts together",
    "seed": "number that the noise is drawn from",
    "seq": "counts the beats",
    "sha256": "of the sound file",
    "slept_s": "not charged: the machine slept, or nobody was served (s)",
    "song": "`<job>/<name>`",
    "songs": "every song of the batch: song, state, note, attempt, attempts, file, seconds",
    "sound_sha256": "of the samples, whatever file they are put in",
    "spent_s": "seconds of each phase before this one",
    "started_wall": "begin of the batch (s since 1970)",
    "state": "how it stands",
    "step": "of steps: solver steps while sampling, chunks while encoding or decoding",
    "slower": "how many times as long a pass takes as the machine's profile says, where that is much",
    "step_s": "what the newest step took (s)",
    "steps": "see step; in a request: solver steps asked for",
    "stopping": "asked to end, and its songs save their state",
    "style": "in words",
    "style_audio": "clip whose style is taken",
    "swap": "in swap now (bytes)",
    "t": "how far the flow is, 0 to 1",
    "threads": "of the processor",
    "time_grid": "points of the flow that were walked",
    "timeout_s": "of this attempt (s)",
    "until_wall": "when the batch is to end (s since 1970); null: when all is made",
    "versions": "of the packages that make the sound",
    "wall": "when, for people (s since 1970)",
    "warnings": "about lyrics and model",
    "window": "of a long song (s); null: made at once",
    "windows": "that cover the song: first frame, end, frames known before",
    "workers": "songs at once",
}
OF_OUTCOME = {"song": "what song.json takes from it; empty where there is no song"}
# In the order in which they are written.
MANIFEST_KEYS = [
    "schema",
    "song",
    "state",
    "degraded",
    "file",
    "sha256",
    "demo",
    "seed",
    "fingerprint",
    "model_hash",
    "request",
    "attempts",
    "seconds",
    "peak_rss",
    "peak_swap",
    "model",
    "duration",
    "samples",
    "sample_rate",
    "time_grid",
    "windows",
    "passes",
    "phases",
    "sound_sha256",
    "checks",
    "latent_std",
    "warnings",
    "lines",
    "outline",
    "precision",
    "arithmetic",
    "decoder",
    "pass_s",
    "pass_flops",
    "versions",
    "runner",
    "machine",
    "finished",
]

FILES_OF_ALL = (
    ("batch.json", "who runs or ran last, and how every song stands"),
    (".lock", "held by the kernel while a batch runs, never stale"),
    (
        "report.html",
        "all songs on one page, with players; written anew at every end of a batch (`runner report`)",
    ),
    ("report-to-send.html", "the same with the sounds in it (`runner report --embed`)"),
    (
        "runner.log",
        "what happened, a line each; set aside at 1 MiB, three older ones are kept (`runner logs`)",
    ),
    ("cron.log", "what nights begun by cron had to say; empty when all was well"),
)
FILES_OF_A_SONG = (
    ("song.wav", "the song, by its format also song.flac, song.mp3 or song.ogg; put in place by one rename"),
    ("song.json", "the manifest: what was asked and made; written last, it is what makes a song done"),
    ("failed.json", "in its place where the song failed: cause, message and the attempts' outcomes"),
    ("heartbeat.json", "the newest word of the child, replaced at every step and every second"),
    ("stop", "its presence asks the runner to stop this song (`runner stop SONG`)"),
    ("attempts/N/request.json", "what attempt N was asked"),
    ("attempts/N/steps.jsonl", "a line for each step: how long it took, and what is left"),
    ("attempts/N/worker.log", "what the child has said (`runner logs`)"),
    ("attempts/N/checkpoint.safetensors", "the state after the newest step; gone once the song is made"),
    ("attempts/N/spectrogram.png", "a picture of the sound"),
    ("attempts/N/outcome.json", "how it ended; without one it was lost with its parent, and is not charged"),
)


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    for name, text in pages().items():
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    return files


def pages() -> dict[str, str]:
    """Markdown of each page of the reference by its name."""
    return {
        "cli": command_line(),
        "job-file": job_file(),
        "files": outputs(),
        "json": for_programs(),
        "exit-codes": exit_codes(),
        "causes": causes(),
    }


# ---------------------------------------------------------------- the command line


def command_line() -> str:
    top: Any = typer.main.get_command(cli.app)
    about = (
        "Data goes to stdout, everything else to stderr. What the codes mean: [exit codes](exit-codes.md)."
    )
    shown = [_command(name, command) for name, command in commands(top, "runner")]
    return "\n\n".join(["# Commands", f"{top.help} `runner --version` prints the version.", about, *shown])


def commands(group: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """Every command below a group of Typer's, by its full name."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{prefix} {name}")
        elif not command.hidden:
            yield f"{prefix} {name}", command


def _command(name: str, command: Any) -> str:
    context = typer.Context(command, info_name=name)
    usage = " ".join([name, *command.collect_usage_pieces(context)])
    example = (command.epilog or "").removeprefix("Example: ")
    rows = [_parameter(one, context) for one in command.get_params(context) if one.name != "help"]
    parts = [f"## {name}", _text(cleandoc(command.help or "")), f"```text\n{usage}\n```"]
    if rows:
        parts.append(_table(("option", "", "default"), rows))
    return "\n\n".join([*parts, f"Example: `{example}`"])


def _parameter(one: Any, context: typer.Context) -> tuple[str, str, str]:
    is_option = one.param_type_name == "option"
    names = ", ".join([*one.opts, *one.secondary_opts]) if is_option else one.make_metavar(context)
    takes = f" {_kind(one)}" if is_option and not one.is_flag else ""
    shown = "" if one.default in (None, False, ()) or one.required else f"`{one.default}`"
    return f"`{names}{takes}`", _text(one.help), shown


def _kind(one: Any) -> str:
    name: str = one.type.name
    return {"float": "NUMBER", "integer": "N", "integer range": "N"}.get(name, name.upper())


# ---------------------------------------------------------------- job files


def job_file() -> str:
    schema = spec.json_schema()
    parts = schema["definitions"]
    defaults, song = parts["Defaults"]["properties"], parts["SongSpec"]["properties"]
    own = {key: about for key, about in song.items() if key not in defaults}
    return "\n\n".join(
        [
            "# Job files",
            "YAML in UTF-8; unknown keys, keys given twice and tabs are errors, told with their line. Paths "
            "are relative to the file. Times are seconds or such as `40m`, `1h30m`; sizes such as `6G`. "
            "`runner check` reads a file without making anything, `runner schema` prints the JSON Schema "
            "that editors use.",
            "## Top of the file",
            _keys(schema["properties"], schema["required"]),
            "## A song's own",
            _keys(own, ()),
            "## Of a song, or of all in `defaults`",
            "A song's own key stands above an option of the command, that above `defaults`; with "
            "`--force-options` options stand above all.",
            _keys(defaults, ()),
            "## edit",
            _keys(parts["Edit"]["properties"], parts["Edit"]["required"]),
        ]
    )


def _keys(properties: dict[str, Any], required: Sequence[str]) -> str:
    rows = [
        (f"`{key}`", _text(about["description"]), "needed" if key in required else _default(about))
        for key, about in properties.items()
    ]
    return _table(("key", "", "default"), rows)


def _default(about: dict[str, Any]) -> str:
    default = about.get("default")
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return (
        ""
        if default is None or default == {}
        else f"`{default:g}`"
        if isinstance(default, float)
        else f"`{default}`"
    )


# ---------------------------------------------------------------- files under outputs/


def outputs() -> str:
    top = Outputs.__doc__ or ""
    rows = [(f"`{name}`", what) for name, what in FILES_OF_A_SONG]
    return "\n\n".join(
        [
            "# Files under outputs/",
            f"`{top}` holds a folder `<job>/<song>/` for every song, and:",
            _table(("file", ""), [(f"`{name}`", what) for name, what in FILES_OF_ALL]),
            "Of a song:",
            _table(("file", ""), rows),
            "JSON files are written whole, under another name first, and carry a `schema` number. A reader "
            "that meets a torn file, or one of a newer version, says so and leaves it alone. Times that end "
            "in `_mono` are of the machine's monotonic clock.",
            "## song.json",
            _table(("key", ""), [(f"`{key}`", MEANINGS.get(key, "")) for key in MANIFEST_KEYS]),
            "## heartbeat.json",
            _message(messages.Heartbeat),
            "## outcome.json",
            _message(messages.Outcome, OF_OUTCOME),
            "## request.json",
            _message(messages.SongRequest),
            "## batch.json",
            _message(messages.Batch),
        ]
    )


def _message(kind: type[Any], meanings: dict[str, str] | None = None) -> str:
    comments = dict(re.findall(r"^    (\w+): .*?  # (.+)$", getsource(kind), re.MULTILINE))
    known = {name: _text(comment) for name, comment in comments.items()} | MEANINGS | (meanings or {})
    about, _, details = _text(cleandoc(kind.__doc__ or "")).partition("\n\n")
    rows = [(f"`{one.name}`", f"`{_type(one)}`", known.get(one.name, "")) for one in fields(kind)]
    return "\n\n".join(part for part in (about, details, _table(("key", "type", ""), rows)) if part)


def _type(one: Field[Any]) -> str:
    return str(one.type).replace(" | ", " or ") + (
        "" if one.default is MISSING and one.default_factory is MISSING else " (may lack)"
    )


# ---------------------------------------------------------------- JSON for programs

TOLD_AT_THE_END = (
    ("schema", "version of this summary"),
    ("summary", "how it ended, in words"),
    ("exit_code", "of the batch, see [exit codes](exit-codes.md)"),
    ("problem", "why it could not begin, or what broke it; empty: nothing"),
    ("states", "how many songs are in each state"),
    ("started", "when, in local time with its zone; null: it did not begin"),
    ("seconds", "that it took; null: it did not begin"),
    ("outputs", "path of the outputs"),
    ("log", "path of runner.log"),
    ("report", "path of the page; null: there is none"),
    ("songs", "every song: song, state, file, why (it is not simply done), seconds"),
)
PLANNED = (
    ("schema", "version of this plan"),
    ("taken_wall", "when it was made (s since 1970)"),
    ("until_wall", "when the batch is to end; null: when all is made"),
    ("ends_wall", "when it is foreseen to"),
    ("workers", "songs at once"),
    ("made", "songs that are there already"),
    ("songs", "those that are not, in the order in which they begin"),
)
PLANNED_SONG = (
    ("song", "`<job>/<name>`"),
    ("state", "planned, begun (the next batch goes on with it) or left"),
    ("asked", "steps asked for"),
    ("steps", "steps it gets"),
    ("goes_on", "from a checkpoint"),
    ("tight", "it ends in time only if nothing takes longer than foreseen"),
    ("start_wall", "when it begins (s since 1970); null: it is left"),
    ("end_wall", "when it ends"),
    ("seconds", "that it takes"),
    ("margin", "by which that may be more, as a share"),
    ("measured_by", "songs made here that this rests on; 0: the machine's profile"),
)


def for_programs() -> str:
    """What commands print or hand on as JSON, where it is no file."""
    return "\n\n".join(
        [
            "# JSON for programs",
            "Every object has a `schema` number; keys are added, not taken away or given another meaning. Of "
            "files: [Files under outputs](files.md).",
            "## What --on-finish reads",
            _keys_of(TOLD_AT_THE_END),
            "## A plan",
            "`runner batch … --plan --json`:",
            _keys_of(PLANNED),
            "and of each song:",
            _keys_of(PLANNED_SONG),
        ]
    )


def _keys_of(rows: Sequence[tuple[str, str]]) -> str:
    return _table(("key", ""), [(f"`{key}`", what) for key, what in rows])


# ---------------------------------------------------------------- ends


def exit_codes() -> str:
    usage, locked = errors.UsageError.exit_code, errors.LockedError.exit_code
    rows = [
        (
            "0",
            "every song is there, degraded ones included; with `--until` also: its time was over",
            "fine; `doctor`: tonight will work",
        ),
        (
            str(errors.RunnerError.exit_code),
            "one failed, was stopped or found no room; with `--strict` also one that is degraded or left",
            "a problem was found, or there is nothing such",
        ),
        (str(usage), "a job file or an option is wrong; nothing was started", "the same"),
        (str(locked), "another batch holds the outputs; nothing was started", ""),
        (
            "129, 130, 143",
            "after SIGHUP, Ctrl-C, SIGTERM: the songs are stopped, the same command goes on",
            "the same",
        ),
    ]
    return "\n\n".join(["# Exit codes", _table(("code", "`batch`, `sing`", "other commands"), rows), _tree()])


def _tree() -> str:
    lines = cleandoc(errors.__doc__ or "").splitlines()
    tree = [line for line in lines if line.startswith("    ")]
    return "\n".join(["The errors behind them, in the code:", "", *tree])


def causes() -> str:
    """Every cause an attempt can end with, and the comments that the code has on them."""
    text = getsource(messages)
    block = text[text.index("Cause = Literal[") : text.index("MEMORY_CAUSES:")]
    said = dict(re.findall(r'^    "([\w-]+)",(?:  # (.+))?$', block, re.MULTILINE))
    rows = [
        (f"`{cause}`", said.get(cause, "") or WORDS.get(cause, ""), _then(cause))
        for cause in get_args(messages.Cause)
    ]
    intro = (
        "Every attempt ends with a song or with one of these, in its `outcome.json`, in `runner status` and "
        "in `song.json`."
    )
    return "\n\n".join(["# Why an attempt ended", intro, _table(("cause", "", "what comes next"), rows)])


WORDS = {
    "swap-thrash": "the machine moved pages in and out of memory instead of computing",
    "memory-ceiling": "more memory than the song may use",
    "no-disk": "the disk is full",
    "bad-input": "lyrics, style or sound that cannot be used",
    "no-bundle": "the model is not here, or damaged",
}


def _then(cause: messages.Cause) -> str:
    if cause in messages.FREE_CAUSES:
        return "not charged; the same command goes on with as many steps"
    if cause in messages.MEMORY_CAUSES:
        return "on with half the steps in less memory, once it is free; counted by itself"
    return {
        "timeout": "on from the newest checkpoint with half the steps",
        "stalled": "on from the newest checkpoint with half the steps",
        "numbers": "on from the newest finite checkpoint in safer arithmetic",
        "crash": "once more as it was, then with half the steps",
        "no-disk": "room is waited for",
    }.get(cause, "the song fails at once: trying again would not help")


def _text(text: str | None) -> str:
    """What the code says, as Markdown that shows it as it is."""
    return re.sub(r"(`[^`]*`)|([<*_])", lambda found: found[1] or f"&#{ord(found[2])};", text or "")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |" for line in lines)
