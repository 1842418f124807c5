"""The inverse of each edit of the swap of ports, as text. No I/O.

An edit is taken back only where the text still has what was written. Everything else in a file stays as it is.
"""

from __future__ import annotations

import tomllib
from typing import Any

from gpumand.cli.swap_undo.record import DropIn, ListenerTable, UrlLine
from gpumand.config.positions import find_keys


class Edited(Exception):
    """The text was edited since; the message is one line that names what."""


def without_drop_in(text: str | None, made: DropIn) -> str | None:
    """The text of the file before; None = the file is removed. Raises Edited.

    Args:
        text: the present text; None without a file.
        made: what was written.
    """
    if text is None or text == made.before:
        return text
    if text != made.written:
        raise Edited("it was edited since")
    return made.before


def with_former_url(text: str | None, consumer: str, made: UrlLine) -> str | None:
    """The text of a configuration file with the former url of a consumer. Raises Edited.

    Args:
        text: the present text; None without a file.
        consumer: name of the consumer.
        made: the line that was written.
    """
    if text is None:
        return None
    positions, lines = find_keys(text), text.split("\n")
    if ("consumers", consumer) not in positions:
        return text  # the consumer was taken out of the configuration
    at = positions.get(("consumers", consumer, "url"))
    line = None if at is None else lines[at.line - 1]
    if line == made.before:
        return text
    if at is None or line != made.written:
        raise Edited(f"the url of {consumer} was edited since")
    lines[at.line - 1 : at.line] = [] if made.before is None else [made.before]
    return _parsed("\n".join(lines))


def without_listener(text: str | None, consumer: str, made: ListenerTable) -> str | None:
    """The text of the gateway's configuration without a listener; None = the file is removed. Raises Edited.

    Args:
        text: the present text; None without a file.
        consumer: name of the consumer, which is that of the listener.
        made: what was added.
    """
    if text is None:
        return None
    before = _document(text)
    tables = before.get("gateway", {}).get("listeners", {})
    if consumer not in tables:
        return text
    # A key below the table would become one of the table above it.
    if tables[consumer] != {"listen": f"127.0.0.1:{made.port}"} or text.count(made.written) != 1:
        raise Edited(f"[gateway.listeners.{consumer}] was edited since")
    after = text.replace(made.written, "")
    del tables[consumer]
    if _without_empty(_document(after)) != _without_empty(before):
        raise Edited(f"what follows [gateway.listeners.{consumer}] belongs to it now")
    return None if made.made_file and not after.strip() else after


def _without_empty(document: dict[str, Any]) -> dict[str, Any]:
    """A document without empty tables of the gateway: the last listener leaves one."""
    gateway = {name: one for name, one in document.get("gateway", {}).items() if one != {}}
    rest = {name: one for name, one in document.items() if name != "gateway"}
    return rest | ({"gateway": gateway} if gateway else {})


def _parsed(text: str) -> str:
    """The text, if it is valid. Raises Edited."""
    _document(text)
    return text


def _document(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except ValueError as error:
        raise Edited(f"it has an error: {error}") from None
