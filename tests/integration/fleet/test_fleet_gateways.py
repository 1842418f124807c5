"""Two real gateways: a request for a model of another host reaches it, and streams pass unchanged."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from tests.integration.fleet.live_gateways import KEY, Pair, pair_of_gateways
from tests.integration.fleet.plain_etcd import running_etcd
from tests.integration.fleet.tls_etcd import needs_etcd
from tests.integration.live import wait_until

pytestmark = [needs_etcd, pytest.mark.asyncio(loop_scope="module")]


@pytest.fixture(scope="module")
def etcd_url() -> Iterator[str]:
    with running_etcd() as one:
        yield one.url


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory, etcd_url: str) -> AsyncIterator[Pair]:
    async with pair_of_gateways(tmp_path_factory.mktemp("pair"), etcd_url) as made:
        yield made


@pytest.fixture
def pair(running: Pair) -> Pair:
    """Two hosts for tests that load nothing that both of them have; the services remember no earlier requests."""
    for service in (*running.one.services.values(), *running.two.services.values()):
        service.bodies.clear()
        service.seen.clear()
        service.uploads.clear()
    return running


@pytest_asyncio.fixture(loop_scope="module")
async def own_pair(tmp_path: Path, etcd_url: str) -> AsyncIterator[Pair]:
    """Two hosts for a single test, which changes them."""
    async with pair_of_gateways(tmp_path, etcd_url) as made:
        yield made


async def test_a_model_of_another_host_is_served_there(pair: Pair) -> None:
    status, answer = await pair.chat(pair.one, "big-model")

    assert (status, answer["model"]) == (200, "big-model"), answer
    assert pair.two.services["big"].used == ["big-model"]
    headers = pair.two.services["big"].seen[-1][2]
    names = {name.lower() for name in headers}
    assert "x-gpumand-hop" not in names, "the service gets no headers of gateways"
    assert KEY not in str(headers)

    status, answer = await pair.chat(pair.one, "small-model")
    assert (status, pair.one.services["small"].used) == (200, ["small-model"])


async def test_lists_have_the_models_of_all_hosts(pair: Pair) -> None:
    for side in (pair.one, pair.two):
        _, answer = await pair.get(side, "/v1/models")
        assert {one["id"] for one in answer["data"]} == {"small-model", "shared-model", "big-model"}
    status, entry = await pair.get(pair.one, "/v1/models/big-model")
    assert (status, entry["id"]) == (200, "big-model")


async def test_an_event_stream_passes_unchanged(pair: Pair) -> None:
    async def stream(url: str) -> tuple[str, bytes]:
        body = {"model": "big-model", "stream": True, "messages": []}
        async with pair.session.post(f"{url}/v1/chat/completions", json=body) as answer:
            assert answer.status == 200
            return answer.content_type, await answer.read()

    assert await stream(pair.one.url) == await stream(pair.two.url)


async def test_an_upload_passes_whole(pair: Pair) -> None:
    form = aiohttp.FormData()
    form.add_field("model", "big-model")
    form.add_field("file", io.BytesIO(b"x" * 5_000_000), filename="a.wav")
    async with pair.session.post(f"{pair.one.url}/v1/audio/transcriptions", data=form) as answer:
        assert answer.status == 200, await answer.text()
    ((size, _),) = pair.two.services["big"].uploads
    assert size > 5_000_000


async def test_a_consumer_that_another_host_has_loaded_is_used_there(own_pair: Pair) -> None:
    await own_pair.chat(own_pair.two, "shared-model")
    assert own_pair.two.services["shared"].used == ["shared-model"], "it is loaded on the second host now"

    async def is_shown() -> bool:
        _, document = await own_pair.get(own_pair.one, "/gateway/v1/fleet")
        hosts = {one["row"]["name"]: one["row"] for one in document["fleet"]["hosts"]}
        return bool(hosts["gpu2"]["consumers"]["shared"]["r"] == "resident")

    await wait_until("the first host knows it", is_shown)
    await own_pair.chat(own_pair.one, "shared-model")

    assert own_pair.two.services["shared"].used == ["shared-model", "shared-model"]
    assert own_pair.one.services["shared"].used == []


async def test_a_request_that_was_passed_on_is_not_passed_on_again(pair: Pair) -> None:
    status, answer = await pair.chat(pair.one, "big-model", headers={"X-Gpumand-Hop": "gpu2"})

    assert (status, answer["error"]["code"]) == (404, "model_not_found"), answer
    assert pair.two.requests() == 0


async def test_an_unknown_model_is_refused_by_the_first_gateway(pair: Pair) -> None:
    status, answer = await pair.chat(pair.one, "no-such-model")

    assert (status, answer["error"]["code"]) == (404, "model_not_found"), answer


async def test_a_gateway_that_is_gone_is_named_and_a_shared_consumer_is_served_here(
    own_pair: Pair,
) -> None:
    await own_pair.chat(own_pair.one, "big-model")
    own_pair.two.stop_gateway()

    status, answer = await own_pair.chat(own_pair.one, "big-model")
    assert status == 503, answer
    assert "gateway cannot be reached: gpu2" in answer["error"]["message"], answer

    status, _ = await own_pair.chat(own_pair.one, "shared-model")
    assert (status, own_pair.one.services["shared"].used) == (200, ["shared-model"])


async def test_without_the_agent_each_host_serves_its_own_models(own_pair: Pair) -> None:
    own_pair.one.host.stop_agent()

    status, _ = await own_pair.chat(own_pair.one, "small-model")
    assert status == 200

    async def is_absent() -> bool:
        _, document = await own_pair.get(own_pair.one, "/gateway/v1/fleet")
        return "gpumand-fleet does not answer" in document["fleet"]["absence"]

    await wait_until("the page says that the agent is gone", is_absent)
    status, answer = await own_pair.chat(own_pair.one, "no-such-model")
    assert status == 404, answer


async def test_the_page_gets_all_hosts(pair: Pair) -> None:
    _, document = await pair.get(pair.one, "/gateway/v1/fleet")

    assert {one["row"]["name"] for one in document["fleet"]["hosts"]} == {"gpu1", "gpu2"}
    assert document["fleet"]["absence"] == ""
    assert not any("leases" in one for one in document["fleet"]["hosts"]), "owners and reasons are for gpumanctl"
