"""The child with the real demo model: what it leaves behind when it is done, and when it cannot be."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
import soundfile
import torch
from folders import REQUEST

from diffrhythm import audio, bundle, grids, sampling
from diffrhythm.errors import BundleError, LyricsError
from runner import heartbeat, worker
from runner.files import read_message, write_message
from runner.manifest import sha256
from runner.messages import Heartbeat, Outcome, SongRequest
from runner.songfolder import Attempt, SongFolder

STEPS = 8
WORKER = [sys.executable, "-m", "runner.worker", "sing"]
# Sings all requests in one process, since to load torch takes longer than to sing; an exit code a line.
SING_ALL = (
    "import sys; from pathlib import Path; from runner import worker\n"
    "for paper in sys.argv[1:]: print(worker.sing(Path(paper)), flush=True)"
)

# The worker, of which every beat is kept: who looked at one after the other might come too late for some.
KEEPS_BEATS = """
import sys
from runner import heartbeat, worker
write = heartbeat.write_message
def kept(path, beat, **options):
    write(path, beat, **options)
    write(path.with_name(f"beat-{beat.seq}.json"), beat, **options)
heartbeat.write_message = kept
sys.exit(worker.main(["sing", sys.argv[1]]))
"""


def request(**changes: Any) -> SongRequest:
    """Two seconds by the demo model, as they were checked."""
    checked = {"model_hash": bundle.load("demo").hash, "duration": 2.0, "steps": STEPS, "density": STEPS}
    here = {"lyrics": "[00:00.00]low tide\n", "lyrics_source": "a.lrc", "lyrics_compat": "ours"}
    return replace(REQUEST, **(checked | here | {"foresight": False} | changes))


def asked(place: Path, **changes: Any) -> Attempt:
    """A song's first attempt, with its request written."""
    attempt = SongFolder(place / "night" / "rain").new_attempt()
    write_message(attempt.request, request(**changes))
    return attempt


def log_of(attempt: Attempt) -> list[dict[str, Any]]:
    return [json.loads(line) for line in attempt.steps.read_text().splitlines()]


def checkpoint(file: Path, whole: Path, *, position: int = 2, **changes: Any) -> str:
    """A checkpoint of a made song after that many of its steps (with a latent that belongs elsewhere)."""
    sampling.save_state(file, replace(sampling.load_state(whole), position=position, **changes))
    return str(file)


@dataclass(frozen=True)
class Sung:
    attempt: Attempt
    exit_code: int
    said: str

    @property
    def outcome(self) -> Outcome:
        return read_message(self.attempt.outcome, Outcome)


def sing_all(attempts: dict[str, Attempt]) -> dict[str, Sung]:
    papers = [str(attempt.request) for attempt in attempts.values()]
    done = subprocess.run(
        [sys.executable, "-c", SING_ALL, *papers], capture_output=True, text=True, check=True, timeout=300
    )
    codes = [int(line) for line in done.stdout.splitlines()]
    return {
        name: Sung(attempt, code, done.stderr)
        for (name, attempt), code in zip(attempts.items(), codes, strict=True)
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Sung:
    return sing_all({"whole": asked(tmp_path_factory.mktemp("whole"))})["whole"]


@pytest.fixture(scope="module")
def sung(whole: Sung, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Sung]:
    place = tmp_path_factory.mktemp("sung")
    whole_state = whole.attempt.checkpoint
    state = sampling.load_state(whole_state)
    half = checkpoint(place / "half.safetensors", whole_state)
    others = checkpoint(place / "others.safetensors", whole_state, conditioning_hash="of another song")
    loud = checkpoint(place / "loud.safetensors", whole_state, x_t=state.x_t * 1e6)
    garbage = place / "garbage.safetensors"
    garbage.write_bytes(b"no checkpoint at all")
    truncated = place / "bundle"
    truncated.mkdir()
    for file in bundle.load("demo").folder.iterdir():
        (truncated / file.name).write_bytes(file.read_bytes()[:1000])
    requests: dict[str, dict[str, Any]] = {
        "torn lyrics": {"lyrics": "[00:00.00]low tide\n[00:xx]torn\n", "lyrics_first_line": 5},
        "no clip": {"style": None, "style_audio": str(place / "absent.wav")},
        "damaged bundle": {"model": str(truncated)},
        "another bundle": {"model_hash": "0" * 64},
        "half": {"checkpoint": half},
        "half, 24 bits": {"checkpoint": half, "bits": 24},
        "half, 32 bits": {"checkpoint": half, "bits": 32},
        "half, faded": {
            "checkpoint": half,
            "fade_out": 1.0,
            "loudness": -14.0,
            "format": "mp3",
            "lyrics": "[ti:海の光]\n[00:00.00]low tide\n",
        },
        "half, thinner": {"checkpoint": half, "density": 4},
        "a slow decoder": {
            "steps": 16,
            "density": 16,
            "foresight": True,
            "decoder_speed": 1.0,
            "decoder_around_s": 3000.0,
        },
        "half, estimate": {"checkpoint": half, "mode": "estimate"},
        "no checkpoint, estimate": {"checkpoint": str(place / "absent"), "mode": "estimate"},
        "garbage": {"checkpoint": str(garbage)},
        "others": {"checkpoint": others},
        "runaway": {"checkpoint": loud},
        "windows": {"duration": 6.0, "window": 3.0},
        "windows, in no time": {"duration": 6.0, "window": 3.0, "foresight": True, "timeout_s": 1.0},
        "crash": {},
    }
    attempts = {name: asked(place / name, **changes) for name, changes in requests.items()}
    attempts["crash"].steps.mkdir()  # where the step log would be
    return sing_all(attempts)


# ---------------------------------------------------------------- a song


def test_a_song_leaves_its_sound_and_all_facts_about_it(whole: Sung) -> None:
    outcome, sound = whole.outcome, whole.attempt.audio("wav")
    assert (whole.exit_code, outcome.cause, outcome.t) == (0, None, 1.0)
    assert outcome.song["sha256"] == sha256(sound)
    assert outcome.song["degraded"] is None
    assert outcome.song["time_grid"] == list(grids.uniform(STEPS))
    assert (outcome.song["samples"], outcome.song["sample_rate"]) == (88200, 44100)
    assert set(outcome.song["phases"]) >= {"load", "sample", "decode"}
    assert outcome.song["checks"]


def test_a_song_leaves_a_picture_its_outline_and_the_lines_to_read_along(whole: Sung) -> None:
    assert whole.attempt.spectrogram.read_bytes().startswith(b"\x89PNG")
    song = whole.outcome.song
    assert song["lines"] == [{"start": 0.0, "text": "low tide"}]
    assert max(song["outline"]) == 100


def test_a_picture_that_cannot_be_drawn_costs_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    attempt = asked(tmp_path)
    attempt.audio("wav").write_bytes(b"no sound")
    worker._draw(attempt, request())
    assert not attempt.spectrogram.exists()
    assert "AudioError" in capfd.readouterr().err


def test_sounds_are_made_small_as_long_as_there_is_room_for_them(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).standard_normal((44_100, 2)).astype(np.float32) / 9
    sounds = [tmp_path / f"{name}.wav" for name in "abcd"]
    for sound in (sounds[0], sounds[2], sounds[3]):
        soundfile.write(sound, noise, 44_100)
    sounds[1].write_bytes(b"no sound")
    paper = tmp_path / "sounds.json"
    paper.write_text(json.dumps({"sounds": [str(sound) for sound in sounds], "most_bytes": 40_000}))
    assert worker.main(["compress", str(paper)]) == 0
    made = sorted(tmp_path.glob("*.mp3"))
    assert [path.name for path in made] == ["0.mp3", "2.mp3"]
    assert sum(path.stat().st_size for path in made) <= 40_000
    assert soundfile.info(made[0]).duration == pytest.approx(1.0, abs=0.1)


def test_every_step_is_logged_with_its_time_and_passes(whole: Sung) -> None:
    log = log_of(whole.attempt)
    assert [line["step"] for line in log] == list(range(1, STEPS + 1))
    assert {line["steps"] for line in log} == {STEPS}
    assert [line["t"] for line in log] == list(grids.uniform(STEPS)[1:])
    assert log[-1]["passes"] == whole.outcome.song["passes"]
    assert all(line["seconds"] > 0 for line in log)


def test_the_last_beat_is_of_writing(whole: Sung) -> None:
    beat = heartbeat.read(SongFolder(whole.attempt.folder.parents[1]).heartbeat)
    assert isinstance(beat, Heartbeat)
    assert (beat.phase, beat.song, beat.attempt, beat.density) == ("write", "night/rain", 1, STEPS)
    assert {"load", "lyrics", "style", "sample", "decode"} == set(beat.spent_s)
    assert 0 < beat.private <= beat.rss + beat.swap


# ---------------------------------------------------------------- why there is none


@pytest.mark.parametrize(
    ("name", "exit_code", "cause", "words"),
    [
        ("torn lyrics", 3, "bad-input", "a.lrc:6"),
        ("no clip", 3, "bad-input", "absent.wav"),
        ("damaged bundle", 3, "no-bundle", "bundle"),
        ("another bundle", 3, "no-bundle", "changed since this batch was checked"),
        ("no checkpoint, estimate", 3, "bad-input", "no usable checkpoint"),
        ("runaway", 4, "numbers", "standard deviation"),
        ("crash", 1, "crash", "IsADirectoryError"),
    ],
)
def test_every_way_of_failing_has_its_exit_code_cause_and_words(
    sung: dict[str, Sung], name: str, exit_code: int, cause: str, words: str
) -> None:
    failed = sung[name]
    assert (failed.exit_code, failed.outcome.cause) == (exit_code, cause)
    assert words in failed.outcome.message
    assert failed.outcome.song == {}
    assert not failed.attempt.audio("wav").exists()
    assert failed.outcome.message.splitlines()[0] in failed.said  # its traceback is in the log


def unreadable_bundle() -> None:
    try:
        raised(OSError(errno.ENOMEM, "Cannot allocate memory"))
    except OSError as error:
        raise BundleError("cannot read: dit.safetensors; get the bundle again") from error


def raised(what: Exception) -> None:
    raise what


@pytest.mark.parametrize(
    "fail",
    [
        lambda: bytearray(2**60),
        lambda: torch.empty(2**48),
        lambda: openvino.Tensor(openvino.Type.f32, openvino.Shape([2**46])),
        lambda: np.empty(2**50),
        lambda: raised(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")),
        lambda: raised(OSError(errno.ENOMEM, "Cannot allocate memory")),
        unreadable_bundle,
    ],
)
def test_an_allocation_that_fails_is_out_of_memory_whoever_asked_for_it(fail: Callable[[], object]) -> None:
    with pytest.raises(Exception) as failure:
        fail()
    assert worker._cause(failure.value) == "out-of-memory"


def test_what_is_no_failed_allocation_is_not_called_one() -> None:
    errors = [
        RuntimeError("shapes [1, 2] and [3] do not match"),
        KeyError("memory"),
        OSError(errno.EIO, "I/O"),
    ]
    assert {worker._cause(error) for error in errors} == {"crash"}
    assert worker._cause(LyricsError("a.lrc:3: out of memory [verse]; write [00:00.00]")) == "bad-input"


def test_a_full_disk_is_an_outcome_of_its_own_and_leaves_no_half_sound(small_disk: Path) -> None:
    attempt = asked(small_disk)
    done = subprocess.run([*WORKER, str(attempt.request)], capture_output=True, text=True, check=False)
    outcome = read_message(attempt.outcome, Outcome)
    assert (done.returncode, outcome.cause) == (5, "no-disk"), done.stderr
    assert "No space left on device" in outcome.message
    assert not attempt.audio("wav").exists()
    assert list(small_disk.rglob("*.tmp")) == []


# ---------------------------------------------------------------- going on


def test_a_song_goes_on_from_its_checkpoint_on_the_same_grid(sung: dict[str, Sung]) -> None:
    made = sung["half"]
    assert made.exit_code == 0
    assert [line["step"] for line in log_of(made.attempt)] == list(range(3, STEPS + 1))
    assert made.outcome.song["time_grid"] == list(grids.uniform(STEPS))
    assert made.outcome.song["degraded"] is None


def test_a_sample_has_the_bits_that_were_asked_for(sung: dict[str, Sung]) -> None:
    kinds = {
        name: soundfile.info(sung[name].attempt.audio("wav")).subtype
        for name in ("half", "half, 24 bits", "half, 32 bits")
    }
    assert list(kinds.values()) == ["PCM_16", "PCM_24", "FLOAT"]


def test_a_sound_has_one_digest_whatever_file_it_is_put_in(sung: dict[str, Sung]) -> None:
    digests = [sung[name].outcome.song["sound_sha256"] for name in ("half", "half, 24 bits", "half, faded")]
    assert digests[0] == digests[1] != digests[2]


def test_a_song_fades_before_its_loudness_is_set_and_is_measured_as_it_lies_on_the_disk(
    sung: dict[str, Sung],
) -> None:
    made, file = sung["half, faded"], sung["half, faded"].attempt.audio("mp3")
    heard = audio.decoded(file)
    assert np.abs(heard[:, -2000:]).max() < 0.02 * np.abs(heard).max()
    assert made.outcome.song["checks"] == asdict(audio.check(heard))
    loudness = made.outcome.song["checks"]["loudness"]
    assert loudness == pytest.approx(-14.0, abs=0.2) or made.outcome.song["checks"]["true_peak"] > -1.3


def test_a_file_is_called_as_its_lyrics_are_else_as_its_song(sung: dict[str, Sung]) -> None:
    titles = {}
    for name, extension in (("half, faded", "mp3"), ("half", "wav")):
        with soundfile.SoundFile(sung[name].attempt.audio(extension)) as file:
            titles[name] = (file.title, file.album)
    assert titles == {"half, faded": ("海の光", "night"), "half": ("rain", "night")}
    named = request(lyrics="[ti:海の光]\n[00:00.00]low tide\n", song="night/rain.2")
    assert worker._title(named, "rain.2") == "海の光 (2)"


def test_with_fewer_steps_only_what_remains_is_thinned(sung: dict[str, Sung]) -> None:
    made = sung["half, thinner"]
    assert made.exit_code == 0
    assert made.outcome.song["time_grid"] == pytest.approx([0, 1 / 8, 1 / 4, 1 / 2, 3 / 4, 1])
    assert made.outcome.song["degraded"] == "5 steps instead of 8"
    assert [(line["step"], line["steps"]) for line in log_of(made.attempt)] == [(3, 5), (4, 5), (5, 5)]


def test_a_song_in_windows_has_reached_nothing_until_its_last_one_has_begun(sung: dict[str, Sung]) -> None:
    made = sung["windows"]
    assert made.exit_code == 0
    assert [window["start"] for window in made.outcome.song["windows"]] == [0, 33, 65]
    assert made.outcome.song["samples"] == 6 * 44100
    assert made.outcome.song["degraded"] is None
    log = log_of(made.attempt)
    assert [(line["step"], line["steps"]) for line in log] == [(step, 24) for step in range(1, 25)]
    assert [line["t"] for line in log] == pytest.approx([0] * 16 + [step / 8 for step in range(1, 9)])


def test_foresight_thins_the_windows_to_come_as_well(sung: dict[str, Sung]) -> None:
    made = sung["windows, in no time"]
    assert made.exit_code == 0
    assert [line["steps"] for line in log_of(made.attempt)] == [24, *[13] * 12]
    assert made.outcome.song["degraded"] == "4 steps instead of 8"


def test_an_estimate_takes_no_step_and_says_from_where_it_is(sung: dict[str, Sung]) -> None:
    made = sung["half, estimate"]
    assert made.exit_code == 0
    assert made.outcome.song["degraded"] == "an early estimate of its end, from t = 0.25"
    assert made.outcome.song["time_grid"] == [0, 1 / 8, 1 / 4]
    assert not made.attempt.steps.exists()
    assert made.attempt.audio("wav").exists()


@pytest.mark.parametrize("name", ["garbage", "others"])
def test_a_checkpoint_that_cannot_be_used_costs_its_steps_and_not_the_song(
    sung: dict[str, Sung], whole: Sung, name: str
) -> None:
    made = sung[name]
    assert made.exit_code == 0
    assert len(log_of(made.attempt)) == STEPS
    assert made.outcome.song["sha256"] == whole.outcome.song["sha256"]
    assert "CheckpointError" in made.said


# ---------------------------------------------------------------- foresight and beats


def test_every_step_says_what_is_left_and_the_song_what_it_shows_of_its_decoder(whole: Sung) -> None:
    left = [line["left"] for line in log_of(whole.attempt)]
    assert left[-1]["sample"] == 0
    assert all(each["sample"] > 0 for each in left[:-1])
    assert all(each["decode"] > 0 and each["write"] > 0 for each in left)
    assert whole.outcome.song["decoder"]["speed"] > 0
    assert whole.outcome.song["decoder"]["around_s"] > 0


def test_a_finished_song_says_how_fast_its_passes_were_and_their_work(
    whole: Sung, sung: dict[str, Sung]
) -> None:
    song = whole.outcome.song
    assert 0 < song["pass_s"] * song["passes"] < 3 * song["phases"]["sample"]
    assert sung["half"].outcome.song["pass_flops"] == song["pass_flops"] > 0
    assert "pass_s" not in sung["half, estimate"].outcome.song


def test_a_resumed_song_has_the_pace_of_its_own_passes(sung: dict[str, Sung]) -> None:
    first = log_of(sung["half"].attempt)[0]
    assert first["left"]["sample"] == pytest.approx((STEPS - first["step"]) * first["seconds"], abs=0.005)


def test_where_decoding_is_foreseen_to_take_long_fewer_steps_are_taken(sung: dict[str, Sung]) -> None:
    made = sung["a slow decoder"]
    log = log_of(made.attempt)
    assert all(line["left"]["decode"] > 3000 for line in log)
    assert [line["steps"] for line in log] == [16] + 5 * [6]
    assert made.outcome.cause is None


def test_where_time_runs_out_the_grid_is_thinned_and_beats_and_log_agree(tmp_path: Path) -> None:
    # A second is over before the second step, so that of 14 steps those of the floor are kept.
    attempt = asked(tmp_path, steps=16, density=16, foresight=True, timeout_s=1.0)
    command = [sys.executable, "-c", KEEPS_BEATS, str(attempt.request)]
    subprocess.run(command, capture_output=True, check=True)
    beats = [read_message(file, Heartbeat) for file in (tmp_path / "night" / "rain").glob("beat-*.json")]
    log = log_of(attempt)
    assert [(line["step"], line["steps"]) for line in log] == [(1, 16), *((n, 6) for n in range(2, 7))]
    assert read_message(attempt.outcome, Outcome).song["degraded"] == "6 steps instead of 16"
    steps = [beat for beat in beats if beat.phase == "sample" and beat.step > 0]
    assert steps
    for beat in steps:
        line = log[beat.step - 1]
        assert (beat.steps, beat.t, beat.passes) == (line["steps"], line["t"], line["passes"])
        assert (beat.note != "") == (beat.step >= 2)
        assert len(beat.paces_s) == beat.step
        assert beat.fastest_s == pytest.approx(min(beat.paces_s), abs=1e-4)
    assert "foresight: 4 steps instead of 14 to end in time" in {beat.note for beat in steps}
