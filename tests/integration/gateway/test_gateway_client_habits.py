"""Habits of real programs at the gateway: spellings, headers and forms that differ from those of a textbook."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import anthropic
import ollama
import openai
import pytest

from gpumand.gateway.entrance_config import GATEWAY
from tests.integration.gateway.conftest import front
from tests.integration.gateway.entrance import entrance
from tests.integration.gateway.live_gateway import http
from tests.integration.gateway.stopped_service import stopped_service
from tests.integration.gateway.waiting_requests import COMFYUI
from tests.integration.http.raw import exchange

FOREIGN = b"Sec-Fetch-Site: cross-site\r\nSec-Fetch-Dest: image\r\n"
MESSAGES = [{"role": "user", "content": "hi"}]
ALIAS = '[gateway.models]\nassistant = { consumer = "ollama", as = "gemma3:latest" }\n'


async def test_unload_of_the_ollama_library_loads_nothing(tmp_path: Path) -> None:
    async with entrance(tmp_path) as made:
        await made.get("/v1/models")
        lease = await made.block()
        client = ollama.AsyncClient(made.url, timeout=20)
        async with client._client:
            # The library sends 0.0, and a request that needed the model would wait for the lease above.
            answers = [
                await client.generate("gemma3", keep_alive=0),
                await client.chat("gemma3", [], keep_alive=0),
                await client.generate("gemma3", keep_alive="0m"),
            ]
        await made.control.release(lease)

    assert [one.done_reason for one in answers] == ["unload"] * 3
    assert made.ollama.bodies == []


async def test_names_of_the_configuration_have_the_tag_that_programs_of_ollama_add(tmp_path: Path) -> None:
    async with entrance(tmp_path, tables=ALIAS) as made:
        client = ollama.AsyncClient(made.url, timeout=20)
        async with client._client:
            listed = [one.model for one in (await client.list()).models]
            for name in (listed[0], "assistant", "Gemma3", "QWEN3:8B"):
                await client.chat(name or "", MESSAGES)
        named = await made.post("/api/show", {"name": "assistant"})
        ambiguous = await made.post("/api/show", {"name": "assistant", "Name": "qwen3:8b"})

    assert listed == ["assistant:latest", "gemma3:latest", "qwen3:8b"]
    assert made.ollama.used[:4] == ["gemma3:latest", "gemma3:latest", "Gemma3", "QWEN3:8B"]
    assert (named[0], made.ollama.bodies[4:]) == (200, [{"name": "gemma3:latest"}])
    assert ambiguous[0] == 400


async def test_refused_changes_of_ollama_reach_its_library_with_their_reason(tmp_path: Path) -> None:
    async with entrance(tmp_path) as made:
        await made.get("/v1/models")
        client = ollama.AsyncClient(made.url, timeout=20)
        async with client._client:
            for change in (client.pull("new"), client.delete("gemma3"), client.copy("gemma3", "x")):
                with pytest.raises(ollama.ResponseError) as raised:
                    await change
                assert raised.value.status_code == 403
                assert raised.value.error.startswith("This route may not be used through the gateway.")


async def test_client_of_anthropic_gets_lists_and_errors_in_its_form_on_shared_paths(tmp_path: Path) -> None:
    async with entrance(tmp_path) as made:
        client = anthropic.AsyncAnthropic(base_url=made.url, api_key="none", timeout=20, max_retries=0)
        async with client:
            models = [(one.id, one.display_name, one.type) async for one in client.models.list()]
            one = await client.models.retrieve("org/phi-4")
            with pytest.raises(anthropic.NotFoundError) as raised:
                await client.models.retrieve("nothing")
        async with openai.AsyncOpenAI(base_url=f"{made.url}/v1", api_key="none") as other:
            owners = {one.object async for one in other.models.list()}

    assert models[:2] == [("qwen3", "qwen3", "model"), ("org/phi-4", "org/phi-4", "model")]
    assert (one.id, one.display_name, owners) == ("org/phi-4", "org/phi-4", {"model"})
    assert isinstance(raised.value.body, dict)
    assert raised.value.body["type"] == "error"


async def test_body_that_is_declared_as_not_compressed_or_names_the_model_null_is_read(tmp_path: Path) -> None:
    async with entrance(tmp_path) as made:
        await made.get("/v1/models")
        plain = await made.post("/v1/embeddings", {"model": "qwen3"}, headers={"Content-Encoding": "identity"})
        without = await made.post("/v1/rerank", {"model": None})
        gzip = await made.post("/v1/embeddings", {"model": "qwen3"}, headers={"Content-Encoding": "identity, gzip"})

    assert (plain[0], gzip[0], gzip[1]["error"]["code"]) == (200, 415, "compressed_body")
    assert without == (200, {"path": "/v1/rerank", "model": None})


async def test_stream_to_a_client_of_http_1_0_ends_with_its_connection(tmp_path: Path) -> None:
    body = b'{"model": "qwen3", "stream": true, "messages": []}'
    head = b"POST /v1/chat/completions HTTP/1.0\r\nConnection: keep-alive\r\nContent-Type: application/json\r\n"
    async with entrance(tmp_path) as made:
        await made.get("/v1/models")
        address = ("127.0.0.1", made.gateway.ports[GATEWAY])

        # exchange() fails if the connection stays open.
        answer = await exchange(address, head + b"Content-Length: %d\r\n\r\n" % len(body) + body)

    assert answer.startswith(b"HTTP/1.0 200 ")
    assert answer.endswith(b"data: [DONE]\n\n")


async def test_client_of_http_1_0_gets_no_interim_answer(tmp_path: Path) -> None:
    async with front(tmp_path, COMFYUI) as made:
        reader, writer = await asyncio.open_connection("127.0.0.1", made.gateway.ports["fake"])
        writer.write(b"POST /upload HTTP/1.0\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        answering = asyncio.create_task(reader.read())
        # An interim answer would be sent in this time; where it came later, it would be the beginning of the answer.
        await asyncio.wait({answering}, timeout=1.0)
        writer.write(b"hello")
        async with asyncio.timeout(30):
            answer = await answering
        writer.close()

    assert answer.startswith(b"HTTP/1.0 200 ")
    assert answer.endswith(b'{"bytes": 5}')


async def test_users_of_a_service_that_names_them_in_a_header_of_its_own_get_their_own_answers(tmp_path: Path) -> None:
    names = ("Comfy-User", "Remote-User", "X-Auth-Token")
    async with front(tmp_path, COMFYUI) as made:

        async def own(name: str, value: str, agent: str) -> str | None:
            headers = {name: value, "User-Agent": agent}
            async with made.session.get(f"{made.url}/api/settings", headers=headers) as answer:
                found: dict[str, str] = (await answer.json())["headers"]
                return found.get(name)

        for name in names:
            values = ("alice", "bob", "alice")
            found = await asyncio.gather(*(own(name, one, str(index)) for index, one in enumerate(values)))
            assert found == list(values)
        count = len(made.service.paths())

    # Answers are shared for a second only, which a busy machine may let pass once.
    assert 2 * len(names) <= count < 3 * len(names), "clients that differ in harmless headers only share an answer"


async def test_upload_before_a_job_starts_a_stopped_service_and_needs_no_lease_while_it_runs(tmp_path: Path) -> None:
    (tmp_path / "stopped").mkdir()
    (tmp_path / "running").mkdir()
    async with stopped_service(tmp_path / "stopped", COMFYUI) as (gateway, control), http() as session:
        async with session.post(f"{gateway.url('llm')}/history", data=b"{}") as answer:
            other = answer.status, (await control.consumer("llm"))["residency"]
        head = b"POST /upload/image HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 5\r\n"
        waiting = head + b"Expect: 100-continue\r\n\r\nimage"
        foreign = await exchange(("127.0.0.1", gateway.ports["llm"]), head + FOREIGN + b"\r\nimage")
        upload = await exchange(("127.0.0.1", gateway.ports["llm"]), waiting)
        residency = (await control.consumer("llm"))["residency"]
    async with front(tmp_path / "running", COMFYUI) as made:
        lease = await made.block()
        async with made.session.post(f"{made.url}/upload/image", data=b"image") as answer:
            running = answer.status
        await made.control.release(lease)

    assert other == (503, "unloaded")
    assert foreign.startswith(b"HTTP/1.1 403 ")
    # The service of this test has no such route, and says so.
    assert upload.count(b"100 Continue") <= 1
    assert b"HTTP/1.1 404 " in upload
    assert (residency, running) == ("resident", 200)


@contextlib.asynccontextmanager
async def raw_service(port: int, answer: bytes) -> AsyncIterator[None]:
    """A server that gives the same answer to every request."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", port, reuse_address=True)
    async with server:
        yield


@pytest.mark.skipif(
    "max_headers" not in inspect.signature(aiohttp.ClientSession).parameters, reason="needs aiohttp 3.14"
)
async def test_long_heads_of_a_service_pass_as_to_a_browser(tmp_path: Path) -> None:
    cookies = b"".join(b"Set-Cookie: c%d=%s\r\n" % (number, b"x" * 200) for number in range(200))
    policy = b"Content-Security-Policy: " + b"a" * 20_000 + b"\r\n"
    async with front(tmp_path, COMFYUI) as made:
        await made.service.stop()
        async with raw_service(
            made.service.port, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n" + cookies + policy + b"\r\nok"
        ):
            request = b"GET /queue HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            answer = await exchange(("127.0.0.1", made.gateway.ports["fake"]), request)

    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.count(b"Set-Cookie: ") == 200
    assert policy in answer
    assert answer.endswith(b"\r\n\r\nok")


@pytest.mark.parametrize("method", [b"GET", b"POST"])
async def test_switch_to_another_protocol_that_no_client_asked_for_is_an_invalid_answer(
    tmp_path: Path, method: bytes
) -> None:
    async with front(tmp_path, COMFYUI) as made:
        await made.service.stop()
        switch = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: tls\r\n\r\n"
        async with raw_service(made.service.port, switch):
            request = method + b" /queue HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
            answer = await exchange(("127.0.0.1", made.gateway.ports["fake"]), request)

    assert answer.startswith(b"HTTP/1.1 502 ")
    assert b"The service did not answer in valid HTTP." in answer


async def test_request_that_waited_too_long_may_be_repeated_after_some_seconds(tmp_path: Path) -> None:
    async with front(tmp_path, keys="wait_sec = 1") as made:
        # The next load is expected to take as long as this one, which takes no time.
        async with made.session.post(f"{made.url}/work", data=b"{}") as answer:
            assert answer.status == 200
        lease = await made.block()
        async with made.session.post(f"{made.url}/work", data=b"{}") as answer:
            refused = answer.status, int(answer.headers["Retry-After"])
        await made.control.release(lease)

    assert refused == (503, 5)


async def test_protocols_of_a_websocket_are_not_logged(tmp_path: Path) -> None:
    protocols = ("realtime", "openai-insecure-api-key.secret-17")
    async with front(tmp_path, COMFYUI) as made:
        async with made.session.ws_connect(f"{made.url}/ws", protocols=protocols) as socket:
            await socket.send_str("hi")
            assert (await socket.receive()).data == "echo hi"
        async with aiohttp.ClientSession() as session, session.get(f"{made.url}/queue") as answer:
            assert answer.status == 200
        log = made.gateway.log

    assert "fake: listening on" in log
    assert "secret-17" not in log
