"""The other hosts of the fleet, as the gateway of this host knows them: what they are, and which models they have.

Everything is asked of the local gpumand-fleet and of the other gateways, with short time limits, and kept for some
seconds. While the fleet gives no answer the gateway serves this host as if it were alone.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from gpumand.client.errors import Busy, CallerError, GpumandError, error_for
from gpumand.gateway.fleet_config import FleetSettings
from gpumand.gateway.headers import HOP_HEADER
from gpumand.gateway.refusals import AgentDown, FleetUnavailable, Refused
from gpumand.gateway.upstream import Endpoint, UpstreamDown, Upstreams, endpoint_of

log = logging.getLogger(__name__)

MODELS_PATH = "/api/gpumand/models"
"""Where a gateway lists its models for the gateways of other hosts, each with its consumer."""

CALL_SEC = 2.0
CLAIM_SEC = 10.0
"""A claim waits for etcd, which may elect a leader meanwhile."""

HOSTS_SEC = 2.0
"""How old the known hosts may be."""

MODELS_SEC = 5.0
"""How old the known models of other hosts may be; older ones are used while they are asked for again."""

FIRST_WAIT_SEC = 2.0
MAX_HOSTS = 64
MAX_BYTES = 4 << 20
MAX_HOSTS_BYTES = 32 << 20
"""Size of the rows and leases of as many hosts as gpumand-fleet knows: 256 rows of up to 64 KiB, and 4096 leases."""

MAX_MODELS = 4096

_ERRORS = (aiohttp.ClientError, OSError, TimeoutError, ValueError, RecursionError, Refused, UpstreamDown)

_JSON = {"Content-Type": "application/json"}

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class OtherHost:
    """Another host whose gateway can be used.

    Attributes:
        name: its name in the fleet.
        gateway: where its gateway is.
    """

    name: str
    gateway: Endpoint


@dataclass(frozen=True, slots=True)
class OtherModels:
    """The models of another host.

    Attributes:
        openai: its entries of /v1/models.
        ollama: its entries of /api/tags.
        consumers: the consumer of each model, by its id.
    """

    openai: tuple[Document, ...] = ()
    ollama: tuple[Document, ...] = ()
    consumers: Mapping[str, str] = field(default_factory=dict)

    def only(self, consumers: Collection[str]) -> OtherModels:
        """The models of some consumers only."""
        kept = {name: one for name, one in self.consumers.items() if one in consumers}
        openai = tuple(one for one in self.openai if one["id"] in kept)
        return OtherModels(openai, tuple(one for one in self.ollama if one["name"] in kept), kept)


class Fleet:
    """Asks the fleet. Create it inside a running event loop.

    Args:
        settings: returns the configuration that is in force.
        upstreams: the HTTP clients.
    """

    def __init__(self, settings: Callable[[], FleetSettings], upstreams: Upstreams) -> None:
        self._settings, self._upstreams = settings, upstreams
        self._hosts: Document = {}
        self._hosts_at = self._models_at = -1e9
        self._models: dict[str, OtherModels] = {}
        self._reading: asyncio.Task[None] | None = None
        self._asking: asyncio.Task[None] | None = None
        self._absence = ""

    @property
    def is_enabled(self) -> bool:
        """Whether requests may be passed on to other hosts."""
        return self._settings().enabled

    @property
    def key(self) -> str:
        """The API key for other gateways; "" = none."""
        return self._settings().key

    async def document(self) -> Document | None:
        """All hosts as gpumand-fleet shows them, and ``absence`` if it does not answer; None without a fleet."""
        if not self.is_enabled:
            return None
        await self._current_hosts()
        return self._hosts | {"absence": self._absence}

    async def others(self) -> dict[str, OtherHost]:
        """The other hosts that are up and have a gateway, by name."""
        await self._current_hosts()
        found: dict[str, OtherHost] = {}
        for one in self._shown():
            row = one.get("row") or {}
            name, gateway = row.get("name"), row.get("gateway")
            is_usable = one.get("state") == "up" and not one.get("local") and isinstance(name, str) and bool(gateway)
            if is_usable and len(found) < MAX_HOSTS and (endpoint := _endpoint(str(name), str(gateway))) is not None:
                found[str(name)] = OtherHost(str(name), endpoint)
        return found

    async def models(self) -> dict[str, OtherModels]:
        """The models of the other hosts that are up, by host."""
        others = await self.others()
        if time.monotonic() - self._models_at > MODELS_SEC and (self._reading is None or self._reading.done()):
            self._reading = asyncio.ensure_future(self._read_models(others))
        if self._reading is not None and not set(others) <= self._models.keys():
            await asyncio.wait({self._reading}, timeout=FIRST_WAIT_SEC)
        return {name: self._models[name] for name in others if name in self._models}

    async def place(self, consumer: str, without: Collection[str] = ()) -> OtherHost | None:
        """The other host that a request for a consumer should go to; None = none, so that this host serves it.

        Args:
            consumer: the consumer.
            without: names of hosts that are not an answer.
        """
        name = await self.placed(consumer, without)
        return (await self.others()).get(name)

    async def placed(self, consumer: str, without: Collection[str] = ()) -> str:
        """The name of the host that a request should go to, which can be this one; "" = the fleet does not decide."""
        others = await self.others()
        unusable = [name for name in self._names() if name not in others and name != self.local_name]
        body = {"consumer": consumer, "without": sorted({*without, *unusable})[:MAX_HOSTS]}
        try:
            answer = await self._call("POST", "/v1/place", body)
        except _ERRORS as error:
            log.debug("the fleet places no request for %s: %r", consumer, error)
            return ""
        return str(answer.get("host") or "")

    async def claim(self, consumer: str) -> None:
        """Make this host the only one of the fleet that may have a unique consumer loaded. Raises GpumandError."""
        data = json.dumps({"consumer": consumer}).encode()
        try:
            async with asyncio.timeout(CLAIM_SEC):
                status, answer = await self._answer(self._agent, "POST", "/v1/claim", _JSON, data)
        except _ERRORS as error:
            reason = "it is not running" if isinstance(error, UpstreamDown) else str(error) or "no answer in time"
            text = f"{consumer} may be loaded on one host only, and gpumand-fleet does not answer: {reason}."
            kind = AgentDown if isinstance(error, UpstreamDown) else FleetUnavailable
            raise kind(f"{text} Try again later.") from None
        if status != 200:
            raise _claim_error(answer)

    @property
    def local_name(self) -> str:
        """The name of this host in the fleet; "" while it is unknown."""
        return next((str(one["row"].get("name")) for one in self._shown() if one.get("local")), "")

    async def close(self) -> None:
        """End what is under way."""
        tasks = [one for one in (self._reading, self._asking) if one is not None]
        for one in tasks:
            one.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _shown(self) -> list[Document]:
        hosts = self._hosts.get("hosts")
        rows = hosts if isinstance(hosts, list) else []
        return [one for one in rows if isinstance(one, dict) and isinstance(one.get("row"), dict)]

    def _names(self) -> list[str]:
        return [str(one["row"].get("name")) for one in self._shown()]

    async def _current_hosts(self) -> None:
        """Ask for the hosts, unless they are known; requests at the same time share the question."""
        if time.monotonic() - self._hosts_at <= HOSTS_SEC:
            return
        if self._asking is None or self._asking.done():
            self._asking = asyncio.ensure_future(self._read_hosts())
        await asyncio.shield(self._asking)

    async def _read_hosts(self) -> None:
        try:
            found = await self._call("GET", "/v1/hosts", None, MAX_HOSTS_BYTES)
            self._hosts, self._absence = _without_leases(found), ""
        except _ERRORS as error:
            reason = "it is not running" if isinstance(error, UpstreamDown) else str(error) or "no answer in time"
            self._hosts, self._absence = {}, f"gpumand-fleet does not answer: {reason}"
        self._hosts_at = time.monotonic()

    async def _call(self, method: str, path: str, body: Document | None, max_bytes: int = MAX_BYTES) -> Document:
        data = None if body is None else json.dumps(body).encode()
        async with asyncio.timeout(CALL_SEC):
            return await self._document(self._agent, method, path, _JSON, data, max_bytes)

    @property
    def _agent(self) -> Endpoint:
        return Endpoint("http://localhost", "http://localhost", self._settings().socket)

    async def _read_models(self, others: Mapping[str, OtherHost]) -> None:
        found = await asyncio.gather(*(self._models_of(one) for one in others.values()))
        read = {name: one for name, one in zip(others, found, strict=True) if one is not None}
        self._models = {name: one for name, one in self._models.items() if name in others} | read
        self._models_at = time.monotonic()

    async def _models_of(self, host: OtherHost) -> OtherModels | None:
        try:
            async with asyncio.timeout(CALL_SEC):
                return _models(await self._document(host.gateway, "GET", MODELS_PATH, self.headers(host.gateway), None))
        except _ERRORS as error:
            log.debug("the gateway of %s lists no models: %r", host.name, error)
            return None

    def headers(self, gateway: Endpoint) -> dict[str, str]:
        """Headers of a request to the gateway of another host."""
        own = {HOP_HEADER: self.local_name or "gateway", "Host": gateway.origin.partition("://")[2]}
        return own | ({"Authorization": f"Bearer {self.key}"} if self.key else {})

    async def _document(
        self,
        endpoint: Endpoint,
        method: str,
        path: str,
        headers: Mapping[str, str],
        data: bytes | None,
        max_bytes: int = MAX_BYTES,
    ) -> Document:
        """The JSON object that a server answers with. Raises one of ``_ERRORS``."""
        status, found = await self._answer(endpoint, method, path, headers, data, max_bytes)
        if status != 200:
            raise ValueError(f"status {status}: {str(found)[:200]}")
        return found

    async def _answer(
        self,
        endpoint: Endpoint,
        method: str,
        path: str,
        headers: Mapping[str, str],
        data: bytes | None,
        max_bytes: int = MAX_BYTES,
    ) -> tuple[int, Document]:
        """Status and JSON object of an answer. Raises one of ``_ERRORS``."""
        answer = await self._upstreams.request(endpoint, method, path, headers, data)
        try:
            content = bytearray()
            while chunk := await answer.content.readany():
                content += chunk
                if len(content) > max_bytes:
                    raise ValueError("the answer is too large")
        finally:
            answer.close() if not answer.content.at_eof() else answer.release()
        found = json.loads(bytes(content))
        if not isinstance(found, dict):
            raise ValueError(f"status {answer.status}: {bytes(content[:200])!r}")
        return answer.status, found


def _without_leases(document: Document) -> Document:
    """The hosts without their leases: these have owners and reasons, which clients of the gateway need not see."""
    hosts = document.get("hosts")
    shown = [one for one in hosts if isinstance(one, dict)] if isinstance(hosts, list) else []
    return document | {"hosts": [{key: value for key, value in one.items() if key != "leases"} for one in shown]}


def _claim_error(answer: Document) -> GpumandError:
    """Why this host may not have a unique consumer: another one has it, or the store cannot decide now."""
    error = error_for(str(answer.get("error") or ""), str(answer.get("message") or "no reason is given"))
    is_final = isinstance(error, Busy | CallerError)
    return error if is_final else FleetUnavailable(error.message)


def _endpoint(name: str, url: str) -> Endpoint | None:
    try:
        return endpoint_of(name, url)
    except Refused:
        return None


def _models(document: Document) -> OtherModels:
    openai = _entries(document.get("openai"), "id")
    ollama = _entries(document.get("ollama"), "name")
    consumers = document.get("consumers")
    pairs = consumers.items() if isinstance(consumers, dict) else ()
    return OtherModels(openai, ollama, {str(name): str(one) for name, one in list(pairs)[:MAX_MODELS]})


def _entries(value: object, name: str) -> tuple[Document, ...]:
    entries = value if isinstance(value, list) else []
    return tuple(one for one in entries[:MAX_MODELS] if isinstance(one, dict) and isinstance(one.get(name), str))
