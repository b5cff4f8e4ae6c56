"""A song of which parts are made anew keeps all the rest, whatever happens on the way."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from safetensors.numpy import load_file, save_file

from diffrhythm import audio, bundle, editing, files, sampling
from diffrhythm.bundle import TRANSFORMER, VAE, Bundle
from diffrhythm.editing import Edit, Known, spans_to_make
from diffrhythm.errors import AudioError, CheckpointError, RequestError
from diffrhythm.events import Event
from diffrhythm.generate import Request, Song, estimate, generate, inspect, seeded_noise
from diffrhythm.sampling import State
from diffrhythm.vae_config import HOP, SAMPLE_RATE

SECONDS = 6.0
FRAMES = 130  # 6 s are 129.2 frames


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A chord of six seconds that swells."""
    path = tmp_path_factory.mktemp("source") / "song.wav"
    t = np.arange(round(SECONDS * SAMPLE_RATE)) / SAMPLE_RATE
    left, right = (np.sin(2 * np.pi * hertz * t) * (0.1 + 0.1 * t) for hertz in (220, 277))
    audio.write(path, np.stack([left, right]).astype(np.float32))
    return path


def sing(model: Bundle, source: Path, *spans: tuple[float, float], **changes: Any) -> Song:
    asked: dict[str, Any] = {
        "lyrics": None,
        "style": "pop song, warm piano",
        "seed": 7,
        "steps": 3,
        "cfg": 2.0,
        "sampler": "euler",
        "precision": "fp32",
        "edit": Edit(source, spans),
    }
    return generate(model, **(asked | changes))


def encoded(model: Bundle, source: Path, *spans: tuple[float, float], **changes: Any) -> Known:
    asked: dict[str, Any] = {"duration": SECONDS, "frames": FRAMES, "seed": 7, "chunk_frames": 128}
    return editing.encode(model, Edit(source, spans), **(asked | changes))


# ---------------------------------------------------------------- spans


def spans(*asked: tuple[float, float], seconds: float = SECONDS, duration: float = SECONDS) -> list[Any]:
    frames = -(-round(duration * SAMPLE_RATE) // HOP)
    samples = round(seconds * SAMPLE_RATE)
    return list(
        spans_to_make(Edit(Path("song.wav"), asked), samples=samples, duration=duration, frames=frames)
    )


def test_seconds_become_frames_as_published_and_the_edges_are_the_songs() -> None:
    assert spans((1.0, 2.5)) == [(int(1.0 * 44100 / 2048), int(2.5 * 44100 / 2048))]
    assert spans((-1, 2.5), (4, -1)) == [(0, 53), (86, FRAMES)]
    assert spans((-1, -1)) == spans((0, SECONDS)) == [(0, FRAMES)]


def test_frames_behind_the_source_are_made_anew_without_being_asked() -> None:
    made = spans_to_make(Edit(Path("a"), ((1, 2),)), samples=95 * SAMPLE_RATE, duration=95, frames=2048)
    assert made == ((21, 43), (2046, 2048))


def test_a_song_goes_on_behind_its_source_where_a_span_says_so() -> None:
    assert spans((5.5, -1), duration=9)[0] == (118, 194)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ([(3, 2)], r"span \[3, 2\]: edit: ends before it begins"),
        ([(2, 2.01)], "within a frame of 0.046 s"),
        ([(2, 6.1)], "leaves the song; choose from 0 to 6"),
        ([(6, -1)], "leaves the song"),
        ([(-2, 1)], "leaves the song"),
        ([(float("nan"), 1)], "leaves the song"),
        ([(1, float("inf"))], "leaves the song"),
        ([(1, 3), (2, 4)], r"span \[2, 4\]: edit: begins before the one ahead of it ends"),
        ([(3, 4), (1, 2)], r"span \[1, 2\]: edit: begins before"),
    ],
)
def test_spans_that_cannot_be_made_are_refused(asked: list[tuple[float, float]], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        spans(*asked)


def test_a_source_that_does_not_fit_the_song_is_refused() -> None:
    with pytest.raises(RequestError, match=r"source of 6\.00 s for a song of 4 s: edit: cut song\.wav"):
        spans((1, 2), duration=4)
    with pytest.raises(
        RequestError, match=r"for a song of 9 s: edit: to go on with it, end with .*\[6, -1\]"
    ):
        spans((1, 2), duration=9)


def test_a_published_song_of_2048_whole_frames_can_be_edited() -> None:
    edit = Edit(Path("a"), ((1, 2),))
    assert spans_to_make(edit, samples=2048 * HOP, duration=95, frames=2048) == ((21, 43),)


# ---------------------------------------------------------------- the source's latent


def test_the_source_is_stereo_at_its_published_peak(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "mono.wav", 0.1 * np.sin(np.arange(48000) / 20), 48000)
    found = editing.read_source(Edit(tmp_path / "mono.wav", ()))
    assert found.shape == (2, SAMPLE_RATE)
    assert np.abs(found).max() == pytest.approx(10 ** (-6 / 20), rel=1e-6)


def test_the_latent_is_drawn_from_the_encoders_moments_with_the_songs_seed(
    demo_bundle: Bundle, source: Path
) -> None:
    first, second, other = (encoded(demo_bundle, source, (1, 2), seed=seed).latents for seed in (7, 7, 8))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    sound = np.pad(editing.read_source(Edit(source, ())), ((0, 0), (0, FRAMES * HOP)))[:, : FRAMES * HOP]
    with torch.no_grad():
        mean, scale = (
            demo_bundle.open_vae().encoder(torch.from_numpy(sound)[None]).transpose(1, 2).chunk(2, -1)
        )
    # Whole or in chunks: away from the inner edge the same.
    noise = ((first - mean) / (torch.nn.functional.softplus(scale) + 1e-4))[0, :90]
    assert float(noise.std()) == pytest.approx(1, abs=0.05)
    x_0 = seeded_noise(7, FRAMES)[0, :90]
    assert abs(float((noise * x_0).mean())) < 0.05


def test_a_source_is_encoded_once_for_all_takes_and_attempts(
    demo_bundle: Bundle, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    chunks: list[int] = []

    def encode(**changes: Any) -> torch.Tensor:
        return encoded(
            demo_bundle, source, (1, 2), on_chunk=lambda done, _: chunks.append(done), **changes
        ).latents

    first = encode()
    assert chunks == [1, 2]
    assert torch.equal(encode(chunk_frames=64), first)
    encode(seed=8)
    assert chunks == [1, 2]
    (entry,) = (files.cache_folder() / "encoded").iterdir()
    entry.write_bytes(b"\xff" * entry.stat().st_size)
    assert torch.equal(encode(), first)
    assert chunks == [1, 2, 1, 2]


# ---------------------------------------------------------------- songs


def test_outside_its_spans_a_song_is_its_source(demo_bundle: Bundle, source: Path) -> None:
    states: list[State] = []
    song = sing(demo_bundle, source, (2, 3), on_step=states.append)
    known = encoded(demo_bundle, source, (2, 3))
    kept = known.latents.clone()
    kept[:, 43:64] = states[-1].x_t[:, 43:64]
    with torch.inference_mode():
        whole = demo_bundle.open_vae().decoder(kept.transpose(1, 2))
    sound = whole[0, :, : round(SECONDS * SAMPLE_RATE)].numpy()
    assert song.duration == SECONDS
    assert np.allclose(song.audio, audio.normalise(sound, -1.0), atol=1e-6)
    assert not torch.allclose(states[-1].x_t[:, :43], known.latents[:, :43], atol=0.1)


def test_an_edit_is_encoded_before_the_transformer_comes(demo_bundle: Bundle, source: Path) -> None:
    events: list[Event] = []
    song = sing(demo_bundle, source, (2, 3), on_event=events.append)
    assert list(song.seconds) == ["lyrics", "style", "encode", "load", "sample", "decode"]
    assert [event.step for event in events if event.phase == "decode"] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("change", [{"seed": 8}, {"spans": [(2, 4)]}, {"spans": [(-1, -1)]}])
def test_another_edit_is_another_song(demo_bundle: Bundle, source: Path, change: dict[str, Any]) -> None:
    first = sing(demo_bundle, source, (2, 3)).audio
    other = sing(demo_bundle, source, *change.get("spans", [(2, 3)]), seed=change.get("seed", 7)).audio
    assert np.abs(first - other).max() > 0.01


def test_a_resumed_edit_is_the_uninterrupted_one_bit_for_bit_with_other_chunks_too(
    demo_bundle: Bundle, source: Path, tmp_path: Path
) -> None:
    class Killed(Exception):
        pass

    def keep(state: State) -> None:
        sampling.save_state(tmp_path / "state", state)
        raise Killed

    whole = sing(demo_bundle, source, (2, 3))
    with pytest.raises(Killed):
        sing(demo_bundle, source, (2, 3), on_step=keep)
    states: list[State] = []
    state = sampling.load_state(tmp_path / "state")
    resumed = sing(demo_bundle, source, (2, 3), on_step=states.append, resume=state)
    assert [state.step for state in states] == [2, 3]
    assert np.array_equal(resumed.audio, whole.audio)
    assert sing(demo_bundle, source, (2, 3), resume=state, chunk_frames=64).passes == whole.passes
    for other in ({"spans": [(2, 4)]}, {"seed": 8}):
        with pytest.raises(CheckpointError, match="another song"):
            sing(demo_bundle, source, *other.get("spans", [(2, 3)]), seed=other.get("seed", 7), resume=state)


def test_an_early_estimate_keeps_the_source_too(demo_bundle: Bundle, source: Path) -> None:
    states: list[State] = []
    edit = Edit(source, ((2, 3),))
    whole = sing(demo_bundle, source, (2, 3), on_step=states.append)
    last = estimate(demo_bundle, states[-1], duration=SECONDS, edit=edit, seed=7)
    assert np.array_equal(last.audio, whole.audio)
    early = estimate(demo_bundle, states[0], duration=SECONDS, edit=edit, seed=7)
    # From a second behind the span on, nothing of it is left in the decoder's view; the gain may differ.
    tail, expected = early.audio[:, 4 * SAMPLE_RATE :], whole.audio[:, 4 * SAMPLE_RATE :]
    gain = float((tail * expected).sum() / (expected * expected).sum())
    assert np.abs(tail - gain * expected).max() < 1e-4


def test_a_song_goes_on_with_its_source(demo_bundle: Bundle, source: Path) -> None:
    song = sing(demo_bundle, source, (5.5, -1), duration=9.0, steps=1)
    assert song.audio.shape == (2, 9 * SAMPLE_RATE)


def test_a_model_of_one_length_edits_songs_of_that_length(
    demo_bundle: Bundle, source: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(demo_bundle.folder, tmp_path / "model"))
    text = (folder / bundle.ABOUT).read_text()
    only_seven = '"durations": [\n    7.0\n  ]'
    (folder / bundle.ABOUT).write_text(
        text.replace('"durations": {\n    "min": 2.0,\n    "max": 40.0\n  }', only_seven)
    )
    model = bundle.load(folder)
    with pytest.raises(RequestError, match="for a song of 7 s: edit: to go on"):
        inspect(model, Request(None, style="pop", edit=Edit(source, ((1, 2),))))
    plan = inspect(model, Request(None, style="pop", edit=Edit(source, ((5, -1),))))
    assert (plan.duration, plan.frames) == (7.0, 151)


@pytest.mark.parametrize(
    "samples", [np.zeros((SAMPLE_RATE * 6, 2)), np.zeros((1, 2))], ids=["silent", "short"]
)
def test_a_source_that_cannot_be_heard_is_refused_before_any_weight_is_read(
    demo_bundle: Bundle, tmp_path: Path, samples: Any
) -> None:
    soundfile.write(tmp_path / "source.wav", samples, SAMPLE_RATE)
    weightless = Path(shutil.copytree(demo_bundle.folder, tmp_path / "weightless"))
    for name in (TRANSFORMER, VAE):
        (weightless / name).write_bytes(b"\xff" * (weightless / name).stat().st_size)
    for file in ("source.wav", "absent.wav"):
        with pytest.raises(AudioError, match=file):
            sing(bundle.load(weightless), tmp_path / file, (1, 2))


def test_an_encoder_of_nan_is_an_error_and_no_song(demo_bundle: Bundle, source: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(demo_bundle.folder, tmp_path / "broken"))
    weights = load_file(broken / VAE)
    weights["encoder.layers.0.bias"] = np.full_like(weights["encoder.layers.0.bias"], np.nan)
    save_file(weights, broken / VAE)
    about = (broken / bundle.ABOUT).read_text()
    (broken / bundle.ABOUT).write_text(about.replace('"name": "demo"', '"name": "broken"'))
    with pytest.raises(RequestError, match="known latent with NaN"):
        sing(bundle.load(broken), source, (1, 2))
