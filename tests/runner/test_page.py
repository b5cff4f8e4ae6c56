"""What the morning's page tells, of files that batches leave and of files that nobody should believe."""

from __future__ import annotations

import re
import shutil
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, get_args
from urllib.parse import unquote

import pytest
from folders import REQUEST, add_attempt, moment, outputs_in, write_batch, write_failure, write_song

from runner import status
from runner.files import write_message
from runner.messages import Cause, Outcome, QueuedSong
from runner.page import CURES, MOST_TRACKS, Page, gather
from runner.report import render
from runner.songfolder import Outputs

NASTY = (
    "</script><script>alert(1)</script>\"'><img src=x onerror=alert(2)>\u202e javascript:alert(3) {{ 7 * 7 }}"
)


@pytest.fixture
def outputs(tmp_path: Path) -> Outputs:
    return outputs_in(tmp_path)


def page_of(outputs: Outputs) -> Page:
    return gather(outputs, status.look(outputs))


class Elements(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def addresses(self) -> list[str]:
        return [
            value or "" for _, attrs in self.found for name, value in attrs.items() if name in ("src", "href")
        ]


# ---------------------------------------------------------------- what it tells


def test_a_good_night_is_a_page_of_songs_with_nothing_to_look_at(outputs: Outputs) -> None:
    write_song(outputs, "night/rain")
    write_song(outputs, "night/tide")
    write_batch(outputs, [QueuedSong("night/rain", "done"), QueuedSong("night/tide", "done")], finished=True)
    page = page_of(outputs)
    assert (page.title, page.troubles, page.older, page.briefs) == ("All 2 songs are there", (), (), ())
    assert [piece.name for piece in page.fresh] == ["rain", "tide"]
    track = page.fresh[0].tracks[0]
    assert [(line.start, line.text) for line in track.lines] == [(2.0, "first line"), (4.5, "second line")]
    assert track.sound == "night/rain/song.wav"
    html = render(page)
    assert "first line" in html
    assert "Needs a look" not in html


def test_what_failed_comes_before_what_is_less_than_asked_and_says_why_and_what_to_do(
    outputs: Outputs,
) -> None:
    write_song(outputs, "night/thin", state="degraded", degraded="16 steps instead of 32")
    add_attempt(outputs.song("night/thin"), "timeout", "not finished within 40 min")
    write_message(outputs.song("night/thin").new_attempt().request, REQUEST)
    failed = outputs.song("night/gone")
    attempt = add_attempt(failed)
    evidence = [{"at": float(i), "cpu_s": 1.0, "anon": 10**9, "swap": 0} for i in range(9)]
    write_message(attempt.outcome, Outcome(1, "stalled", "hung: no progress", density=32, evidence=evidence))
    write_failure(failed, "hung: no progress", cause="stalled")
    states = [("night/thin", "degraded"), ("night/gone", "failed"), ("night/later", "left")]
    write_batch(outputs, [QueuedSong(id, state) for id, state in states], finished=True)  # type: ignore[arg-type]
    page = page_of(outputs)
    assert page.title == "1 of 3 songs is there"
    assert [(trouble.name, trouble.state) for trouble in page.troubles] == [
        ("gone", "failed"),
        ("later", "left"),
        ("thin", "degraded"),
    ]
    gone, _, thin = page.troubles
    assert gone.reason == "hung: no progress"
    assert gone.attempts == (("attempt 1, 32 steps, after 0.0 s", "stalled: hung: no progress"),)
    assert [spark.name for spark in gone.sparks] == ["processor", "memory"]
    assert "log says where" in "".join(gone.cure)
    assert thin.reason == "16 steps instead of 32"
    assert "".join(thin.cure).startswith("Give it longer (timeout in the job file)")
    assert "--redo-degraded" in thin.cure[-2]
    assert thin.anchor == page.fresh[0].tracks[0].anchor
    html = render(page)
    assert html.index("hung: no progress") < html.index("16 steps instead of 32") < html.index("<audio")


def test_a_log_is_linked_where_it_says_something_and_all_are_played_where_there_are_several(
    outputs: Outputs,
) -> None:
    write_song(outputs, "night/rain")
    log = add_attempt(outputs.song("night/rain")).log
    log.touch()
    assert "worker.log" not in render(page_of(outputs))
    log.write_text("odd\n")
    html = render(page_of(outputs))
    assert "worker.log" in html
    assert "Play all" not in html.partition("<script>")[0]
    write_song(outputs, "night/tide")
    assert "Play all" in render(page_of(outputs)).partition("<script>")[0]


def test_of_a_song_that_its_user_stopped_no_readings_are_shown(outputs: Outputs) -> None:
    attempt = add_attempt(outputs.song("night/rain"))
    evidence = [{"at": float(i), "cpu_s": 1.0, "anon": 10**9, "swap": 0} for i in range(9)]
    write_message(attempt.outcome, Outcome(1, "interrupted", "stopped", density=32, evidence=evidence))
    write_batch(outputs, [QueuedSong("night/rain", "interrupted")], finished=True)
    (trouble,) = page_of(outputs).troubles
    assert (trouble.state, trouble.sparks) == ("interrupted", ())


def test_every_cause_has_words_for_what_to_change() -> None:
    assert set(CURES) == set(get_args(Cause))
    assert all(words.count("`") % 2 == 0 for words in CURES.values())


def test_what_was_made_again_with_a_broken_number_is_no_take(outputs: Outputs) -> None:
    for id in ("night/rain.cfg-2", "night/rain.cfg-2.5"):
        write_song(outputs, id)
    names = [piece.name for piece in gather(outputs, status.look(outputs)).older]
    assert names == ["rain.cfg-2", "rain.cfg-2.5"]


def test_a_song_that_was_made_again_can_be_compared_with_the_first(outputs: Outputs) -> None:
    for id in ("night/rain", "night/tide", "night/rain.seed-8"):
        write_song(outputs, id)
    write_batch(outputs, [QueuedSong("night/rain.seed-8", "done")], finished=True)
    page = page_of(outputs)
    assert [piece.name for piece in [*page.fresh, *page.older]] == ["rain.seed-8", "rain"]
    assert [brief.name for brief in page.briefs] == ["tide"]


def test_takes_of_a_song_stand_side_by_side_with_their_seeds(outputs: Outputs) -> None:
    for take, id in enumerate(("night/rain", "night/rain.2", "night/rain.10"), start=7):
        write_song(outputs, id, seed=take)
    write_song(
        outputs, "night/rain.3", request={"series": 1, "attempt": 1, "lyrics": "other words"}, lines=[]
    )
    page = page_of(outputs)
    (rain, other) = page.older
    assert rain.name == "rain"
    assert [(track.take, track.seed) for track in rain.tracks] == [(1, "7"), (2, "8"), (10, "9")]
    assert len(rain.lines) == 2
    assert (other.name, other.tracks[0].take) == ("rain.3", None)


def test_songs_made_before_come_after_the_new_ones_and_earlier_nights_are_folded(outputs: Outputs) -> None:
    write_song(outputs, "night/new")
    write_song(outputs, "night/old", finished=moment(-86_400))
    write_song(outputs, "last/older", finished=moment(-9 * 86_400))
    write_song(outputs, "last/ageless", finished="yesterday")
    write_batch(outputs, [QueuedSong("night/new", "done"), QueuedSong("night/old", "done")], finished=True)
    page = page_of(outputs)
    assert [piece.name for piece in page.fresh] == ["new"]
    assert [piece.name for piece in page.older] == ["old"]
    assert [brief.name for brief in page.briefs] == ["older", "ageless"]
    assert page.title == "All 2 songs are there"


def test_songs_of_a_batch_stand_in_its_order_new_or_not(outputs: Outputs) -> None:
    for age, name in enumerate(("c", "a", "b")):
        write_song(outputs, f"night/{name}", finished=moment(-86_400 * (age + 1)))
    write_batch(outputs, [QueuedSong(f"night/{name}", "done") for name in "bca"], finished=True)
    assert [piece.name for piece in page_of(outputs).older] == ["b", "c", "a"]
    for name in "abc":
        write_song(outputs, f"night/{name}")
    assert [piece.name for piece in page_of(outputs).fresh] == ["b", "c", "a"]


def test_a_page_of_hundreds_of_songs_is_bounded(outputs: Outputs) -> None:
    songs = [write_song(outputs, f"night/song-{i}", finished=moment(-i)) for i in range(MOST_TRACKS + 25)]
    write_batch(outputs, [QueuedSong(song.id, "done") for song in songs], finished=True)
    page = page_of(outputs)
    assert len(page.fresh) == MOST_TRACKS
    assert len(page.briefs) == 25
    assert render(page).count("<audio") == MOST_TRACKS


def test_a_running_batch_says_what_is_under_way(outputs: Outputs) -> None:
    write_song(outputs)
    write_batch(outputs, [QueuedSong("night/rain", "done"), QueuedSong("night/next", "queued")])
    page = page_of(outputs)
    assert [(brief.name, brief.state) for brief in page.running] == [("next", "queued")]
    assert "Under way" in render(page)


def test_the_night_is_drawn_where_its_songs_tell_when_they_were_made(outputs: Outputs) -> None:
    song = write_song(outputs)
    attempt = add_attempt(song)
    began = time.time() - 50
    end = Outcome(
        1,
        None,
        "made",
        elapsed_s=30.0,
        began_wall=began,
        ended_wall=began + 30,
        memory=[[0.0, 10**9, 10**9, 0], ["x"], [1.0, None, 2, 3]],  # type: ignore[list-item]
        song={"phases": {"sample": 20.0, "decode": 5.0}},
    )
    write_message(attempt.outcome, end)
    write_batch(outputs, [QueuedSong("night/rain", "done")], finished=True)
    timeline = page_of(outputs).timeline
    assert timeline is not None
    assert [part.kind for part in timeline.rows[0][1]] == ["prepare", "sample", "decode"]
    assert timeline.memory is not None
    assert timeline.memory.private_bytes == 10**9


def test_a_song_shows_its_picture_where_there_is_one(outputs: Outputs) -> None:
    song = write_song(outputs)
    assert page_of(outputs).older[0].tracks[0].spectrogram == ""
    attempt = song.new_attempt()
    attempt.spectrogram.write_bytes(b"png")
    assert page_of(outputs).older[0].tracks[0].spectrogram == "night/rain/attempts/1/spectrogram.png"


# ---------------------------------------------------------------- what nobody should believe


def test_no_text_of_a_song_becomes_a_part_of_the_page(outputs: Outputs) -> None:
    write_song(outputs, "night/plain")
    lines = [{"start": 1.0, "text": NASTY}]
    nasty = write_song(
        outputs,
        f"night/{NASTY.replace('/', '')}",
        lines=lines,
        state="degraded",
        degraded=NASTY,
        request={"series": 1, "attempt": 1, "style": NASTY},
        warnings=[NASTY],
        machine={"processor": NASTY, "system": NASTY},
        versions={NASTY: NASTY},
        model=NASTY,
        seed=NASTY,
        precision=NASTY,
    )
    add_attempt(nasty, "crash", NASTY)
    failed = outputs.song("night/failed")
    add_attempt(failed, "bad-input", NASTY)
    write_failure(failed, NASTY, cause="bad-input")
    (outputs.folder / "other").mkdir()
    ids = ["night/plain", nasty.id, failed.id]
    write_batch(outputs, [QueuedSong(id, "done", note=NASTY) for id in ids], finished=True)
    html = render(page_of(outputs))
    plain = Elements(html)
    assert [tag for tag, _ in plain.found].count("script") == 1
    assert [attrs for tag, attrs in plain.found if tag == "img"] == []
    assert not any(name.startswith("on") for _, attrs in plain.found for name in attrs)
    assert "{{ 7" in html
    assert "\u202e" not in html
    assert all(re.match(r"#|data:,$|night/", address) for address in plain.addresses())


def test_links_lead_to_the_files_whatever_they_are_called(outputs: Outputs) -> None:
    ids = ["my night/a song & more?#1", "нічь/港の灯", "javascript:alert(1)/%41"]
    for id in ids:
        write_song(outputs, id)
    found = Elements(render(page_of(outputs)))
    addresses = {address for address in found.addresses() if not address.startswith(("#", "data:"))}
    assert addresses == {address for address in addresses if (outputs.folder / unquote(address)).is_file()}
    for id in ids:
        assert f"{id}/song.wav" in {unquote(address) for address in addresses}
    assert all(":" not in address and " " not in address for address in addresses)


def test_a_manifest_cannot_point_out_of_its_folder(outputs: Outputs) -> None:
    (outputs.folder.parent / "secret.wav").write_bytes(b"la")
    write_song(
        outputs, file="../../../secret.wav", request={"series": 1, "attempt": "../../../..", "style": "pop"}
    )
    html = render(page_of(outputs))
    assert "secret" not in html.replace("secret.wav</", "")
    assert ".." not in "".join(Elements(html).addresses())


GARBAGE = [None, [], {}, "x", -1, 1e300, True, [None], [[]], {"a": []}, [{}], "9" * 5000, {"start": "x"}]


@pytest.mark.parametrize("value", GARBAGE, ids=lambda value: str(value)[:12])
def test_values_of_any_kind_in_a_manifest_do_no_harm(outputs: Outputs, value: Any) -> None:
    keys = (
        "request seed duration finished lines outline phases checks machine versions warnings demo time_grid"
    )
    keys += " seconds peak_rss degraded file model precision windows"
    write_song(outputs, "night/all", **dict.fromkeys(keys.split(), value))
    for key in keys.split():
        write_song(outputs, f"night/{key}", **{key: value})
    write_batch(outputs, [QueuedSong("night/all", "done")], finished=True)
    Elements(render(page_of(outputs)))


def test_files_that_are_no_json_are_told_of(outputs: Outputs) -> None:
    write_song(outputs).manifest.write_bytes(b"\xff{")
    add_attempt(outputs.song("night/rain"), "crash", "x").steps.write_text("{}\n[1]\n\x00")
    page = page_of(outputs)
    assert "song.json" in page.problems[0]
    assert "song.json" in render(page)


def test_the_outputs_of_the_first_version_have_a_page_without_pictures(tmp_path: Path) -> None:
    shutil.copytree(Path(__file__).parents[1] / "fixtures" / "outputs-1", tmp_path / "outputs")
    page = page_of(Outputs(tmp_path / "outputs"))
    assert page.problems == ()
    assert {trouble.name: trouble.state for trouble in page.troubles} == {
        "failed": "failed",
        "interrupted": "interrupted",
        "left": "left",
        "degraded": "degraded",
    }
    assert {piece.name for piece in [*page.fresh, *page.older]} >= {"done", "degraded"}
    assert page.timeline is None
    assert "night/done/song.wav" in render(page)
