"""What the daemon has of the HTTP face. It costs nothing, aiohttp included, until there is something to listen on."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from gpumand.config.validators import split_address
from gpumand.domain.consumer import HttpSettings
from gpumand.domain.errors import ConfigInvalid
from gpumand.domain.events import Event
from gpumand.domain.status import Status
from gpumand.http.event_streams import Streams
from gpumand.http.limits import BACKLOG
from gpumand.http.metrics import Metrics

if TYPE_CHECKING:
    from gpumand.http.endpoints import HttpEndpoints

log = logging.getLogger(__name__)


class AddressTaken(ConfigInvalid):
    """It cannot be listened there now; unlike with other faults of a configuration, trying again may help."""


class HttpListener:
    """The HTTP face, where there is one.

    Args:
        status: one consistent snapshot of everything.
        passed: listening sockets that systemd passed; they are closed with this.
    """

    def __init__(self, status: Callable[[], Status], passed: Sequence[socket.socket]) -> None:
        self._status = status
        self._passed = tuple(passed)
        self._metrics = Metrics()
        self._streams = Streams()
        self._face: HttpEndpoints | None = None
        self._tcp: asyncio.Server | None = None
        self._listen = ""

    def publish(self, event: Event) -> None:
        """Take note of an event and tell those who follow; never raises, as the bus's side does not."""
        try:
            self._metrics.note(event)
            self._streams.publish(event)
        except Exception:
            log.exception("%s could not be told over HTTP", type(event).__name__)

    async def open(self, settings: HttpSettings) -> None:
        """Answer on the passed sockets, and where the configuration says. Raises ConfigInvalid."""
        for listener in self._passed:
            await (await self._opened()).open(listener)
        await self.configure(settings)

    async def configure(self, settings: HttpSettings) -> None:
        """Listen where the configuration says now. Raises ConfigInvalid, and then all is as it was."""
        if settings.listen == self._listen:
            return
        tcp = await self._listen_at(settings.listen) if settings.listen else None
        if self._tcp is not None:
            self._tcp.close()
        self._tcp, self._listen = tcp, settings.listen

    async def close(self) -> None:
        """Accept no more, and end what is open."""
        if self._face is not None:
            await self._face.close()
        for listener in self._passed:
            listener.close()

    async def _listen_at(self, address: str) -> asyncio.Server:
        listener = _bound(address)
        log.info("HTTP is answered at %s", address)
        return await (await self._opened()).open(listener)

    async def _opened(self) -> HttpEndpoints:
        if self._face is None:
            await asyncio.to_thread(__import__, "aiohttp.web")  # 130 ms that the loop would not have for others
            from gpumand.http.endpoints import HttpEndpoints

            self._face = HttpEndpoints(self._status, self._metrics, self._streams)
        return self._face


def _bound(address: str) -> socket.socket:
    """A TCP socket that listens there. Raises ConfigInvalid."""
    host, port = split_address(address)
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise AddressTaken(f"http.listen: {address} cannot be listened at: {error.strerror}") from None
    listener.setblocking(False)
    return listener
