"""Adds settings to a YAML file as text. Only files with a plain block mapping at the top are changed.

A parser of YAML would lose comments, or be a further dependency. What this module does not understand, it refuses.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from gpumand.cli.connect.marked_lines import CannotEdit, lines_of, marked, text_of, turned_off

_TOP_LINE = re.compile(r"""(?:[A-Za-z0-9_][\w.-]*|"[^"]+"|'[^']+')\s*:(?:\s|$)|#|-(?:\s|$)|---(?:\s|$)""")
_EMPTY_LIST = re.compile(r"\[\s*\]\s*(?:#.*)?")
_BLOCK_SCALAR = re.compile(r"[|>&*!{\[]")


def with_top_settings(text: str, settings: Mapping[str, str], defaults: Mapping[str, str]) -> str:
    """The file with further top-level strings, at its end.

    Args:
        text: the file.
        settings: values by key; lines that set them become comments.
        defaults: values of keys that are set only if the file does not set them.

    Raises:
        CannotEdit: the form of the file is not understood.
    """
    lines, newline = lines_of(text)
    _check_mapping(lines)
    values = {key: _value_of(lines, key) for key in (*settings, *defaults)}
    for key in settings:
        value = values[key]
        if value is not None and (not value or _BLOCK_SCALAR.match(value) or _goes_on(lines, key)):
            raise CannotEdit(f"its value of {key} is not one line")
    added = {**settings, **{key: value for key, value in defaults.items() if values[key] is None}}
    off = turned_off(lines, lambda one: _key_of(one) in settings)
    return text_of([*off, *marked(f"{key}: {_quoted(value)}" for key, value in added.items())], newline)


def with_list_item(text: str, key: str, item: Sequence[str]) -> str:
    """The file with a further item at the beginning of a top-level list.

    Args:
        text: the file.
        key: key of the list.
        item: lines of the item, without indentation, the first one beginning with ``- ``.

    Raises:
        CannotEdit: the form of the file is not understood.
    """
    lines, newline = lines_of(text)
    _check_mapping(lines)
    value = _value_of(lines, key)
    if value is None:
        return text_of([*lines, *marked([f"{key}:", *(f"  {one}" for one in item)])], newline)
    at = next(index for index, one in enumerate(lines) if _key_of(one) == key)
    if _EMPTY_LIST.fullmatch(value):
        off = turned_off(lines[at : at + 1], lambda _: True)
        added = marked([f"{key}:", *(f"  {one}" for one in item)])
        return text_of([*lines[:at], *off, *added, *lines[at + 1 :]], newline)
    if value and not value.startswith("#"):
        raise CannotEdit(f"its {key} are not a list with one item per line")
    indent = _indent_of_items(lines[at + 1 :], key)
    return text_of([*lines[: at + 1], *marked(item, indent), *lines[at + 1 :]], newline)


def _check_mapping(lines: Sequence[str]) -> None:
    """Raise CannotEdit unless every line at the margin is a key, an item of a list, a comment, or one start mark."""
    for number, line in enumerate(lines, 1):
        if line.strip() and not line[0].isspace() and not _TOP_LINE.match(line):
            raise CannotEdit(f"its line {number} is not the beginning of a setting")
        if line[: len(line) - len(line.lstrip())].count("\t"):
            raise CannotEdit(f"its line {number} is indented with a tab")
    if sum(line.startswith("---") for line in lines) > 1:
        raise CannotEdit("it has several documents")
    if lines and lines[0].startswith("---") and lines[0].rstrip() != "---":
        raise CannotEdit("its first line is not understood")


def _key_of(line: str) -> str:
    """The key that a line at the margin sets; "" if it sets none."""
    found = re.match(r"""(["']?)([A-Za-z0-9_][\w.-]*)\1\s*:(?:\s|$)""", line)
    return found[2] if found else ""


def _value_of(lines: Sequence[str], key: str) -> str | None:
    """What follows a key in its line; None if the file does not set it. Raises CannotEdit if it is set twice."""
    found = [line.partition(":")[2].strip() for line in lines if _key_of(line) == key]
    if len(found) > 1:
        raise CannotEdit(f"it sets {key} twice")
    return found[0] if found else None


def _goes_on(lines: Sequence[str], key: str) -> bool:
    """Whether the value of a key continues in the lines below."""
    at = next(index for index, one in enumerate(lines) if _key_of(one) == key)
    below = next((one for one in lines[at + 1 :] if one.strip()), "")
    return bool(below) and below[0].isspace() and not below.lstrip().startswith("#")


def _indent_of_items(following: Sequence[str], key: str) -> str:
    """The indentation of the items of a list, "  " if it has none."""
    for line in following:
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if re.match(r"\s*-(?:\s|$)", line):
            return line[: len(line) - len(line.lstrip())]
        if line[0].isspace():
            raise CannotEdit(f"its {key} are not a list")
        break
    return "  "


def _quoted(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
