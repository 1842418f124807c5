"""Admits requests, and checks them again when a reload has changed what their clients may do.

A request that has not begun to work ends at once if it would be refused now: one that waits, uploads, or only looks. A
request whose work has begun goes on to its end: the work was permitted, and half of it is of no use to any client.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

from gpumand.gateway import web
from gpumand.gateway.access import Access
from gpumand.gateway.connections import Connection
from gpumand.gateway.headers import Origin
from gpumand.gateway.refusals import Refusal, Refused
from gpumand.gateway.requests import Client, Entry, RequestTable
from gpumand.gateway.router import check_consumer


@dataclass(slots=True, eq=False)
class Admission:
    """A request that was admitted.

    Attributes:
        request: the request as aiohttp received it.
        connection: the connection that it came in by.
        client: its client.
        origin: what forwarded headers say about the client.
        task: the task that handles it.
        entry: its entry in the table of requests; None = it is for the gateway itself.
        refusal: why it ends, once its client may not send it any more.
    """

    request: web.BaseRequest
    connection: Connection
    client: Client
    origin: Origin
    task: asyncio.Task[object] | None
    entry: Entry | None = None
    refusal: Refusal | None = None


class Admissions:
    """All requests that were admitted and have not ended.

    Args:
        access: admits clients.
        table: the requests in flight.
    """

    def __init__(self, access: Access, table: RequestTable) -> None:
        self._access, self._table = access, table
        self._open: dict[Admission, None] = {}

    def admit(self, request: web.BaseRequest, connection: Connection) -> Admission:
        """Admit the request of the current task. Raises Refused."""
        client, origin = self._access.admit(request, connection)
        admission = Admission(request, connection, client, origin, asyncio.current_task())
        self._open[admission] = None
        return admission

    def end(self, admission: Admission) -> None:
        """A request has ended."""
        self._open.pop(admission, None)

    def check(self) -> None:
        """Check all requests by the configuration that is in force now."""
        for admission in tuple(self._open):
            if admission.connection.is_gone:
                continue
            try:
                self._check(admission)
            except Refused as error:
                self._refuse(admission, error.refusal)

    def _check(self, admission: Admission) -> None:
        client, _ = self._access.admit(admission.request, admission.connection)
        entry = admission.entry
        if entry is None:
            return
        if entry.consumer:
            check_consumer(client, entry.consumer)
        # The header with a key of the gateway must not reach a service, even if the configuration has no keys now.
        has_key = client.has_key or entry.client.has_key
        self._table.set_client(entry, replace(client, has_key=has_key))
        if not entry.is_cancelled:
            entry.refusal = None

    def _refuse(self, admission: Admission, refusal: Refusal) -> None:
        if admission.entry is not None:
            self._table.refuse(admission.entry, refusal)
            return
        is_ending, admission.refusal = admission.refusal is not None, refusal
        if not is_ending and admission.task is not None:
            admission.task.cancel()
