"""Decides whether the user of gpumand may start or stop a unit; called by the polkit rule org.gpumand1-units.rules.

The exit status is the answer. Only units named in a configuration file that root owns and only root can write are
allowed. Each file is read on its own and without validating its other keys, so that a mistake in one file, which the
running daemon does not load either, does not prevent the daemon from stopping units that it started.

Starting a unit also requires a unit file. systemd 257 makes the same polkit request for a transient unit as for any
other unit, with its name and the verb "start", and a process that may start transient units can run any command as
root. Where a unit file exists, systemd itself refuses to create a transient unit of that name.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from gpumand.root_helpers.trusted_files import configuration_files, read_trusted, table

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
"""Directories in which systemd looks for unit files, except /run/systemd/transient."""

STOP = "stop"
STARTS = ("start", "restart")


def is_allowed(verb: str, unit: str, files: Iterable[Path], folders: Iterable[Path], owner_uid: int = 0) -> bool:
    """Whether the unit may be started or stopped.

    Args:
        verb: operation that systemd names in its polkit request: "start", "stop" or "restart"; others are refused.
        unit: name of the unit in the polkit request.
        files: configuration files.
        folders: directories with unit files.
        owner_uid: user id that must own a configuration file for it to count.
    """
    if verb != STOP and verb not in STARTS:
        return False
    if not any(unit in _configured_units(file, owner_uid) for file in files):
        return False
    return verb == STOP or _has_unit_file(unit, folders)


def _configured_units(file: Path, owner_uid: int) -> Iterator[str]:
    """Units of the consumers in one file; none where it is unreadable, not TOML, or writable by others than root."""
    try:
        document = tomllib.loads(read_trusted(file, owner_uid))
    except (OSError, ValueError, RecursionError):  # RecursionError: thousands of nested brackets
        return
    for consumer in table(document.get("consumers")).values():
        unit = table(consumer).get("unit")
        if isinstance(unit, str) and unit:
            yield unit


def _has_unit_file(unit: str, folders: Iterable[Path]) -> bool:
    """Whether a unit file exists with this name, or for the template of this instance."""
    if "/" in unit:  # a name from the request must not lead out of the directories
        return False
    prefix, at, rest = unit.partition("@")
    names = {unit, f"{prefix}@.{rest.rpartition('.')[2]}"} if at else {unit}
    return any((folder / name).exists() for folder in folders for name in names)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command ``gpumand-unit-allowed VERB UNIT``: exits with 0 when the operation is allowed, else with 1."""
    given = sys.argv[1:] if arguments is None else arguments
    match given:
        case [verb, unit]:
            sys.exit(0 if is_allowed(verb, unit, configuration_files(), UNIT_FOLDERS) else 1)
        case _:
            sys.exit("usage: gpumand-unit-allowed VERB UNIT")


if __name__ == "__main__":
    main()
