"""Which files are the configuration, and reading them with caps; plain blocking code."""

from __future__ import annotations

import os
import re
import stat
import tomllib
from pathlib import Path
from typing import Any

from gpumand.config.positions import Position, find_keys
from gpumand.config.problems import Document, Place, ProblemList

MAIN_NAME = "gpumand.toml"
DROP_IN_NAME = "conf.d"
MAX_BYTES = 1024 * 1024
MAX_FILES = 512
MAX_KEY = 4096
MAX_DEPTH = 64

# Python 3.14 gives these as attributes; the text has them in every version.
_SYNTAX_PLACE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


def files_of(path: Path, faults: ProblemList) -> list[Path]:
    """The files that a path stands for, in the order in which they are read.

    Args:
        path: a file; or a folder laid out like /etc/gpumand (``gpumand.toml``, then ``conf.d/*.toml`` in name order);
            or any other folder: all its ``*.toml`` in name order.
        faults: where a folder that cannot be listed is noted.
    """
    if not path.is_dir():
        return [path]
    drop_ins = path / DROP_IN_NAME
    if not drop_ins.is_dir():
        return listed(path, faults)
    main = path / MAIN_NAME
    return ([main] if os.path.lexists(main) else []) + listed(drop_ins, faults)


def listed(folder: Path, faults: ProblemList, *, optional: bool = False) -> list[Path]:
    """The ``*.toml`` of a folder in name order, hidden ones left out; an ``optional`` folder need not be there."""
    try:
        names = sorted(name for name in os.listdir(folder) if name.endswith(".toml") and not name.startswith("."))
    except FileNotFoundError as error:
        if not optional:
            faults.add_file(folder, f"cannot be listed: {error.strerror}")
        return []
    except OSError as error:
        faults.add_file(folder, f"cannot be listed: {error.strerror}")
        return []
    if len(names) > MAX_FILES:
        faults.add_file(folder, f"holds {len(names)} files, more than {MAX_FILES}")
        return []
    return [folder / name for name in names]


def read(path: Path, faults: ProblemList, *, optional: bool = False) -> Document | None:
    """Read and parse one file; None where that fails, which is noted, or where an ``optional`` one is not there."""
    try:
        content = _content(path)
    except FileNotFoundError as error:
        # A dangling link was meant to be something.
        if not optional or path.is_symlink():
            faults.add_file(path, f"cannot be read: {error.strerror}")
        return None
    except OSError as error:
        faults.add_file(path, f"cannot be read: {error.strerror}")
        return None
    if len(content) > MAX_BYTES:
        faults.add_file(path, f"is larger than {MAX_BYTES // 1024} KiB")
        return None
    return parse(str(path), content, faults)


def read_key(path: Path, place: Place, faults: ProblemList) -> str:
    """The key that a file holds on its one line; "" where there is none to be had, which is noted at ``place``.

    What is in the file is a secret, so no message has any of it.
    """
    try:
        content = _content(path)
    except OSError as error:
        faults.add(place, f"{path} cannot be read: {error.strerror}")
        return ""
    text = content.decode("ascii", errors="replace").strip()
    if not text or len(text) > MAX_KEY or not text.isascii() or not text.isprintable():
        faults.add(place, f"{path} does not hold a key: one line of up to {MAX_KEY} printable ASCII characters")
        return ""
    return text


def _content(path: Path) -> bytes:
    """At most MAX_BYTES + 1 bytes of a regular file; a pipe must not make us wait for a writer."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(0, "it is no regular file")
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(MAX_BYTES + 1)
    finally:
        os.close(descriptor)


def parse(file: str, content: bytes, faults: ProblemList) -> Document | None:
    """Parse one file's content; None where it is no TOML, which is noted with line and column."""
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        faults.add_file(file, "is not UTF-8", Position(line, error.start - content.rfind(b"\n", 0, error.start)))
        return None
    table = _table(file, text, faults)
    return None if table is None else Document(file, table, find_keys(text))


def _table(file: str, text: str, faults: ProblemList) -> dict[str, Any] | None:
    try:
        table = tomllib.loads(text)
    except ValueError as error:  # TOMLDecodeError is one; a number of thousands of digits is a plain one
        position = _syntax_position(str(error), text)
        what = _SYNTAX_PLACE.sub("", str(error))
        where = f" at column {position.column}" if position.column else ""
        faults.add_file(file, f"is no valid TOML{where}: {what}", position)
    except RecursionError:
        faults.add_file(file, "is nested too deeply")
    else:
        if not _is_too_deep(table):
            return table
        faults.add_file(file, f"is nested more than {MAX_DEPTH} levels deep")
    return None


def _is_too_deep(table: dict[str, Any]) -> bool:
    """Dotted keys nest without end, and whoever walks the result by recursion would run out of stack."""
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
