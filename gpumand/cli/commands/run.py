"""``run``: a lease for as long as a command runs."""

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
from gpumand.cli.acquire_options import RequestOptions, asking_options, waiting_options
from gpumand.cli.child_process import Child, find_program
from gpumand.cli.client import Client
from gpumand.cli.options import Command, GlobalOptions, global_options
from gpumand.cli.progress import watched
from gpumand.cli.session import connected
from gpumand.cli.signals import ENDING, JOB_CONTROL, Arrived, SignalPump, die_of
from gpumand.client.lease_watch import BUS_LOST, FORGOTTEN, Watch

KILL_AFTER_SEC = 10.0
"""With --kill-on-loss: how long after SIGTERM a command is killed."""

RELEASE_SEC = 5.0
"""How long the release may take at the end; closing the connection ends the lease anyway."""


class RunCommand(Command):
    """Takes options up to the command that is run; that one's own options are not ours."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put a ``--`` before the command where none was typed."""
        return super().parse_args(ctx, separated(args, self._valued()))

    def _valued(self) -> set[str]:
        """Options that take a value as the next word."""
        options = [param for param in self.params if isinstance(param, click.Option)]
        return {name for option in options if not (option.is_flag or option.count) for name in option.opts}


def separated(args: Sequence[str], valued: set[str]) -> list[str]:
    """The arguments with ``--`` before the command, so that ``run voice ls -l`` means what it says."""
    position, consumer_seen = 0, False
    while position < len(args):
        word = args[position]
        if word == "--":
            return list(args)
        if word.startswith("-") and word != "-":
            position += 2 if word in valued else 1
            continue
        if consumer_seen:
            return [*args[:position], "--", *args[position:]]
        consumer_seen = True
        position += 1
    return list(args)


@click.command(cls=RunCommand)
@click.argument("consumer", shell_complete=completion.consumers)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- CMD...")
@waiting_options
@asking_options
@click.option("--kill-on-loss", is_flag=True, help="End CMD when the lease is lost; by default it goes on.")
@click.pass_context
def run(ctx: click.Context, /, consumer: str, command: tuple[str, ...], kill_on_loss: bool, **typed: Any) -> int:
    """Run CMD while holding a lease on CONSUMER. Returns the status of CMD.

    CMD finds GPUMAND_LEASE, GPUMAND_CONSUMER and, where configured, GPUMAND_ENDPOINT in its environment.
    """
    options = global_options(ctx)
    if options.json:
        raise click.UsageError("--json does not go with run: standard output belongs to the command")
    wish = RequestOptions.of("connection", typed)
    path = find_program(command[0])
    pump = SignalPump()
    status = asyncio.run(Holder(consumer, path, command, wish, options, kill_on_loss).run(pump))
    return status if status >= 0 else die_of(-status)


@dataclass
class Holder:
    """Holds a lease while a command runs.

    Attributes:
        consumer: what the lease is for.
        path: the program.
        command: the command line.
        wish: how the lease is asked for.
        options: the shared ones.
        kill_on_loss: whether the command ends with the lease.
    """

    consumer: str
    path: str
    command: Sequence[str]
    wish: RequestOptions
    options: GlobalOptions
    kill_on_loss: bool

    async def run(self, pump: SignalPump) -> int:
        """The status of the command, or minus the number of the signal that ended it (or us, while we waited)."""
        task = asyncio.current_task()
        ended_by: list[int] = []

        def before_start(arrived: Arrived) -> None:
            """Nothing runs yet: a signal is meant for us."""
            if arrived.number in ENDING and task is not None:
                ended_by.append(arrived.number)
                task.cancel()
            elif arrived.number in JOB_CONTROL:
                os.kill(os.getpid(), signal.SIGSTOP)

        pump.start(before_start)
        try:
            async with connected(self.options) as client:
                return await self._hold(client, pump)
        except asyncio.CancelledError:
            if not ended_by:
                raise
            return -ended_by[0]

    async def _hold(self, client: Client, pump: SignalPump) -> int:
        """Listen for ends, acquire, run, release."""
        watch = Watch(client, gone_sec=math.inf)  # one that was stopped may be started again, and keeps leases
        await watch.listen()
        call = client.acquire(self.consumer, self.wish.options(), self.wish.timeout_sec)
        lease, grant = await watched(client, self.consumer, call, self.options)
        # From here to the redirection nothing is awaited: no signal falls between the two handlers.
        child = Child(self.path, self.command, self._environment(lease, grant))
        pump.redirect(child.handle)
        watch.follow(lease)
        watcher = asyncio.ensure_future(self._watch(client, watch, child))
        try:
            return await child.wait()
        finally:
            watcher.cancel()
            await asyncio.wait([watcher])
            await watch.stop()
            await _release(client, lease)

    def _environment(self, lease: str, grant: Mapping[str, Any]) -> dict[str, str]:
        own = {
            "GPUMAND_LEASE": lease,
            "GPUMAND_CONSUMER": self.consumer,
            "GPUMAND_ENDPOINT": str(grant.get("endpoint") or ""),
        }
        inherited = {name: value for name, value in os.environ.items() if name not in own}
        return inherited | {name: value for name, value in own.items() if value}

    async def _watch(self, client: Client, watch: Watch, child: Child) -> None:
        """Tell once when the lease is lost while the command runs, and end the command where that is wanted."""
        reason = await watch.ended.wait()
        why = {BUS_LOST: client.connection.lost_reason, FORGOTTEN: "gpumand came back without it"}.get(reason, reason)
        then = f"ending {self.command[0]}" if self.kill_on_loss else f"{self.command[0]} goes on without it"
        print(f"gpumanctl: the lease on {self.consumer} is lost: {why}; {then}", file=sys.stderr, flush=True)
        if self.kill_on_loss:
            child.send(signal.SIGTERM)
            child.send(signal.SIGCONT)
            await asyncio.sleep(KILL_AFTER_SEC)
            child.send(signal.SIGKILL)


async def _release(client: Client, lease: str) -> None:
    """Give the lease back by name; where that fails, the end of the connection does it."""
    try:
        async with asyncio.timeout(RELEASE_SEC):
            await client.release(lease)
    except (BusError, BusLost, TimeoutError):
        return
