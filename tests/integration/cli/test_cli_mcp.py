"""``gpumanctl mcp`` with the client of the official package, against the real daemon on a private bus."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client, StdioServerParameters, stdio_client

from gpumand.client import Client as GpumandClient
from gpumand.testing.daemon import PrivateGpumand
from tests.waiting import until_answer

DEADLINE_SEC = 30.0
POLL_SEC = 0.05
COMMAND = ["-m", "gpumand.cli", "mcp"]
pytestmark = pytest.mark.timeout(120)


@pytest.fixture
async def gpumand() -> AsyncIterator[PrivateGpumand]:
    """Two consumers, of which one fits at a time."""
    async with PrivateGpumand({"comfyui": 12000, "llm": 8000}, total_mib=16384) as started:
        yield started


def parameters(gpumand: PrivateGpumand, *options: str) -> StdioServerParameters:
    command = [*COMMAND, *(options or ("--bus-address", gpumand.address))]
    return StdioServerParameters(command=sys.executable, args=command, env=dict(os.environ))


@asynccontextmanager
async def agent(gpumand: PrivateGpumand) -> AsyncIterator[Client]:
    async with Client(stdio_client(parameters(gpumand))) as client:
        yield client


async def call(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    """The document that a tool returns."""
    answer = await client.call_tool(tool, arguments)
    assert not answer.is_error, answer.content
    assert answer.structured_content is not None
    return dict(answer.structured_content)


async def refusal(client: Client, tool: str, **arguments: Any) -> str:
    """The message of a tool that fails, without the words of the package before it."""
    answer = await client.call_tool(tool, arguments)
    assert answer.is_error, answer.structured_content
    content = answer.content[0]
    assert content.type == "text"
    return content.text.removeprefix(f"Error executing tool {tool}: ")


async def leases(gpumand: PrivateGpumand) -> dict[str, str]:
    """Consumer by id of the active leases."""
    async with GpumandClient(gpumand.address) as client:
        return {one.id: one.consumer for one in (await client.status()).leases}


async def test_an_agent_finds_the_tools_with_their_descriptions_and_rights(gpumand: PrivateGpumand) -> None:
    async with agent(gpumand) as client:
        tools = {one.name: one for one in (await client.list_tools()).tools}
    assert set(tools) == {"status", "plan", "acquire", "release", "load", "evict"}
    assert {name for name, one in tools.items() if one.annotations and one.annotations.read_only_hint} == {
        "status",
        "plan",
    }
    assert all(one.description for one in tools.values())
    assert tools["acquire"].input_schema["properties"]["vram_mib"]["description"].startswith("MiB of VRAM")
    waits = {name: one.input_schema["properties"].get("timeout_sec", {}).get("default") for name, one in tools.items()}
    # Clients give up a call after 60 s.
    assert waits == {"acquire": 45, "load": 45, "evict": 45, "status": None, "plan": None, "release": None}


async def test_an_agent_reserves_the_gpu_and_gives_it_back(gpumand: PrivateGpumand) -> None:
    async with agent(gpumand) as client:
        before = await call(client, "status")
        assert {one["name"] for one in before["consumers"]} == {"comfyui", "llm"}
        assert before["held"] == []
        assert (await call(client, "plan", consumer="comfyui"))["verdict"] == "grant"

        granted = await call(client, "acquire", consumer="comfyui", reason="poster")

        assert granted["endpoint"] == gpumand.urls["comfyui"]
        assert granted["loaded"] is True
        assert await leases(gpumand) == {granted["id"]: "comfyui"}
        (held,) = (await call(client, "status"))["held"]
        assert held["id"] == granted["id"]

        await call(client, "release", lease=granted["id"][:8])
        assert await leases(gpumand) == {}
        assert (await call(client, "status"))["held"] == []


async def test_memory_is_reserved_for_a_program_of_the_agent(gpumand: PrivateGpumand) -> None:
    async with agent(gpumand) as client:
        granted = await call(client, "acquire", vram_mib=4096, reason="training")
        assert granted["vram_mib"] == 4096
        assert await leases(gpumand) == {granted["id"]: ""}
        message = await refusal(client, "acquire", consumer="comfyui", vram_mib=1)
        assert message.startswith("InvalidArgs: a lease on comfyui takes no vram_mib")


async def test_a_refusal_names_its_reason(gpumand: PrivateGpumand) -> None:
    async with agent(gpumand) as client:
        assert (await refusal(client, "acquire", consumer="comfyu")).startswith("NoSuchConsumer: ")
        await call(client, "acquire", consumer="comfyui")
        # A request that waits for a lease of the agent itself could wait for ever.
        waiting = await refusal(client, "acquire", consumer="llm", timeout_sec=DEADLINE_SEC)
        assert waiting.startswith("WouldDeadlock: ")
        assert (await refusal(client, "release", lease="")).startswith("NoSuchLease: ")
        assert (await refusal(client, "release", lease="0" * 8)).startswith("NoSuchLease: ")
        assert "timeout_sec" in await refusal(client, "load", consumer="llm", timeout_sec=-1)


async def test_an_agent_loads_and_unloads_consumers(gpumand: PrivateGpumand) -> None:
    async with agent(gpumand) as client:
        assert (await call(client, "load", consumer="comfyui"))["changed"] is True
        loaded = await call(client, "load", consumer="llm")
        assert loaded["evicted"] == ["comfyui"]
        freed = await call(client, "evict", consumer="llm")
        assert freed["freed_mib"] == 8000

        granted = await call(client, "acquire", consumer="llm")
        assert (await refusal(client, "evict", consumer="llm", timeout_sec=0)).startswith("Busy: ")
        await call(client, "evict", consumer="llm", force=True)
        assert await leases(gpumand) == {}

        async def ended() -> bool:
            (held,) = (await call(client, "status"))["held"]
            return bool(held["id"] == granted["id"] and held.get("ended") == "revoked")

        await until_answer(ended, "the agent sees that its lease was revoked")


async def test_leases_end_when_the_client_closes_the_server(gpumand: PrivateGpumand) -> None:
    async with agent(gpumand) as client:
        await call(client, "acquire", consumer="llm")
        assert await leases(gpumand) != {}

    async def none() -> bool:
        return await leases(gpumand) == {}

    await until_answer(none, "no lease is left")


async def test_leases_end_when_the_server_is_killed(gpumand: PrivateGpumand) -> None:
    server = await asyncio.create_subprocess_exec(
        sys.executable,
        *COMMAND,
        "--bus-address",
        gpumand.address,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert server.stdin is not None
    assert server.stdout is not None
    hello = '{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"test","version":"1"}}'
    server.stdin.write(
        f'{{"jsonrpc":"2.0","id":1,"method":"initialize","params":{hello}}}\n'
        '{"jsonrpc":"2.0","method":"notifications/initialized"}\n'
        '{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"acquire","arguments":{"consumer":"llm"}}}\n'.encode()
    )
    try:
        async with asyncio.timeout(DEADLINE_SEC):
            answers = [await server.stdout.readline() for _ in range(2)]
        assert b'"endpoint"' in answers[1], answers
        assert len(await leases(gpumand)) == 1
    finally:
        server.send_signal(signal.SIGKILL)
        await server.wait()

    async def none() -> bool:
        return await leases(gpumand) == {}

    await until_answer(none, "no lease is left")


async def test_a_cancelled_call_withdraws_its_request(gpumand: PrivateGpumand) -> None:
    async with agent(gpumand) as holder, agent(gpumand) as other, GpumandClient(gpumand.address) as observer:
        await call(holder, "acquire", consumer="comfyui")

        async def queue() -> int:
            return len((await observer.status()).queue)

        async def empty() -> bool:
            return await queue() == 0

        async with anyio.create_task_group() as group:
            group.start_soon(lambda: other.call_tool("acquire", {"consumer": "llm", "timeout_sec": 600}))
            await until_answer(queue, "the request waits")
            group.cancel_scope.cancel()
        await until_answer(empty, "the request is withdrawn")
        assert len((await call(other, "status"))["leases"]) == 1, "the server goes on"


async def test_a_server_without_gpumand_explains_itself(tmp_path: Path) -> None:
    address = f"unix:path={tmp_path}/none"
    server = StdioServerParameters(
        command=sys.executable, args=[*COMMAND, "--bus-address", address], env=dict(os.environ)
    )
    async with Client(stdio_client(server)) as client:
        assert (await refusal(client, "status")).startswith("BusUnavailable: ")


def test_without_the_package_the_command_says_how_to_install_it(tmp_path: Path) -> None:
    # -S: no site-packages of the environment; the packages of gpumand itself come from a folder without mcp.
    folder = tmp_path / "packages"
    folder.mkdir()
    site = Path(anyio.__file__).parents[1]
    for one in site.iterdir():
        if not one.name.startswith("mcp"):
            (folder / one.name).symlink_to(one)
    path = os.pathsep.join([str(Path(__file__).parents[3]), str(folder)])
    done = subprocess.run(
        [sys.executable, "-S", *COMMAND],
        env=os.environ | {"PYTHONPATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("gpumanctl: the Python package mcp is not installed. Install it: ")
    assert "'mcp>=2'" in done.stderr
    assert len(done.stderr.splitlines()) == 1
