"""Another host's agent that answers with anything but what it should: refused in one line, and nothing is passed on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aiohttp import web

from gpumand.fleet.calls import AcquireCall, LoadCall, PlanCall
from gpumand.fleet.errors import HostLost
from gpumand.fleet.remote_host import HOST_LOST, MAX_OUTCOME_BYTES, AgentClient, RemoteHost
from tests.integration.fleet.plain_etcd import listen

Serve = Callable[[bytes], Awaitable[RemoteHost]]

GRANT = b'{"lease":"l1","host":"gpu2","endpoint":"http://gpu2:8770"'


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Starts an agent that gives the same answer to everything."""
    runners: list[web.ServerRunner] = []
    client = AgentClient()

    async def start(text: bytes) -> RemoteHost:
        async def answer(_: web.BaseRequest) -> web.Response:
            return web.Response(body=text)

        runners.append(web.ServerRunner(web.Server(answer), shutdown_timeout=0))
        await runners[-1].setup()
        return client.host("gpu2", await listen(runners[-1]))

    yield start
    await client.close()
    for one in runners:
        await one.cleanup()


@pytest.mark.parametrize(
    "text",
    [
        b"null\n",
        b"[]\n",
        b'{"lease":7}\n',
        b'{"lease":"a\\u001b[2J"}\n',
        GRANT + b',"endpoint":["http://gpu3"]}\n',
        GRANT + b',"evicted":"comfyui"}\n',
        GRANT + b',"loaded":"yes"}\n',
        GRANT + b',"waited_sec":NaN}\n',
        b"{" + b'"a":{' * 200 + b"}" * 201 + b"\n",
        b"\xff\xfe\n",
    ],
    ids=str,
)
async def test_what_is_no_grant_is_refused(serve: Serve, text: bytes) -> None:
    host = await serve(text)
    with pytest.raises(HostLost, match="gpu2 cannot be reached") as caught:
        await host.acquire(AcquireCall("chat", 5.0))
    assert caught.value.message.isprintable()


async def test_texts_of_a_grant_and_of_its_end_are_single_lines(serve: Serve) -> None:
    host = await serve(
        b'{"lease":"l1","host":"gpu2\\u001b]0;x\\u0007","endpoint":"http://a\\nb"}\n{"ended":"done\\n\\u001b[2J"}\n'
    )
    lease = await host.acquire(AcquireCall("chat", 5.0))
    assert (lease.grant["host"], lease.grant["endpoint"]) == ("gpu2 ]0;x ", "http://a b")
    assert await lease.wait_ended() == "done  [2J"


async def test_end_without_a_reason_is_a_lost_host(serve: Serve) -> None:
    host = await serve(GRANT + b'}\n{"ended":["revoked"]}\n')
    assert await (await host.acquire(AcquireCall("chat", 5.0))).wait_ended() == HOST_LOST


@pytest.mark.parametrize(
    "text", [b"[]", b"{", b'{"verdict":Infinity}', b'"' + b"x" * MAX_OUTCOME_BYTES + b'"'], ids=len
)
async def test_plans_and_loads_that_cannot_be_read_or_are_too_large_are_refused(serve: Serve, text: bytes) -> None:
    host = await serve(text)
    for call in (host.plan(PlanCall("chat")), host.load(LoadCall("chat", 1.0))):
        with pytest.raises(HostLost, match="gpu2 cannot be reached"):
            await call
