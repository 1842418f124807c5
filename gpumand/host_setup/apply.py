"""Carries out the steps. Files are replaced as a whole, and the record is written before and after them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from gpumand.host_setup.plan import Action, Manifest, Step, manifest_after, manifest_during

FOLDER_MODE = 0o755


def apply_steps(steps: Iterable[Step], record: Path, before: Manifest) -> None:
    """Write and remove files, and record what was written. Raises OSError.

    Args:
        steps: what to do.
        record: path of the record.
        before: the record so far.
    """
    steps = list(steps)
    after = manifest_after(steps, before)
    # Before the files too: if this process is killed between two of them, the next run knows which ones are its own.
    _write(record, manifest_during(before, after).text().encode(), 0o644)
    for one in steps:
        if one.action in (Action.CREATE, Action.UPDATE) and one.file is not None:
            _write(one.place, one.file.content, one.file.mode)
        elif one.action is Action.REMOVE:
            one.place.unlink(missing_ok=True)
            _remove_empty(one.place.parent)
    if after.written:
        _write(record, after.text().encode(), 0o644)
    else:
        record.unlink()
        _remove_empty(record.parent)


def _write(place: Path, content: bytes, mode: int) -> None:
    place.parent.mkdir(FOLDER_MODE, parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=".gpumand-", dir=place.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fchmod(stream.fileno(), mode)
            os.fsync(stream.fileno())
        temporary.replace(place)
    finally:
        temporary.unlink(missing_ok=True)


def _remove_empty(folder: Path) -> None:
    """Remove a folder of gpumand's own if nothing is in it; those of systemd, D-Bus and polkit stay."""
    if "gpumand" in (folder.name, folder.parent.name):
        with suppress(OSError):
            folder.rmdir()
            _remove_empty(folder.parent)
