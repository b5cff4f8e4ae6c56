"""What a model trained on the songs by program has learnt: does it sing, the words asked for, in their style?

Example: python -m benchmarks.listening --model demo --songs 20 --guidance 1,2,3,4,5 --json listening.json

Songs of 20 s with lyrics, style prompts and seeds that training never saw, and the measures of
training/listening.py on each. The same measures on the songs by program that the lyrics come from, on what
the model's autoencoder makes of these, and on their bands alone show how far each measure reaches, and what
it says where there is no voice.

Guidance is on the usual scale, 1 for none: v = q + g (p − q). The published scale, which `cfg` has, is
g − 1.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks import machine
from diffrhythm import audio, bundle, vae
from diffrhythm.bundle import Bundle
from diffrhythm.generate import generate
from diffrhythm.lyrics import Alignment
from diffrhythm.phonemes import segments
from diffrhythm.vae_config import HOP, LATENT_CHANNELS, SAMPLE_RATE
from training import listening, text
from training.listening import Ears, Floats, Sound
from training.songs import Song, compose
from training.styles import STYLES, SYLLABLE_FRAMES

FRAMES = 432
DURATION_S = FRAMES * HOP / SAMPLE_RATE
FEWEST_LINES = 3
OTHERS = 4
# Songs by program of each style that the ear is taught with, and their frames.
TAUGHT_SONGS = 10
TAUGHT_FRAMES = 216
# Songs that are made without lyrics as well, to see that the voice comes of them.
INSTRUMENTALS = 10
# Far from the seeds of songs that training or its tests compose.
FIRST_SEED = 7000
DISTANCES = {
    "log-mel, dB": listening.mel_distance,
    "spectra, dB": listening.spectral_distance,
    "SI-SDR, dB": listening.si_sdr,
}


@dataclass(frozen=True, slots=True)
class Task:
    """A song to make: lyrics of a song by program, a prompt for its style.

    voices: what its lines are compared with, theirs first: see listening.renditions.
    """

    name: str
    song: Song
    lyrics: str
    prompt: str
    seed: int
    voices: Floats


@dataclass(frozen=True, slots=True)
class Way:
    """How songs are made. guidance: on the usual scale."""

    guidance: float
    steps: int
    sampler: str

    @property
    def cfg(self) -> float:
        return self.guidance - 1


@dataclass(frozen=True, slots=True)
class Heard:
    """What is measured on one song.

    heard: the style it sounds like. pairs: the share of pairs of own and other line in which the own is
    nearer. own: the share of lines that are nearest to their own words. vowels, consonants: the shares that
    are heard as what they should be. rise: dB of the voice's band in lines over gaps; rise_without: of the
    instrumental, where there is one. seconds: that the song took.
    """

    name: str
    style: str
    language: str
    heard: str
    lines: int
    pairs: float
    own: float
    vowels: float
    consonants: float
    rise: float
    rise_without: float | None
    seconds: float | None


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="demo", help="demo, or the folder of a bundle")
    parser.add_argument("--songs", type=int, default=20, help="the styles in turn")
    parser.add_argument("--guidance", type=_numbers, default=(3.0,), help="usual scale, e.g. 1,2,3")
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--sampler", default="euler")
    parser.add_argument("--json", type=Path, help="file for every song's measures")
    parser.add_argument("--save", type=Path, help="folder for the songs")
    asked = parser.parse_args()
    model = bundle.load(asked.model)
    refuse_unheld(model)
    machine.header(
        f"Listening to {model.name} ({model.hash[:12]}): {asked.songs} songs of {DURATION_S:.1f} s"
    )
    ears = listening.teach(TAUGHT_SONGS, TAUGHT_FRAMES, partial(round_trips, model))
    tasks = [task(number) for number in range(asked.songs)]
    returned = round_trips(model, [each.song.audio for each in tasks])
    rows = dict(by_program(tasks, returned, ears))
    for guidance in asked.guidance:
        way = Way(guidance, asked.steps, asked.sampler)
        folder = asked.save / f"guidance-{guidance:g}" if asked.save else None
        rows[f"model, guidance {guidance:g} (cfg {way.cfg:g})"] = [
            listen(model, each, way, ears, folder, has_instrumental=i < INSTRUMENTALS)
            for i, each in enumerate(tasks)
        ]
    distances = compared(tasks, returned)
    print(f"\n{asked.steps} steps, {asked.sampler}", table_of_songs(rows), by_language(rows), sep="\n\n")
    print(misheard(rows), table_of_distances(distances), sep="\n\n")
    if asked.json:
        write(asked.json, model, vars(asked), rows, distances)


def refuse_unheld(model: Bundle) -> None:
    if model.about.syllable_frames != SYLLABLE_FRAMES:
        raise SystemExit(
            f"{model.name} does not hold vowels for {SYLLABLE_FRAMES} frames: {model.folder}; "
            "give a bundle that was trained on the songs by program"
        )


# ---------------------------------------------------------------- what is made


def task(number: int) -> Task:
    """The song of this number, its style the next in turn."""
    style = sorted(STYLES)[number % len(STYLES)]
    seed = FIRST_SEED + 100 * number
    song = next(
        found
        for attempt in range(100)
        if len((found := compose(seed + attempt, style, "heldout", FRAMES)).alignment.placed) >= FEWEST_LINES
    )
    return Task(
        name=f"{number:02}-{style}",
        song=song,
        lyrics=lrc(song.alignment),
        prompt=text.prompt(style, np.random.default_rng(seed), "heldout"),
        seed=seed,
        voices=listening.renditions(song.alignment, style, seed=seed + 50, others=OTHERS),
    )


def lrc(alignment: Alignment) -> str:
    """The lines as a user writes them; hundredths of seconds tell frames of 46 ms."""
    return "\n".join(
        f"[{int(line.seconds) // 60:02}:{line.seconds % 60:05.2f}]{line.text}"
        for line in (each.line for each in alignment.placed)
    )


def listen(
    model: Bundle, each: Task, way: Way, ears: Ears, folder: Path | None, *, has_instrumental: bool
) -> Heard:
    """The task's song, made and measured; kept in the folder."""
    began = time.monotonic()
    made = sing(model, each, way, each.lyrics)
    seconds = time.monotonic() - began
    without = sing(model, each, way, None) if has_instrumental else None
    if folder:
        keep(folder, each, made, without)
    heard = measured(each, made, without, ears, seconds)
    print(
        f"guidance {way.guidance:g} {each.name}: {seconds:.1f} s, {heard.own:.0%} of its lines, "
        f"{heard.vowels:.0%} of its vowels, {heard.rise:+.1f} dB, "
        f"heard as {heard.heard} from {each.prompt!r}",
        flush=True,
    )
    return heard


def sing(model: Bundle, each: Task, way: Way, lyrics: str | None) -> Sound:
    """The task's song with these lyrics, or as an instrumental."""
    return generate(
        model,
        lyrics=lyrics,
        style=each.prompt,
        duration=DURATION_S,
        seed=each.seed,
        steps=way.steps,
        cfg=way.cfg,
        sampler=way.sampler,
    ).audio


def keep(folder: Path, each: Task, made: Sound, without: Sound | None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    audio.write(folder / f"{each.name}.flac", made, "flac")
    (folder / f"{each.name}.lrc").write_text(f"[re:{each.prompt}]\n{each.lyrics}\n", encoding="utf-8")
    if without is not None:
        audio.write(folder / f"{each.name}-without-lyrics.flac", without, "flac")


def round_trips(model: Bundle, sounds: Sequence[Sound]) -> list[Sound]:
    """Sounds [2, n] through the model's autoencoder, by the means of their latents."""
    autoencoder = model.open_vae()
    returned = []
    for sound in sounds:
        with torch.inference_mode():
            moments = vae.encode(torch.from_numpy(sound)[None], autoencoder.encoder)
            decoded = vae.decode(moments[..., :LATENT_CHANNELS], autoencoder.decoder)
        returned.append(decoded[0].numpy())
    return returned


# ---------------------------------------------------------------- what is measured


def by_program(
    tasks: Sequence[Task], returned: Sequence[Sound], ears: Ears
) -> Iterable[tuple[str, list[Heard]]]:
    """What the measures say of songs whose truth is known, each under its row's name."""
    yield (
        "program",
        [measured(each, each.song.audio, each.song.audio - each.song.voice, ears) for each in tasks],
    )
    yield (
        "program, through the autoencoder",
        [measured(each, sound, None, ears) for each, sound in zip(tasks, returned, strict=True)],
    )
    yield (
        "program, its band alone",
        [measured(each, each.song.audio - each.song.voice, None, ears) for each in tasks],
    )


def measured(
    each: Task, made: Sound, without: Sound | None, ears: Ears, seconds: float | None = None
) -> Heard:
    alignment = each.song.alignment
    distances = listening.line_distances(made, alignment, each.voices)
    phones = ears.phones(made, alignment)
    return Heard(
        name=each.name,
        style=each.song.style,
        language=segments(alignment.placed[0].line.text)[0][1],
        heard=ears.style(made),
        lines=len(distances),
        pairs=listening.own_nearer(distances),
        own=listening.own_nearest(distances),
        vowels=phones["vowels"],
        consonants=phones["consonants"],
        rise=listening.voice_rise(made, alignment),
        rise_without=None if without is None else listening.voice_rise(without, alignment),
        seconds=seconds,
    )


def compared(tasks: Sequence[Task], returned: Sequence[Sound]) -> dict[str, dict[str, float]]:
    """Median distances from songs by program: of what the autoencoder returns, and of baselines."""
    found: dict[str, dict[str, list[float]]] = {}
    for each, sound in zip(tasks, returned, strict=True):
        original = each.song.audio
        another = compose(each.seed + 99, each.song.style, "heldout", FRAMES).audio
        others = listening.baselines(original, another, np.random.default_rng(each.seed))
        for name, made in {"through the autoencoder": sound, **others}.items():
            for measure, distance in DISTANCES.items():
                found.setdefault(name, {}).setdefault(measure, []).append(distance(made, original))
    return {
        name: {measure: statistics.median(values) for measure, values in measures.items()}
        for name, measures in found.items()
    }


# ---------------------------------------------------------------- what is shown


def table_of_songs(rows: Mapping[str, Sequence[Heard]]) -> str:
    columns = (
        "songs",
        "n",
        "lines",
        "own line nearer (chance 50%)",
        f"nearest of {1 + OTHERS} (chance {1 / (1 + OTHERS):.0%})",
        "vowels heard",
        "consonants heard",
        "voice's band, lines over gaps",
        "the same without lyrics",
        f"style heard (chance {1 / len(STYLES):.0%})",
        "s a song",
    )
    shown = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for name, songs in rows.items():
        without = [song.rise_without for song in songs if song.rise_without is not None]
        seconds = [song.seconds for song in songs if song.seconds is not None]
        cells = (
            name,
            str(len(songs)),
            str(sum(song.lines for song in songs)),
            f"{over_lines(songs, [song.pairs for song in songs]):.0%}",
            f"{over_lines(songs, [song.own for song in songs]):.0%}",
            f"{over_lines(songs, [song.vowels for song in songs]):.0%}",
            f"{over_lines(songs, [song.consonants for song in songs]):.0%}",
            f"{statistics.mean(song.rise for song in songs):+.1f} dB",
            f"{statistics.mean(without):+.1f} dB" if without else "–",
            f"{statistics.mean(song.heard == song.style for song in songs):.0%}",
            f"{statistics.median(seconds):.1f}" if seconds else "–",
        )
        shown.append(f"| {' | '.join(cells)} |")
    return "\n".join(shown)


def over_lines(songs: Sequence[Heard], shares: Sequence[float]) -> float:
    """The mean of shares, each of a song's lines, over all lines."""
    return float(np.average(shares, weights=[song.lines for song in songs]))


def by_language(rows: Mapping[str, Sequence[Heard]]) -> str:
    """A line for each row: to how many lines their own is the nearest, in each language."""
    shown = []
    for name, songs in rows.items():
        groups = {
            language: [song for song in songs if song.language == language]
            for language in sorted({song.language for song in songs})
        }
        shares = [
            f"{language} {over_lines(group, [song.own for song in group]):.0%} "
            f"of {sum(song.lines for song in group)}"
            for language, group in groups.items()
        ]
        shown.append(f"{name}: own line nearest in {', '.join(shares)}")
    return "\n".join(shown)


def misheard(rows: Mapping[str, Sequence[Heard]]) -> str:
    """A line for each row: which songs were heard as of another style."""
    shown = []
    for name, songs in rows.items():
        wrong = [f"{song.name} as {song.heard}" for song in songs if song.heard != song.style]
        shown.append(f"{name}: heard as another style: {', '.join(wrong) or 'none'}")
    return "\n".join(shown)


def table_of_distances(distances: Mapping[str, Mapping[str, float]]) -> str:
    shown = [
        f"| distance from a song by program | {' | '.join(DISTANCES)} |",
        "|---" * (1 + len(DISTANCES)) + "|",
    ]
    for name, measures in distances.items():
        shown.append(f"| {name} | {' | '.join(f'{value:.1f}' for value in measures.values())} |")
    return "\n".join(shown)


def write(
    path: Path,
    model: Bundle,
    asked: Mapping[str, object],
    rows: Mapping[str, Sequence[Heard]],
    distances: Mapping[str, Mapping[str, float]],
) -> None:
    facts = {
        "model": model.name,
        "hash": model.hash,
        "asked": {name: asked[name] for name in ("songs", "guidance", "steps", "sampler")},
        "songs": {name: [asdict(song) for song in songs] for name, songs in rows.items()},
        "reconstruction": distances,
    }
    path.write_text(json.dumps(facts, indent=1, ensure_ascii=False), encoding="utf-8")


def _numbers(words: str) -> tuple[float, ...]:
    """Guidance on the usual scale, parted by commas."""
    numbers = tuple(float(word) for word in words.split(","))
    if min(numbers) < 1:
        raise argparse.ArgumentTypeError(f"guidance {min(numbers):g}: give 1, which is none, or more")
    return numbers


if __name__ == "__main__":
    main()
