"""The HTTP face on a real socket: its routes, and clients that are slow, broken or many."""

from __future__ import annotations

import random
import socket

import pytest

from gpumand.bus.marshalling import status_entry
from gpumand.bus.variants import unwrap
from gpumand.domain.consumer import HttpSettings
from gpumand.domain.errors import ConfigInvalid
from gpumand.http import connections
from gpumand.http.limits import MAX_CONNECTIONS
from tests.exposition import parsed
from tests.integration.http.conftest import EVICTION, Served
from tests.integration.http.raw import (
    Where,
    answer_of,
    ask,
    close,
    connect,
    exchange,
    following,
    read_to_end,
    request,
)
from tests.integration.live import wait_until
from tests.scripted_arbiter import a_device

PATHS = ("/v1/status", "/metrics", "/healthz")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def refused(where: Where) -> bool:
    try:
        _, writer = await connect(where)
    except ConnectionRefusedError:
        return True
    await close(writer)
    return False


# -- routes ----------------------------------------------------------------------------------------------------------


async def test_status_is_what_get_status_says(served: Served) -> None:
    served.arbiter.devices = [a_device(), a_device(1, used_mib=None)]
    answer = await ask(served.where, "/v1/status")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json; charset=utf-8")
    assert answer.json == unwrap(status_entry(served.arbiter.status()))
    assert "used_mib" in answer.json["devices"][0]
    assert "used_mib" not in answer.json["devices"][1]


async def test_metrics_are_valid_by_the_format(served: Served) -> None:
    served.front.publish(EVICTION)
    answer = await ask(served.where, "/metrics")
    assert (answer.status, answer.headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    samples = parsed(answer.body.decode("utf-8"))
    assert samples[("gpumand_eviction_seconds_count", (("consumer", "ollama"),))] == 1


async def test_health_says_ok_and_what_is_missing(served: Served) -> None:
    assert (await ask(served.where, "/healthz")).body == b"ok\n"
    served.arbiter.degraded = "the driver\nhangs"
    answer = await ask(served.where, "/healthz")
    assert (answer.status, answer.body) == (200, b"ok; degraded: the driver hangs\n")


@pytest.mark.parametrize("path", PATHS)
async def test_head_is_get_without_the_body(served: Served, path: str) -> None:
    whole, head = await ask(served.where, path), await ask(served.where, path, "HEAD")
    assert (head.status, head.body) == (200, b"")
    for name in ("content-type", "content-length"):
        assert head.headers[name] == whole.headers[name]


async def test_head_of_the_stream_ends(served: Served) -> None:
    answer = await ask(served.where, "/v1/events", "HEAD")
    assert (answer.status, answer.headers["content-type"], answer.body) == (200, "text/event-stream", b"")


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/status/", "/V1/STATUS", "/metrics/../healthz", "/%00", "//healthz"])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_nothing_else_is_there(served: Served, path: str, method: str) -> None:
    answer = await ask(served.where, path, method)
    assert answer.status == 404
    assert b"/v1/status" in answer.body


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
@pytest.mark.parametrize("path", [*PATHS, "/v1/events"])
async def test_nothing_is_written(served: Served, path: str, method: str) -> None:
    answer = await ask(served.where, path, method)
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")


async def test_query_does_not_matter(served: Served) -> None:
    assert (await ask(served.where, "/v1/status?pretty=1")).status == 200


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
async def test_no_answer_tells_versions(served: Served, sent: bytes) -> None:
    answer = answer_of(await exchange(served.where, sent))
    assert answer.headers["server"] == "gpumand"
    assert b"ython" not in answer.body
    assert b"aiohttp" not in answer.body


# -- bodies ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1025, 10_000, 300_000])
async def test_large_body_is_refused_and_its_sender_hears_so(served: Served, size: int) -> None:
    sent = request("/v1/status", "GET", f"Content-Length: {size}") + b"x" * size
    assert answer_of(await exchange(served.where, sent)).status == 413


async def test_endless_body_is_refused(served: Served) -> None:
    sent = request("/v1/status", "GET", "Transfer-Encoding: chunked") + b"400\r\n" + b"x" * 1024 + b"\r\n"
    assert answer_of(await exchange(served.where, sent)).status == 413


async def test_small_body_is_ignored(served: Served) -> None:
    sent = request("/v1/status", "GET", "Content-Length: 2") + b"{}"
    assert answer_of(await exchange(served.where, sent)).status == 200


# -- slow and broken clients -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [b"", b"G", b"GET /v1/status HTTP/1.1\r\nHost: x\r\nX-Slow: "])
async def test_request_that_never_ends_is_cut_off(served: Served, monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    monkeypatch.setattr(connections, "LIFE_SEC", 0.1)
    read = await exchange(served.where, sent)
    assert (answer_of(read).status if sent else read) == (408 if sent else b"")


async def test_slow_body_is_cut_off(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "LIFE_SEC", 0.1)
    sent = request("/v1/status", "GET", "Content-Length: 5") + b"x"
    assert answer_of(await exchange(served.where, sent)).status == 200


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
async def test_garbage_is_refused_and_harms_nobody(
    served: Served, sent: bytes, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "LIFE_SEC", 0.5)
    read = await exchange(served.where, sent)
    assert not read or 400 <= answer_of(read).status < 500
    assert (await ask(served.where, "/healthz")).status == 200
    assert not caplog.records


async def test_random_bytes_harm_nobody(served: Served, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "LIFE_SEC", 0.5)
    chance = random.Random(seed)
    whole = request("/v1/status", "GET", "Accept: */*", "Content-Length: 0")
    for _ in range(40):
        sent = bytearray(whole)
        for _ in range(chance.randrange(1, 6)):
            sent[chance.randrange(len(sent))] = chance.randrange(256)
        read = await exchange(served.where, bytes(sent), half_close=True)
        assert not read or 200 <= answer_of(read).status < 500, bytes(sent)
    assert (await ask(served.where, "/healthz")).status == 200


async def test_endless_head_is_cut_off(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HURRY_SEC", 0.1)
    sent = b"GET /v1/status HTTP/1.1\r\n" + b"".join(b"X-%d: y\r\n" % number for number in range(20_000))
    read = await exchange(served.where, sent)
    assert answer_of(read).status in (400, 431)


async def test_client_that_closes_its_end_first_is_answered(served: Served) -> None:
    read = await exchange(served.where, request("/v1/status"), half_close=True)
    assert answer_of(read).status == 200


async def test_client_that_closes_its_end_without_a_request_is_let_go(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HURRY_SEC", 0.1)
    assert answer_of(await exchange(served.where, b"GET /v1/st", half_close=True)).status == 408
    assert await exchange(served.where, b"", half_close=True) == b""


async def test_one_connection_serves_one_request(served: Served) -> None:
    read = await exchange(served.where, request("/healthz") * 3)
    assert read.count(b"HTTP/1.1 200") == 1
    assert answer_of(read).headers["connection"] == "close"


async def test_idle_connections_keep_nobody_out(served: Served) -> None:
    idle = [await connect(served.where) for _ in range(MAX_CONNECTIONS + 72)]
    for path in PATHS:
        assert (await ask(served.where, path)).status == 200
    assert await read_to_end(idle[0][0]) == b""  # the oldest made room
    for _, writer in idle:
        await close(writer)


async def test_idle_connections_cut_no_stream(served: Served) -> None:
    async with following(served.where) as events:
        idle = [await connect(served.where) for _ in range(MAX_CONNECTIONS + 20)]
        assert (await ask(served.where, "/healthz")).status == 200
        served.front.publish(EVICTION)
        assert (await events.next())[0] == "EvictionOccurred"
        for _, writer in idle:
            await close(writer)


async def test_answer_that_nobody_reads_is_dropped(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "LIFE_SEC", 0.3)
    served.arbiter.devices = [a_device(number) for number in range(20_000)]  # more than a socket's buffer holds
    reader, writer = await connect(served.where)
    reader._transport.pause_reading()  # type: ignore[attr-defined]  # a client that does not read
    writer.write(request("/v1/status"))
    door = served.front._face._door  # type: ignore[union-attr]  # that it is let go is seen nowhere else

    async def arrived() -> bool:
        return len(door) == 1

    async def gone() -> bool:
        return len(door) == 0

    await wait_until("it is here", arrived)
    await wait_until("it is gone", gone)
    await close(writer)


# -- listeners -------------------------------------------------------------------------------------------------------


async def test_close_ends_streams_and_leaves_the_path(served: Served) -> None:
    async with following(served.where) as events:
        served.front.publish(EVICTION)
        await served.front.close()
        assert (await events.next())[0] == "EvictionOccurred"
        await events.ended()
    assert await refused(served.where)  # and not "no such file": the path is systemd's


async def test_tcp_listener_comes_moves_and_goes_with_the_configuration(served: Served) -> None:
    one, other = ("127.0.0.1", free_port()), ("127.0.0.1", free_port())
    for where, told in ((one, f"127.0.0.1:{one[1]}"), (other, f"127.0.0.1:{other[1]}")):
        await served.front.configure(HttpSettings(told))
        assert (await ask(where, "/v1/status")).json == (await ask(served.where, "/v1/status")).json
    assert await refused(one)
    await served.front.configure(HttpSettings())
    assert await refused(other)
    assert (await ask(served.where, "/healthz")).status == 200


async def test_address_that_is_taken_is_refused_and_changes_nothing(served: Served) -> None:
    where = ("127.0.0.1", free_port())
    await served.front.configure(HttpSettings(f"127.0.0.1:{where[1]}"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigInvalid, match=r"http\.listen: .* Address already in use"):
            await served.front.configure(HttpSettings(f"127.0.0.1:{taken.getsockname()[1]}"))
    assert (await ask(where, "/healthz")).status == 200


async def test_page_of_another_site_cannot_read_over_loopback(served: Served) -> None:
    where = ("127.0.0.1", free_port())
    await served.front.configure(HttpSettings(f"127.0.0.1:{where[1]}"))
    for host, status in {
        "evil.example": 421,
        f"evil.example:{where[1]}": 421,
        "localhost.evil.example": 421,
        "localhost": 200,
        f"127.0.0.1:{where[1]}": 200,
        "[::1]:9876": 200,
    }.items():
        sent = f"GET /v1/status HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
        assert answer_of(await exchange(where, sent)).status == status, host
        assert answer_of(await exchange(served.where, sent)).status == 200, host
