"""Does what songs are made with work on this machine? Each answer is what is wrong, in a line, or nothing."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

from diffrhythm.errors import DiffRhythmError

# Of these, a library of the system or an instruction of the processor may be missing, so they are loaded.
NATIVE = ("torch", "torchaudio", "openvino", "numpy", "safetensors", "soundfile")
PURE = (
    *("torchdiffeq", "pyloudnorm", "phonemizer", "espeakng_loader", "pypinyin", "jieba", "cn2an", "inflect"),
    *("huggingface_hub", "pydantic"),
)
# Half a second of sound: enough for each encoder to write a block.
_SAMPLES = 22050


def packages() -> Iterator[str]:
    """Those that are missing or cannot be loaded, and why."""
    for name in NATIVE:
        try:
            import_module(name)
        except Exception as error:  # noqa: BLE001 — a broken package may raise anything
            yield f"{name} cannot be imported: {str(error).partition(chr(10))[0] or type(error).__name__}"
    yield from (f"{name} is not installed" for name in PURE if find_spec(name) is None)


def espeak() -> str:
    """What keeps English lyrics from being read."""
    from diffrhythm.phonemes import english

    try:
        phones, _ = english.read("quiet night")
    except DiffRhythmError as error:
        return str(error)
    return "" if phones else "espeak-ng says nothing, run: pip install --force-reinstall espeakng-loader"


def encoders() -> Iterator[str]:
    """The formats in which no sound can be written, and why."""
    import numpy as np

    from diffrhythm import audio

    wave = np.sin(np.arange(_SAMPLES) / 16) / 2
    sound = np.stack((wave, wave)).astype(np.float32)
    with tempfile.TemporaryDirectory(prefix="diffrhythm-sound-") as folder:
        for format in get_args(audio.Format):
            path = Path(folder, f"sound.{format}")
            try:
                audio.write(path, sound, format)
                audio.verify(path)
            except (OSError, RuntimeError, ValueError, DiffRhythmError) as error:
                yield f"{format}: {str(error).partition(chr(10))[0]}"


def cache(folder: Path) -> str:
    """What keeps a folder, which need not be there yet, from being written in."""
    # os.path.exists, which says no where it may not look, too.
    above = next(place for place in (folder, *folder.parents) if os.path.exists(place))  # noqa: PTH110
    if above != folder and not above.is_dir():
        return f"{above} is no folder"
    return "" if os.access(above, os.W_OK | os.X_OK) else f"{above} cannot be written"
