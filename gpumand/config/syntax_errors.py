"""Errors of TOML's syntax in words that say what to change, where the parser's own words do not."""

from __future__ import annotations

import re

BYTE_ORDER_MARK = "\ufeff"
_TWICE = re.compile(r"Cannot declare \((.+)\) twice|Cannot mutate immutable namespace \((.+)\)")
_CURLY_QUOTES = re.compile("[\u201c\u201d\u201e\u2018\u2019]")


def explained(reason: str, text: str, line: int) -> str:
    """The reason why a file cannot be parsed.

    Args:
        reason: the message of tomllib, without the position.
        text: the content of the file.
        line: line of the error, from 1; 0 when it is not known.
    """
    if text.startswith(BYTE_ORDER_MARK):
        return "it begins with a byte order mark: save it as UTF-8 without BOM"
    if found := _TWICE.search(reason):
        name = ".".join(re.findall(r"'([^']*)'", found[1] or found[2]))
        return f"the table {name} is there twice: join the two"
    if reason.startswith("Cannot overwrite a value"):
        return "the key of this line is there twice in its table: remove one of the two"
    lines = text.split("\n")
    if 0 < line <= len(lines) and _CURLY_QUOTES.search(lines[line - 1].partition("#")[0]):
        return f'{reason}: replace the typographic quotes by "'
    return reason
