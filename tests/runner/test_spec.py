from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.errors import SpecError
from runner.jobfile import MAX_WAIT_S, Defaults, seconds, size_bytes
from runner.spec import Overrides, Song, load, lyrics_start, single, slug

STYLE = "model: demo\ndefaults: {style: pop}\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with jobs/ in it, so that problems name files as a user would."""
    (tmp_path / "jobs" / "lyrics").mkdir(parents=True)
    (tmp_path / "jobs" / "lyrics" / "rain.lrc").write_text("[00:01.00]Rain\n")
    (tmp_path / "jobs" / "clip.wav").write_bytes(b"RIFF")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def songs_in(text: str, overrides: Overrides | None = None, name: str = "night") -> list[Song]:
    file = Path("jobs", f"{name}.yaml")
    file.write_text(text)
    return load([file], overrides)


def song_in(keys: str, overrides: Overrides | None = None, head: str = STYLE) -> Song:
    """The one song of a file, its keys in flow style."""
    (song,) = songs_in(f"{head}songs:\n  - {{{keys}}}\n", overrides)
    return song


def problems_in(text: str, overrides: Overrides | None = None) -> list[str]:
    with pytest.raises(SpecError) as caught:
        songs_in(text, overrides)
    assert caught.value.exit_code == 2
    return str(caught.value).splitlines()


def problems_of_song(keys: str, head: str = STYLE) -> list[str]:
    """What is said of a file with this one song, without the place."""
    return [line.split(": ", 1)[1] for line in problems_in(f"{head}songs:\n  - {{{keys}}}\n")]


def test_a_file_with_every_key_gives_every_setting(folder: Path) -> None:
    (song,) = songs_in("""
model: diffrhythm-1.2
defaults:
  timeout: 1h30m
songs:
  - name: harbour-lights
    lyrics: lyrics/rain.lrc
    style: pop, warm piano
    negative_style: noise
    duration: 95
    seed: 7
    takes: 1
    preset: high
    steps: 24
    cfg: 3
    sampler: euler
    language: en
    lyrics_compat: published
    precision: fp32
    format: flac
    bits: 24
    loudness: -16
    deadline: 3h
    stall: 90s
    attempts: 2
    foresight: false
    threads: 2
    memory: 6G
    nice: 19
    resume: false
""")
    assert song == Song(
        job="night",
        name="harbour-lights",
        path=Path("jobs/night.yaml"),
        line=6,
        model="diffrhythm-1.2",
        lyrics="[00:01.00]Rain\n",
        lyrics_source="jobs/lyrics/rain.lrc",
        style="pop, warm piano",
        style_audio=None,
        negative_style="noise",
        duration=95.0,
        seed=7,
        take=1,
        preset="high",
        steps=24,
        cfg=3.0,
        sampler="euler",
        language="en",
        lyrics_compat="published",
        precision="fp32",
        format="flac",
        bits=24,
        loudness=-16.0,
        timeout_s=5400.0,
        deadline_s=10800.0,
        stall_s=90.0,
        attempts=2,
        foresight=False,
        threads=2,
        memory_bytes=6 * 2**30,
        nice=19,
        resume=False,
    )
    assert song.id == "night/harbour-lights"


def test_what_is_not_written_is_as_a_user_expects(folder: Path) -> None:
    song = song_in("name: a")
    assert (song.preset, song.steps, song.cfg, song.seed) == ("auto", None, None, None)
    assert (song.duration, song.timeout_s, song.attempts, song.take) == (None, 2400.0, 4, 1)
    assert (song.deadline_s, song.stall_s, song.threads, song.memory_bytes) == (None, None, None, None)
    assert (song.format, song.loudness, song.foresight, song.resume) == ("wav", -14.0, True, True)
    assert (song.lyrics, song.lyrics_source) == (None, "")


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ("name: a, duration: 0", "duration: 0 cannot be used; write a number above 0"),
        ("name: a, duration: -1", "duration: -1 cannot be used; write a number above 0"),
        ("name: a, duration: .nan", "duration: nan cannot be used; write a finite number"),
        ("name: a, duration: .inf", "duration: inf cannot be used; write a finite number"),
        ("name: a, duration: '95'", "duration: '95' cannot be used; write a number"),
        ("name: a, duration: true", "duration: true cannot be used; write a number"),
        ("name: a, takes:", "takes: no value cannot be used; write a whole number"),
        ("name: a, seed: 1.5", "seed: 1.5 cannot be used; write a whole number"),
        ("name: a, seed: -1", "seed: -1 cannot be used; write a number of at least 0"),
        ("name: a, takes: 0", "takes: 0 cannot be used; write a number of at least 1"),
        ("name: a, steps: true", "steps: true cannot be used; write a whole number"),
        ("name: a, cfg: .nan", "cfg: nan cannot be used; write a finite number"),
        ("name: a, foresight: no", "foresight: 'no' cannot be used; write true or false"),
        ("name: a, resume: 1", "resume: 1 cannot be used; write true or false"),
        ("name: a, format: mp3, bits: 24", "bits: 24 is more than mp3 has; write 16, or another format"),
        (
            "name: a, format: flac, bits: 32",
            "bits: 32 is more than flac has; write 16 or 24, or another format",
        ),
        ("name: a, format: mp4", "format: 'mp4' cannot be used; write 'wav', 'flac', 'mp3' or 'ogg'"),
        (
            "name: a, timeout: '1:30'",
            "timeout: '1:30' cannot be used; write a time such as 40m, 90s or 1h30m",
        ),
        ("name: a, timeout: none", "timeout: 'none' cannot be used; write a time such as 40m, 90s or 1h30m"),
        ("name: a, memory: 6", "memory: 6 cannot be used; write a size of at least 64M, such as 6G or 800M"),
        ("name: a, memory: plenty", "memory: 'plenty' cannot be used; write a size such as 6G or 800M"),
        ("name: a, style: 7", "style: 7 cannot be used; write text; put it in quotes"),
        ("name: 1984", "name: 1984 cannot be used; write text; put it in quotes"),
        ("name: a, style: ''", "style: '' cannot be used; write text that is not empty"),
        ("name: a, stepps: 4", "stepps: unknown key; did you mean steps?"),
        ("name: a, model: demo", "model: unknown key here; it belongs at the top of the file"),
        (
            "name: a, style: pop, style_audio: clip.wav",
            "style_audio: stands beside style; keep one of the two",
        ),
        ("name: a, style_audio: no.wav", "style_audio: there is no file jobs/no.wav; check the path"),
        ("name: a, style_audio: lyrics", "style_audio: there is no file jobs/lyrics; check the path"),
        ("name: a, lyrics: no.lrc", "lyrics: jobs/no.lrc: there is no such file; check the path"),
        ("name: a, lyrics: lyrics", "lyrics: jobs/lyrics: is not a file; check the path"),
        (
            "name: a, lyrics: [00:10.00]",
            "lyrics: a list cannot be used (in YAML, what begins with [ or - is one); write `lyrics: |` and",
        ),
        ("lyrics: '[00:10.00]la'", "name: is missing; name the song, for example harbour-lights"),
        ("duration: 30", "name: is missing; name the song, for example harbour-lights"),
        (
            "name: a, edit: {source: no.wav, spans: [[1, 2]]}",
            "source: there is no file jobs/no.wav; check the",
        ),
        ("name: a, edit: {source: clip.wav}", "spans: is missing; add it"),
        (
            "name: a, edit: {source: clip.wav, spans: []}",
            "spans: a list of 0 cannot be used; write at least 1",
        ),
        ("name: a, edit: {source: clip.wav, spans: [[1]]}", "a list of 1 cannot be used; write at least 2"),
        (
            "name: a, edit: {source: clip.wav, spans: [[1, .nan]]}",
            "nan cannot be used; write a finite number",
        ),
        (
            "name: a, edit: {source: clip.wav, spans: [[-2, 1]]}",
            "-2 cannot be used; write a number of at least -1",
        ),
        (
            "name: a, edit: {sorce: a, source: b, spans: [[1, 2]]}",
            "sorce: unknown key; did you mean source?",
        ),
    ],
)
def test_a_wrong_song_says_what_is_wrong_and_what_to_write(folder: Path, keys: str, problem: str) -> None:
    first = problems_of_song(keys)[0]
    assert first.startswith(problem)


@pytest.mark.parametrize("name", ["Harbour", "a b", "a.2", "../a", "-a", "", "é", "a/b", "a\\n"])
def test_a_name_that_is_no_plain_folder_is_refused(folder: Path, name: str) -> None:
    (problem,) = problems_of_song(f'name: "{name}"')
    assert problem.endswith(
        "cannot be used; write small letters, digits and hyphens, a letter or digit first"
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("model: demo", "1:1: songs: is missing; add it"),
        ("model: demo\nsongs: []", "2:8: songs: a list of 0 cannot be used; write at least 1"),
        ("model: demo\nsongs: a", "2:8: songs: 'a' cannot be used; write a list, each item after a hyphen"),
        ("model: demo\nsongs: [a]", "2:9: 'a' cannot be used; write keys with values"),
        ("- a", "1:1: a list of 1 cannot be used; write keys with values"),
        (
            STYLE + "songs: [{name: a}]\nframes: 1",
            "4:1: frames: unknown key; the keys here are model, defaults, songs",
        ),
        (
            STYLE + "songs: [{name: a}]\npreset: max",
            "4:1: preset: unknown key here; it belongs in defaults or a song",
        ),
        (
            "model: demo\ndefaults: {style: a, lyrics: b}\nsongs: [{name: a}]",
            "2:22: lyrics: unknown key here; it belong",
        ),
        (
            "model: ./gone\ndefaults: {style: a}\nsongs: [{name: a}]",
            "1:8: model: there is no folder jobs/gone; check",
        ),
        (
            STYLE + "songs:\n  - <<: {name: a}\n    name: b",
            "4:5: <<: merging is not part of YAML 1.2; put what the s",
        ),
        (
            "model: demo\nsongs: [{name: a}]",
            '2:9: style: is missing; write a style such as "pop, warm piano", or a',
        ),
    ],
)
def test_a_wrong_file_is_told_at_line_and_column(folder: Path, text: str, problem: str) -> None:
    (line,) = problems_in(text)
    assert line.startswith(f"jobs/night.yaml:{problem}")


def test_all_problems_of_all_files_are_told_in_one_go(folder: Path) -> None:
    Path("jobs/a.yaml").write_text(
        "model: demo\n"
        "defaults: {style: pop, tiemout: 40m}\n"
        "songs:\n"
        "  - {name: one, seed: x, lyrics: gone.lrc}\n"
        "  - {name: two, duration: 0}\n"
        "  - {name: two}\n"
    )
    Path("jobs/b.yaml").write_text("model: demo\nmodel: demo\n")
    with pytest.raises(SpecError) as caught:
        load([Path("jobs/a.yaml"), Path("jobs/b.yaml"), Path("jobs/c.yaml")])
    assert str(caught.value).splitlines() == [
        "jobs/a.yaml:2:24: tiemout: unknown key; did you mean timeout?",
        "jobs/a.yaml:4:23: seed: 'x' cannot be used; write a whole number",
        "jobs/a.yaml:4:34: lyrics: jobs/gone.lrc: there is no such file; check the path",
        "jobs/a.yaml:5:27: duration: 0 cannot be used; write a number above 0",
        "jobs/a.yaml:6:12: name: the song at line 5 is 'two' already; choose another name",
        "jobs/b.yaml:2:1: the key 'model' stands twice, first at line 1; remove one",
        "jobs/c.yaml:1:1: there is no such file; check the path",
    ]


def test_a_wrong_style_is_not_also_called_missing(folder: Path) -> None:
    text = "model: demo\ndefaults: {style: 7}\nsongs:\n  - {name: a}\n  - {name: b}\n"
    assert problems_in(text) == [
        "jobs/night.yaml:2:19: style: 7 cannot be used; write text; put it in quotes"
    ]


@pytest.mark.parametrize("stem", [".hidden", "...", "batch.json", "a.b", "-a"])
def test_a_file_whose_name_is_no_plain_folder_is_refused(folder: Path, stem: str) -> None:
    with pytest.raises(SpecError, match="becomes a folder; use letters, digits, hyphens and no dots"):
        songs_in(STYLE + "songs: [{name: a}]", name=stem)


def test_two_files_of_one_stem_are_refused(folder: Path) -> None:
    for place in ("jobs", "jobs/lyrics"):
        Path(place, "night.yaml").write_text(STYLE + "songs: [{name: a}]")
    with pytest.raises(SpecError, match=r"^jobs/lyrics/night\.yaml:1:1: jobs/night\.yaml has the same name"):
        load([Path("jobs/night.yaml"), Path("jobs/lyrics/night.yaml")])


def test_one_file_given_twice_is_refused(folder: Path) -> None:
    file = Path("jobs/night.yaml")
    file.write_text(STYLE + "songs: [{name: a}]")
    with pytest.raises(SpecError, match="has the same name"):
        load([file, file])


def test_a_chinese_file_name_is_a_job(folder: Path) -> None:
    (song,) = songs_in(STYLE + "songs: [{name: a}]", name="夜")
    assert song.id == "夜/a"


@pytest.mark.parametrize(
    ("file", "name"),
    [("Harbour Lights.lrc", "harbour-lights"), ("_b_2.lrc", "b-2"), ("a.full.lrc", "a-full")],
)
def test_a_song_is_named_after_its_lyrics_file(folder: Path, file: str, name: str) -> None:
    Path("jobs", file).write_text("[00:01.00]la")
    assert song_in(f"lyrics: {file}").name == name


def test_a_lyrics_file_that_gives_no_name_asks_for_one(folder: Path) -> None:
    Path("jobs/雨.lrc").write_text("[00:01.00]雨")
    assert problems_of_song("lyrics: 雨.lrc") == [
        "name: none can be made from '雨'; name the song, for example harbour-lights"
    ]
    assert song_in("lyrics: 雨.lrc, name: rain").lyrics == "[00:01.00]雨"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "the file is empty; leave lyrics out for an instrumental"),
        (b" \n\n", "the file is empty; leave lyrics out for an instrumental"),
        (b"[00:01.00]la\n[00:02.00]caf\xe9", "is not UTF-8 (line 2); save it as UTF-8"),
        (b"[00:01.00]la\n" * 100_000, "is larger than 1 MiB; is it the right file?"),
    ],
)
def test_a_lyrics_file_that_cannot_be_sung_says_why(folder: Path, content: bytes, problem: str) -> None:
    Path("jobs/bad.lrc").write_bytes(content)
    assert problems_of_song("lyrics: bad.lrc") == [f"lyrics: jobs/bad.lrc: {problem}"]


def test_lines_of_inline_lyrics_are_found_again_in_the_job_file(folder: Path) -> None:
    text = STYLE + "songs:\n  - name: a\n    lyrics: |  # ours\n\n      [00:01.00]one\n      [00:02.00]two\n"
    (song,) = songs_in(text)
    assert song.lyrics == "\n[00:01.00]one\n[00:02.00]two\n"
    file, first = lyrics_start(song.lyrics_source)
    assert file == "jobs/night.yaml"
    assert [line.strip() for line in text.splitlines()[first - 1 :]] == song.lyrics.splitlines()


def test_inline_lyrics_in_quotes_begin_on_their_own_line(folder: Path) -> None:
    song = song_in('name: a, lyrics: "[00:01.00]one\\n[00:02.00]two"')
    assert lyrics_start(song.lyrics_source) == ("jobs/night.yaml", 4)


def test_folded_inline_lyrics_are_refused(folder: Path) -> None:
    (line,) = problems_in(
        STYLE + "songs:\n  - name: a\n    lyrics: >\n      [00:01.00]one\n      [00:02.00]two\n"
    )
    assert line == "jobs/night.yaml:5:13: lyrics: a block after > loses its line ends; write | in its place"


def test_lyrics_in_a_file_begin_on_its_first_line() -> None:
    assert lyrics_start("jobs/lyrics/rain.lrc") == ("jobs/lyrics/rain.lrc", 1)


def test_takes_are_songs_with_names_and_seeds_of_their_own(folder: Path) -> None:
    takes = songs_in(STYLE + "songs:\n  - {name: a, seed: 7, takes: 3}\n  - {name: a-2}\n")
    assert [(song.name, song.seed, song.take) for song in takes] == [
        ("a", 7, 1),
        ("a.2", 8, 2),
        ("a.3", 9, 3),
        ("a-2", None, 1),
    ]


def test_takes_without_a_seed_are_each_drawn_later(folder: Path) -> None:
    assert [song.seed for song in songs_in(STYLE + "songs: [{name: a, takes: 2}]")] == [None, None]


def test_a_song_stands_above_the_command_and_the_command_above_the_file(folder: Path) -> None:
    head = "model: demo\ndefaults: {style: pop, timeout: 40m, nice: 5}\n"
    text = head + "songs:\n  - {name: a, timeout: 10m}\n  - {name: b}\n"
    overrides = Overrides({"timeout": "20m", "format": "ogg", "nice": None}, model="diffrhythm-1.2")
    assert [(s.timeout_s, s.format, s.nice, s.model) for s in songs_in(text, overrides)] == [
        (600.0, "ogg", 5, "diffrhythm-1.2"),
        (1200.0, "ogg", 5, "diffrhythm-1.2"),
    ]
    assert [s.timeout_s for s in songs_in(text, replace(overrides, force=True))] == [1200.0, 1200.0]


def test_a_wrong_option_is_told_by_its_name_before_any_file(folder: Path) -> None:
    wrong = Overrides({"timeout": "soon", "lyrics_compat": "x", "style_audio": "no.wav"}, model="./no")
    assert problems_in("", wrong) == [
        "--lyrics-compat: 'x' cannot be used; write 'ours' or 'published'",
        "--timeout: 'soon' cannot be used; write a time such as 40m, 90s or 1h30m",
        "--style-audio: there is no file no.wav; check the path",
        "--model: there is no folder ./no; check the path",
    ]


@pytest.mark.parametrize(
    ("defaults", "own", "seen"),
    [
        ("style: pop", "style_audio: clip.wav", (None, "clip.wav")),
        ("style_audio: clip.wav", "style: pop", ("pop", None)),
        ("style: pop", "style: rock", ("rock", None)),
    ],
)
def test_a_nearer_style_replaces_a_farther_clip_and_the_other_way(
    folder: Path, defaults: str, own: str, seen: tuple[str | None, str | None]
) -> None:
    song = song_in(f"name: a, {own}", head=f"model: demo\ndefaults: {{{defaults}}}\n")
    assert (song.style, song.style_audio.name if song.style_audio else None) == seen


def test_a_nearer_preset_replaces_a_farther_number_of_steps(folder: Path) -> None:
    head = "model: demo\ndefaults: {style: pop, steps: 30}\n"
    song = song_in("name: a, preset: draft", head=head)
    assert (song.preset, song.steps) == ("draft", None)
    assert song_in("name: a", head=head).steps == 30
    assert song_in("name: a, preset: draft, steps: 9", head=head).steps == 9


def test_a_song_takes_a_default_back_with_none(folder: Path) -> None:
    head = "model: demo\ndefaults: {style: pop, deadline: 2h, loudness: -16, seed: 3}\n"
    song = song_in("name: a, deadline: none, loudness: none, seed:", head=head)
    assert (song.deadline_s, song.loudness, song.seed) == (None, None, None)


def test_paths_are_relative_to_the_file_in_a_file_and_to_the_folder_in_an_option(folder: Path) -> None:
    assert song_in("name: a, style_audio: clip.wav").style_audio == folder / "jobs" / "clip.wav"
    option = Overrides({"style_audio": "jobs/clip.wav"})
    assert song_in("name: a", option).style_audio == folder / "jobs" / "clip.wav"


def test_a_bundle_given_by_path_is_relative_to_the_file(folder: Path) -> None:
    (folder / "bundle").mkdir()
    song = song_in("name: a, style: pop", head="model: ../bundle\n")
    assert Path(song.model).is_absolute()
    assert Path(song.model).samefile(folder / "bundle")


def test_a_song_given_by_options_needs_no_file(folder: Path) -> None:
    song = single(
        {"lyrics": "jobs/lyrics/rain.lrc", "style": "pop", "duration": 20, "timeout": "90", "seed": None},
        model="demo",
    )
    assert (song.id, song.path, song.line, song.model) == ("sing/rain", None, 0, "demo")
    assert (song.lyrics, song.lyrics_source) == ("[00:01.00]Rain\n", "jobs/lyrics/rain.lrc")
    assert (song.duration, song.timeout_s, song.seed) == (20.0, 90.0, None)


def test_a_song_given_by_wrong_options_names_each(folder: Path) -> None:
    with pytest.raises(SpecError) as caught:
        single({"duration": 0, "style_audio": "no.wav", "lyrics": "no.lrc", "takes": 2}, model="demo")
    assert str(caught.value).splitlines() == [
        "--duration: 0 cannot be used; write a number above 0",
        "--style-audio: there is no file no.wav; check the path",
        "--lyrics: no.lrc: there is no such file; check the path",
        "--takes: one song is made at a time; leave it out, or use a job file",
    ]


def test_a_path_too_long_for_the_disk_is_a_plain_problem(folder: Path) -> None:
    long = "x" * 300
    assert problems_of_song(f"name: a, style_audio: {long}")[0].startswith("style_audio: there is no file")
    assert "cannot be read" in problems_of_song(f"name: a, lyrics: {long}")[0]


@pytest.mark.parametrize(
    ("written", "wanted"),
    [
        ("40m", 2400),
        ("90s", 90),
        ("1h30m", 5400),
        ("1.5h", 5400),
        ("1h1m1s", 3661),
        ("90", 90),
        (90, 90),
        (0.5, 0.5),
    ],
)
def test_a_time_is_read_in_hours_minutes_and_seconds(written: object, wanted: float) -> None:
    assert seconds(written) == wanted


@pytest.mark.parametrize(
    "written", ["", "1:30", "h", "-5m", "1h30", "5d", "m5", "1e3", "９０s", "1m1m", 0, -1, True, None]
)
def test_a_time_that_is_none_is_refused(written: object) -> None:
    with pytest.raises(ValueError, match="write a time"):
        seconds(written)


@pytest.mark.parametrize("written", ["0s", "800h", "9" * 400, float("nan"), float("inf"), 1e300])
def test_a_time_out_of_range_is_refused(written: object) -> None:
    with pytest.raises(ValueError, match="above 0 and at most 30 days"):
        seconds(written)


@given(st.integers(0, 99), st.integers(0, 59), st.integers(0, 59))
def test_a_time_is_the_sum_of_its_parts(h: int, m: int, s: int) -> None:
    total = h * 3600 + m * 60 + s
    if 0 < total <= MAX_WAIT_S:
        assert seconds(f"{h}h{m}m{s}s") == total


@pytest.mark.parametrize(
    ("written", "wanted"),
    [
        ("6G", 6 * 2**30),
        ("800M", 800 * 2**20),
        ("1.5g", 3 * 2**29),
        ("6GiB", 6 * 2**30),
        ("6GB", 6 * 2**30),
        (2**30, 2**30),
    ],
)
def test_a_size_is_read_in_powers_of_1024(written: object, wanted: int) -> None:
    assert size_bytes(written) == wanted


@pytest.mark.parametrize(
    "written", ["6", "G", "-6G", "6 G", "6P", "63M", 6, 2**26 - 1, True, 6.5, None, "9" * 400 + "G"]
)
def test_a_size_that_is_none_or_too_small_is_refused(written: object) -> None:
    with pytest.raises(ValueError, match="write a size"):
        size_bytes(written)


def test_every_default_passes_its_own_limits() -> None:
    Defaults.model_validate(Defaults().model_dump())


@pytest.mark.parametrize(
    ("stem", "name"),
    [("Café", "cafe"), ("Straße", "strasse"), ("Harbour  Lights!", "harbour-lights"), ("海", "")],
)
def test_a_name_is_made_of_any_title_in_one_way(stem: str, name: str) -> None:
    assert slug(stem) == name
