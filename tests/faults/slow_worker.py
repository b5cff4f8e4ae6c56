"""The real worker, `python slow_worker.py VERB PAPER`, made slow by three variables of its environment.

DIFFRHYTHM_ENGINE_STEP_S    seconds that each step takes longer
DIFFRHYTHM_ENGINE_HOLDS_AT  behind that step it waits, so that what is done to it then, however late, meets it
                            there; 0: nowhere
DIFFRHYTHM_ENGINE_GO        from when there is such a file it is as quick as ever
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
HOLDS_AT = int(os.environ.get("DIFFRHYTHM_ENGINE_HOLDS_AT", "0"))
GO = Path(os.environ.get("DIFFRHYTHM_ENGINE_GO", "/never"))


def slowed(advance: Any) -> Any:
    def slow_advance(model: Any, conditioning: Any, state: sampling.State, *more: Any) -> Any:
        until = time.monotonic() + STEP_S
        while not GO.exists() and (time.monotonic() < until or state.step == HOLDS_AT > 0):
            time.sleep(0.02)
        return advance(model, conditioning, state, *more)

    return slow_advance


if __name__ == "__main__":
    sampling._advance = slowed(sampling._advance)
    sys.exit(worker.main(sys.argv[1:]))
