"""A WebSocket that has been ended passes no further messages of its client."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from gpumand.gateway.refusals import Refusal
from gpumand.gateway.requests import Client, RequestTable, WaitLimits
from gpumand.gateway.routes.classes import RouteClass
from gpumand.gateway.socket_requests import SocketLease


async def test_cancelled_websocket_of_a_client_whose_key_was_revoked_passes_no_message() -> None:
    table = RequestTable(WaitLimits())
    entry = table.add(Client("me"), "llm", "GET", "/ws", RouteClass.WORK)
    entry.task = cast(Any, SimpleNamespace(cancel=lambda: True))
    entry.is_working = True
    exchange: Any = SimpleNamespace(entry=entry, service=SimpleNamespace(settings=SimpleNamespace(ws_idle_sec=60.0)))
    lease = SocketLease(cast(Any, None), exchange, lambda ticket: None)
    table.refuse(entry, Refusal(401, "key_wrong", "This API key is not known."))
    table.cancel(entry.number, "the card is needed")

    with pytest.raises(ConnectionResetError):
        lease.before_message()
