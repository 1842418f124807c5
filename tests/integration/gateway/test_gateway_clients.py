"""The official client libraries survive a load that is much longer than the silence that they tolerate.

A short form runs with all tests; ``make clients`` runs it at full length: a load of 40 s, and a limit of 5 s. The
libraries that announce their limit run with the default settings, the others with those of the guide.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import anthropic
import httpx
import ollama
import openai
import pytest

from gpumand.gateway.entrance_config import GATEWAY
from tests.integration.gateway.entrance import Entrance, entrance
from tests.integration.gateway.live_gateway import LiveGateway, free_port, http
from tests.integration.live import Client, bare_host, table, wait_until

ROOT = Path(__file__).resolve().parents[3]
NODE = Path(__file__).parent / "node"
INSTALLED = ROOT / "build" / "node"
NPM_OPTIONS = ("--no-audit", "--no-fund", "--ignore-scripts", "--fetch-retries=1", "--fetch-timeout=20000")
NO_NETWORK = ("ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ETIMEDOUT", "ENETUNREACH", "EHOSTUNREACH", "ECONNRESET")


@dataclass(frozen=True)
class Lengths:
    """Seconds: how long a request waits, how long a client tolerates silence, and between two signs of life."""

    load: float
    limit: float
    drip: float


GUIDE = ROOT / "docs" / "guide" / "gateway.md"
LENGTHS = Lengths(40.0, 5.0, 2.0) if os.environ.get("GPUMAND_FULL_LENGTH") else Lengths(5.0, 1.5, 0.3)
MESSAGES: Any = [{"role": "user", "content": "hi"}]

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Entrance]:
    """An entrance that shows signs of life early; the lists of the services are known."""
    times = f"patience_sec = {LENGTHS.drip}\ndrip_sec = {LENGTHS.drip}"
    async with entrance(tmp_path, keys=times) as made:
        await made.get("/v1/models")
        yield made


@pytest.fixture
async def untuned(tmp_path: Path) -> AsyncIterator[Entrance]:
    """An entrance with the default settings, whose silence is longer than the limit of the clients."""
    async with entrance(tmp_path) as made:
        await made.get("/v1/models")
        yield made


@dataclass
class SlowLoad:
    """The own address of a gateway with default settings, in front of a model whose load is long.

    Attributes:
        url: the own address.
    """

    control: Client
    session: aiohttp.ClientSession
    url: str

    async def is_loading(self) -> bool:
        """Whether the model is being loaded."""
        return bool((await self.control.consumer("slow"))["residency"] == "loading")


@pytest.fixture
async def slow(tmp_path: Path) -> AsyncIterator[SlowLoad]:
    """A model that is loaded for a while when the first request comes."""
    async with bare_host(tmp_path) as host, http() as session:
        host.configure(table(await host.launch("slow", 9000, "--load-sec", str(LENGTHS.load)), 9000))
        await host.start()
        port = free_port()
        own = f'listen = "127.0.0.1:{port}"\n[gateway.listeners.slow]\npreset = "llama-server"\n'
        gateway = LiveGateway(host, {}, own)
        gateway.ports[GATEWAY] = port
        control = await host.client()
        await gateway.start()
        try:
            yield SlowLoad(control, session, gateway.url(GATEWAY))
        finally:
            await gateway.end()
            await control.close()
    assert "Traceback" not in gateway.log, gateway.log[-6000:]


def test_guide_has_the_settings_of_the_full_length() -> None:
    assert "hold a client with a limit of 5 s" in GUIDE.read_text(encoding="utf-8")
    assert "```toml\n[gateway]\npatience_sec = 2\ndrip_sec = 2\n```" in GUIDE.read_text(encoding="utf-8")


async def through_a_load(made: Entrance, *calls: Callable[[], Awaitable[Any]]) -> list[Any]:
    """Call while the device is leased, for as long as a load takes."""
    lease = await made.block()
    working = [asyncio.ensure_future(one()) for one in calls]
    await made.wait_for_queue()
    done, _ = await asyncio.wait(working, timeout=LENGTHS.load, return_when=asyncio.FIRST_EXCEPTION)
    failed = [repr(one.exception()) for one in done if one.exception()]
    assert not failed
    await made.control.release(lease)
    return list(await asyncio.gather(*working))


def openai_client(url: str) -> openai.AsyncOpenAI:
    timeout = openai.Timeout(120, read=LENGTHS.limit)
    return openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", timeout=timeout, max_retries=0)


def chats(
    client: openai.AsyncOpenAI, model: str
) -> tuple[Callable[[], Awaitable[str]], Callable[[], Awaitable[str | None]]]:
    """One chat as a stream, and one whose answer comes whole."""

    async def stream() -> str:
        parts = await client.chat.completions.create(model=model, messages=MESSAGES, stream=True)
        return "".join([part.choices[0].delta.content or "" async for part in parts])

    async def plain() -> str | None:
        found = await client.chat.completions.create(model=model, messages=MESSAGES)
        return found.choices[0].message.content

    return stream, plain


async def test_openai_for_python(untuned: Entrance) -> None:
    client = openai_client(untuned.url)

    async def embedding() -> list[float]:
        return (
            (await client.embeddings.create(model="org/phi-4", input="hi", encoding_format="float")).data[0].embedding
        )

    async with client:
        found = await through_a_load(untuned, *chats(client, "qwen3"), embedding)
        models = [one.id async for one in await client.models.list()]
        one = await client.models.retrieve("org/phi-4")
        speech = await client.audio.transcriptions.create(model="qwen3", file=("a.wav", b"x" * 3_000_000))
        with pytest.raises(openai.NotFoundError, match="Known models: qwen3"):
            await client.chat.completions.create(model="nothing", messages=MESSAGES)

    assert found == ["hello", "hello", [0.5]]
    assert models == ["qwen3", "org/phi-4", "gemma3:latest", "qwen3:8b"]
    assert (one.id, speech.text) == ("org/phi-4", "words")


async def test_openai_for_python_while_the_model_is_loaded(slow: SlowLoad) -> None:
    client = openai_client(slow.url)

    async def signs_of_life() -> list[str]:
        headers = {"X-Stainless-Read-Timeout": str(LENGTHS.limit)}
        chat = {"model": "slow", "messages": MESSAGES, "stream": True}
        async with slow.session.post(f"{slow.url}/v1/chat/completions", json=chat, headers=headers) as answer:
            return [line for line in (await answer.text()).splitlines() if line.startswith(":")]

    async with client:
        began = asyncio.get_running_loop().time()
        working: list[asyncio.Future[Any]]
        working = [asyncio.ensure_future(one()) for one in (*chats(client, "slow"), signs_of_life)]
        await wait_until("the model is being loaded", slow.is_loading)
        assert not any(one.done() for one in working)
        *texts, comments = await asyncio.gather(*working)
        seconds = asyncio.get_running_loop().time() - began

    assert texts == ["slow says hello", "slow says hello"]
    assert seconds > LENGTHS.limit, "the load was longer than the silence that the client tolerates"
    assert ": slow: place 1 of 1 in the queue: it is being loaded" in comments


async def test_anthropic_for_python(untuned: Entrance) -> None:
    timeout = anthropic.Timeout(120, read=LENGTHS.limit)
    client = anthropic.AsyncAnthropic(base_url=untuned.url, api_key="none", timeout=timeout, max_retries=0)

    async def stream() -> str:
        async with client.messages.stream(model="qwen3", messages=MESSAGES, max_tokens=10) as parts:
            return "".join([text async for text in parts.text_stream])

    async def plain() -> str:
        message = await client.messages.create(model="qwen3", messages=MESSAGES, max_tokens=10)
        return message.content[0].text  # type: ignore[union-attr]

    async with client:
        found = await through_a_load(untuned, stream, plain)
        with pytest.raises(anthropic.NotFoundError, match="Known models"):
            await client.messages.create(model="nothing", messages=MESSAGES, max_tokens=10)

    assert found == ["hello", "hello"]


async def test_ollama_for_python(door: Entrance) -> None:
    client = ollama.AsyncClient(door.url, timeout=httpx.Timeout(120, read=LENGTHS.limit))

    async def stream() -> str:
        parts = await client.chat("gemma3", MESSAGES, stream=True)
        return "".join([part.message.content or "" async for part in parts])

    async def plain() -> str | None:
        return (await client.chat("gemma3", MESSAGES)).message.content

    async def generate() -> str:
        return "".join([part.response or "" async for part in await client.generate("qwen3:8b", "hi", stream=True)])

    async with client._client:  # not every version of the library can close its connections
        found = await through_a_load(door, stream, plain, generate)
        listed = [one.model for one in (await client.list()).models]
        running = [one.model for one in (await client.ps()).models]
        with pytest.raises(ollama.ResponseError, match="no model 'nothing'"):
            await client.chat("nothing", MESSAGES)

    assert found == ["hello", "hello", "hello"]
    assert (listed, running) == (["gemma3:latest", "qwen3:8b"], ["gemma3:latest"])


async def ran(*command: str, folder: Path) -> str:
    """Run a command; returns its output. Fails the test if the command fails."""
    process = await asyncio.create_subprocess_exec(
        *command, cwd=folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    output, errors = await process.communicate()
    assert process.returncode == 0, f"{' '.join(command)} failed: {errors.decode()[-2000:]}"
    return output.decode()


async def installed() -> Path:
    """The folder with the client libraries for Node, in the versions of package-lock.json."""
    INSTALLED.mkdir(parents=True, exist_ok=True)
    lock = INSTALLED / "package-lock.json"
    if not lock.exists() or lock.read_bytes() != (NODE / "package-lock.json").read_bytes():
        shutil.copy(NODE / "package.json", INSTALLED)
        shutil.copy(NODE / "package-lock.json", INSTALLED / "package-lock.new")
        (INSTALLED / "package-lock.new").rename(lock)
        try:
            await ran("npm", "ci", *NPM_OPTIONS, folder=INSTALLED)
        except AssertionError as error:
            lock.unlink()
            if any(code in str(error) for code in NO_NETWORK):
                pytest.skip("the registry of npm cannot be reached")
            raise
        except BaseException:
            lock.unlink()
            raise
    shutil.copy(NODE / "clients.mjs", INSTALLED)
    return INSTALLED


@pytest.mark.skipif(not (shutil.which("node") and shutil.which("npm")), reason="needs the packages nodejs and npm")
async def test_openai_anthropic_and_ollama_for_node(door: Entrance) -> None:
    folder = await installed()
    command = ("node", "clients.mjs", door.url, str(round(1000 * LENGTHS.limit)))

    (output,) = await through_a_load(door, lambda: ran(*command, folder=folder))

    assert json.loads(output) == {
        "openaiStream": "hello",
        "openaiPlain": "hello",
        "anthropicStream": "hello",
        "anthropicPlain": "hello",
        "anthropicUnknown": "404 not_found_error",
        "ollamaStream": "hello",
        "ollamaPlain": "hello",
        "ollamaList": "gemma3:latest qwen3:8b",
        "openaiUpload": "words",
    }
    assert {size > 3_000_000 for size, _ in door.llama.uploads} == {True}
