"""The morning's page, from files that batches leave, and from files that nobody should believe."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, get_args
from urllib.parse import unquote

import numpy as np
import pytest
import soundfile
from folders import REQUEST, add_attempt, outputs_in, write_batch, write_failure, write_manifest

from runner import report, status
from runner.errors import OutputError
from runner.files import write_message
from runner.messages import Cause, Outcome, QueuedSong
from runner.report import Page, gather, render
from runner.songfolder import Outputs, SongFolder

ROOT = Path(__file__).parents[2]
NASTY = (
    "</script><script>alert(1)</script>\"'><img src=x onerror=alert(2)>\u202e javascript:alert(3) {{ 7 * 7 }}"
)


@pytest.fixture
def outputs(tmp_path: Path) -> Outputs:
    return outputs_in(tmp_path)


def page_of(outputs: Outputs) -> Page:
    return gather(outputs, status.look(outputs))


def now(offset_s: float = 0.0) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(time.time() + offset_s))


def made(outputs: Outputs, id: str = "night/rain", **changes: Any) -> SongFolder:
    """A song that was made a moment ago."""
    song = outputs.song(id)
    request = {"series": 1, "attempt": 1, "style": "pop", "lyrics": "words", "steps": 12, "cfg": 3.0}
    content = {
        "request": request,
        "seed": 7,
        "duration": 30.0,
        "finished": now(),
        "lines": [{"start": 2.0, "text": "first line"}, {"start": 4.5, "text": "second line"}],
        "outline": [1, 50, 100],
    }
    write_manifest(song, **content | changes)
    song.audio("wav").write_bytes(b"la")
    return song


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
    made(outputs, "night/rain")
    made(outputs, "night/tide")
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
    made(outputs, "night/thin", state="degraded", degraded="16 steps instead of 32")
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


def test_every_cause_has_words_for_what_to_change() -> None:
    assert set(report.CURES) == set(get_args(Cause))
    assert all(words.count("`") % 2 == 0 for words in report.CURES.values())


def test_takes_of_a_song_stand_side_by_side_with_their_seeds(outputs: Outputs) -> None:
    for take, id in enumerate(("night/rain", "night/rain.2", "night/rain.10"), start=7):
        made(outputs, id, seed=take)
    made(outputs, "night/rain.3", request={"series": 1, "attempt": 1, "lyrics": "other words"}, lines=[])
    page = page_of(outputs)
    (rain, other) = page.older
    assert rain.name == "rain"
    assert [(track.take, track.seed) for track in rain.tracks] == [(1, "7"), (2, "8"), (10, "9")]
    assert len(rain.lines) == 2
    assert (other.name, other.tracks[0].take) == ("rain.3", None)


def test_songs_made_before_come_after_the_new_ones_and_earlier_nights_are_folded(outputs: Outputs) -> None:
    made(outputs, "night/new")
    made(outputs, "night/old", finished=now(-86_400))
    made(outputs, "last/older", finished=now(-9 * 86_400))
    made(outputs, "last/ageless", finished="yesterday")
    write_batch(outputs, [QueuedSong("night/new", "done"), QueuedSong("night/old", "done")], finished=True)
    page = page_of(outputs)
    assert [piece.name for piece in page.fresh] == ["new"]
    assert [piece.name for piece in page.older] == ["old"]
    assert [brief.name for brief in page.briefs] == ["older", "ageless"]
    assert page.title == "All 2 songs are there"


def test_a_page_of_hundreds_of_songs_is_bounded(outputs: Outputs) -> None:
    songs = [made(outputs, f"night/song-{i}", finished=now(-i)) for i in range(report.MOST_TRACKS + 25)]
    write_batch(outputs, [QueuedSong(song.id, "done") for song in songs], finished=True)
    page = page_of(outputs)
    assert len(page.fresh) == report.MOST_TRACKS
    assert len(page.briefs) == 25
    assert render(page).count("<audio") == report.MOST_TRACKS


def test_a_running_batch_says_what_is_under_way(outputs: Outputs) -> None:
    made(outputs)
    write_batch(outputs, [QueuedSong("night/rain", "done"), QueuedSong("night/next", "queued")])
    page = page_of(outputs)
    assert [(brief.name, brief.state) for brief in page.running] == [("next", "queued")]
    assert "Under way" in render(page)


def test_the_night_is_drawn_where_its_songs_tell_when_they_were_made(outputs: Outputs) -> None:
    song = made(outputs)
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
    song = made(outputs)
    assert page_of(outputs).older[0].tracks[0].spectrogram == ""
    attempt = song.new_attempt()
    attempt.spectrogram.write_bytes(b"png")
    assert page_of(outputs).older[0].tracks[0].spectrogram == "night/rain/attempts/1/spectrogram.png"


# ---------------------------------------------------------------- what nobody should believe


def test_no_text_of_a_song_becomes_a_part_of_the_page(outputs: Outputs) -> None:
    made(outputs, "night/plain")
    lines = [{"start": 1.0, "text": NASTY}]
    nasty = made(
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
        made(outputs, id)
    found = Elements(render(page_of(outputs)))
    addresses = {address for address in found.addresses() if not address.startswith(("#", "data:"))}
    assert addresses == {address for address in addresses if (outputs.folder / unquote(address)).is_file()}
    for id in ids:
        assert f"{id}/song.wav" in {unquote(address) for address in addresses}
    assert all(":" not in address and " " not in address for address in addresses)


def test_a_manifest_cannot_point_out_of_its_folder(outputs: Outputs) -> None:
    (outputs.folder.parent / "secret.wav").write_bytes(b"la")
    made(outputs, file="../../../secret.wav", request={"series": 1, "attempt": "../../../..", "style": "pop"})
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
    made(outputs, "night/all", **dict.fromkeys(keys.split(), value))
    for key in keys.split():
        made(outputs, f"night/{key}", **{key: value})
    write_batch(outputs, [QueuedSong("night/all", "done")], finished=True)
    Elements(render(page_of(outputs)))


def test_files_that_are_no_json_are_told_of(outputs: Outputs) -> None:
    made(outputs).manifest.write_bytes(b"\xff{")
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


# ---------------------------------------------------------------- writing it


def test_the_page_is_written_beside_the_songs_and_its_path_is_told(
    outputs: Outputs, capsys: pytest.CaptureFixture[str]
) -> None:
    made(outputs)
    assert report.show(outputs) == 0
    assert capsys.readouterr().out == f"{outputs.report}\n"
    assert outputs.report.read_text().startswith("<!doctype html>")
    assert list(outputs.folder.glob(".*.tmp")) == []


def test_there_is_no_page_of_nothing(outputs: Outputs, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.show(outputs) == 1
    assert "nothing here yet" in capsys.readouterr().err
    assert not outputs.report.exists()


def test_a_page_that_cannot_be_written_is_one_line_and_no_exception_at_a_batchs_end(outputs: Outputs) -> None:
    made(outputs)
    outputs.report.mkdir()
    with pytest.raises(OutputError, match=r"no report: .*report.html; "):
        report.show(outputs)
    assert report.at_end(outputs).startswith("no report: ")
    assert report.at_end(Outputs(outputs.folder / "gone")).startswith("no report: ")


def test_names_that_are_no_utf_8_are_shown_somehow(outputs: Outputs) -> None:
    made(outputs, "night/caf\udce9")
    assert report.show(outputs) == 0
    assert "night/caf%E9/song.wav" in outputs.report.read_text()


def test_nothing_may_run_but_the_pages_own_script(outputs: Outputs) -> None:
    made(outputs)
    html = render(page_of(outputs))
    policy = next(attrs["content"] for tag, attrs in Elements(html).found if "http-equiv" in attrs) or ""
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    assert "http" not in policy.replace("http-equiv", "")
    assert not re.search(
        r"https?:|//[a-z]", re.sub(r"<script>.*?</script>|<style>.*?</style>", "", html, flags=re.S)
    )


@pytest.mark.slow
def test_a_page_to_be_sent_holds_as_many_sounds_as_a_mail_does(
    outputs: Outputs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    noise = np.random.default_rng(0).standard_normal((44_100, 2)).astype(np.float32) / 9
    for name in "abc":
        soundfile.write(made(outputs, f"night/{name}").audio("wav"), noise, 44_100)
    made(outputs, "night/d")  # no sound that can be read
    monkeypatch.setattr(report, "MOST_SENT_BYTES", 40_000)
    assert report.show(outputs, embed=True) == 0
    assert capsys.readouterr().out == f"{outputs.report_to_send}\n"
    html = outputs.report_to_send.read_text()
    assert html.count("data:audio/mpeg") == 2
    assert html.count("too large to send") == 2
    assert "song.wav" not in html


@pytest.mark.slow
def test_a_batch_leaves_its_page_and_is_none_the_worse_where_it_cannot(tmp_path: Path) -> None:
    folder = tmp_path / "outputs"
    command = [
        sys.executable,
        "-m",
        "runner.cli",
        "sing",
        "--name",
        "song",
        "--style",
        "test",
        "--out",
        str(folder),
    ]
    command += ["--duration", "2", "--steps", "1", "--lyrics", "[00:00.50]low tide\n"]
    first = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stderr
    page = folder / "report.html"
    assert f"report: {page}" in first.stderr.splitlines()
    html = page.read_text()
    assert "low tide" in html
    assert "attempts/1/spectrogram.png" in html
    assert 'class="sample"' in html
    page.unlink()
    page.mkdir()
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert again.returncode == 0
    assert "no report: " in again.stderr
