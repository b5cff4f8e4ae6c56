"""What the documents tell people to type works: every block of a page is run, or says why it is not."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import pytest
import typer

from runner import cli, finish, messages, night, outlook
from runner.forecast import Forecast
from runner.jobfile import JobFile, SongSpec
from runner.journal import Journal
from runner.songfolder import Outputs
from runner.spec import load

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
OTHERS = [ROOT / name for name in ("ARCHITECTURE.md", "CHANGELOG.md", "SECURITY.md")]
SHELL = {"sh", "crontab", "powershell"}
REASONS = {
    "needs the network",
    "needs the published weights",
    "needs root",
    "of Windows",
    "takes minutes",
    "takes hours",
    "needs a cluster",
    "would change the crontab",
    # Each song made here costs some ten seconds, so each way of making one is run once.
    "another page runs it",
    "other tests make such songs",
    "other tests do it",
}

# What the doctor says is no fault of a page, and he takes his time; so only his options are checked.
DOCTOR = re.compile(r"(\.venv/bin/)?runner doctor\b")
# It is the same on all pages.
OF_THE_MACHINE = re.compile(r"(\.venv/bin/)?runner (--version|models (list|verify))\b")

# A short job for the pages that are not about writing one.
JOB = """\
model: demo
songs:
  - {name: harbour-lights, lyrics: lyrics/short.lrc, style: pop, duration: 3, preset: preview, seed: 7}
"""
LYRICS = "[00:00.50]Carry me home\n"


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    language: str
    title: str
    mark: str  # of the comment before it: "not run: …", "exit code …"
    text: str

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def commands(self) -> list[str]:
        whole = self.text.replace("\\\n", " ").splitlines()
        return [line for line in whole if line.strip() and not line.startswith("#")]


def blocks(page: Path) -> list[Block]:
    found = re.finditer(
        r"(?:^<!-- (?P<mark>[^\n]+) -->\n)?^```(?P<language>\w+)(?: title=\"(?P<title>[^\"]+)\")?\n"
        r"(?P<text>.*?)^```$",
        text := page.read_text(),
        re.MULTILINE | re.DOTALL,
    )
    return [
        Block(
            page,
            text.count("\n", 0, each.start("language")) + 1,
            each["language"],
            each["title"] or "",
            each["mark"] or "",
            each["text"],
        )
        for each in found
    ]


BLOCKS = [block for page in PAGES for block in blocks(page)]
RUN = [page for page in PAGES if any(block.language in ("sh", "yaml", "python") for block in blocks(page))]


def reference() -> ModuleType:
    """The hook that makes the pages of the reference."""
    place = importlib.util.spec_from_file_location("reference", ROOT / "docs" / "reference.py")
    assert place is not None
    assert place.loader is not None
    module = importlib.util.module_from_spec(place)
    place.loader.exec_module(module)
    return module


# ---------------------------------------------------------------- what can be run


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN, ids=lambda page: page.stem)
def test_every_block_of_a_page_works_in_the_pages_order(page: Path, made: Path, tmp_path: Path) -> None:
    songs = a_folder_for_songs(tmp_path / "songs")
    shutil.copytree(made, songs / "outputs", dirs_exist_ok=True)
    script = ""
    for block in blocks(page):
        if block.title:
            (songs / block.title).parent.mkdir(exist_ok=True)
            (songs / block.title).write_text(block.text)
        if block.language == "sh" and not block.mark.startswith("not run: "):
            for command in block.commands:
                run(command, songs, block)
        if block.language == "yaml":
            file = songs / (block.title or f"jobs/line-{block.line}.yaml")
            file.write_text(block.text)
            assert load([file]), block.place
        if block.language == "python":
            script += block.text
    if script:
        in_shell(f"{shlex.quote(sys.executable)} -c {shlex.quote(script)}", songs).check_returncode()
    assert undocumented(songs / "outputs") == {}


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The outputs of jobs/mine.yaml, made once: the batches of the pages find it there."""
    songs = a_folder_for_songs(tmp_path_factory.mktemp("made") / "songs")
    in_shell("runner batch jobs/mine.yaml --quiet", songs).check_returncode()
    return songs / "outputs"


def a_folder_for_songs(folder: Path) -> Path:
    shutil.copytree(ROOT / "jobs" / "lyrics", folder / "jobs" / "lyrics")
    (folder / "jobs" / "lyrics" / "short.lrc").write_text(LYRICS)
    (folder / "jobs" / "mine.yaml").write_text(JOB)
    (folder / "jobs" / "harbour-lights.wav").touch()  # that it is there is all that loading asks
    (folder / "song.lrc").write_text(LYRICS)
    (folder / "outputs").mkdir()
    shutil.copy(ROOT / "tests" / "contract" / "engine.py", folder / "my_engine.py")
    (folder / ".venv").symlink_to(Path(sys.prefix))
    return folder


def run(command: str, folder: Path, block: Block) -> None:
    if DOCTOR.match(command):
        return
    if OF_THE_MACHINE.match(command):
        code, said = of_the_machine(command.partition("#")[0].removeprefix(".venv/bin/").strip())
    else:
        done = in_shell(command, folder)
        code, said = done.returncode, done.stdout + done.stderr
    expected = int(match[1]) if (match := re.match(r"exit code (\d+):", block.mark)) else 0
    assert code == expected, f"{block.place}: {command}: exit code {code}\n{said}"


@cache
def of_the_machine(command: str) -> tuple[int, str]:
    done = in_shell(command, ROOT)
    return done.returncode, done.stdout + done.stderr


def in_shell(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=folder,
        env={
            **os.environ,
            "PATH": f"{Path(sys.prefix) / 'bin'}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "XDG_CACHE_HOME": str(folder / ".cache")
            if folder != ROOT
            else os.environ.get("XDG_CACHE_HOME", ""),
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=900,
    )


def undocumented(outputs: Path) -> dict[str, set[str]]:
    """Names of files under outputs, and keys of manifests, that the reference does not tell of."""
    pages = reference()
    known = {re.sub(r"\bN\b", "1", name) for name, _ in pages.FILES_OF_A_SONG}
    known |= {f"song.{each}" for each in get_args(messages.Format)} | {"song.json"}
    found: dict[str, set[str]] = {}
    for song in outputs.glob("*/*"):
        names = {str(file.relative_to(song)) for file in song.rglob("*") if file.is_file()}
        names = {re.sub(r"/\d+/", "/1/", name) for name in names} - known
        keys = set(json.loads((song / "song.json").read_text())) - set(pages.MANIFEST_KEYS)
        if names or keys:
            found[song.name] = names | keys
    return found


# ---------------------------------------------------------------- what is not run here


def test_what_is_not_run_says_why_and_is_little() -> None:
    marks = [block.mark for block in BLOCKS if block.mark]
    reasons = [mark.removeprefix("not run: ") for mark in marks if not re.match(r"exit code \d+: ", mark)]
    assert set(reasons) <= REASONS
    assert len(reasons) < sum(block.language in SHELL for block in BLOCKS) / 2


def test_every_block_has_a_language_that_is_known_here() -> None:
    known = SHELL | {"yaml", "python", "json", "lrc", "ini", "text"}
    assert {block.language for block in BLOCKS} <= known
    for page in PAGES:
        fences = len(re.findall("^ *```", page.read_text(), re.MULTILINE))
        assert fences == 2 * len(blocks(page)), f"{page}: a block without a language, or within a list"


def test_no_command_hides_in_an_indented_block() -> None:
    hidden = re.compile(r"^(?: {4}|\t)(?:\$ |make |runner |\.venv/|python -m )", re.MULTILINE)
    assert [page.name for page in PAGES if hidden.search(outside_blocks(page))] == []


def outside_blocks(page: Path) -> str:
    return re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def test_every_command_that_is_not_run_has_options_that_exist() -> None:
    wrong = [
        f"{block.place}: {complaint}"
        for block in BLOCKS
        if block.language in SHELL
        for line in block.commands
        for complaint in complaints(line)
    ]
    assert wrong == []


def test_every_command_in_a_line_of_text_exists() -> None:
    wrong = [
        f"{page.name}: {complaint}"
        for page in PAGES + OTHERS
        for code in re.findall(r"`([^`]+)`", outside_blocks(page))
        for complaint in complaints(code, whole=False)
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("runner batch jobs/*.yaml --quiet >> outputs/cron.log 2>&1", False),
        ("cd songs && .venv/bin/runner batch a.yaml --quite", True),
        ("runner batch", True),
        ("runner btach a.yaml", True),
        ("runner models pul diffrhythm-1.2", True),
        ("make setup EXTRA=mulan", False),
        ("make dmeo", True),
        ("python -m benchmarks.quality --songs 7", False),
        ("python -m benchmarks.quality --sogns 7", True),
        ("python -m benchmarks.qualitty", True),
    ],
)
def test_a_slip_in_a_command_is_seen(line: str, wrong: bool) -> None:
    assert bool(list(complaints(line))) is wrong


def complaints(line: str, *, whole: bool = True) -> Iterator[str]:
    """What is wrong with the commands of ours in a line; whole: it is meant to be typed as it stands."""
    for command in parted(shlex.split(line, comments=True) if whole else line.split()):
        if Path(command[0]).name == "runner" and len(command) > 1:
            yield from parse(command[1:]) if whole else known(command[1:])
        elif command[0] == "make" and len(command) > 1:
            targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
            yield from (
                f"no target {word}" for word in command[1:] if "=" not in word and word not in targets
            )
        elif command[:2] == ["python", "-m"] and command[2].startswith(("benchmarks", "training")):
            yield from module_complaints(command[2], command[3:])


def parted(words: Sequence[str]) -> Iterator[list[str]]:
    """The commands of a line, without what the shell does with their streams."""
    command: list[str] = []
    last = ""
    for word in [*words, ";"]:
        if word in ("&&", "||", "|", ";", "&"):
            if command:
                yield command
            command = []
        elif not re.match(r"[0-9]?[<>]", word) and not re.fullmatch(r"[0-9]?[<>]+", last):
            command.append(word)
        last = word


@cache
def program() -> Any:
    """All commands and options, as Typer makes them of the functions."""
    return typer.main.get_command(cli.app)


def parse(arguments: list[str]) -> Iterator[str]:
    """What the command line would say of these arguments, before it would begin to act."""
    command = program()
    rest = list(arguments)
    while rest and hasattr(command, "commands") and rest[0] in command.commands:
        command = command.commands[rest.pop(0)]
    if hasattr(command, "commands"):
        yield from known(arguments)
        return
    try:
        command.make_context("runner", rest)
    except Exception as error:  # noqa: BLE001 (its kinds are Typer's own, and differ by version)
        if type(error).__name__ != "Exit":
            yield f"{' '.join(arguments)}: {error}"


def known(words: list[str]) -> Iterator[str]:
    """Commands and options in a text, where what they are given may be left out."""
    command = program()
    for word in words:
        if hasattr(command, "commands") and not word.startswith("-"):
            if word not in command.commands:
                yield f"no command {word}"
                return
            command = command.commands[word]
        elif re.match(r"--?[a-z]", word):
            options = {name for one in command.params for name in [*one.opts, *one.secondary_opts]}
            if word.partition("=")[0].rstrip(".,;") not in options | {"--help", "-h"}:
                yield f"no option {word}"


def module_complaints(module: str, words: list[str]) -> Iterator[str]:
    file = (ROOT / module.replace(".", "/")).with_suffix(".py")
    if not file.is_file():
        yield f"no module {module}"
        return
    yield from (
        f"{module} has no {word}"
        for word in words
        if word[:2] == "--" and f'"{word}"' not in file.read_text()
    )


# ---------------------------------------------------------------- the reference, and the site


def test_the_reference_tells_of_every_command_option_key_message_and_cause() -> None:
    pages = reference().pages()
    top = program()
    for name, command in reference().commands(top, "runner"):
        assert f"## {name}\n" in pages["cli"]
        assert all(
            option in pages["cli"] for one in command.params for option in one.opts if option[0] == "-"
        )
    for key in [*JobFile.model_fields, *SongSpec.model_fields]:
        assert f"| `{key}` |" in pages["job-file"], key
    for kind in (messages.Heartbeat, messages.Outcome, messages.SongRequest, messages.Batch):
        assert all(f"| `{field}` |" in pages["files"] for field in kind.__dataclass_fields__)
    assert all(f"| `{cause}` |" in pages["causes"] for cause in get_args(messages.Cause))


def test_the_reference_tells_of_every_key_that_programs_are_handed(tmp_path: Path) -> None:
    told = reference()
    ended = finish.summary(Outputs(tmp_path), None, finish.End(Journal(Outputs(tmp_path))))
    assert list(ended) == [key for key, _ in told.TOLD_AT_THE_END]
    song = night.Song("night/rain", Forecast(1.0, 1.0), steps=4, least=2, asked=4)
    plan = outlook.as_json(outlook.Outlook(night.plan([song], [0.0], None), made=0, workers=1, wall=0.0))
    assert list(plan) == [key for key, _ in told.PLANNED]
    assert list(plan["songs"][0]) == [key for key, _ in told.PLANNED_SONG]


def test_the_examples_of_the_commands_are_right() -> None:
    examples = re.findall(r"^Example: `(.+)`$", reference().command_line(), re.MULTILINE)
    assert len(examples) >= 10
    assert [complaint for example in examples for complaint in complaints(example)] == []


class Links(HTMLParser):
    """What a page fetches when it is read, and where its links lead."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        named = dict(attributes)
        if tag in ("script", "img", "iframe"):
            self.fetched.append(named.get("src") or "")
        elif tag == "link" and named.get("rel") != "canonical":
            self.fetched.append(named.get("href") or "")


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_fetches_nothing_from_elsewhere(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path / "site"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    pages = sorted((tmp_path / "site").rglob("*.html"))
    assert {"index.html", "tutorial.html", "cli.html", "library.html", "quality.html"} <= {
        page.name for page in pages
    }
    for page in pages:
        links = Links()
        links.feed(page.read_text())
        assert [link for link in links.fetched if re.match(r"(https?:)?//", link)] == [], page.name
