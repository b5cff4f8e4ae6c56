"""Until when a batch may run: what people write, as a point of time, and how long it is until then."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from datetime import time as time_of_day

from runner.errors import UsageError
from runner.jobfile import MAX_WAIT_S, seconds

_CLOCK = r"([0-9]{1,2}):([0-9]{2})"
_SHAPES = "write a time of day such as 07:00, a span such as 8h or 7h30m, or 2026-11-27T07:00"


@dataclass(frozen=True, slots=True)
class Until:
    """A point of time on two clocks, in seconds.

    wall: since 1970, which is what people mean. boot: CLOCK_BOOTTIME, which runs on while the machine sleeps
    and which nobody can set.
    """

    wall: float
    boot: float

    def left_s(self, wall: float, boot: float) -> float:
        """Seconds left, by whichever clock says that there are fewer; below 0 once it is over.

        After a sleep, or a clock put forward, it is the time that the wall shows; a clock put back buys no
        time.
        """
        return min(self.wall - wall, self.boot - boot)


def until(text: str) -> Until:
    """The point of time that the text means from now on. Raises UsageError."""
    wall, boot = clocks()
    end = point(text, wall)
    return Until(end, boot + end - wall)


def clocks() -> tuple[float, float]:
    """What both clocks show."""
    return time.time(), time.clock_gettime(time.CLOCK_BOOTTIME)


def point(text: str, now: float) -> float:
    """Seconds since 1970 of the next 07:00, of `8h` from now, or of a date with a time; in local time.

    Raises UsageError for what is none of these, is over, or more than 30 days away.
    """
    text = text.strip()
    if match := re.fullmatch(_CLOCK, text):
        return _next(text, int(match[1]), int(match[2]), now)
    end = _span(text, now) or _date_time(text)
    if end is None:
        raise UsageError(f"--until {text!r}: no point of time; {_SHAPES}")
    if not now < end <= now + MAX_WAIT_S:
        when = "is over" if end <= now else "is more than 30 days away"
        raise UsageError(f"--until {text!r}: {when}; {_SHAPES}")
    return end


def is_of_one_day(text: str) -> bool:
    """Is it a date, which no second night reaches?"""
    return _date_time(text.strip()) is not None


def _next(text: str, hour: int, minute: int, now: float) -> float:
    """The first such time of day after now."""
    if hour > 23 or minute > 59:
        raise UsageError(f"--until {text!r}: no time of day; {_SHAPES}")
    today = date(*time.localtime(now)[:3])
    days = (today + timedelta(days=more) for more in range(-1, 3))
    return min(at for day in days for at in _moments(day, time_of_day(hour, minute)) if at > now)


def _moments(day: date, clock: time_of_day) -> Iterator[float]:
    """When the clock shows this on that day: twice where it is put back over it; where it is put forward
    over it, as long after the change as it would have been.
    """
    both = [datetime.combine(day, clock.replace(fold=fold)).timestamp() for fold in (0, 1)]
    shown = [at for at in both if time.localtime(at)[3:5] == (clock.hour, clock.minute)]
    yield from shown or both[:1]


def _span(text: str, now: float) -> float | None:
    """Of a number alone nobody knows whether it is hours or seconds."""
    if not text.endswith(("h", "m", "s")):
        return None
    try:
        return now + seconds(text)
    except ValueError:
        return None


def _date_time(text: str) -> float | None:
    """None also for a date alone, which is no time of day."""
    if not re.match(r"[0-9]{4}-?[0-9]{2}-?[0-9]{2}[T ][0-9]", text):
        return None
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        return None
