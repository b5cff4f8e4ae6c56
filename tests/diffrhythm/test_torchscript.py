"""A TorchScript VAE becomes ours where both sound the same, is run where not, and refused if it is none."""

import hashlib
import json
import logging
import shutil
import zipfile
from pathlib import Path
from typing import Any

import published_vae
import pytest
import torch
from torch import Tensor, nn

from diffrhythm import bundle, torchscript, vae
from diffrhythm.bundle import ABOUT, VAE, VAE_SCRIPT, Bundle
from diffrhythm.errors import BundleError
from diffrhythm.generate import generate
from diffrhythm.torchscript import TOLERANCE, difference, extract, load
from diffrhythm.vae import Vae
from diffrhythm.vae_config import VaeConfig


def latents(frames: int = 40) -> Tensor:
    return torch.randn(1, frames, 64, generator=torch.Generator().manual_seed(1))


def rewritten(path: Path, old: bytes, new: bytes) -> Path:
    """The same archive, its program changed."""
    other = path.with_name("rewritten.pt")
    with zipfile.ZipFile(path) as before, zipfile.ZipFile(other, "w") as after:
        for entry in before.infolist():
            content = before.read(entry)
            after.writestr(
                entry.filename, content.replace(old, new) if "/code/" in entry.filename else content
            )
    return other


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vae") / "vae_model.pt"
    return published_vae.traced(published_vae.vae("hooked"), path)


@pytest.mark.parametrize("norm", ["hooked", "parametrized", "none"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_the_published_layout_becomes_ours(tmp_path: Path, norm: published_vae.Norm, wrapped: bool) -> None:
    theirs = published_vae.vae(norm)
    module = published_vae.Wrapped(theirs) if wrapped else theirs
    found = extract(published_vae.traced(module, tmp_path / "vae.pt"))
    assert found is not None
    config, weights = found
    assert config == VaeConfig(channels=published_vae.CHANNELS)
    ours = Vae(config)
    vae.load_weights(ours, weights)
    with torch.no_grad():
        sound, expected = vae.decode(latents(), ours.decoder), theirs.decode_export(latents().transpose(1, 2))
        moments = vae.encode(sound, ours.encoder).transpose(1, 2)
        assert (sound - expected).norm() < TOLERANCE * expected.norm()
        expected = theirs.encode_export(sound)
        assert (moments - expected).norm() < TOLERANCE * expected.norm()


def test_a_compiled_script_becomes_ours_as_a_traced_one_does(tmp_path: Path) -> None:
    module = published_vae.Compiled(published_vae.vae("none"))
    assert extract(published_vae.scripted(module, tmp_path / "vae.pt")) is not None


def test_extracted_weights_are_float32_and_complete(script: Path) -> None:
    found = extract(script)
    assert found is not None
    wanted = {key: tuple(value.shape) for key, value in Vae(found[0]).state_dict().items()}
    assert {key: tuple(value.shape) for key, value in found[1].items()} == wanted
    assert {value.dtype for value in found[1].values()} == {torch.float32}


class Louder(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 1.0001


@pytest.mark.parametrize("last", [nn.Tanh(), nn.Hardtanh(-0.2, 0.2), Louder()], ids=["tanh", "clip", "gain"])
def test_a_script_that_sounds_otherwise_is_kept_and_the_difference_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, last: nn.Module
) -> None:
    path = published_vae.traced(published_vae.vae("hooked", last), tmp_path / "vae.pt")
    with caplog.at_level(logging.WARNING):
        assert extract(path) is None
    assert "differs from it by" in caplog.text
    assert "the TorchScript itself is used" in caplog.text


def test_a_change_in_the_program_alone_is_noticed(script: Path, caplog: pytest.LogCaptureFixture) -> None:
    # Twice the sine in place of its square, in every Snake; the weights are the same.
    with caplog.at_level(logging.WARNING):
        assert extract(rewritten(script, b"torch.pow(", b"torch.mul(")) is None
    assert "differs from it by" in caplog.text


def test_another_layout_is_kept_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    module = published_vae.vae("none")
    module.decoder.layers[1].layers[2].add_module("extra", nn.Conv1d(1, 1, 1))
    with caplog.at_level(logging.WARNING):
        assert extract(published_vae.traced(module, tmp_path / "vae.pt")) is None
    assert "decoder.layers.1.layers.2.extra" in caplog.text


def test_the_difference_is_that_of_two_vaes(script: Path) -> None:
    found = extract(script)
    assert found is not None
    config, weights = found
    ours = Vae(config)
    vae.load_weights(ours, {**weights, "encoder.layers.0.bias": weights["encoder.layers.0.bias"] + 0.01})
    decoding, encoding = difference(ours, load(script))
    assert decoding < TOLERANCE < encoding


# ---------------------------------------------------------------- what is no VAE


class Decoder(nn.Module):
    @torch.jit.export
    def decode_export(self, latents: Tensor) -> Tensor:
        return latents.repeat_interleave(2048, dim=-1)[:, :2]


class Echo(nn.Module):
    @torch.jit.export
    def decode_export(self, latents: Tensor) -> Tensor:
        return latents.repeat_interleave(2048, dim=-1)[:, :2]

    @torch.jit.export
    def encode_export(self, audio: Tensor) -> Tensor:
        return audio


def test_a_script_without_the_two_methods_is_no_vae(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"without encode_export, so no VAE: .*half\.pt; get"):
        load(published_vae.scripted(Decoder(), tmp_path / "half.pt"))


def test_a_script_of_other_shapes_is_no_vae(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"makes \[1, 2, 4096\] of \[1, 2, 4096\], not \[1, 128, 2\]"):
        load(published_vae.scripted(Echo(), tmp_path / "echo.pt"))


def test_a_script_that_fails_is_no_vae(script: Path) -> None:
    with pytest.raises(BundleError, match="TorchScript that takes no"):
        load(rewritten(script, b"torch.exp(", b"torch.det("))


@pytest.mark.parametrize("kept", [0, 1, 1000, -1])
def test_a_cut_file_is_refused_in_a_line(script: Path, tmp_path: Path, kept: int) -> None:
    cut = tmp_path / "cut.pt"
    cut.write_bytes(script.read_bytes()[:kept])
    with pytest.raises(BundleError, match=rf"{cut}; get the published") as caught:
        load(cut)
    assert "\n" not in str(caught.value)


def test_a_damaged_program_is_refused_in_a_line(script: Path) -> None:
    with pytest.raises(BundleError, match="damaged TorchScript") as caught:
        load(rewritten(script, b"def ", b"dof "))
    assert "\n" not in str(caught.value)


def test_a_text_is_no_torchscript(tmp_path: Path) -> None:
    (tmp_path / "vae.pt").write_text("la la la")
    with pytest.raises(BundleError, match="no TorchScript"):
        load(tmp_path / "vae.pt")
    with pytest.raises(BundleError, match="cannot be read"):
        load(tmp_path / "absent.pt")


def test_a_checkpoint_is_no_torchscript(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(1)}, tmp_path / "vae.pt")
    with pytest.raises(BundleError, match="weights alone"):
        load(tmp_path / "vae.pt")


@pytest.mark.parametrize(
    "call", ["torch.save(x, '{}')", "torch.from_file('{}', True, 9)", "ops.aten.save(x, '{}')"]
)
def test_a_program_that_touches_files_is_refused_before_it_runs(
    script: Path, tmp_path: Path, call: str
) -> None:
    trace = tmp_path / "written"
    line = call.format(trace).encode()
    hostile = rewritten(script, b"    return", b"    x = torch.ones([9])\n    _ = " + line + b"\n    return")
    with pytest.raises(BundleError, match="which no VAE needs"):
        load(hostile)
    assert not trace.exists()


def test_a_file_of_more_than_any_vae_has_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "vae.pt").open("wb") as file:
        file.truncate(torchscript.MAX_BYTES + 1)
    with pytest.raises(BundleError, match="more than any VAE has"):
        load(tmp_path / "vae.pt")


# ---------------------------------------------------------------- in a bundle


@pytest.fixture
def scripted_bundle(demo_bundle: Bundle, script: Path, tmp_path: Path) -> Bundle:
    folder = Path(shutil.copytree(demo_bundle.folder, tmp_path / "model"))
    (folder / VAE).unlink()
    shutil.copy(script, folder / VAE_SCRIPT)
    about: dict[str, Any] = json.loads((folder / ABOUT).read_text())
    del about["files"][VAE]
    content = script.read_bytes()
    about["files"][VAE_SCRIPT] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / ABOUT).write_text(json.dumps(about))
    return bundle.load(folder)


def test_a_bundle_with_a_script_makes_songs_by_it(scripted_bundle: Bundle) -> None:
    coders = scripted_bundle.open_vae()
    expected = published_vae.vae("hooked").decode_export(latents(12).transpose(1, 2))
    assert torch.allclose(vae.decode(latents(12), coders.decoder), expected, atol=1e-5)
    song = generate(scripted_bundle, lyrics=None, style="pop", duration=2.0, seed=1, steps=1, cfg=0.0)
    assert song.audio.shape == (2, 88200)


def test_a_device_is_no_torchscript() -> None:
    with pytest.raises(BundleError, match="no file: /dev/zero"):
        load(Path("/dev/zero"))


def test_a_damaged_packed_program_is_refused_in_a_line(script: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.pt"
    with zipfile.ZipFile(script) as archive, zipfile.ZipFile(damaged, "w", zipfile.ZIP_DEFLATED) as packed:
        for entry in archive.infolist():
            packed.writestr(entry.filename, archive.read(entry))
        program = next(entry for entry in packed.infolist() if entry.filename.endswith(".py"))
    content = bytearray(damaged.read_bytes())
    begin = program.header_offset + 30 + len(program.filename)
    content[begin : begin + 40] = b"\xff" * 40
    damaged.write_bytes(content)
    with pytest.raises(BundleError, match="no TorchScript, or a cut one"):
        load(damaged)
