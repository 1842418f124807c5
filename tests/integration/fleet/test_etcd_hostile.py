"""A server that is slow, broken or hostile costs a limited time and a limited amount of memory, and is named."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing

import pytest
from aiohttp import web

from gpumand.fleet import etcd_client, etcd_watch
from gpumand.fleet.clock import BoottimeClock
from gpumand.fleet.etcd_client import EtcdClient, Limits
from gpumand.fleet.etcd_store import EtcdStore
from gpumand.fleet.keys import Keys
from gpumand.fleet.store import Denied, Interrupted, Listing, StoreError, StoreUnavailable
from tests.integration.fleet.plain_etcd import listen
from tests.unit.fleet.rows import row

KEYS = Keys("lab")
SHORT = Limits(connect_sec=1, attempt_sec=1, call_sec=0.5)
PATIENT = Limits(connect_sec=10, attempt_sec=10, call_sec=25)
Answer = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
Serve = Callable[..., Awaitable[EtcdStore]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Returns a function that starts a server and opens a store there."""
    runners: list[web.ServerRunner] = []
    stores: list[EtcdStore] = []

    async def start(answer: Answer, limits: Limits = PATIENT) -> EtcdStore:
        runner = web.ServerRunner(web.Server(answer), shutdown_timeout=0)
        await runner.setup()
        runners.append(runner)
        stores.append(EtcdStore(EtcdClient((await listen(runner),), limits=limits), KEYS, BoottimeClock()))
        return stores[-1]

    yield start
    for store in stores:
        await store.close()
    for runner in runners:
        await runner.cleanup()


def answers(text: str, status: int = 200) -> Answer:
    async def answer(_: web.BaseRequest) -> web.Response:
        return web.Response(text=text, status=status)

    return answer


async def failure(work: Awaitable[object]) -> StoreError:
    with pytest.raises(StoreError) as caught:
        await work
    assert "\n" not in str(caught.value)
    return caught.value


BROKEN = {
    "empty": "",
    "HTML": "<html>Welcome</html>",
    "a list": "[]",
    "deep nesting": "[" * 100_000,
    "header as a text": '{"header": "x", "TTL": "10", "ID": "1"}',
    "revision as an object": '{"header": {"revision": {}}, "TTL": "10"}',
    "revision with 5000 digits": json.dumps({"header": {"revision": "9" * 5000}}),
    "time to live as a list": '{"header": {"revision": "1"}, "TTL": [], "kvs": "x", "responses": 1}',
    "keys as a text": '{"header": {"revision": "1"}, "kvs": "x", "TTL": "10", "responses": "x"}',
    "key as a number": '{"header": {"revision": "1"}, "kvs": [{"key": 1}], "TTL": "10", "responses": [1]}',
    "key not in base64": '{"header": {"revision": "1"}, "kvs": [{"key": "%"}], "TTL": "10", "succeeded": "yes"}',
    "error without words": '{"code": 13, "message": ""}',
    "error with escape sequences": json.dumps({"code": 13, "message": "\x1b[2J\n" * 1000}),
    "endless pages": '{"header": {"revision": "1"}, "more": true, "succeeded": 1}',
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
async def test_broken_answer_is_a_failure_with_one_line(serve: Serve, text: str) -> None:
    store = await serve(answers(text), SHORT)
    for work in (store.join(row()), store.list(KEYS.hosts), store.claim(KEYS.intent("llm"), "a", 15)):
        error = await failure(work)
        assert len(str(error)) < 1500
        assert "\x1b" not in str(error)


async def test_redirect_is_not_followed(serve: Serve) -> None:
    paths: list[str] = []

    async def redirect(request: web.BaseRequest) -> web.Response:
        paths.append(request.path)
        return web.Response(status=307, headers={"Location": "/elsewhere"})

    error = await failure((await serve(redirect, SHORT)).list(KEYS.hosts))
    assert isinstance(error, StoreUnavailable)
    assert set(paths) == {"/v3/kv/range"}


async def test_answer_that_does_not_end_costs_limited_memory(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(etcd_client, "MAX_ANSWER_BYTES", 1_000_000)

    async def endless(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while request.transport is not None and not request.transport.is_closing():
            await response.write(b" " * 65536)
        return response

    error = await failure((await serve(endless, Limits(attempt_sec=20, call_sec=5, pause_sec=30))).list(KEYS.hosts))
    assert "larger than 1000000 bytes" in str(error)


async def test_answer_that_drips_costs_limited_time(serve: Serve) -> None:
    async def drip(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while request.transport is not None and not request.transport.is_closing():
            await response.write(b" ")
            await asyncio.sleep(0.1)
        return response

    store = await serve(drip, SHORT)
    began = time.monotonic()
    assert isinstance(await failure(store.list(KEYS.hosts)), StoreUnavailable)
    assert time.monotonic() - began < 60


async def test_value_that_is_too_large_or_not_text_is_no_row_and_no_claim(serve: Serve) -> None:
    large, binary = "A" * 1_000_000, "/w=="
    keys = [
        {"key": "YQ==", "value": large, "mod_revision": "3"},
        {"key": "Yg==", "value": binary, "mod_revision": "4"},
        {"key": "Yw==", "value": "b2s=", "mod_revision": "5"},
    ]
    store = await serve(answers(json.dumps({"header": {"revision": "9"}, "kvs": keys})))
    found = await store.list(KEYS.hosts)
    assert [(one.key, one.value) for one in found.entries] == [
        ("a", "(more than 65536 bytes)"),
        ("b", "(not UTF-8)"),
        ("c", "ok"),
    ]


async def until_closed(request: web.BaseRequest) -> None:
    while request.transport is not None and not request.transport.is_closing():  # noqa: ASYNC110  # it has no event
        await asyncio.sleep(0.02)


def streaming(*lines: bytes, then_hang: bool = False) -> Answer:
    """Answers lists with nothing, and watches with these lines."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.path != "/v3/watch":
            return web.Response(text='{"header": {"revision": "7"}}')
        response = web.StreamResponse()
        await response.prepare(request)
        for line in lines:
            await response.write(line)
        if then_hang:
            await until_closed(request)
        return response

    return answer


STREAMS = {
    "ends at once": (),
    "not JSON": (b"<html>\n",),
    "an error": (b'{"error": {"grpc_code": 14, "message": "etcdserver: no leader"}}\n',),
    "events as a text": (b'{"result": {"events": "x"}}\n',),
    "event without a key": (b'{"result": {"events": [{"kv": 5}]}}\n',),
    "cancelled without a reason": (b'{"result": {"canceled": true}}\n',),
    "half a line": (b'{"result": {"events"',),
}


@pytest.mark.parametrize("lines", STREAMS.values(), ids=STREAMS)
async def test_watch_with_a_broken_stream_is_interrupted_and_begins_again(
    serve: Serve, lines: tuple[bytes, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(etcd_watch, "PAUSE_SEC", 0.01)
    store = await serve(streaming(*lines))
    async with asyncio.timeout(30), aclosing(store.watch(KEYS.hosts)) as changes:  # type: ignore[type-var]
        kinds = [type(await anext(changes)) for _ in range(4)]
    assert kinds == [Listing, Interrupted, Listing, Interrupted]


async def test_watch_with_an_endless_line_is_interrupted(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(etcd_watch, "MAX_MESSAGE_BYTES", 300_000)
    store = await serve(streaming(*[b"x" * 50_000] * 7, then_hang=True))
    async with asyncio.timeout(30), aclosing(store.watch(KEYS.hosts)) as changes:  # type: ignore[type-var]
        await anext(changes)
        interrupted = await anext(changes)
    assert isinstance(interrupted, Interrupted)
    assert "more than 300000 bytes" in interrupted.reason


async def test_watch_with_a_message_of_many_large_events_is_read(serve: Serve) -> None:
    event = {"kv": {"key": "YQ==", "value": "QUJD" * 20_000, "mod_revision": "8"}}
    message = json.dumps({"result": {"events": [event] * 10}}).encode() + b"\n"
    store = await serve(streaming(message, then_hang=True))
    async with asyncio.timeout(30), aclosing(store.watch(KEYS.hosts)) as changes:  # type: ignore[type-var]
        found = [await anext(changes) for _ in range(11)]
    assert not any(isinstance(one, Interrupted) for one in found)


async def test_watch_of_a_member_without_a_leader_is_interrupted_although_its_connection_stands(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(etcd_watch, "QUIET_SEC", 0.1)
    is_cut = False

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.path != "/v3/watch" and is_cut:
            return web.Response(status=503, text='{"code": 14, "message": "etcdserver: no leader"}')
        return await streaming(b'{"result": {"created": true}}\n', then_hang=True)(request)

    store = await serve(answer)
    async with asyncio.timeout(30), aclosing(store.watch(KEYS.hosts)) as changes:  # type: ignore[type-var]
        assert isinstance(await anext(changes), Listing)
        is_cut = True
        interrupted = await anext(changes)
        assert isinstance(interrupted, Interrupted)
        assert "no leader" in interrupted.reason
        is_cut = False
        assert isinstance(await anext(changes), Listing)


async def test_refused_watch_ends_with_words(serve: Serve) -> None:
    refusal = b'{"result": {"canceled": true, "cancel_reason": "etcdserver: permission denied"}}\n'
    store = await serve(streaming(refusal))
    async with asyncio.timeout(30), aclosing(store.watch(KEYS.hosts)) as changes:  # type: ignore[type-var]
        await anext(changes)
        with pytest.raises(Denied, match="permission denied"):
            await anext(changes)
