"""Bad input, made of good: bytes and JSON mutated, and what else may lie where a file should.

All chance comes from a random.Random, so that an input can be made again.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

# Numbers, as text, at which readers break: too large for a float or an int, not finite, of many digits.
NUMBERS = (
    b"0 -0 -1 0.0 -0.0 1 2 63 64 128 2048 4096 16384 65535 1e-320 1e308 -1e308 1.7976931348623157e308 "
    b"1e309 1e999 -1e999 NaN nan .nan Infinity -Infinity .inf inf 2147483648 4294967296 9223372036854775807 "
    b"9223372036854775808 -9223372036854775809 18446744073709551616 0x7fffffffffffffff 0o17 010 1_000 1:30 "
    b"0.1e 1e 00 --1 +1 1.2.3 0x 1e5000"
).split()
NUMBERS += [b"9" * 400, b"9" * 5000, b"-" + b"9" * 5000, b"0." + b"3" * 3000, b"1e" + b"9" * 400]

# Text at which a terminal, a log or a path breaks.
TEXTS = (
    "",
    " ",
    "\0",
    "a\0b",
    "\x1b[2J\x1b]0;owned\x07",
    "\r\nsecond line",
    "\u2028\u2029\x85",
    "\u202eright to left",
    "\ud800",
    "\udcff",
    "\U0010ffff",
    "\ufeffmark",
    "..",
    "../../../etc/passwd",
    "/etc/passwd",
    "/dev/zero",
    "~",
    "~nobody/x",
    "-",
    "a/b/c",
    "night/rain",
    "night/../../x",
    "x" * 300,
    "x/" * 3000,
    "y" * 100_000,
    "١٢",
    "²",
    "𝟘𝟙",
    "e\u0301" * 50,
    "null",
    "true",
    "%s%n{0}{x}",
    "🎵" * 60,
)
LARGEST = 2**22
BYTES = (
    b"\0",
    b"\xff\xfe",
    b"\xfe\xff",
    b"\xef\xbb\xbf",
    b"\xed\xa0\x80",
    b"\xc0\x80",
    b"\xf4\x90\x80\x80",
    b"\x1b[31m",
    b"\r",
    b"\n",
    b"\t",
    b"\x85",
    "\u2028".encode(),
    b"\\ud800",
    b'"\\ud800"',
    b"{}[]",
    b"&a [*a, *a]",
    b"<<: *a",
    b"!!python/object:os.system",
    b"---\n",
    b"...",
    b"%YAML 9.9\n",
    b"[00:01.00]",
    b"[999:59.999]",
    b"[0:nan    ]x",
    b"[0:1e99   ]x",
    b"[0:-inf   ]x",
    b"[offset:+9999999]",
    b"[offset:-600000]",
)


def mutate(data: bytes, rng: Random, others: Sequence[bytes] = ()) -> bytes:
    """data with one to four things wrong with it. others: what it may be spliced with."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        data = rng.choice(_MUTATORS)(data, rng) if rng.random() < 0.93 else splice(data, rng, others)
        data = data[:LARGEST]
    return data


def splice(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    """The head of data and the tail of another."""
    other = rng.choice(others) if others else data
    return data[: rng.randint(0, len(data))] + other[rng.randint(0, len(other)) :]


def _flip(data: bytes, rng: Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 3, 20)) if changed else 0):
        changed[_near_start(len(changed), rng)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _near_start(size: int, rng: Random) -> int:
    """A place in data; that of a header as often as all others."""
    return rng.randrange(min(size, 200)) if rng.random() < 0.5 else rng.randrange(size)


def _set(data: bytes, rng: Random) -> bytes:
    """A few bytes of a number replaced by the ends of its range."""
    if not data:
        return b"\xff"
    at, width = _near_start(len(data), rng), rng.choice((1, 2, 4, 8))
    value = rng.choice((b"\0", b"\xff", b"\x7f", b"\x80")) * width
    return data[:at] + (value if rng.random() < 0.5 else value[:1] + bytes(width - 1)) + data[at + width :]


def _insert(data: bytes, rng: Random) -> bytes:
    at = rng.randint(0, len(data))
    told = rng.choice((rng.choice(BYTES), rng.choice(TEXTS).encode(errors="surrogatepass"), rng.randbytes(5)))
    return data[:at] + told + data[at:]


def _delete(data: bytes, rng: Random) -> bytes:
    first, last = _span(data, rng)
    return data[:first] + data[last:]


def _duplicate(data: bytes, rng: Random) -> bytes:
    first, last = _span(data, rng)
    times = rng.choice((2, 2, 3, 50, 1000))
    return data[:first] + data[first:last] * min(times, 1 + 2**18 // (last - first + 1)) + data[last:]


def _truncate(data: bytes, rng: Random) -> bytes:
    return data[: rng.choice((0, 1, 8, rng.randint(0, len(data)), max(0, len(data) - 1)))]


def _number(data: bytes, rng: Random) -> bytes:
    """One of the numbers that stand in a text, replaced."""
    places = [m.span() for m in re.finditer(rb"-?\d+(?:\.\d+)?(?:e-?\d+)?", data[:20_000])]
    if not places:
        return _insert(data, rng)
    first, last = rng.choice(places)
    return data[:first] + rng.choice(NUMBERS) + data[last:]


def _line(data: bytes, rng: Random) -> bytes:
    """A line moved, doubled, indented or made very long."""
    lines = data.splitlines(keepends=True)
    if not lines:
        return b"x" * 100_000
    at = rng.randrange(len(lines))
    line = lines.pop(at)
    kind = rng.randrange(4)
    if kind == 0:
        lines.insert(rng.randint(0, len(lines)), line)
    elif kind == 1:
        lines[at:at] = [line, line]
    elif kind == 2:
        lines.insert(at, b" " * rng.choice((1, 2, 300)) + line)
    else:
        line = line.rstrip(b"\n")[: 2**20]
        lines.insert(at, line * min(rng.choice((30, 3000)), 1 + 2**20 // (len(line) + 1)) + b"\n")
    return b"".join(lines)


def _nest(data: bytes, rng: Random) -> bytes:
    """Brackets, deep."""
    opened, closed = rng.choice(((b"[", b"]"), (b'{"a":', b"}"), (b"- ", b""), (b"{? ", b"}"), (b"(", b")")))
    depth = rng.choice((15, 25, 900, 1100, 50_000))
    at = rng.randint(0, len(data))
    return data[:at] + opened * depth + (closed * depth if rng.random() < 0.7 else b"") + data[at:]


def _span(data: bytes, rng: Random) -> tuple[int, int]:
    first = rng.randint(0, len(data))
    length = rng.choice((1, 2, 8, 100, 5000, len(data)))
    return first, min(len(data), first + rng.randint(0, length))


_MUTATORS: Sequence[Callable[[bytes, Random], bytes]] = (
    _flip,
    _set,
    _insert,
    _delete,
    _duplicate,
    _truncate,
    _number,
    _number,
    _line,
    _nest,
)


# ---------------------------------------------------------------- JSON


def mutate_json(data: bytes, rng: Random, others: Sequence[bytes] = ()) -> bytes:
    """JSON with values, keys and lists of another kind than they have to be; still JSON, mostly."""
    try:
        value = json.loads(data)
    except ValueError:
        return mutate(data, rng, others)
    for _ in range(rng.choice((1, 1, 2, 5))):
        value = _changed(value, rng)
    # Numbers that json.dumps would not write stand in it as marked texts.
    text = json.dumps(value, ensure_ascii=rng.random() < 0.8).encode(errors="surrogatepass")
    return re.sub(rb'"#number (.*?)"', rb"\1", text)[:LARGEST]


def _changed(value: Any, rng: Random) -> Any:
    """value with one thing in it changed; itself where it holds nothing."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        kind = rng.random()
        if kind < 0.08:
            return {name: each for name, each in value.items() if name != key}
        if kind < 0.16:
            return {rng.choice(TEXTS) if name == key else name: each for name, each in value.items()}
        return value | {key: _changed(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        if rng.random() < 0.1:
            return value[: rng.randint(0, len(value))]
        if rng.random() < 0.2:
            return value[:at] + [value[at]] * rng.choice((0, 2, 200)) + value[at + 1 :]
        return [*value[:at], _changed(value[at], rng), *value[at + 1 :]]
    if isinstance(value, int | float) and rng.random() < 0.6:
        return _number_text(rng)
    return _any(rng)


def _any(rng: Random, depth: int = 0) -> Any:
    kind = rng.randrange(9 if depth < 3 else 6)
    if kind == 6:
        return [_any(rng, depth + 1) for _ in range(rng.choice((0, 1, 3)))]
    if kind == 7:
        return {rng.choice(TEXTS)[:300]: _any(rng, depth + 1) for _ in range(rng.choice((0, 1, 3)))}
    if kind == 8:
        return _nested(rng.choice((3, 300, 950)))
    return (None, True, _number_text(rng), _number_text(rng), rng.choice(TEXTS), rng.randint(-5, 40))[kind]


def _number_text(rng: Random) -> str:
    return f"#number {rng.choice(NUMBERS).decode()}"


def _nested(depth: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(depth):
        found = [found]
    return found


def mutate_safetensors(data: bytes, rng: Random, others: Sequence[bytes] = ()) -> bytes:
    """The header of a safetensors file changed as JSON, its length put right, as often as mere bytes."""
    size = int.from_bytes(data[:8], "little")
    if rng.random() < 0.4 or not 0 < size < len(data):
        return mutate(data, rng, others)
    header = data[8 : 8 + size]
    if rng.random() < 0.5 and b"__metadata__" in header:
        header = _changed_metadata(header, rng)
    else:
        header = mutate_json(header, rng)
    return len(header).to_bytes(8, "little") + header + data[8 + size :]


def _changed_metadata(header: bytes, rng: Random) -> bytes:
    """What our own JSON says within the header."""
    told = json.loads(header)
    kept = told["__metadata__"]
    for key in kept:
        change = mutate_json if rng.random() < 0.8 else mutate
        kept[key] = change(kept[key].encode(), rng).decode(errors="replace")
    return json.dumps(told, ensure_ascii=False).encode(errors="replace")


# ---------------------------------------------------------------- in a file's place


def put_odd(path: Path, rng: Random) -> str:
    """Something that is no ordinary file at path, in place of what is there; what it is."""
    path.unlink(missing_ok=True)
    kind = rng.choice(sorted(_ODD))
    _ODD[kind](path)
    return kind


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**42)


def _link(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


def _link_to_itself(path: Path) -> None:
    path.symlink_to(path.name)


_ODD: dict[str, Callable[[Path], None]] = {
    "a pipe": os.mkfifo,
    "a folder": Path.mkdir,
    "a link to itself": _link_to_itself,
    "a link to nothing": _link("nothing-here"),
    "a link to a folder": _link("."),
    "a link to /dev/zero": _link("/dev/zero"),
    "a link to /dev/urandom": _link("/dev/urandom"),
    "a link to /dev/null": _link("/dev/null"),
    "a link to /dev/full": _link("/dev/full"),
    "a link to /proc/self/mem": _link("/proc/self/mem"),
    "4 TiB of nothing": _sparse,
    "an empty file": Path.touch,
}
