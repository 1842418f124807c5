"""Connects one program to the gateway, and takes that back: decides what happens to its file, and does it."""

from __future__ import annotations

import shlex
import socket
from dataclasses import dataclass
from difflib import unified_diff
from enum import StrEnum
from pathlib import Path
from urllib.parse import urlsplit

from gpumand.cli.connect.backups import Backup, Backups, digest
from gpumand.cli.connect.marked_lines import CannotEdit, without_marked
from gpumand.cli.connect.programs import NAME, Program, Target, User
from gpumand.cli.connect.settings_file import (
    is_readable_by_others,
    read_text,
    remove,
    remove_folders,
    write_text,
)

CONNECT_SEC = 2.0


class Action(StrEnum):
    """What happens to the file of a program."""

    CONNECT = "connect"
    UNCHANGED = "unchanged"
    MANUAL = "manual"
    """A person has to set it; the notes say how."""

    RESTORE = "restore"
    """The file becomes what it was, or is removed if there was none."""

    CLEAN = "clean"
    """The file was changed since: only the lines of gpumanctl are taken back."""

    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Step:
    """What happens to one program.

    Attributes:
        program: its name.
        action: see Action.
        path: its file; None without one.
        now: content of the file; None if there is none.
        after: content that is written; None to remove the file, or if nothing is written.
        notes: what the user has to know or do.
        reason: why it is refused; "" otherwise.
        backup: what to keep for the way back.
    """

    program: str
    action: Action
    path: Path | None = None
    now: str | None = None
    after: str | None = None
    notes: tuple[str, ...] = ()
    reason: str = ""
    backup: Backup | None = None

    @property
    def is_change(self) -> bool:
        """Whether a file is changed."""
        return self.action in (Action.CONNECT, Action.RESTORE, Action.CLEAN)

    def diff(self) -> list[str]:
        """The change as a unified diff."""
        before, after = ((one or "").splitlines() for one in (self.now, self.after))
        return list(unified_diff(list(before), list(after), str(self.path), str(self.path), lineterm=""))


def connection_step(program: Program, user: User, target: Target, named: Path | None, backups: Backups) -> Step:
    """What connecting a program would do.

    Args:
        program: the program.
        user: whose settings are changed.
        target: the gateway.
        named: the settings file that the user named; None = where the program looks for it.
        backups: those of the user.
    """
    path = named
    try:
        settings = program.settings(user, target, named)
        path = settings.path
        if path is None:
            return Step(program.name, Action.MANUAL, notes=settings.notes)
        now, backup = read_text(path), backups.read(program.name)
        if backup is not None and backup.path != path:
            raise CannotEdit(f"{backup.path} is connected. Take that back first: gpumanctl disconnect {program.name}")
        # An untouched file is edited from what it was, so that repeated changes of the address leave no traces.
        if backup is None or now is None or digest(now) != backup.written:
            before = None if now is None else without_marked(now)
            backup = Backup(path, before, "", backup.folders if backup else ())
        after = settings.edit(backup.before or "")
    except CannotEdit as error:
        return Step(program.name, Action.REFUSED, path, reason=str(error))
    notes = settings.notes
    if target.key != NAME and is_readable_by_others(path):
        only_you = f"If only you need the file: chmod 600 {shlex.quote(str(path))}"
        notes = (*notes, f"Other users can read {path}, and with it the key. {only_you}")
    if after == now:
        return Step(program.name, Action.UNCHANGED, path, now, notes=notes)
    kept = Backup(path, backup.before, digest(after), backup.folders)
    return Step(program.name, Action.CONNECT, path, now, after, notes, backup=kept)


def connect(step: Step, backups: Backups) -> None:
    """Carry out a connection. The backup is written first: after a crash in between, it is known what to put back.

    Raises:
        CannotEdit: a file cannot be written; then nothing has changed.
    """
    assert step.path is not None
    assert step.after is not None
    assert step.backup is not None
    earlier = backups.read(step.program)
    backups.write(step.program, step.backup)
    try:
        created = write_text(step.path, step.after)
    except CannotEdit:
        if earlier is not None:
            backups.write(step.program, earlier)
        else:
            backups.forget(step.program)
        raise
    if created:
        kept = Backup(step.path, step.backup.before, step.backup.written, (*step.backup.folders, *created))
        backups.write(step.program, kept)


def disconnection_step(program: str, backups: Backups) -> Step | None:
    """What taking a connection back would do; None if the program is not connected."""
    path = None
    try:
        backup = backups.read(program)
        if backup is None:
            return None
        path, now = backup.path, read_text(backup.path)
        if now == backup.before:
            return Step(program, Action.UNCHANGED, path, now, backup=backup)
        if now is None:
            note = f"{path} was removed since. Its content before is in {backups.place(program)}."
            return Step(program, Action.UNCHANGED, path, notes=(note,))
        if digest(now) == backup.written:
            return Step(program, Action.RESTORE, path, now, backup.before, backup=backup)
        after = without_marked(now)
    except CannotEdit as error:
        where = f" The content before is in {backups.place(program)}."
        return Step(program, Action.REFUSED, path, reason=f"{str(error).rstrip('.')}.{where}")
    return Step(program, Action.CLEAN, path, now, after, backup=backup)


def disconnect(step: Step, backups: Backups) -> None:
    """Take a connection back. Raises CannotEdit if a file cannot be written; then the backup stays."""
    if step.path is not None and step.is_change:
        if step.after is None:
            remove(step.path)
            remove_folders(list(step.backup.folders) if step.backup else [])
        else:
            write_text(step.path, step.after)
    if step.backup is not None:
        backups.forget(step.program)


def why_no_answer(url: str) -> str:
    """Why nothing accepts connections at a URL; "" if something does."""
    parts = urlsplit(url)
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        socket.create_connection((parts.hostname or "", port), timeout=CONNECT_SEC).close()
    except (OSError, ValueError, OverflowError) as error:
        return str(getattr(error, "strerror", "") or error)
    return ""
