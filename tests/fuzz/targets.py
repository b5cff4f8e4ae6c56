"""Every reader of what a user, a disk or another program may have spoilt: how its bad input is made, how it
is read, and which errors it may answer with.

make(place, rng) writes one input into an empty folder; without rng, a good one. read(place) reads it as the
programs do and gives anything; the harness (play.py) holds the laws.
"""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from runner.errors import ForeignFileError, RunnerError, SpecError
from runner.jobfile import Defaults
from tests.fuzz import corpus

if TYPE_CHECKING:
    from runner.songfolder import SongFolder
    from runner.supervise import Job

ROOT = Path(__file__).parents[2]
# Of other people's, where they are at hand; never a part of the project.
MORE_LYRICS = ROOT.parent / "shared" / "upstream-data" / "lrc"

Mutator = Callable[[bytes, Random, Sequence[bytes]], bytes]


@dataclass(frozen=True, slots=True)
class Target:
    """errors: what may be raised, and nothing else. share: of a thousand inputs of all."""

    make: Callable[[Path, Random | None], None]
    read: Callable[[Path], object]
    errors: tuple[type[Exception], ...]
    share: int


def _put(path: Path, good: Sequence[bytes], rng: Random | None, mutator: Mutator = corpus.mutate) -> None:
    """One of the good contents at path, spoilt where there is chance; now and then no file at all."""
    if rng is None:
        path.write_bytes(good[0])
    elif rng.random() < 0.04:
        corpus.put_odd(path, rng)
    else:
        path.write_bytes(mutator(rng.choice(good), rng, good))


def _either(one: Mutator, other: Mutator = corpus.mutate) -> Mutator:
    return lambda data, rng, others: (one if rng.random() < 0.6 else other)(data, rng, others)


# ---------------------------------------------------------------- job files and options


@cache
def _jobs() -> list[bytes]:
    mine = [path.read_bytes() for path in sorted((ROOT / "jobs").glob("*.yaml"))]
    return [_ALL_KEYS, *mine]


_ALL_KEYS = b"""\
model: demo
defaults: {style: "pop, warm piano", timeout: 40m, attempts: 4, steps: 8, window: none, deadline: 2h}
songs:
  - name: rain
    lyrics: song.lrc
    duration: 95
    seed: 7
    takes: 2
    loudness: -14.0
    memory: 6G
  - {name: block, style_audio: clip.wav, stall: 90s, threads: 2, nice: 19, resume: false, bits: 24,
     cfg: 4.0, sampler: euler, language: zh, lyrics_compat: published, precision: int8, format: flac}
  - name: edit
    preset: high
    edit: {source: clip.wav, spans: [[1, 2.5], [5, -1]]}
    foresight: false
    lyrics: |
      [00:01.00]low tide
      [00:02.00]high tide
"""
_SETTINGS = sorted(Defaults.model_fields)


def _make_job(place: Path, rng: Random | None) -> None:
    place.joinpath("clip.wav").write_bytes(b"RIFF")
    job = place / "night.yaml"
    if rng is not None and rng.random() < 0.1:
        name = rng.choice(corpus.TEXTS).replace("\0", "").replace("/", "")[:60]
        job = place / f"{name.encode(errors='ignore').decode()}.yaml"
    lyrics = place / "song.lrc"
    _put(lyrics, _lyrics(), rng if rng and rng.random() < 0.2 else None)
    _put(job, _jobs(), rng, _either(_mutate_job))


def _mutate_job(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    """A job of other values: JSON is YAML, too."""
    import yaml

    return corpus.mutate_json(json.dumps(yaml.safe_load(data)).encode(), rng, others)


def _read_job(place: Path) -> object:
    from runner.spec import load

    songs = load(sorted(place.glob("*.yaml")) or [place / "night.yaml"])
    return _asked(songs, place)


def _make_options(place: Path, rng: Random | None) -> None:
    settings: dict[str, object] = {"lyrics": "[00:01.00]low tide", "style": "pop", "name": "rain"}
    for _ in range(rng.choice((1, 1, 2, 5)) if rng else 0):
        assert rng is not None
        settings[rng.choice([*_SETTINGS, "lyrics", "name"])] = _option(rng)
    place.joinpath("options.json").write_text(json.dumps(settings))


def _option(rng: Random) -> object:
    number = rng.choice(corpus.NUMBERS).decode()[:4000]
    kind = rng.randrange(4)
    if kind == 0:
        return number + rng.choice(("", "s", "h", "m", "G", "K", "Ti"))
    if kind == 1:
        return rng.choice((-1, 0, 1, 2**53, 2**63, 10**400, -(10**400)))
    if kind == 2:
        return rng.choice((float("nan"), float("inf"), -0.0, 1e308, 5e-324, 95.0))
    return rng.choice(corpus.TEXTS)


def _read_options(place: Path) -> object:
    from runner.spec import Overrides, load, single

    settings = json.loads(place.joinpath("options.json").read_bytes())
    place.joinpath("night.yaml").write_bytes(_jobs()[1].replace(b"lyrics/", b"../"))
    try:
        load([place / "night.yaml"], Overrides({k: settings[k] for k in settings if k in _SETTINGS}))
    except SpecError as error:
        _lawful(error)
    return _asked([single(settings, model=str(settings.get("sampler", "demo")))], place)


def _asked(songs: Sequence[Any], place: Path) -> list[object]:
    """What is asked of the check child, and the songs' fingerprints."""
    from runner import check, manifest
    from runner.files import read_message, write_message
    from runner.messages import Check, SongAnswer

    paper = place / "check.json"
    write_message(paper, Check([check._question(song, lines=True) for song in songs], []), durable=False)
    assert read_message(paper, Check).questions == [check._question(song, lines=True) for song in songs]
    return [manifest.fingerprint(song, SongAnswer(song.id, [], [])) for song in songs[:5]]


# ---------------------------------------------------------------- lyrics


@cache
def _lyrics() -> list[bytes]:
    paths = [*sorted((ROOT / "jobs" / "lyrics").glob("*.lrc")), *sorted(MORE_LYRICS.glob("*.lrc"))]
    return [_LYRICS.encode(), *(path.read_bytes() for path in paths)]


_LYRICS = """\
[ti:Tide]
[offset:+250]
[00:01.00]low tide along the 3rd harbour
[verse]
[00:04.5][00:08.50]月光落在 2024 年的窗前
[00:12.34]<00:12.34>one <00:12.90>two
"""


def _make_lyrics(place: Path, rng: Random | None) -> None:
    content = corpus.mutate(rng.choice(_lyrics()), rng, _lyrics()) if rng else _lyrics()[0]
    place.joinpath("song.lrc").write_bytes(content)
    place.joinpath("way").write_text(str(rng.randrange(2**16) if rng else 0))


def _read_lyrics(place: Path) -> object:
    from diffrhythm.lyrics import parse_lrc

    content = place.joinpath("song.lrc").read_bytes()
    way = int(place.joinpath("way").read_text())
    return parse_lrc(content, source=str(place / "song.lrc"), published=way % 3 == 1)


def _read_sung(place: Path) -> object:
    from diffrhythm.lyrics import align
    from diffrhythm.phonemes import Inventory

    lyrics: Any = _read_lyrics(place)
    way = int(place.joinpath("way").read_text())
    aligned = align(
        lyrics.lines[:6],
        Inventory.demo(),
        frames=(None, 0, 1, 430, 2048)[way % 5],
        max_secs=(None, 0.0, 20.0)[way % 3],
        language=("auto", "en", "zh")[way % 3],  # type: ignore[arg-type]
        published=way % 4 == 1,
        syllable_frames=(None, 1, 5)[way % 3] if way % 4 != 1 else None,
    )
    return [*lyrics.warnings, *aligned.warnings]


# ---------------------------------------------------------------- state files


@cache
def _outputs() -> dict[str, bytes]:
    """The files of a night under outputs/, by their names, written as the programs write them."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        _write_night(Path(folder))
        paths = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def _write_night(folder: Path) -> None:
    from runner import heartbeat, manifest
    from runner.files import write_message
    from runner.messages import Outcome, QueuedSong, SongAnswer
    from runner.songfolder import Outputs
    from tests.runner import folders

    outputs = Outputs(folder)
    rain, done, failed, old = (
        outputs.song(id) for id in ("night/rain", "night/done", "night/bad", "day/old")
    )
    entries = [
        QueuedSong("night/rain", "running", attempt=2, attempts=1),
        QueuedSong("night/done", "done", file="song.wav", seconds=3.5),
        QueuedSong("night/bad", "failed", note="too slow"),
        QueuedSong("night/next", "queued"),
    ]
    folders.write_batch(outputs, entries)
    folders.add_attempt(rain, "timeout", "40 minutes are over")
    attempt = folders.add_attempt(rain, checkpoint="/nowhere/checkpoint.safetensors")
    attempt.steps.write_text("".join(json.dumps({"step": n, "t": n / 32}) + "\n" for n in range(1, 9)))
    attempt.log.write_text("what the child said\n")
    attempt.checkpoint.write_bytes(b"steps")
    now = folders.beat_of(folders.me(), attempt=2)
    write_message(rain.heartbeat, replace(now, progress_mono=now.progress_mono - 4000, phase="sample"))
    assert not isinstance(heartbeat.read(rain.heartbeat), heartbeat.NoBeat)
    for song in (done, old):
        made = folders.add_attempt(song)
        sound = song.audio("wav")
        sound.write_bytes(b"RIFF")
        told = {"degraded": None, "precision": "fp32", "duration": 95.0}
        told |= {"decoder": {"speed": 9.5, "around_s": 1.5}, "pass_s": 2.0, "pass_flops": 10**9}
        told |= {"passes": 24, "phases": {"decode": 3.0, "write": 1.0}}
        outcome = Outcome(1, None, "made", elapsed_s=60.0, density=32, song=told)
        write_message(made.outcome, outcome)
        answer = SongAnswer(song.id, [], [], model_hash="m")
        manifest.write(song, folders.REQUEST, answer, [outcome], sound)
    folders.add_attempt(failed, "no-disk", "the disk is full")
    folders.add_attempt(failed)
    folders.write_failure(failed, "too slow")


def _make_night(place: Path, rng: Random | None) -> None:
    """A night with one to three of its files spoilt, by mere bytes or as JSON."""
    night = _outputs()
    _write(place / "outputs", night)
    if rng is None:
        return
    for name in rng.sample(sorted(night), rng.choice((1, 1, 2, 3))):
        path = place / "outputs" / name
        if rng.random() < 0.08:
            corpus.put_odd(path, rng)
        else:
            path.write_bytes(_either(corpus.mutate_json)(night[name], rng, list(night.values())))
    if rng.random() < 0.08:
        _misplace(place / "outputs", rng)


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        folder.joinpath(name).parent.mkdir(parents=True, exist_ok=True)
        folder.joinpath(name).write_bytes(content)


def _misplace(outputs: Path, rng: Random) -> None:
    """A folder that is none, or one more with a name that nobody gave it."""
    folder = rng.choice(("night/rain/attempts/1/", "night/rain/", "night/"))
    if rng.random() < 0.3:
        shutil.rmtree(outputs / folder)
        corpus.put_odd(outputs / folder, rng)
        return
    names = (
        b"9" * 200,
        b"007",
        "٣".encode(),
        b"\xff\xfe",
        b"a\nb\x1b[2J",
        b"0",
        "1²".encode(),
        b"-1",
        b"3.5",
    )
    beside = outputs / folder / ".." / os.fsdecode(rng.choice(names))
    night = _outputs()
    _write(beside, {name.removeprefix(folder): night[name] for name in night if name.startswith(folder)})


def _read_status(place: Path) -> object:
    from rich.console import Console

    from runner import logs, status, view, words
    from runner.songfolder import Outputs

    outputs = Outputs(place / "outputs")
    now = status.look(outputs)
    again = status.look(outputs, earlier=False, before=now)
    json.dumps(status.as_json(now), allow_nan=False)
    screen = io.StringIO()
    out = Console(file=screen, width=100, highlight=False, markup=False, emoji=False)
    for unicode in (True, False):
        out.print(view.render(now, 100, unicode=unicode))
        out.print(view.render(again, 60, unicode=unicode, height=8))
        out.print(view.final_table(now, unicode=unicode))
        for row in now.rows[:8]:
            tries = status.tries(outputs.song(row.song), row)
            out.print(view.detail(row, tries, 60, unicode=unicode))
    lines = [words.shown(line, True) for line in (*words.plain(None, now), *words.plain(now, again))]
    for song in outputs.songs()[:8]:
        for attempt in song.attempts()[-1:]:
            try:
                read = list(logs.read(song, attempt, running=lambda: False))
            except RunnerError as error:
                _lawful(error)
            else:
                assert read[0] is attempt
    return [*screen.getvalue().splitlines(), *lines]


def _read_past(place: Path) -> object:
    from runner import batch, foresight, manifest, outlook, past, verdict
    from runner.batch import Options
    from runner.songfolder import Outputs
    from runner.until import Until, clocks
    from tests.faults.batches import job
    from tests.runner.folders import REQUEST

    outputs = Outputs(place / "outputs")
    plan = verdict.Plan(density=32, precision="bf16", chunk_frames=128, threads=1)
    found: list[object] = [batch._epoch(outputs)]
    decoders = past.shown(outputs)
    found.append(foresight.decoder_of_nearest(decoders, model_hash="m", precision="fp32", duration=95.0))
    for song in outputs.songs():
        found.append(manifest.finished(song, REQUEST.fingerprint))
        then = past.recall(song, REQUEST.fingerprint)
        found.append(sum(o.elapsed_s for o in then.outcomes))
        next = verdict.next_attempt(
            plan, then.ends, attempts=4, checkpoint_t=then.checkpoint_t, out_of_time=False
        )
        found.append(next)
    answer = replace(job("").answer, model_hash="m", precision="fp32", passes=2, pass_flops=10**9)
    jobs = [
        replace(each, fingerprint=REQUEST.fingerprint, answer=answer) for each in map(_named, outputs.songs())
    ]
    wall, boot = clocks()
    for end in (None, Until(wall + 3600.0, boot + 3600.0)):
        seen = batch.foresee(jobs, outputs, Options(workers=1, until=end))
        found += [*outlook.table(seen), json.dumps(outlook.as_json(seen), allow_nan=False)]
    return found


def _named(folder: SongFolder) -> Job:
    from tests.faults.batches import job

    made = job("", name=folder.folder.name)
    return replace(made, song=replace(made.song, job=folder.folder.parent.name))


_KINDS = ("request.json", "outcome.json", "heartbeat.json", "batch.json")


def _make_message(place: Path, rng: Random | None) -> None:
    kind = rng.choice(_KINDS) if rng else _KINDS[2]
    good = [content for name, content in _outputs().items() if name.endswith(kind)]
    _put(place / kind, good, rng, _either(corpus.mutate_json))


def _read_message(place: Path) -> object:
    from runner import heartbeat
    from runner.files import read_json, read_message
    from runner.messages import Batch, Heartbeat, Outcome, SongRequest

    (path,) = place.iterdir()
    beat = heartbeat.read(path)
    if isinstance(beat, heartbeat.NoBeat):
        _printable(beat.reason)
    else:
        heartbeat.sender_lives(beat)
    kinds: dict[str, Any] = dict(zip(_KINDS, (SongRequest, Outcome, Heartbeat, Batch), strict=True))
    read_json(path)
    return read_message(path, kinds[path.name])


# ---------------------------------------------------------------- the model's files


@cache
def _checkpoints() -> list[bytes]:
    import tempfile

    import torch

    from diffrhythm.sampling import Before, State, save_state

    x, grid = torch.randn(1, 4, 64), (0.0, 0.25, 0.5, 1.0)
    state = State(x, x * 0.5, 1, grid, grid, "hash", passes=2)
    later = replace(state, before=Before(x + 2, 2, (grid,), 6), later=(3, 2), memory={"v": x + 1})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "checkpoint")
        found = []
        for each in (state, later):
            save_state(path, each)
            found.append(path.read_bytes())
        return found


def _make_checkpoint(place: Path, rng: Random | None) -> None:
    _put(place / "checkpoint.safetensors", _checkpoints(), rng, corpus.mutate_safetensors)


def _read_checkpoint(place: Path) -> object:
    from diffrhythm.sampling import load_state, passes_left

    state = load_state(place / "checkpoint.safetensors")
    states = [state, state.thinned(1), state.thinned(2.5), state.spread(0), state.spread(2)]
    for each in states:
        _ = (each.t, each.reached, each.walked, each.step, each.steps, each.density, each.window)
        passes_left(each, cfg=4.0, sampler="euler")
    _ = state.latent_std, state.estimate()
    state.joined(state.x_t)
    return state


def _demo() -> Path:
    from diffrhythm.bundle import DEMO

    return DEMO


CALIBRATION = "calibration.safetensors"
_BUNDLE_FILES = ("bundle.json", "phonemes.json", "negative_style.npy", "style.safetensors", "dit.safetensors")


def _make_bundle(place: Path, rng: Random | None) -> None:
    """The demo with one of its files spoilt; its description fitted to that, more often than not."""
    folder = place / "bundle"
    folder.mkdir()
    for path in _demo().iterdir():
        shutil.copy(path, folder)
    if rng is None:
        return
    name = rng.choice(
        (*_BUNDLE_FILES, "bundle.json", "vae.safetensors", "tuning.json", CALIBRATION, "packed")
    )
    path = folder / ("dit.safetensors" if name == "packed" else name)
    made = {"tuning.json": _tuning, CALIBRATION: _calibration, "packed": _packed}
    good = [made[name]() if name in made else path.read_bytes()]
    path.unlink(missing_ok=True)
    mutator = corpus.mutate_safetensors if path.suffix == ".safetensors" else _either(corpus.mutate_json)
    _put(path, good, rng, corpus.mutate if path.suffix == ".npy" else mutator)
    told = name not in ("bundle.json", "tuning.json", CALIBRATION) and path.is_file()
    if told and path.stat().st_size < 2**30 and rng.random() < 0.9:
        about = json.loads(_demo().joinpath("bundle.json").read_bytes())
        about["files"][path.name]["bytes"] = path.stat().st_size
        folder.joinpath("bundle.json").unlink()
        folder.joinpath("bundle.json").write_text(json.dumps(about))


@cache
def _packed() -> bytes:
    """A packed transformer that is no transformer: small, read through to its unpacking."""
    import torch
    from safetensors.torch import save

    from diffrhythm import packed

    return save(packed.pack({"a": torch.randn(64, 64), "b": torch.randn(4), "c": torch.randn(64, 80)}))


@cache
def _tuning() -> bytes:
    from diffrhythm.bundle import load
    from diffrhythm.tuning import Grid, Lowered, Tuning

    grid = Grid(points=[0.0, 0.25, 1.0], error=0.1, swayed_error=0.2)
    tuning = Tuning(
        model=load("demo").hash,
        precision="fp32",
        cfg=2.0,
        songs=1,
        reference_steps=64,
        grids=[grid],
        int8=Lowered(error=0.1, of_steps=0.3),
    )
    return tuning.model_dump_json(by_alias=True).encode()


@cache
def _calibration() -> bytes:
    from diffrhythm import calibration_file, smoothquant
    from diffrhythm.bundle import load

    demo = load("demo")
    crude = smoothquant.crude(demo.open_transformer())
    evidence = calibration_file.Evidence(
        model=demo.hash,
        songs=1,
        frames=256,
        times=[0.0, 0.5],
        error=0.01,
        dynamic_error=0.01,
        static_error=0.02,
        linears={name: {"static": 0.001} for name in crude.forms},
        forms=dict(crude.forms),
    )
    return calibration_file.content(crude.inputs, evidence)


def _read_bundle(place: Path) -> object:
    from diffrhythm import bundle, calibration_file, tuning

    here = bundle.load(place / "bundle")
    found = tuning.found(here)
    if found is not None:
        _ = found.grid(2, 2.0), found.int8_is_harmless(8)
    static = calibration_file.found(here)
    if static is not None:
        _ = static.serves, static.digest
    _ = here.longest, here.fitting_duration(20.0), here.inventory, here.negative_style
    here.words.embed_text("warm piano")
    here.open_transformer()
    here.open_vae()
    return here


@cache
def _published() -> dict[str, list[bytes]]:
    """Small published files, made by the helpers of the model's own tests."""
    import sys
    import tempfile

    sys.path.insert(0, str(ROOT / "tests" / "diffrhythm"))  # as pytest has it
    import published_files

    with tempfile.TemporaryDirectory() as folder:
        files = published_files.make(Path(folder))
        return {
            "cfm_model.pt": [files.transformer.read_bytes()],
            "vae_model.pt": [files.vae.read_bytes()],
        }


def _make_published(place: Path, rng: Random | None) -> None:
    name = rng.choice(sorted(_published())) if rng else "cfm_model.pt"
    _put(place / name, _published()[name], rng)


def _read_published(place: Path) -> object:
    import published_files

    from diffrhythm import convert, torchscript

    (path,) = place.iterdir()
    if path.name == "vae_model.pt":
        return torchscript.load(path)
    return convert.checked_shapes(path, published_files.CONFIG)


@cache
def _sounds() -> dict[str, bytes]:
    """Eleven seconds of sound in every format that is read."""
    import numpy as np
    import soundfile

    tone = (0.3 * np.sin(np.arange(11 * 8000) / 20)).astype(np.float32)
    found = {}
    for name, channels, subtype in (
        ("a.wav", 1, "PCM_16"),
        ("b.wav", 2, "FLOAT"),
        ("c.flac", 2, "PCM_16"),
        ("d.ogg", 1, "VORBIS"),
        ("e.mp3", 1, "MPEG_LAYER_III"),
        ("f.wav", 1, "MS_ADPCM"),
        ("g.aiff", 1, "PCM_16"),
        ("h.w64", 1, "PCM_16"),
    ):
        file = io.BytesIO()
        kind = name.rpartition(".")[2].upper()
        soundfile.write(file, np.tile(tone[:, None], (1, channels)), 8000, format=kind, subtype=subtype)
        found[name] = file.getvalue()
    return found


def _make_sound(place: Path, rng: Random | None) -> None:
    name = rng.choice(sorted(_sounds())) if rng else "a.wav"
    path = place / name
    if rng is not None and rng.random() < 0.05:
        path = place / rng.choice(("x.raw", "x.mp3", "x", "\udcff.wav", "a\nb\x1b[2J.flac", "x.sd2", "x.wav"))
    _put(path, [_sounds()[name], *_sounds().values()][: 1 if rng is None or rng.random() < 0.8 else 9], rng)


def _read_sound(place: Path) -> object:
    from diffrhythm import audio
    from diffrhythm.errors import AudioError

    (path,) = place.iterdir()
    for read in (audio.read, audio.verify):
        try:
            read(path)
        except AudioError as error:
            _lawful(error)
    return audio.read_middle(path)


# ---------------------------------------------------------------- laws


# A path has at most 4096 bytes; what is said of it is a sentence or two.
LONGEST_LINE = 6000


def _lawful(error: Exception) -> None:
    """Raises AssertionError unless the message is one line a problem, bounded and printable."""
    text = str(error)
    lines = text.split("\n")
    if isinstance(error, SpecError):
        assert len(lines) == len(error.problems), f"{len(error.problems)} problems on {len(lines)} lines"
    elif type(error).__name__ != "LyricsError":
        assert len(lines) == 1, f"one problem on {len(lines)} lines: {text[:300]!r}"
    for line in lines:
        _printable(line)


def _printable(line: str) -> None:
    assert line.isprintable(), f"not printable: {line[:300]!r}"
    assert len(line) <= LONGEST_LINE, f"a line of {len(line)} characters: {line[:200]!r}"


lawful, printable = _lawful, _printable


def _errors(*names: str) -> tuple[type[Exception], ...]:
    from diffrhythm import errors

    return tuple(getattr(errors, name) for name in names)


def targets() -> dict[str, Target]:
    """All of them, by name."""
    return {
        "job": Target(_make_job, _read_job, (SpecError,), 80),
        "options": Target(_make_options, _read_options, (SpecError,), 120),
        "lyrics": Target(_make_lyrics, _read_lyrics, _errors("LyricsError"), 280),
        "sung": Target(_make_lyrics, _read_sung, _errors("LyricsError"), 20),
        "message": Target(_make_message, _read_message, (ForeignFileError, OSError), 280),
        "status": Target(_make_night, _read_status, (), 20),
        "past": Target(_make_night, _read_past, (), 60),
        "checkpoint": Target(_make_checkpoint, _read_checkpoint, _errors("CheckpointError"), 100),
        "bundle": Target(_make_bundle, _read_bundle, _errors("BundleError"), 10),
        "published": Target(_make_published, _read_published, _errors("BundleError"), 5),
        "sound": Target(_make_sound, _read_sound, _errors("AudioError"), 25),
    }


def warnings_of(value: object) -> Iterable[str]:
    """The lines for people among what a reader gave."""
    if isinstance(value, list):
        return [each for each in value if isinstance(each, str)]
    return list(getattr(value, "warnings", ()))
