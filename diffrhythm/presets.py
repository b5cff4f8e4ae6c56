"""How good a song is asked to be: steps and guidance by name. Pure; torch is not needed to read them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from difflib import get_close_matches

from diffrhythm.chunks import CHUNK_FRAMES, PUBLISHED_CHUNK_FRAMES, PUBLISHED_OVERLAP_FRAMES
from diffrhythm.errors import RequestError

# The published guidance w in p + (p − q)·w; the usual scale is w + 1.
PUBLISHED_CFG = 4.0
# Few steps follow a strong guidance badly: a CPU's default takes a little less.
CPU_CFG = 3.0
# Where a standard song would take longer, a night holds too few of them.
LONG_S = 30 * 60.0


@dataclass(frozen=True, slots=True)
class Preset:
    """steps: solver steps, n of them on n + 1 points. cfg: the published w. why: a sentence for people.

    chunk_frames, overlap_frames: of the decoder, see generate.
    """

    name: str
    steps: int
    cfg: float
    sampler: str
    why: str
    chunk_frames: int = CHUNK_FRAMES
    overlap_frames: int | None = None


PRESETS = {
    preset.name: preset
    for preset in (
        Preset("preview", 4, PUBLISHED_CFG, "sway", "4 steps, to hear whether style and lyrics fit"),
        Preset("draft", 8, PUBLISHED_CFG, "sway", "8 steps, rough: better than 8 plain ones"),
        Preset("standard", 12, PUBLISHED_CFG, "sway", "12 steps, as good as 16 plain ones"),
        Preset("high", 28, PUBLISHED_CFG, "sway", "28 steps, as good as 32 plain ones"),
        Preset("max", 64, PUBLISHED_CFG, "sway", "64 steps, twice the published run"),
        Preset(
            "reference",
            31,
            PUBLISHED_CFG,
            "euler",
            "exactly the published run: 32 points, 31 steps",
            PUBLISHED_CHUNK_FRAMES,
            PUBLISHED_OVERLAP_FRAMES,
        ),
    )
}


def preset(name: str) -> Preset:
    """The preset of this name. Raises RequestError for another, with the nearest one suggested."""
    if name in PRESETS:
        return PRESETS[name]
    near = get_close_matches(name, PRESETS, n=1)
    hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(PRESETS)}"
    raise RequestError(f"no preset is called {name!r}: preset: {hint}")


def auto(standard_s: float, machine: str) -> Preset:
    """What suits a processor; its `why` says what was chosen and why.

    standard_s: about how long sampling the song takes on it in standard. machine: its arithmetic and cores,
    in words.
    """
    span = f"about {standard_s / 60:.0f} min" if standard_s >= 60 else "less than a minute"
    name, takes = "standard", f"sampling takes {span} in {machine}, with high more than twice that"
    if standard_s > LONG_S:
        name, takes = "draft", f"standard would take {span} in {machine}"
    return replace(PRESETS[name], cfg=CPU_CFG, why=f"{name}, with a little less guidance: {takes}")
