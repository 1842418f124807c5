"""Leases of the fleet: ``acquire`` holds one until Ctrl-C, and ``run`` while a command runs.

A lease lasts as long as its connection to the agent of this host. The agent passes it on to the host that grants it.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from gpumand.cli.child_process import Child, resolve_program
from gpumand.cli.commands.hold import catch_signals
from gpumand.cli.commands.run import KILL_AFTER_SEC, RELEASE_SEC, run_environment
from gpumand.cli.errors import ExitCode, Failure
from gpumand.cli.fleet.api import refusal, unreachable
from gpumand.cli.options import GlobalOptions
from gpumand.cli.output import is_screen, print_json
from gpumand.cli.render.fleet import grant_line
from gpumand.cli.render.format import clean
from gpumand.cli.signals import SignalPump, exit_by_signal
from gpumand.domain.errors import GpumandError
from gpumand.fleet.calls import AcquireCall
from gpumand.fleet.errors import HostLost
from gpumand.fleet.local_client import is_absent, local_fleet
from gpumand.fleet.remote_host import HOST_LOST, RemoteLease

Request = Mapping[str, Any]


@asynccontextmanager
async def _acquired(path: str, request: Request) -> AsyncIterator[RemoteLease]:
    """Acquire a lease, and release it at the end. Raises Failure."""
    async with local_fleet(path) as fleet:
        try:
            lease = await fleet.acquire(AcquireCall(**request))
        except GpumandError as error:
            if isinstance(error, HostLost) and is_absent(error):
                raise await asyncio.to_thread(_absence, path) from None
            message = error.message.removeprefix(": ")
            raise refusal({"error": error.dbus_name, "message": message}) from None
        try:
            yield lease
        finally:
            with suppress(TimeoutError):
                async with asyncio.timeout(RELEASE_SEC):
                    await lease.release()


def _absence(path: str) -> Failure:
    """Why the agent of this host gives no answer."""
    import socket

    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.settimeout(2.0)
            one.connect(path)
    except OSError as error:
        return unreachable(path, error)
    return unreachable(path, ConnectionError("the connection broke off"))


def hold_lease(path: str, request: Request, options: GlobalOptions) -> int:
    """Acquire a lease, print the host and its endpoint, and hold it until a signal ends the command."""
    return asyncio.run(_hold(path, request, options))


async def _hold(path: str, request: Request, options: GlobalOptions) -> int:
    async with _acquired(path, request) as lease:
        ended = catch_signals()
        _print_grant(request["consumer"], lease.grant, options)
        lost = asyncio.ensure_future(lease.wait_ended())
        either: list[asyncio.Future[Any]] = [ended, lost]
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                return ExitCode.OK
            print(f"gpumanctl: the lease was lost: {_why(lease, lost.result())}", file=sys.stderr, flush=True)
            return ExitCode.FAILURE
        finally:
            lost.cancel()


def _print_grant(consumer: str, grant: Mapping[str, Any], options: GlobalOptions) -> None:
    """Print the host and the endpoint on stdout, for scripts, and a line for people on stderr."""
    if options.json:
        return print_json(dict(grant))
    print(f"{clean(grant.get('host') or '')} {clean(grant.get('endpoint') or '')}".rstrip(), flush=True)
    if not options.quiet and is_screen(sys.stderr):
        print(f"{grant_line(consumer, grant)}. It ends with Ctrl-C.", file=sys.stderr, flush=True)
    return None


def run_command(
    path: str, request: Request, command: Sequence[str], options: GlobalOptions, *, kill_on_loss: bool
) -> int:
    """Run a command while a lease is held; return its exit status."""
    program = resolve_program(command[0])
    pump = SignalPump()  # before asyncio.run: signals must be blocked before the first thread starts
    work = _run(path, request, (program, command), options, pump, kill_on_loss)
    status = asyncio.run(pump.run(work))
    return status if status >= 0 else exit_by_signal(-status)


async def _run(
    path: str,
    request: Request,
    command: tuple[str, Sequence[str]],
    options: GlobalOptions,
    pump: SignalPump,
    kill_on_loss: bool,
) -> int:
    async with _acquired(path, request) as lease:
        if options.verbose:
            print(grant_line(request["consumer"], lease.grant), file=sys.stderr, flush=True)
        # No await up to the redirection, so that no signal reaches the old handler once the child exists.
        environment = run_environment(str(lease.grant["lease"]), request["consumer"], lease.grant)
        child = Child(*command, environment | {"GPUMAND_HOST": str(lease.grant.get("host") or "")})
        pump.redirect(child.handle)
        watcher = asyncio.ensure_future(_watch(lease, request["consumer"], child, command[1][0], kill_on_loss))
        try:
            return await child.wait()
        finally:
            watcher.cancel()
            await asyncio.wait([watcher])


async def _watch(lease: RemoteLease, consumer: str, child: Child, name: str, kill_on_loss: bool) -> None:
    """Report the loss of the lease once, and end the command if that was requested."""
    why = _why(lease, await lease.wait_ended())
    then = f"ending {name}" if kill_on_loss else f"{name} continues without it"
    print(f"gpumanctl: the lease on {consumer} was lost: {why}; {then}", file=sys.stderr, flush=True)
    if kill_on_loss:
        child.send(signal.SIGTERM)
        child.send(signal.SIGCONT)  # a stopped process handles SIGTERM only when it continues
        await asyncio.sleep(KILL_AFTER_SEC)
        child.send(signal.SIGKILL)


def _why(lease: RemoteLease, reason: str) -> str:
    host = clean(lease.grant.get("host") or "the host")
    return f"{host} cannot be reached, or gpumand-fleet was stopped" if reason == HOST_LOST else clean(reason)
