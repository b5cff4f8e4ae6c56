"""What an mp3 says about its song: ID3v2.3 in UTF-16, which also players of twenty years ago read.

libsndfile writes UTF-8 into mp3 under the name of Latin-1, so only ASCII would arrive as it was sent.
"""

from __future__ import annotations

from collections.abc import Mapping

# What soundfile names so is in this frame.
_FRAMES = {
    "title": "TIT2",
    "artist": "TPE1",
    "album": "TALB",
    "genre": "TCON",
    "comment": "COMM",
    "software": "TSSE",
}
_UTF_16 = b"\x01"
# A comment has a language and a description before its text; it is in any, and has none.
_NO_DESCRIPTION = b"und" + "\0".encode("utf-16")


def tag(named: Mapping[str, str]) -> bytes:
    """The tag that stands before the sound; texts by soundfile's names for them, none with a NUL in it."""
    frames = b"".join(_frame(_FRAMES[name], text) for name, text in named.items())
    return b"ID3\x03\x00\x00" + _in_seven_bits(len(frames)) + frames


def _frame(name: str, text: str) -> bytes:
    # encode puts a mark of the byte order before every text, as the format wants it.
    content = _UTF_16 + (_NO_DESCRIPTION if name == "COMM" else b"") + text.encode("utf-16")
    return name.encode() + len(content).to_bytes(4, "big") + b"\0\0" + content


def _in_seven_bits(size: int) -> bytes:
    """A size in four bytes, none of which looks like the beginning of sound."""
    return bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0))
