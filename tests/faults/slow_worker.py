"""The real worker on a slow processor, `python slow_worker.py REQUEST`: each step takes STEP_S longer."""

from __future__ import annotations

import sys
import time
from typing import Any

from diffrhythm import sampling
from runner import worker

STEP_S = 0.5


def slowed(step: Any) -> Any:
    def slow_step(*arguments: Any) -> Any:
        time.sleep(STEP_S)
        return step(*arguments)

    return slow_step


if __name__ == "__main__":
    sampling._advance = slowed(sampling._advance)
    sys.exit(worker.main(["sing", sys.argv[1]]))
