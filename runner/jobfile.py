"""The keys of a job file: types, limits, defaults, descriptions, and the JSON Schema made from them."""

from __future__ import annotations

import math
import re
import sys
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, GetJsonSchemaHandler, WithJsonSchema
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import CoreSchema

from runner.messages import Bits, Format, Precision, Preset

NAME = r"^[a-z0-9][a-z0-9-]*$"
MAX_WAIT_S = 30 * 24 * 3600.0
MIN_MEMORY = 64 * 2**20

_NUMBER = r"[0-9]+(?:\.[0-9]+)?"
_DURATION = rf"{_NUMBER}|(?=.)({_NUMBER}h)?({_NUMBER}m)?({_NUMBER}s)?"
_SIZE = rf"({_NUMBER})([KkMmGgTt])(?:i?B)?"
_UNIT_S = {"h": 3600.0, "m": 60.0, "s": 1.0}


def seconds(value: object) -> float:
    """Seconds in `1h30m`, `40m`, `90s`, `90` or a number; above 0, at most 30 days. Raises ValueError."""
    if isinstance(value, str) and (match := re.fullmatch(_DURATION, value)):
        parts = [part for part in match.groups() if part]
        total = sum(float(part[:-1]) * _UNIT_S[part[-1]] for part in parts) if parts else float(value)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        total = value
    else:
        raise ValueError("write a time such as 40m, 90s or 1h30m")
    if not 0 < total <= MAX_WAIT_S:
        raise ValueError("write a time above 0 and at most 30 days, such as 40m, 90s or 1h30m")
    return float(total)


def size_bytes(value: object) -> int:
    """Bytes in `6G`, `800M` or a whole number; at least 64 MiB. Raises ValueError."""
    if isinstance(value, str) and (match := re.fullmatch(_SIZE, value)):
        size = float(match[1]) * 1024.0 ** ("KMGT".index(match[2].upper()) + 1)
    elif isinstance(value, int) and not isinstance(value, bool):
        size = min(value, sys.maxsize)
    else:
        raise ValueError("write a size such as 6G or 800M")
    if not MIN_MEMORY <= size < math.inf:
        raise ValueError("write a size of at least 64M, such as 6G or 800M")
    return int(size)


def _none_word(value: object) -> object:
    return None if value == "none" else value


class _NoneWordInSchema:
    def __get_pydantic_json_schema__(
        self, core: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        schema = handler(core)
        schema["anyOf"].append({"const": "none"})
        return schema


T = TypeVar("T")
# `none` or an empty value: the program chooses, or does without.
OrNone = Annotated[T | None, BeforeValidator(_none_word), _NoneWordInSchema()]
Seconds = Annotated[
    float,
    BeforeValidator(seconds),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "exclusiveMinimum": 0, "maximum": MAX_WAIT_S},
                {"type": "string", "pattern": rf"^(?:{_DURATION})$"},
            ]
        }
    ),
]
Bytes = Annotated[
    int,
    BeforeValidator(size_bytes),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": MIN_MEMORY},
                {"type": "string", "pattern": rf"^(?:{_SIZE})$"},
            ]
        }
    ),
]
Text = Annotated[str, Field(min_length=1, max_length=2000)]
FilePath = Annotated[str, Field(min_length=1, max_length=4096)]


SpanEnd = Annotated[float, Field(ge=-1, le=3600, allow_inf_nan=False)]


class _Keys(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Defaults(_Keys):
    """Settings for every song of the file; a song's own keys stand above them."""

    style: Text | None = Field(
        default=None,
        description="How it should sound, in words: genre, mood, instruments, voice.",
        examples=["folk, guitar"],
    )
    style_audio: FilePath | None = Field(
        default=None,
        description="A clip of at least 10 s whose style is taken, in place of style; relative to this file.",
    )
    negative_style: Text | None = Field(
        default=None,
        description="How it should not sound, in words; by default the model's own negative style.",
    )
    duration: OrNone[Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)]] = Field(
        default=None,
        description="Length in seconds: 95, or 96 to 285 with a -full model, 2 to 40 with the demo; none: to "
        "the end of the last line where the model can, else the model's length.",
    )
    window: OrNone[Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)]] = Field(
        default=None,
        description="Make a longer song in overlapping windows of so many seconds, a duration that the model "
        "has: for songs longer than its longest, or for less memory; none: at once.",
        examples=[95],
    )
    seed: OrNone[Annotated[int, Field(ge=0, le=2**53 - 1)]] = Field(
        default=None,
        description="Number that the noise is drawn from; none: random, kept in the song's manifest.",
    )
    takes: int = Field(
        default=1,
        ge=1,
        le=99,
        description="How many versions to make, with the seeds seed, seed + 1, and so on.",
    )
    preset: Preset = Field(
        default="auto",
        description="Quality against time: as good as 4, 8, 16, 32 or 64 plain steps; reference: 31 plain "
        "steps, as published; auto: standard, or draft where that takes too long on this processor.",
    )
    steps: OrNone[Annotated[int, Field(ge=1, le=1000)]] = Field(
        default=None, description="Number of solver steps, in place of the preset's."
    )
    cfg: OrNone[Annotated[float, Field(ge=0, le=20, allow_inf_nan=False)]] = Field(
        default=None,
        description="Strength of guidance, as published (4 there; 0: none), in place of the preset's.",
    )
    sampler: OrNone[Annotated[str, Field(min_length=1, max_length=40)]] = Field(
        default=None, description="Solver, in place of the preset's: euler, sway, midpoint, heun or rk4."
    )
    language: Literal["auto", "en", "zh"] = Field(
        default="auto",
        description="How to read a line of digits or signs alone; letters show their language.",
    )
    lyrics_compat: Literal["ours", "published"] = Field(
        default="ours",
        description="ours: every line is sung, a broken one is an error; published: as the published "
        "program reads lyrics, dropping the lines that it drops.",
    )
    precision: Precision = Field(
        default="auto",
        description="Arithmetic of the model; auto: the fastest on this machine whose error is small.",
    )
    format: Format = Field(default="wav", description="Kind of the sound file.")
    bits: Bits = Field(
        default=16, description="Of a sample: 16 or 24 in wav and flac, 32 (floating point) in wav."
    )
    loudness: OrNone[Annotated[float, Field(ge=-60, le=-5)]] = Field(
        default=-14.0, description="Loudness of the song in LUFS; none: the peak at full scale, as published."
    )
    fade_out: OrNone[Annotated[float, Field(gt=0, le=30, allow_inf_nan=False)]] = Field(
        default=None,
        description="Seconds in which the song's end fades to silence, at most half of the song; none: no "
        "fading.",
        examples=[4],
    )
    timeout: Seconds = Field(
        default=2400.0,
        description="Time of one attempt (40m, 1h30m); then it is stopped and goes on with half the steps.",
    )
    deadline: OrNone[Seconds] = Field(
        default=None, description="Time of the whole song, all its attempts together."
    )
    stall: OrNone[Seconds] = Field(
        default=None,
        description="Time without progress after which an attempt counts as hung; none: from its own pace.",
    )
    attempts: int = Field(default=4, ge=1, le=20, description="Attempts that a song may use.")
    foresight: bool = Field(
        default=True,
        description="Take fewer steps from there on where the measured pace would miss the timeout.",
    )
    threads: OrNone[Annotated[int, Field(ge=1, le=1024)]] = Field(
        default=None,
        description="Processor threads of a song; none: the cores shared among the songs that run.",
    )
    memory: OrNone[Bytes] = Field(
        default=None, description="Memory that a song may use (6G, 800M); none: all that the machine has."
    )
    nice: int = Field(
        default=10, ge=0, le=19, description="Politeness towards other programs; 19 gives way the most."
    )
    resume: bool = Field(
        default=True, description="Go on from the newest checkpoint rather than from the beginning."
    )


class Edit(_Keys):
    """Parts of a finished song to make anew."""

    source: FilePath = Field(description="The sound file to edit; relative to this file.")
    spans: list[Annotated[list[SpanEnd], Field(min_length=2, max_length=2)]] = Field(
        min_length=1,
        max_length=100,
        description="[start, end] in seconds of each part to make anew, in order; -1 is the song's own start "
        "or end. A source shorter than the song is gone on with where the last part reaches the end.",
        examples=[[[30, 42.5], [80, -1]]],
    )


class SongSpec(Defaults):
    """One song, with its own settings."""

    name: Annotated[str, Field(pattern=NAME, max_length=100)] | None = Field(
        default=None,
        description="Name of its folder, unique in this file: small letters, digits and hyphens; "
        "by default from the name of the lyrics file.",
    )
    lyrics: Annotated[str, Field(min_length=1)] | None = Field(
        default=None,
        description="Path of a timed lyrics file (.lrc), relative to this file, or the lines themselves "
        "after |; without lyrics: an instrumental.",
    )
    edit: Edit | None = Field(
        default=None,
        description="Parts of a finished song to make anew; without a duration, it keeps that song's length.",
    )


class JobFile(_Keys):
    """A job file: songs to make with one model."""

    model: FilePath = Field(
        description="demo (comes with the program), diffrhythm-1.2, diffrhythm-1.2-full, or the path of a "
        "bundle, relative to this file.",
        examples=["demo", "diffrhythm-1.2", "diffrhythm-1.2-full"],
    )
    defaults: Defaults = Field(default_factory=Defaults, description="Settings for every song of this file.")
    songs: list[SongSpec] = Field(min_length=1, max_length=1000, description="The songs to make.")


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a job file, in draft 7, which editors' YAML servers understand."""
    made = JobFile.model_json_schema(schema_generator=_Draft7)
    return {"$schema": "http://json-schema.org/draft-07/schema#", **_as_draft_7(made)}


class _Draft7(GenerateJsonSchema):
    """Without the titles that pydantic makes from names, which editors would show before the descriptions."""

    def field_title_should_be_set(self, schema: object) -> bool:
        return False


def _as_draft_7(node: Any) -> Any:
    if isinstance(node, list):
        return [_as_draft_7(item) for item in node]
    if not isinstance(node, dict):
        return node
    renamed = {"definitions" if key == "$defs" else key: _as_draft_7(value) for key, value in node.items()}
    if "$ref" in renamed:
        # In draft 7 a $ref hides its neighbours, the description among them.
        reference = {"$ref": renamed.pop("$ref").replace("#/$defs/", "#/definitions/")}
        return {"allOf": [reference], **renamed} if renamed else reference
    return renamed
