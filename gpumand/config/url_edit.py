"""Changes the ``url`` of a consumer in the text of a configuration file, and nothing else in it."""

from __future__ import annotations

import re
import tomllib

from gpumand.config.positions import find_keys
from gpumand.config.toml_writer import toml_string

_ASSIGNMENT = re.compile(r"""^(\s*url\s*=\s*)(?:"[^"\\\n]*"|'[^'\n]*')(\s*(?:#.*)?)$""")


class CannotEdit(Exception):
    """The file is written in a way that this module does not change; the message is one line."""


def with_url(text: str, consumer: str, url: str) -> str:
    """Return the text with another url of a consumer.

    Args:
        text: a valid TOML document that has the table of the consumer.
        consumer: name of the consumer.
        url: the new value; added if the table has none, because the preset sets it.

    Raises:
        CannotEdit: the change has to be made in an editor.
    """
    lines = text.split("\n")
    positions = find_keys(text)
    at = positions.get(("consumers", consumer, "url"))
    if at is not None:
        match = _ASSIGNMENT.fullmatch(lines[at.line - 1])
        if match is None:
            raise CannotEdit(f"line {at.line} cannot be changed automatically")
        lines[at.line - 1] = f"{match[1]}{toml_string(url)}{match[2]}"
    else:
        header = positions.get(("consumers", consumer))
        if header is None or not lines[header.line - 1].lstrip().startswith("["):
            raise CannotEdit(f"[consumers.{consumer}] is not a table with a line of its own")
        lines.insert(header.line, f"url = {toml_string(url)}")
    return _checked(text, "\n".join(lines), consumer, url)


def _checked(before: str, after: str, consumer: str, url: str) -> str:
    """Return ``after`` if it means the same as ``before`` but for the url. Raises CannotEdit."""
    wanted = tomllib.loads(before)
    wanted["consumers"][consumer]["url"] = url
    try:
        found = tomllib.loads(after)
    except ValueError:
        found = {}
    if found != wanted:
        raise CannotEdit("the file cannot be changed automatically")
    return after
