"""Command line of the demonstration: ``gpumanctl demo``, or ``python -m gpumand.demo`` in a checkout."""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import signal
import sys
import time
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpumand.demo.screen import Screen

FIRST_GATEWAY_STEP = 8
FIRST_GATEWAY_CHAPTER = 6

PACKAGE_COMMANDS = {
    "apt-get": "apt-get install -y dbus-daemon",
    "dnf": "dnf install -y dbus-daemon",
    "zypper": "zypper install -y dbus-1",
    "pacman": "pacman -S --noconfirm dbus",
    "apk": "apk add dbus",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the scenario or the faults, or leave everything running with ``--run``; returns the exit code."""
    parsed = _parse(arguments)
    if not shutil.which("dbus-daemon"):
        print(f"demo: dbus-daemon is not installed. {_advice()}", file=sys.stderr)
        return 1
    try:
        return asyncio.run(_interruptible(_work(parsed)))
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("\nInterrupted. All processes of the demonstration have been stopped.", file=sys.stderr)
        return 0 if parsed.run else 130  # with --run, Ctrl-C is the normal end


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m gpumand.demo", description="Demonstrate gpumand with a simulated GPU."
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="print every step, check and signal")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--faults", action="store_true", help="show what gpumand does when a service or a client fails")
    what.add_argument(
        "--run", action="store_true", help="leave the daemon and the services running to try commands, until Ctrl-C"
    )
    # For tests of the demonstration itself: NAME:KIND makes a service misbehave, see gpumand.testing.consumer_faults.
    parser.add_argument("--fault", action="append", default=[], help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def _work(parsed: argparse.Namespace) -> Coroutine[Any, Any, int]:
    if parsed.faults:
        return _show_faults(parsed)
    if parsed.run:
        return _run(parsed)
    return _demonstrate(parsed)


async def _interruptible(work: Coroutine[Any, Any, int]) -> int:
    """Run a coroutine; SIGINT, SIGTERM and SIGHUP cancel it, so that everything it started is stopped in order."""
    task = asyncio.ensure_future(work)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    return await task


async def _demonstrate(parsed: argparse.Namespace) -> int:
    from gpumand.demo.command_names import demo_command
    from gpumand.demo.environment import EnvironmentFailed
    from gpumand.demo.screen import Screen

    began = time.monotonic()
    screen = Screen(verbose=parsed.verbose)
    screen.title("gpumand on a simulated GPU. Its daemon, the services, D-Bus and HTTP are real.")
    try:
        checks = await _demonstrate_leases(parsed, screen)
        gateway_checks = await _demonstrate_gateway(parsed, screen) if checks is not None else None
    except EnvironmentFailed as error:
        return _failed(f"{error}", [])
    if checks is None or gateway_checks is None:
        return 1
    took = time.monotonic() - began
    screen.title(f"All {checks + gateway_checks} checks passed in {took:.0f} s, and nothing is left running.")
    if not parsed.verbose:
        screen.plain(f" More: {demo_command()} --faults")
        screen.plain(f"       {demo_command()} --run")
    return 0


async def _demonstrate_leases(parsed: argparse.Namespace, screen: Screen) -> int | None:
    """The part with leases: the number of its checks; None if it failed. Raises EnvironmentFailed."""
    from gpumand.bus.connection import BusConnection, BusError, BusLost
    from gpumand.cli.client import Client
    from gpumand.cli.errors import Mismatch
    from gpumand.demo.environment import DemoEnvironment
    from gpumand.demo.scenario import Scenario
    from gpumand.demo.service_client import ServiceClient, ServiceFailed
    from gpumand.demo.steps import ScenarioFailed

    async with DemoEnvironment(faults=parsed.fault) as environment, ServiceClient(environment.urls) as services:
        connection = await BusConnection.connect(environment.address)
        scenario = Scenario(Client(connection), services, screen)
        try:
            with screen.bars(stay=parsed.verbose):
                await scenario.run()
        except (ScenarioFailed, ServiceFailed, BusError, BusLost, Mismatch) as error:
            _failed(f"{scenario.current_step}: {error}", environment.last_log_lines())
            return None
        finally:
            await connection.close()
    return scenario.checks


async def _demonstrate_gateway(parsed: argparse.Namespace, screen: Screen) -> int | None:
    """The part with the gateway: the number of its checks; None if it failed. Raises EnvironmentFailed."""
    from gpumand.bus.connection import BusConnection, BusError, BusLost
    from gpumand.cli.client import Client
    from gpumand.cli.errors import Mismatch
    from gpumand.demo.environment import DemoEnvironment
    from gpumand.demo.example_services import CHATS
    from gpumand.demo.gateway_scene import GatewayScene
    from gpumand.demo.steps import ScenarioFailed

    async with DemoEnvironment(services=CHATS, has_gateway=True) as environment:
        connection = await BusConnection.connect(environment.address)
        scene = GatewayScene(Client(connection), environment.gateway_url, screen)
        try:
            with screen.bars(stay=parsed.verbose):
                await scene.run(FIRST_GATEWAY_STEP, FIRST_GATEWAY_CHAPTER)
        except (ScenarioFailed, BusError, BusLost, Mismatch) as error:
            _failed(f"{scene.current_step}: {error}", environment.last_log_lines())
            return None
        finally:
            await connection.close()
    return scene.checks


def _failed(why: str, last_log_lines: Sequence[str]) -> int:
    sys.stdout.flush()
    for line in last_log_lines:
        print(f"  log of gpumand: {line}", file=sys.stderr)
    print(f"demo: FAILED: {why}", file=sys.stderr)
    return 1


async def _run(parsed: argparse.Namespace) -> int:
    from gpumand.demo.environment import EnvironmentFailed
    from gpumand.demo.interactive import run

    try:
        return await run(parsed.fault)
    except EnvironmentFailed as error:
        return _failed(f"{error}", [])


async def _show_faults(parsed: argparse.Namespace) -> int:
    from gpumand.demo.environment import EnvironmentFailed
    from gpumand.demo.faults import show_faults
    from gpumand.demo.screen import Screen

    try:
        return await show_faults(Screen(verbose=parsed.verbose))
    except EnvironmentFailed as error:
        return _failed(f"{error}", [])


def _advice() -> str:
    """How to install dbus-daemon on this distribution."""
    command = next((PACKAGE_COMMANDS[name] for name in PACKAGE_COMMANDS if shutil.which(name)), "")
    if not command:
        return "Install the package that has the D-Bus daemon."
    sudo = "" if os.geteuid() == 0 else "sudo "
    return f"Install it with: {sudo}{command}"


if __name__ == "__main__":
    sys.exit(main())
