"""A bundle says what it is, and nothing that it does not say is believed."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from diffrhythm import bundle, packed
from diffrhythm.bundle import ABOUT, NEGATIVE_STYLE, STYLE, TRANSFORMER, VAE, Bundle
from diffrhythm.errors import BundleError, RequestError
from diffrhythm.transformer import COMPILED


@pytest.fixture
def folder(demo_bundle: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(demo_bundle.folder, tmp_path / "model"))


def rewrite(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    about = json.loads((folder / ABOUT).read_text())
    change(about)
    (folder / ABOUT).write_text(json.dumps(about))


def test_a_folder_is_a_bundle_of_the_same_hash_wherever_it_lies(demo_bundle: Bundle, folder: Path) -> None:
    moved = bundle.load(folder)
    assert (moved.hash, moved.name, moved.demo) == (demo_bundle.hash, "demo", True)
    bundle.verify(moved)


def test_the_hash_changes_with_any_file_of_the_model(folder: Path) -> None:
    before = bundle.load(folder).hash
    rewrite(folder, lambda about: about["files"][VAE].update(sha256="0" * 64))
    assert bundle.load(folder).hash != before


@pytest.mark.parametrize("name", [ABOUT, VAE, NEGATIVE_STYLE])
def test_a_link_out_of_the_bundle_is_refused_and_one_within_is_not(
    folder: Path, tmp_path: Path, name: str
) -> None:
    elsewhere = (folder / name).rename(tmp_path / "elsewhere")
    (folder / name).symlink_to(elsewhere)
    with pytest.raises(BundleError, match=f"a link out of the bundle: .*{name}"):
        bundle.load(folder)
    (folder / name).unlink()
    (folder / name).symlink_to(Path(elsewhere.rename(folder / "within").name))
    bundle.load(folder)


@pytest.mark.parametrize("name", [ABOUT, VAE])
def test_a_pipe_in_the_place_of_a_file_is_no_file(folder: Path, name: str) -> None:
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(BundleError):
        bundle.load(folder)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda a: a.update(schema=2), "schema"),
        (lambda a: a.update(kind="other"), "kind"),
        (lambda a: a.update(surprise=1), "surprise"),
        (lambda a: a.pop("licence"), "licence"),
        (lambda a: a.update(demo="yes"), "demo"),
        (lambda a: a.update(style_encoder="telepathy"), "style_encoder"),
        (lambda a: a.update(durations={"min": 9, "max": 2}), "min 9 is above max 2"),
        (lambda a: a.update(durations=[]), "durations"),
        (lambda a: a["transformer"].update(dim=100), "dim"),
        (lambda a: a["transformer"].pop("depth"), "depth"),
        (lambda a: a["vae"].update(strides=[2, 2, 2, 2, 2]), "2048"),
        (lambda a: a["files"].pop(TRANSFORMER), TRANSFORMER),
        (lambda a: a["files"].pop(STYLE), STYLE),
        (lambda a: a.update(syllable_frames=0), "syllable_frames"),
        (lambda a: a.update(syllable_frames=65), "syllable_frames"),
        (lambda a: a.update(syllable_frames=6.0), "syllable_frames"),
        (lambda a: a["files"].update({"../secret": {"bytes": 1, "sha256": "0" * 64}}), "files"),
        (lambda a: a["files"].update({"/etc/passwd": {"bytes": 1, "sha256": "0" * 64}}), "files"),
        (lambda a: a["files"].update({"..": {"bytes": 1, "sha256": "0" * 64}}), "files"),
        (lambda a: a["files"].update({"a/b": {"bytes": 1, "sha256": "0" * 64}}), "files"),
        (lambda a: a["files"][VAE].update(sha256="short"), "sha256"),
    ],
)
def test_a_description_that_is_not_sound_is_refused_by_field(
    folder: Path, change: Callable[[dict[str, Any]], object], named: str
) -> None:
    rewrite(folder, change)
    with pytest.raises(BundleError, match=named):
        bundle.load(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, "\x00\xff"])
def test_a_description_that_is_no_json_object_is_refused(folder: Path, text: str) -> None:
    (folder / ABOUT).write_text(text)
    with pytest.raises(BundleError, match=ABOUT):
        bundle.load(folder)


@pytest.mark.parametrize("name", ["no-such-model", "/nonexistent/model"])
def test_no_bundle_is_told_with_its_place(name: str) -> None:
    with pytest.raises(BundleError, match=f"no model bundle: {name}; give"):
        bundle.load(name)


def test_a_missing_or_cut_file_is_noticed_at_load(folder: Path) -> None:
    weights = folder / TRANSFORMER
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(BundleError, match=r"bytes where \d+ belong: .*dit"):
        bundle.load(folder)
    weights.unlink()
    with pytest.raises(BundleError, match=r"missing file of the model: .*dit"):
        bundle.load(folder)


def test_a_changed_byte_is_noticed_by_verify(folder: Path) -> None:
    weights = bytearray((folder / VAE).read_bytes())
    weights[-1] ^= 1
    (folder / VAE).write_bytes(weights)
    with pytest.raises(BundleError, match=r"changed since it was made: vae\.safetensors"):
        bundle.verify(bundle.load(folder))


def test_weights_that_are_no_safetensors_are_refused_when_opened(folder: Path) -> None:
    for name in (TRANSFORMER, VAE):
        (folder / name).write_bytes(b"\xff" * (folder / name).stat().st_size)
    damaged = bundle.load(folder)
    with pytest.raises(BundleError, match=TRANSFORMER):
        damaged.open_transformer()
    with pytest.raises(BundleError, match=VAE):
        damaged.open_vae()


@pytest.mark.parametrize(
    "garbage", [b"", b"\x93NUMPY\x01\x00", b"\x93NUMPY\x01\x00\x10\x00{'descr': f(      "]
)
def test_a_negative_style_that_is_no_array_is_refused(folder: Path, garbage: bytes) -> None:
    (folder / NEGATIVE_STYLE).write_bytes(garbage)
    rewrite(folder, lambda a: a["files"][NEGATIVE_STYLE].update(bytes=len(garbage)))
    with pytest.raises(BundleError, match=NEGATIVE_STYLE):
        _ = bundle.load(folder).negative_style


@pytest.mark.parametrize(
    "values", [np.zeros(512), np.zeros(3, np.float32), np.full(512, np.nan, np.float32), np.array([{}])]
)
def test_a_negative_style_that_is_none_is_refused(folder: Path, values: Any) -> None:
    np.save(folder / NEGATIVE_STYLE, values, allow_pickle=True)
    rewrite(
        folder, lambda a: a["files"][NEGATIVE_STYLE].update(bytes=(folder / NEGATIVE_STYLE).stat().st_size)
    )
    with pytest.raises(BundleError, match=NEGATIVE_STYLE):
        _ = bundle.load(folder).negative_style


def test_a_range_of_durations_fits_the_song_and_refuses_what_is_outside(demo_bundle: Bundle) -> None:
    assert demo_bundle.longest == 40
    assert [demo_bundle.fitting_duration(seconds) for seconds in (0.5, 30.2, 300)] == [2, 30.2, 40]
    for seconds in (1.9, 40.1, float("nan")):
        with pytest.raises(RequestError, match="choose 2 to 40"):
            demo_bundle.check_duration(seconds)


def test_a_list_of_durations_fits_the_next_longer_and_refuses_all_between(folder: Path) -> None:
    rewrite(folder, lambda about: about.update(durations=[95.0, 30.0]))
    listed = bundle.load(folder)
    assert [listed.fitting_duration(seconds) for seconds in (3, 30, 31, 300)] == [30, 30, 95, 95]
    with pytest.raises(RequestError, match="choose 30 or 95"):
        listed.check_duration(60)


@pytest.mark.parametrize("seconds", [2, 2.0001, 7.123, 40])
def test_frames_are_as_few_as_hold_the_song(demo_bundle: Bundle, seconds: float) -> None:
    frames = demo_bundle.duration_frames(seconds)
    assert (frames - 1) * 2048 < round(seconds * 44100) <= frames * 2048
    assert frames <= demo_bundle.config.max_frames


def test_a_model_whose_songs_fill_it_has_all_frames(folder: Path) -> None:
    rewrite(folder, lambda about: about.update(frames="all", durations=[95.0]))
    assert bundle.load(folder).duration_frames(95) == 2048


@pytest.mark.parametrize(("given", "found"), [({}, None), ({"syllable_frames": 6}, 6)])
def test_a_bundle_says_how_long_its_syllables_are(
    folder: Path, given: dict[str, int], found: int | None
) -> None:
    rewrite(folder, lambda about: (about.pop("syllable_frames", None), about.update(given)))
    assert bundle.load(folder).about.syllable_frames == found


def test_a_bundle_of_another_style_encoder_needs_no_words(folder: Path) -> None:
    rewrite(folder, lambda about: (about["files"].pop(STYLE), about.update(style_encoder="muq-mulan")))
    assert STYLE not in bundle.load(folder).about.files


def store(folder: Path, name: str, tensors: dict[str, torch.Tensor]) -> None:
    """Puts these weights into the bundle."""
    save_file(tensors, folder / name)
    rewrite(folder, lambda about: about["files"][name].update(bytes=(folder / name).stat().st_size))


def test_weights_are_mapped_from_the_file_and_not_copied(folder: Path) -> None:
    store(folder, TRANSFORMER, dict(bundle.load(folder).open_transformer().state_dict()))
    weights = bundle.load(folder).open_transformer().state_dict()["text_embed.text_embed.weight"]
    maps = Path(f"/proc/{os.getpid()}/maps").read_text().splitlines()
    file = str((folder / TRANSFORMER).resolve())
    spans = [[int(end, 16) for end in line.split()[0].split("-")] for line in maps if line.endswith(file)]
    assert any(start <= weights.data_ptr() < stop for start, stop in spans)


def test_weights_stored_in_half_are_widened_where_torch_calculates_and_nowhere_else(folder: Path) -> None:
    weights = bundle.load(folder).open_transformer().half().state_dict()
    store(folder, TRANSFORMER, dict(weights))
    opened = dict(bundle.load(folder).open_transformer().named_parameters())
    assert {name for name, weight in opened.items() if weight.dtype == torch.float16} == {
        name for name in opened if name.startswith(COMPILED)
    }
    assert opened["proj_out.weight"].dtype == torch.float32


def test_packed_weights_are_opened_as_what_they_stand_for(folder: Path) -> None:
    plain = bundle.load(folder)
    weights = {
        TRANSFORMER: dict(plain.open_transformer().state_dict()),
        VAE: dict(plain.open_vae().state_dict()),
    }
    for name in (TRANSFORMER, VAE):
        store(folder, name, packed.pack(weights[name]))
    opened = bundle.load(folder)
    found = {TRANSFORMER: opened.open_transformer().state_dict(), VAE: opened.open_vae().state_dict()}
    for name, expected in weights.items():
        for key, weight in expected.items():
            assert found[name][key].dtype == torch.float32
            assert (found[name][key] - weight).abs().max() <= weight.abs().max() / 253


def test_weights_whose_packing_is_damaged_are_refused_when_opened(folder: Path) -> None:
    tensors = packed.pack(dict(bundle.load(folder).open_transformer().state_dict()))
    del tensors["proj_out.weight.scale"]
    store(folder, TRANSFORMER, tensors)
    with pytest.raises(BundleError, match=r"proj_out\.weight\.scale: .*dit\.safetensors"):
        bundle.load(folder).open_transformer()


def test_each_opening_gives_the_same_velocity(demo_bundle: Bundle) -> None:
    first, second = (demo_bundle.open_transformer().state_dict() for _ in range(2))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_describing_a_bundle_does_not_import_torch(demo_bundle: Bundle) -> None:
    code = f"import sys; from diffrhythm import bundle; b = bundle.load({str(demo_bundle.folder)!r})\n"
    code += "b.inventory, b.negative_style, b.duration_frames(24); sys.exit('torch' in sys.modules)"
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=root).returncode == 0


def test_a_description_that_cannot_be_read_is_an_error_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "ABOUT", "mem")  # a file to look at, an error to read
    with pytest.raises(BundleError, match="cannot read"):
        bundle.load(Path("/proc/self"))
