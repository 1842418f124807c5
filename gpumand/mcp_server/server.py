"""The MCP server: the tools with their descriptions, over stdio.

Written for the package ``mcp`` 2. What it says to agents is part of the interface: names of tools and parameters stay.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Annotated, Any

from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import ToolAnnotations
from pydantic import Field

from gpumand.client.errors import GpumandError
from gpumand.client.lease_options import LeaseOptions
from gpumand.mcp_server.tools import MAX_WAIT_SEC, Document, Tools
from gpumand.version import VERSION

INSTRUCTIONS = """gpumand lends the GPU memory (VRAM) of this host to the services that need it. Services are called
consumers. To use one, acquire a lease on it, send your requests to the endpoint in the answer, and release the lease.
No consumer with an active lease is unloaded. To run a program of your own on the GPU, acquire vram_mib without a
consumer. Call plan first if others may be working: it says what would be unloaded, and changes nothing. Leases end with
this server at the latest. Release them as soon as you no longer need them, because others wait for the memory."""

DEFAULT_WAIT_SEC = 45.0
"""Many clients end a call after 60 s. An answer with the reason must arrive before."""

READ_ONLY = ToolAnnotations(read_only_hint=True, open_world_hint=False)
CHANGES = ToolAnnotations(read_only_hint=False, destructive_hint=False, open_world_hint=False)
UNLOADS = ToolAnnotations(read_only_hint=False, destructive_hint=True, open_world_hint=False)

Consumer = Annotated[str, Field(description="Name of the consumer, as the tool status lists it.")]
ConsumerOrNone = Annotated[str, Field(description="Name of the consumer; empty to reserve VRAM without one.")]
Device = Annotated[str, Field(description="Index or UUID of the GPU; empty for any that fits.")]
VramMib = Annotated[int | None, Field(description="MiB of VRAM to reserve, without a consumer.")]
WholeGpu = Annotated[bool, Field(description="Reserve a whole GPU, without a consumer.")]
TimeoutSec = Annotated[
    float, Field(ge=0, le=MAX_WAIT_SEC, description="Seconds to wait; 0 fails at once if it would have to wait.")
]


def build(tools: Tools) -> MCPServer[Any]:
    """The server with all tools.

    Args:
        tools: the operations.
    """
    server: MCPServer[Any] = MCPServer("gpumand", version=VERSION, instructions=INSTRUCTIONS, log_level="WARNING")
    _add_reading(server, tools)
    _add_leases(server, tools)
    _add_manual(server, tools)
    return server


async def serve(bus: str) -> None:
    """Serve the client at stdin and stdout until it closes stdin; then all leases of this server are released.

    Args:
        bus: "system", "session", or a D-Bus address.
    """
    tools = Tools(bus)
    try:
        await build(tools).run_stdio_async()
    finally:
        await tools.held.release_all()


def _add_reading(server: MCPServer[Any], tools: Tools) -> None:
    @server.tool(title="GPU status", annotations=READ_ONLY)
    async def status() -> Document:
        """Show GPUs with their free memory, consumers, leases and waiting requests; held has the leases of this server.

        Sizes are in MiB. What is unknown is left out.
        """
        with _errors():
            return await tools.status()

    @server.tool(title="Plan a request", annotations=READ_ONLY)
    async def plan(
        consumer: ConsumerOrNone = "", vram_mib: VramMib = None, whole_gpu: WholeGpu = False, device: Device = ""
    ) -> Document:
        """Say what a request would do now and why: grant, wait or refuse, and what it would unload. Changes nothing."""
        with _errors():
            return await tools.plan(consumer, vram_mib, whole_gpu, device)


def _add_leases(server: MCPServer[Any], tools: Tools) -> None:
    @server.tool(title="Reserve the GPU", annotations=UNLOADS)
    async def acquire(
        consumer: ConsumerOrNone = "",
        vram_mib: VramMib = None,
        whole_gpu: WholeGpu = False,
        device: Device = "",
        reason: Annotated[str, Field(max_length=200, description="Purpose; shown to other users.")] = "",
        timeout_sec: TimeoutSec = DEFAULT_WAIT_SEC,
        exclusive: Annotated[bool, Field(description="Let nothing else be leased on the GPU meanwhile.")] = False,
    ) -> Document:
        """Load a consumer and take a lease on it, or reserve VRAM. Idle consumers may be unloaded to make room.

        The answer has the id of the lease for the tool release, and the endpoint of the consumer. The lease ends with
        this server at the latest.
        """
        options = LeaseOptions(timeout_sec=timeout_sec, device=device, reason=reason, exclusive=exclusive)
        with _errors():
            return await tools.acquire(consumer, LeaseOptions(**options, vram_mib=vram_mib, all=whole_gpu))

    @server.tool(title="Release a lease", annotations=CHANGES)
    async def release(lease: Annotated[str, Field(description="Id of the lease.")]) -> Document:
        """Release a lease, so that others may use the memory."""
        with _errors():
            return await tools.release(lease)


def _add_manual(server: MCPServer[Any], tools: Tools) -> None:
    @server.tool(title="Load a consumer", annotations=UNLOADS)
    async def load(consumer: Consumer, timeout_sec: TimeoutSec = DEFAULT_WAIT_SEC, device: Device = "") -> Document:
        """Load a consumer without a lease, for use soon. Idle consumers may be unloaded to make room."""
        with _errors():
            return await tools.load(consumer, timeout_sec, device)

    @server.tool(title="Unload a consumer", annotations=UNLOADS)
    async def evict(
        consumer: Consumer,
        timeout_sec: TimeoutSec = DEFAULT_WAIT_SEC,
        force: Annotated[
            bool, Field(description="Unload it although it is leased or pinned: this ends the work of others.")
        ] = False,
    ) -> Document:
        """Unload a consumer, so that its VRAM becomes free. It needs the right to evict."""
        with _errors():
            return await tools.evict(consumer, timeout_sec, force)


@contextlib.contextmanager
def _errors() -> Iterator[None]:
    """Report refusals and failures of gpumand to the agent with their name and reason."""
    try:
        yield
    except GpumandError as error:
        raise ToolError(f"{type(error).__name__}: {error.message}") from None
