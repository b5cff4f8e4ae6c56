"""Ask a short-lived child whether, and how, every song of a batch can be made, before the first one starts.

So the parent never loads a model, and a broken bundle or espeak costs seconds, not the night.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from runner import processes
from runner.errors import CheckError, ForeignFileError, Problem, SpecError
from runner.files import read_message, write_message
from runner.messages import NOTE, Check, SongAnswer, SongQuestion
from runner.spec import Song, asked, lyrics_start

WORKER = (sys.executable, "-P", "-m", "runner.worker", "check")
# Hashing a large bundle on a slow disk takes a while; a hang is longer.
TIMEOUT_S = 600.0
RELAY_EVERY_S = 0.2

Say = Callable[[str], None]


def check(
    songs: Sequence[Song],
    *,
    lines: bool = False,
    worker: Sequence[str] = WORKER,
    timeout_s: float = TIMEOUT_S,
    say: Say | None = None,
) -> list[SongAnswer]:
    """One answer per song, in order; lines: with what there is to say of each line of its lyrics.

    say: given each line that the child has for the user while it works. Raises SpecError with every problem
    of every song, CheckError if the child itself fails.
    """
    answers = answered(songs, lines=lines, worker=worker, timeout_s=timeout_s, say=say)
    problems = [
        _problem(song, message)
        for song, answer in zip(songs, answers, strict=True)
        for message in answer.problems
    ]
    if problems:
        raise SpecError(list(dict.fromkeys(problems)))
    for answer in answers:
        if not (answer.duration > 0 and answer.steps > 0):
            raise CheckError(
                f"{answer.song}: the check answered with {answer.duration:g} s in {answer.steps} steps, "
                "which is no song; mend the engine (docs/reference/worker.md)"
            )
        if answer.gpus < 0:
            raise CheckError(
                f"{answer.song}: the check answered with gpus: {answer.gpus}, which nobody has; "
                "mend the engine (docs/reference/worker.md)"
            )
    return answers


def answered(
    songs: Sequence[Song],
    *,
    lines: bool = False,
    worker: Sequence[str] = WORKER,
    timeout_s: float = TIMEOUT_S,
    say: Say | None = None,
) -> list[SongAnswer]:
    """As `check`, with the problems in the answers. Raises CheckError alone."""
    asked = Check([_question(song, lines=lines) for song in songs], [])
    return _ask(asked, worker, timeout_s, say)


def _problem(song: Song, message: str) -> Problem:
    """At its own place where the message names one, as those of lyrics do; else at the song's."""
    source, _ = lyrics_start(song.lyrics_source)
    if song.path is None or (source and message.startswith(f"{source}:")):
        return Problem(message)
    return Problem(message, song.path, song.line, 1)


def _ask(asked: Check, worker: Sequence[str], timeout_s: float, say: Say | None) -> list[SongAnswer]:
    with tempfile.TemporaryDirectory(prefix="runner-check-") as name:
        paper, log = Path(name, "check.json"), Path(name, "worker.log")
        write_message(paper, asked, durable=False)
        exit_code = run([*worker, str(paper)], log, timeout_s, say=say)
        if exit_code != 0:
            raise CheckError(_words(exit_code, log, timeout_s))
        try:
            answers = read_message(paper, Check).answers
        except (OSError, ForeignFileError) as error:
            raise CheckError(f"the check of this batch left no answer ({error}); run it again") from error
    if [answer.song for answer in answers] != [question.song for question in asked.questions]:
        raise CheckError("the check of this batch answered for other songs; run it again")
    return answers


def run(command: list[str], log: Path, timeout_s: float, *, say: Say | None = None) -> int | None:
    """Exit code of a short-lived child; None if it had to be killed for taking too long.

    say: given each line that it prints for the user, soon after.
    """
    mark = f"check//{os.getpid()}|"
    limits = processes.Limits(threads=processes.usable_cores(), nice=0)
    process = processes.spawn(command, log=log, mark=mark, limits=limits, env={})
    leader = processes.identity(process.pid)
    try:
        return process.wait(timeout_s) if say is None else _relayed(process, log, timeout_s, say)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if leader is not None:
            asyncio.run(processes.end_tree(lambda: processes.tree(leader, mark), grace_s=0.0))
        process.wait()


def _relayed(process: subprocess.Popen[bytes], log: Path, timeout_s: float, say: Say) -> int:
    """Exit code of the child, its lines for the user passed on as they come."""
    until = time.monotonic() + timeout_s
    with log.open(errors="replace") as lines:
        unfinished = ""
        while True:
            try:
                code = process.wait(min(RELAY_EVERY_S, max(0.0, until - time.monotonic())))
            except subprocess.TimeoutExpired:
                code = None
                if time.monotonic() >= until:
                    raise
            *whole, unfinished = (unfinished + lines.read()).split("\n")
            for line in whole:
                if line.startswith(NOTE):
                    say(line.removeprefix(NOTE))
            if code is not None:
                return code


def _words(exit_code: int | None, log: Path, timeout_s: float) -> str:
    if exit_code is None:
        return f"the check of this batch took longer than {timeout_s:.0f} s; see whether the disk is well"
    lines = log.read_text(errors="replace").strip().splitlines() or ["it said nothing"]
    return (
        f"the check of this batch ended with exit code {exit_code}: {lines[-1]}; "
        "install the runner again (in a clone: `make clean setup`)"
    )


def _question(song: Song, *, lines: bool) -> SongQuestion:
    return SongQuestion(
        song=song.id,
        **asked(song),
        duration=song.duration,
        preset=song.preset,
        steps=song.steps,
        cfg=song.cfg,
        sampler=song.sampler,
        precision=song.precision,
        lines=lines,
        model_hash=song.model_hash,
    )
