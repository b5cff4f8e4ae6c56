"""The morning's page as a reader meets it: a real browser opens the file, plays it, walks it by keyboard."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from playwright.sync_api import Browser, Page, Request, sync_playwright

sys.path.insert(0, str(Path(__file__).parent / "runner"))
from folders import add_attempt, write_batch, write_failure, write_manifest

from diffrhythm import pictures
from runner import report
from runner.files import write_message
from runner.messages import Outcome, QueuedSong
from runner.songfolder import Outputs

ROOT = Path(__file__).parents[1]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH, so nobody can look at the page"),
]
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
]
FLAGS += ["--disable-component-update", "--disable-sync", "--mute-audio"]
BUSY_MS = 120_000  # that a busy machine may take for anything
RATE = 44_100
SECONDS = 30.0  # so long that a busy machine meets a line while it is the current one
LINES = [
    {"start": 1.0, "text": "a first line"},
    {"start": 12.0, "text": "a second line"},
    {"start": 25.0, "text": "第三行"},
]
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 900}


def sing(outputs: Outputs, id: str, hertz: float, **changes: Any) -> None:
    """A song as a batch leaves it, with a sound that is one."""
    song = outputs.song(id)
    attempt = add_attempt(song)
    sound = (0.3 * np.sin(2 * np.pi * hertz * np.arange(round(SECONDS * RATE)) / RATE)).astype(np.float32)
    soundfile.write(song.audio("wav"), np.stack([sound, sound], axis=1), RATE)
    attempt.spectrogram.write_bytes(pictures.spectrogram(np.stack([sound, sound])))
    began = time.time() - 40
    made = {"phases": {"sample": 20.0, "decode": 5.0}}
    points = [[float(i), 10**9, 10**9, 10**8] for i in range(30)]
    end = Outcome(
        1, None, "made", elapsed_s=30.0, began_wall=began, ended_wall=began + 30, memory=points, song=made
    )
    write_message(attempt.outcome, end)
    content = {
        "request": {"series": 1, "attempt": 1, "style": "pop song", "lyrics": "x", "steps": 12, "cfg": 3.0},
        "duration": SECONDS,
        "seed": 7,
        "lines": LINES,
        "outline": pictures.outline(np.stack([sound, sound])),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "machine": {"processor": "a processor", "cores": 2},
        "demo": True,
        "model": "demo",
    }
    write_manifest(song, **content | changes)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a night with takes, a degraded song, a failed one and one of an earlier night."""
    outputs = Outputs(tmp_path_factory.mktemp("the page's") / "out puts é")
    sing(outputs, "night/rain", 440.0)
    sing(outputs, "night/rain.2", 550.0, seed=8)
    sing(outputs, "night/tide", 660.0, state="degraded", degraded="6 steps instead of 12", lines=[])
    sing(outputs, "last/older", 330.0)
    failed = outputs.song("night/failed")
    readings = [{"at": float(i), "cpu_s": i / 9, "anon": 10**9 + i * 10**7, "swap": i} for i in range(20)]
    write_message(
        add_attempt(failed).outcome,
        Outcome(1, "stalled", "hung: no CPU used and no progress", density=32, evidence=readings),
    )
    write_failure(failed, "hung: no CPU used and no progress", cause="stalled")
    states = {"rain": "done", "rain.2": "done", "tide": "degraded", "failed": "failed", "later": "left"}
    write_batch(
        outputs, [QueuedSong(f"night/{name}", state) for name, state in states.items()], finished=True
    )  # type: ignore[arg-type]
    return report.write(outputs)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, headless=True, args=FLAGS, timeout=BUSY_MS
        )
        yield browser
        browser.close()


@contextmanager
def opened(browser: Browser, file: Path, *, viewport: Any = DESK, **options: Any) -> Iterator[Page]:
    """The page in a window of its own, in which nothing goes wrong and nothing is fetched from elsewhere."""
    context = browser.new_context(viewport=viewport, **options)
    context.set_default_timeout(BUSY_MS)
    page = context.new_page()
    wrong: list[str] = []
    page.on("console", lambda said: wrong.append(f"{said.type}: {said.text}"))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("requestfailed", lambda request: wrong.extend(failure(request)))
    page.on("request", lambda request: wrong.append(request.url) if not is_near(request.url, file) else None)
    page.goto(file.as_uri())
    try:
        yield page
        assert wrong == []
    finally:
        context.close()


def failure(request: Request) -> list[str]:
    """A sound that is sought through comes in pieces, and a browser gives up those that it needs no more."""
    return [] if request.failure == "net::ERR_ABORTED" else [f"{request.url}: {request.failure}"]


def is_near(url: str, file: Path) -> bool:
    return url.startswith((file.parent.as_uri(), "data:"))


def heard_s(page: Page, index: int = 0) -> float:
    return float(page.evaluate(f"document.querySelectorAll('audio')[{index}].currentTime"))


def wait(page: Page, condition: str) -> None:
    """Playwright's own way makes code of text, which the page's policy forbids."""
    for _ in range(2400):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"waited in vain: {condition}")


def test_a_song_plays_and_its_current_line_follows(browser: Browser, file: Path) -> None:
    with opened(browser, file) as page:
        page.get_by_role("button", name="Play rain", exact=True).click()
        wait(page, "document.querySelectorAll('audio')[0].currentTime > 1.2")
        current = page.locator(".lyrics [aria-current]")
        assert current.inner_text().split("\n")[-1] == "a first line"
        page.get_by_role("button", name="a second line").click()
        wait(page, "document.querySelectorAll('audio')[0].currentTime > 12.2")
        assert current.inner_text().split("\n")[-1] == "a second line"
        assert not page.evaluate("document.querySelectorAll('audio')[0].paused")


def test_another_song_that_is_played_silences_the_first(browser: Browser, file: Path) -> None:
    with opened(browser, file) as page:
        page.get_by_role("button", name="Play rain", exact=True).click()
        wait(page, "document.querySelectorAll('audio')[0].currentTime > 0.2")
        page.get_by_role("button", name="Play rain.2").click()
        wait(page, "document.querySelectorAll('audio')[1].currentTime > 0.2")
        assert page.evaluate("[...document.querySelectorAll('audio')].map(each => each.paused)") == [
            True,
            False,
            True,
        ]
        page.get_by_role("button", name="第三行").click()  # a line speaks to the take that is heard
        wait(page, "document.querySelectorAll('audio')[1].currentTime > 25")
        assert heard_s(page) < 25


def test_playing_all_goes_on_to_the_next_song(browser: Browser, file: Path) -> None:
    with opened(browser, file) as page:
        page.get_by_role("button", name="Play all").click()
        wait(page, "document.querySelectorAll('audio')[0].currentTime > 0.1")
        page.evaluate("document.querySelectorAll('audio')[0].currentTime = 29.8")
        wait(page, "document.querySelectorAll('audio')[1].currentTime > 0.1")


def test_a_song_is_played_and_moved_through_by_keyboard_alone(browser: Browser, file: Path) -> None:
    with opened(browser, file) as page:
        slider = page.get_by_role("slider", name="Position in rain", exact=True)
        slider.focus()
        page.keyboard.press("Space")
        wait(page, "document.querySelectorAll('audio')[0].currentTime > 0.2")
        page.keyboard.press("Space")
        wait(page, "document.querySelectorAll('audio')[0].paused")
        page.keyboard.press("Home")
        page.keyboard.press("ArrowRight")
        wait(page, "document.querySelectorAll('audio')[0].currentTime === 5")
        assert slider.get_attribute("aria-valuetext") == "0:05 of 0:30"
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("ArrowLeft")
        wait(page, "document.querySelectorAll('audio')[0].currentTime === 0")
        page.get_by_role("button", name="a second line").focus()
        page.keyboard.press("Enter")
        wait(page, "document.querySelectorAll('audio')[0].currentTime > 12.1")


def test_a_click_on_the_picture_seeks(browser: Browser, file: Path) -> None:
    with opened(browser, file) as page:
        slider = page.get_by_role("slider", name="Position in tide")
        box = slider.bounding_box()
        assert box is not None
        slider.click(position={"x": box["width"] / 2, "y": box["height"] / 2})
        wait(page, "document.querySelectorAll('audio')[2].currentTime > 14.5")
        assert heard_s(page, 2) < 15.5


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [PHONE, DESK], ids=["phone", "desk"])
def test_it_fits_shows_its_pictures_and_can_be_read(
    browser: Browser, file: Path, scheme: Any, viewport: Any
) -> None:
    with opened(browser, file, viewport=viewport, color_scheme=scheme) as page:
        page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true; })")
        page.evaluate("document.querySelectorAll('img').forEach(each => { each.loading = 'eager'; })")
        wait(page, "[...document.images].every(each => each.complete && each.naturalWidth === 1000)")
        assert page.evaluate("document.images.length") == 3
        assert page.evaluate("document.documentElement.scrollWidth") == viewport["width"]
        assert page.evaluate(TOO_WIDE) == []
        faint = page.evaluate(CONTRAST)
        assert [each for each in faint if each[0] < 4.5] == []
        assert len(faint) > 40
        dark = page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
        assert dark == (scheme == "dark")


def test_every_control_is_reached_by_tab_and_shows_it(browser: Browser, file: Path) -> None:
    with opened(browser, file) as page:
        count = page.evaluate(f"({CONTROLS}).length")
        assert count > 20
        page.evaluate(f"({CONTROLS}).forEach((each, index) => {{ each.dataset.number = index; }})")
        seen = set()
        for _ in range(count + 10):
            page.keyboard.press("Tab")
            number, outlined = page.evaluate(FOCUSED)
            if number is not None:
                assert outlined, page.evaluate("document.activeElement.outerHTML")
                seen.add(int(number))
        assert seen == set(range(count))


def test_without_its_script_the_browsers_own_players_are_there(browser: Browser, file: Path) -> None:
    with opened(browser, file, java_script_enabled=False) as page:
        assert page.locator("audio").first.is_visible()
        assert not page.locator(".play").first.is_visible()


def test_a_sound_that_was_moved_away_is_said_to_be(browser: Browser, file: Path, tmp_path: Path) -> None:
    alone = tmp_path / "report.html"
    shutil.copy(file, alone)
    page = browser.new_page()
    page.set_default_timeout(BUSY_MS)
    page.goto(alone.as_uri())
    page.get_by_role("button", name="Play rain", exact=True).click()
    page.get_by_text("cannot be played here").first.wait_for()
    page.close()


def test_a_page_to_be_sent_plays_where_there_is_nothing_else(
    browser: Browser, file: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "runner.cli", "report", "--embed", "--out", str(file.parent)]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    alone = Path(told.strip()).rename(tmp_path / "sent.html")
    with opened(browser, alone) as page:
        page.get_by_role("button", name="Play tide").click()
        wait(page, "document.querySelectorAll('audio')[2].currentTime > 0.2")
        assert page.evaluate("[...document.links].filter(each => !each.hash).length") == 0
        assert page.evaluate("document.images.length") == 3


CONTROLS = (
    "[...document.querySelectorAll('a[href], button, input, summary')]"
    ".filter(each => each.checkVisibility({opacityProperty: false, visibilityProperty: true}))"
)
FOCUSED = """() => {
  const it = document.activeElement, style = getComputedStyle(it.closest('.score') || it);
  return [it.dataset.number ?? null, style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2];
}"""
TOO_WIDE = """() => [...document.querySelectorAll('body *')].filter(each => each.checkVisibility()
  && !each.closest('svg') && each.getBoundingClientRect().right > innerWidth + 0.5)
  .map(each => each.outerHTML.slice(0, 99))"""
# Of every element with text of its own: contrast with what is painted behind it (WCAG 2), and its beginning.
CONTRAST = """() => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const paint = colours => {
    for (const colour of colours) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map(each => each / 255);
  };
  const light = rgb => {
    const [r, g, b] = rgb.map(each => each <= 0.04045 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const has = each => [...each.childNodes].some(node => node.nodeType === 3 && node.data.trim());
  return [...document.querySelectorAll('body *')].filter(each => has(each) && each.checkVisibility()
      && !each.closest('script, svg')).map(each => {
    const behind = ['white'];
    for (let at = each, own = []; ; at = at.parentElement) {
      if (!at) { behind.push(...own.reverse()); break; }
      own.push(getComputedStyle(at).backgroundColor);
    }
    const [a, b] = [light(paint(behind)), light(paint([...behind, getComputedStyle(each).color]))];
    return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), each.outerHTML.slice(0, 80)];
  });
}"""
