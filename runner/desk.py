"""Where the songs of a cluster and the batch that they belong to leave word for each other; knows no cluster.

One desk for a batch. The batch collects what the songs have left and says who is to stop; songs of one node
share a room (see `admission`), so that one that runs out of memory there gets fewer at once.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from runner.admission import Free, Need, Obstacle, Room
from runner.errors import ForeignFileError
from runner.files import opened
from runner.messages import QueuedSong
from runner.parcels import Parcel, size

# What is left here lies in memory. A song that finds more than this waits, and asks again.
MOST_BYTES = 256 * 2**20
# A batch that has not been heard of for so long is gone, though nobody has said so: its machine lost its
# power, or the network its cable. A slow line has to carry the largest collection within this.
ALONE_S = 300.0


@dataclass(frozen=True, slots=True)
class Letter:
    """What a song has to say: how it stands, where that has changed, and what is new in its folder.

    errand: which of its errands; after a node was given up for dead there may be a second one. number: which
    of the errand's letters, from 1; 0: none that could come twice.
    """

    song: str
    errand: int
    said: tuple[QueuedSong, ...] = ()
    parcels: tuple[Parcel, ...] = ()
    number: int = 0


@dataclass(frozen=True, slots=True)
class Reply:
    """taken: the letter lies here. stop: the song is to end: "" not, "song" it alone, "batch" with all
    others, "stray" because another errand makes it now. hurry: without grace.
    """

    taken: bool
    stop: str = ""
    hurry: bool = False


class Desk:
    def __init__(
        self,
        models: Mapping[str, str] | None = None,
        left_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """models: folder of each bundle, by its hash, for machines that do not have it. left_s: seconds until
        the batch has to end; None: when all is made. clock: seconds in which this machine was awake.
        """
        self._clock = clock
        self._heard = clock()  # of the batch
        self._models = dict(models or {})
        self._until = None if left_s is None else _now() + left_s
        self._rooms: dict[str, Room] = defaultdict(Room)
        self._node: dict[str, str] = {}  # where each song is
        self._ahead: dict[str, float] = {}  # of our clock each node's own is
        self._errand: dict[str, int] = {}
        self._taken: dict[str, int] = {}  # the newest letter of each song's errand
        self._letters: list[Letter] = []
        self._bytes = 0
        self._stopping = self._hurry = False
        self._to_stop: set[str] = set()

    # ------------------------------------------------------------ what the batch does

    def send(self, song: str, errand: int) -> None:
        """A song goes on its way; earlier errands of it count no more."""
        self.back(song)
        self._errand[song] = errand

    def back(self, song: str) -> None:
        """It has come back, or its node has died: its place is free."""
        node = self._node.pop(song, None)
        if node is not None:
            self._rooms[node].leave(song)
        self._errand.pop(song, None)
        self._taken.pop(song, None)
        self._to_stop.discard(song)

    def collect(self) -> list[Letter]:
        """All letters since the last time, in their order."""
        self.be_patient()
        letters, self._letters, self._bytes = self._letters, [], 0
        return letters

    def be_patient(self) -> None:
        """The batch is there, though it has no room for letters now."""
        self._heard = self._clock()

    def stop(self, song: str) -> None:
        self._to_stop.add(song)

    def stop_all(self, *, hurry: bool) -> None:
        self._stopping, self._hurry = True, hurry

    # ------------------------------------------------------------ what songs do

    def leave_word(self, letter: Letter) -> Reply:
        """Raises ConnectionError where there seems to be no batch any more: nobody needs the song."""
        if (silent_s := self._clock() - self._heard) > ALONE_S:
            raise ConnectionError(f"nothing was heard of the batch for {silent_s:.0f} s")
        if self._errand.get(letter.song) != letter.errand:
            return Reply(taken=True, stop="stray", hurry=True)  # to nobody
        stop = "batch" if self._stopping else "song" if letter.song in self._to_stop else ""
        if self._letters and self._bytes + size(letter.parcels) > MOST_BYTES:
            return Reply(taken=False, stop=stop, hurry=self._hurry)
        if letter.number and letter.number <= self._taken.get(letter.song, 0):
            return Reply(taken=True, stop=stop, hurry=self._hurry)  # whoever sent it had no answer
        self._taken[letter.song] = letter.number
        if letter.said or letter.parcels:
            self._letters.append(letter)
            self._bytes += size(letter.parcels)
        return Reply(taken=True, stop=stop, hurry=self._hurry)

    def left_s(self) -> float | None:
        """Seconds until the batch has to end, by this machine's clock: none has to have the same."""
        return None if self._until is None else self._until - _now()

    def read(self, model: str, file: str, start: int, count: int) -> bytes | None:
        """count bytes of a file of the bundle, fewer at its end; None: it does not lie on this machine."""
        folder = self._models.get(model)
        if not folder or file != Path(file).name:
            return None
        try:
            with opened(Path(folder, file)) as content:
                content.seek(start)
                return content.read(count)
        except (OSError, ForeignFileError):
            return None

    def is_empty(self, node: str) -> bool:
        return self._rooms[node].is_empty()

    def enter(
        self,
        node: str,
        song: str,
        errand: int,
        need: Need,
        free: Free,
        now: float,
        *,
        despite_memory: bool,
        overdue: bool,
    ) -> Obstacle | None:
        if self._errand.get(song) != errand:
            return Obstacle("turn", "another errand makes it")
        self._node[song] = node
        self._ahead[node] = now - self._clock()
        return self._rooms[node].enter(song, need, free, now, despite_memory=despite_memory, overdue=overdue)

    def uses(self, node: str, song: str, errand: int, private: int) -> bool:
        """Notes it; is it the heaviest there?"""
        if self._errand.get(song) != errand or self._node.get(song) != node:
            return False  # given up for dead meanwhile
        self._rooms[node].uses(song, private)
        return self._rooms[node].is_heaviest(song)

    def killed_for_memory(self, song: str) -> None:
        """By the cluster itself, which was quicker than the song's supervision."""
        node = self._node.get(song)
        if node is not None:
            self._rooms[node].ran_out(self._clock() + self._ahead[node])

    def ran_out(self, node: str, now: float) -> None:
        self._rooms[node].ran_out(now)

    def leave(self, node: str, song: str, errand: int) -> None:
        if self._errand.get(song) == errand:
            self._rooms[node].leave(song)

    def gave_up_on_memory(self, node: str, given: bool | None = None) -> bool:
        """Whether memory was waited for in vain there; given: it is so now."""
        if given is not None:
            self._rooms[node].gave_up_on_memory = given
        return self._rooms[node].gave_up_on_memory


def _now() -> float:
    """Seconds, also those in which the machine slept."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
