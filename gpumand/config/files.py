"""Finds the configuration files and reads them with limits on size and number; this code blocks."""

from __future__ import annotations

import os
import re
import stat
import tomllib
from pathlib import Path
from typing import Any

from gpumand.config.positions import Position
from gpumand.config.problems import Document, Place, ProblemList
from gpumand.config.syntax_errors import explained

MAIN_NAME = "gpumand.toml"
DROP_IN_NAME = "conf.d"
OTHER_PROGRAMS = frozenset(("fleet.toml", "gateway-keys.toml", "gateway.toml", "notify.toml"))
"""Files in /etc/gpumand that programs beside the daemon read."""

MAX_BYTES = 1024 * 1024
MAX_FILES = 512
MAX_KEY = 4096
MAX_DEPTH = 64

# Only Python 3.14 has the position as attributes of TOMLDecodeError. The message contains it in every version.
_SYNTAX_PLACE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


def config_files(path: Path, problems: ProblemList) -> list[Path]:
    """Return the files that a path stands for, in reading order.

    Args:
        path: a file; a folder with the layout of /etc/gpumand (``gpumand.toml``, then ``conf.d/*.toml`` in name
            order); or any other folder (all ``*.toml`` in name order; beside a ``gpumand.toml`` without those that
            other programs read, since such a folder is an /etc/gpumand whose ``conf.d`` was never made).
        problems: receives a problem if a folder cannot be listed.
    """
    if not path.is_dir():
        return [path]
    drop_ins = path / DROP_IN_NAME
    main = path / MAIN_NAME
    has_main = os.path.lexists(main)
    if not drop_ins.is_dir():
        files = list_toml_files(path, problems)
        return [file for file in files if file.name not in OTHER_PROGRAMS] if has_main else files
    return ([main] if has_main else []) + list_toml_files(drop_ins, problems)


def list_toml_files(folder: Path, problems: ProblemList, *, optional: bool = False) -> list[Path]:
    """Return the ``*.toml`` files of a folder in name order, without hidden ones.

    Args:
        folder: the folder.
        problems: receives a problem if the folder cannot be listed or has more than 512 such files.
        optional: a missing folder is no problem.
    """
    try:
        names = sorted(name for name in os.listdir(folder) if name.endswith(".toml") and not name.startswith("."))
    except FileNotFoundError as error:
        if not optional:
            problems.add_file(folder, f"cannot be listed: {error.strerror}")
        return []
    except OSError as error:
        problems.add_file(folder, f"cannot be listed: {error.strerror}")
        return []
    if len(names) > MAX_FILES:
        problems.add_file(folder, f"contains {len(names)} files, more than the maximum of {MAX_FILES}")
        return []
    return [folder / name for name in names]


def read(path: Path, problems: ProblemList, *, optional: bool = False) -> Document | None:
    """Read and parse one file.

    Args:
        path: the file.
        problems: receives a problem if the file cannot be read or parsed.
        optional: a missing file is no problem.

    Returns:
        The document; None if the file cannot be read or parsed, or is optional and missing.
    """
    try:
        content = _read_capped(path)
    except FileNotFoundError as error:
        # A symbolic link without a target is an error even for an optional file: its author expected it to be read.
        if not optional or path.is_symlink():
            problems.add_file(path, f"cannot be read: {error.strerror}")
        return None
    except OSError as error:
        problems.add_file(path, f"cannot be read: {error.strerror}")
        return None
    if len(content) > MAX_BYTES:
        problems.add_file(path, f"is larger than {MAX_BYTES // 1024} KiB, the maximum")
        return None
    return parse(str(path), content, problems)


def read_key_file(path: Path, place: Place, problems: ProblemList) -> str:
    """Read the API key from a file that contains one line.

    Args:
        path: the file.
        place: the configuration key that names the file; problems are reported there.
        problems: receives a problem if the file cannot be read or does not contain a key.

    Returns:
        The key, or "" if there is a problem. No message contains any part of the file, because it is secret.
    """
    try:
        content = _read_capped(path)
    except OSError as error:
        problems.add(place, f"{path} cannot be read: {error.strerror}")
        return ""
    text = content.decode("ascii", errors="replace").strip()
    if not text or len(text) > MAX_KEY or not text.isascii() or not text.isprintable():
        problems.add(
            place, f"{path} does not contain a key: write one line of up to {MAX_KEY} printable ASCII characters"
        )
        return ""
    return text


def _read_capped(path: Path) -> bytes:
    """Return the first MAX_BYTES + 1 bytes of a regular file; the extra byte shows that the file is too large."""
    # Opening a FIFO without O_NONBLOCK would block until another process opens it for writing. Opening a terminal
    # without O_NOCTTY could make it the controlling terminal of the daemon.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(0, "not a regular file")
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(MAX_BYTES + 1)
    finally:
        os.close(descriptor)


def parse(file: str, content: bytes, problems: ProblemList) -> Document | None:
    """Parse the content of one file; if it is not valid TOML, report line and column and return None."""
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        problems.add_file(file, "is not UTF-8", Position(line, error.start - content.rfind(b"\n", 0, error.start)))
        return None
    table = _parse_table(file, text, problems)
    return None if table is None else Document(file, table, text)


def _parse_table(file: str, text: str, problems: ProblemList) -> dict[str, Any] | None:
    try:
        table = tomllib.loads(text)
    except ValueError as error:
        # TOMLDecodeError is a ValueError. A number with more than 4300 digits raises a plain ValueError.
        position = _syntax_position(str(error), text)
        reason = explained(_SYNTAX_PLACE.sub("", str(error)), text, position.line)
        column = f" at column {position.column}" if position.column else ""
        problems.add_file(file, f"is not valid TOML{column}: {reason}", position)
    except RecursionError:
        problems.add_file(file, "is nested too deeply to be parsed")
    else:
        if not _is_too_deep(table):
            return table
        problems.add_file(file, f"is nested more than {MAX_DEPTH} levels deep, the maximum")
    return None


def _is_too_deep(table: dict[str, Any]) -> bool:
    """Return True if a table is nested more than MAX_DEPTH levels deep."""
    # Dotted keys can nest tables to any depth, and the functions that read the result are recursive: they would
    # exhaust the stack. This check therefore goes level by level.
    level: list[Any] = [table]
    for _ in range(MAX_DEPTH):
        inner = (value for one in level for value in (one.values() if isinstance(one, dict) else one))
        level = [value for value in inner if isinstance(value, dict | list)]
    return bool(level)


def _syntax_position(message: str, text: str) -> Position:
    match = _SYNTAX_PLACE.search(message)
    if match is None:
        return Position()
    if match[1]:
        return Position(int(match[1]), int(match[2]))
    lines = text.rstrip("\n").split("\n")
    return Position(len(lines), len(lines[-1]) + 1)
