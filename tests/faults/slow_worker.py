"""The real worker, `python slow_worker.py VERB PAPER`, made slow by two variables of its environment.

DIFFRHYTHM_ENGINE_STEP_S    seconds that each step takes longer
DIFFRHYTHM_ENGINE_HOLDS_AT  "STEP FILE": behind that step it waits until there is such a file, so that what is
                            done to it then, however late, meets it there
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from diffrhythm import sampling
from runner import worker

STEP_S = float(os.environ.get("DIFFRHYTHM_ENGINE_STEP_S", "0"))
HOLDS_AT, _, GO = os.environ.get("DIFFRHYTHM_ENGINE_HOLDS_AT", "0 ").partition(" ")


def slowed(advance: Any) -> Any:
    def slow_advance(model: Any, conditioning: Any, state: sampling.State, *more: Any) -> Any:
        while state.step == int(HOLDS_AT) > 0 and not Path(GO).exists():
            time.sleep(0.02)
        time.sleep(STEP_S)
        return advance(model, conditioning, state, *more)

    return slow_advance


if __name__ == "__main__":
    sampling._advance = slowed(sampling._advance)
    sys.exit(worker.main(sys.argv[1:]))
