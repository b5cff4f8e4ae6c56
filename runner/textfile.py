"""A text file of the user's, read with suspicion: a bounded size, UTF-8 or nothing."""

from __future__ import annotations

from pathlib import Path

from runner.errors import TextFileError

# The longest song has a few kilobytes of lyrics and a large batch a few hundred of YAML.
MAX_BYTES = 2**20


def read_text(path: Path) -> str:
    """The text of the file, without a byte-order mark.

    Raises TextFileError; its message does not repeat the path, which the caller knows how to show.
    """
    try:
        # Only regular files: reading a pipe or a device might never end.
        if not path.is_file():
            raise TextFileError(
                "is not a file; check the path" if path.exists() else "there is no such file; check the path"
            )
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise TextFileError(
            f"cannot be read ({error.strerror}); check the path and its permissions"
        ) from error
    if len(content) > MAX_BYTES:
        raise TextFileError("is larger than 1 MiB; is it the right file?")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise TextFileError(f"is not UTF-8 (line {line}); save it as UTF-8") from error
