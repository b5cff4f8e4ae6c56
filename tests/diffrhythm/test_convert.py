"""Published files become a bundle, whole or not at all; what is not such a file is refused in one line."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import shutil
import signal
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import published_files
import published_vae
import pytest
import torch
from published_files import CONFIG, Files, checkpoint, save
from safetensors.torch import load_file

from diffrhythm import bundle, convert, install
from diffrhythm.bundle import ABOUT, TRANSFORMER, VAE, VAE_SCRIPT
from diffrhythm.config import ModelConfig
from diffrhythm.digest import sha256
from diffrhythm.errors import BundleError
from diffrhythm.published import BASE, FULL, MODELS, Published, models_folder
from diffrhythm.transformer import DiT


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return published_files.make(tmp_path_factory.mktemp("published"))


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture(scope="session")
def once(files: Files, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder with the bundle in it, for looking at only."""
    models = tmp_path_factory.mktemp("once")
    assert import_all(files, models)
    return models


@pytest.fixture
def imported(once: Path, models: Path) -> Path:
    """The same, to be changed."""
    return Path(shutil.copytree(once, models))


def import_all(files: Files, models: Path, **other: Path) -> bool:
    given = {"transformer": files.transformer, "vae": files.vae, "source": files.source} | other
    return install.import_files(files.model, models, **given)


def contents(folder: Path) -> dict[str, str]:
    return {path.name: sha256(path) for path in folder.iterdir()}


def refused(files: Files, models: Path, **other: Path) -> str:
    """Why the import was refused, in one line, nothing left behind."""
    with pytest.raises(BundleError) as error:
        import_all(files, models, **other)
    assert not [path for path in models.iterdir() if path.name != f".{files.model.name}.lock"]
    assert "\n" not in str(error.value)
    return str(error.value)


def test_published_files_become_a_bundle_that_opens_as_what_they_were(files: Files, once: Path) -> None:
    made = bundle.read(once / files.model.name)
    bundle.verify(made)
    state = made.open_transformer().state_dict()
    wanted = published_files.weights()
    assert state.keys() == wanted.keys()
    # Exactly the float16 numbers that were published.
    assert all(torch.equal(state[name], wanted[name].half().float()) for name in wanted)
    assert (made.name, made.demo, made.about.style_encoder) == ("diffrhythm-1.2", False, "muq-mulan")
    assert made.vae_config.channels == published_vae.CHANNELS
    latents = torch.randn(1, 64, 4)
    with torch.inference_mode():
        theirs = published_vae.vae("hooked").decode_export(latents)
        assert torch.allclose(made.open_vae().decoder(latents), theirs, atol=1e-6)
    assert made.negative_style.shape == (512,)
    assert "," in made.inventory


def test_the_bundle_says_which_published_files_it_was_made_of(files: Files, once: Path) -> None:
    origins = {origin.file: origin for origin in bundle.read(once / files.model.name).about.origins}
    assert origins["cfm_model.pt"].sha256 == sha256(files.transformer)
    assert origins["vae_model.pt"].sha256 == sha256(files.vae)
    assert origins["g2p/g2p/vocab.json"].commit == "28ad63c0f096fe2ee258bcabbcf081d5d9366afd"


def test_the_same_files_give_the_same_bytes_on_every_import(
    files: Files, models: Path, tmp_path: Path
) -> None:
    import_all(files, models)
    import_all(files, tmp_path / "elsewhere")
    assert contents(models / files.model.name) == contents(tmp_path / "elsewhere" / files.model.name)


def test_importing_the_same_files_again_changes_nothing(files: Files, imported: Path) -> None:
    before = (imported / files.model.name / TRANSFORMER).stat()
    assert not import_all(files, imported)
    after = (imported / files.model.name / TRANSFORMER).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_damaged_bundle_is_made_again(files: Files, imported: Path) -> None:
    weights = imported / files.model.name / TRANSFORMER
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert import_all(files, imported)
    bundle.verify(bundle.read(imported / files.model.name))


def test_other_files_replace_the_bundle(files: Files, imported: Path, tmp_path: Path) -> None:
    before = bundle.read(imported / files.model.name).hash
    other = save(checkpoint(torch.float32), tmp_path / "cfm_model.pt")
    assert import_all(files, imported, transformer=other)
    assert bundle.read(imported / files.model.name).hash != before
    assert sorted(path.name for path in imported.iterdir()) == [".diffrhythm-1.2.lock", "diffrhythm-1.2"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_weights_keep_every_number_whatever_they_are_stored_in(dtype: torch.dtype, tmp_path: Path) -> None:
    source = save(checkpoint(dtype), tmp_path / "cfm_model.pt")
    entry = convert.write_transformer(source, CONFIG, tmp_path)[TRANSFORMER]
    # The library reads what was written here without it.
    written = load_file(tmp_path / TRANSFORMER)
    wanted = published_files.weights()
    assert written.keys() == wanted.keys()
    assert all(torch.equal(written[name], wanted[name].to(dtype).float()) for name in wanted)
    assert (entry.bytes, entry.sha256) == (
        (tmp_path / TRANSFORMER).stat().st_size,
        sha256(tmp_path / TRANSFORMER),
    )


def test_a_tensor_that_lies_transposed_in_the_checkpoint_is_written_as_it_reads(tmp_path: Path) -> None:
    content = checkpoint(torch.float32)
    state: Any = content["model_state_dict"]
    state["transformer.proj_out.weight"] = state["transformer.proj_out.weight"].t().contiguous().t()
    source = save(content, tmp_path / "cfm_model.pt")
    convert.write_transformer(source, CONFIG, tmp_path)
    assert torch.equal(
        load_file(tmp_path / TRANSFORMER)["proj_out.weight"], published_files.weights()["proj_out.weight"]
    )


def test_progress_ends_at_the_size_of_what_is_written(files: Files, tmp_path: Path) -> None:
    said: list[tuple[str, int, int]] = []
    convert.write_transformer(files.transformer, CONFIG, tmp_path, lambda *word: said.append(word))
    assert {what for what, _, _ in said} == {f"write {TRANSFORMER}"}
    assert [done for _, done, _ in said] == sorted({done for _, done, _ in said})
    assert said[-1][1:] == ((tmp_path / TRANSFORMER).stat().st_size,) * 2


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_the_table_counts_each_models_parameters_rightly(model: Published) -> None:
    with torch.device("meta"):
        transformer = DiT(model.config)
    assert model.parameters == sum(weight.numel() for weight in transformer.parameters())


def test_base_and_full_differ_in_what_is_embedded_and_how_long_they_sing() -> None:
    assert (BASE.durations, BASE.frames, BASE.config) == ([95.0], "all", ModelConfig.base())
    assert (FULL.durations, FULL.config) == ({"min": 96.0, "max": 285.0}, ModelConfig.full())


def test_a_model_is_found_by_its_name_in_the_models_folder(
    files: Files, once: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIFFRHYTHM_MODELS", str(once))
    assert bundle.load("diffrhythm-1.2").folder == once / files.model.name


@pytest.mark.parametrize("name", MODELS)
def test_a_model_that_is_not_here_is_told_with_the_command_that_gets_it(
    name: str, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DIFFRHYTHM_MODELS", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(models))
    place = models / "diffrhythm" / "models" / name
    with pytest.raises(BundleError) as error:
        bundle.load(name)
    assert str(error.value) == f"no model {name}: {place}; get it with: runner models pull {name}"


def test_a_relative_data_folder_counts_as_unset(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("DIFFRHYTHM_MODELS", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert models_folder() == tmp_path / ".local" / "share" / "diffrhythm" / "models"


UPSTREAM = Path(__file__).parents[2].parent / "shared" / "upstream-data"


@pytest.mark.skipif(not UPSTREAM.is_dir(), reason="the published phone table and negative style are not here")
def test_the_pinned_files_are_the_published_ones(tmp_path: Path) -> None:
    for file, name in ((BASE.phonemes, "vocab.json"), (BASE.negative_style, "vocal.npy")):
        (tmp_path / file.path).parent.mkdir(parents=True)
        shutil.copyfile(UPSTREAM / name, tmp_path / file.path)
        assert install.pinned(file, tmp_path).origin.bytes == file.bytes


# ---------------------------------------------------------------- what is refused


class Malice:
    """Unpickled, it makes the folder that it names."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self.path),)


def malicious_entry(path: Path, trace: Path) -> None:
    save({**checkpoint(), "extra": Malice(trace)}, path)


def malicious_weight(path: Path, trace: Path) -> None:
    content = checkpoint()
    content["model_state_dict"] |= {"transformer.proj_out.bias": Malice(trace)}  # type: ignore[operator]
    save(content, path)


def malicious_plain_pickle(path: Path, trace: Path) -> None:
    path.write_bytes(pickle.dumps(Malice(trace)))


def malicious_legacy_file(path: Path, trace: Path) -> None:
    torch.save({"model_state_dict": Malice(trace)}, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize(
    "make", [malicious_entry, malicious_weight, malicious_plain_pickle, malicious_legacy_file]
)
def test_a_pickle_with_code_in_it_is_refused_and_the_code_does_not_run(
    make: Callable[[Path, Path], None], files: Files, models: Path, tmp_path: Path
) -> None:
    path, trace = tmp_path / "cfm_model.pt", tmp_path / "it-ran"
    make(path, trace)
    said = refused(files, models, transformer=path)
    assert str(path) in said
    assert not trace.exists()
    if make in (malicious_entry, malicious_weight):
        assert "a pickle with code in it (posix.mkdir), which was not run" in said


def changed(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    content: dict[str, Any] = checkpoint()
    change(content["model_state_dict"])
    return content


KEY = "transformer.proj_out.bias"


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (changed(lambda s: s.pop(KEY)), "missing proj_out.bias"),
        (changed(lambda s: s.update({"transformer.extra": torch.zeros(1)})), "surplus extra"),
        (changed(lambda s: s.update({"vae.extra": torch.zeros(1)})), "surplus 'vae.extra'"),
        (changed(lambda s: s.update({7: torch.zeros(1)})), "surplus '7'"),
        (changed(lambda s: s.update({KEY: torch.zeros(65)})), r"proj_out.bias is [65], not [64]"),
        (changed(lambda s: s.update({KEY: torch.zeros(64).long()})), f"{KEY} is torch.int64"),
        (changed(lambda s: s.update({KEY: torch.zeros(64).double()})), f"{KEY} is torch.float64"),
        (changed(lambda s: s.update({KEY: torch.zeros(64).to_sparse()})), f"{KEY} is no plain tensor"),
        (changed(lambda s: s.update({KEY: "text"})), f"{KEY} is no plain tensor"),
        (changed(lambda s: s.update({KEY: torch.full((64,), torch.nan)})), "proj_out.bias holds numbers"),
        ({"state": {}}, "no entry 'model_state_dict'"),
        ({"model_state_dict": [1]}, "no entry 'model_state_dict'"),
        (torch.zeros(3), "no entry 'model_state_dict'"),
    ],
)
def test_weights_that_are_not_the_models_are_refused_by_file_and_key(
    content: object, named: str, files: Files, models: Path, tmp_path: Path
) -> None:
    path = save(content, tmp_path / "cfm_model.pt")
    said = refused(files, models, transformer=path)
    assert named in said
    assert str(path) in said


def test_the_other_models_checkpoint_is_refused_by_what_it_lacks(files: Files, tmp_path: Path) -> None:
    longer = ModelConfig(**{**CONFIG.to_dict(), "max_frames": 6144})
    with pytest.raises(BundleError, match=r"missing duration_time_embed"):
        convert.checked_shapes(files.transformer, longer)


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


@pytest.mark.parametrize("damage", [cut, lambda _: b"", lambda _: b"PK\x03\x04" + b"\xff" * 500])
@pytest.mark.parametrize("which", ["transformer", "vae"])
def test_a_cut_or_foreign_file_is_refused(
    which: str, damage: Callable[[bytes], bytes], files: Files, models: Path, tmp_path: Path
) -> None:
    path = tmp_path / "file.pt"
    path.write_bytes(damage(getattr(files, which).read_bytes()))
    assert str(path) in refused(files, models, **{which: path})


def rezipped(source: Path, target: Path, change: Callable[[str, bytes], bytes], packed: int) -> Path:
    with zipfile.ZipFile(source) as read, zipfile.ZipFile(target, "w", packed) as written:
        for name in read.namelist():
            written.writestr(name, change(name, read.read(name)))
    return target


def test_an_archive_with_packed_entries_is_refused_unread(files: Files, models: Path, tmp_path: Path) -> None:
    path = rezipped(files.transformer, tmp_path / "a.pt", lambda _, data: data, zipfile.ZIP_DEFLATED)
    assert "packed entries" in refused(files, models, transformer=path)


@pytest.mark.parametrize(
    "junk", [b"", b"\x80", b"\x80\x02]q\x00e.", b"garbage" * 9, b"\x80\x02cos\nsystem\n."]
)
def test_a_damaged_pickle_is_refused(junk: bytes, files: Files, models: Path, tmp_path: Path) -> None:
    path = rezipped(
        files.transformer,
        tmp_path / "a.pt",
        lambda n, d: junk if n.endswith(".pkl") else d,
        zipfile.ZIP_STORED,
    )
    assert str(path) in refused(files, models, transformer=path)


def test_files_given_the_wrong_way_round_are_refused(files: Files, models: Path) -> None:
    said = refused(files, models, transformer=files.vae, vae=files.transformer)
    assert "a TorchScript, no checkpoint" in said
    assert "no TorchScript" in refused(files, models, vae=files.transformer)


@pytest.mark.parametrize("which", ["transformer", "vae", "source"])
def test_a_missing_file_is_told_with_its_path(which: str, files: Files, models: Path, tmp_path: Path) -> None:
    models.mkdir()
    assert str(tmp_path / "nothing") in refused(files, models, **{which: tmp_path / "nothing"})


@pytest.mark.parametrize("which", ["transformer", "vae"])
def test_a_device_or_pipe_is_refused_unread(which: str, files: Files, models: Path, tmp_path: Path) -> None:
    models.mkdir()
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path / "pipe", Path("/dev/zero")):
        assert f"not a file: {place}" in refused(files, models, **{which: place})


@pytest.mark.parametrize("which", ["phonemes", "negative_style"])
def test_a_source_file_that_is_another_is_refused(
    which: str, files: Files, models: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(files.source, tmp_path / "copy"))
    path = copy / getattr(files.model, which).path
    path.write_bytes(
        path.read_bytes().replace(b"1", b"2", 1) if which == "phonemes" else path.read_bytes()[::-1]
    )
    models.mkdir()
    assert f"not the published file: {path}" in refused(files, models, source=copy)


def test_an_autoencoder_of_another_layout_is_kept_as_the_script_it_is(
    files: Files, models: Path, tmp_path: Path
) -> None:
    squashed = published_vae.traced(published_vae.vae("hooked", torch.nn.Tanh()), tmp_path / "vae_model.pt")
    import_all(files, models, vae=squashed)
    made = bundle.read(models / files.model.name)
    assert VAE not in made.about.files
    assert made.about.files[VAE_SCRIPT].sha256 == sha256(squashed)
    with torch.inference_mode():
        assert made.open_vae().decoder(torch.zeros(1, 64, 2)).shape == (1, 2, 4096)


# ---------------------------------------------------------------- whole or not at all


def test_a_full_disk_is_told_before_anything_is_written(
    files: Files, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(files.source)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=2**20))
    assert "0.0 GB free" in refused(files, models)


def test_a_failure_half_way_leaves_the_old_bundle_and_nothing_else(
    files: Files, imported: Path, tmp_path: Path
) -> None:
    before = contents(imported / files.model.name)
    bad = changed(lambda s: s.update({KEY: torch.full((64,), torch.inf)}))
    with pytest.raises(BundleError, match="not finite"):
        import_all(files, imported, transformer=save(bad, tmp_path / "cfm_model.pt"))
    assert contents(imported / files.model.name) == before
    assert sorted(path.name for path in imported.iterdir()) == [".diffrhythm-1.2.lock", "diffrhythm-1.2"]


@pytest.fixture
def killed(files: Files, models: Path) -> Path:
    """The models folder after an import was killed with SIGKILL in the middle of the weights."""
    context = multiprocessing.get_context("spawn")
    reached = context.Event()
    child = context.Process(target=import_slowly, args=(files, models, reached))
    child.start()
    assert reached.wait(300)
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    return models


def import_slowly(files: Files, models: Path, reached: Any) -> None:
    def report(what: str, done: int, total: int) -> None:
        if what.startswith("write") and 2 * done > total:
            reached.set()
            time.sleep(600)

    install.import_files(
        files.model, models, transformer=files.transformer, vae=files.vae, source=files.source, report=report
    )


def test_an_import_killed_half_way_is_no_bundle_and_the_next_one_clears_it_away(
    files: Files, killed: Path
) -> None:
    assert (killed / ".diffrhythm-1.2.making").is_dir()  # it was in the middle of it
    with pytest.raises(BundleError, match="no model bundle"):
        bundle.read(killed / files.model.name)
    assert import_all(files, killed)
    assert sorted(path.name for path in killed.iterdir()) == [".diffrhythm-1.2.lock", "diffrhythm-1.2"]
    bundle.verify(bundle.read(killed / files.model.name))


def test_a_bundle_taken_away_to_be_replaced_comes_back_if_it_never_was(files: Files, imported: Path) -> None:
    (imported / files.model.name).rename(imported / f".{files.model.name}.old")
    assert not import_all(files, imported)
    assert (imported / files.model.name / ABOUT).is_file()


def test_two_at_once_do_not_meet(files: Files, models: Path) -> None:
    with install.exclusive(files.model, models), pytest.raises(BundleError, match="another process"):
        import_all(files, models)


def test_a_description_names_every_file_and_no_other(files: Files, once: Path) -> None:
    folder = once / files.model.name
    described = json.loads((folder / ABOUT).read_text())["files"]
    assert {path.name for path in folder.iterdir()} == {ABOUT, *described}


def test_a_device_is_no_checkpoint() -> None:
    with pytest.raises(BundleError, match="no file: /dev/zero"):
        convert.checked_shapes(Path("/dev/zero"), CONFIG)
