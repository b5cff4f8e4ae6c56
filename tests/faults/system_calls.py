"""System calls that fail, as on some file systems: a seccomp filter, for this process and its children.

Only on x86-64, whose numbers of calls are here.
"""

from __future__ import annotations

import ctypes
import platform
import struct

NUMBERS = {"flock": 73, "rename": 82}
IS_KNOWN = platform.machine() == "x86_64"

_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _MODE_FILTER = 22, 38, 2
_LOAD, _SKIP_UNLESS_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ERROR, _ALLOW = 0x00050000, 0x7FFF0000


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def refuse(call: str, error: int) -> None:
    """From here on that call fails with that errno."""
    instructions = [
        (_LOAD, 0, 0, 0),  # the number of the call
        (_SKIP_UNLESS_EQUAL, 0, 1, NUMBERS[call]),
        (_RETURN, 0, 0, _ERROR | error),
        (_RETURN, 0, 0, _ALLOW),
    ]
    content = b"".join(struct.pack("HBBI", *each) for each in instructions)
    libc = ctypes.CDLL(None, use_errno=True)
    program = _Program(len(instructions), content)
    for arguments in (
        (_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(program)),
    ):
        if libc.prctl(*arguments) != 0:
            raise OSError(ctypes.get_errno(), f"no filter of system calls for {call}")
