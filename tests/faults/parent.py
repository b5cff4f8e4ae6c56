"""Runs a batch of naughty children: `python -m tests.faults.parent JOBS OUTPUTS`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from runner import batch, forecast, verdict
from runner.errors import RunnerError
from runner.messages import SongAnswer
from runner.songfolder import Outputs
from runner.spec import Song
from runner.supervise import House, Job
from runner.until import until
from tests.faults import system_calls
from tests.faults.batches import CHILD, ROOT
from tests.faults.child import slow_fsync


def main(paper: Path, folder: Path) -> int:
    content = json.loads(paper.read_text())
    # Hundreds of children start in half the time without site-packages and with what is compiled kept.
    os.environ["PYTHONPATH"] = str(ROOT)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    jobs = [
        Job(_song(each["song"]), SongAnswer(**each["answer"]), each["fingerprint"])
        for each in content["jobs"]
    ]
    options = content["options"]
    verdict.PHASE_STALL_S.update(options.pop("patience_s", {}))  # minutes, for real models
    forecast.AROUND_S = options.pop("around_s", forecast.AROUND_S)
    house = House(
        mark="",
        worker=tuple(options.pop("worker", (sys.executable, "-S", str(CHILD)))),
        tick_s=0.05,
        grace_s=options.pop("grace_s", 0.5),
        thrash_s=options.pop("thrash_s", 20.0),
        await_s=options.pop("await_s", 10.0),
        root=Path(options.pop("root", "/")),
    )
    strict = options.get("strict", False)
    if refused := options.pop("refused", None):
        system_calls.refuse(*refused)
    if slow_s := options.pop("slow_disk_s", None):
        slow_fsync(slow_s)
    if span_s := options.pop("until_s", None):
        options["until"] = until(f"{span_s}s")
    try:
        ended = batch.run(jobs, Outputs(folder), batch.Options(**options), show=lambda: None, house=house)
    except RunnerError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    for song in ended.songs:
        print(f"{song.song}: {song.state}: {song.note}", file=sys.stderr)
    return ended.exit_code(strict=strict)


def _song(settings: dict[str, Any]) -> Song:
    clip = settings["style_audio"]
    return Song(**settings | {"style_audio": clip and Path(clip)})


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
