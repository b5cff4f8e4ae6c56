"""Every phase × every way of dying, on real processes: each song ends once, rightly told, with nothing left.

All cells of a kind are the songs of one batch, side by side; each cell is then a test of its own.
"""

from __future__ import annotations

import hashlib
import re
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from runner import processes, status
from runner.files import read_json
from runner.songfolder import Outputs, SongFolder
from runner.supervise import Job
from tests.faults.batches import Parent, causes, job, known, outcomes, state, survivors, torn

pytestmark = pytest.mark.slow
STEPS = "steps 3 0.001"
# What a child has done when it dies. The first has never beaten; the last has written how it ended.
PHASES = {
    "unborn": "mute",
    "load": "phase load",
    "lyrics": "phase lyrics",
    "style": "phase style",
    "encode": "phase encode",
    "sample": STEPS,
    "decode": f"{STEPS}\nphase decode",
    "write": f"{STEPS}\nphase write",
    "after": f"{STEPS}\nphase write\nmade",
}
TOLD = {"unborn": "load", "after": "write"}  # the phase that is told of them


@dataclass(frozen=True)
class Way:
    """What the first attempt's child does, and what its end is to be called.

    words: a pattern of the whole message; {phase} is filled in. spoils: the finished sound or the outcome,
    so that even a song that was made has to be made again. changes: of the job.
    """

    name: str
    script: str
    cause: str
    words: str
    state: str = "done"
    spoils: str = ""
    changes: dict[str, Any] = field(default_factory=dict)


def dies(number: int, *, before: str = "") -> Way:
    called = signal.Signals(number).name if number in list(signal.Signals) else f"signal {number}"
    script, name = f"{before}signal {number}", called.lower().replace(" ", "-")
    return Way(name, script, "crash", rf"died of {called} in phase {{phase}}")


def exits(code: int, *, name: str = "", before: str = "", **more: Any) -> Way:
    words = f"ended with exit code {code} in phase {{phase}}"
    return Way(name or f"exit-{code}", f"{before}exit {code}", "crash", words, **more)


def hangs(
    name: str, script: str, words: str = "hung: no CPU used and no", *, phase: str = "{phase}", **changes: Any
) -> Way:
    pattern = rf"{words} progress for \d+ s \(in phase {phase}\)"
    return Way(name, script, "stalled", pattern, "degraded", changes={"stall_s": 3.0} | changes)


# Not those that end no process by default.
IGNORED = {"SIGCHLD", "SIGCLD", "SIGCONT", "SIGSTOP", "SIGTSTP", "SIGTTIN", "SIGTTOU", "SIGURG", "SIGWINCH"}
SIGNALS = [dies(n) for n in (*(n for n in signal.Signals if n.name not in IGNORED), signal.SIGRTMIN + 5)]
EXITS = [
    *(exits(code) for code in (1, 2, 3, 4, 75, 127, 137, 255)),
    Way("exit-5", "exit 5", "no-disk", "no room on the disk, not even for its outcome"),
]
BEATS = ("torn", "empty", "newer", "untyped", "stranger", "infinite", "beyond", "huge")
# In every phase; and those of which each has one or two in CI, and every phase at night.
WAYS = [
    dies(signal.SIGKILL),
    Way("exit-0", "exit 0", "crash", "ended without a word: no song and no outcome"),
    exits(7, name="family", before="fork\nsetsid\ndaemon\nhold\n"),
    exits(7, name="half-sound", before="half sound\n", spoils="sound"),
    exits(7, name="half-outcome", before="half outcome\n", spoils="outcome"),
    Way("fill", "fill", "no-disk", "No space left on device"),
]
OTHERS = [
    exits(7, name="half-checkpoint", before="half checkpoint\n"),
    exits(7, name="half-final-sound", before="half final-sound\n"),
    exits(7, name="half-manifest", before="half manifest\n"),
    exits(7, name="flood", before="flood 4\n"),
]
HANGING = [
    hangs("hang", "hang"),
    hangs("deaf-family", "ignore-term\nfork\nsetsid\ndaemon\nhold\nhang"),
]
HANGING_OTHERS = [
    hangs("freeze", "freeze"),
    # Polite to the others, but on a busy machine still with the share of a core that counts as working.
    hangs("spin", "spin", "still computing, but without", nice=5),
]
EATING = [
    Way(
        "eat",
        "eat 96\nhang",
        "memory-ceiling",
        r"used .* of private memory, more than its limit of 0.1 GiB",
        "degraded",
        changes={"memory_bytes": 64 << 20},
    )
]


@dataclass(frozen=True)
class Cell:
    way: Way
    phase: str

    @property
    def name(self) -> str:
        return f"{self.phase}-{self.way.name}"

    @property
    def job(self) -> Job:
        script = f"only 1\n{PHASES[self.phase]}\n{self.way.script}"
        return job(script, name=self.name, steps=32, **self.way.changes)

    @property
    def made(self) -> bool:
        """Was the song whole when its child died?"""
        return self.phase == "after" and not self.way.spoils

    @property
    def state(self) -> str:
        return "done" if self.made else self.way.state

    @property
    def causes(self) -> list[str | None]:
        """Of the attempts' ends: the way, and after it a child that finishes."""
        return [None] if self.made else [self.way.cause, None] if self.state != "failed" else [self.way.cause]

    @property
    def words(self) -> str:
        """Of the first end."""
        if self.made:
            return "made"
        if self.phase == "after" and self.way.spoils == "sound":
            return "the finished sound is gone or damaged"
        return self.way.words.format(phase=TOLD.get(self.phase, self.phase))


def cells(ways: Sequence[Way], phases: Sequence[str] = tuple(PHASES)) -> list[Cell]:
    return [Cell(way, phase) for way in ways for phase in phases]


def spread(ways: Sequence[Way], phases: Sequence[str] = tuple(PHASES)) -> list[Cell]:
    """Each way once, in one phase after the other."""
    return [Cell(way, phases[i % len(phases)]) for i, way in enumerate(ways)]


# The beat that told of the phase is overwritten, mostly before the parent has looked.
SEEN = "(load|sample|{phase})"
GARBAGE = [
    Way(f"beat-{kind}", f"garbage {kind}\nexit 7", "crash", f"ended with exit code 7 in phase {SEEN}")
    for kind in BEATS
]
SILENT = [hangs(f"hang-{kind}", f"garbage {kind}\nhang", phase=SEEN) for kind in BEATS]
BORN = [phase for phase in PHASES if phase != "unborn"]

DYING = [*cells(WAYS), *spread(OTHERS * 2), *spread(SIGNALS), *spread(EXITS), *spread(GARBAGE, BORN)]
HUNG = [*cells(HANGING), *cells(HANGING_OTHERS, ["lyrics", "sample", "after"]), *spread(SILENT, ["decode"])]
NIGHTLY = [cell for cell in cells([*OTHERS, *SIGNALS, *EXITS]) + cells(GARBAGE, BORN) if cell not in DYING]
HUNG_NIGHTLY = [cell for cell in cells([*HANGING_OTHERS, *SILENT]) if cell not in HUNG]
# A song whose child took too much memory goes on alone, so these have a batch of their own.
FED = spread(EATING * 3, ["unborn", "sample", "after"])


@dataclass(frozen=True)
class Night:
    """A batch of cells that has run, and run again. lines, problems: of the first run and what status says
    after it; trees: of every song's folder after each run.
    """

    outputs: Outputs
    lines: list[str]
    problems: tuple[str, ...]
    trees: list[dict[str, dict[str, str]]]

    def folder(self, cell: Cell) -> SongFolder:
        return self.outputs.song(f"night/{cell.name}")


def night(place: Path, cells: Sequence[Cell], **options: Any) -> Night:
    jobs = [cell.job for cell in cells]
    parent = Parent(place, jobs, **options)
    parent.wait(timeout_s=300)
    lines = parent.err.splitlines()
    with parent.outputs.locked():  # at once: nothing that lives on may hold it
        now = status.look(parent.outputs)
    trees = [tree(parent.outputs)]
    Parent(place, jobs, **options).wait(timeout_s=300)
    return Night(parent.outputs, lines, now.problems, [*trees, tree(parent.outputs)])


def tree(outputs: Outputs) -> dict[str, dict[str, str]]:
    """Every file of every song, by the song, with its sum."""
    return {
        folder.id: {
            str(file.relative_to(folder.folder)): hashlib.sha256(file.read_bytes()).hexdigest()
            for file in folder.folder.rglob("*")
            if file.is_file()
        }
        for folder in outputs.songs()
    }


@pytest.fixture(scope="module")
def dying(tmp_path_factory: pytest.TempPathFactory) -> Night:
    return night(tmp_path_factory.mktemp("dying"), DYING, workers=8)


@pytest.fixture(scope="module")
def dying_all_night(tmp_path_factory: pytest.TempPathFactory) -> Night:
    return night(tmp_path_factory.mktemp("dying-all-night"), NIGHTLY, workers=8)


@pytest.fixture(scope="module")
def hung(tmp_path_factory: pytest.TempPathFactory) -> Night:
    return night_of_hanging(tmp_path_factory.mktemp("hung"), HUNG)


@pytest.fixture(scope="module")
def hung_all_night(tmp_path_factory: pytest.TempPathFactory) -> Night:
    return night_of_hanging(tmp_path_factory.mktemp("hung-all-night"), HUNG_NIGHTLY)


def night_of_hanging(place: Path, cells: Sequence[Cell]) -> Night:
    # On a busy machine a child may take seconds to its first beat, but then it goes straight to its phase.
    # And beside the patience its start has to have cost little of the processor, or it counts as working.
    patience_s = {"load": 10.0} | dict.fromkeys(
        ("lyrics", "style", "encode", "sample", "decode", "write"), 3.0
    )
    longest_first = sorted(cells, key=lambda cell: cell.phase not in ("unborn", "load"))
    return night(place, longest_first, workers=16, patience_s=patience_s)


@pytest.fixture(scope="module")
def fed(tmp_path_factory: pytest.TempPathFactory) -> Night:
    return night(tmp_path_factory.mktemp("fed"), FED, workers=3)


def by_name(cell: Cell) -> str:
    return cell.name


@pytest.mark.parametrize("cell", DYING, ids=by_name)
def test_a_child_that_dies(dying: Night, cell: Cell) -> None:
    check(dying, cell)


@pytest.mark.nightly
@pytest.mark.parametrize("cell", NIGHTLY, ids=by_name)
def test_a_child_that_dies_of_anything_else(dying_all_night: Night, cell: Cell) -> None:
    check(dying_all_night, cell)


@pytest.mark.parametrize("cell", HUNG, ids=by_name)
def test_a_child_that_hangs(hung: Night, cell: Cell) -> None:
    check(hung, cell)


@pytest.mark.nightly
@pytest.mark.parametrize("cell", HUNG_NIGHTLY, ids=by_name)
def test_a_child_that_hangs_in_any_other_way(hung_all_night: Night, cell: Cell) -> None:
    check(hung_all_night, cell)


@pytest.mark.parametrize("cell", FED, ids=by_name)
def test_a_child_that_eats_memory(fed: Night, cell: Cell) -> None:
    check(fed, cell)


def check(night: Night, cell: Cell) -> None:
    folder = night.folder(cell)
    told = [line for line in night.lines if line.startswith(f"{folder.id}: ")]
    assert [line.split(": ")[1] for line in told] == [cell.state]  # it ended once
    assert ("song.json" in night.trees[0][folder.id]) != ("failed.json" in night.trees[0][folder.id])
    assert state(folder) == ("done" if cell.state == "failed" else cell.state)
    assert causes(folder)[: len(cell.causes)] == cell.causes
    first = outcomes(folder)[0]["message"]
    assert re.fullmatch(cell.words, first), first
    check_made(folder, cell)
    check_again(night, cell)


def check_made(folder: SongFolder, cell: Cell) -> None:
    """What is published is whole, and was resumed where there was something to resume from."""
    made = read_json(folder.manifest)
    assert hashlib.sha256(folder.audio("wav").read_bytes()).hexdigest() == made["sha256"]
    assert made["degraded"] == ("16 steps instead of 32" if cell.state == "degraded" else None)
    sampled = STEPS in PHASES[cell.phase] and "checkpoint" not in cell.way.name
    assert made["resumed_at"] == (3 if sampled or cell.made else 0)
    assert list(folder.folder.rglob("song.wav")) == [folder.audio("wav")]


def check_again(night: Night, cell: Cell) -> None:
    """The second run has changed nothing; but a song that found no room has gone on, since there is some."""
    folder = night.folder(cell)
    before, after = (each[folder.id] for each in night.trees)
    if cell.state == "failed":
        assert len({read_json(attempt.request)["seed"] for attempt in folder.attempts()}) == 1
        assert causes(folder) == [cell.way.cause, None]
    else:
        assert after == before


@pytest.mark.parametrize("which", ["dying", "hung", "fed"])
def test_nothing_is_left_of_a_batch_of_them(which: str, request: pytest.FixtureRequest) -> None:
    night: Night = request.getfixturevalue(which)
    everybody = known(night.outputs)
    assert len(everybody) > len(night.trees[0])
    assert [who for who in everybody if processes.is_alive(who)] == []
    assert survivors(night.outputs) == []
    assert torn(night.outputs) == []
    # The beat of a song that was made is looked at no more, and status says what it is.
    spoilt = [cell.name for cell in DYING if cell.phase == "after" and cell.way.name.startswith("beat-")]
    assert [told for told in night.problems if not any(f"/{name}/" in told for name in spoilt)] == []


def test_a_disk_that_a_child_fills_interrupts_its_song_and_with_room_the_same_command_makes_it(
    small_disk: Path,
) -> None:
    subprocess.run(["mount", "-o", "remount,size=40m", str(small_disk)], check=True)
    rest = small_disk / "of-somebody-else"
    jobs = [job(f"only 1\n{STEPS}\nfill {rest}")]
    first = Parent(small_disk, jobs, await_s=0.5)
    folder = first.outputs.song("night/song")
    assert first.wait() == 1
    assert "night/song: interrupted: No space left on device" in first.err
    assert torn(first.outputs) == []
    rest.unlink()
    again = Parent(small_disk, jobs)
    assert again.wait() == 0, again.err
    assert (state(folder), read_json(folder.manifest)["resumed_at"]) == ("done", 3)
    assert survivors(first.outputs) == torn(first.outputs) == []
