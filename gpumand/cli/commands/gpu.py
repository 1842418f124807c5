"""``gpumanctl gpu release`` and ``gpu take``: let the GPU driver go, for a reset or a reload of its modules."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import click

from gpumand.bus.connection_errors import BusError, BusLost
from gpumand.cli.child_process import Child, resolve_program
from gpumand.cli.client import Client
from gpumand.cli.durations import DURATION, timeout_usec, to_usec
from gpumand.cli.options import Command, GlobalOptions, Group, global_options
from gpumand.cli.output import print_json
from gpumand.cli.session import connected, run_with_client
from gpumand.cli.signals import SignalPump, exit_by_signal

DEFAULT_SEC = 600.0
DEFAULT_WAIT_SEC = 60.0
TAKE_SEC = 5.0
"""Maximum time for taking the driver again at the end of a command, in seconds; gpumand also does that when the
connection closes."""


@click.group(cls=Group, no_args_is_help=False)
def gpu() -> None:
    """Release the GPU driver and take it again.

    For a reset of a GPU, a reload or an upgrade of the driver's modules, or for passing a GPU to a virtual machine.
    """


@gpu.command("release", cls=Command)
@click.option(
    "--for",
    "duration",
    type=DURATION,
    default=DEFAULT_SEC,
    metavar="DURATION",
    help="Take the driver again after this time. Default: 10min; at most 24h.",
)
@click.option(
    "--timeout",
    type=DURATION,
    default=DEFAULT_WAIT_SEC,
    metavar="DURATION",
    help="How long to wait for a load or an eviction that is running. Default: 1min.",
)
@click.option("--force", is_flag=True, help="Release the driver although consumers use the GPU.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[-- CMD...]")
@click.pass_context
def release(ctx: click.Context, duration: float, timeout: float, force: bool, command: tuple[str, ...]) -> int:
    """Close the GPU driver, so that a GPU can be reset or the driver reloaded.

    Meanwhile requests wait, and nothing is loaded or evicted. Consumers that use the GPU must be evicted first. With
    CMD, the driver is taken again when CMD ends, and the exit status is that of CMD:
    gpumanctl gpu release -- nvidia-smi --gpu-reset --id=0. Without CMD, it is taken again by gpumanctl gpu take, after
    the time of --for, or when gpumand restarts.
    """
    options = global_options(ctx)
    call_options = {"duration_usec": ("t", to_usec(duration)), **timeout_usec(timeout)}
    if force:
        call_options["force"] = ("b", True)
    if command:
        return _run_command(command, call_options | {"bound": ("b", True)}, timeout, options)

    async def call(client: Client, _: GlobalOptions) -> dict[str, Any]:
        return await client.release_gpu(call_options, timeout)

    result = run_with_client(ctx, call)
    if options.json:
        print_json(result)
    elif not options.quiet:
        _print_result(result)
    return 0


@gpu.command("take", cls=Command)
@click.pass_context
def take(ctx: click.Context) -> None:
    """Use the GPU driver again after gpu release. Waiting requests are decided on new readings."""

    async def call(client: Client, _: GlobalOptions) -> bool:
        return await client.take_gpu()

    was_released = run_with_client(ctx, call)
    options = global_options(ctx)
    if options.json:
        print_json({"was_released": was_released})
    elif not options.quiet:
        print("gpumand uses the GPU driver again." if was_released else "The GPU driver was not released.")


def _print_result(result: dict[str, Any]) -> None:
    from gpumand.cli.render.format import clean, clock, mib

    until = clock(int(result.get("until_usec", 0)))[: len("hh:mm:ss")]
    print(f"The GPU driver is released until {until}. Take it again: gpumanctl gpu take")
    for one in result.get("holders", ()):
        held = f", {mib(int(one['used_mib']))}" if one.get("used_mib") is not None else ""
        owner = one.get("consumer") or one.get("unit") or one.get("user") or ""
        where = f", {clean(owner)}" if owner else ""
        print(f"still in use by {clean(one.get('name') or 'a process')} (pid {one.get('pid')}{where}{held})")


def _run_command(command: Sequence[str], call_options: Any, timeout: float, options: GlobalOptions) -> int:
    if options.json:
        raise click.UsageError("--json does not work with a command: standard output belongs to the command")
    path = resolve_program(command[0], "the driver was not released")
    pump = SignalPump()  # before asyncio.run: signals must be blocked before the first thread starts
    status = asyncio.run(ReleasedCommand(path, command, call_options, timeout, options).run(pump))
    return status if status >= 0 else exit_by_signal(-status)


@dataclass
class ReleasedCommand:
    """A command that runs while the driver is released.

    Attributes:
        path: path of the program.
        command: the command line.
        call_options: options of the ReleaseGpu call.
        timeout_sec: how long that call may take.
        options: the shared options.
    """

    path: str
    command: Sequence[str]
    call_options: dict[str, tuple[str, Any]]
    timeout_sec: float
    options: GlobalOptions

    async def run(self, pump: SignalPump) -> int:
        """Return the exit status of the command, or minus the signal that ended it, or ended the wait before it."""
        return await pump.run(self._connect(pump))

    async def _connect(self, pump: SignalPump) -> int:
        async with connected(self.options) as client:
            return await self._run(client, pump)

    async def _run(self, client: Client, pump: SignalPump) -> int:
        await client.release_gpu(self.call_options, self.timeout_sec)
        # No await up to the redirection, so that no signal reaches the old handler once the child exists.
        child = Child(self.path, self.command, dict(os.environ))
        pump.redirect(child.handle)
        try:
            return await child.wait()
        finally:
            await _take_quietly(client)


async def _take_quietly(client: Client) -> None:
    """Take the driver again; when that fails, gpumand does so at the end of the connection."""
    try:
        async with asyncio.timeout(TAKE_SEC):
            await client.take_gpu()
    except (BusError, BusLost, TimeoutError):
        return
