"""Decides what happens to each file. A file that setup did not write, or that was changed since, is never touched."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from gpumand.host_setup.files import SetupFile

MAX_BYTES = 1 << 20


class Action(StrEnum):
    """What happens to a file."""

    CREATE = "create"
    UPDATE = "update"
    UNCHANGED = "unchanged"
    KEEP = "keep"
    """It exists, and is not what setup has written: it belongs to the administrator."""

    REMOVE = "remove"


@dataclass(frozen=True, slots=True)
class Step:
    """One file and what happens to it.

    Attributes:
        action: see Action.
        place: its path.
        file: what to write; None where nothing is written.
    """

    action: Action
    place: Path
    file: SetupFile | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """What setup has written: by path the SHA-256 of its content, several while an update is being carried out."""

    written: Mapping[str, tuple[str, ...]]

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Read the record; an empty one if there is none, or if it is damaged: then every file belongs to others."""
        with suppress(OSError, ValueError):
            found = json.loads(_content(path) or b"{}")
            if isinstance(found, dict):
                return cls(
                    {str(key): tuple(map(str, value)) for key, value in found.items() if isinstance(value, list)}
                )
        return cls({})

    def text(self) -> str:
        """The record as it is written."""
        return json.dumps(dict(sorted(self.written.items())), indent=1) + "\n"

    def is_own(self, place: Path, content: bytes | None) -> bool:
        """Whether this content is what setup has written there."""
        return content is not None and digest(content) in self.written.get(str(place), ())


def installation_steps(files: Iterable[SetupFile], manifest: Manifest) -> list[Step]:
    """What to do to install the files; files of an earlier version that are no longer needed are removed."""
    files = list(files)
    steps = [Step(_action(one, manifest), one.place, one) for one in files]
    obsolete = sorted({*map(Path, manifest.written)} - {one.place for one in files})
    return steps + [_removal(place, manifest) for place in obsolete]


def removal_steps(manifest: Manifest) -> list[Step]:
    """What to do to remove everything that was written."""
    return [_removal(place, manifest) for place in sorted(map(Path, manifest.written))]


def manifest_after(steps: Iterable[Step], manifest: Manifest) -> Manifest:
    """The record once the steps are done. A kept file that setup once wrote is the administrator's from then on."""
    written = dict(manifest.written)
    for one in steps:
        if one.action in (Action.CREATE, Action.UPDATE) and one.file is not None:
            written[str(one.place)] = (digest(one.file.content),)
        elif one.action in (Action.REMOVE, Action.KEEP):
            written.pop(str(one.place), None)
    return Manifest(written)


def manifest_during(before: Manifest, after: Manifest) -> Manifest:
    """The record while files are being written: the old and the new content of each are setup's own."""
    places = {*before.written, *after.written}
    return Manifest({place: before.written.get(place, ()) + after.written.get(place, ()) for place in places})


def digest(content: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def _action(file: SetupFile, manifest: Manifest) -> Action:
    if not file.place.exists() and not file.place.is_symlink():
        return Action.CREATE
    found = _content(file.place)
    if found == file.content:
        return Action.UNCHANGED
    is_own = manifest.is_own(file.place, found) and not file.is_configuration
    return Action.UPDATE if is_own else Action.KEEP


def _removal(place: Path, manifest: Manifest) -> Step:
    return Step(Action.REMOVE if manifest.is_own(place, _content(place)) else Action.KEEP, place)


def _content(place: Path) -> bytes | None:
    """What a regular file contains; None for anything else: a link, such as that of a masked unit, is not setup's."""
    if place.is_symlink() or not place.is_file():
        return None
    with suppress(OSError), place.open("rb") as stream:
        found = stream.read(MAX_BYTES + 1)
        return found if len(found) <= MAX_BYTES else None
    return None
