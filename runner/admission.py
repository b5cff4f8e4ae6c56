"""Which attempts may be under way side by side: as many as memory and disk hold, fewer once memory ran out.

What an attempt will need is predicted from its model's sizes and from songs made before; what it does not
use yet is kept free for it. Decisions are pure, the room is what they are taken over.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from runner.foresight import Shown, nearest
from runner.words import size

# One song uses eight cores well; more are better spent on a second song.
SONG_CORES = 8
# Left to everybody else on the machine.
MEMORY_RESERVE = 512 * 2**20
DISK_RESERVE = 20 * 10**6
# After a kill for memory, one song fewer at once; one more again after each of these, if there is none.
CALM_S = 600.0
# What a song like this one once needed, this one may need a little more of.
MARGIN = 1.1
# Log, step log, request, outcome and the manifest.
PAPERS = 2 * 10**6
# Newest and next one, each with x_t, the velocity and what a solver keeps: 64 channels in float32.
CHECKPOINT_BYTES_PER_S = 2 * 3 * 64 * 4 * 21.6
# At the most: stereo floats at 44.1 kHz; once in the attempt's folder, moved from there by its name alone.
SOUND_BYTES_PER_S = 2 * 4 * 44_100


@dataclass(frozen=True, slots=True)
class Need:
    """What an attempt will have at its most, in bytes.

    private: memory of its own. mapped: files in memory that all songs of one model share. disk: in the
    outputs. alone: no other attempt beside it. gpus: how many it is made on.
    """

    private: int = 0
    mapped: int = 0
    model: str = ""
    disk: int = 0
    alone: bool = False
    gpus: int = 0


@dataclass(frozen=True, slots=True)
class Free:
    """Bytes that there are now; None: cannot be told. for_songs: memory that all of them together may have,
    which in a container is less than the machine's. gpu: there is one; which of several a song takes is its
    engine's choice, so that two songs may take the same.
    """

    memory: int | None = None
    disk: int | None = None
    for_songs: int | None = None
    gpu: bool = False


@dataclass(frozen=True, slots=True)
class Guest:
    """An attempt under way: what it will need, and the private memory that it had at its most and has now."""

    need: Need
    had: int = 0
    has: int = 0


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why an attempt may not begin yet, in words."""

    kind: Literal["turn", "memory", "disk"]
    words: str


@dataclass(frozen=True, slots=True)
class Places:
    """How many attempts at once: now, and at the most. since: when that was last changed."""

    most: int
    now: int
    since: float = 0.0


def disk_bytes(duration_s: float) -> int:
    """What a song of that length may write."""
    return math.ceil(PAPERS + duration_s * (CHECKPOINT_BYTES_PER_S + SOUND_BYTES_PER_S))


def private_bytes(
    songs: Sequence[Shown], *, model_hash: str, precision: str, duration: float, foreseen: int
) -> int:
    """Private memory that a song will need: by the `nearest` song that tells of it; foreseen by the model's
    sizes where there is none.
    """
    told = [song for song in songs if song.private is not None]
    song = nearest(told, model_hash=model_hash, precision=precision, duration=duration)
    if song is None or song.private is None:
        return foreseen
    if duration <= song.duration:
        return math.ceil(MARGIN * song.private)
    # Not all of it grows with the song.
    return math.ceil(MARGIN * max(song.private, min(song.private * duration / song.duration, foreseen)))


def obstacle(need: Need, others: Collection[Guest], free: Free, places: int) -> Obstacle | None:
    """What keeps an attempt from beginning beside the others; None: nothing does."""
    if others and (need.alone or any(other.need.alone for other in others)):
        return Obstacle("turn", "waits to be alone")
    if len(others) >= places:
        return Obstacle("turn", f"waits for its turn: {places} at once, since memory ran out")
    if free.gpu and need.gpus and any(other.need.gpus for other in others):
        return Obstacle("turn", "waits for the GPU")
    memory = _memory_wanted(need, others)
    if free.memory is not None and free.memory < memory and (others or _could_be_had(memory, free)):
        return Obstacle("memory", f"waits for memory: {size(memory)} needed, {size(free.memory)} free")
    together = need.private + sum(other.need.private for other in others)
    if others and free.for_songs is not None and free.for_songs < together:
        words = f"waits for memory: {size(together)} needed by all, {size(free.for_songs)} for songs"
        return Obstacle("memory", words)
    disk = need.disk + sum(other.need.disk for other in others) + DISK_RESERVE
    if free.disk is not None and free.disk < disk:
        return Obstacle("disk", f"waits for room on the disk: {size(disk)} needed, {size(free.disk)} free")
    return None


def _could_be_had(memory: int, free: Free) -> bool:
    """If all other programs ended. Else waiting for it is in vain, and the song is tried as it is."""
    return free.for_songs is None or memory <= free.for_songs


def _memory_wanted(need: Need, others: Collection[Guest]) -> int:
    """With what the others have not taken yet, and each model's files once: the kernel counts what is only
    mapped as free."""
    to_come = sum(max(0, other.need.private - other.had) for other in others)
    mapped: dict[str, int] = {}
    for each in (need, *(other.need for other in others)):
        mapped[each.model] = max(each.mapped, mapped.get(each.model, 0))
    return need.private + to_come + sum(mapped.values()) + MEMORY_RESERVE


def side_by_side(needs: Sequence[Need], free: Free, most: int) -> int:
    """How many songs at once there is memory for, whichever they are: at least one, at most `most`."""
    largest = sorted(needs, key=lambda need: need.private, reverse=True)
    count = 1
    while count < min(most, len(largest)):
        others = [Guest(need) for need in largest[:count]]
        if obstacle(largest[count], others, replace(free, disk=None), count + 1) is not None:
            break
        count += 1
    return count


def lowered(places: Places, under_way: int, now: float) -> Places:
    """After a kill for memory while so many attempts were under way."""
    return replace(places, now=max(1, min(places.now, under_way) - 1), since=now)


def calmed(places: Places, now: float) -> Places:
    """One place more for each CALM_S without a kill for memory."""
    more = min(places.most - places.now, int((now - places.since) / CALM_S))
    return replace(places, now=places.now + more, since=places.since + more * CALM_S) if more > 0 else places


class Entrance(Protocol):
    """What a song asks of the room that it shares with others: of a `Room`, or of one that is far away."""

    gave_up_on_memory: bool

    def is_empty(self) -> bool: ...

    def enter(
        self,
        song: str,
        need: Need,
        free: Free,
        now: float,
        *,
        despite_memory: bool = False,
        overdue: bool = False,
    ) -> Obstacle | None: ...

    def uses(self, song: str, private: int) -> None: ...

    def is_heaviest(self, song: str) -> bool: ...

    def ran_out(self, now: float) -> None: ...

    def leave(self, song: str) -> None: ...


class Room:
    """The songs with an attempt under way. One that has to be alone, or has waited for long, is the next to
    enter: others wait until it has."""

    def __init__(self, most: int = 10**6) -> None:
        self._places = Places(most, most)
        self._inside: dict[str, Guest] = {}
        self._claimed_by: str | None = None
        # Memory was once waited for in vain: it is not waited for again until there was enough.
        self.gave_up_on_memory = False

    @property
    def places(self) -> int:
        return self._places.now

    def is_empty(self) -> bool:
        return not self._inside

    def enter(
        self,
        song: str,
        need: Need,
        free: Free,
        now: float,
        *,
        despite_memory: bool = False,
        overdue: bool = False,
    ) -> Obstacle | None:
        """None: the song is in the room now; else what keeps it out, and it asks again later.

        overdue: it has waited for long, and is to be the next.
        """
        if despite_memory:
            free = replace(free, memory=None, for_songs=None)
        if self._claimed_by not in (None, song):
            return Obstacle("turn", "waits for one that is the next")
        if need.alone or overdue:
            self._claimed_by = song
        self._places = calmed(self._places, now)
        others = [guest for name, guest in self._inside.items() if name != song]
        found = obstacle(need, others, free, self._places.now)
        if found is not None:
            return found
        self._inside[song] = Guest(need)
        if not need.alone:
            self._claimed_by = None
        return None

    def uses(self, song: str, private: int) -> None:
        """Note what an attempt in the room has now."""
        guest = self._inside[song]
        self._inside[song] = replace(guest, had=max(guest.had, private), has=private)

    def is_heaviest(self, song: str) -> bool:
        """Whether no other in the room has more private memory; of two that have the same only one does."""
        return max(self._inside, key=lambda each: (self._inside[each].has, each), default=None) == song

    def ran_out(self, now: float) -> None:
        """Memory did: from here on one fewer at once. A song that had it to itself says nothing of others."""
        if len(self._inside) > 1:
            self._places = lowered(self._places, len(self._inside), now)

    def leave(self, song: str) -> None:
        """Leave the room, or no longer wait for it."""
        self._inside.pop(song, None)
        if self._claimed_by == song:
            self._claimed_by = None
