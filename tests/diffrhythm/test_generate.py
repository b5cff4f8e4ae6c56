"""A song from end to end with the demo model."""

import gc
import re
import shutil
import subprocess
import sys
from base64 import b64decode
from dataclasses import replace
from inspect import signature
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from safetensors.numpy import load_file, save_file

import diffrhythm
from diffrhythm import audio, bundle, grids, presets, sampling
from diffrhythm.bundle import TRANSFORMER, VAE, Bundle
from diffrhythm.errors import (
    AudioError,
    CheckpointError,
    LyricsError,
    NotFiniteError,
    RequestError,
    SilenceError,
    StyleError,
)
from diffrhythm.events import Event
from diffrhythm.generate import Request, Song, estimate, generate, inspect
from diffrhythm.sampling import State
from diffrhythm.transformer import DiT
from training.listening import mel_distance

LYRICS = "[00:01.00]Lights are low along the harbour\n[00:03.60]Every ship has gone to sleep\n"


def sing(model: Bundle, **changes: Any) -> Song:
    asked: dict[str, Any] = {
        "lyrics": LYRICS,
        "style": "pop song, warm piano",
        "duration": 6.0,
        "seed": 7,
        "steps": 4,
        "cfg": 3.0,
        "sampler": "euler",
        "precision": "fp32",
    }
    return generate(model, **(asked | changes))


@pytest.fixture(scope="module")
def song(demo_bundle: Bundle) -> Song:
    return sing(demo_bundle)


@pytest.mark.parametrize("duration", [2.0, 3.21987, 5.0])
def test_a_song_has_exactly_the_samples_asked_for(demo_bundle: Bundle, duration: float) -> None:
    made = sing(demo_bundle, duration=duration, steps=1, lyrics=None)
    assert made.audio.shape == (2, round(duration * 44100))
    assert made.audio.dtype == np.float32


def test_a_song_is_fit_to_be_heard(song: Song) -> None:
    assert song.checks.peak == pytest.approx(10 ** (-1 / 20), rel=1e-5)
    assert song.checks.rms > 0.03
    assert song.checks.silence == 0
    assert 0.8 < song.latent_std < 2.0


def test_a_song_tells_how_it_was_made(song: Song) -> None:
    assert song.time_grid == (0, 0.25, 0.5, 0.75, 1)
    assert song.passes == 8
    assert song.precision == "fp32"
    assert list(song.seconds) == ["lyrics", "style", "load", "sample", "decode"]
    assert song.warnings == ()


def test_the_same_request_makes_the_same_song(demo_bundle: Bundle, song: Song) -> None:
    assert np.array_equal(sing(demo_bundle).audio, song.audio)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 8},
        {"style": "heavy metal, screaming guitar"},
        {"negative_style": "slow waltz"},
        {"lyrics": None},
        {"lyrics": LYRICS.replace("sleep", "sea")},
        {"steps": 5},
        {"cfg": 2.0},
    ],
)
def test_whatever_is_asked_otherwise_is_heard(
    demo_bundle: Bundle, song: Song, change: dict[str, Any]
) -> None:
    other = sing(demo_bundle, **change).audio
    assert np.sqrt(np.mean((other - song.audio) ** 2)) > 0.01 * song.checks.rms


def test_without_guidance_one_pass_a_step_does(demo_bundle: Bundle) -> None:
    assert sing(demo_bundle, cfg=0.0, duration=2.0).passes == 4


def test_events_tell_each_phase_step_and_chunk_once_and_in_order(demo_bundle: Bundle) -> None:
    events: list[Event] = []
    sing(demo_bundle, duration=9.0, on_event=events.append)
    assert [phase for phase, _ in groupby(event.phase for event in events)] == [
        "lyrics",
        "style",
        "load",
        "sample",
        "decode",
    ]
    steps = [event for event in events if event.phase == "sample"]
    assert [(event.step, event.t) for event in steps] == [(0, None), (1, 0.25), (2, 0.5), (3, 0.75), (4, 1.0)]
    assert [event.passes for event in steps[1:]] == [2, 4, 6, 8]
    assert all(event.seconds > 0 and event.latent_std for event in steps[1:])
    assert [(event.step, event.steps) for event in events if event.phase == "decode"] == [
        (0, 0),
        *((chunk, 5) for chunk in range(1, 6)),
    ]


def test_the_transformer_is_gone_before_the_decoder_comes(demo_bundle: Bundle) -> None:
    # type() and not isinstance: some of torch's objects warn when they are asked for their class.
    others = {id(thing) for thing in gc.get_objects() if type(thing) is DiT}
    alive: dict[str, int] = {}

    def count(event: Event) -> None:
        alive[event.phase] = sum(type(thing) is DiT and id(thing) not in others for thing in gc.get_objects())

    sing(demo_bundle, duration=2.0, on_event=count)
    assert (alive["sample"], alive["decode"]) == (1, 0)


def test_a_resumed_song_is_the_uninterrupted_one_bit_for_bit(
    demo_bundle: Bundle, song: Song, tmp_path: Path
) -> None:
    class Killed(Exception):
        pass

    def keep(state: State) -> None:
        sampling.save_state(tmp_path / "state", state)
        if state.step == 2:
            raise Killed

    with pytest.raises(Killed):
        sing(demo_bundle, on_step=keep)
    events: list[Event] = []
    resumed = sing(demo_bundle, resume=sampling.load_state(tmp_path / "state"), on_event=events.append)
    assert [event.step for event in events if event.phase == "sample"] == [0, 3, 4]
    assert np.array_equal(resumed.audio, song.audio)
    assert (resumed.time_grid, resumed.passes) == (song.time_grid, song.passes)


def test_a_finished_state_only_needs_decoding(demo_bundle: Bundle, song: Song) -> None:
    states: list[State] = []
    sing(demo_bundle, on_step=states.append)
    assert np.array_equal(sing(demo_bundle, resume=states[-1]).audio, song.audio)
    assert np.array_equal(estimate(demo_bundle, states[-1], duration=6.0).audio, song.audio)


def test_an_early_estimate_is_a_song_too_and_says_what_it_is(demo_bundle: Bundle) -> None:
    states: list[State] = []
    song = sing(demo_bundle, steps=8, on_step=states.append)
    half = estimate(demo_bundle, states[3], duration=6.0)
    unmoved = replace(states[3], velocity=torch.zeros_like(states[3].velocity))
    standing = estimate(demo_bundle, unmoved, duration=6.0)
    assert half.audio.shape == song.audio.shape
    assert half.time_grid == (0, 1 / 8, 2 / 8, 3 / 8, 4 / 8)
    assert half.warnings == ("estimated from t = 0.500, step 4 of 8",)
    assert half.precision is None
    # Nearer to the song, as it is heard, for having followed the flow.
    assert mel_distance(half.audio, song.audio) < 0.6 * mel_distance(standing.audio, song.audio)


def test_an_estimate_of_another_length_is_refused(demo_bundle: Bundle) -> None:
    states: list[State] = []
    sing(demo_bundle, duration=2.0, on_step=states.append)
    with pytest.raises(RequestError, match="44 frames for a song of 6 s"):
        estimate(demo_bundle, states[0], duration=6.0)


def test_a_grid_thinned_on_the_way_is_the_one_that_is_told(demo_bundle: Bundle) -> None:
    def thin(state: State) -> State | None:
        return state.with_tail((1.0,)) if state.step == 2 else None

    made = sing(demo_bundle, duration=2.0, on_step=thin)
    assert (made.time_grid, made.passes) == ((0, 0.25, 0.5, 1), 6)


def sing_long(model: Bundle, **changes: Any) -> Song:
    """Eleven seconds in four windows of five, which share half of it or more."""
    asked = {"duration": 11.0, "window": 5.0, "steps": 3, "sampler": "sway"}
    return sing(model, **(asked | changes))


@pytest.fixture(scope="module")
def long_song(demo_bundle: Bundle) -> Song:
    return sing_long(demo_bundle)


def test_a_song_longer_than_its_window_is_made_in_several(demo_bundle: Bundle, long_song: Song) -> None:
    assert long_song.audio.shape == (2, 11 * 44100)
    frames = [(window.start, window.end, window.known) for window in long_song.windows]
    assert frames == [(0, 108, 0), (43, 151, 65), (86, 194, 65), (129, 237, 65)]
    assert long_song.passes == 4 * 3 * 2
    assert long_song.time_grid == pytest.approx(grids.sway(grids.uniform(3), -1))
    assert 0.8 < long_song.latent_std < 2.5


def test_events_of_a_song_in_windows_count_all_its_steps(demo_bundle: Bundle) -> None:
    events: list[Event] = []
    sing_long(demo_bundle, on_event=events.append)
    steps = [event for event in events if event.phase == "sample"]
    assert [(event.step, event.steps) for event in steps] == [(0, 0), *((step, 12) for step in range(1, 13))]
    assert [event.t for event in steps[1:10]] == [0.0] * 9
    assert steps[-1].t == 1.0


@pytest.mark.parametrize("killed_behind", [1, 3, 4, 6, 8, 11, 12])
def test_a_song_in_windows_goes_on_bit_for_bit_wherever_it_was_killed(
    demo_bundle: Bundle, long_song: Song, tmp_path: Path, killed_behind: int
) -> None:
    class Killed(Exception):
        pass

    def keep(state: State) -> None:
        sampling.save_state(tmp_path / "state", state)
        if state.step == killed_behind:
            raise Killed

    with pytest.raises(Killed):
        sing_long(demo_bundle, on_step=keep)
    events: list[Event] = []
    state = sampling.load_state(tmp_path / "state")
    resumed = sing_long(demo_bundle, resume=state, on_event=events.append)
    steps = [event.step for event in events if event.phase == "sample"]
    assert steps == [0, *range(killed_behind + 1, 13)]
    assert np.array_equal(resumed.audio, long_song.audio)
    assert (resumed.time_grid, resumed.passes) == (long_song.time_grid, long_song.passes)


def test_what_a_window_knows_is_what_was_made_before(demo_bundle: Bundle) -> None:
    states: list[State] = []
    sing_long(demo_bundle, on_step=states.append)
    ends = [states[index] for index in (2, 5, 8, 11)]
    whole = ends[-1].joined(ends[-1].x_t)
    assert whole.shape[1] == 237
    assert torch.equal(whole[:, :108], ends[0].x_t)
    for end in ends[1:]:
        assert end.before is not None
        assert torch.equal(whole[:, : end.before.latents.shape[1]], end.before.latents)


def test_windows_to_come_are_as_thin_as_the_one_that_was_thinned(demo_bundle: Bundle) -> None:
    def thin(state: State) -> State | None:
        return state.thinned(2) if state.step == 3 else None

    made = sing_long(demo_bundle, on_step=thin)
    assert made.passes == (3 + 3 * 2) * 2
    assert len(made.time_grid) - 1 == 2


def test_a_song_in_windows_is_estimated_once_its_last_window_has_begun(demo_bundle: Bundle) -> None:
    states: list[State] = []
    song = sing_long(demo_bundle, on_step=states.append)
    with pytest.raises(RequestError, match="194 frames for a song of 11 s"):
        estimate(demo_bundle, states[8], duration=11.0, window=5.0)
    early = estimate(demo_bundle, states[9], duration=11.0, window=5.0)
    assert early.audio.shape == song.audio.shape
    assert np.array_equal(estimate(demo_bundle, states[-1], duration=11.0, window=5.0).audio, song.audio)


def test_a_checkpoint_of_other_windows_is_refused(demo_bundle: Bundle) -> None:
    states: list[State] = []
    sing_long(demo_bundle, on_step=states.append)
    for state in (states[0], states[4]):
        with pytest.raises(CheckpointError, match="afresh"):
            sing_long(demo_bundle, window=8.0, resume=state)


def test_a_window_that_holds_the_song_changes_nothing(demo_bundle: Bundle, song: Song) -> None:
    assert np.array_equal(sing(demo_bundle, window=20.0).audio, song.audio)


def test_lyrics_behind_the_models_longest_are_sung_in_windows(demo_bundle: Bundle) -> None:
    late = Request("[01:10.00]Every ship has gone to sleep", style="pop", window=40.0)
    plan = inspect(demo_bundle, late)
    assert plan.duration == pytest.approx(plan.alignment.end_seconds + 4)
    assert plan.duration > 70
    assert plan.frames == plan.windows[-1].end == len(plan.alignment.ids)
    assert plan.warnings == ()


@pytest.mark.parametrize("chunk_frames", [1, 16, 80])
def test_shorter_chunks_make_the_same_song_but_for_rounding(
    demo_bundle: Bundle, song: Song, chunk_frames: int
) -> None:
    assert np.abs(sing(demo_bundle, chunk_frames=chunk_frames).audio - song.audio).max() < 1e-5


def test_published_chunks_make_nearly_the_same_song(demo_bundle: Bundle, song: Song) -> None:
    published = sing(demo_bundle, chunk_frames=80, overlap_frames=32)
    assert np.abs(published.audio - song.audio).max() < 0.01


def test_a_length_left_open_holds_the_lyrics_and_a_tail(demo_bundle: Bundle) -> None:
    open_ended = Request(LYRICS, style="pop")
    plan = inspect(demo_bundle, open_ended)
    assert plan.duration == pytest.approx(plan.alignment.end_seconds + 4)
    assert plan.warnings == ()
    assert inspect(demo_bundle, Request(None, style="pop")).duration == 40
    late = inspect(demo_bundle, Request("[00:39.90]Every ship has gone to sleep", style="pop"))
    assert late.duration == 40
    assert any("cut by the end" in warning for warning in late.warnings)


def test_lyrics_read_as_published_may_lose_a_line_without_a_word(demo_bundle: Bundle) -> None:
    untimed = "[00:03.5]la la\n" + LYRICS
    ours, published = (
        inspect(demo_bundle, Request(untimed, style="pop", duration=9, lyrics_compat=compat))
        for compat in ("ours", "published")
    )
    assert (len(ours.alignment.placed), len(published.alignment.placed)) == (3, 2)


@pytest.mark.parametrize(
    ("change", "error", "named"),
    [
        ({"duration": 1.0}, RequestError, "choose 2 to 40"),
        ({"duration": 0.0}, RequestError, "choose 2 to 40"),
        ({"duration": 60.0}, RequestError, "at once: duration: .*`window: 40`"),
        ({"duration": 60.0, "window": 50.0}, RequestError, "cannot make 50 s: window: choose 2 to 40"),
        ({"duration": float("nan")}, RequestError, "duration"),
        ({"steps": 0}, RequestError, "steps"),
        ({"steps": 1001}, RequestError, "steps"),
        ({"cfg": float("nan")}, RequestError, "cfg"),
        ({"cfg": -1.0}, RequestError, "cfg"),
        ({"seed": -1}, RequestError, "seed"),
        ({"sampler": "guess"}, RequestError, "sampler"),
        ({"precision": "fp16"}, RequestError, "precision"),
        ({"chunk_frames": 0}, RequestError, "chunk_frames"),
        ({"chunk_frames": 32, "overlap_frames": 32}, RequestError, "chunk_frames"),
        ({"overlap_frames": -1}, RequestError, "overlap_frames"),
        ({"language": "xx"}, RequestError, "language"),
        ({"lyrics_compat": "theirs"}, RequestError, "lyrics_compat"),
        ({"style": None}, StyleError, "no style"),
        ({"style_clip": Path("clip.wav")}, StyleError, "a style text and a style clip"),
        ({"style": None, "style_clip": Path("absent.wav")}, AudioError, r"absent\.wav"),
        ({"negative_style": "…"}, StyleError, "no words"),
        (
            {"lyrics": "la la la", "lyrics_source": "night.lrc", "lyrics_first_line": 4},
            LyricsError,
            r"night\.lrc:4",
        ),
    ],
)
def test_what_cannot_be_made_is_refused_before_any_weight_is_read(
    demo_bundle: Bundle, tmp_path: Path, change: dict[str, Any], error: type[Exception], named: str
) -> None:
    weightless = shutil.copytree(demo_bundle.folder, tmp_path / "weightless")
    for name in (TRANSFORMER, VAE):
        (weightless / name).write_bytes(b"\xff" * (weightless / name).stat().st_size)
    with pytest.raises(error, match=named):
        sing(bundle.load(weightless), **change)


def test_a_clip_is_a_style(demo_bundle: Bundle, tmp_path: Path, song: Song) -> None:
    clip = tmp_path / "clip.wav"
    audio.write(clip, np.tile(song.audio, 2))
    assert not np.array_equal(sing(demo_bundle, style=None, style_clip=clip).audio, song.audio)


@pytest.mark.parametrize(
    ("value", "error"), [(np.nan, NotFiniteError), (0, SilenceError), (1e-9, SilenceError)]
)
def test_a_song_of_nan_or_of_nothing_is_an_error_and_no_song(
    demo_bundle: Bundle, tmp_path: Path, value: float, error: type[Exception]
) -> None:
    broken = shutil.copytree(demo_bundle.folder, tmp_path / "broken")
    weights = load_file(broken / VAE)
    last = f"decoder.layers.{len(demo_bundle.vae_config.strides) + 2}.weight"
    weights[last] = np.full_like(weights[last], value)
    save_file(weights, broken / VAE)
    with pytest.raises(error, match="fp32"):
        sing(bundle.load(broken), duration=2.0, steps=1)


def test_the_package_makes_songs_whatever_was_imported_first(demo_bundle: Bundle) -> None:
    made = diffrhythm.generate(demo_bundle, lyrics=None, style="pop", duration=2.0, seed=1, steps=1, cfg=0.0)
    assert isinstance(made, Song)


# ---------------------------------------------------------------- as a library


def test_the_public_names_are_offered_before_they_are_loaded() -> None:
    names = "import diffrhythm, sys; print(*dir(diffrhythm)); assert 'torch' not in sys.modules"
    said = subprocess.run([sys.executable, "-c", names], capture_output=True, text=True, check=True).stdout
    assert {"generate", "load", "Song", "Event", "Edit"} <= set(said.split())
    assert all(hasattr(diffrhythm, name) for name in said.split())


def test_the_package_shows_how_to_call_it_whether_function_or_module() -> None:
    shown = signature(diffrhythm.generate)
    assert list(shown.parameters)[:2] == ["bundle", "lyrics"]
    assert [name for name, one in shown.parameters.items() if one.default is one.empty] == ["bundle"]


def test_a_model_and_a_style_are_enough_for_a_song(demo_bundle: Bundle) -> None:
    song = diffrhythm.generate(demo_bundle, style="folk, guitar", preset="preview", duration=2)
    preset = presets.PRESETS["preview"]
    assert len(song.time_grid) == preset.steps + 1
    assert song.passes == 2 * preset.steps


def test_steps_and_guidance_stand_above_the_presets(demo_bundle: Bundle) -> None:
    asked: dict[str, Any] = {"style": "pop", "duration": 2.0, "preset": "preview"}
    assert generate(demo_bundle, **asked, steps=1, cfg=0.0).passes == 1
    assert generate(demo_bundle, **asked, sampler="euler").time_grid == (0, 0.25, 0.5, 0.75, 1)
    with pytest.raises(RequestError, match="did you mean preview"):
        generate(demo_bundle, **asked | {"preset": "perview"})


@pytest.mark.parametrize("format", audio.FORMATS)
def test_a_song_is_written_as_its_ending_says_with_its_tags(
    song: Song, tmp_path: Path, format: audio.Format
) -> None:
    path = tmp_path / f"Harbour.{format.upper()}"
    song.write(path)
    with soundfile.SoundFile(path) as file:
        assert file.format.lower() == format
        assert (file.title, file.genre) == ("Harbour", "pop song, warm piano")
        assert "seed 7, model demo, made by the demo model" in file.comment
    assert audio.verify(path, song.duration) == song.duration


def test_a_song_is_written_at_a_loudness(song: Song, tmp_path: Path) -> None:
    song.write(str(tmp_path / "quiet.wav"), loudness=-30)
    assert audio.loudness(audio.read(tmp_path / "quiet.wav")) == pytest.approx(-30, abs=0.1)


def test_an_ending_that_is_no_sounds_is_told_and_nothing_is_written(song: Song, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"song\.doc; choose one of \.wav, \.flac"):
        song.write(tmp_path / "song.doc")
    assert list(tmp_path.iterdir()) == []


def test_a_notebook_shows_a_line_and_a_player_with_the_whole_song(song: Song, tmp_path: Path) -> None:
    shown = replace(song, tags=replace(song.tags, style="<b>pop</b>"))._repr_html_()
    assert "6 s, &lt;b&gt;pop&lt;/b&gt;, seed 7, model demo" in shown
    player = re.search(r'<audio controls .*src="data:audio/mpeg;base64,([^"]+)">', shown)
    assert player
    (tmp_path / "shown.mp3").write_bytes(b64decode(player[1]))
    assert audio.verify(tmp_path / "shown.mp3") == pytest.approx(6.0, abs=0.1)


def test_a_notebook_keeps_no_sound_of_a_very_long_song(song: Song) -> None:
    shown = replace(song, duration=601.0)._repr_html_()
    assert "601 s" in shown
    assert "<audio" not in shown


def test_a_song_and_a_model_say_what_they_are_in_a_line(song: Song, demo_bundle: Bundle) -> None:
    assert "duration=6.0" in repr(song)
    assert len(repr(song)) < 500
    assert len(repr(demo_bundle)) < 300


def test_ctrl_c_in_a_step_ends_there_and_the_next_song_is_as_ever(demo_bundle: Bundle, song: Song) -> None:
    def interrupt(event: Event) -> None:
        if event.step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sing(demo_bundle, on_event=interrupt)
    assert np.array_equal(sing(demo_bundle).audio, song.audio)
