"""Services that were moved without a record: by an earlier version, or before the record was removed with the package.

The first line of a drop-in names the consumer and its former url; the rest follows from the files.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from gpumand.cli.gateway_setup import DROP_IN, WAY_BACK, Places, changed_line, documents, listener_text
from gpumand.cli.swap_undo.record import DropIn, ListenerTable, MovedService, SwapRecord, UrlLine
from gpumand.config.url_edit import CannotEdit, with_url
from gpumand.discovery.port_swap import Swap

_FORMER = re.compile(
    re.escape(WAY_BACK) + r'in /etc/gpumand, \[consumers\."?(?P<name>[^"\]]+)"?\]: url = "(?P<url>http://[^"]+)"'
)
_BODY = re.compile(r"\[Service\]\n(Environment=[^\n]+|ExecStart=\nExecStart=[^\n]+)\n")
"""What the swap writes into a drop-in, after the first line."""


def with_former_moves(record: SwapRecord, places: Places) -> SwapRecord:
    """The record with the services that have a drop-in of the gateway and are not in it.

    Args:
        record: the record.
        places: where the files are.
    """
    recorded = {one.drop_in.path for one in record.services.values() if one.drop_in is not None}
    found = {one.consumer: one for one in _found(places) if one.drop_in and one.drop_in.path not in recorded}
    return replace(record, services={**found, **record.services})


def _found(places: Places) -> Iterable[MovedService]:
    for path in sorted(places.units.glob(f"*.service.d/{DROP_IN}")):
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        first, _, body = text.partition("\n")
        match = _FORMER.fullmatch(first)
        if match is not None:
            old_port = _port_of(match["url"])
            if not old_port:  # the swap writes no such url
                continue
            # A file with other lines was edited, and no text is known that may be removed.
            written = text if _BODY.fullmatch(body) else ""
            drop_in = DropIn(str(path), written, made_folder=True)
            swap = Swap(match["name"], path.parent.name.removesuffix(".d"), old_port, 0)
            yield _moved(swap, match["url"], drop_in, places)


def _moved(swap: Swap, former_url: str, drop_in: DropIn, places: Places) -> MovedService:
    moved = MovedService(swap.consumer, swap.unit, swap.old_port, 0, _listener(swap, places.gateway), drop_in)
    for path, tables in documents(places.config):
        present = str(tables.get(swap.consumer, {}).get("url", ""))
        if present:
            url = _url_line(path, swap.consumer, present, former_url)
            return replace(moved, new_port=_port_of(present), url=url)
    return moved


def _port_of(url: str) -> int:
    """The port of a url; 0 for a url with an error."""
    try:
        return urlsplit(url).port or 80
    except ValueError:
        return 0


def _url_line(path: Path, consumer: str, present: str, former_url: str) -> UrlLine | None:
    """The line with the url; None if it is the former one, or has to be changed by a person."""
    if present == former_url:
        return None
    try:
        text = path.read_text(encoding="utf-8")
        former, written = changed_line(text, with_url(text, consumer, former_url))
    except (CannotEdit, OSError):
        return None
    return None if written is None else UrlLine(str(path), written, former)


def _listener(swap: Swap, gateway: Path) -> ListenerTable | None:
    """The listener as it was written; one that a person has written otherwise is refused as an edited one."""
    try:
        text = gateway.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    gap_and_table = listener_text("\n", swap)
    written = gap_and_table if gap_and_table in text else listener_text("", swap)
    return ListenerTable(str(gateway), written, swap.old_port)
