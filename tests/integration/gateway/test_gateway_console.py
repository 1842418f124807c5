"""The gateway's own address: state, events, history, plan, changes, and which clients may make them."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.integration.gateway.console import Board, board
from tests.integration.live import wait_until

READS = ("state", "requests", "listeners", "session", "history", "plan?consumer=fake")


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[Board]:
    async with board(tmp_path) as running:
        yield running


async def residency(made: Board, consumer: str) -> str:
    return str((await made.front.control.consumer(consumer))["residency"])


class Stream:
    """The events of a page."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self._answer = answer

    async def next(self) -> dict[str, Any]:
        """The next state."""
        async with asyncio.timeout(20):
            while True:
                line = await self._answer.content.readline()
                assert line, "the stream has ended"
                if line.startswith(b"data: "):
                    return dict(json.loads(line[6:]))

    async def until(self, condition: Any) -> dict[str, Any]:
        """The first state that fulfils a condition."""
        while True:
            state = await self.next()
            if condition(state):
                return state


async def test_state_shows_devices_consumers_listeners_and_requests_with_the_reason_of_their_wait(made: Board) -> None:
    lease = await made.front.block()
    waiting = asyncio.create_task(made.front.session.post(f"{made.front.url}/echo?secret=1", data=b"x"))

    async def waits() -> bool:
        return any(one["waits_for"] for one in (await made.get("requests"))["requests"])

    await wait_until("the request waits", waits)
    state = await made.get("state")
    await made.front.control.release(lease)
    await waiting

    (request,) = state["requests"]
    assert (request["consumer"], request["state"], request["path"]) == ("fake", "waiting", "/echo")
    assert request["client"] == "127.0.0.1"
    assert "blocker" in request["waits_for"]
    assert {one["name"] for one in state["status"]["consumers"]} == {"fake", "blocker"}
    assert state["status"]["devices"][0]["total_mib"] == 24564
    assert state["gpumand"]["absence"] == ""
    listeners = {(one["name"], one["consumer"]) for one in state["gateway"]["listeners"]}
    assert listeners == {("gateway", ""), ("fake", "fake")}
    assert "secret" not in json.dumps(state)


async def test_events_show_a_restart_of_gpumand_and_go_on(made: Board) -> None:
    async with made.front.session.get(f"{made.url}/gateway/v1/events") as answer:
        assert answer.content_type == "text/event-stream"
        stream = Stream(answer)
        assert (await stream.next())["status"]["consumers"]

        await made.front.host.end(signal.SIGKILL)
        gone = await stream.until(lambda state: state["gpumand"]["absence"])
        await made.front.host.start()
        back = await stream.until(lambda state: not state["gpumand"]["absence"])

    assert gone["status"]["consumers"], "the last known status is kept"
    assert back["status"]["consumers"]


async def test_all_pages_get_the_same_states(made: Board) -> None:
    async with (
        made.front.session.get(f"{made.url}/gateway/v1/events") as first,
        made.front.session.get(f"{made.url}/gateway/v1/events") as second,
    ):
        states = await asyncio.gather(Stream(first).next(), Stream(second).next())
        assert states[0]["gateway"] == states[1]["gateway"]
        await made.front.block()
        seen = await asyncio.gather(
            *(Stream(one).until(lambda state: state["status"]["leases"]) for one in (first, second))
        )
    assert [one["status"]["leases"][0]["consumer"] for one in seen] == ["blocker", "blocker"]


async def test_pages_above_the_limit_are_refused_and_a_closed_one_makes_room(made: Board) -> None:
    url, session = f"{made.url}/gateway/v1/events", made.front.session
    opened = [await session.get(url) for _ in range(64)]
    try:
        assert {one.status for one in opened} == {200}
        async with session.get(url) as refused:
            assert refused.status == 503
            assert refused.headers["Retry-After"] == "30"
        opened.pop().close()

        async def has_room() -> bool:
            async with session.get(url) as again:
                return again.status == 200

        await wait_until("there is room for a page", has_room)
    finally:
        for one in opened:
            one.close()


async def test_root_on_the_unix_socket_loads_pins_and_evicts(made: Board) -> None:
    status, outcome = await made.post("consumers/blocker/load")
    assert (status, outcome["changed"]) == (200, True)
    assert await residency(made, "blocker") == "resident"

    assert await made.post("consumers/blocker/pin") == (200, {})
    status, refusal = await made.post("consumers/blocker/evict")
    assert (status, refusal["error"]["code"]) == (409, "busy")
    assert "pinned" in refusal["error"]["message"]

    assert await made.post("consumers/blocker/unpin") == (200, {})
    status, outcome = await made.post("consumers/blocker/evict")
    assert (status, outcome["changed"], outcome["method"]) == (200, True, "http")
    assert await residency(made, "blocker") == "unloaded"

    async def is_recorded() -> bool:
        entries = (await made.get("history?consumer=blocker"))["entries"]
        return [one["kind"] for one in entries] == ["eviction", "load"]

    await wait_until("the history has both", is_recorded)


async def test_program_of_this_host_without_a_key_may_load_but_not_evict_pin_or_cancel(made: Board) -> None:
    assert (await made.get("session"))["may_evict"] is False
    assert (await made.post("consumers/fake/load", as_root=False))[0] == 200
    for path in ("consumers/fake/evict", "consumers/fake/pin", "consumers/fake/unpin", "requests/1/cancel"):
        status, refusal = await made.post(path, as_root=False)
        assert (status, refusal["error"]["code"]) == (403, "key_required"), path
    assert await residency(made, "fake") == "resident"


async def test_cancelled_request_ends_with_the_reason_and_leaves_the_queue(made: Board) -> None:
    lease = await made.front.block()
    waiting = asyncio.create_task(made.front.session.post(f"{made.front.url}/echo", data=b"x"))

    async def waits() -> bool:
        return bool((await made.front.control.status())["queue"])

    await wait_until("the request waits", waits)
    (request,) = (await made.get("requests"))["requests"]
    assert await made.post(f"requests/{request['number']}/cancel") == (200, {})
    answer = await waiting

    assert answer.status == 503
    assert "ended by uid 0" in await answer.text()
    assert (answer.headers.get("Retry-After"), answer.headers.get("x-should-retry")) == (None, "false")

    async def has_left() -> bool:
        return not await waits()

    await wait_until("the request has left the queue", has_left)
    assert (await made.post(f"requests/{request['number']}/cancel"))[0] == 404
    await made.front.control.release(lease)


FOREIGN: dict[str, dict[str, str]] = {
    "a page of another site": {"Sec-Fetch-Site": "cross-site"},
    "a page of another port": {"Sec-Fetch-Site": "same-site"},
    "an old browser": {"Origin": "http://evil.example"},
    "a site that may use the services": {"Origin": "http://webui.example"},
    "a form": {"Content-Type": "text/plain"},
}


async def test_changes_that_a_web_site_could_cause_are_refused_even_for_an_administrator(tmp_path: Path) -> None:
    async with board(tmp_path, 'origins = ["http://webui.example"]\n') as made:
        for name, headers in FOREIGN.items():
            status, _ = await made.post("consumers/fake/load", as_root=True, **headers)
            assert status == (415 if name == "a form" else 403), name
        async with made.root.get("http://localhost/gateway/v1/consumers/fake/load") as answer:
            assert answer.status == 405
        assert await residency(made, "fake") == "unloaded"


async def test_reads_are_refused_to_other_sites_and_hosts_and_give_no_permission_to_them(made: Board) -> None:
    for path in READS:
        answer = await made.request("GET", f"/gateway/v1/{path}", **{"Sec-Fetch-Site": "cross-site"})
        assert answer.status == 403, path
        answer = await made.request("GET", f"/gateway/v1/{path}", Host="evil.example")
        assert answer.status == 421, path
        answer = await made.request("GET", f"/gateway/v1/{path}")
        assert answer.status == 200, path
        assert "Access-Control-Allow-Origin" not in answer.headers
        assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"


INVALID: dict[str, list[dict[str, Any]]] = {
    "consumers/fake/load": [{"timeout_sec": -1}, {"timeout_sec": True}, {"force": True}, {"device": 3}],
    "consumers/fake/evict": [{"force": "yes"}, {"method": "http"}],
    "consumers/fake/pin": [{"force": True}],
}


async def test_invalid_options_are_refused_with_the_name_of_the_option(made: Board) -> None:
    for path, bodies in INVALID.items():
        for body in bodies:
            status, refusal = await made.post(path, body)
            assert (status, refusal["error"]["code"]) == (400, "invalid_arguments"), (path, body)
    for path in ("plan?consumer=%00", "plan?consumer=fake&priority=x", "history?limit=-1", "history?nonsense=1"):
        answer = await made.request("GET", f"/gateway/v1/{path}")
        assert answer.status == 400, path
    async with made.root.post(
        "http://localhost/gateway/v1/consumers/fake/load",
        data=b"[" * 40000,
        headers={"Content-Type": "application/json"},
    ) as answer:
        assert answer.status == 400
    assert (await made.post("consumers/nosuch/load"))[0] == 404
    assert (await made.request("GET", "/gateway/v1/plan?consumer=nosuch")).status == 404


async def test_plan_says_what_would_be_evicted_and_changes_nothing(made: Board) -> None:
    assert (await made.post("consumers/blocker/load"))[0] == 200
    plan = (await made.get("plan?consumer=fake"))["plan"]

    assert (plan["verdict"], plan["load"]) == ("grant", True)
    assert [one["consumer"] for one in plan["evictions"]] == ["blocker"]
    assert await residency(made, "blocker") == "resident"


async def test_gateway_that_is_stopped_ends_the_streams_of_pages_at_once(made: Board) -> None:
    async with made.front.session.get(f"{made.url}/gateway/v1/events") as answer:
        await Stream(answer).next()
        async with asyncio.timeout(10):
            assert await made.front.gateway.end(signal.SIGTERM) == 0


async def test_own_address_leads_browsers_to_the_page_and_nothing_else_is_there(made: Board) -> None:
    for path in ("/", "/ui", "/ui/", "/gateway"):
        answer = await made.request("GET", path, Accept="text/html")
        assert (answer.status, answer.headers["Location"]) == (302, "/gateway/"), path
    page = await made.request("GET", "/gateway/")
    assert (page.status, page.content_type) == (200, "text/html")
    again = await made.request("GET", "/gateway/", **{"If-None-Match": page.headers["ETag"]})
    assert again.status == 304
    assert (await made.request("GET", "/gateway/nothing")).status == 404
    assert (await made.request("POST", "/gateway/")).status == 405
