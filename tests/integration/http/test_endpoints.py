"""HTTP endpoints on a real socket, with normal, slow, invalid and many clients."""

from __future__ import annotations

import random
import socket

import pytest

from gpumand.bus.marshalling import status_entry
from gpumand.bus.variants import unwrap
from gpumand.domain.errors import ConfigInvalid
from gpumand.domain.output_settings import HttpSettings
from gpumand.http import connections
from gpumand.http.limits import MAX_CONNECTIONS
from gpumand.testing.ports import free_port
from tests.exposition import parsed
from tests.integration.http.conftest import EVICTION, Served
from tests.integration.http.raw import (
    answer_of,
    ask,
    close,
    connect,
    exchange,
    following,
    read_to_end,
    refused,
    request,
)
from tests.integration.live import wait_until
from tests.scripted_arbiter import a_device

PATHS = ("/v1/status", "/metrics", "/healthz")


# -- routes ----------------------------------------------------------------------------------------------------------


async def test_status_equals_get_status(served: Served) -> None:
    served.arbiter.devices = [a_device(), a_device(1, used_mib=None)]
    answer = await ask(served.address, "/v1/status")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json; charset=utf-8")
    assert answer.json == unwrap(status_entry(served.arbiter.status()))
    assert "used_mib" in answer.json["devices"][0]
    assert "used_mib" not in answer.json["devices"][1]


async def test_metrics_have_the_prometheus_format(served: Served) -> None:
    served.listener.publish(EVICTION)
    answer = await ask(served.address, "/metrics")
    assert (answer.status, answer.headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    samples = parsed(answer.body.decode("utf-8"))
    assert samples[("gpumand_eviction_seconds_count", (("consumer", "ollama"),))] == 1


async def test_health_is_ok_and_names_the_reason_if_degraded(served: Served) -> None:
    assert (await ask(served.address, "/healthz")).body == b"ok\n"
    served.arbiter.degraded = "the driver\nhangs"
    answer = await ask(served.address, "/healthz")
    assert (answer.status, answer.body) == (200, b"ok; degraded: the driver hangs\n")


@pytest.mark.parametrize("path", PATHS)
async def test_head_is_get_without_the_body(served: Served, path: str) -> None:
    whole, head = await ask(served.address, path), await ask(served.address, path, "HEAD")
    assert (head.status, head.body) == (200, b"")
    for name in ("content-type", "content-length"):
        assert head.headers[name] == whole.headers[name]


async def test_head_of_the_stream_ends(served: Served) -> None:
    answer = await ask(served.address, "/v1/events", "HEAD")
    assert (answer.status, answer.headers["content-type"], answer.body) == (200, "text/event-stream", b"")


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/status/", "/V1/STATUS", "/metrics/../healthz", "/%00", "//healthz"])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_other_paths_are_not_found(served: Served, path: str, method: str) -> None:
    answer = await ask(served.address, path, method)
    assert answer.status == 404
    assert b"/v1/status" in answer.body


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
@pytest.mark.parametrize("path", [*PATHS, "/v1/events"])
async def test_writing_methods_are_refused(served: Served, path: str, method: str) -> None:
    answer = await ask(served.address, path, method)
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")


async def test_query_is_ignored(served: Served) -> None:
    assert (await ask(served.address, "/v1/status?pretty=1")).status == 200


@pytest.mark.parametrize(
    "sent",
    [
        request("/v1/status"),
        request("/nowhere"),
        request("/v1/status", "POST"),
        b"rubbish\r\n\r\n",
        request("/v1/status", "GET", "Content-Length: 5000"),
    ],
)
async def test_no_response_reveals_versions(served: Served, sent: bytes) -> None:
    answer = answer_of(await exchange(served.address, sent))
    assert answer.headers["server"] == "gpumand"
    assert b"ython" not in answer.body
    assert b"aiohttp" not in answer.body


# -- bodies ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1025, 10_000, 300_000])
async def test_large_body_is_refused_with_a_response(served: Served, size: int) -> None:
    sent = request("/v1/status", "GET", f"Content-Length: {size}") + b"x" * size
    assert answer_of(await exchange(served.address, sent)).status == 413


async def test_endless_body_is_refused(served: Served) -> None:
    sent = request("/v1/status", "GET", "Transfer-Encoding: chunked") + b"400\r\n" + b"x" * 1024 + b"\r\n"
    assert answer_of(await exchange(served.address, sent)).status == 413


async def test_small_body_is_ignored(served: Served) -> None:
    sent = request("/v1/status", "GET", "Content-Length: 2") + b"{}"
    assert answer_of(await exchange(served.address, sent)).status == 200


# -- slow and broken clients -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [b"", b"G", b"GET /v1/status HTTP/1.1\r\nHost: x\r\nX-Slow: "])
async def test_incomplete_request_times_out(served: Served, monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    monkeypatch.setattr(connections, "REQUEST_TIMEOUT_SEC", 0.1)
    read = await exchange(served.address, sent)
    assert (answer_of(read).status if sent else read) == (408 if sent else b"")


async def test_slow_body_is_not_waited_for(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "REQUEST_TIMEOUT_SEC", 3.0)
    sent = request("/v1/status", "GET", "Content-Length: 5") + b"x"
    assert answer_of(await exchange(served.address, sent)).status == 200


@pytest.mark.parametrize(
    "sent",
    [
        b"\r\n\r\n",
        b"\0" * 100,
        b"GET /v1/status\r\n\r\n",
        b"GET  /v1/status HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\xff" * 200,
        b"GET /v1/status HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"GET /v1/status HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET /v1/status HTTP/1.1\r\n" + b"A" * 9000 + b": b\r\n\r\n",
        b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n\r\n",
        b"GET http://[::1 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"CONNECT a:1 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
async def test_invalid_request_is_refused_and_others_are_served(
    served: Served, sent: bytes, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "REQUEST_TIMEOUT_SEC", 0.5)
    read = await exchange(served.address, sent)
    assert not read or 400 <= answer_of(read).status < 500
    monkeypatch.setattr(connections, "REQUEST_TIMEOUT_SEC", 30.0)
    assert (await ask(served.address, "/healthz")).status == 200
    assert not caplog.records


async def test_requests_with_random_changes_are_answered_or_refused(
    served: Served, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "REQUEST_TIMEOUT_SEC", 0.5)
    chance = random.Random(seed)
    whole = request("/v1/status", "GET", "Accept: */*", "Content-Length: 0")
    for _ in range(40):
        sent = bytearray(whole)
        for _ in range(chance.randrange(1, 6)):
            sent[chance.randrange(len(sent))] = chance.randrange(256)
        read = await exchange(served.address, bytes(sent), half_close=True)
        assert not read or 200 <= answer_of(read).status < 500, bytes(sent)
    monkeypatch.setattr(connections, "REQUEST_TIMEOUT_SEC", 30.0)
    assert (await ask(served.address, "/healthz")).status == 200


async def test_endless_header_is_refused(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "GRACE_SEC", 1.0)
    sent = b"GET /v1/status HTTP/1.1\r\n" + b"".join(b"X-%d: y\r\n" % number for number in range(20_000))
    read = await exchange(served.address, sent)
    assert answer_of(read).status in (400, 431)


async def test_half_closed_client_gets_its_response(served: Served) -> None:
    read = await exchange(served.address, request("/v1/status"), half_close=True)
    assert answer_of(read).status == 200


async def test_half_closed_client_without_a_request_is_disconnected(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "GRACE_SEC", 0.1)
    assert answer_of(await exchange(served.address, b"GET /v1/st", half_close=True)).status == 408
    assert await exchange(served.address, b"", half_close=True) == b""


async def test_one_connection_serves_one_request(served: Served) -> None:
    read = await exchange(served.address, request("/healthz") * 3)
    assert read.count(b"HTTP/1.1 200") == 1
    assert answer_of(read).headers["connection"] == "close"


async def test_idle_connections_do_not_lock_out_other_clients(served: Served) -> None:
    idle = [await connect(served.address) for _ in range(MAX_CONNECTIONS + 72)]
    for path in PATHS:
        assert (await ask(served.address, path)).status == 200
    assert await read_to_end(idle[0][0]) == b""  # the oldest was closed
    for _, writer in idle:
        await close(writer)


async def test_idle_connections_do_not_end_a_stream(served: Served) -> None:
    async with following(served.address) as events:
        idle = [await connect(served.address) for _ in range(MAX_CONNECTIONS + 20)]
        assert (await ask(served.address, "/healthz")).status == 200
        served.listener.publish(EVICTION)
        assert (await events.next())[0] == "EvictionOccurred"
        for _, writer in idle:
            await close(writer)


async def test_response_that_is_not_read_is_dropped(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "REQUEST_TIMEOUT_SEC", 0.3)
    served.arbiter.devices = [a_device(number) for number in range(20_000)]  # more than a socket's buffer holds
    await exchange(served.address, request("/healthz"))  # the first connection loads the library
    reader, writer = await connect(served.address)
    reader._transport.pause_reading()  # type: ignore[attr-defined]  # a client that does not read
    writer.write(request("/v1/status"))
    acceptor = served.listener._endpoints._acceptor  # type: ignore[union-attr]  # the only place that shows whether the connection is closed

    async def connected() -> bool:
        return len(acceptor) == 1

    async def disconnected() -> bool:
        return len(acceptor) == 0

    await wait_until("the client is connected", connected)
    await wait_until("the client is disconnected", disconnected)
    await close(writer)


# -- listeners -------------------------------------------------------------------------------------------------------


async def test_close_ends_streams_and_leaves_the_path(served: Served) -> None:
    async with following(served.address) as events:
        served.listener.publish(EVICTION)
        await served.listener.close()
        assert (await events.next())[0] == "EvictionOccurred"
        await events.ended()
    assert await refused(served.address)  # the path still exists, because it belongs to systemd


async def test_tcp_listener_follows_the_configuration(served: Served) -> None:
    one, other = ("127.0.0.1", free_port()), ("127.0.0.1", free_port())
    for address, listen in ((one, f"127.0.0.1:{one[1]}"), (other, f"127.0.0.1:{other[1]}")):
        await served.listener.configure(HttpSettings(listen))
        assert (await ask(address, "/v1/status")).json == (await ask(served.address, "/v1/status")).json
    assert await refused(one)
    await served.listener.configure(HttpSettings())
    assert await refused(other)
    assert (await ask(served.address, "/healthz")).status == 200


async def test_address_in_use_is_refused_and_changes_nothing(served: Served) -> None:
    address = ("127.0.0.1", free_port())
    await served.listener.configure(HttpSettings(f"127.0.0.1:{address[1]}"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigInvalid, match=r"http\.listen: .* Address already in use"):
            await served.listener.configure(HttpSettings(f"127.0.0.1:{taken.getsockname()[1]}"))
    assert (await ask(address, "/healthz")).status == 200


async def test_host_name_of_a_web_site_is_refused_on_loopback(served: Served) -> None:
    address = ("127.0.0.1", free_port())
    await served.listener.configure(HttpSettings(f"127.0.0.1:{address[1]}"))
    for host, status in {
        "evil.example": 421,
        f"evil.example:{address[1]}": 421,
        "localhost.evil.example": 421,
        "localhost": 200,
        f"127.0.0.1:{address[1]}": 200,
        "[::1]:9876": 200,
    }.items():
        sent = f"GET /v1/status HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
        assert answer_of(await exchange(address, sent)).status == status, host
        assert answer_of(await exchange(served.address, sent)).status == 200, host
