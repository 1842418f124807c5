"""A D-Bus manager with scripted answers that records its calls, for a private bus."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from dbus_fast import Variant

from gpumand.bus.connection import BusConnection, IncomingCall, Reply
from gpumand.bus.names import BUS_NAME, MANAGER, PROPERTIES, ROOT_PATH
from gpumand.bus.variants import to_variants, unwrap
from gpumand.domain.errors import GpumandError
from tests.unit.cli import samples

Answer = Callable[[IncomingCall], Reply | Awaitable[Reply]]

TYPES = {bool: "b", int: "t", str: "s"}
LEASE = "f3b1c9a27e604d21"


def variants(plain: dict[str, Any]) -> dict[str, Variant]:
    """Convert plain values to a{sv}, with the types of the D-Bus API."""
    return to_variants({name: (_signature(value), _inner(value)) for name, value in plain.items()})


def _signature(value: Any) -> str:
    if isinstance(value, list):
        return "aa{sv}" if value and isinstance(value[0], dict) else "as"
    return "a{sv}" if isinstance(value, dict) else TYPES[type(value)]


def _inner(value: Any) -> Any:
    if isinstance(value, dict):
        return variants(value)
    if isinstance(value, list):
        return [_inner(item) for item in value]
    return value


def replying(signature: str, *body: Any) -> Answer:
    """An answer with always the same reply."""
    return lambda _: Reply(signature, body)


def failing(error: GpumandError) -> Answer:
    """An answer with always the same error."""

    def answer(_: IncomingCall) -> Reply:
        raise error

    return answer


def dictionary(plain: dict[str, Any]) -> Answer:
    """An answer with one a{sv}."""
    return replying("a{sv}", variants(plain))


class ScriptedManager:
    """A manager with scripted answers.

    Attributes:
        answers: answers by member, which tests replace.
        calls: received calls as (member, arguments), without GetStatus.
        callers: bus names of the callers, in the same order.
        acquiring: set when a call of Acquire has arrived.
    """

    def __init__(self, connection: BusConnection) -> None:
        self.connection = connection
        self.calls: list[tuple[str, list[Any]]] = []
        self.callers: list[str] = []
        self.acquiring = asyncio.Event()
        self.answers: dict[str, Answer] = {
            "GetStatus": dictionary(samples.status(queue=[], leases=[samples.lease()])),
            "Acquire": replying("sa{sv}", LEASE, variants(grant())),
            "Release": replying(""),
            "Renew": replying("t", samples.NOW),
            "Plan": dictionary(samples.plan()),
            "Load": dictionary(outcome(evicted=["comfyui"])),
            "Evict": dictionary(outcome(method="http", freed_mib=2867)),
            "Pin": replying(""),
            "Unpin": replying(""),
            "Reload": replying(""),
            "Get": replying("v", Variant("s", "9.9.9")),
        }

    @classmethod
    async def start(cls, address: str) -> ScriptedManager:
        """Connect, start answering and request the name."""
        connection = await BusConnection.connect(address)
        manager = cls(connection)
        connection.serve(manager.answer)
        await connection.request_name(BUS_NAME)
        return manager

    def answer(self, call: IncomingCall) -> Reply | Awaitable[Reply]:
        """Record and answer one call."""
        if call.member != "GetStatus":
            self.calls.append((call.member, unwrap(list(call.body))))
            self.callers.append(call.sender)
        if call.member == "Acquire":
            self.acquiring.set()
        return self.answers[call.member](call)

    def options_of(self, member: str) -> dict[str, Any]:
        """The options of the last call of this method."""
        options: dict[str, Any] = [arguments for name, arguments in self.calls if name == member][-1][1]
        return options

    async def wait_gone(self, name: str) -> None:
        """Return when this client has left the bus."""
        gone = asyncio.Event()
        await self.connection.subscribe(
            callback=lambda signal: gone.set() if not signal.body[2] else None,
            sender="org.freedesktop.DBus",
            member="NameOwnerChanged",
            arg0=name,
        )
        (is_present,) = await self.connection.call(
            "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "NameHasOwner", "s", (name,)
        )
        if is_present:
            async with asyncio.timeout(30):
                await gone.wait()

    def emit(self, member: str, signature: str, *body: Any) -> None:
        """Send a signal of the Manager interface."""
        self.connection.emit(ROOT_PATH, MANAGER, member, signature, body)

    def emit_changed(self, path: str, interface: str, **changed: Any) -> None:
        """Send PropertiesChanged of one object."""
        self.connection.emit(path, PROPERTIES, "PropertiesChanged", "sa{sv}as", (interface, variants(changed), []))

    async def close(self) -> None:
        """Leave the bus."""
        await self.connection.close()


def grant(**changes: Any) -> dict[str, Any]:
    return {
        "consumer": "mvoice",
        "device": "0",
        "waited_usec": 1_200_000,
        "evicted": ["comfyui"],
        "loaded": True,
        "expires_usec": 0,
        "endpoint": "http://127.0.0.1:9200",
    } | changes


def outcome(**changes: Any) -> dict[str, Any]:
    return {
        "consumer": "mvoice",
        "device": "0",
        "changed": True,
        "evicted": [],
        "method": "",
        "freed_mib": 0,
        "duration_usec": 700_000,
    } | changes


async def never(_: IncomingCall) -> Reply:
    """Never answer."""
    await asyncio.Event().wait()
    return Reply()
