"""The process ``gpumand-fleet``: builds the parts, serves until SIGTERM, and reads the rights again at SIGHUP."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from gpumand.bus.machine_id import read_machine_id
from gpumand.domain.errors import ConfigInvalid, NotNowError
from gpumand.fleet.agent import Agent
from gpumand.fleet.clock import BoottimeClock, Clock
from gpumand.fleet.expiry import watch_expiry
from gpumand.fleet.hosts import FleetHost
from gpumand.fleet.http_server import HttpServer
from gpumand.fleet.intents import IntentGuard, Intents
from gpumand.fleet.keys import Keys, is_machine_id
from gpumand.fleet.lease_publisher import LeasePublisher
from gpumand.fleet.listening import bind_all, bind_unix, with_port
from gpumand.fleet.local_access import service_uids
from gpumand.fleet.local_api import LocalApi
from gpumand.fleet.local_gpumand import BusGpumand
from gpumand.fleet.local_host import LocalHost
from gpumand.fleet.member import Member, MemberState
from gpumand.fleet.remote_host import AgentClient
from gpumand.fleet.router import Router
from gpumand.fleet.row_builder import HostFacts, host_row
from gpumand.fleet.row_source import RowSource
from gpumand.fleet.rows import HostRow
from gpumand.fleet.settings import FleetConfig
from gpumand.fleet.store import FleetStore, Interrupted, StoreError
from gpumand.fleet.table import HostTable
from gpumand.fleet.tls import client_context, server_context
from gpumand.fleet.unique import UniqueConsumers
from gpumand.fleet.unique_rules import UniqueRules
from gpumand.version import VERSION

log = logging.getLogger(__name__)

POLL_SEC = 0.1
LEAVE_SEC = 2.0
END_SEC = 10.0
"""How long unique consumers may take to be unloaded at the end; a longer unload goes on without this process."""

WATCH_RETRY_SEC = 5.0
DRAINED = "drained"


class FleetService:
    """All parts of the running process. Create it inside a running event loop, and call ``start``.

    Args:
        config: the configuration.
        store: the store; it is closed at the end.
        machine_id: machine id of this host.
        tls: contexts for callers and for calls; None = without TLS.
        clock: source of time.

    Attributes:
        failed: set when a part has failed unexpectedly, after which the service must be stopped.
        comes_back: whether this process is ended in order to start it again at once, asked at the end.
    """

    def __init__(
        self,
        config: FleetConfig,
        store: FleetStore,
        machine_id: str,
        tls: tuple[ssl.SSLContext, ssl.SSLContext] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.config, self.store, self.machine_id = config, store, machine_id
        self._server_tls = None if tls is None else tls[0]
        self._clock = clock or BoottimeClock()
        self._tasks: list[asyncio.Task[None]] = []
        self._is_closed = False
        self.failed = asyncio.Event()
        self.comes_back: Callable[[], Awaitable[bool]] = _never
        self._listeners = bind_all(config.listen)
        port = self._listeners[0].getsockname()[1] if self._listeners else 0
        self.facts = HostFacts(machine_id, config.host, with_port(config.url, port), config.gateway_url)
        self._build(Keys(config.fleet), AgentClient(None if tls is None else tls[1], config.tls))

    def _build(self, keys: Keys, client: AgentClient) -> None:
        self._keys, self._client = keys, client
        loop = asyncio.get_running_loop()
        self.gpumand = BusGpumand(self.config.bus)
        self.member = Member(self.store, self._clock, host_row(self.facts, {}, {}), self._member_changed)
        self.table = HostTable(keys, loop.time)
        self.rows = RowSource(self.gpumand, self.facts, self._publish)
        self._unique = UniqueRules(lambda: self.member.row, self._name_of, self.gpumand.unload)
        if self._has_claims:
            claims = (self.store, keys, self.machine_id, self.member.fence, self._clock, self._unique.fenced)
            self._unique.claims = self._claims = UniqueConsumers(*claims)
        guard = IntentGuard(self.table, self.machine_id, lambda: self.member.row)
        rules = guard, self._unique
        self._host = LocalHost(
            self.gpumand,
            self.facts,
            self._own_row,
            self.set_drain,
            *rules,
            known=lambda: self.table.revision,
            refresh=self.rows.read_again,
        )
        self._leases = LeasePublisher(self.store, keys, self.machine_id, self._host.via)
        name = f"{self.config.host}/{self.machine_id[:8]}"
        intents = Intents(self.store, keys, self.table, self._clock, name, are_possible=self._has_claims)
        self._intents = intents
        self.router = Router(self.table, intents, self._host_of, lambda: self.config.replicas_at, self.config.host)
        self.api = LocalApi(self.router, self.table, self.machine_id, self.store_state, self._host.claim)
        self.agent = Agent(lambda: self.config, self._host, lambda: self.member.row, self.gpumand.status)
        self._servers = HttpServer(self.agent.routes()), HttpServer(self.api.routes())

    @property
    def _has_claims(self) -> bool:
        return self.config.etcd is not None

    @property
    def lease_count(self) -> int:
        """Leases and requests of the fleet that pass through this process."""
        return self.agent.lease_count + self.api.lease_count

    # -- start and end -------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin to serve. Raises ConfigInvalid."""
        agent, local = self._servers
        await self.rows.read()
        local.unlimited_uids = await asyncio.to_thread(service_uids)
        await local.listen(bind_unix(self.config.socket))
        for listener in self._listeners:
            await agent.listen(listener, self._server_tls)
        works = [self.rows.run(), self.member.run(), self._watch(), self._leases.run(), self._restore_drain()]
        works.append(watch_expiry(self.config))
        if self._has_claims:
            works.append(self._claims.run())
        self._tasks = [asyncio.create_task(work) for work in works]
        for task in self._tasks:
            task.add_done_callback(self._report)
        log.info("gpumand-fleet %s serves %s at %s", VERSION, self.config.host, self.facts.url)

    def begin_stop(self) -> None:
        """Take no new requests from now on."""
        self._host.is_stopping = self.rows.is_draining = True
        self.rows.note_change()
        # Other hosts learn it from the row, and the agent answers them. Leases of this host's users would end soon.
        self._servers[1].stop_listening()

    async def stop(self, drain_sec: float) -> None:
        """Take no new requests, let leases end for a while, then end the rest and leave the fleet."""
        self.begin_stop()
        deadline = asyncio.get_running_loop().time() + drain_sec
        while self.lease_count and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110 - two counters
            await asyncio.sleep(POLL_SEC)
        await self.close()

    async def close(self) -> None:
        """End everything at once; may be called again."""
        if self._is_closed:
            return
        for server in self._servers:
            await server.close()
        is_kept = await self._keeps_unique()
        may_leave = not is_kept and await self._end_unique()
        await self._client.close()
        await self._intents.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with suppress(StoreError, TimeoutError):
            async with asyncio.timeout(LEAVE_SEC):
                await self._leave(may_leave=may_leave, is_kept=is_kept)
        await self.store.close()
        await self.gpumand.close()
        with suppress(OSError):
            self.config.socket.unlink()
        self._is_closed = True

    async def _leave(self, *, may_leave: bool, is_kept: bool) -> None:
        """Leave the fleet, or let the claims stand until the lease in the store ends. Raises StoreError."""
        if may_leave:
            await self.member.leave()
        elif is_kept:
            await self.store.renew()  # the next process has a whole TTL

    async def _keeps_unique(self) -> bool:
        """Whether unique consumers stay loaded for the next process, which takes over the claims; no reload is needed.

        It is as after a kill: the claims stand for ``ttl_sec``.
        """
        is_kept = bool(self._unique.held) and not self.failed.is_set() and await self.comes_back()
        if is_kept:
            log.info("%s: claims stay for the next process", ", ".join(self._unique.held))
        return is_kept

    async def _end_unique(self) -> bool:
        """Unload unique consumers, since no process guards them from now on; False if one stays loaded."""
        try:
            async with asyncio.timeout(END_SEC):
                is_done = await self._unique.end_all()
        except TimeoutError:
            is_done = False
        if not is_done:
            log.warning("a unique consumer stays loaded here; other hosts may load it once the claim of this one ends")
        return is_done

    # -- parts ---------------------------------------------------------------------------------------------------

    def store_state(self) -> dict[str, Any]:
        """The state of the store in words, for the local API."""
        kind = "etcd" if self._has_claims else "static"
        return {"fleet": self.config.fleet, "store": kind, "member": str(self.member.state), "why": self.member.problem}

    async def set_drain(self, drain: bool) -> bool:
        """Take this host out of the placement, or bring it back; return whether that lasts over a restart.

        Raises NotNowError if the store keeps the drain that should end.
        """
        if not drain:
            await self._remove_drain()
        self.rows.is_draining = drain
        await self.rows.read()
        return not drain or await self._keep_drain()

    async def _keep_drain(self) -> bool:
        try:
            await self.store.put(self._keys.drain(self.machine_id), DRAINED, lasting=True)
        except StoreError as error:
            log.warning("the drain of this host ends when gpumand-fleet restarts: %s", error)
            return False
        return self._has_claims  # static peers keep it in memory

    async def _remove_drain(self) -> None:
        try:
            await self.store.remove(self._keys.drain(self.machine_id))
        except StoreError as error:
            raise NotNowError(
                f"the drain of {self.config.host} goes on, because the store does not remove it: {error}. "
                "Try again once the store answers."
            ) from None

    def _publish(self, row: HostRow, status: Mapping[str, Any]) -> None:
        self.member.publish(row)
        self.table.note_own(self.member.row)
        self._leases.offer(status)
        self._unique.note_row(row)

    def _own_row(self) -> HostRow:
        """The row of this host; a drain counts before the row that shows it is built."""
        return replace(self.member.row, draining=True) if self.rows.is_draining else self.member.row

    def _member_changed(self) -> None:
        if self.member.state is MemberState.JOINED:
            self._leases.joined(self.member.fence.generation)

    def _host_of(self, row: HostRow) -> FleetHost:
        return self._host if row.machine_id == self.machine_id else self._client.host(row.name, row.url)

    def _name_of(self, machine_id: str) -> str:
        known = self.table.find(machine_id)
        return machine_id if known is None else known.row.name

    async def _restore_drain(self) -> None:
        """Go on with a drain from before a restart, as soon as the table has been read."""
        while self.table.interruption:
            await self.table.wait_changed(WATCH_RETRY_SEC)
        if self.table.has_drain(self.machine_id) and not self.rows.is_draining:
            self.rows.is_draining = True
            self.rows.note_change()

    def _report(self, task: asyncio.Task[None]) -> None:
        """Let the process end if a part has failed: without it the host would look healthy, and serve no more."""
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a part of gpumand-fleet has failed, so it stops", exc_info=error)
            self.failed.set()

    async def _watch(self) -> None:
        """Feed the table."""
        while True:
            try:
                async for change in self.store.watch(self._keys.root):
                    self.table.apply(change)
            except StoreError as error:
                self.table.apply(Interrupted(str(error)))
            await asyncio.sleep(WATCH_RETRY_SEC)


async def _never() -> bool:
    return False


async def find_machine_id(config: FleetConfig) -> str:
    """The machine id of the configuration or of this host. Raises ConfigInvalid."""
    found = config.machine_id or await asyncio.to_thread(read_machine_id)
    if not is_machine_id(found):
        raise ConfigInvalid("this host has no machine id. Create /etc/machine-id: systemd-machine-id-setup")
    return found


async def tls_contexts(config: FleetConfig) -> tuple[ssl.SSLContext, ssl.SSLContext] | None:
    """The TLS contexts for callers and for calls; None without certificates. Raises ConfigInvalid."""
    files = config.tls
    if files is None:
        return None
    try:
        return await asyncio.to_thread(server_context, files), await asyncio.to_thread(client_context, files)
    except OSError as error:  # ssl.SSLError is one
        raise ConfigInvalid(f"the certificates of this host cannot be used: {error}") from None
