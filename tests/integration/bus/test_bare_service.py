"""The service of the benchmark that shows what the messages of a lease cost alone sends what a lease sends."""

from __future__ import annotations

import asyncio
from typing import Any

from benchmarks.bare_service import BareService
from gpumand.bus.connection import BusConnection, Signal
from gpumand.bus.names import BUS_NAME, MANAGER, ROOT_PATH
from gpumand.testing.bus import PrivateBus

DEADLINE_SEC = 30.0
SHARED = ["PropertiesChanged", "PropertiesChanged"]


async def test_bare_service_answers_and_announces_like_a_lease() -> None:
    async with PrivateBus() as bus:
        service, client = await BusConnection.connect(bus.address), await BusConnection.connect(bus.address)
        BareService(service)
        await service.request_name(BUS_NAME)
        signals: list[Signal] = []
        await client.subscribe(callback=signals.append, path_namespace=ROOT_PATH)

        async def call(member: str, signature: str, *body: Any) -> tuple[list[str], tuple[Any, ...]]:
            signals.clear()
            async with asyncio.timeout(DEADLINE_SEC):
                reply = await client.call(BUS_NAME, ROOT_PATH, MANAGER, member, signature, body)
            # All of them come before the reply, over the same connection.
            return sorted(signal.member for signal in signals), reply

        announced, (lease, grant) = await call("Acquire", "sa{sv}", "tts", {})
        assert announced == ["InterfacesAdded", "LeaseGranted", *SHARED]
        assert grant["consumer"] == "tts"
        announced, reply = await call("Release", "s", lease)
        assert (announced, reply) == (["InterfacesRemoved", "LeaseEnded", *SHARED], ())
        await client.close()
        await service.close()
