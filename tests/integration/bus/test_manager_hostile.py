"""Malformed and hostile calls, and the errors that they get."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import Any, cast

import pytest
from dbus_fast import Message, Variant
from dbus_fast.aio import MessageBus

from gpumand.bus.connection import BusError
from gpumand.bus.names import BUS_NAME, CONSUMER, INTROSPECTABLE, MANAGER, OBJECT_MANAGER, PROPERTIES, ROOT_PATH
from gpumand.domain.errors import LoadFailed
from gpumand.testing.bus import PrivateBus
from tests.integration.bus.conftest import Client, ServedManager, serve_manager
from tests.integration.bus.private_bus import PolicyBus

FREEDESKTOP_ERROR_PREFIX = "org.freedesktop.DBus.Error."
UNKNOWN_OBJECT, UNKNOWN_INTERFACE = (
    FREEDESKTOP_ERROR_PREFIX + "UnknownObject",
    FREEDESKTOP_ERROR_PREFIX + "UnknownInterface",
)
UNKNOWN_METHOD, INVALID_ARGS = FREEDESKTOP_ERROR_PREFIX + "UnknownMethod", FREEDESKTOP_ERROR_PREFIX + "InvalidArgs"
UNKNOWN_PROPERTY, READ_ONLY = (
    FREEDESKTOP_ERROR_PREFIX + "UnknownProperty",
    FREEDESKTOP_ERROR_PREFIX + "PropertyReadOnly",
)
OLLAMA = "/org/gpumand1/consumer/ollama"


async def refusal(
    client: Client, path: str, interface: str, member: str, signature: str = "", *body: object
) -> BusError:
    with pytest.raises(BusError) as raised:
        await client.connection.call(BUS_NAME, path, interface, member, signature, body)
    assert "Traceback" not in raised.value.message
    assert "\n" not in raised.value.message
    return raised.value


@pytest.mark.parametrize(
    ("path", "interface", "member", "name"),
    [
        ("/org/gpumand1/nowhere", MANAGER, "GetStatus", UNKNOWN_OBJECT),
        ("/org/gpumand1/consumer/nobody", PROPERTIES, "GetAll", UNKNOWN_OBJECT),
        ("/org/gpumand12", INTROSPECTABLE, "Introspect", UNKNOWN_OBJECT),
        ("/", MANAGER, "GetStatus", UNKNOWN_INTERFACE),
        (ROOT_PATH, CONSUMER, "GetStatus", UNKNOWN_INTERFACE),
        (OLLAMA, OBJECT_MANAGER, "GetManagedObjects", UNKNOWN_INTERFACE),
        (OLLAMA, MANAGER, "Reload", UNKNOWN_INTERFACE),
        ("/org/gpumand1/lease", PROPERTIES, "GetAll", UNKNOWN_INTERFACE),
        (ROOT_PATH, MANAGER, "Explode", UNKNOWN_METHOD),
        (OLLAMA, CONSUMER, "Anything", UNKNOWN_METHOD),
    ],
)
async def test_unknown_object_interface_or_method_is_refused(
    client: Client, path: str, interface: str, member: str, name: str
) -> None:
    assert (await refusal(client, path, interface, member)).name == name


@pytest.mark.parametrize(
    ("member", "signature", "body", "expected"),
    [
        ("Acquire", "", (), r"takes \(sa\{sv\}\), not \(\)"),
        ("Acquire", "s", ("ollama",), r"takes \(sa\{sv\}\), not \(s\)"),
        ("Acquire", "sa{ss}", ("ollama", {}), r"takes \(sa\{sv\}\)"),
        ("Acquire", "sa{sv}s", ("ollama", {}, "x"), r"takes \(sa\{sv\}\)"),
        ("Renew", "su", ("a", 1), r"takes \(st\)"),
        ("GetStatus", "s", ("x",), "takes no arguments"),
        ("Reload", "i", (1,), "takes no arguments"),
    ],
)
async def test_wrong_arguments_are_refused_with_the_signature(
    client: Client, member: str, signature: str, body: tuple[object, ...], expected: str
) -> None:
    error = await refusal(client, ROOT_PATH, MANAGER, member, signature, *body)
    assert error.name == INVALID_ARGS
    with pytest.raises(AssertionError, match=expected):
        raise AssertionError(error.message)


async def test_call_without_interface_reaches_the_matching_one() -> None:
    # The policy allows only calls with an interface, so this test needs a bus without it.
    async with PrivateBus() as bus, serve_manager(PolicyBus(bus.address)) as served:
        (status,) = await served.connection.call(BUS_NAME, ROOT_PATH, "", "GetStatus")
        assert status["version"] == "1.2.3"
        assert await served.connection.call(BUS_NAME, ROOT_PATH, "", "Ping") == ()
        with pytest.raises(BusError) as refused:
            await served.connection.call(BUS_NAME, ROOT_PATH, "", "Explode")
        assert refused.value.name == UNKNOWN_METHOD


async def test_properties_cannot_be_set(client: Client) -> None:
    value = Variant("u", 7)
    error = await refusal(client, ROOT_PATH, PROPERTIES, "Set", "ssv", MANAGER, "QueueLength", value)
    assert error.name == READ_ONLY
    error = await refusal(client, ROOT_PATH, PROPERTIES, "Set", "ssv", MANAGER, "Nope", value)
    assert error.name == UNKNOWN_PROPERTY


@pytest.mark.parametrize(
    ("interface", "name", "expected"),
    [
        (MANAGER, "Nope", UNKNOWN_PROPERTY),
        (PROPERTIES, "Version", UNKNOWN_PROPERTY),
        (CONSUMER, "Name", UNKNOWN_INTERFACE),
        ("x" * 5000, "Name", UNKNOWN_INTERFACE),
        (MANAGER, "\x1b[2J" * 1000, UNKNOWN_PROPERTY),
    ],
    ids=["property", "standard", "interface", "long interface", "hostile property"],
)
async def test_unknown_properties_are_refused(client: Client, interface: str, name: str, expected: str) -> None:
    error = await refusal(client, ROOT_PATH, PROPERTIES, "Get", "ss", interface, name)
    assert error.name == expected
    assert len(error.message) < 300
    assert "\x1b" not in error.message


async def test_interface_of_a_property_may_be_left_empty(client: Client) -> None:
    assert await client.connection.call(BUS_NAME, ROOT_PATH, PROPERTIES, "Get", "ss", ("", "QueueLength")) == (0,)
    (values,) = await client.connection.call(BUS_NAME, ROOT_PATH, PROPERTIES, "GetAll", "s", (OBJECT_MANAGER,))
    assert values == {}


async def test_invalid_text_of_a_consumer_does_not_break_the_connection(client: Client, served: ServedManager) -> None:
    served.arbiter.errors["load"] = LoadFailed("died: a\0b\ud800 " + "x" * 100_000)
    error = await refusal(client, ROOT_PATH, MANAGER, "Load", "sa{sv}", "ollama", {})
    assert error.name == "org.gpumand1.Error.LoadFailed"
    assert len(error.message) < 5000
    await client.call("GetStatus")


async def test_internal_error_reveals_nothing(client: Client, served: ServedManager) -> None:
    async def broken() -> None:
        raise RuntimeError("secret: /etc/shadow")

    served.arbiter.reload = broken  # type: ignore[method-assign]  # a fault, put in on purpose
    error = await refusal(client, ROOT_PATH, MANAGER, "Reload")
    assert error.name == "org.gpumand1.Error.Failed"
    assert "secret" not in error.message


async def test_non_ascii_text_passes_in_both_directions(client: Client, served: ServedManager) -> None:
    """dbus-fast 1.84 (Debian 12) writes wrong lengths for it, and the bus closes such a connection."""
    error = await refusal(client, ROOT_PATH, MANAGER, "Acquire", "sa{sv}", "größe", {})
    assert error.message == "no consumer 'größe'"
    error = await refusal(client, ROOT_PATH, MANAGER, "Acquire", "sa{sv}", "ollama", {"größe": Variant("s", "ü")})
    assert "unknown option 'größe'" in error.message
    await client.call("Acquire", "sa{sv}", "über/geek", {"reason": Variant("s", "für Zoë 🙂")})
    (status,) = (await served.bus.call("GetStatus")).json()
    assert [(lease["consumer"], lease["reason"]) for lease in status["leases"]] == [("über/geek", "für Zoë 🙂")]
    assert client.signal_names()[-1] == "/ LeaseGranted"


async def test_bus_refuses_file_descriptors(served: ServedManager) -> None:
    """With ``max_fds`` the policy blocks messages with descriptors, so that the daemon cannot leak any."""
    bus = await MessageBus(bus_address=served.bus.address, negotiate_unix_fd=True).connect()
    reading, writing = os.pipe()
    before = len(os.listdir("/proc/self/fd"))
    answer = await bus.call(
        Message(
            destination=BUS_NAME,
            path=ROOT_PATH,
            interface=MANAGER,
            member="Release",
            signature="h",
            body=[0],
            unix_fds=[reading],
        )
    )
    assert answer is not None
    assert answer.error_name == FREEDESKTOP_ERROR_PREFIX + "AccessDenied"
    assert len(os.listdir("/proc/self/fd")) == before
    os.close(reading)
    os.close(writing)
    bus.disconnect()
    with contextlib.suppress(EOFError):
        await cast(Any, bus).wait_for_disconnect()  # has no type annotation in dbus-fast


async def test_descriptor_index_without_descriptor_is_refused(client: Client) -> None:
    error = await refusal(client, ROOT_PATH, MANAGER, "Acquire", "sa{sv}", "ollama", {"device": Variant("h", 0)})
    assert error.name in (INVALID_ARGS, FREEDESKTOP_ERROR_PREFIX + "AccessDenied")


async def test_too_many_waiting_calls_of_one_client_are_refused_and_others_served(
    client: Client, served: ServedManager
) -> None:
    served.arbiter.gate.clear()
    calls = [asyncio.ensure_future(client.call("Acquire", "sa{sv}", "ollama", {})) for _ in range(127)]
    more = [asyncio.ensure_future(client.call("Acquire", "sa{sv}", "ollama", {})) for _ in range(40)]
    done, _ = await asyncio.wait([*calls, *more], return_when=asyncio.FIRST_COMPLETED)
    assert all("LimitsExceeded" in str(call.exception()) for call in done)
    assert (await served.bus.call("GetStatus")).returncode == 0
    served.arbiter.gate.set()
    answers = await asyncio.gather(*calls, *more, return_exceptions=True)
    assert sum(isinstance(answer, tuple) for answer in answers) == 128
