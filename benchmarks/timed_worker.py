"""The real worker, telling its log when it began and when each beat was: `python timed_worker.py REQUEST`.

A line is `beat PHASE STEP SECONDS`, on the machine's monotonic clock.
"""

import sys
import time

if __name__ == "__main__":
    print(f"beat begin 0 {time.monotonic()}", file=sys.stderr, flush=True)  # before anything is imported

from typing import Any

from runner import worker
from runner.heartbeat import Pulse
from runner.messages import Heartbeat

_progress = Pulse.progress


def progress_and_tell(self: Pulse, **changes: Any) -> Heartbeat:
    beat = _progress(self, **changes)
    print(f"beat {beat.phase} {beat.step} {beat.progress_mono}", file=sys.stderr, flush=True)
    return beat


if __name__ == "__main__":
    Pulse.progress = progress_and_tell  # type: ignore[method-assign]
    sys.exit(worker.main(["sing", sys.argv[1]]))
