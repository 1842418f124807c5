"""Whether gpumand's user may start or stop a unit: asked by the polkit rule org.gpumand1-units.rules.

The answer is the exit status. Only what root wrote counts: a unit that a file of the configuration names, in which only
root can write. Such files are read one by one and without judging the rest of them, so that a mistake in one, which the
running daemon does not take up either, does not keep it from stopping what it started.

A start needs a unit file besides. systemd 257 asks about a transient unit as it asks about any other, by name and verb
"start", and whoever could start a transient unit would run what it likes as root. Where there is a unit file, systemd
itself refuses to make a transient unit of that name.
"""

from __future__ import annotations

import os
import stat
import sys
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

DEFAULT_FILE = Path("/etc/gpumand/gpumand.toml")
DEFAULT_FOLDER = Path("/etc/gpumand/conf.d")
UNIT_FOLDERS = tuple(
    map(
        Path,
        (
            "/etc/systemd/system",
            "/etc/systemd/system.attached",
            "/run/systemd/system",
            "/run/systemd/system.attached",
            "/run/systemd/generator.early",
            "/run/systemd/generator",
            "/run/systemd/generator.late",
            "/usr/local/lib/systemd/system",
            "/usr/lib/systemd/system",
            "/lib/systemd/system",
        ),
    )
)
"""Where systemd finds units, without /run/systemd/transient."""

STOP = "stop"
STARTS = ("start", "restart")
MAX_FILE_BYTES = 1 << 20


def allowed(verb: str, unit: str, files: Iterable[Path], folders: Iterable[Path], owner_uid: int = 0) -> bool:
    """Whether the unit may be started or stopped.

    Args:
        verb: what systemd says that is done with it: "start", "stop" or "restart"; nothing else is allowed.
        unit: its name, as systemd says it.
        files: of the configuration.
        folders: where unit files are.
        owner_uid: whose files count.
    """
    if verb != STOP and verb not in STARTS:
        return False
    if not any(unit in _units_of(file, owner_uid) for file in files):
        return False
    return verb == STOP or _has_file(unit, folders)


def configuration_files() -> list[Path]:
    """Those that the daemon reads, unless it is told otherwise."""
    return [DEFAULT_FILE, *sorted(DEFAULT_FOLDER.glob("*.toml"))]


def _units_of(file: Path, owner_uid: int) -> Iterator[str]:
    """The units that consumers have in one file; none where it cannot be read, is no TOML, or is not to be trusted."""
    try:
        document = tomllib.loads(_read(file, owner_uid))
    except (OSError, ValueError, RecursionError):  # the last of brackets in brackets, thousands deep
        return
    for consumer in _table(document.get("consumers")).values():
        unit = _table(consumer).get("unit")
        if isinstance(unit, str) and unit:
            yield unit


def _read(file: Path, owner_uid: int) -> str:
    with file.open("rb") as stream:
        info = os.fstat(stream.fileno())
        if info.st_uid != owner_uid or info.st_mode & (stat.S_IWGRP | stat.S_IWOTH) or not stat.S_ISREG(info.st_mode):
            raise PermissionError(f"{file} can be written by others than root")
        return stream.read(MAX_FILE_BYTES).decode()


def _table(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _has_file(unit: str, folders: Iterable[Path]) -> bool:
    """Whether there is a unit file of this name, or of the template that it is an instance of."""
    if "/" in unit:
        return False
    prefix, at, rest = unit.partition("@")
    names = {unit, f"{prefix}@.{rest.rpartition('.')[2]}"} if at else {unit}
    return any((folder / name).exists() for folder in folders for name in names)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command ``gpumand-unit-allowed VERB UNIT``: exits with 0 when it is allowed, with 1 when it is not."""
    given = sys.argv[1:] if arguments is None else arguments
    match given:
        case [verb, unit]:
            sys.exit(0 if allowed(verb, unit, configuration_files(), UNIT_FOLDERS) else 1)
        case _:
            sys.exit("usage: gpumand-unit-allowed VERB UNIT")


if __name__ == "__main__":
    main()
