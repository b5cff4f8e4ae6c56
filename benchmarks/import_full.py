"""Files of the published form and size, random weights in them, imported: time and memory of the conversion.

Example: python -m benchmarks.import_full --folder import-full

Needs 9 GB of disk in that folder, and 3 GB of memory while the files are made. They stay, the bundle goes.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import shutil
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import torch
from torch import Tensor, nn

from benchmarks import machine
from diffrhythm import phonemes
from diffrhythm.convert import ENTRY, PREFIX
from diffrhythm.install import import_files
from diffrhythm.published import BASE, PinnedFile, Published
from diffrhythm.transformer import DiT
from diffrhythm.vae import Vae
from diffrhythm.vae_config import HOP, VaeConfig

EVERY_S = 0.01


class Exported(nn.Module):
    """The autoencoder with the two methods that the published TorchScript has."""

    def __init__(self) -> None:
        super().__init__()
        vae = Vae(VaeConfig(), device="cpu")
        self.encoder, self.decoder = vae.encoder, vae.decoder

    def encode_export(self, audio: Tensor) -> Tensor:
        moments: Tensor = self.encoder(audio)
        return moments

    def decode_export(self, latents: Tensor) -> Tensor:
        sound: Tensor = self.decoder(latents)
        return sound


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="where the files are made if absent")
    parser.add_argument("--runs", type=int, default=3, help="imports that are measured")
    asked = parser.parse_args()
    machine.header("Import of a model of the published size")
    asked.folder.mkdir(parents=True, exist_ok=True)
    model = make_files(asked.folder)
    seconds, resident, own = [], [], []
    for _ in range(asked.runs):
        took, most, most_own = measured(asked.folder, model)
        seconds.append(took)
        resident.append(most)
        own.append(most_own)
    machine.figure("checkpoint", [(asked.folder / "cfm_model.pt").stat().st_size], "GB")
    machine.figure("autoencoder", [(asked.folder / "vae_model.pt").stat().st_size], "GB")
    machine.figure("import", seconds, "s")
    machine.figure("peak resident memory", resident, "GB")
    machine.figure("of which not mapped from files", own, "GB")


def measured(folder: Path, model: Published) -> tuple[float, int, int]:
    """Seconds of one import, peak of its resident memory, and peak of what of it is not mapped files."""
    shutil.rmtree(folder / "models", ignore_errors=True)
    child = multiprocessing.get_context("spawn").Process(target=convert, args=(folder, model))
    began = time.perf_counter()
    child.start()
    process, most, most_own = psutil.Process(child.pid), 0, 0
    while child.is_alive():
        memory = process.memory_info()
        most, most_own = max(most, memory.rss), max(most_own, memory.rss - memory.shared)
        time.sleep(EVERY_S)
    child.join()
    if child.exitcode != 0:
        raise SystemExit(f"the import failed with exit code {child.exitcode}")
    took = time.perf_counter() - began
    shutil.rmtree(folder / "models")
    return took, most, most_own


def convert(folder: Path, model: Published) -> None:
    import_files(
        model,
        folder / "models",
        transformer=folder / "cfm_model.pt",
        vae=folder / "vae_model.pt",
        source=folder / "repository",
    )


def make_files(folder: Path) -> Published:
    """The four files, and the model that they are of: the published one but for its two small files."""
    if not (folder / "cfm_model.pt").exists():
        torch.manual_seed(0)
        with torch.device("meta"):
            shapes = {name: tensor.shape for name, tensor in DiT(BASE.config).state_dict().items()}
        state = {PREFIX + name: torch.randn(shape).half() for name, shape in shapes.items()}
        torch.save({ENTRY: state}, folder / "cfm_model.pt")
    if not (folder / "vae_model.pt").exists():
        save_vae(folder / "vae_model.pt")
    table = Path(phonemes.__file__).with_name("demo.json").read_bytes()
    style = np.full((1, BASE.config.style_dim), BASE.config.style_dim**-0.5, np.float32)
    for file in (BASE.phonemes, BASE.negative_style):
        (folder / "repository" / file.path).parent.mkdir(parents=True, exist_ok=True)
    (folder / "repository" / BASE.phonemes.path).write_bytes(table)
    np.save(folder / "repository" / BASE.negative_style.path, style)
    return replace(
        BASE,
        phonemes=pin(folder / "repository", BASE.phonemes),
        negative_style=pin(folder / "repository", BASE.negative_style),
    )


def save_vae(path: Path) -> None:
    exported = Exported().eval().requires_grad_(False)
    examples = {"decode_export": torch.randn(1, 64, 2), "encode_export": torch.randn(1, 2, 2 * HOP)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch's own, of all TorchScript
        torch.jit.save(torch.jit.trace_module(exported, examples), path)  # type: ignore[no-untyped-call]


def pin(root: Path, file: PinnedFile) -> PinnedFile:
    content = (root / file.path).read_bytes()
    return PinnedFile(file.path, len(content), hashlib.sha256(content).hexdigest())


if __name__ == "__main__":
    main()
