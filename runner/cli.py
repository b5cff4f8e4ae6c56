"""The command line: parse, call, print. Data goes to stdout, everything else to stderr."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from io import TextIOWrapper
from pathlib import Path
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runner import __version__, complete
from runner.errors import RunnerError, UsageError

if TYPE_CHECKING:
    from runner.finish import End
    from runner.models import Question
    from runner.spec import Song
    from runner.supervise import Job

app = typer.Typer(
    name="runner",
    help="Makes DiffRhythm songs overnight: one watched process per song, nothing lost.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

models = typer.Typer(help="The models that songs are made with.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(models, name="models")

Out = Annotated[Path, typer.Option("--out", help="Folder of the results.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing unless something went wrong.")]
Strict = Annotated[
    bool,
    typer.Option(
        "--strict", help="Exit 1 also for a song made with fewer steps than asked, or left for another night."
    ),
]
Files = Annotated[list[Path], typer.Argument(help="Job files.", metavar="JOB.yaml …", show_default=False)]
_WHICH_SONG = "<job>/<name>, or the name alone where it is unique."
MaybeSong = Annotated[str | None, typer.Argument(help=_WHICH_SONG, autocompletion=complete.songs)]
MadeSong = Annotated[str, typer.Argument(help=_WHICH_SONG, autocompletion=complete.made_songs)]
Preset = Annotated[
    str | None,
    typer.Option(
        help="Quality against time: preview 4 steps, draft 8, standard 12, high 28, max 64, reference 31 as "
        "published; auto: standard, or draft where that takes too long.",
        autocompletion=complete.presets,
    ),
]
Steps = Annotated[int | None, typer.Option(help="Solver steps, in place of the preset's.")]
Cfg = Annotated[float | None, typer.Option(help="Guidance, in place of the preset's.")]
Timeout = Annotated[str | None, typer.Option(help="Time of one attempt, such as 40m.")]
Attempts = Annotated[int | None, typer.Option(help="Attempts that a song may use.")]
Precision = Annotated[
    str | None,
    typer.Option(help="Arithmetic: auto, fp32, bf16 or int8.", autocompletion=complete.precisions),
]
Format = Annotated[str | None, typer.Option(help="wav, flac, mp3 or ogg.", autocompletion=complete.formats)]
FadeOut = Annotated[
    float | None, typer.Option(help="Seconds in which the song's end fades, up to 30, at most half of it.")
]
Foresight = Annotated[
    bool | None,
    typer.Option("--foresight/--no-foresight", help="Take fewer steps at once where time would run out."),
]
Force = Annotated[bool, typer.Option("--force", help="Make everything anew, with new seeds.")]
ModelName = Annotated[
    str,
    typer.Argument(help="diffrhythm-1.2 or diffrhythm-1.2-full.", autocompletion=complete.published_models),
]
Model = Annotated[str, typer.Option(help="Model, or the path of a bundle.", autocompletion=complete.models)]
SourceCopy = Annotated[
    Path | None,
    typer.Option(help="A copy of the repository ASLP-lab/DiffRhythm, instead of fetching its two files."),
]
OnFinish = Annotated[
    str | None,
    typer.Option(
        help="Command to run when the batch has ended, however: it reads the summary as JSON.", metavar="CMD"
    ),
]
Redo = Annotated[
    bool, typer.Option("--redo-degraded", help="Make songs anew that had fewer steps than asked.")
]


@app.command(epilog="Example: runner batch jobs/*.yaml --timeout 30m")
def batch(
    files: Files,
    out: Out = Path("outputs"),
    workers: Annotated[
        int | None, typer.Option(min=1, max=64, help="Songs at once; by default from cores and memory.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Model or bundle, in place of the files'.", autocompletion=complete.models),
    ] = None,
    preset: Preset = None,
    steps: Steps = None,
    cfg: Cfg = None,
    timeout: Timeout = None,
    attempts: Attempts = None,
    precision: Precision = None,
    format: Format = None,
    fade_out: FadeOut = None,
    foresight: Foresight = None,
    cluster: Annotated[
        str | None,
        typer.Option(help="Make them on a Ray cluster: auto, local, HOST:PORT or ray://HOST:PORT."),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(help="Command of another generator, which keeps to docs/reference/worker.md."),
    ] = None,
    force_options: Annotated[
        bool, typer.Option("--force-options", help="Options stand above a song's own keys, too.")
    ] = False,
    force: Force = False,
    redo_degraded: Redo = False,
    strict: Strict = False,
    quiet: Quiet = False,
    on_finish: OnFinish = None,
    until: Annotated[
        str | None,
        typer.Option(help="End by then: 07:00, 8h, or 2026-11-27T07:00; as many songs as fit come first."),
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Only say what would be made, and when; make nothing.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="With --plan: print JSON.")] = False,
) -> None:
    """Make all songs of the job files, each in its own watched process.

    What is already made is skipped, what was interrupted goes on where it was.
    """
    from runner import finish
    from runner.batch import Options
    from runner.songfolder import Outputs
    from runner.spec import Overrides, load
    from runner.until import until as ending

    if json and not plan:
        raise UsageError("--json: goes with --plan; `runner status --json` tells of a batch that runs")
    ends = None if until is None else ending(until)
    program = () if engine is None else _command(engine)
    settings = {
        "preset": preset,
        "steps": steps,
        "cfg": cfg,
        "timeout": timeout,
        "attempts": attempts,
        "precision": precision,
        "format": format,
        "fade_out": fade_out,
        "foresight": foresight,
    }
    overrides = Overrides(settings, model=model, force=force_options)
    options = Options(workers, force, redo_degraded, strict, ends, cluster)
    if plan:
        _plan(load(files, overrides), out, options, engine=program, quiet=quiet, json=json)
        return
    with finish.told(Outputs(out), finish.parse(on_finish)) as end:
        _make(load(files, overrides), out, options, end, engine=program, quiet=quiet)
    raise typer.Exit(end.exit_code)


@app.command(epilog='Example: runner sing --lyrics song.lrc --style "pop song" --duration 95')
def sing(
    lyrics: Annotated[
        str | None, typer.Option(help="Timed lyrics (.lrc), or the lines themselves; without: instrumental.")
    ] = None,
    style: Annotated[str | None, typer.Option(help="How it should sound, in words.")] = None,
    style_audio: Annotated[
        str | None, typer.Option(help="A clip of at least 10 s, in place of --style.")
    ] = None,
    duration: Annotated[float | None, typer.Option(help="Seconds.")] = None,
    window: Annotated[
        float | None, typer.Option(help="Seconds of the overlapping windows that a longer song is made in.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of its folder; by default the lyrics file's.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Number that the noise is drawn from.")] = None,
    model: Model = "demo",
    preset: Preset = None,
    steps: Steps = None,
    cfg: Cfg = None,
    timeout: Timeout = None,
    attempts: Attempts = None,
    precision: Precision = None,
    format: Format = None,
    fade_out: FadeOut = None,
    foresight: Foresight = None,
    out: Out = Path("outputs"),
    force: Force = False,
    redo_degraded: Redo = False,
    strict: Strict = False,
    quiet: Quiet = False,
) -> None:
    """Make one song without a job file, supervised the same."""
    from runner import finish
    from runner.batch import Options
    from runner.songfolder import Outputs
    from runner.spec import single

    settings: Mapping[str, Any] = {
        "lyrics": lyrics,
        "style": style,
        "style_audio": style_audio,
        "duration": duration,
        "window": window,
        "name": name,
        "seed": seed,
        "preset": preset,
        "steps": steps,
        "cfg": cfg,
        "timeout": timeout,
        "attempts": attempts,
        "precision": precision,
        "format": format,
        "fade_out": fade_out,
        "foresight": foresight,
    }
    with finish.told(Outputs(out)) as end:
        song = single(settings, model=model)
        _make([song], out, Options(1, force, redo_degraded, strict), end, quiet=quiet)
    raise typer.Exit(end.exit_code)


@app.command(epilog="Example: runner again harbour-lights --seed 8 --preset high")
def again(
    song: MadeSong,
    seed: Annotated[int | None, typer.Option(help="Another seed.")] = None,
    preset: Preset = None,
    steps: Steps = None,
    cfg: Cfg = None,
    precision: Precision = None,
    format: Format = None,
    fade_out: FadeOut = None,
    timeout: Timeout = None,
    attempts: Attempts = None,
    name: Annotated[
        str | None,
        typer.Option(help="What its name ends in, after a dot; by default what is varied, such as seed-8."),
    ] = None,
    out: Out = Path("outputs"),
    quiet: Quiet = False,
) -> None:
    """Make a finished song once more from its manifest, as it was or varied, beside the first one.

    Without an option it says whether this is the same sound, sample for sample.
    """
    from runner import again as once_more
    from runner import finish
    from runner.batch import Options
    from runner.songfolder import Outputs

    options = {
        "seed": seed,
        "preset": preset,
        "steps": steps,
        "cfg": cfg,
        "precision": precision,
        "format": format,
        "fade_out": fade_out,
        "timeout": timeout,
        "attempts": attempts,
    }
    outputs = Outputs(out)
    made = once_more.find_made(outputs, song)
    other = once_more.song(made, options, name=name)
    with finish.told(outputs) as end:
        _make([other], out, Options(1), end, quiet=quiet)
    if not quiet and (line := once_more.compared(made, outputs, other)):
        typer.echo(line)
    raise typer.Exit(end.exit_code)


@app.command(epilog='Example: runner new lyrics/ --style "folk, guitar" --out jobs/mine.yaml')
def new(
    folder: Annotated[Path, typer.Argument(help="Folder with timed lyrics (.lrc).")],
    out: Annotated[
        Path | None, typer.Option(help="The job file; by default the folder's name with .yaml, here.")
    ] = None,
    style: Annotated[str | None, typer.Option(help="How the songs should sound, in words.")] = None,
    model: Model = "demo",
    force: Annotated[bool, typer.Option("--force", help="Write over a job file that is there.")] = False,
) -> None:
    """Write a job file with a song for each lyrics file of a folder, with comments to go on from."""
    from runner import newjob

    sheets, left_out = newjob.read_folder(folder)
    file = out or Path(re.sub(r"[^\w -]", "-", folder.resolve().name) + ".yaml")
    newjob.write(sheets, file, model=model, style=style, force=force)
    for line in left_out:
        typer.echo(line, err=True)
    typer.echo(file)


@app.command(epilog="Example: runner check jobs/*.yaml")
def check(
    files: Files,
    lines: Annotated[
        bool, typer.Option("--lines", help="Show every line of the lyrics, not only those too dense.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, with every line.")] = False,
) -> None:
    """Say whether the job files can be made, and how, without making anything.

    A line of lyrics takes so many frames (21.5 a second) of those that it has up to the next line. Where it
    takes more, the next one begins late; with more than 15 sounds a second it is too quick to be understood.
    """
    from runner import lyricsheet
    from runner.check import check as ask
    from runner.spec import load

    songs = load(files)
    answers = ask(songs, lines=True, say=partial(typer.echo, err=True))
    if json:
        from json import dumps

        typer.echo(dumps(lyricsheet.as_json(answers), indent=2, ensure_ascii=False, allow_nan=False))
        return
    width, above, said = get_terminal_size((120, 24)).columns, None, ""
    for song, answer in zip(songs, answers, strict=True):
        choice = answer.choice.partition(" (")[0] if answer.choice == said else answer.choice  # why, once
        typer.echo(f"{song.id}: {round(answer.duration, 1):g} s, {choice}, {answer.precision}")
        said = answer.choice
        rows = answer.lines if lines else lyricsheet.dense(answer.lines)
        if rows and rows != above:  # takes have the same ones
            typer.echo("\n".join(lyricsheet.sheet(rows, width)))
        above = rows
        _warn(song, answer.warnings)


@app.command(epilog="Example: runner status --watch")
def status(
    song: MaybeSong = None,
    out: Out = Path("outputs"),
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Refresh until the batch ends.")] = False,
) -> None:
    """Show how every song stands, from the files in the results' folder alone."""
    from runner.songfolder import Outputs
    from runner.status import show

    raise typer.Exit(show(Outputs(out), json=json, watch=watch, song=song))


@app.command(epilog="Example: runner report --open")
def report(
    out: Out = Path("outputs"),
    open: Annotated[bool, typer.Option("--open", help="Show it in a browser.")] = False,
    embed: Annotated[
        bool, typer.Option("--embed", help="Write report-to-send.html, with the sounds in it as mp3.")
    ] = False,
) -> None:
    """Write the page of all songs, with players: report.html beside them. A batch does so at its end."""
    from runner.report import show
    from runner.songfolder import Outputs

    raise typer.Exit(show(Outputs(out), open_it=open, embed=embed))


@app.command(epilog="Example: runner logs harbour-lights -f")
def logs(
    song: MaybeSong = None,
    out: Out = Path("outputs"),
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the song, or the night, ends.")
    ] = False,
    attempt: Annotated[int | None, typer.Option(min=1, help="An earlier attempt's.")] = None,
    level: Annotated[
        str | None, typer.Option(help="Of the night: debug, info (as usual), warning or error, and worse.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Of the night: a JSON object a line.")] = False,
) -> None:
    """Print what happened in the newest night, or what a song's newest attempt has said."""
    from runner.logs import level_of, show, show_night
    from runner.songfolder import Outputs

    outputs = Outputs(out)
    if song is None:
        if attempt is not None:
            raise UsageError("--attempt: of which song? name it: runner logs SONG --attempt N")
        raise typer.Exit(show_night(outputs, level_of(level), follow=follow, json=json))
    if level is not None or json:
        raise UsageError(f"{song}: a song's log has no levels and is no JSON; leave --level and --json out")
    raise typer.Exit(show(outputs, song, follow=follow, attempt=attempt))


@app.command(epilog="Example: runner stop")
def stop(song: MaybeSong = None, out: Out = Path("outputs")) -> None:
    """Stop the batch, or one song of it; the same command goes on later where it was."""
    from runner.songfolder import Outputs
    from runner.stop import stop as end

    raise typer.Exit(end(Outputs(out), song))


@app.command(epilog="Example: runner doctor --model diffrhythm-1.2")
def doctor(
    model: Annotated[
        str | None,
        typer.Option(
            help="Model or bundle; by default the demo and the published ones here.",
            autocompletion=complete.models,
        ),
    ] = None,
    out: Out = Path("outputs"),
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure again how fast this machine calculates.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say whether tonight will work on this machine, and what to do where it won't."""
    from runner.doctor import as_json, diagnose, examine, show, works
    from runner.machine import read

    machine, half = read(out), examine(model, measure=measure, say=partial(typer.echo, err=True))
    findings = diagnose(machine, half)
    if json:
        from json import dumps

        typer.echo(dumps(as_json(machine, half, findings), indent=2, ensure_ascii=False))
    else:
        show(findings, None if isinstance(half, str) else half.arithmetic)
    raise typer.Exit(0 if works(findings) else 1)


@app.command(epilog="Example: runner schedule 'jobs/*.yaml' --at 23:30 --install")
def schedule(
    files: Annotated[
        list[str] | None,
        typer.Argument(
            help="Job files. A pattern in quotes is looked up anew every night.",
            metavar="JOB.yaml …",
            show_default=False,
        ),
    ] = None,
    at: Annotated[str | None, typer.Option(help="When the night begins, such as 23:30.")] = None,
    until: Annotated[str | None, typer.Option(help="As of batch: when it is to end, such as 07:00.")] = None,
    out: Out = Path("outputs"),
    on_finish: OnFinish = None,
    mail: Annotated[
        bool, typer.Option("--mail", help="Have cron mail what goes wrong, in place of writing cron.log.")
    ] = False,
    install: Annotated[bool, typer.Option("--install", help="Set it, for every night from now on.")] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Take it away again.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print what has a batch begin every night by itself, and with --install set it.

    That is a line of your crontab or, on WSL, a task of Windows. What is in the crontab besides stays.
    """
    from runner import schedule as nights

    if install and remove:
        raise UsageError("--install and --remove: one or the other")
    if remove:
        result = nights.remove(nights.absolute(out), windows=nights.on_windows())
        if json:
            nights.show_json(None, result)
        else:
            typer.echo(result, err=True)
        return
    if not files or at is None:
        raise UsageError("which songs, and when? say: runner schedule 'jobs/*.yaml' --at 23:30")
    night = nights.night_of(
        files, at=at, until=until, out=out, on_finish=on_finish, mail=mail, environ=os.environ
    )
    nights.check(night)
    plan = nights.plan_here(night)
    result = nights.install(plan, night.out) if install else ""
    if json:
        nights.show_json(plan, result)
    else:
        nights.show(plan, result)
    raise typer.Exit(1 if install and plan.findings else 0)


@app.command(epilog="Example: runner schema > job.schema.json")
def schema() -> None:
    """Print the JSON Schema of a job file, for editors."""
    import json

    from runner.spec import json_schema

    typer.echo(json.dumps(json_schema(), indent=2, ensure_ascii=False))


@models.command("list", epilog="Example: runner models list")
def list_models(json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Show the models that have a name: here or not, size, durations, folder."""
    from runner.models import SCHEMA, Model, Question, ask, table

    answer = ask(Question("list"))
    answer.raise_problems()
    if json:
        from json import dumps

        typer.echo(dumps({"schema": SCHEMA, "models": answer.models}, indent=2, ensure_ascii=False))
    else:
        typer.echo("\n".join(table([Model(**row) for row in answer.models])))


@models.command(epilog="Example: runner models pull diffrhythm-1.2")
def pull(name: ModelName, source: SourceCopy = None) -> None:
    """Fetch a published model and convert it; goes on where an earlier pull stopped.

    Where int8 can be faster, the model is calibrated for it.
    """
    from runner.models import Question

    _ask_models(Question("pull", name, source=_absolute(source)))
    _calibrate(name, unasked=True)


@models.command(
    "import",
    epilog="Example: runner models import diffrhythm-1.2 --dit cfm_model.pt "
    "--vae vae_model.pt --source ~/DiffRhythm",
)
def import_model(
    name: ModelName,
    dit: Annotated[Path, typer.Option(help="The published cfm_model.pt.")],
    vae: Annotated[Path, typer.Option(help="The published vae_model.pt.")],
    source: Annotated[Path, typer.Option(help="A copy of the repository ASLP-lab/DiffRhythm.")],
) -> None:
    """Convert a published model from files that are here already.

    Where int8 can be faster, the model is calibrated for it.
    """
    from runner.models import Question

    _ask_models(Question("import", name, dit=_absolute(dit), vae=_absolute(vae), source=_absolute(source)))
    _calibrate(name, unasked=True)


@models.command(epilog="Example: runner models verify")
def verify(
    name: Annotated[
        str | None,
        typer.Argument(
            help="A model or the folder of a bundle; all by default.", autocompletion=complete.models
        ),
    ] = None,
) -> None:
    """Read every byte of the models that are here and say whether one has changed."""
    from runner.models import Question

    _ask_models(Question("verify", name))


@models.command(epilog="Example: runner models tune diffrhythm-1.2")
def tune(
    name: Annotated[
        str,
        typer.Argument(help="A model or the folder of a bundle.", autocompletion=complete.models),
    ],
    songs: Annotated[int, typer.Option(help="Songs to judge by, 1 to 3.")] = 3,
    steps: Annotated[str, typer.Option(help="Numbers of steps to find grids of.")] = "6,8,10,12,16",
) -> None:
    """Find a model's best time grids on this machine, and whether int8 harms it. Hours; goes on if stopped.

    Presets and songs with one of these numbers of steps use what was found.
    """
    from runner.errors import ModelError
    from runner.models import Question, ask_long

    try:
        numbers = [int(number) for number in steps.split(",")]
    except ValueError as error:
        raise ModelError(f"steps {steps!r}: --steps: give whole numbers, such as 6,8,12") from error
    model = _name_or_folder(name)
    _calibrate(model, unasked=True)  # first: int8 is judged in the form that it will have
    answer = ask_long(Question("tune", model, songs=songs, steps=numbers))
    for line in answer.words:
        typer.echo(line)
    answer.raise_problems()


@models.command(epilog="Example: runner models calibrate diffrhythm-1.2")
def calibrate(
    name: Annotated[
        str,
        typer.Argument(help="A model or the folder of a bundle.", autocompletion=complete.models),
    ],
    songs: Annotated[int, typer.Option(help="Songs to calibrate on, 1 to 3.")] = 3,
) -> None:
    """Find static int8 for a model and measure its error. Minutes; goes on if stopped.

    Songs in int8 use it where it is at least as good as int8 without it.
    """
    _calibrate(_name_or_folder(name), songs)


@models.command(epilog="Example: ls $(runner models path diffrhythm-1.2)")
def path(
    name: Annotated[
        str,
        typer.Argument(help="demo, diffrhythm-1.2 or diffrhythm-1.2-full.", autocompletion=complete.models),
    ],
) -> None:
    """Print the folder of a model that is here."""
    from runner.models import Question, ask

    answer = ask(Question("path", name))
    answer.raise_problems()
    typer.echo(answer.folder)


@app.callback(invoke_without_command=True)
def _top(
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


def _make(
    songs: list[Song], out: Path, options: Any, end: End, *, quiet: bool, engine: tuple[str, ...] = ()
) -> None:
    from runner import check as checks
    from runner import outlook, report, view
    from runner.batch import run
    from runner.songfolder import Outputs
    from runner.supervise import House

    outputs = Outputs(out)
    if out.exists():
        with outputs.locked():
            pass  # say that they are taken before anybody waits for the check
    jobs = _checked(songs, quiet=quiet, engine=engine)
    house = House(mark="", worker=(*engine, "sing")) if engine else None

    def announce(seen: outlook.Outlook) -> None:
        if not quiet:
            typer.echo("\n".join(outlook.lines(seen)), err=True)

    if not engine and options.cluster is None:
        options = replace(options, check_again=checks.answered)
    with view.live(outputs, quiet=quiet, tell=end.journal.tell) as show:
        ended = run(jobs, outputs, options, show=show, house=house, announce=announce)
    end.exit_code, end.problem = ended.exit_code(strict=options.strict), ended.problem
    end.report, page = report.at_end(outputs)
    if not quiet or end.exit_code:
        view.summary(outputs)
        if options.until is not None:
            for line in outlook.closing(ended.songs, options.until.wall):
                typer.echo(line, err=True)
        typer.echo(page, err=True)
    if ended.problem:
        typer.echo(ended.problem, err=True)


def _plan(
    songs: list[Song], out: Path, options: Any, *, quiet: bool, json: bool, engine: tuple[str, ...]
) -> None:
    from runner import outlook
    from runner.batch import foresee
    from runner.songfolder import Outputs

    seen = foresee(_checked(songs, quiet=quiet, engine=engine), Outputs(out), options)
    if json:
        from json import dumps

        typer.echo(dumps(outlook.as_json(seen), indent=2, ensure_ascii=False, allow_nan=False))
    else:
        typer.echo("\n".join(outlook.table(seen)))


def _checked(songs: list[Song], *, quiet: bool, engine: tuple[str, ...] = ()) -> list[Job]:
    """The songs as jobs, with what there is to say of them beforehand."""
    from runner import manifest
    from runner.check import WORKER
    from runner.check import check as ask
    from runner.supervise import Job

    say = None if quiet else partial(typer.echo, err=True)
    answers = ask(songs, worker=(*engine, "check") if engine else WORKER, say=say)
    if not quiet:
        for choice in dict.fromkeys(answer.choice for answer in answers):
            typer.echo(choice, err=True)
        for song, answer in zip(songs, answers, strict=True):
            _warn(song, answer.warnings)
    return [
        Job(song, answer, manifest.fingerprint(song, answer))
        for song, answer in zip(songs, answers, strict=True)
    ]


def _command(text: str) -> tuple[str, ...]:
    """A command's words, its program found."""
    import shlex
    import shutil

    try:
        program, *rest = shlex.split(text)
    except ValueError as error:
        raise UsageError(
            f"{text!r}: --engine: is no command ({error}); give a program and its words"
        ) from error
    found = shutil.which(program)
    if found is None:
        raise UsageError(f"{program}: --engine: there is no such program; check its name")
    return (found, *rest)


def _absolute(path: Path | None) -> str | None:
    return None if path is None else str(path.absolute())


def _ask_models(question: Question) -> None:
    from runner.models import ask

    answer = ask(question)
    for line in answer.words:
        typer.echo(line)
    answer.raise_problems()


def _calibrate(name: str, songs: int = 3, *, unasked: bool = False) -> None:
    from runner.models import Question, ask_long

    answer = ask_long(Question("calibrate", name, songs=songs, unasked=unasked))
    for line in answer.words:
        typer.echo(line)
    answer.raise_problems()


def _name_or_folder(name: str) -> str:
    here = Path(name)
    return str(here.absolute()) if here.is_dir() else name


def _warn(song: Song, warnings: list[str]) -> None:
    for warning in warnings:
        typer.echo(f"{song.id}: {warning}", err=True)


def main() -> None:
    """The console script. An error of ours is one line (or one a problem) on stderr and its exit code."""
    _print_anything()
    os.umask(os.umask(0) | 0o022)  # whatever it was: what we write, only its owner writes again
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _end)
    try:
        app()
    except RunnerError as error:
        typer.echo(str(error), err=True)
        sys.exit(error.exit_code)


def _print_anything() -> None:
    """Names of songs and files may hold what stdout has no letters for, or be no UTF-8 at all."""
    if isinstance(sys.stdout, TextIOWrapper) and sys.stdout.errors == "strict":
        is_utf_8 = sys.stdout.encoding.lower().replace("_", "-") == "utf-8"
        sys.stdout.reconfigure(errors="surrogateescape" if is_utf_8 else "backslashreplace")


def _end(number: int, _frame: object) -> None:
    """End as a signal asks, but by way of every `finally`; a batch that runs has handlers of its own."""
    typer.echo("stopped; the same command goes on", err=True)
    sys.exit(128 + number)


if __name__ == "__main__":
    main()
