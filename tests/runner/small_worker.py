"""The real worker, with a small model of the same form in place of diffrhythm-1.2.

python small_worker.py SOURCE models PAPER; SOURCE: the copy of the source repository that the model is for.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "diffrhythm"))

from published_files import small_model

from diffrhythm import published
from runner import worker

published.MODELS["diffrhythm-1.2"] = small_model(Path(sys.argv[1]))
sys.exit(worker.main(sys.argv[2:]))
