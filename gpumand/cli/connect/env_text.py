"""Files with assignments: environment files, and start files of shells."""

from __future__ import annotations

import re
from collections.abc import Mapping

from gpumand.cli.connect.marked_lines import lines_of, marked, text_of, turned_off

_ASSIGNMENT = re.compile(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)=")


def with_variables(text: str, variables: Mapping[str, str], replaced: tuple[str, ...] = ()) -> str:
    """An environment file with further variables.

    Args:
        text: the file.
        variables: values by name; they need no quotes.
        replaced: other variables that would contradict them; their lines become comments.
    """
    lines, newline = lines_of(text)
    names = {*variables, *replaced}

    def is_replaced(line: str) -> bool:
        found = _ASSIGNMENT.match(line)
        return found is not None and found[1] in names

    return text_of([*turned_off(lines, is_replaced), *marked(f"{one}={variables[one]}" for one in variables)], newline)


def with_shell_lines(text: str, added: list[str]) -> str:
    """A start file of a shell with further lines at its end, where they win over earlier ones."""
    lines, newline = lines_of(text)
    return text_of([*lines, *marked(added)], newline)
