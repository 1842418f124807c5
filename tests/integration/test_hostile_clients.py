"""Hostile clients of the real daemon: they get errors, and all other clients are served."""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gpumand.bus import names
from gpumand.bus.connection import BusError
from tests.integration import deaf_client
from tests.integration.live import Client, LiveHost, live_host, wait_until

INVALID_ARGS = "org.freedesktop.DBus.Error.InvalidArgs"
LIMITS = "org.freedesktop.DBus.Error.LimitsExceeded"


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[LiveHost]:
    async with live_host(tmp_path, {"voice": 2867}, "--loaded-at-start", scheduler="concurrent_leases = 1") as made:
        yield made


async def refusal(client: Client, member: str, signature: str, *body: Any) -> str:
    with pytest.raises(BusError) as caught:
        await client.call(member, signature, *body)
    assert "Traceback" not in caught.value.message
    assert "\n" not in caught.value.message
    return caught.value.name


async def assert_daemon_works(host: LiveHost, client: Client) -> None:
    lease, _ = await client.acquire("voice")
    await client.release(lease)
    assert "Traceback" not in host.log


async def test_invalid_calls_get_specific_errors_and_change_nothing(host: LiveHost) -> None:
    client = await host.client()
    before = await client.status()
    calls: list[tuple[str, str, tuple[Any, ...], str | None]] = [
        ("Acquire", "s", ("voice",), INVALID_ARGS),
        ("Acquire", "sa{ss}", ("voice", {}), INVALID_ARGS),
        ("Release", "u", (7,), INVALID_ARGS),
        ("Release", "s", ("../../etc/passwd",), "org.gpumand1.Error.NoSuchLease"),
        ("Release", "s", ("x" * 1_000_000,), None),
        ("Acquire", "sa{sv}", ("v" * 5_000_000, {}), None),
        ("Pin", "s", ("\u2603" * 100,), "org.gpumand1.Error.NoSuchConsumer"),
        ("Destroy", "", (), "org.freedesktop.DBus.Error.UnknownMethod"),
    ]
    for member, signature, body, name in calls:
        refused = await refusal(client, member, signature, *body)
        assert refused == name or (name is None and refused in (INVALID_ARGS, LIMITS)), member
    after = await client.status()
    assert (after["leases"], after["queue"], after["consumers"]) == ([], [], before["consumers"])
    await assert_daemon_works(host, client)


async def test_random_options_are_refused_or_granted_but_never_break_anything(host: LiveHost, seed: int) -> None:
    draw = random.Random(seed)
    client = await host.client()
    values = [("s", "x" * 2000), ("s", ""), ("t", 0), ("t", 2**64 - 1), ("i", -(2**31)), ("b", True), ("as", ["a"])]
    keys = ["lifetime", "ttl_usec", "timeout_usec", "priority", "device", "reason", "token", "nonsense"]
    for _ in range(300):
        options = {key: draw.choice(values) for key in draw.sample(keys, draw.randrange(1, 4))}
        try:
            lease, _ = await client.acquire("voice", **{"timeout_usec": ("t", 100_000), **options})
        except BusError:
            continue
        await client.release(lease)
    await assert_daemon_works(host, client)


@pytest.mark.timeout(120)
async def test_ten_thousand_calls_with_unread_answers(host: LiveHost, seed: int) -> None:
    client = await host.client()
    held, _ = await client.acquire("voice")  # so that their requests wait
    command = [sys.executable, "-m", deaf_client.__name__, host.bus.address, str(seed)]
    deaf = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    try:
        assert deaf.stdout is not None
        assert await asyncio.wait_for(deaf.stdout.readline(), 60) == b"SENT\n"
        status = await client.status()
        assert len(status["queue"]) <= 128, "waiting calls are limited for each sender"
        await client.release(held)
    finally:
        deaf.kill()
        await deaf.wait()

    async def is_quiet() -> bool:
        status = await client.status()
        return not status["queue"] and not status["leases"]

    await wait_until("nothing of the killed client remains", is_quiet)
    await assert_daemon_works(host, client)


async def test_introspection_and_properties_answer_under_load(host: LiveHost) -> None:
    client = await host.client()
    for path in ("/", "/org", names.ROOT_PATH, names.CONSUMER_PREFIX + "voice"):
        (xml,) = await client.bus.call(names.BUS_NAME, path, names.INTROSPECTABLE, "Introspect")
        assert xml.startswith(("<!DOCTYPE", "<node"))
    with pytest.raises(BusError) as caught:
        await client.bus.call(names.BUS_NAME, names.ROOT_PATH + "/nothing", names.PROPERTIES, "GetAll", "s", ("",))
    assert caught.value.name == "org.freedesktop.DBus.Error.UnknownObject"
