"""Reads gpumand's status for the pages: once for all of them, and only while one is open."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from gpumand.bus.connection_errors import BusError, BusLost
from gpumand.bus.variants import unwrap
from gpumand.client.calls import Calls
from gpumand.client.errors import GpumandError, NotRunning, translate_errors

log = logging.getLogger(__name__)

PERIOD_SEC = 1.0
"""Interval between two readings while nothing is announced; memory and utilisation change without a signal."""

RESTING_PERIOD_SEC = 5.0
"""The same while the driver rests, since a question for the status may open it."""

SETTLE_SEC = 0.2
"""Minimum time between two readings, so that a burst of signals causes one."""

FRESH_SEC = 0.5
"""How old a reading may be that answers a single question."""


@dataclass(frozen=True, slots=True)
class Reading:
    """The last status of gpumand.

    Attributes:
        status: the answer of GetStatus as plain values; None if it was never read.
        absence: why gpumand cannot be reached; "" if it can.
        read_usec: when the status was read, in microseconds since 1970.
    """

    status: dict[str, Any] | None = None
    absence: str = ""
    read_usec: int = 0


class Source(Protocol):
    """Where the status comes from."""

    async def read(self) -> dict[str, Any]:
        """The status. Raises GpumandError."""

    async def listen(self, changed: Callable[[], None]) -> None:
        """Call back whenever the status may have changed. Raises GpumandError."""

    async def close(self) -> None:
        """End the connection."""


class BusSource:
    """gpumand on a bus, over a connection that is opened when it is needed.

    Args:
        bus: "system", "session" or a D-Bus address.
    """

    def __init__(self, bus: str) -> None:
        self._bus = bus
        self._calls: Calls | None = None
        self._connecting = asyncio.Lock()
        self._heard: Calls | None = None

    async def read(self) -> dict[str, Any]:
        """See Source."""
        status: dict[str, Any] = await self.ask(lambda calls: calls.status())
        return status

    async def ask(self, question: Callable[[Calls], Awaitable[Any]]) -> Any:
        """The answer to a question that changes nothing, as JSON can carry it. Raises GpumandError."""
        with translate_errors():
            calls = await self._connected()
            try:
                # The bus would start a daemon that an administrator has stopped, for a page that was left open.
                if not await calls.is_running():
                    raise NotRunning("gpumand is not running. Start it: systemctl start gpumand.service")
                return plain(await question(calls))
            except BusLost:
                await self._drop(calls)
                raise

    async def listen(self, changed: Callable[[], None]) -> None:
        """See Source."""
        with translate_errors():
            calls = await self._connected()
            if self._heard is not calls:
                self._heard = calls
                await calls.listen(lambda _: changed())

    async def close(self) -> None:
        """See Source."""
        if self._calls is not None:
            await self._drop(self._calls)

    async def _connected(self) -> Calls:
        async with self._connecting:
            if self._calls is not None and self._calls.connection.lost_reason:
                await self._drop(self._calls)
            if self._calls is None:
                self._calls = await Calls.connect(self._bus)
            return self._calls

    async def _drop(self, calls: Calls) -> None:
        if self._calls is calls:
            self._calls = self._heard = None
        with contextlib.suppress(BusError, BusLost):
            await calls.close()


@dataclass(slots=True)
class Feed:
    """The status for all pages. Create it inside a running event loop.

    Args:
        source: where the status comes from.
        publish: called after each reading while pages are open.
    """

    source: Source
    publish: Callable[[], None] = lambda: None
    reading: Reading = field(default_factory=Reading)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _task: asyncio.Task[None] | None = None
    _once: asyncio.Task[None] | None = None
    _read_at: float = -math.inf

    def start(self) -> None:
        """A page was opened: keep the reading current."""
        if self._task is None:
            self._task = asyncio.ensure_future(self._run())

    def stop(self) -> None:
        """The last page was closed."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def note_change(self) -> None:
        """Something has changed that pages show: read again soon."""
        self._changed.set()

    async def current(self) -> Reading:
        """A reading that is fresh enough for one answer; questions at the same time share it."""
        if asyncio.get_running_loop().time() - self._read_at > FRESH_SEC:
            if self._once is None or self._once.done():
                self._once = asyncio.ensure_future(self._read())
            # Shielded, because other requests may wait for it too.
            await asyncio.shield(self._once)
        return self.reading

    async def close(self) -> None:
        """Stop reading and close the connection."""
        tasks = [task for task in (self._task, self._once) if task is not None]
        self.stop()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.source.close()

    async def _run(self) -> None:
        while True:
            await self._read()
            try:
                self.publish()
            except Exception:
                # A status of an unexpected form must not end the readings: the next one may be valid.
                log.exception("the status cannot be shown")
            await asyncio.sleep(SETTLE_SEC)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._period_sec()):
                    await self._changed.wait()
            self._changed.clear()

    def _period_sec(self) -> float:
        state = (self.reading.status or {}).get("driver_state", "open")
        return PERIOD_SEC if state == "open" or self.reading.absence else RESTING_PERIOD_SEC

    async def _read(self) -> None:
        try:
            await self.source.listen(self.note_change)
            status = await self.source.read()
        except GpumandError as error:
            # The last status stays, so that a page can show what was known when gpumand went away.
            self.reading = Reading(self.reading.status, error.message, self.reading.read_usec)
        else:
            self.reading = Reading(status, "", time.time_ns() // 1000)
        self._read_at = asyncio.get_running_loop().time()


def plain(value: Any) -> Any:
    """A value of D-Bus as JSON can carry it: without Variants, and with null in place of infinite numbers."""
    return _finite(unwrap(value))


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _finite(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return value if isinstance(value, str | int | bool | None) else str(value)
