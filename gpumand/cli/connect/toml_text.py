"""Adds settings to a TOML file as text, and checks with a parser that nothing else has changed."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from typing import Any

from gpumand.cli.connect.marked_lines import CannotEdit, lines_of, marked, text_of, turned_off
from gpumand.config.toml_writer import toml_key, toml_string

_TABLE = re.compile(r"\s*\[")


def with_settings(text: str, top: Mapping[str, str], table: tuple[str, str], values: Mapping[str, str]) -> str:
    """The file with top-level strings and one more table.

    Args:
        text: the file.
        top: values of top-level keys; lines that set them become comments.
        table: names of a table and of a new table in it.
        values: strings in the new table.

    Raises:
        CannotEdit: the file is not valid TOML, has this table already, or sets a key in a form that is not one line.
    """
    before = _parsed(text)
    outer, name = table
    if name in before.get(outer, {}):
        raise CannotEdit(f"it has a table [{outer}.{name}] already")
    lines, newline = lines_of(text)
    first_table = next((at for at, one in enumerate(lines) if _TABLE.match(one)), len(lines))
    keys = "|".join(map(re.escape, top))
    sets_key = re.compile(rf"(?:{keys})\s*=")
    head = turned_off(lines[:first_table], lambda one: bool(sets_key.match(one)))
    added = [f"[{outer}.{toml_key(name)}]", *(f"{key} = {toml_string(value)}" for key, value in values.items())]
    tops = [f"{key} = {toml_string(value)}" for key, value in top.items()]
    result = text_of([*marked(tops), *head, *lines[first_table:], *marked(added)], newline)
    expected: dict[str, Any] = {**before, **top, outer: {**before.get(outer, {}), name: dict(values)}}
    if _parsed(result, "with the new lines it") != expected:
        raise CannotEdit(f"it sets {' or '.join(top)} in a form that is not one line")
    return result


def _parsed(text: str, what: str = "it") -> dict[str, Any]:
    try:
        return tomllib.loads(text.replace("\r\n", "\n"))
    except (ValueError, RecursionError) as error:
        raise CannotEdit(f"{what} is not valid TOML: {error}") from None
