"""``gpumanctl mcp``: an MCP server over stdio, by which agents reserve the GPU."""

from __future__ import annotations

import sys
from importlib.util import find_spec

import click

from gpumand.cli.errors import ExitCode, Failure
from gpumand.cli.options import Command, global_options
from gpumand.cli.packages import library_advice

MAJOR = 2
REQUIREMENT = f"mcp>={MAJOR}"


@click.command(cls=Command)
@click.pass_context
def mcp(ctx: click.Context) -> None:
    """Run an MCP server on stdin and stdout, for agents.

    An MCP client such as Claude Code starts this command. Its tools are status, plan, acquire, release, load and evict,
    with the rights of the user that runs it. The leases of the server end with it. It needs the Python package mcp.
    """
    import asyncio

    options = global_options(ctx)
    if options.json:
        raise click.UsageError("--json does not work with mcp: its output is the protocol")
    _check_package()
    if sys.stdin.isatty():
        click.echo("Waiting for an MCP client on stdin. Configure your client to run this command.", err=True)
    from gpumand.mcp_server.server import serve

    asyncio.run(serve(options.bus_address or ("session" if options.user else "system")))


def _check_package() -> None:
    """Raise Failure if the package mcp is missing or too old."""
    if find_spec("mcp") is None:
        raise Failure(
            ExitCode.FAILURE, f"the Python package mcp is not installed. Install it: {library_advice(REQUIREMENT)}"
        )
    from importlib.metadata import PackageNotFoundError, version

    try:
        found = version("mcp")
    except PackageNotFoundError:
        found = ""
    major = found.partition(".")[0]
    if not major.isdigit() or int(major) < MAJOR:
        message = f"the Python package mcp is version {found or 'unknown'}, but {MAJOR} or later is needed"
        raise Failure(ExitCode.FAILURE, f"{message}. Install it: {library_advice(REQUIREMENT)}")
