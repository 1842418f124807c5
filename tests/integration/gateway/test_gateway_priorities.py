"""The priority of a request through the gateway: that of its key, else of its listener, else of its consumer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gpumand.config.gateway_keys import hash_of
from tests.integration.gateway.conftest import Front, front
from tests.integration.live import wait_until

SECRETS = {"low": "gpumand-low", "zero": "gpumand-zero", "high": "gpumand-high", "plain": "gpumand-plain"}
PRIORITIES = {"low": -20, "zero": 0, "high": 40}


@contextlib.asynccontextmanager
async def prioritized(folder: Path, listener: str = "", consumer: str = "") -> AsyncIterator[Front]:
    file = folder / "keys.toml"
    tables = []
    for name, secret in SECRETS.items():
        priority = f"priority = {PRIORITIES[name]}\n" if name in PRIORITIES else ""
        tables.append(f'[keys.{name}]\nsha256 = "{hash_of(secret)}"\n{priority}')
    file.write_text("".join(tables), encoding="utf-8")
    async with front(folder, listener, f'keys_file = "{file}"', consumer) as made:
        yield made


async def send(made: Front, key: str) -> int:
    headers = {"Authorization": f"Bearer {SECRETS[key]}"}
    async with made.session.post(f"{made.url}/slow?sec=0.1", headers=headers) as answer:
        return answer.status


async def queued(made: Front) -> list[int]:
    """The priorities in gpumand's queue, in its order."""
    return [entry["priority"] for entry in (await made.control.status())["queue"]]


async def wait_for(made: Front, *priorities: int) -> None:
    async def is_queued() -> bool:
        return await queued(made) == list(priorities)

    await wait_until(f"the queue is {priorities}", is_queued)


@pytest.mark.parametrize(
    ("listener", "consumer", "expected"),
    [
        ("", "", {"low": -20, "zero": 0, "high": 40, "plain": 0}),
        ("", "priority = 30", {"low": -20, "zero": 0, "high": 40, "plain": 30}),
        ("priority = 10", "priority = 30", {"low": -20, "zero": 0, "high": 40, "plain": 10}),
        ("priority = 0", "priority = 30", {"low": -20, "zero": 0, "high": 40, "plain": 0}),
    ],
)
async def test_priority_is_that_of_the_key_the_listener_or_the_consumer(
    tmp_path: Path, listener: str, consumer: str, expected: dict[str, int]
) -> None:
    async with prioritized(tmp_path, listener, consumer) as made:
        found: dict[str, int] = {}
        for name in expected:
            lease = await made.block()
            waiting = asyncio.create_task(send(made, name))
            await wait_until("the request waits", lambda: _has_queue(made))
            (found[name],) = await queued(made)
            await made.control.release(lease)
            assert await waiting == 200

    assert found == expected


async def _has_queue(made: Front) -> bool:
    return bool(await queued(made))


@pytest.mark.parametrize(("at_a_time", "grants"), [(0, {1, 2, 3}), (1, {1})])
async def test_requests_of_several_priorities_wait_at_their_places_and_share_the_first_lease(
    tmp_path: Path, at_a_time: int, grants: set[int]
) -> None:
    async with prioritized(tmp_path, consumer="priority = 30") as made:
        file = made.host.folder / "gpumand.toml"
        text = file.read_text(encoding="utf-8")
        file.write_text(text.replace("concurrent_leases = 0", f"concurrent_leases = {at_a_time}"), encoding="utf-8")
        await made.control.call("Reload")
        lease = await made.block()
        before = (await made.control.status())["stats"]["grants"]
        tasks = []
        for name, priorities in (("low", (-20,)), ("plain", (30, -20)), ("zero", (30, -20)), ("high", (40, 30, -20))):
            tasks.append(asyncio.create_task(send(made, name)))
            await wait_for(made, *priorities)
        await made.control.release(lease)
        statuses = await asyncio.gather(*tasks)
        await wait_for(made)
        granted = (await made.control.status())["stats"]["grants"] - before

    assert statuses == [200] * 4
    # Where leases share the device, gpumand grants all three at once.
    assert granted in grants
