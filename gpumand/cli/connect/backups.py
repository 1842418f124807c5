"""What ``gpumanctl disconnect`` puts back: for each program a copy of its file, and what was written instead."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpumand.cli.connect.marked_lines import CannotEdit
from gpumand.cli.connect.settings_file import read_text, remove, write_text


def digest(text: str) -> str:
    """SHA-256 of a text in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Backup:
    """What was done to the settings of one program.

    Attributes:
        path: its file.
        before: content before; None if there was no file.
        written: digest of the content that was written.
        folders: folders that were created for it, the outermost first.
    """

    path: Path
    before: str | None
    written: str
    folders: tuple[Path, ...] = ()


class Backups:
    """The backups of one user, a file for each program.

    Args:
        folder: where they are kept.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @classmethod
    def of_user(cls, home: Path, environ: Mapping[str, str]) -> Backups:
        """The backups below the user's state directory."""
        configured = environ.get("XDG_STATE_HOME", "")
        state = Path(configured) if configured.startswith("/") else home / ".local/state"
        return cls(state / "gpumand/connect")

    def programs(self) -> list[str]:
        """Names of the programs with a backup."""
        with suppress(OSError):
            return sorted(one.stem for one in self._folder.glob("*.json"))
        return []

    def place(self, program: str) -> Path:
        """The file with the backup of a program."""
        return self._folder / f"{program}.json"

    def read(self, program: str) -> Backup | None:
        """The backup of a program; None without one. Raises CannotEdit if it cannot be used."""
        text = read_text(self.place(program))
        if text is None:
            return None
        try:
            return _backup_of(json.loads(text))
        except (ValueError, TypeError, KeyError, AttributeError):
            raise CannotEdit(f"its backup {self.place(program)} is damaged") from None

    def write(self, program: str, backup: Backup) -> None:
        """Keep a backup, in place of an earlier one. Raises CannotEdit."""
        document = {
            "path": os.fspath(backup.path),
            "before": backup.before,
            "written": backup.written,
            "folders": [os.fspath(one) for one in backup.folders],
        }
        write_text(self.place(program), json.dumps(document, indent=1) + "\n")

    def forget(self, program: str) -> None:
        """Remove a backup. Raises CannotEdit."""
        remove(self.place(program))
        for folder in (self._folder, self._folder.parent):
            with suppress(OSError):
                folder.rmdir()


def _backup_of(document: dict[str, Any]) -> Backup:
    before = document["before"]
    if before is not None and not isinstance(before, str):
        raise TypeError("before is no text")
    folders = tuple(Path(str(one)) for one in document["folders"])
    return Backup(Path(str(document["path"])), before, str(document["written"]), folders)
