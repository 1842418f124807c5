"""Writes a file so that it has the old or the new content, also after a crash."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


def write_whole(
    path: Path,
    content: bytes,
    set_permissions: Callable[[int], None],
    put: Callable[[str, Path], None] = os.replace,
) -> None:
    """Write a file under another name in its folder, and give it its name when it is complete; this code blocks.

    Args:
        path: the file.
        content: its content.
        set_permissions: gives the descriptor of the new file its mode and owner; before, only its owner may use it.
        put: gives the new file its name. ``os.link`` fails if the name is taken, instead of replacing that file.

    Raises:
        OSError: the file cannot be written; nothing is left of it.
    """
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with open(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            set_permissions(descriptor)
            os.fsync(descriptor)
        put(name, path)
    finally:
        with suppress(OSError):  # after a replacement there is no such name
            os.unlink(name)
