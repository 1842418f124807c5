"""Two gateways and a consumer that one host only may have loaded: no entrance of either loads it on the second host."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.integration.fleet.live_gateways import Pair, Side, pair_of_gateways
from tests.integration.fleet.plain_etcd import PlainEtcd
from tests.integration.fleet.tls_etcd import needs_etcd
from tests.integration.live import wait_until

pytestmark = [needs_etcd, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(loop_scope="module")
async def pair(tmp_path: Path, own_etcd: PlainEtcd) -> AsyncIterator[Pair]:
    async with pair_of_gateways(tmp_path, own_etcd.url, unique="shared") as made:
        yield made


async def direct(pair: Pair, side: Side) -> tuple[int, Any]:
    """A request by the consumer's own path, for which no host is chosen."""
    body = {"model": "shared-model", "messages": []}
    async with pair.session.post(f"{side.url}/c/shared/v1/chat/completions", json=body) as answer:
        return answer.status, await answer.json(content_type=None)


async def test_requests_that_are_not_placed_load_it_on_one_host_only(pair: Pair) -> None:
    answers = await asyncio.gather(*(direct(pair, side) for side in (pair.one, pair.two) * 3))

    served = [side for side in (pair.one, pair.two) if side.services["shared"].used]
    assert len(served) == 1, answers
    refused = [answer for status, answer in answers if status == 429]
    assert [status for status, _ in answers].count(200) == 3, answers
    name = "gpu1" if served[0] is pair.one else "gpu2"
    assert all(f"one host only, and {name} has it" in str(one) for one in refused), answers
    assert len(refused) == 3, answers

    status, _ = await pair.chat(pair.one, "shared-model")
    assert status == 200, "a request that is placed goes to the host that has it"
    assert len(served[0].services["shared"].used) == 4


async def test_request_waits_while_gpumand_of_the_host_that_has_it_restarts(pair: Pair) -> None:
    assert (await direct(pair, pair.two))[0] == 200
    # What the row of a host shows when its gpumand stops is what the others remember of it.
    await wait_until("the other host knows that it is loaded", lambda: _is_loaded_at_gpu2(pair.one))
    gpumand = pair.two.host.gpumand
    await asyncio.to_thread(gpumand.stop_daemon)
    try:
        await wait_until("the agents know that gpumand gives no answer", lambda: _is_absent(pair.one))
        waiting = asyncio.ensure_future(pair.chat(pair.one, "shared-model"))
        await asyncio.sleep(0.5)
        assert not waiting.done(), waiting.result()
    finally:
        await asyncio.to_thread(gpumand.start_daemon)
    async with asyncio.timeout(60):
        status, answer = await waiting
    assert status == 200, answer
    assert len(pair.two.services["shared"].used) == 2
    assert pair.one.services["shared"].used == []


async def _is_loaded_at_gpu2(side: Side) -> bool:
    hosts = await asyncio.to_thread(side.host.hosts)
    return "resident" in str(hosts["gpu2"]["row"]["consumers"]["shared"])


async def _is_absent(side: Side) -> bool:
    hosts = await asyncio.to_thread(side.host.hosts)
    return "gpumand gives no answer" in hosts["gpu2"]["why"]


async def test_without_the_store_it_is_not_loaded(pair: Pair, own_etcd: PlainEtcd) -> None:
    own_etcd.kill()

    async def is_unavailable() -> bool:
        status, answer = await direct(pair, pair.one)
        return status == 503 and answer["error"]["code"] == "fleet_unavailable"

    await wait_until("the claim is refused", is_unavailable)
    assert pair.two.services["shared"].used == []


async def test_without_the_agent_it_is_not_loaded(pair: Pair) -> None:
    pair.one.host.stop_agent()

    status, answer = await direct(pair, pair.one)

    assert (status, answer["error"]["code"]) == (503, "fleet_unavailable"), answer
    assert "gpumand-fleet does not answer" in answer["error"]["message"]
    assert pair.one.services["shared"].used == []
