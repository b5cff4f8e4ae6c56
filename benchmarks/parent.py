"""The parent of `runner batch` with naughty children: `python -m benchmarks.parent PAPER OUTPUTS [--quiet]`.

It loads what `runner batch` loads and watches as often, and prints what the batch cost itself as JSON.
PAPER: jobs and options as benchmarks/naughty.py writes them.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from runner import batch, check, cli, manifest, spec, view  # all that `runner batch` loads
from runner.messages import SongAnswer
from runner.songfolder import Outputs
from runner.supervise import House, Job

CHILD = Path(__file__).parents[1] / "tests" / "faults" / "child.py"
LOADED = (check, cli, manifest)


def main(paper: Path, folder: Path, *, quiet: bool) -> int:
    content = json.loads(paper.read_text())
    jobs = [
        Job(spec.Song(**each["song"]), SongAnswer(**each["answer"]), each["fingerprint"])
        for each in content["jobs"]
    ]
    options = content["options"]
    house = House(mark="", worker=tuple(options.pop("worker", (sys.executable, str(CHILD)))))
    outputs = Outputs(folder)
    began, began_cpu = time.monotonic(), time.process_time()
    with view.live(outputs, quiet=quiet) as show:
        ended = batch.run(jobs, outputs, batch.Options(**options), show=show, house=house)
    print(json.dumps({"wall_s": time.monotonic() - began, "cpu_s": time.process_time() - began_cpu}))
    return ended.exit_code(strict=False)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), quiet="--quiet" in sys.argv))
