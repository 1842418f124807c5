"""org.freedesktop.LogControl1: published at its fixed path, readable by all, writable by trusted users."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from dbus_fast import Variant

from gpumand.bus.authorization import UidAuthority
from gpumand.bus.clients import Clients
from gpumand.bus.connection import BusConnection, BusError
from gpumand.bus.log_control import LogControl
from gpumand.bus.names import BUS_NAME, INTROSPECTABLE, LOG_CONTROL, LOG_CONTROL_PATH, PROPERTIES
from gpumand.bus.service import ManagerService
from gpumand.bus.variants import unwrap
from gpumand.log import logging_setup
from tests.integration.bus.conftest import ScriptedUnits
from tests.integration.bus.private_bus import PolicyBus
from tests.scripted_arbiter import ScriptedArbiter
from tests.scripted_user_names import ScriptedUserNames


@pytest.fixture(autouse=True)
def level() -> Iterator[None]:
    """Restore the log level, which belongs to the whole process."""
    before = logging.getLogger().level
    logging_setup.set_level("info")
    yield
    logging.getLogger().setLevel(before)


async def start_service(bus: PolicyBus, trusted: frozenset[int]) -> tuple[BusConnection, ManagerService]:
    connection = await BusConnection.connect(bus.address)
    clients, users = Clients(connection, ScriptedUnits(), trusted), ScriptedUserNames({os.getuid(): "eve"})
    service = ManagerService(connection, ScriptedArbiter(), clients, UidAuthority(os.getuid(), users))
    service.add(LogControl(clients, trusted, users).object())
    service.export()
    await connection.request_name(BUS_NAME)
    return connection, service


class Caller:
    """A client that calls the object."""

    def __init__(self, connection: BusConnection) -> None:
        self.connection = connection

    async def call(self, interface: str, member: str, signature: str = "", *body: Any, path: str = "") -> Any:
        (result,) = await self.connection.call(
            BUS_NAME, path or LOG_CONTROL_PATH, interface, member, signature, body
        ) or (None,)
        return unwrap(result)

    async def get(self, name: str) -> Any:
        return await self.call(PROPERTIES, "Get", "ss", LOG_CONTROL, name)

    async def set(self, name: str, value: Variant) -> None:
        await self.call(PROPERTIES, "Set", "ssv", LOG_CONTROL, name, value)


@pytest.fixture
def trusted() -> frozenset[int]:
    return frozenset({0, os.getuid()})


@pytest.fixture
async def caller(bus: PolicyBus, trusted: frozenset[int]) -> AsyncIterator[Caller]:
    connection, service = await start_service(bus, trusted)
    made = Caller(await BusConnection.connect(bus.address))
    yield made
    await made.connection.close()
    await service.close()
    await connection.close()


async def test_level_can_be_set_and_read(caller: Caller) -> None:
    assert await caller.get("LogLevel") == "info"
    await caller.set("LogLevel", Variant("s", "debug"))
    assert await caller.get("LogLevel") == "debug"
    assert logging.getLogger().isEnabledFor(logging.DEBUG)


async def test_get_all_returns_every_property(caller: Caller) -> None:
    everything = await caller.call(PROPERTIES, "GetAll", "s", LOG_CONTROL)
    assert everything == {"LogLevel": "info", "LogTarget": "console", "SyslogIdentifier": "gpumand"}


@pytest.mark.parametrize("value", ["loud", "", "DEBUG", "debug\n", "x" * 100_000])
async def test_unknown_level_is_refused(caller: Caller, value: str) -> None:
    with pytest.raises(BusError):
        await caller.set("LogLevel", Variant("s", value))
    assert logging_setup.level() == "info"


async def test_value_of_another_type_is_refused(caller: Caller) -> None:
    with pytest.raises(BusError, match="of type s, not u"):
        await caller.set("LogLevel", Variant("u", 7))


@pytest.mark.parametrize("name", ["LogTarget", "SyslogIdentifier"])
async def test_other_properties_cannot_be_set(caller: Caller, name: str) -> None:
    with pytest.raises(BusError, match="cannot be set"):
        await caller.set(name, Variant("s", "journal"))


@pytest.mark.parametrize("trusted", [frozenset({4242})])
async def test_other_users_may_read_but_not_set(caller: Caller) -> None:
    assert await caller.get("LogLevel") == "info"
    with pytest.raises(BusError) as caught:
        await caller.set("LogLevel", Variant("s", "debug"))
    assert caught.value.name == "org.freedesktop.DBus.Error.AccessDenied"
    assert caught.value.message == "Permission denied: user eve may not set the log level. Use sudo."
    assert logging_setup.level() == "info"


async def test_object_is_not_managed_by_the_manager(caller: Caller) -> None:
    manager = "org.freedesktop.DBus.ObjectManager"
    assert LOG_CONTROL_PATH not in await caller.call(manager, "GetManagedObjects", path="/org/gpumand1")


@pytest.mark.parametrize(("path", "child"), [("/org", "freedesktop"), ("/org/freedesktop", "LogControl1")])
async def test_introspection_shows_the_object(caller: Caller, path: str, child: str) -> None:
    assert f'<node name="{child}"/>' in await caller.call(INTROSPECTABLE, "Introspect", path=path)
    assert f'<interface name="{LOG_CONTROL}">' in await caller.call(INTROSPECTABLE, "Introspect")
