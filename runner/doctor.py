"""Will tonight work? Readings of the machine and a child's examination in, findings with their cures out."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from runner.check import Say, run
from runner.errors import ForeignFileError
from runner.files import read_message, write_message
from runner.machine import WINDOWS_DISKS, Machine, usable_memory
from runner.messages import Examination, MachineArithmetic, ModelFacts
from runner.words import shown, size, span

SCHEMA = 1
WORKER = (sys.executable, "-P", "-m", "runner.worker", "examine")
# Ten times what it takes on two cores.
TIMEOUT_S = 120.0

# What to do about packages, in a clone and in an installation of another kind.
AGAIN = "make clean setup, or uninstall and install diffrhythm-runner"

PYTHONS = ((3, 11), (3, 14))
# A song where no model says what it needs.
SONG_BYTES = 2**30
# Below the first, a checkpoint and a song of 95 s have no room to be written beside each other; a night of
# songs of 285 s with their attempts takes about the second.
DISK_BYTES = 2 * 10**8
NIGHT_BYTES = 2 * 10**9
FILES = 1000
# A job file's timeout where it names none (spec).
TIMEOUT_OF_SONG_S = 40 * 60.0
# Other programs that take more of the processor than this make what was measured doubtful
# (diffrhythm/machine_profile.py).
BUSY = 0.1
STYLES = {"ok": "green", "note": "yellow", "problem": "red"}

State = Literal["ok", "note", "problem"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. do: the command or the line of a file that cures it; "" where all is well."""

    name: str
    state: State
    found: str
    do: str = ""


def examine(
    model: str | None,
    *,
    measure: bool = False,
    say: Say | None = None,
    worker: Sequence[str] = WORKER,
    timeout_s: float = TIMEOUT_S,
) -> Examination | str:
    """What a child finds of the model half, or why it found nothing. measure: measure this machine again."""
    with tempfile.TemporaryDirectory(prefix="runner-doctor-") as name:
        paper, log = Path(name, "examination.json"), Path(name, "worker.log")
        write_message(paper, Examination(model, measure=measure), durable=False)
        try:
            code = run([*worker, str(paper)], log, timeout_s, say=say)
        except (OSError, subprocess.SubprocessError) as error:
            return f"no process could be started: {error}"
        if code is None:
            return f"it took longer than {timeout_s:.0f} s"
        if code != 0:
            return _last_words(code, log)
        try:
            return read_message(paper, Examination)
        except (OSError, ForeignFileError) as error:
            return f"it left no answer: {error}"


def _last_words(code: int, log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    if code == -4:  # SIGILL, of which faulthandler's last line says nothing
        return "a package uses instructions that this processor does not have"
    how = f"ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
    return f"{how}: {lines[-1] if lines else 'it said nothing'}"


def diagnose(machine: Machine, half: Examination | str) -> list[Finding]:
    """All findings, what everything rests on first. half: of the model, or why it could not be examined."""
    findings = [*_python(machine, half)]
    if isinstance(half, Examination) and not half.broken:
        findings += [*_processor(machine, half), *_memory(machine, half)]
    findings += [
        *_wsl(machine),
        *_limits(machine),
        *_watching(machine),
        *cron(machine),
        *_places(machine),
    ]
    if isinstance(half, Examination) and not half.broken:
        findings += [*_models(half), *_sound(half)]
    return findings


def works(findings: Sequence[Finding]) -> bool:
    return all(finding.state != "problem" for finding in findings)


def verdict(findings: Sequence[Finding]) -> str:
    problems, notes = (sum(each.state == state for each in findings) for state in ("problem", "note"))
    if problems:
        return f"tonight will not work: {problems} problem{'s' if problems > 1 else ''} to mend"
    return "tonight will work" + (f"; {notes} note{'s' if notes > 1 else ''}" if notes else "")


def show(findings: Sequence[Finding], measured: MachineArithmetic | None = None) -> None:
    """Print the findings, what was measured, and the verdict; folded and coloured on a terminal only."""
    from rich.text import Text

    from runner.view import console, speaks_unicode

    out = console(sys.stdout)
    unicode = speaks_unicode(out.encoding, os.environ)
    with suppress(BrokenPipeError):
        for state, line in lines(findings, out.width if out.is_terminal else None):
            text = Text(shown(line, unicode))
            if line.startswith(state):
                text.stylize(STYLES[state], 0, len(state))
            out.print(text, soft_wrap=True)
        if measured is not None:
            title = f"One pass of the published size ({measured.frames} frames), measured on this machine:"
            for line in ("", title, *arithmetic_table(measured), ""):
                out.print(Text(shown(line, unicode)), soft_wrap=True)
        out.print(Text(verdict(findings), "bold"), soft_wrap=True)


def as_json(machine: Machine, half: Examination | str, findings: Sequence[Finding]) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "works": works(findings),
        "findings": [asdict(finding) for finding in findings],
        "machine": asdict(machine),
        "models": [asdict(model) for model in half.models] if isinstance(half, Examination) else [],
        "arithmetic": asdict(half.arithmetic)
        if isinstance(half, Examination) and half.arithmetic is not None
        else None,
    }


def lines(findings: Sequence[Finding], width: int | None) -> Iterator[tuple[State, str]]:
    """Each line with the state that it belongs to: state, name, what was found, then what to do.

    width: of the terminal, where long ones are folded; None: none is.
    """
    column = 2 + max((len(finding.name) for finding in findings), default=0)
    for finding in findings:
        head = f"{finding.state:<9}{finding.name:<{column}}"
        for text, first in ((finding.found, head), (finding.do, " " * len(head) + "do: ")):
            if text:
                yield from ((finding.state, line) for line in _folded(text, first, len(head), width))


def _folded(text: str, first: str, indent: int, width: int | None) -> list[str]:
    if width is None:
        return [first + text]
    return textwrap.wrap(
        text,
        max(width, indent + 20),
        initial_indent=first,
        subsequent_indent=" " * indent + ("    " if first.endswith("do: ") else ""),
        break_long_words=False,  # a path or a command stays one
        break_on_hyphens=False,
    )


# ---------------------------------------------------------------- one after the other


def _python(machine: Machine, half: Examination | str) -> Iterator[Finding]:
    version = ".".join(map(str, machine.python))
    if not PYTHONS[0] <= machine.python <= PYTHONS[1]:
        yield Finding(
            "python",
            "problem",
            f"{version}; it takes 3.11 to 3.14",
            "make clean setup PYTHON=python3.12, or install it with that Python",
        )
    if isinstance(half, str):
        yield Finding("packages", "problem", f"cannot be examined: {half}", AGAIN)
    elif half.broken:
        yield Finding("packages", "problem", "; ".join(half.broken), AGAIN)
    elif PYTHONS[0] <= machine.python <= PYTHONS[1]:
        yield Finding(
            "python", "ok", f"{version}, torch {half.torch}, all {half.packages} packages are there"
        )


def _processor(machine: Machine, half: Examination) -> Iterator[Finding]:
    cores = f"{machine.cores} core{'s' if machine.cores != 1 else ''}"
    name = f"{machine.processor}, {cores}" if machine.processor else cores
    if half.precision not in ("fp32", "bf16", "int8"):
        yield Finding("processor", "problem", half.precision, "unset DIFFRHYTHM_PRECISION")
    else:
        yield Finding("processor", "ok", name)
    if half.arithmetic is not None:
        yield _arithmetic(half.arithmetic)
    for model in half.models:
        if model.song_s:
            yield _forecast(model, machine)


def _arithmetic(measured: MachineArithmetic) -> Finding:
    """Which arithmetic large models are calculated in here, and why."""
    found = f"large models in {measured.chosen}, their sound in {measured.decoder}: {measured.reason}"
    if measured.busy > BUSY:
        return Finding(
            "arithmetic",
            "note",
            f"{found}; other programs took {measured.busy:.0%} of the processor while it was measured",
            "runner doctor --measure, once the machine is quiet",
        )
    return Finding("arithmetic", "ok", found)


def arithmetic_table(measured: MachineArithmetic) -> list[str]:
    """Return the table of what was measured on this machine, a line each, the chosen one marked."""
    rows = [("", "arithmetic", "s a pass", "against published", "s to decode 1 s", "error", "threads")]
    for each in measured.candidates:
        rows.append(
            (
                "*" if each.name == measured.chosen else "",
                each.name,
                f"{each.pass_s:.3g}",
                f"{measured.published_pass_s / each.pass_s:.2f} x",
                "–" if each.decode_s is None else f"{each.decode_s:.2f}",
                "–" if each.error is None else f"{100 * each.error:.2g} %",
                str(each.threads),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _forecast(model: ModelFacts, machine: Machine) -> Finding:
    would = "takes" if model.here else "would take"
    busy = machine.load is not None and machine.load > machine.cores
    found = (
        f"a {model.duration:g} s song of {model.name} with preset standard {would} "
        f"about {span(model.song_s)} here in {model.precision}"
        + ("; less on a quiet machine: this one is busy" if busy else "")
    )
    if model.song_s <= TIMEOUT_OF_SONG_S or not model.here:
        return Finding("speed", "ok", found)
    minutes = int(model.song_s * 1.5 / 60)
    return Finding("speed", "note", found, f"runner batch … --timeout {minutes}m, or --preset draft")


def _memory(machine: Machine, half: Examination) -> Iterator[Finding]:
    """RAM against what the largest model that is here needs: in swap a song takes for ever."""
    here = [model for model in half.models if model.here or half.model]
    if machine.memory is None:
        yield Finding(
            "memory", "note", "the kernel does not say how much there is", "see whether /proc is there"
        )
        return
    largest = max(here, key=lambda model: model.need_bytes, default=None)
    need = (largest.need_bytes if largest else 0) or SONG_BYTES
    whose = largest.name if largest else "the demo"
    has = usable_memory(machine.memory, machine.memory_limit) or 0
    capped = " (limit of the control group)" if has < machine.memory else ""
    available = min(has, machine.available if machine.available is not None else has)
    total = f"{size(has)}{capped}, {size(available)} free; a song of {whose} needs {size(need)}"
    if has < need:
        yield Finding("memory", "problem", total, _more_memory(machine, need))
    elif available < need:
        yield Finding("memory", "note", total, "close other programs before the night")
    else:
        yield Finding("memory", "ok", total)
    yield from _swap(machine, has, need)


def _swap(machine: Machine, has: int, need: int) -> Iterator[Finding]:
    if machine.swap:
        yield Finding("swap", "ok", f"{size(machine.swap)}, {size(machine.swap_free or 0)} free")
    elif has < 2 * need:
        do = (
            "%UserProfile%\\.wslconfig, below [wsl2]: swap=4GB; then wsl --shutdown"
            if machine.wsl
            else "sudo fallocate -l 4G /swapfile && sudo chmod 600 /swapfile && "
            "sudo mkswap /swapfile && sudo swapon /swapfile"
        )
        yield Finding("swap", "note", "none: a song that needs a little more than there is, is killed", do)
    else:
        yield Finding("swap", "ok", "none, and memory is ample")


def _more_memory(machine: Machine, need: int) -> str:
    if machine.memory_limit is not None and machine.memory_limit < (machine.memory or 0):
        return "raise the limit of its service or container (MemoryMax=, docker run --memory)"
    if machine.wsl:
        wanted = math.ceil(need / 2**30) + 2
        return f"%UserProfile%\\.wslconfig, below [wsl2]: memory={wanted}GB; then wsl --shutdown"
    return "use a smaller model (model: demo) or a machine with more memory"


def _wsl(machine: Machine) -> Iterator[Finding]:
    if machine.wsl == 1:
        yield Finding(
            "WSL",
            "problem",
            "version 1, which has no Linux kernel: memory, swap and processes cannot be watched",
            "in PowerShell: wsl --set-version <name from wsl -l> 2",
        )
    elif machine.wsl == 2:
        limits = machine.wsl_limits
        said = ", ".join(f"{name}={value}" for name, value in (limits or {}).items())
        yield Finding(
            "WSL",
            "note",
            f"version 2; .wslconfig: {said or ('none found' if limits is None else 'no limits')}; "
            "it stops with its last window",
            "runner schedule has Windows begin the night and hold it; set sleep to never in Windows",
        )


def _watching(machine: Machine) -> Iterator[Finding]:
    """What helps to see and end a song in time; all of it can be done without."""
    group = f"cgroup {machine.cgroup}" if machine.cgroup else "no cgroups"
    if machine.pressure:
        yield Finding("watching", "ok", f"PSI, {group}")
        return
    do = "in PowerShell: wsl --update" if machine.wsl else "boot with psi=1, or leave it so"
    yield Finding("watching", "note", f"no PSI, {group}: swap thrash is seen by page faults alone", do)


HOLDERS = {
    "v2": "in a control group of this process's own (cgroup v2)",
    "v1": "in a control group (cgroup v1)",
    "systemd": "in a control group that systemd gives (cgroup v2)",
}


def _limits(machine: Machine) -> Iterator[Finding]:
    """What keeps a song to its memory. Without the kernel's help it is looked at twice a second."""
    if machine.holder:
        yield Finding("limits", "ok", f"the kernel holds each song to its memory, {HOLDERS[machine.holder]}")
        return
    found = (
        "no control group can be had: a song's memory is looked at twice a second, and not held by the kernel"
    )
    if machine.init == "systemd" and machine.cgroup == "v2":
        do = "loginctl enable-linger"
    elif machine.wsl and machine.init != "systemd":
        do = "/etc/wsl.conf, below [boot]: systemd=true; then wsl --shutdown, and: loginctl enable-linger"
    else:
        do = "leave it so, or run as root, or in a container of its own with a limit (docker run --memory)"
    yield Finding("limits", "note", found, do)


def cron(machine: Machine) -> Iterator[Finding]:
    """Is there somebody to begin a night?"""
    if machine.cron:
        yield Finding("cron", "ok", "runs")
        return
    systemd = machine.init == "systemd"
    if machine.wsl and not systemd:
        do = "/etc/wsl.conf, below [boot]: systemd=true; then wsl --shutdown, and run this again"
    elif not machine.crontab:
        do = "sudo apt install cron"
    else:
        do = "sudo systemctl enable --now cron" if systemd else "sudo service cron start"
    what = "does not run" if machine.crontab else "is not installed"
    yield Finding("cron", "note", f"{what}, so that nothing starts by itself", do)


def _places(machine: Machine) -> Iterator[Finding]:
    out = machine.out
    free = "unknown room" if out.free is None else f"{size(out.free)} free"
    found = f"{out.folder}: {free} ({out.disk or 'unknown disk'})"
    if not out.is_folder:
        yield Finding(
            "disk", "problem", f"{out.folder}: is, or is below, what is no folder", "choose another --out"
        )
    elif not out.writable:
        yield Finding(
            "disk",
            "problem",
            f"{out.folder}: cannot be written",
            f"sudo chown -R $USER {out.folder}, or --out",
        )
    elif out.free is not None and out.free < DISK_BYTES:
        yield Finding("disk", "problem", found, "make room, or choose another --out")
    elif out.files_left is not None and out.files_left < FILES:
        full = f"{found}, but for {out.files_left} more files only"
        yield Finding("disk", "problem", full, "make room by removing files, or choose another --out")
    elif out.free is not None and out.free < NIGHT_BYTES:
        yield Finding("disk", "note", f"{found}; a night may take {size(NIGHT_BYTES)}", "make room")
    else:
        yield Finding("disk", "ok", found)
    slow = [place.folder for place in (out, machine.here) if _is_windows(machine, place.disk)]
    if slow:
        yield Finding(
            "folders",
            "note",
            f"{slow[0]} is on Windows's disk, many times slower",
            "keep jobs and outputs inside Linux: mkdir -p ~/songs",
        )


def _is_windows(machine: Machine, disk: str) -> bool:
    return machine.wsl > 0 and disk in WINDOWS_DISKS


def _models(half: Examination) -> Iterator[Finding]:
    for model in half.models:
        if model.problem:
            yield Finding(
                "model", "problem", f"{model.name}: {_what(model.problem)}", _cure(model.problem, model)
            )
        elif not model.here:
            state: State = "problem" if half.model else "note"
            yield Finding(
                "model",
                state,
                f"{model.name}: not here ({size(model.bytes)} to fetch and convert)",
                f"runner models pull {model.name}",
            )
        elif model.style:
            yield Finding(
                "model", "problem", f"{model.name}: {_what(model.style)}", _cure(model.style, model)
            )
        elif model.verified:
            yield Finding("model", "ok", f"{model.name}: {size(model.bytes)}, every byte as it was made")
        else:
            said = f"{model.name}: {size(model.bytes)}, files of the right sizes"
            yield Finding("model", "ok", f"{said}; `runner models verify {model.name}` reads every byte")


def _what(message: str) -> str:
    """The first part of a message that ends in what to do."""
    return message.rpartition("; ")[0] or message


def _cure(message: str, model: ModelFacts) -> str:
    """That last part, as a bare command where it is one."""
    _, _, cure = message.rpartition("; ")
    if cure == message:
        return f"runner models verify {model.name}"
    return cure.removeprefix("get it with: ").removeprefix("get them with: ")


def _sound(half: Examination) -> Iterator[Finding]:
    if half.espeak:
        words, _, do = half.espeak.rpartition(", run: ")
        yield Finding("espeak", "problem", words or half.espeak, do or AGAIN)
    else:
        yield Finding("espeak", "ok", "reads English")
    if half.encoders:
        state: State = "problem" if any(each.startswith("wav") for each in half.encoders) else "note"
        yield Finding("encoders", state, "; ".join(half.encoders), f"{AGAIN}; or format: wav")
    else:
        yield Finding("encoders", "ok", "wav, flac, ogg and mp3 can be written")
    if half.cache:
        yield Finding(
            "styles", "note", f"are not kept: {half.cache}", f"sudo chown -R $USER {half.cache_folder}"
        )
    else:
        yield Finding("styles", "ok", f"{half.cached} kept in {half.cache_folder}")
