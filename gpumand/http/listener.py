"""Starts and stops the HTTP endpoints.

aiohttp takes 10 MiB. It is imported when there is an address to listen on, or at the first connection to a socket that
systemd passed: the package passes one on every host, and on most hosts nothing ever connects to it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from gpumand.config.validators import split_address
from gpumand.domain.errors import ConfigInvalid
from gpumand.domain.events import Event
from gpumand.domain.output_settings import HttpSettings
from gpumand.domain.status import Status
from gpumand.http.event_streams import EventStreams
from gpumand.http.free_bind import bind_now_or_later
from gpumand.http.limits import BACKLOG
from gpumand.http.metrics import Metrics

if TYPE_CHECKING:
    from gpumand.http.endpoints import HttpEndpoints

log = logging.getLogger(__name__)


class AddressUnavailable(ConfigInvalid):
    """The configured address cannot be listened on at the moment.

    Unlike other configuration errors this one may be temporary, so a restart can help.
    """


class HttpListener:
    """Listens for HTTP on the sockets passed by systemd and on the configured TCP address.

    Args:
        status: returns a consistent snapshot of the daemon's state.
        passed: listening sockets that systemd passed; ``close`` closes them.
        refresh: returns a reading to await before the status, where none was taken for a while; None = not needed.
    """

    def __init__(
        self,
        status: Callable[[], Status],
        passed: Sequence[socket.socket],
        refresh: Callable[[], Awaitable[None] | None] = lambda: None,
    ) -> None:
        self._status, self._refresh = status, refresh
        self._passed = tuple(passed)
        self._metrics = Metrics()
        self._streams = EventStreams()
        self._endpoints: HttpEndpoints | None = None
        self._opening: dict[socket.socket, asyncio.Task[None] | None] = {}
        self._tcp: asyncio.Server | None = None
        self._listen = ""

    def publish(self, event: Event) -> None:
        """Record an event in the metrics and send it to the readers. Never raises, so that HTTP cannot break D-Bus."""
        try:
            self._metrics.record(event)
            self._streams.publish(event)
        except Exception:
            log.exception("event %s could not be published over HTTP", type(event).__name__)

    async def open(self, settings: HttpSettings) -> None:
        """Serve the passed sockets and the configured address. Raises ConfigInvalid."""
        for listener in self._passed:
            self._opening[listener] = None
            asyncio.get_running_loop().add_reader(listener, self._start_opening, listener)
        await self.configure(settings)

    def _start_opening(self, listener: socket.socket) -> None:
        """Serve a passed socket to which a client has connected; the connection waits in its queue meanwhile."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(listener)
        self._opening[listener] = loop.create_task(self._open_passed(listener))

    async def _open_passed(self, listener: socket.socket) -> None:
        try:
            await (await self._get_endpoints()).open(listener)
        except Exception:
            log.exception("HTTP: the socket that systemd passed cannot be served")

    async def configure(self, settings: HttpSettings) -> None:
        """Listen on the configured address. Raises ConfigInvalid and then changes nothing."""
        if settings.listen == self._listen:
            return
        # The new address is opened before the old one is closed, so that a failure leaves the old one in use.
        tcp = await self._listen_at(settings.listen) if settings.listen else None
        if self._tcp is not None:
            self._tcp.close()
        self._tcp, self._listen = tcp, settings.listen

    async def close(self) -> None:
        """Stop listening and end all connections."""
        for listener, opening in self._opening.items():
            if opening is None:
                asyncio.get_running_loop().remove_reader(listener)
            else:
                await opening
        if self._endpoints is not None:
            await self._endpoints.close()
        for listener in self._passed:
            listener.close()

    async def _listen_at(self, address: str) -> asyncio.Server:
        listener = _bound(address)
        log.info("HTTP: listening on %s", address)
        return await (await self._get_endpoints()).open(listener)

    async def _get_endpoints(self) -> HttpEndpoints:
        if self._endpoints is None:
            # The import takes 130 ms, which would block the event loop.
            await asyncio.to_thread(__import__, "aiohttp.web")
        if self._endpoints is None:  # another call may have created them during the import
            from gpumand.http.endpoints import HttpEndpoints

            self._endpoints = HttpEndpoints(self._status, self._refresh, self._metrics, self._streams)
        return self._endpoints


def _bound(address: str) -> socket.socket:
    """Return a TCP socket that listens on an address, also one that this host has only later. Raises ConfigInvalid."""
    host, port = split_address(address)
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        # Otherwise bind fails after a restart as long as connections of the former daemon are in TIME_WAIT.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bind_now_or_later(listener, host, port)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        reason = f"cannot listen on {address}: {error.strerror}"
        raise AddressUnavailable(f"http.listen: {reason}. Choose a free address of this host") from None
    listener.setblocking(False)
    return listener
