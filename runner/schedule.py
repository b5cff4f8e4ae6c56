"""The night that begins by itself: cron's line or, on WSL, a task of Windows, made from readings and options.

Night, readings ──▶ line, task, words ──▶ printed; with --install set, with --remove taken away.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from glob import glob, has_magic
from pathlib import Path
from pwd import getpwuid
from typing import Any

from runner import finish, machine, processes
from runner.doctor import Finding, cron
from runner.errors import RunnerError, UsageError
from runner.files import make_folder
from runner.machine import Machine, wsl_of
from runner.songfolder import Outputs
from runner.spec import load
from runner.until import is_of_one_day
from runner.until import until as ending

SCHEMA = 1
# What cron takes after the five fields of the time: one more, and `crontab` refuses the line.
MAX_COMMAND_BYTES = 998
TOOL_TIMEOUT_S = 60.0
# Ends our line, as a comment of the shell's: whose it is, whatever else was changed in it.
MARK = "# runner schedule, for "

# What a night needs of the environment of the evening; cron itself knows nearly none. No secrets.
_CARRIED = re.compile(
    r"PATH|LANG|LC_ALL|LC_CTYPE|PYTHONPATH|XDG_CACHE_HOME|HF_HOME|HF_HUB_CACHE|DIFFRHYTHM_\w+"
)
_OF_WINDOWS = re.compile(r"/mnt/[a-z](/|$)")
_TIME = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)")
# Where clocks are changed, it is between these hours; all of them over the world.
_CHANGING_HOURS = range(4)
SENDMAIL = Path("/usr/sbin/sendmail")
POWERSHELL = "/mnt/c/Windows/System32/WindowsPowerShell/v1.0/powershell.exe"
WSL_EXE = r"C:\Windows\System32\wsl.exe"


@dataclass(frozen=True, slots=True)
class Night:
    """What is to run every night. Paths are absolute; a file may be a pattern, for the night's shell.

    runner: this program. at: hour and minute. environ: what of it the night is to have. mail: leave what goes
    wrong to cron, which mails it.
    """

    runner: tuple[str, ...]
    folder: str
    files: tuple[str, ...]
    out: str
    at: tuple[int, int]
    until: str | None = None
    on_finish: str | None = None
    environ: tuple[tuple[str, str], ...] = ()
    mail: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be set where. task: PowerShell that has Windows begin the night; "" where that is no WSL.

    known: what is worth knowing of this night on this machine, in sentences. findings: why cron would not
    begin it.
    """

    line: str
    task: str
    known: tuple[str, ...]
    findings: tuple[Finding, ...]


def night_of(
    files: Sequence[str],
    *,
    at: str,
    until: str | None,
    out: Path,
    on_finish: str | None,
    mail: bool,
    environ: Mapping[str, str],
) -> Night:
    """The night that the options ask for, from this folder and this environment."""
    night = Night(
        runner=_this_program(),
        folder=str(Path.cwd()),
        files=tuple(map(absolute, files)),
        out=absolute(out),
        at=clock(at),
        until=until,
        on_finish=on_finish,
        environ=carried(environ, home=getpwuid(os.getuid()).pw_dir),
        mail=mail,
    )
    for text in (night.folder, *night.files, night.out, until or "", on_finish or ""):
        if not text.isprintable():
            raise UsageError(f"{text!r}: holds what cannot stand in a line of a crontab; rename it")
    return night


def absolute(path: str | Path) -> str:
    return os.path.abspath(path)  # noqa: PTH100 — Path.absolute keeps the dots of ../jobs


def on_windows() -> bool:
    return wsl_of(os.uname().release) == 2


def _this_program() -> tuple[str, ...]:
    """How to start what runs here."""
    started = Path(sys.argv[0]).absolute()
    if started.name == "runner" and os.access(started, os.X_OK):
        return (str(started),)
    return (sys.executable, "-m", "runner.cli")


def clock(text: str) -> tuple[int, int]:
    """Hour and minute of 23:30. Raises UsageError."""
    found = _TIME.fullmatch(text)
    if found is None:
        raise UsageError(f"--at {text!r}: is no time of day; write it as 23:30")
    return int(found[1]), int(found[2])


def carried(environ: Mapping[str, str], *, home: str) -> tuple[tuple[str, str], ...]:
    """Of an environment what the night needs, by name; HOME only where it is not the user's own.

    PATH without folders of Windows, of which WSL adds dozens, nor what is no folder at all.
    """
    kept = {
        name: value
        for name, value in processes.passed_on(environ).items()
        if _CARRIED.fullmatch(name) and value.isprintable()
    }
    if "PATH" in kept:
        folders = dict.fromkeys(kept["PATH"].split(":"))
        usable = [each for each in folders if each.startswith("/") and not _OF_WINDOWS.match(each)]
        kept["PATH"] = ":".join(each for each in usable if os.path.isdir(each))  # noqa: PTH112
    if environ.get("HOME", home) != home:
        kept["HOME"] = environ["HOME"]
    return tuple(sorted(kept.items()))


def check(night: Night) -> None:
    """Is all there that the night will need? Raises UsageError, SpecError for mistakes in the job files."""
    load(list(_found(night.files)))
    if night.until is not None and not _is_of_every_night(night.until):
        raise UsageError(
            f"--until {night.until!r}: no end that every night has; write a time of day such as 07:00, or a "
            "span such as 8h"
        )
    path = dict(night.environ).get("PATH")
    for program in finish.parse(night.on_finish)[:1]:
        place = str(Path(night.folder, program)) if "/" in program else program
        if shutil.which(place, path=path) is None:
            raise UsageError(f"--on-finish: {program}: the night would find no such program; give its path")


def _is_of_every_night(until: str) -> bool:
    try:
        ending(until)
    except UsageError:
        return False
    return not is_of_one_day(until)


def _found(files: Sequence[str]) -> Iterator[Path]:
    """The job files that are there now, a pattern's, too."""
    for file in files:
        if not is_pattern(file):
            yield Path(file)
        elif matches := sorted(glob(file)):  # noqa: PTH207 — as a shell: no hidden files
            yield from map(Path, matches)
        else:
            raise UsageError(f"{file}: there is no such file now; check the pattern")


def is_pattern(file: str) -> bool:
    """For a shell; a file whose very name looks like one is none."""
    return has_magic(file) and not os.path.lexists(file)


# ---------------------------------------------------------------- the plan


def plan_here(night: Night) -> Plan:
    """What is to be set on this very machine, for this user."""
    return plan(
        night,
        machine.read(Path(night.out)),
        distro=os.environ.get("WSL_DISTRO_NAME", ""),
        zone=os.environ.get("TZ", ""),
        mailer=SENDMAIL.exists(),
    )


def plan(night: Night, readings: Machine, *, distro: str, zone: str, mailer: bool) -> Plan:
    """What is to be set on this machine. distro: WSL's name of it. zone: $TZ. mailer: could cron mail?

    Raises RunnerError where nothing can be set, UsageError where the night does not fit into a line.
    """
    windows = readings.wsl == 2
    if readings.wsl == 1:
        raise RunnerError(
            "WSL 1 has no Linux kernel, so a night cannot be watched; in PowerShell: "
            "wsl --set-version <name from wsl -l> 2"
        )
    if windows and not distro:
        raise RunnerError(
            "WSL_DISTRO_NAME is not set, so Windows could not be told which distribution to start; run this "
            "in a window of WSL, or put it before: WSL_DISTRO_NAME=<name from wsl -l> runner schedule …"
        )
    if windows and night.mail:
        raise UsageError("--mail: on WSL Windows begins the night, and mails nothing; use --on-finish")
    return Plan(
        line=line(night),
        task=task(night, distro) if windows else "",
        known=tuple(_known(night, windows=windows, zone=zone, mailer=mailer)),
        findings=() if windows else tuple(each for each in cron(readings) if each.state != "ok"),
    )


def line(night: Night) -> str:
    """The line of a crontab. Raises UsageError where cron would not take it for its length."""
    hour, minute = night.at
    command = in_crontab(f"{command_of(night)} {mark(night.out)}")
    size = len(os.fsencode(command))
    if size > MAX_COMMAND_BYTES:
        raise UsageError(
            f"the line would have {size} bytes, and cron takes {MAX_COMMAND_BYTES}; name the files by "
            "a pattern in quotes, such as 'jobs/*.yaml', or shorten PATH"
        )
    return f"{minute} {hour} * * * {command}"


def in_crontab(command: str) -> str:
    """A % ends a command for cron."""
    return command.replace("%", r"\%")


def command_of(night: Night) -> str:
    """The night for a shell: its folder, its environment, the batch, and where its words go."""
    words = [f"{name}={shlex.quote(value)}" for name, value in night.environ]
    words += map(shlex.quote, night.runner)
    words += ["batch", *map(_file, night.files), "--out", shlex.quote(night.out), "--quiet"]
    if night.until:
        words += ["--until", shlex.quote(night.until)]
    if night.on_finish:
        words += ["--on-finish", shlex.quote(night.on_finish)]
    if not night.mail:
        words += [f">>{shlex.quote(str(Outputs(Path(night.out)).cron_log))}", "2>&1"]
    return f"cd {shlex.quote(night.folder)} && {' '.join(words)}"


def _file(file: str) -> str:
    """A file in quotes where it needs them; what makes a pattern of it is left to the night's shell."""
    if not is_pattern(file):
        return shlex.quote(file)
    parts = re.split(r"(\*|\?|\[[^]]*\])", file)
    return "".join(part if n % 2 else part and shlex.quote(part) for n, part in enumerate(parts))


def mark(out: str) -> str:
    return f"{MARK}{out}"


def _known(night: Night, *, windows: bool, zone: str, mailer: bool) -> Iterator[str]:
    hour, minute = night.at
    outputs = Outputs(Path(night.out))
    if night.mail:
        yield "when all is well there is no mail; else cron mails a summary, to the crontab's MAILTO or you"
        if not mailer:
            yield "there is no /usr/sbin/sendmail here, so cron would throw that away: leave --mail out"
    else:
        yield f"when all is well nothing is said; else a summary is in {outputs.cron_log}, and not mailed"
    yield f"will it work here? runner doctor. What happened? runner logs --out {shlex.quote(night.out)}"
    yield "a night that still runs, or songs that are made, are left alone: starting twice does no harm"
    if windows:
        yield from _WINDOWS
    else:
        awake = f"the machine has to be awake at {hour:02}:{minute:02}"
        yield f"{awake}: cron makes up for no night that was slept"
    for pattern in _patterns(night.files):
        yield f"these files are named one by one; new ones are taken, too, if you give '{pattern}' in quotes"
    if hour in _CHANGING_HOURS:
        yield (
            f"when clocks are changed, {hour:02}:{minute:02} may come twice or not at all; "
            "twice does no harm, an hour before midnight is surer"
        )
    if zone:
        yield f"{hour:02}:{minute:02} is by the machine's clock, which need not be that of TZ={zone} here"


_WINDOWS = (
    "Windows begins the night in a session of WSL that lives as long as the batch; cron would not: WSL stops "
    "with its last session, and cron with it",
    "Windows: stay logged on (locked is fine), leave the window that opens, and set sleep to never, or: "
    "powercfg /change standby-timeout-ac 0",
    ".wslconfig needs nothing for this: vmIdleTimeout counts only while there is no session",
)


def _patterns(files: Sequence[str]) -> Iterator[str]:
    """Of folders of which all files of a kind are named."""
    for folder, suffix in sorted({(Path(each).parent, Path(each).suffix) for each in files}):
        pattern = f"{folder}/*{suffix}"
        mine = {each for each in files if not is_pattern(each)}
        there = set(glob(pattern))  # noqa: PTH207
        if len(there) > 1 and there <= mine:
            yield pattern


# ---------------------------------------------------------------- Windows


def task_name(out: str) -> str:
    """Windows allows no path in it."""
    return f"DiffRhythm Runner {out.replace('/', ' ').strip()}"


def task(night: Night, distro: str) -> str:
    """PowerShell that has Windows begin the night in a session of WSL, which lives as long as the batch.

    Registered for the user, while logged on: WSL cannot be started from Windows's session of services.
    """
    hour, minute = night.at
    arguments = ["-d", distro, "--exec", "/bin/sh", "-c", command_of(night)]
    return "\n".join(
        [
            f"$action = New-ScheduledTaskAction -Execute {_ps(WSL_EXE)} "
            f"-Argument {_ps(subprocess.list2cmdline(arguments))}",
            f"$trigger = New-ScheduledTaskTrigger -Daily -At '{hour:02}:{minute:02}'",
            "$settings = New-ScheduledTaskSettingsSet -WakeToRun -StartWhenAvailable "
            "-AllowStartIfOnBatteries -DontStopIfGoingOnBatteries "
            "-MultipleInstances IgnoreNew -ExecutionTimeLimit ([TimeSpan]::Zero)",
            f"Register-ScheduledTask -TaskName {_ps(task_name(night.out))} -Action $action -Trigger $trigger "
            "-Settings $settings -Force -ErrorAction Stop | Out-Null",
        ]
    )


def untask(out: str) -> str:
    """PowerShell that takes the task away, if it is there."""
    name = _ps(task_name(out))
    return (
        f"if (Get-ScheduledTask -TaskName {name} -ErrorAction SilentlyContinue) "
        f"{{ Unregister-ScheduledTask -TaskName {name} -Confirm:$false -ErrorAction Stop }}"
    )


def _ps(text: str) -> str:
    """A string of PowerShell's that stands for itself. It takes typographic quotes for its own, too."""
    return "'" + re.sub("(['‘’‚‛])", r"\1\1", text) + "'"


# ---------------------------------------------------------------- setting it


def show_json(plan: Plan | None, result: str) -> None:
    """Print what is, or is to be, set; plan: None for what was taken away. result: what was done, or ""."""
    content: dict[str, Any] = {"schema": SCHEMA, "result": result}
    print(json.dumps(content | (asdict(plan) if plan else {}), indent=2, ensure_ascii=False))


def show(plan: Plan, result: str) -> None:
    """Print what is, or is to be, set on stdout, and what is worth knowing of it on stderr."""
    if plan.task:  # all of it may be pasted into PowerShell
        print(
            f"{plan.task}\n# Or in a crontab, if a session of WSL is open all night:\n# {plan.line}",
            flush=True,
        )
    else:
        print(plan.line, flush=True)
    for each in plan.known:
        print(f"- {each}", file=sys.stderr)
    for finding in plan.findings:
        print(f"{finding.name}: {finding.found}; {finding.do}", file=sys.stderr)
    if result:
        print(result, file=sys.stderr)


def install(plan: Plan, out: str) -> str:
    """Have the night begin by itself from now on; what was done, in words. Raises RunnerError."""
    make_folder(Path(out))  # the shell of the night writes there before the batch does
    if plan.task:
        _powershell(plan.task)
        if shutil.which("crontab") is not None:
            _drop_line(out)  # both would begin one and the same night
        return f"set: task {task_name(out)!r} of Windows; runner schedule --remove takes it away"
    before = read_crontab()
    after = with_line(before, plan.line, mark(out))
    if after == before:
        return "set already: nothing was changed"
    write_crontab(after, before)
    return "set: in your crontab; runner schedule --remove takes it away"


def remove(out: str, *, windows: bool) -> str:
    """Have no night begin by itself any more; what was done, in words. Raises RunnerError."""
    if windows:
        _powershell(untask(out))
        if shutil.which("crontab") is not None:
            _drop_line(out)
        return "removed: the task of Windows, if there was one"
    if _drop_line(out):
        return "removed from your crontab; the rest of it is as it was"
    return "was not set: nothing was changed"


def _drop_line(out: str) -> bool:
    """Take our line out of the crontab; was there one?"""
    before = read_crontab()
    after = without(before, mark(out))
    if after != before:
        write_crontab(after, before)
    return after != before


def with_line(crontab: str, line: str, mark: str) -> str:
    """The crontab with our line: in place of the one of this mark, or else as its last."""
    lines = crontab.split("\n")
    ours = [n for n, each in enumerate(lines) if _is_ours(each, mark)]
    if not ours:
        return f"{crontab}{'' if crontab.endswith(chr(10)) or not crontab else chr(10)}{line}\n"
    lines[ours[0]] = line
    return "\n".join(each for n, each in enumerate(lines) if n not in ours[1:])


def without(crontab: str, mark: str) -> str:
    """The crontab as it was before our line came."""
    return "\n".join(each for each in crontab.split("\n") if not _is_ours(each, mark))


def _is_ours(line: str, mark: str) -> bool:
    return line.endswith(f" {in_crontab(mark)}")


def read_crontab() -> str:
    """The user's crontab; "" where there is none. Raises RunnerError."""
    done = _crontab("-l")
    if done.returncode == 0:
        return _text(done.stdout)
    said = _text(done.stderr).strip()
    if "no crontab for" in said:
        return ""
    raise RunnerError(
        f"crontab -l: {said or f'exit code {done.returncode}'}; "
        "/etc/cron.allow and /etc/cron.deny say who may have a crontab"
    )


def write_crontab(after: str, before: str) -> None:
    """Put after in place of before. Raises RunnerError: then the crontab is as it was."""
    _put(after)
    if read_crontab() != after:
        _put(before)
        raise RunnerError("crontab: did not keep the line as it was given; put it in with: crontab -e")


def _put(text: str) -> None:
    """crontab replaces all of it or nothing; one without a line is taken away."""
    done = _crontab("-", text) if text else _crontab("-r")
    if done.returncode != 0:
        said = " ".join(_text(done.stderr).split())
        raise RunnerError(f"crontab: {said}; nothing was changed: mend that with crontab -e, then try again")


def _crontab(option: str, text: str = "") -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(
            ["crontab", option],
            input=text.encode(errors="surrogateescape"),
            capture_output=True,
            env=os.environ | {"LC_ALL": "C"},
            timeout=TOOL_TIMEOUT_S,
            check=False,
        )
    except FileNotFoundError as error:
        raise RunnerError("crontab: there is no such program; get it with: sudo apt install cron") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RunnerError(f"crontab {option}: {error}; put the line in with: crontab -e") from error


def _text(content: bytes) -> str:
    return content.decode(errors="surrogateescape")


def _powershell(script: str) -> None:
    """Run it in Windows, base64 all the way: no quote of ours meets another shell. Raises RunnerError."""
    program = shutil.which("powershell.exe") or POWERSHELL
    code = base64.b64encode(script.encode("utf-16-le")).decode()
    by_hand = "paste what `runner schedule` prints without --install into PowerShell"
    try:
        done = subprocess.run(
            [program, "-NoProfile", "-NonInteractive", "-EncodedCommand", code],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TOOL_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RunnerError(f"{program}: cannot be run from here ({error}); {by_hand}") from error
    if done.returncode != 0:
        said = " ".join(_text(done.stderr).split())[:500]
        raise RunnerError(f"{program}: {said or f'exit code {done.returncode}'}; {by_hand}")
