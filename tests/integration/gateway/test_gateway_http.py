"""What passes the gateway, and what it refuses: streams, headers, paths, invalid requests, WebSockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import WSMsgType

from tests.integration.gateway.conftest import Front, front
from tests.integration.http.raw import exchange
from tests.integration.live import wait_until

MIB = 1024 * 1024


async def raw(made: Front, sent: str | bytes) -> bytes:
    data = sent.encode("latin-1") if isinstance(sent, str) else sent
    return await exchange(("127.0.0.1", made.gateway.ports["fake"]), data)


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.") else 0


def head(*lines: str, first: str = "POST /echo HTTP/1.1", host: str = "Host: localhost") -> str:
    return "\r\n".join([first, host, "Connection: close", *lines, "", ""])


INVALID = {
    "content-length and chunked": head("Content-Length: 5", "Transfer-Encoding: chunked") + "0\r\n\r\n",
    "two content-lengths": head("Content-Length: 5", "Content-Length: 6") + "hello",
    "signed content-length": head("Content-Length: +5") + "hello",
    "unknown transfer-encoding": head("Transfer-Encoding: xchunked") + "0\r\n\r\n",
    "chunked is not last": head("Transfer-Encoding: chunked, identity") + "0\r\n\r\n",
    "two hosts": head("Host: other"),
    "space before the colon": head("X-A : a"),
    "empty header name": head(": a"),
    "NUL in a header": head("X-A: a\0b"),
    "bare CR in a header": head("X-A: a\rb"),
    "absolute form": head(first="GET http://169.254.169.254/latest HTTP/1.1"),
    "authority form": head(first="CONNECT example.org:443 HTTP/1.1"),
    "asterisk form": head(first="OPTIONS * HTTP/1.1"),
    "dot segments": head(first="GET /a/../../etc/passwd HTTP/1.1"),
    "dot segment with parameters": head(first="GET /a/..;x/b HTTP/1.1"),
    "encoded dots": head(first="GET /a/%2e%2e/admin HTTP/1.1"),
    "encoded slash": head(first="GET /a%2fadmin HTTP/1.1"),
    "encoded slash and dots": head(first="GET /a/%2e%2e/%2fadmin HTTP/1.1"),
    "encoded backslash": head(first="GET /a%5c..%5cadmin HTTP/1.1"),
    "backslash": head(first="GET /a\\admin HTTP/1.1"),
    "encoded NUL": head(first="GET /a%00b HTTP/1.1"),
    "invalid percent-encoding": head(first="GET /a%zz HTTP/1.1"),
    "space in the target": head(first="GET /a b HTTP/1.1"),
    "fragment": head(first="GET /a#b HTTP/1.1"),
    "control character in the target": head(first="GET /a\x01b HTTP/1.1"),
    "folded header": head("X-A: a\r\n b"),
    "line feeds only": "GET / HTTP/1.1\nHost: localhost\nConnection: close\n\n",
    "HTTP/2": "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "no HTTP": "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
}


async def test_invalid_requests_are_answered_400_and_never_reach_the_service(fake_front: Front) -> None:
    answers = await asyncio.gather(*(raw(fake_front, sent) for sent in INVALID.values()))
    statuses = {name: status_of(answer) for name, answer in zip(INVALID, answers, strict=True)}

    assert statuses == dict.fromkeys(INVALID, 400)
    assert fake_front.service.paths() == []


async def test_second_request_of_a_pipeline_is_not_answered_and_never_reaches_the_service(fake_front: Front) -> None:
    first = "GET /first HTTP/1.1\r\nHost: localhost\r\n\r\n"

    answer = await raw(fake_front, first + first.replace("first", "second"))
    await raw(fake_front, first + "GET /second HTTP/1.1\r\nHost: localhost\r\n: a\r\n\r\n")

    assert answer.count(b"HTTP/1.1 200") == 1
    assert set(fake_front.service.paths()) == {"GET /first"}


@pytest.mark.parametrize(
    "body", ["Content-Length: 2\r\n\r\nab", "Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n"]
)
async def test_part_of_a_request_that_arrives_early_is_never_the_beginning_of_one(fake_front: Front, body: str) -> None:
    # The parser keeps the part. The next head, which is valid by itself, would become the value of its last header.
    slow = f"POST /slow?sec=1 HTTP/1.1\r\nHost: localhost\r\n{body}"
    reader, writer = await asyncio.open_connection("127.0.0.1", fake_front.gateway.ports["fake"])
    writer.write(slow.encode())
    await wait_until("the first request is served", is_served, fake_front, "POST /slow?sec=1")
    writer.write(b"GET /hidden HTTP/1.1\r\nHost: localhost\r\nX-Part: ")
    answer = await reader.readuntil(b'{"ok": true}')
    with contextlib.suppress(ConnectionError):
        writer.write(b"GET /whole HTTP/1.1\r\nConnection: close\r\n\r\n")
        answer += await reader.read()
    writer.close()

    assert answer.count(b"HTTP/1.1 200") == answer.count(b"HTTP/1.") == 1
    assert fake_front.service.paths() == ["POST /slow?sec=1"]


async def is_served(made: Front, path: str) -> bool:
    return path in made.service.paths()


async def test_connection_serves_several_requests(fake_front: Front) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", fake_front.gateway.ports["fake"])
    for number in range(3):
        writer.write(f"\r\nGET /{number} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        await reader.readuntil(b'"body": ""}')
    writer.close()

    assert fake_front.service.paths() == ["GET /0", "GET /1", "GET /2"]


async def test_heads_that_are_too_long_or_too_slow_are_refused(fake_front: Front) -> None:
    fits = await raw(fake_front, head(f"Cookie: {'a' * 12000}", "Content-Length: 0"))
    long = await raw(fake_front, head(f"Cookie: {'a' * 20000}"))
    began = time.monotonic()
    slow = await raw(fake_front, "GET / HTTP/1.1\r\nHost: localhost\r\n")

    assert status_of(fits) == 200
    assert status_of(long) == 431
    assert status_of(slow) == 408
    assert time.monotonic() - began < 40


async def test_foreign_hosts_and_origins_are_refused(fake_front: Front) -> None:
    foreign = await raw(fake_front, head(host="Host: evil.example"))
    rebound = await raw(fake_front, head("Origin: http://evil.example", host="Host: evil.example"))
    origin = await raw(fake_front, head("Origin: http://evil.example", "Content-Length: 0"))
    null = await raw(fake_front, head("Origin: null", "Content-Length: 0"))
    none = await raw(fake_front, "GET /echo HTTP/1.1\r\nConnection: close\r\n\r\n")
    empty = await raw(fake_front, "GET /echo HTTP/1.0\r\nHost:\r\n\r\n")
    # Browsers always send the header, so that no web site can cause this request.
    old = await raw(fake_front, "GET /echo HTTP/1.0\r\n\r\n")
    own = await raw(fake_front, head("Origin: http://localhost", "Content-Length: 0"))

    assert [status_of(one) for one in (foreign, rebound, origin, null)] == [421, 421, 403, 403]
    assert [one.split(b" ")[1] for one in (none, empty, old)] == [b"400", b"421", b"200"]
    assert status_of(own) == 200
    assert len(fake_front.service.paths()) == 2


async def test_headers_of_one_connection_are_removed_and_forwarding_headers_are_set(fake_front: Front) -> None:
    sent = head(
        "X-Secret: a",
        "X-Kept: b",
        "Connection: close, X-Secret",
        "Te: trailers",
        "Proxy-Authorization: c",
        "X-Forwarded-For: 10.0.0.1",
        "X-OpenWebUI-User-Email: d@example.org",
        "Origin: http://localhost:1234",
        "Content-Length: 2",
        host="Host: localhost:1234",
    )
    answer = await raw(fake_front, sent + "hi")
    seen = {name.lower(): value for name, value in json.loads(answer.partition(b"\r\n\r\n")[2])["headers"].items()}

    assert status_of(answer) == 200
    assert b"via: 1.1 gpumand" in answer.lower()
    dropped = {"x-secret", "te", "proxy-authorization", "x-openwebui-user-email", "upgrade"}
    assert not dropped & seen.keys()
    own = fake_front.service.url.removeprefix("http://")
    assert seen["x-kept"] == "b"
    assert seen["host"] == own
    assert seen["origin"] == f"http://{own}"
    assert seen["x-forwarded-for"] == "127.0.0.1"
    assert seen["x-forwarded-host"] == "localhost:1234"
    assert seen["x-forwarded-proto"] == "http"
    assert seen["via"] == "1.1 gpumand"


async def test_paths_and_queries_arrive_as_they_were_sent(fake_front: Front) -> None:
    target = "/A%20b/c;d=1//e?x=%2F..%2f&y=a+b%zz"
    answer = await raw(fake_front, head(first=f"GET {target} HTTP/1.1"))

    assert status_of(answer) == 200
    assert fake_front.service.paths() == [f"GET {target}"]


async def test_redirects_are_passed_to_the_client_with_its_own_address(fake_front: Front) -> None:
    async with fake_front.session.get(f"{fake_front.url}/redirect", allow_redirects=False) as answer:
        assert answer.status == 302
        assert answer.headers["Location"] == f"{fake_front.url}/elsewhere"
    assert fake_front.service.paths() == ["GET /redirect"]


async def test_streams_arrive_chunk_by_chunk(fake_front: Front) -> None:
    async with fake_front.session.post(f"{fake_front.url}/stream?chunks=4&pause=0.3") as answer:
        times = [time.monotonic() async for _ in answer.content.iter_any()]

    assert len(times) == 4
    assert times[-1] - times[0] > 0.6


async def test_answer_that_breaks_off_breaks_off_for_the_client(fake_front: Front) -> None:
    with pytest.raises(aiohttp.ClientPayloadError):
        async with fake_front.session.post(f"{fake_front.url}/cut") as answer:
            await answer.read()


async def test_request_is_ended_at_the_service_when_its_client_leaves(fake_front: Front) -> None:
    running = asyncio.create_task(fake_front.session.post(f"{fake_front.url}/slow?sec=60"))
    await wait_until("the service works", lambda: happened(bool(fake_front.service.seen)))

    running.cancel()

    await wait_until("the request has ended", lambda: happened(not established(fake_front.service.port)))


async def happened(value: object) -> bool:
    return bool(value)


def established(port: int) -> bool:
    """Whether a connection to a local port is established."""
    with open("/proc/net/tcp", encoding="ascii") as file:
        rows = [line.split() for line in file.readlines()[1:]]
    return any(row[2].endswith(f":{port:04X}") and row[3] == "01" for row in rows)


async def test_upload_of_a_gigabyte_waits_and_passes_in_constant_memory(fake_front: Front) -> None:
    size = 1024 * MIB
    lease = await fake_front.block()

    async def body() -> AsyncIterator[bytes]:
        chunk = bytes(MIB)
        for _ in range(size // MIB):
            yield chunk

    headers = {"Content-Length": str(size)}
    upload = asyncio.create_task(post(fake_front, "/upload", data=body(), headers=headers))
    await wait_until("the upload waits", lambda: has_queue(fake_front))
    largest = fake_front.gateway.rss_mib()
    await fake_front.control.release(lease)
    while not upload.done():
        largest = max(largest, fake_front.gateway.rss_mib())
        await asyncio.sleep(0.05)

    assert json.loads(await upload) == {"bytes": size}
    assert largest < 80


async def post(made: Front, path: str, **more: object) -> bytes:
    async with made.session.post(made.url + path, **more) as answer:  # type: ignore[arg-type]
        assert answer.status == 200
        return await answer.read()


async def has_queue(made: Front) -> bool:
    return bool((await made.control.status())["queue"])


async def test_upload_whose_client_leaves_while_it_waits_is_withdrawn(fake_front: Front) -> None:
    lease = await fake_front.block()
    reader, writer = await asyncio.open_connection("127.0.0.1", fake_front.gateway.ports["fake"])
    # More than the gateway reads before the lease, and small enough for the kernel's buffers, so that the end of the
    # connection can follow it.
    writer.write(head("Content-Length: 9000000", first="POST /upload HTTP/1.1").encode() + bytes(1_000_000))
    await writer.drain()
    await wait_until("the upload waits", lambda: has_queue(fake_front))

    writer.close()

    async def no_queue() -> bool:
        return not await has_queue(fake_front)

    await wait_until("the queue is empty", no_queue)
    await fake_front.control.release(lease)
    assert reader is not None


async def test_client_that_waits_for_100_continue_gets_it_after_the_lease(fake_front: Front) -> None:
    lease = await fake_front.block()
    reader, writer = await asyncio.open_connection("127.0.0.1", fake_front.gateway.ports["fake"])
    writer.write(head("Content-Length: 5", "Expect: 100-continue", first="POST /upload HTTP/1.1").encode())
    await wait_until("the upload waits", lambda: has_queue(fake_front))
    early = asyncio.create_task(reader.readline())
    done, _ = await asyncio.wait({early}, timeout=0.5)
    assert not done

    await fake_front.control.release(lease)

    assert b"100 Continue" in await early
    await reader.readline()
    writer.write(b"hello")
    assert json.loads((await reader.read()).partition(b"\r\n\r\n")[2]) == {"bytes": 5}
    writer.close()


async def test_websocket_passes_messages_protocols_and_closes(fake_front: Front) -> None:
    url = f"{fake_front.url}/ws?clientId=1"
    async with fake_front.session.ws_connect(url, protocols=("other", "chat")) as socket:
        assert socket.protocol == "chat"
        await socket.send_str("hello")
        assert (await socket.receive()).data == "echo hello"
        await fake_front.service.stop()
        message = await socket.receive()

    assert message.type in (WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED)
    assert socket.close_code == 1000
    assert (await fake_front.control.status())["leases"] == []


async def test_gateway_whose_service_is_the_gateway_itself_reports_the_loop(tmp_path: Path) -> None:
    async with front(tmp_path) as made:
        made.service.port, own = made.gateway.ports["fake"], made.service.port
        text = (made.host.folder / "gpumand.toml").read_text(encoding="utf-8")
        changed = text.replace(f'"http://127.0.0.1:{own}"', f'"http://127.0.0.1:{made.service.port}"')
        (made.host.folder / "gpumand.toml").write_text(changed, encoding="utf-8")
        await made.control.call("Reload")
        async with made.session.post(f"{made.url}/echo") as answer:
            assert answer.status == 508
            assert "names the gateway" in await answer.text()
        made.service.port = own
