"""The published style encoder: its path from files to embedding, on a small one of random weights.

The encoder that ours is compared with is muq's own, built by its own constructors from the same files.
"""

import gc
import json
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diffrhythm import audio, bundle, mulan, style
from diffrhythm.bundle import Bundle
from diffrhythm.digest import sha256
from diffrhythm.errors import BundleError, StyleError

pytest.importorskip("muq", reason="the extra is not installed: make setup EXTRA=mulan")

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.nn.utils.weight_norm:FutureWarning")

WORDS = ("pop", "song", "warm", "piano", "female", "voice", "jazz", "流行")
PLACES = 40


def clip(seed: int = 1) -> audio.Audio:
    return np.random.default_rng(seed).standard_normal((1, 240000)).astype(np.float32) / 10


def write_tokenizer(path: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [(f"▁{word}", -float(i)) for i, word in enumerate(WORDS, 2)] + [("▁", -12.0), ("<mask>", 0.0)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=3))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.save(str(path))


def muq_sizes() -> dict[str, Any]:
    from transformers import Wav2Vec2ConformerConfig

    conformer = Wav2Vec2ConformerConfig(
        hidden_size=32,
        num_attention_heads=2,
        num_hidden_layers=2,
        intermediate_size=64,
        position_embeddings_type="rotary",
    ).to_dict()
    # As JSON has it: muq cannot take keys that are numbers, and what is new in transformers 5 is not there.
    unknown = ("id2label", "label2id", "_attn_implementation")
    return {
        "encoder_dim": 32,
        "encoder_depth": 2,
        "conv_dim": 8,
        "codebook_size": 64,
        "use_rvq_target": True,
        "rvq_n_codebooks": 2,
        "stat": {"melspec_2048_mean": 6.77, "melspec_2048_std": 18.4},
        "w2v2_config": {name: value for name, value in conformer.items() if name not in unknown},
    }


def roberta_sizes() -> dict[str, Any]:
    return {
        "model_type": "xlm-roberta",
        "architectures": ["XLMRobertaForMaskedLM"],
        "vocab_size": 16,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": PLACES + 2,
        "type_vocab_size": 1,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
    }


def mulan_sizes(audio_model: str, text_model: str) -> dict[str, Any]:
    tower = {"dim": 24, "tf_depth": 2, "heads": 2, "dim_head": 8, "ff_mult": 2}
    return {
        "mulan": {"sr": 24000, "clip_secs": 10, "dim_latent": 512, "rank_contrast": True},
        "audio_model": {"name": audio_model, "model_dim": 32, "use_layer_idx": -1},
        "text_model": {"name": text_model, "model_dim": 32, "use_layer_idx": -1},
        "audio_transformer": tower,
        "text_transformer": {**tower, "max_seq_len": 64},
    }


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, dict[str, Path]]:
    """muq's own encoder, and the files that it is published in."""
    from muq import MuQ, MuQMuLan
    from transformers import XLMRobertaConfig, XLMRobertaModel

    folder = tmp_path_factory.mktemp("published")
    paths = {name: folder / name for name in mulan.FILES}
    # Base models as muq's constructors want them: folders with weights.
    muq, roberta = folder / "muq", folder / "xlm-roberta"
    paths[mulan.AUDIO_CONFIG].write_text(json.dumps(muq_sizes()))
    paths[mulan.TEXT_CONFIG].write_text(json.dumps(roberta_sizes()))
    write_tokenizer(paths[mulan.TOKENIZER])
    sizes = muq_sizes()
    sizes["w2v2_config"]["_attn_implementation"] = "eager"
    MuQ(sizes).save_pretrained(muq, config=sizes)
    XLMRobertaModel(XLMRobertaConfig(**roberta_sizes())).save_pretrained(roberta)
    shutil.copy(paths[mulan.TEXT_CONFIG], roberta / "config.json")
    shutil.copy(paths[mulan.TOKENIZER], roberta / "tokenizer.json")

    encoder = MuQMuLan(mulan_sizes(str(muq), str(roberta))).eval()
    generator = torch.Generator().manual_seed(1)
    for _, weight in sorted(encoder.named_parameters()):
        weight.data = torch.randn(weight.shape, generator=generator) * 0.3
    paths[mulan.CONFIG].write_text(json.dumps(mulan_sizes("OpenMuQ/MuQ-large-msd-iter", "xlm-roberta-base")))
    torch.save(encoder.state_dict(), paths[mulan.WEIGHTS])
    return encoder, paths


@pytest.fixture
def paths(published: tuple[Any, dict[str, Path]], tmp_path: Path) -> dict[str, Path]:
    """The published files, to be damaged."""
    folder = tmp_path / "encoder"
    folder.mkdir()
    return {name: Path(shutil.copy(path, folder)) for name, path in published[1].items()}


@pytest.fixture
def with_encoder(demo_bundle: Bundle, paths: dict[str, Path], tmp_path: Path) -> Bundle:
    """A bundle with the encoder in it."""
    return bundle.read(bundle_of(demo_bundle, tmp_path / "bundle", paths))


@pytest.fixture
def without_encoder(demo_bundle: Bundle, tmp_path: Path) -> Bundle:
    """A bundle whose encoder is to be found in the hub's cache."""
    return bundle.read(bundle_of(demo_bundle, tmp_path / "bundle", {}))


def bundle_of(demo: Bundle, folder: Path, encoder: dict[str, Path]) -> Path:
    shutil.copytree(demo.folder, folder)
    about = json.loads((folder / bundle.ABOUT).read_text())
    about.update(style_encoder="muq-mulan", name="diffrhythm-1.2")
    for name, path in encoder.items():
        shutil.copy(path, folder / name)
        about["files"][name] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
    (folder / bundle.ABOUT).write_text(json.dumps(about))
    return folder


@pytest.fixture(autouse=True)
def _nothing_of_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        pytest.fail(f"reaches for the network: {arguments}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_the_real_package_has_what_we_build_on() -> None:
    from muq.muq_mulan.models.audio import AudioSpectrogramTransformerPretrained as Sound
    from muq.muq_mulan.models.text import TextTransformerPretrained as Words

    assert callable(Sound._init_pretrained_model)
    assert callable(Words._init_pretrained_model)
    assert callable(Words._init_tokenizer)


@pytest.mark.parametrize("text", ["pop song, warm piano", "流行 female voice", "jazz"])
def test_a_text_has_the_style_that_the_published_encoder_gives_it(
    published: tuple[Any, dict[str, Path]], text: str
) -> None:
    encoder, paths = published
    with torch.inference_mode():
        expected = encoder(texts=[text])[0].numpy()
    found = mulan.embed_text(text, paths)
    assert (found.shape, found.dtype) == ((512,), np.float32)
    assert np.linalg.norm(found) == pytest.approx(1, abs=1e-6)
    assert np.abs(found - expected).max() < 1e-6


def test_a_clip_has_the_style_that_the_published_encoder_gives_it(
    published: tuple[Any, dict[str, Path]],
) -> None:
    encoder, paths = published
    with torch.inference_mode():
        expected = encoder(wavs=torch.from_numpy(clip()))[0].numpy()
    found = mulan.embed_clip(clip(), paths)
    assert (found.shape, found.dtype) == ((512,), np.float32)
    assert np.linalg.norm(found) == pytest.approx(1, abs=1e-6)
    assert np.abs(found - expected).max() < 1e-6


def test_another_text_and_another_clip_have_another_style(published: tuple[Any, dict[str, Path]]) -> None:
    _, paths = published
    assert np.abs(mulan.embed_text("pop song", paths) - mulan.embed_text("jazz", paths)).max() > 1e-3
    assert np.abs(mulan.embed_clip(clip(1), paths) - mulan.embed_clip(clip(2), paths)).max() > 1e-5


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def living_weights() -> int:
    return sum(type(each) is torch.nn.Parameter for each in gc.get_objects())


def test_nothing_of_the_encoder_is_left_when_a_style_is_made(
    published: tuple[Any, dict[str, Path]], no_collector: None
) -> None:
    _, paths = published
    before = living_weights()
    mulan.embed_text("pop song", paths)
    assert living_weights() == before
    mulan.embed_clip(clip(), paths)
    assert living_weights() == before
    encoder = mulan._load(paths)
    assert living_weights() >= before + len(list(encoder.parameters()))


def test_every_weight_is_mapped_from_the_file(published: tuple[Any, dict[str, Path]]) -> None:
    _, paths = published
    encoder = mulan._load(paths)
    mapped = [
        range(int(start, 16), int(stop, 16))
        for line in Path("/proc/self/maps").read_text().splitlines()
        if line.endswith(str(paths[mulan.WEIGHTS]))
        for start, stop in [line.split()[0].split("-")]
    ]
    for name, weight in encoder.named_parameters():
        assert any(weight.data_ptr() in place for place in mapped), name


def test_every_weight_of_the_file_is_filled_in(published: tuple[Any, dict[str, Path]]) -> None:
    _, paths = published
    stored = torch.load(paths[mulan.WEIGHTS], weights_only=True)
    loaded = mulan._load(paths).state_dict()
    assert loaded.keys() == stored.keys()
    assert all(torch.equal(loaded[name], stored[name]) for name in stored)


def test_making_a_style_prints_nothing_and_needs_no_network(
    paths: dict[str, Path], capfd: pytest.CaptureFixture[str], no_network: None
) -> None:
    mulan.embed_text("pop song", paths)
    mulan.embed_clip(clip(), paths)
    assert capfd.readouterr() == ("", "")


def test_weights_in_half_precision_are_calculated_in_float32(
    published: tuple[Any, dict[str, Path]], paths: dict[str, Path]
) -> None:
    encoder, _ = published
    halves = {
        name: weight.half() if weight.is_floating_point() else weight
        for name, weight in encoder.state_dict().items()
    }
    torch.save(halves, paths[mulan.WEIGHTS])
    loaded = mulan._load(paths)
    assert {weight.dtype for weight in loaded.parameters()} == {torch.float32}
    assert mulan.embed_text("pop", paths) @ mulan.embed_text("pop", published[1]) > 0.999


def test_a_text_of_more_tokens_than_the_encoder_has_places_is_refused(paths: dict[str, Path]) -> None:
    fits = " ".join(["pop"] * (PLACES - 2))
    assert mulan.embed_text(fits, paths).shape == (512,)
    with pytest.raises(StyleError, match=f"{PLACES + 1} tokens: style: at most {PLACES} fit"):
        mulan.embed_text(f"{fits} pop", paths)


class Code:
    """In a pickle: a call."""

    def __reduce__(self) -> tuple[object, ...]:
        return (print, ("code ran",))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:2000])


def save(found: object, path: Path) -> None:
    torch.save(found, path)


def without_one(path: Path) -> None:
    weights = torch.load(path, weights_only=True)
    del weights["mulan.text_to_latents.weight"]
    save(weights, path)


def with_one_more(path: Path) -> None:
    save({**torch.load(path, weights_only=True), "mulan.stray": torch.zeros(1)}, path)


def of_another_shape(path: Path) -> None:
    save({**torch.load(path, weights_only=True), "mulan.text_to_latents.bias": torch.zeros(5)}, path)


def not_numbers(path: Path) -> None:
    save(
        {**torch.load(path, weights_only=True), "mulan.text_to_latents.bias": torch.full((512,), torch.nan)},
        path,
    )


@pytest.mark.parametrize(
    ("name", "damage", "words"),
    [
        (mulan.WEIGHTS, cut, "damaged"),
        (mulan.WEIGHTS, lambda path: path.write_bytes(b""), "damaged"),
        (mulan.WEIGHTS, lambda path: path.write_text("not weights"), "damaged|more than weights"),
        (mulan.WEIGHTS, lambda path: save({"a": Code()}, path), "more than weights"),
        (mulan.WEIGHTS, lambda path: save({"a": 1}, path), "no dictionary of weights"),
        (mulan.WEIGHTS, Path.unlink, "cannot be read"),
        (mulan.WEIGHTS, without_one, "mulan.text_to_latents.weight"),
        (mulan.WEIGHTS, with_one_more, "mulan.stray"),
        (mulan.WEIGHTS, of_another_shape, "mulan.text_to_latents.bias"),
        (mulan.WEIGHTS, not_numbers, "no style"),
        (mulan.CONFIG, lambda path: path.write_text("{"), "not JSON"),
        (mulan.CONFIG, lambda path: path.write_text("[]"), "not a JSON object"),
        (mulan.CONFIG, lambda path: path.write_text("{}"), "no sizes"),
        (mulan.CONFIG, Path.unlink, "missing"),
        (mulan.AUDIO_CONFIG, lambda path: path.write_text("{}"), "no sizes"),
        (mulan.TEXT_CONFIG, lambda path: path.write_text("[" * 100000), "not JSON"),
        (mulan.TOKENIZER, lambda path: path.write_text("{}"), "no tokenizer"),
        (mulan.TOKENIZER, lambda path: path.write_bytes(b"\xff"), "no tokenizer"),
    ],
)
def test_a_damaged_file_is_named_in_one_line(
    paths: dict[str, Path], capfd: pytest.CaptureFixture[str], name: str, damage: Any, words: str
) -> None:
    damage(paths[name])
    with pytest.raises(BundleError, match=words) as caught:
        mulan.embed_text("pop", paths)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 500
    assert "encoder" in message
    assert "code ran" not in capfd.readouterr().out


def test_the_files_are_found_in_the_bundle(with_encoder: Bundle) -> None:
    found = mulan.locate(with_encoder)
    assert found == {name: with_encoder.folder / name for name in mulan.FILES}
    assert np.linalg.norm(style.embed("warm piano", with_encoder)) == pytest.approx(1, abs=1e-6)


def in_hub_cache(paths: dict[str, Path], hub: Path, commit: str | None = None) -> None:
    """The files where the hub's own library keeps them."""
    for name, file in mulan.FILES.items():
        snapshots = hub / f"models--{file.repository.replace('/', '--')}" / "snapshots"
        target = snapshots / (commit or mulan.COMMITS[file.repository]) / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(paths[name], target)


def test_the_files_are_found_in_the_hubs_cache_without_the_network(
    without_encoder: Bundle, paths: dict[str, Path], tmp_path: Path, no_network: None
) -> None:
    in_hub_cache(paths, tmp_path / "hub")
    found = style.embed("warm piano", without_encoder)
    assert np.array_equal(found, mulan.embed_text("warm piano", paths))


@pytest.mark.parametrize("commit", [None, "0" * 40])
def test_a_missing_encoder_is_told_with_the_command_that_gets_it(
    without_encoder: Bundle, paths: dict[str, Path], tmp_path: Path, no_network: None, commit: str | None
) -> None:
    if commit:
        in_hub_cache(paths, tmp_path / "hub", commit)
    for act in (style.embed, style.check):
        with pytest.raises(BundleError, match=r"get it with: runner models pull diffrhythm-1\.2$") as caught:
            act("warm piano", without_encoder)
        assert "\n" not in str(caught.value)


def test_a_style_that_is_kept_needs_no_encoder(with_encoder: Bundle) -> None:
    first = style.embed("warm piano", with_encoder)
    for name in mulan.FILES:
        (with_encoder.folder / name).unlink()
    assert np.array_equal(style.embed("warm piano", with_encoder), first)
    style.check("warm piano", with_encoder)


def test_bundles_with_the_same_encoder_share_what_is_kept_and_others_do_not(
    with_encoder: Bundle, demo_bundle: Bundle, paths: dict[str, Path], tmp_path: Path
) -> None:
    twin_folder = bundle_of(demo_bundle, tmp_path / "twin", paths)
    about = json.loads((twin_folder / bundle.ABOUT).read_text())
    (twin_folder / bundle.ABOUT).write_text(json.dumps({**about, "licence": "another"}))
    not_numbers(paths[mulan.WEIGHTS])
    other = bundle.read(bundle_of(demo_bundle, tmp_path / "other", paths))
    twin = bundle.read(twin_folder)
    assert twin.hash != with_encoder.hash
    (twin.folder / mulan.WEIGHTS).unlink()
    assert np.array_equal(style.embed("jazz", with_encoder), style.embed("jazz", twin))
    with pytest.raises(BundleError, match="no style"):
        style.embed("jazz", other)


def test_a_clip_of_a_file_is_heard_by_the_encoder_and_kept(
    with_encoder: Bundle, paths: dict[str, Path], tmp_path: Path
) -> None:
    path = tmp_path / "clip.wav"
    audio.write(path, np.repeat(clip()[:, :240000], 2, axis=0), rate=22050)
    found = style.embed(path, with_encoder)
    assert np.array_equal(found, mulan.embed_clip(audio.read_middle(path), paths))
    assert len(list((tmp_path / "cache" / "diffrhythm" / "styles").iterdir())) == 1


def test_a_check_tells_of_a_text_too_long_for_the_encoder(with_encoder: Bundle) -> None:
    with pytest.raises(StyleError, match="tokens"):
        style.check("pop " * PLACES, with_encoder)
    with pytest.raises(StyleError, match="10000 characters"):
        style.check("x" * 10000, with_encoder)


def test_packages_that_are_not_installed_are_told_with_the_command_that_gets_them(
    paths: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "muq", None)
    for act in (lambda: mulan.embed_text("pop", paths), lambda: mulan.embed_clip(clip(), paths)):
        with pytest.raises(
            BundleError,
            match=r"not installed .*: make setup EXTRA=mulan, or install diffrhythm-runner\[mulan\]$",
        ) as caught:
            act()
        assert "\n" not in str(caught.value)
