"""How a song is cut for the decoder, so that memory does not grow with it. Pure arithmetic.

The decoder is called in two parts. The coarse one is its input convolution and its first block: a tenth of
the work of the published size, and nine of the ten frames on each side that a sample depends on. The fine one
is the rest. So short chunks of the fine part share little, and give the sound of the whole but for rounding
(benchmarks/decoder.py).

t latent frames · position: what the coarse part makes of a frame is `rate` of them
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from diffrhythm.vae_config import VaeConfig

Part = Literal["coarse", "fine", "whole"]

# Frames of a chunk of the fine part. Of 64, 3 % are computed twice, of 16 14 %.
CHUNK_FRAMES = 64
# As published: of the whole decoder, and of the encoder.
PUBLISHED_CHUNK_FRAMES = 128
PUBLISHED_OVERLAP_FRAMES = 32
# Frames of a coarse chunk for one of a fine chunk: both then take about as long.
COARSE_CHUNKS = 8
# What the convolutions of 7 taps see on each side, times their dilations.
SIDE = 3
DILATIONS = (1, 3, 9)


@dataclass(frozen=True, slots=True)
class Chunk:
    """One call of a coder: it is given [start, stop); the head of its answer is dropped."""

    start: int
    stop: int
    head: int


@dataclass(frozen=True, slots=True)
class Cut:
    """How a song is decoded in two parts; each chunk loses half an overlap at each inner edge.

    coarse, coarse_overlap: frames of a chunk of the coarse part. rate: positions of a frame. fine,
    fine_overlap: positions of a chunk of the fine part.
    """

    frames: int
    coarse: int
    coarse_overlap: int
    rate: int
    fine: int
    fine_overlap: int

    @property
    def coarse_chunks(self) -> list[Chunk]:
        return chunk_spans(self.frames, self.coarse, self.coarse_overlap)

    @property
    def fine_chunks(self) -> list[Chunk]:
        return chunk_spans(self.frames * self.rate, self.fine, self.fine_overlap)

    @property
    def computed_frames(self) -> int:
        """Frames that the fine part computes, those that it computes twice included."""
        return math.ceil(sum(chunk.stop - chunk.start for chunk in self.fine_chunks) / self.rate)


def cut(config: VaeConfig, frames: int, chunk_frames: int) -> Cut:
    """Return how to decode so many frames by chunks of at most chunk_frames of the fine part.

    A chunk is longer where the overlap leaves nothing of it.
    """
    rate = math.prod(_strides(config, "coarse"))
    coarse_overlap, fine_overlap = 2 * reach(config, "coarse"), 2 * reach(config, "fine")
    coarse = even(frames, max(COARSE_CHUNKS * chunk_frames, 2 * coarse_overlap), coarse_overlap)
    fine = even(frames * rate, max(chunk_frames * rate, 2 * fine_overlap), fine_overlap)
    return Cut(
        frames=frames,
        coarse=coarse,
        coarse_overlap=min(coarse_overlap, coarse - 1),  # one chunk may be shorter than it
        rate=rate,
        fine=fine,
        fine_overlap=min(fine_overlap, fine - 1),
    )


def reach(config: VaeConfig, part: Part = "whole") -> int:
    """Return how far the output of a part's input position depends on other positions, on the farther side.

    In frames; of the fine part in positions. The layers are those of vae.Decoder, walked from the samples to
    the frames.
    """
    strides = _strides(config, part)
    first, last = 0, math.prod(strides) - 1
    if part != "coarse":
        first, last = first - SIDE, last + SIDE
    for stride in reversed(strides):
        first, last = first - SIDE * sum(DILATIONS), last + SIDE * sum(DILATIONS)
        padding = math.ceil(stride / 2)
        # A transposed convolution adds position q to the samples q·stride − padding and 2·stride − 1 more.
        first, last = -((2 * stride - 1 - first - padding) // stride), (last + padding) // stride
    if part != "fine":
        first, last = first - SIDE, last + SIDE
    return max(-first, last)


def coarse_blocks(config: VaeConfig) -> int:
    """Return how many of the decoder's blocks the coarse part has: one, unless it is the only one."""
    return 1 if len(config.strides) > 1 else 0


def published_chunk(chunk_frames: int) -> int:
    """Return the frames of a chunk of a coder that is called as a whole, where the fine part has so many.

    The published chunk for the usual one, less where memory is short.
    """
    return min(PUBLISHED_CHUNK_FRAMES, max(2 * PUBLISHED_OVERLAP_FRAMES, 2 * chunk_frames))


def even(length: int, most: int, overlap: int) -> int:
    """Return the length, `most` or less, of the fewest chunks that cover length with the least to spare."""
    if length <= most:
        return length
    chunks = math.ceil((length - overlap) / (most - overlap))
    return math.ceil((length - overlap) / chunks) + overlap


def chunk_spans(length: int, chunk: int, overlap: int) -> list[Chunk]:
    """How length is cut, in one unit throughout: chunks a hop apart, one more flush with the end if needed.

    Half the overlap is dropped from the head of each but the first, and each is meant to overwrite the end of
    the one before it, so both lose their inner edge. A length below one chunk is one short chunk.
    """
    if length < 1 or not 0 <= overlap < chunk:
        raise ValueError(f"cannot cut {length} into chunks of {chunk} that overlap by {overlap}")
    if length <= chunk:
        return [Chunk(0, length, head=0)]
    starts = list(range(0, length - chunk + 1, chunk - overlap))
    if starts[-1] + chunk < length:
        starts.append(length - chunk)
    return [Chunk(start, start + chunk, head=overlap // 2 if start > 0 else 0) for start in starts]


def _strides(config: VaeConfig, part: Part) -> tuple[int, ...]:
    """Of the part's blocks, from the frames to the samples."""
    strides, coarse = config.strides[::-1], coarse_blocks(config)
    return {"coarse": strides[:coarse], "fine": strides[coarse:], "whole": strides}[part]
