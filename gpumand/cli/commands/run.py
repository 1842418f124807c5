"""``gpumanctl run``: holds a lease while a command runs."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click

from gpumand.bus.connection_errors import BusError, BusLost
from gpumand.cli import completion
from gpumand.cli.acquire_options import (
    AcquireOptions,
    check_consumer_or_vram,
    nested_lease_options,
    on_option,
    request_options,
    require_fleet,
    restore_flag,
    vram_reservation_options,
    waiting_options,
)
from gpumand.cli.acquiring import acquire_lease
from gpumand.cli.child_process import Child, resolve_program
from gpumand.cli.client import Client
from gpumand.cli.options import Command, GlobalOptions, global_options
from gpumand.cli.reserved_devices import DEVICE_VARIABLE, reserved_devices
from gpumand.cli.session import connected
from gpumand.cli.signals import TERMINATING_SIGNALS, ReceivedSignal, SignalPump, exit_by_signal
from gpumand.client.lease_watch import BUS_LOST, FORGOTTEN, LeaseWatch
from gpumand.client.nesting import LEASE_VARIABLE, wait_returned

KILL_AFTER_SEC = 10.0
"""With --kill-on-loss: time from SIGTERM to SIGKILL, in seconds."""

RELEASE_SEC = 5.0
"""Maximum time for the release at the end, in seconds; closing the connection ends the lease anyway."""


class RunCommand(Command):
    """A click command that stops parsing options where the command to run begins."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments, with a ``--`` put before the command when there is none."""
        return super().parse_args(ctx, with_separator(args, self._valued(), RESERVING))

    def _valued(self) -> set[str]:
        """Names of the options whose value is the next word."""
        options = [param for param in self.params if isinstance(param, click.Option)]
        return {name for option in options if not (option.is_flag or option.count) for name in option.opts}


RESERVING = ("--vram", "--all")
"""Options that take the place of CONSUMER."""


def with_separator(args: Sequence[str], valued: set[str], reserving: Sequence[str] = ()) -> list[str]:
    """The arguments with ``--`` before the command, so that in ``run voice ls -l`` the ``-l`` belongs to ``ls``.

    Where an option takes the place of the consumer, an empty name is inserted as the consumer.

    Args:
        args: the arguments of ``run``.
        valued: the options whose value is the next word.
        reserving: the options that take the place of the consumer.
    """
    position, consumer_seen, reserves = 0, False, False
    while position < len(args):
        word = args[position]
        if word == "--":
            return [*args[:position], *([""] if reserves and not consumer_seen else []), *args[position:]]
        if word.startswith("-") and word != "-":
            reserves = reserves or word.partition("=")[0] in reserving
            position += 2 if word in valued else 1
            continue
        if reserves and not consumer_seen:
            return [*args[:position], "", "--", *args[position:]]
        if consumer_seen:
            return [*args[:position], "--", *args[position:]]
        consumer_seen = True
        position += 1
    return list(args)


@click.command(cls=RunCommand)
@click.argument("consumer", shell_complete=completion.consumers)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- CMD...")
@vram_reservation_options
@waiting_options
@request_options
@nested_lease_options
@restore_flag
@on_option
@click.option("--kill-on-loss", is_flag=True, help="End CMD when the lease is lost. Default: CMD continues.")
@click.pass_context
def run(ctx: click.Context, /, consumer: str, command: tuple[str, ...], kill_on_loss: bool, **arguments: Any) -> int:
    """Run CMD with a lease on CONSUMER. Returns its exit status.

    CMD gets GPUMAND_LEASE, GPUMAND_CONSUMER and, when a URL is configured, GPUMAND_ENDPOINT in its environment.

    With --vram or --all instead of CONSUMER, VRAM is reserved for CMD, which also gets GPUMAND_DEVICE and, unless it is
    set already, CUDA_VISIBLE_DEVICES.
    """
    require_fleet(arguments["on"])
    consumer = check_consumer_or_vram(consumer, arguments["vram"], arguments["whole"])
    options = global_options(ctx)
    if options.json:
        raise click.UsageError("--json does not work with run: standard output belongs to the command")
    request = AcquireOptions.from_arguments("connection", arguments)
    path = resolve_program(command[0])
    pump = SignalPump()  # before asyncio.run: signals must be blocked before the first thread starts
    status = asyncio.run(LeasedCommand(consumer, path, command, request, options, kill_on_loss).run(pump))
    return status if status >= 0 else exit_by_signal(-status)


@dataclass
class LeasedCommand:
    """A command that runs while a lease is held.

    Attributes:
        consumer: the consumer to lease.
        path: path of the program.
        command: the command line.
        request: options of the Acquire call.
        options: the shared options.
        kill_on_loss: whether the command is ended when the lease is lost.
    """

    consumer: str
    path: str
    command: Sequence[str]
    request: AcquireOptions
    options: GlobalOptions
    kill_on_loss: bool

    async def run(self, pump: SignalPump) -> int:
        """Return the exit status of the command, or minus the signal that ended it, or ended the wait for the lease."""
        return await pump.run(self._connect(pump))

    async def _connect(self, pump: SignalPump) -> int:
        async with connected(self.options) as client:
            return await self._hold(client, pump)

    async def _hold(self, client: Client, pump: SignalPump) -> int:
        """Acquire the lease, run the command and release the lease."""
        watch = LeaseWatch(client, return_sec=math.inf)  # a stopped daemon keeps leases and may start again
        await watch.listen()
        lease, grant, request = await acquire_lease(client, self.consumer, self.request, self.options)
        reserved = {} if self.consumer else await reserved_devices(client, grant)
        # No await up to the redirection, so that no signal reaches the old handler once the child exists.
        environment = run_environment(lease, self.consumer, grant) | reserved
        child = Child(self.path, self.command, environment)
        pump.redirect(child.handle)
        watch.degraded.on_change(self._report_health)
        watch.wanted.on_request(self._report_request)
        watch.follow(lease)
        watcher = asyncio.ensure_future(self._watch(client, watch, child))
        try:
            return await child.wait()
        finally:
            watcher.cancel()
            await asyncio.wait([watcher])  # unlike await, it does not raise the watcher's CancelledError
            await watch.stop()
            await release_quietly(client, lease)
            if request.yield_lease:
                await self._wait_returned(client, request.yield_lease, pump)

    async def _wait_returned(self, client: Client, lease: str, pump: SignalPump) -> None:
        """Wait until the lease of ``--yield`` has its consumer again; a signal ends the wait."""
        returned = asyncio.ensure_future(wait_returned(client, lease))

        def stop_waiting(received: ReceivedSignal) -> None:
            if received.number in TERMINATING_SIGNALS:
                returned.cancel()

        pump.redirect(stop_waiting)
        await asyncio.wait([returned])

    def _report_health(self, reason: str) -> None:
        """Warn when the consumer is lost during the lease, and report when it is back."""
        line = f"warning: {reason}; the lease stays" if reason else f"{self.consumer} is resident again"
        if reason or not self.options.quiet:
            print(f"gpumanctl: {line}", file=sys.stderr, flush=True)

    def _report_request(self, by: str) -> None:
        """Report that another request waits for the end of this lease."""
        if not self.options.quiet:
            print(f"gpumanctl: {describe_waiting(by)}", file=sys.stderr, flush=True)

    async def _watch(self, client: Client, watch: LeaseWatch, child: Child) -> None:
        """Report the loss of the lease once, and end the command if that was requested."""
        reason = await watch.ended.wait()
        why = {BUS_LOST: client.connection.lost_reason, FORGOTTEN: "gpumand restarted without it"}.get(reason, reason)
        then = f"ending {self.command[0]}" if self.kill_on_loss else f"{self.command[0]} continues without it"
        what = f"the lease on {self.consumer}" if self.consumer else "the reservation"
        print(f"gpumanctl: {what} was lost: {why}; {then}", file=sys.stderr, flush=True)
        if self.kill_on_loss:
            child.send(signal.SIGTERM)
            child.send(signal.SIGCONT)  # a stopped process handles SIGTERM only when it continues
            await asyncio.sleep(KILL_AFTER_SEC)
            child.send(signal.SIGKILL)


def run_environment(lease: str, consumer: str, grant: Mapping[str, Any]) -> dict[str, str]:
    """The environment of a command that runs with a lease."""
    own = {LEASE_VARIABLE: lease, "GPUMAND_CONSUMER": consumer, "GPUMAND_ENDPOINT": str(grant.get("endpoint") or "")}
    # An outer ``gpumanctl run`` may have set an endpoint: it must not stay when this consumer has none.
    inherited = {name: value for name, value in os.environ.items() if name not in own and name != DEVICE_VARIABLE}
    return inherited | {name: value for name, value in own.items() if value}


def describe_waiting(by: str) -> str:
    """The line about a request that waits for the end of a lease; ``by`` is its consumer, "" for a reservation."""
    return f"a request for {by or 'VRAM'} waits for the end of this lease"


async def release_quietly(client: Client, lease: str) -> None:
    """Release the lease; when that fails, the end of the connection releases it."""
    try:
        async with asyncio.timeout(RELEASE_SEC):
            await client.release(lease)
    except (BusError, BusLost, TimeoutError):
        return
