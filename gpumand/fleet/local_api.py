"""The local API on a Unix socket: one entrance to all hosts, for ``gpumanctl --fleet`` and the gateway.

| route | body | answer |
| --- | --- | --- |
| ``GET /v1/hosts`` | | all hosts with their rows, and the state of the store |
| ``POST /v1/acquire`` | ``AcquireCall`` | a stream: the grant, then a newline each second; see ``lease_streams`` |
| ``POST /v1/plan`` | ``PlanCall`` | the hosts that could serve a request, with their plans, the best first |
| ``POST /v1/load`` | ``LoadCall`` | the outcome of a load, on the host ``on`` or on the best one |
| ``POST /v1/place`` | ``PlaceCall`` | the host that a request should be sent to, and its gateway |
| ``POST /v1/claim`` | ``{"consumer": "llm"}`` | this host alone may have the unique consumer loaded |
| ``POST /v1/drain`` | ``DrainCall`` | drains the host ``on``, or ends its drain; for root |

Every user may see the hosts and ask for plans; ``local_access`` decides which users may lease and load. Requests to
other hosts name the user.
"""

from __future__ import annotations

import asyncio
import json
import os
import pwd
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

from aiohttp.web_response import StreamResponse

from gpumand.domain.errors import AccessDenied, LimitsExceeded
from gpumand.fleet.calls import (
    MAX_BODY_BYTES,
    parse_acquire,
    parse_claim,
    parse_drain,
    parse_load,
    parse_place,
    parse_plan,
)
from gpumand.fleet.http_server import Request, Routes, json_response
from gpumand.fleet.lease_streams import serve_lease, while_connected
from gpumand.fleet.local_access import check_local, peer_of
from gpumand.fleet.router import Router
from gpumand.fleet.row_json import encode_host
from gpumand.fleet.rows import HostRow
from gpumand.fleet.table import HostTable

MAX_LEASES = 400
MAX_NAMES = 256
NAME_SEC = 1.0


class LocalApi:
    """Answers the routes.

    Args:
        router: places requests.
        table: the router's table.
        machine_id: machine id of this host.
        store_state: the state of the store in words: its name, and why it is away.
        claim: makes this host the only one that may have a unique consumer loaded. Raises Busy, NotNowError.
    """

    def __init__(
        self,
        router: Router,
        table: HostTable,
        machine_id: str,
        store_state: Callable[[], Mapping[str, Any]],
        claim: Callable[[str], Awaitable[None]],
    ) -> None:
        self._claim_here = claim
        self._router, self._table, self._machine_id, self._store_state = router, table, machine_id, store_state
        self._leases = 0
        self._names: dict[int, str] = {}

    @property
    def lease_count(self) -> int:
        """Leases and waiting requests of this host's users."""
        return self._leases

    def routes(self) -> Routes:
        """The handler of each route."""
        return {
            ("GET", "/v1/hosts"): self._show_hosts,
            ("POST", "/v1/acquire"): self._acquire,
            ("POST", "/v1/plan"): self._plan,
            ("POST", "/v1/load"): self._load,
            ("POST", "/v1/place"): self._place,
            ("POST", "/v1/claim"): self._claim,
            ("POST", "/v1/drain"): self._drain,
        }

    async def _show_hosts(self, _: Request) -> StreamResponse:
        return json_response(self.hosts())

    def hosts(self) -> dict[str, Any]:
        """All hosts with their rows, and the state of the store."""
        view, losses, drained = self._table.view(), self._table.losses(), self._table.drained
        hosts = []
        for name, row in sorted(view.hosts.items(), key=lambda one: one[1].name):
            state = "lost" if name in losses else "drained" if name in drained else "up"
            fields = {
                "state": state,
                "local": name == self._machine_id,
                "why": losses.get(name) or row.outdated or _absence(row) or self._namesake(row),
            }
            hosts.append(fields | {"row": json.loads(encode_host(row)), "leases": self._table.leases.of(name)})
        intents = {name: [one.host for one in found] for name, found in view.intents.items()}
        return {"hosts": hosts, "intents": intents, "degraded": self._table.interruption} | dict(self._store_state())

    def _namesake(self, row: HostRow) -> str:
        """Words for a host whose name another one has too."""
        others = [one.machine_id for one in self._table.named(row.name) if one.machine_id != row.machine_id]
        text = f"the host with the machine id {', '.join(sorted(others))} has the same name. Rename one of them"
        return f"{text}: host in fleet.toml, and a certificate for the new name" if others else ""

    async def _acquire(self, request: Request) -> StreamResponse:
        call = parse_acquire(await request.text(MAX_BODY_BYTES))
        await check_local(peer_of(request.connection.socket))
        if self._leases >= MAX_LEASES:
            raise LimitsExceeded(f"{MAX_LEASES} leases and requests are open on this socket, which is the limit")
        call = replace(call, user=await self._user(request, call.user), revision=None)
        self._leases += 1
        try:
            return await serve_lease(request, self._router.acquire(call))
        finally:
            self._leases -= 1

    async def _plan(self, request: Request) -> StreamResponse:
        return json_response(await self._router.plan(parse_plan(await request.text(MAX_BODY_BYTES))))

    async def _place(self, request: Request) -> StreamResponse:
        call = parse_place(await request.text(MAX_BODY_BYTES))
        await check_local(peer_of(request.connection.socket))
        return json_response(await self._router.place(call))

    async def _claim(self, request: Request) -> StreamResponse:
        consumer = parse_claim(await request.text(MAX_BODY_BYTES))
        await check_local(peer_of(request.connection.socket))
        await self._claim_here(consumer)
        return json_response({"consumer": consumer})

    async def _load(self, request: Request) -> StreamResponse:
        call = parse_load(await request.text(MAX_BODY_BYTES))
        await check_local(peer_of(request.connection.socket))
        call = replace(call, user=await self._user(request, call.user))
        return json_response(await while_connected(request, self._router.load(call)))

    async def _drain(self, request: Request) -> StreamResponse:
        call = parse_drain(await request.text(MAX_BODY_BYTES))
        if _uid(request) not in (0, os.getuid()):
            raise AccessDenied("Permission denied: only root may drain a host. Use sudo.")
        return json_response(await self._router.drain(call))

    async def _user(self, request: Request, stated: str) -> str:
        """The user of a connection, and after a slash the one that it states to act for."""
        uid = _uid(request)
        if uid not in self._names:
            name = await _name_of(uid)
            if len(self._names) >= MAX_NAMES:
                self._names.clear()
            self._names[uid] = name
        return f"{self._names[uid]}/{stated}" if stated else self._names[uid]


def _absence(row: HostRow) -> str:
    return "its gpumand gives no answer, so that it serves no requests" if row.is_away else ""


def _uid(request: Request) -> int:
    """The user id of the peer on the Unix socket; -1 if it is gone."""
    kind, _, number = request.connection.peer.partition(" ")
    return int(number) if kind == "uid" else -1


async def _name_of(uid: int) -> str:
    """The login name of a user, or "uid 1000". A directory service can take long to answer, so it gets a second."""
    try:
        async with asyncio.timeout(NAME_SEC):
            return (await asyncio.to_thread(pwd.getpwuid, uid)).pw_name
    except (KeyError, OverflowError, TimeoutError):
        return f"uid {uid}"
