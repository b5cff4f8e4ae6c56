"""What a folder tells, after every way in which a night can have left it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from folders import add_attempt, write_failure, write_manifest

from runner.files import write_message
from runner.foresight import Decoder, Shown
from runner.messages import Outcome, SongAnswer
from runner.past import Past, last_t, read_outcome, recall, shown
from runner.past import paced as pace_of
from runner.songfolder import Attempt, Outputs, SongFolder

GARBAGE = [
    b"",
    b"{",
    b'{"schema": 1',
    b"[]",
    b'{"schema": 99}',
    b"\xff\xfe",
    b'{"schema": 1, "attempt": "x"}',
]


@pytest.fixture
def song(tmp_path: Path) -> SongFolder:
    return SongFolder(tmp_path / "night" / "rain")


def causes(past: Past) -> list[str | None]:
    return [outcome.cause for outcome in past.outcomes]


def log_steps(attempt: Attempt, text: str) -> None:
    attempt.steps.write_text(text)


def test_a_song_without_a_folder_or_attempts_has_no_past(song: SongFolder) -> None:
    assert recall(song, "f") == Past()
    song.folder.mkdir(parents=True)
    assert recall(song, "f") == Past()


def test_all_attempts_of_a_making_count_in_order(song: SongFolder) -> None:
    for number in range(1, 12):  # 10 comes after 9, not after 1
        add_attempt(song, "timeout", f"the {number}.", density=32 // number)
    past = recall(song, "f")
    assert [outcome.message for outcome in past.outcomes] == [f"the {n}." for n in range(1, 12)]
    assert [end.message for end in past.ends] == [f"the {n}." for n in range(1, 12)]
    assert (past.series, past.seed) == (1, 7)
    assert past.attempt is not None
    assert past.request is not None
    assert past.attempt.number == past.request.attempt == 11


def test_another_request_has_no_past_and_the_first_has_none_again_when_it_comes_back(
    song: SongFolder,
) -> None:
    add_attempt(song, "timeout", fingerprint="first")
    add_attempt(song, "timeout", fingerprint="second", series=2)
    assert recall(song, "first") == Past()
    assert causes(recall(song, "second")) == ["timeout"]


def test_older_series_of_the_same_request_do_not_count(song: SongFolder) -> None:
    add_attempt(song, "timeout", seed=1)
    add_attempt(song, "crash", seed=2, series=2)
    add_attempt(song, "stalled", seed=2, series=2)
    past = recall(song, "f")
    assert causes(past) == ["crash", "stalled"]
    assert (past.series, past.seed) == (2, 2)


def test_a_making_that_failed_leaves_its_seed_alone(song: SongFolder) -> None:
    add_attempt(song, "crash").checkpoint.touch()
    write_failure(song, "crashed", series=1)
    assert recall(song, "f") == Past(seed=7)


def test_a_failure_of_an_earlier_series_is_history(song: SongFolder) -> None:
    add_attempt(song, "crash")
    write_failure(song, "crashed", series=1)
    add_attempt(song, "timeout", series=2)
    assert causes(recall(song, "f")) == ["timeout"]


@pytest.mark.parametrize("content", [*GARBAGE, b'{"series": "1"}', b'{"series": null}'])
def test_a_failure_that_cannot_be_read_fails_nothing(song: SongFolder, content: bytes) -> None:
    add_attempt(song, "crash")
    song.failure.write_bytes(content)
    assert causes(recall(song, "f")) == ["crash"]


def test_an_attempt_without_an_outcome_was_lost_with_how_far_it_came(song: SongFolder) -> None:
    lost = add_attempt(song)
    log_steps(lost, '{"step": 1, "t": 0.25}\n{"step": 2, "t": 0.5}\n')
    past = recall(song, "f")
    assert causes(past) == ["lost"]
    assert past.ends[0].t == 0.5


@pytest.mark.parametrize("content", GARBAGE)
def test_an_outcome_that_cannot_be_read_counts_as_lost(song: SongFolder, content: bytes) -> None:
    attempt = add_attempt(song)
    attempt.outcome.write_bytes(content)
    assert read_outcome(attempt) is None
    assert causes(recall(song, "f")) == ["lost"]


def test_an_outcome_of_another_attempt_is_not_taken(song: SongFolder) -> None:
    attempt = add_attempt(song)
    write_message(attempt.outcome, Outcome(2, None, "made"))
    assert read_outcome(attempt) is None
    write_message(attempt.outcome, Outcome(1, None, "made"))
    assert read_outcome(attempt) == Outcome(1, None, "made")


@pytest.mark.parametrize("content", [None, *GARBAGE])
def test_an_attempt_whose_request_cannot_be_read_is_passed_over(
    song: SongFolder, content: bytes | None
) -> None:
    """The parent died before, or while, it asked; the number is used up all the same."""
    add_attempt(song, "timeout")
    bad = song.new_attempt()
    if content is not None:
        bad.request.write_bytes(content)
    past = recall(song, "f")
    assert causes(past) == ["timeout"]
    assert past.attempt is not None
    assert past.attempt.number == 1
    assert song.new_attempt().number == 3


def test_only_unreadable_requests_are_no_past(song: SongFolder) -> None:
    song.new_attempt().request.write_text("{")
    assert recall(song, "f") == Past()


def test_what_is_no_attempt_is_passed_over(song: SongFolder) -> None:
    add_attempt(song, "timeout")
    (song.folder / "attempts" / "2 (copy)").mkdir()
    (song.folder / "attempts" / ".hidden").touch()
    assert causes(recall(song, "f")) == ["timeout"]


def test_the_newest_checkpoint_of_this_making_is_taken(song: SongFolder) -> None:
    attempts = [add_attempt(song, "timeout", series=1 if n < 2 else 2) for n in range(5)]
    assert recall(song, "f").checkpoint is None
    attempts[0].checkpoint.touch()
    assert recall(song, "f").checkpoint is None  # another series'
    attempts[2].checkpoint.touch()
    attempts[3].checkpoint.touch()
    assert recall(song, "f").checkpoint == attempts[3].checkpoint  # the last one got to no step


def test_a_checkpoint_whose_step_was_not_logged_is_as_far_at_least_as_the_one_it_went_on_from(
    song: SongFolder,
) -> None:
    first = add_attempt(song, "timeout")
    first.checkpoint.touch()
    log_steps(first, '{"t": 0.75}\n')
    second = add_attempt(song, "timeout", checkpoint=str(first.checkpoint))
    second.checkpoint.touch()
    for log in ("", '{"t": 0.'):
        log_steps(second, log)
        past = recall(song, "f")
        assert (past.checkpoint, past.checkpoint_t) == (second.checkpoint, 0.75)
    afresh = add_attempt(song, "timeout")
    afresh.checkpoint.touch()
    assert recall(song, "f").checkpoint_t == 0.0


@pytest.mark.parametrize("place", ["x", "/", "/a/attempts/9/c", "/a/attempts/1/c", "/a/attempts/-1/c"])
def test_a_request_that_names_a_checkpoint_of_nowhere_misleads_nobody(song: SongFolder, place: str) -> None:
    add_attempt(song, "timeout", checkpoint=place).checkpoint.touch()
    assert recall(song, "f").checkpoint_t == 0.0


def test_a_made_song_is_an_outcome_but_no_end(song: SongFolder) -> None:
    add_attempt(song, "timeout")
    write_message(add_attempt(song).outcome, Outcome(2, None, "made", t=1.0))
    past = recall(song, "f")
    assert causes(past) == ["timeout", None]
    assert [end.cause for end in past.ends] == ["timeout"]


def test_an_end_tells_mode_density_and_peak_of_memory(song: SongFolder) -> None:
    attempt = add_attempt(song, mode="estimate")
    outcome = Outcome(1, "out-of-memory", "words", t=0.75, density=16, peak_private=3500)
    write_message(attempt.outcome, outcome)
    (end,) = recall(song, "f").ends
    assert (end.cause, end.message, end.t, end.density) == ("out-of-memory", "words", 0.75, 16)
    assert (end.mode, end.peak_bytes) == ("estimate", 3500)


LINE = '{"step": 3, "t": 0.375}\n'


@pytest.mark.parametrize(
    ("log", "t"),
    [
        ("", None),
        ("\n\n", None),
        ("no json at all\n", None),
        (LINE, 0.375),
        (LINE + '{"step": 4, "t": 0.5', 0.375),  # torn
        (LINE + "\x00" * 4096, 0.375),  # a page that never reached the disk
        (LINE + '{"step": 4}\n', 0.375),
        (LINE + '{"t": null}\n[0.5]\n"t"\n7\n', 0.375),
        (LINE + '{"t": "far"}\n', 0.375),
        (LINE + '{"t": NaN}\n{"t": Infinity}\n{"t": 7}\n{"t": -1}\n', 0.375),
        ('{"t": 0}\n', 0.0),
        ('{"t": 1}\n', 1.0),
    ],
)
def test_the_last_t_is_that_of_the_last_whole_line(song: SongFolder, log: str, t: float | None) -> None:
    attempt = add_attempt(song)
    log_steps(attempt, log)
    assert last_t(attempt) == t


def test_a_step_log_that_is_no_text_or_not_there_tells_nothing(song: SongFolder) -> None:
    attempt = add_attempt(song)
    assert last_t(attempt) is None
    attempt.steps.write_bytes(b"\xff\xfe\x00")
    assert last_t(attempt) is None


def test_an_attempt_that_was_moved_to_another_number_still_belongs_to_its_making(song: SongFolder) -> None:
    add_attempt(song, "timeout", series=5)
    past = recall(song, "f")
    assert (past.series, causes(past)) == (5, ["timeout"])


# ---------------------------------------------------------------- of songs made before


def made(song: SongFolder, age_s: float, **changes: object) -> None:
    told = {
        "model_hash": "m",
        "precision": "fp32",
        "duration": 20.0,
        "decoder": {"speed": 0.5, "around_s": 1.5},
    }
    write_manifest(song, **told | changes)
    os.utime(song.manifest, (1e9 - age_s, 1e9 - age_s))


def test_finished_songs_show_their_decoders_speed_the_newest_last(tmp_path: Path) -> None:
    outputs = Outputs(tmp_path)
    made(outputs.song("night/a"), 1.0)
    made(outputs.song("night/b"), 9.0, decoder={"speed": 0.7, "around_s": 0})
    made(outputs.song("day/c"), 5.0, precision="bf16", duration=95)
    assert shown(outputs) == [
        Shown("m", "fp32", 20.0, Decoder(0.7, 0.0)),
        Shown("m", "bf16", 95.0, Decoder(0.5, 1.5)),
        Shown("m", "fp32", 20.0, Decoder(0.5, 1.5)),
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {"decoder": None},
        {"decoder": {"speed": "fast", "around_s": 0}},
        {"decoder": {"speed": 0.0, "around_s": 0}},
        {"decoder": {"speed": 1.0}},
        {"duration": -1.0},
    ],
)
def test_a_song_that_tells_nothing_of_its_decoder_is_passed_over(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    made(Outputs(tmp_path).song("night/a"), 1.0, **changes)
    assert shown(Outputs(tmp_path)) == []


def test_a_manifest_that_cannot_be_read_or_is_older_shows_nothing(tmp_path: Path) -> None:
    outputs = Outputs(tmp_path)
    write_manifest(outputs.song("night/a"))
    outputs.song("night/b").folder.mkdir()
    outputs.song("night/b").manifest.write_text("{")
    add_attempt(outputs.song("night/c"))
    assert shown(outputs) == []


@pytest.mark.parametrize("line", ['{"t": ' + "9" * 400 + "}", "[" * 50_000, '{"t": ' + "9" * 5000 + "}"])
def test_a_line_that_no_reader_can_take_is_passed_over(song: SongFolder, line: str) -> None:
    attempt = add_attempt(song)
    log_steps(attempt, '{"step": 1, "t": 0.25}\n' + line + "\n")
    assert last_t(attempt) == 0.25


def test_of_a_step_log_without_end_only_the_end_is_read(song: SongFolder) -> None:
    attempt = add_attempt(song)
    with attempt.steps.open("wb") as file:
        file.truncate(2**40)
        file.seek(0, os.SEEK_END)
        file.write(b'\n{"t": 0.5}\n')
    assert last_t(attempt) == 0.5


@pytest.mark.parametrize("odd", ["1" + "0" * 400, "1e999"])
def test_a_decoder_of_a_number_that_no_float_holds_is_passed_over(tmp_path: Path, odd: str) -> None:
    song = Outputs(tmp_path).song("night/rain")
    song.folder.mkdir(parents=True)
    for decoder in (f'{{"speed": {odd}, "around_s": 1}}', f'{{"speed": 1, "around_s": {odd}}}'):
        song.manifest.write_text(
            f'{{"model_hash": "m", "precision": "fp32", "duration": 95, "decoder": {decoder}}}'
        )
        assert shown(Outputs(tmp_path)) == []


# ---------------------------------------------------------------- of their pace


def paced(**changes: object) -> dict[str, object]:
    return {
        "pass_s": 2.0,
        "pass_flops": 1000,
        "passes": 24,
        "phases": {"sample": 50.0, "decode": 10.0, "write": 1.0},
        "attempts": [{"elapsed_s": 70.0, "peak_private": 5}],
        "request": {"checkpoint": None, "threads": 2},
        "decoder": None,
    } | changes


def test_a_finished_song_shows_the_pace_of_its_passes_and_all_around_them(tmp_path: Path) -> None:
    made(Outputs(tmp_path).song("night/a"), 1.0, **paced())
    (told,) = shown(Outputs(tmp_path))
    assert told == Shown("m", "fp32", 20.0, None, 5, threads=2, flop_s=500.0, around_s=70.0 - 48 - 11)


def test_one_that_went_on_from_a_checkpoint_tells_of_its_pace_alone(tmp_path: Path) -> None:
    request = {"checkpoint": "/outputs/night/a/attempts/1/checkpoint.safetensors", "threads": 2}
    made(Outputs(tmp_path).song("night/a"), 1.0, **paced(request=request))
    (told,) = shown(Outputs(tmp_path))
    assert (told.flop_s, told.around_s, told.private) == (500.0, None, None)


@pytest.mark.parametrize(
    "changes",
    [
        {"pass_s": 0.0},
        {"pass_s": "soon"},
        {"pass_s": None},
        {"pass_flops": 10**400},
        {"pass_flops": -1},
    ],
)
def test_a_pace_that_is_none_is_passed_over(tmp_path: Path, changes: dict[str, object]) -> None:
    made(Outputs(tmp_path).song("night/a"), 1.0, **paced(**changes))
    assert [told.flop_s for told in shown(Outputs(tmp_path))] == [None]


@pytest.mark.parametrize(
    ("line", "left"),
    [
        ('{"step": 3, "steps": 12, "t": 0.1}', 0.75),  # most steps lie near the noise
        ('{"step": 12, "steps": 12, "t": 1.0}', 0.0),
        ('{"t": 0.25}', 0.75),
        ('{"step": 13, "steps": 12, "t": 0.25}', 0.75),
        ('{"step": 1, "steps": 0, "t": 0.25}', 0.75),
        ('{"step": "x", "steps": 12, "t": 0.25}', 0.75),
    ],
)
def test_what_is_left_of_a_checkpoint_is_counted_in_steps(song: SongFolder, line: str, left: float) -> None:
    attempt = add_attempt(song, "interrupted")
    attempt.checkpoint.touch()
    log_steps(attempt, line + "\n")
    assert recall(song, "f").left == left


def test_of_a_song_without_a_checkpoint_all_is_left(song: SongFolder) -> None:
    attempt = add_attempt(song, "interrupted")
    log_steps(attempt, '{"step": 3, "steps": 12, "t": 0.1}\n')
    assert recall(song, "f").left == 1.0


ANSWER = SongAnswer("night/rain", [], [], pass_flops=1000)


def test_a_song_that_was_only_begun_tells_of_its_own_pace(song: SongFolder) -> None:
    attempt = add_attempt(song, "interrupted", threads=2)
    lines = [{"seconds": 99.0, "passes": 2}] + [{"seconds": 4.0, "passes": n} for n in (4, 6, 8)]
    log_steps(attempt, "\n".join(map(json.dumps, lines)) + '\n{"torn')
    told = pace_of(recall(song, "f"), ANSWER)
    assert told == Shown("m", "fp32", 95.0, None, threads=2, flop_s=500.0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        '{"seconds": 4, "passes": 2}\n{"seconds": 4, "passes": 4}\n',  # the first has the warming up in it
        '{"seconds": 4, "passes": 2}\n' * 9,
        "\n".join(f'{{"seconds": 1e-300, "passes": {n}}}' for n in range(9)),
        "\n".join(f'{{"seconds": 4, "passes": {n}{"0" * 400}}}' for n in range(9)),
    ],
)
def test_what_is_too_little_to_tell_of_a_pace_tells_nothing(song: SongFolder, text: str) -> None:
    log_steps(add_attempt(song, "interrupted"), text)
    assert pace_of(recall(song, "f"), ANSWER) is None
    assert pace_of(Past(), ANSWER) is None
