"""The agent: serves this host to the routers of other hosts, over connections with client certificates.

| route | body | answer |
| --- | --- | --- |
| ``POST /v1/acquire`` | ``AcquireCall`` | a stream: the grant, then a newline each second; see ``lease_streams`` |
| ``POST /v1/plan`` | ``PlanCall`` | the plan of gpumand |
| ``POST /v1/load`` | ``LoadCall`` | the outcome |
| ``POST /v1/drain`` | ``DrainCall`` | the host and its drain |
| ``GET /v1/row`` | | the row of this host |
| ``GET /v1/status`` | | the status of gpumand |

Reading needs no right: every host of the fleet has the rows of all hosts.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from aiohttp.web_response import StreamResponse

from gpumand.domain.errors import LimitsExceeded
from gpumand.fleet.access import check_right
from gpumand.fleet.calls import MAX_BODY_BYTES, parse_acquire, parse_drain, parse_load, parse_plan
from gpumand.fleet.http_server import Request, Routes, json_response
from gpumand.fleet.lease_streams import serve_lease
from gpumand.fleet.local_host import LocalHost
from gpumand.fleet.row_json import encode_host
from gpumand.fleet.rows import HostRow
from gpumand.fleet.settings import FleetConfig, Right
from gpumand.fleet.tls import caller_name

MAX_REMOTE = 200
"""Leases, loads and waiting requests of other hosts. Each has a bus connection, and the bus allows 256 of one user."""

MAX_CALLS = 32
"""Plans and questions for the status at the same time."""


class Agent:
    """Answers the routes.

    Args:
        config: the configuration, read at every request.
        host: this host.
        row: the newest row of this host.
        status: the status of gpumand as plain values.
    """

    def __init__(
        self,
        config: Callable[[], FleetConfig],
        host: LocalHost,
        row: Callable[[], HostRow],
        status: Callable[[], Awaitable[dict[str, Any]]],
    ) -> None:
        self._config, self._host, self._row, self._status = config, host, row, status
        self._remote = 0
        self._calls = asyncio.Semaphore(MAX_CALLS)

    @property
    def lease_count(self) -> int:
        """Leases, loads and waiting requests of other hosts."""
        return self._remote

    def routes(self) -> Routes:
        """The handler of each route."""
        return {
            ("POST", "/v1/acquire"): self._acquire,
            ("POST", "/v1/plan"): self._plan,
            ("POST", "/v1/load"): self._load,
            ("POST", "/v1/drain"): self._drain,
            ("GET", "/v1/row"): self._show_row,
            ("GET", "/v1/status"): self._show_status,
        }

    def _caller(self, request: Request, right: Right) -> str:
        """The host that calls. Raises AccessDenied."""
        caller = caller_name(request.connection.certificate)
        check_right(self._config(), caller, right)
        return caller

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Count a request that may take long. Raises LimitsExceeded."""
        if self._remote >= MAX_REMOTE:
            raise LimitsExceeded(f"{MAX_REMOTE} leases and requests of other hosts are open here, which is the limit")
        self._remote += 1
        try:
            yield
        finally:
            self._remote -= 1

    async def _acquire(self, request: Request) -> StreamResponse:
        caller = self._caller(request, Right.ACQUIRE)
        call = parse_acquire(await request.text(MAX_BODY_BYTES))
        with self._counted():
            return await serve_lease(request, self._host.acquire_for(caller, call))

    async def _plan(self, request: Request) -> StreamResponse:
        self._caller(request, Right.PLAN)
        call = parse_plan(await request.text(MAX_BODY_BYTES))
        async with self._calls:
            return json_response(await self._host.plan(call))

    async def _load(self, request: Request) -> StreamResponse:
        caller = self._caller(request, Right.LOAD)
        call = parse_load(await request.text(MAX_BODY_BYTES))
        with self._counted():
            return json_response(await self._host.load_for(caller, call))

    async def _drain(self, request: Request) -> StreamResponse:
        self._caller(request, Right.DRAIN)
        return json_response(await self._host.drain(parse_drain(await request.text(MAX_BODY_BYTES))))

    async def _show_row(self, _: Request) -> StreamResponse:
        return json_response(json.loads(encode_host(self._row())))

    async def _show_status(self, _: Request) -> StreamResponse:
        async with self._calls:
            return json_response(await self._status())
