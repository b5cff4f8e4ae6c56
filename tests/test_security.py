"""As SECURITY.md has it: no shell, no code out of data, children without secrets, files of one's own."""

from __future__ import annotations

import ast
import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from runner import processes
from runner.errors import SpecError
from runner.spec import load
from tests.faults.batches import ROOT

CODE = [
    file
    for package in ("runner", "diffrhythm", "training", "benchmarks")
    for file in (ROOT / package).rglob("*.py")
]
FORBIDDEN = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "os.execvp", "os.spawnv",
    "pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.loads", "shelve.open", "joblib.load",
    "yaml.load", "yaml.unsafe_load", "yaml.full_load", "yaml.load_all", "subprocess.getoutput",
    "subprocess.getstatusoutput", "asyncio.create_subprocess_shell", "shutil.unpack_archive",
}  # fmt: skip
# Keywords that do the same, by what else they may be.
SAFE = {"shell": "False", "allow_pickle": "False", "weights_only": "True"}


def unsafe(tree: ast.AST) -> Iterator[str]:
    """Calls in the code that run a shell, or make code of data."""
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = ast.unparse(call.func)
        keywords = {str(each.arg): ast.unparse(each.value) for each in call.keywords}
        wrong = any(keywords.get(keyword, safe) != safe for keyword, safe in SAFE.items())
        if name in FORBIDDEN or wrong or (name == "torch.load" and "weights_only" not in keywords):
            yield f"{call.lineno}: {ast.unparse(call)}"


def test_nowhere_is_a_shell_started_or_code_made_of_data() -> None:
    assert len(CODE) > 50
    assert [f"{file}:{words}" for file in CODE for words in unsafe(ast.parse(file.read_text()))] == []


@pytest.mark.parametrize(
    "code",
    [
        "subprocess.run(x, shell=True)",
        "os.system(x)",
        "pickle.loads(x)",
        "torch.load(x)",
        "np.load(x, allow_pickle=True)",
        "yaml.load(x, Loader=y)",
    ],
)
def test_such_a_call_would_be_found(code: str) -> None:
    assert len(list(unsafe(ast.parse(code)))) == 1


def test_children_get_what_they_need_of_the_environment_and_no_secrets() -> None:
    needed = "PATH HOME LANG LC_ALL TZ XDG_CACHE_HOME TMPDIR PYTHONPATH HF_HOME HF_HUB_CACHE OMP_PROC_BIND"
    needed += " CUDA_VISIBLE_DEVICES HIP_VISIBLE_DEVICES ONEAPI_DEVICE_SELECTOR LD_LIBRARY_PATH"
    needed += " DIFFRHYTHM_MODELS DIFFRHYTHM_PRECISION"
    secret = (
        "HF_TOKEN HF_HUB_TOKEN AWS_ACCESS_KEY_ID AWS_SESSION_TOKEN GITHUB_TOKEN DB_PASSWORD OPENAI_API_KEY"
    )
    secret += " DIFFRHYTHM_API_KEY XDG_SECRET SSH_AUTH_SOCK HTTPS_PROXY https_proxy MY_OWN"
    environ = dict.fromkeys([*needed.split(), *secret.split()], "1")
    assert processes.passed_on(environ).keys() == set(needed.split())


@pytest.mark.slow
def test_no_child_of_a_real_song_sees_a_secret_and_nobody_else_may_write_what_it_makes(
    tmp_path: Path,
) -> None:
    command = [sys.executable, "-m", "runner.cli", "sing", "--name", "song", "--style", "test", "--quiet"]
    command += ["--duration", "2", "--steps", "1", "--out", str(tmp_path / "outputs")]
    environ = {
        "HF_TOKEN": "s3cret",
        "AWS_SECRET_ACCESS_KEY": "s3cret",
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }
    parent = subprocess.Popen(command, cwd=ROOT, umask=0, env=os.environ | environ)
    seen: dict[int, dict[str, str]] = {}
    while parent.poll() is None:
        with suppress(psutil.Error):
            for child in psutil.Process(parent.pid).children(recursive=True):
                environment = child.environ()
                if processes.MARK in environment:  # it is past its exec
                    seen[child.pid] = environment
        time.sleep(0.05)
    assert parent.returncode == 0
    assert len(seen) >= 2  # the check and the song
    for environment in seen.values():
        assert "s3cret" not in environment.values()
        assert environment["HF_HUB_OFFLINE"] == "1"
        assert environment["XDG_CACHE_HOME"] == str(tmp_path / "cache")
    made = [path for folder in ("outputs", "cache") for path in (tmp_path / folder).rglob("*")]
    assert len(made) > 10
    assert {oct(stat.S_IMODE(path.stat().st_mode)) for path in made} == {"0o644", "0o755"}


@pytest.mark.parametrize("key", ["lyrics", "style_audio", "edit"])
@pytest.mark.parametrize("kind", ["fifo", "device", "folder", "link to a device"])
def test_a_job_that_names_what_is_no_file_is_refused_without_reading_it(
    tmp_path: Path, key: str, kind: str
) -> None:
    place = tmp_path / "thing.lrc"
    if kind == "fifo":
        os.mkfifo(place)
    elif kind == "folder":
        place.mkdir()
    elif kind == "link to a device":
        place.symlink_to("/dev/zero")
    named = "/dev/zero" if kind == "device" else place.name
    value = f"{{source: {named}, spans: [[1, 2]]}}" if key == "edit" else named
    style = "" if key == "style_audio" else ", style: pop"
    (tmp_path / "night.yaml").write_text(f"model: demo\nsongs: [{{name: a, {key}: {value}{style}}}]\n")
    with pytest.raises(SpecError) as error:
        load([tmp_path / "night.yaml"])
    assert "check the path" in str(error.value)
