from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator

from runner import yamlfile
from runner.errors import SpecError
from runner.jobfile import Defaults, JobFile, SongSpec
from runner.spec import json_schema, load

ROOT = Path(__file__).parents[2]

# All that draft 7 knows and that editors' YAML servers act on; pydantic itself writes draft 2020-12.
DRAFT_7 = {
    "$schema",
    "$ref",
    "additionalProperties",
    "allOf",
    "anyOf",
    "const",
    "default",
    "definitions",
    "description",
    "enum",
    "examples",
    "exclusiveMinimum",
    "items",
    "maxItems",
    "maxLength",
    "maximum",
    "minItems",
    "minLength",
    "minimum",
    "pattern",
    "properties",
    "required",
    "title",
    "type",
}


def schemas_within(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield schema
    for key in ("properties", "definitions"):
        for child in schema.get(key, {}).values():
            yield from schemas_within(child)
    for key in ("anyOf", "allOf"):
        for child in schema.get(key, []):
            yield from schemas_within(child)
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from schemas_within(schema[key])


def test_the_committed_schema_is_current() -> None:
    committed = json.loads((ROOT / "job.schema.json").read_text())
    assert committed == json_schema(), "run: .venv/bin/runner schema > job.schema.json"


def test_the_schema_is_draft_7_and_uses_only_its_words() -> None:
    schema = json_schema()
    Draft7Validator.check_schema(schema)
    assert schema["$schema"] == "http://json-schema.org/draft-07/schema#"
    assert {key for each in schemas_within(schema) for key in each} <= DRAFT_7


def test_no_reference_hides_a_description() -> None:
    assert all(set(each) == {"$ref"} for each in schemas_within(json_schema()) if "$ref" in each)


@pytest.mark.parametrize("model", [JobFile, Defaults, SongSpec])
def test_every_key_has_a_description(model: type[JobFile] | type[Defaults] | type[SongSpec]) -> None:
    schema = json_schema()
    keys = (schema if model is JobFile else schema["definitions"][model.__name__])["properties"]
    assert keys.keys() == model.model_fields.keys()
    assert [key for key, about in keys.items() if not about.get("description")] == []


def with_song(keys: str) -> str:
    return f"model: demo\nsongs:\n  - {{name: a, style: pop, {keys}}}\n"


@pytest.mark.parametrize(
    ("text", "accepted"),
    [
        (with_song(""), True),
        (with_song("seed: none, deadline: none, loudness: none, memory: none"), True),
        (with_song("seed: , deadline: , loudness: , memory: "), True),
        (with_song("timeout: 1h30m, stall: 90s, deadline: 3600, memory: 6G"), True),
        (with_song("timeout: 1.5h, memory: 800MiB, cfg: 3, threads: 2"), True),
        (with_song("fade_out: 4"), True),
        (with_song("fade_out: none"), True),
        (with_song("fade_out: 31"), False),
        (with_song("fade_out: 0"), False),
        (with_song("timeout: 1h30"), False),
        (with_song("timeout: '1:30'"), False),
        (with_song("timeout: 0"), False),
        (with_song("timeout: none"), False),
        (with_song("timeout: true"), False),
        (with_song("memory: 6"), False),
        (with_song("memory: lots"), False),
        (with_song("duration: 0"), False),
        (with_song("duration: '95'"), False),
        (with_song("takes: 0"), False),
        (with_song("takes: true"), False),
        (with_song("steps: 1.5"), False),
        (with_song("foresight: no"), False),
        (with_song("preset: fast"), False),
        (with_song("frames: 4"), False),
        ("model: demo\nsongs:\n  - {name: A, style: pop}\n", False),
        ("model: demo\nsongs: []\n", False),
        ("model: demo\n", False),
        ("songs:\n  - {name: a, style: pop}\n", False),
        ("model: demo\ndefaults: {name: a}\nsongs:\n  - {name: a, style: pop}\n", False),
    ],
)
def test_an_editor_and_the_program_agree_on_a_file(tmp_path: Path, text: str, accepted: bool) -> None:
    file = tmp_path / "night.yaml"
    file.write_text(text)
    assert Draft7Validator(json_schema()).is_valid(yamlfile.read(file).value) is accepted
    if accepted:
        load([file])
    else:
        with pytest.raises(SpecError):
            load([file])


def test_the_example_jobs_fit_the_schema() -> None:
    jobs = sorted((ROOT / "jobs").glob("*.yaml"))
    assert len(jobs) >= 3
    for job in jobs:
        Draft7Validator(json_schema()).validate(yamlfile.read(job).value)
