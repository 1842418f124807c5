"""Command line of the demonstration: ``python -m gpumand.demo``."""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpumand.demo.screen import Screen

FIRST_GATEWAY_STEP = 8

PACKAGE_COMMANDS = {
    "apt-get": "apt-get install -y dbus",
    "dnf": "dnf install -y dbus-daemon",
    "zypper": "zypper install -y dbus-1",
    "pacman": "pacman -S --noconfirm dbus",
    "apk": "apk add dbus",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the scenario, or leave everything running with ``--run``; returns the exit code."""
    parsed = _parse(arguments)
    if not _provide_dbus_daemon():
        return 1
    real = Path("/dev/nvidiactl").exists() and not parsed.simulated
    work = _run(parsed, "nvml" if real else "simulated") if parsed.run else _demonstrate(parsed)
    try:
        return asyncio.run(_interruptible(work))
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("\nInterrupted. All processes of the demonstration have been stopped.", file=sys.stderr)
        return 0 if parsed.run else 130  # with --run, Ctrl-C is the normal end


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m gpumand.demo", description="Demonstrate gpumand with a simulated GPU."
    )
    parser.add_argument(
        "--run", action="store_true", help="leave the daemon and the services running to try commands, until Ctrl-C"
    )
    parser.add_argument(
        "--simulated", action="store_true", help="with --run: simulate the GPU even if the host has one"
    )
    # For tests of the demonstration itself: NAME:KIND makes a service misbehave, see gpumand.testing.consumer_faults.
    parser.add_argument("--fault", action="append", default=[], help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


async def _interruptible(work: Coroutine[Any, Any, int]) -> int:
    """Run a coroutine; SIGINT, SIGTERM and SIGHUP cancel it, so that everything it started is stopped in order."""
    task = asyncio.ensure_future(work)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    return await task


async def _demonstrate(parsed: argparse.Namespace) -> int:
    from gpumand.bus.connection import BusConnection, BusError, BusLost
    from gpumand.cli.client import Client
    from gpumand.cli.errors import Mismatch
    from gpumand.demo.environment import DemoEnvironment, EnvironmentFailed
    from gpumand.demo.scenario import Scenario, ScenarioFailed
    from gpumand.demo.screen import Screen
    from gpumand.demo.service_client import ServiceClient, ServiceFailed

    began = time.monotonic()
    screen = Screen()
    screen.title(
        "Three services share one GPU, and gpumand decides which of them may use its memory. The GPU is simulated; "
        "the daemon, the services, their HTTP interfaces and the D-Bus bus are real."
    )
    try:
        async with DemoEnvironment(faults=parsed.fault) as environment, ServiceClient(environment.urls) as services:
            connection = await BusConnection.connect(environment.address)
            scenario = Scenario(Client(connection), services, screen)
            try:
                with screen:
                    await scenario.run()
            except (ScenarioFailed, ServiceFailed, BusError, BusLost, Mismatch) as error:
                return _failed(f"{scenario.current_step}: {error}", environment.last_log_lines())
            finally:
                await connection.close()
        gateway_checks = await _demonstrate_gateway(screen)
    except EnvironmentFailed as error:
        return _failed(f"{error}", [])
    if gateway_checks is None:
        return 1
    took, checks = time.monotonic() - began, scenario.checks + gateway_checks
    screen.plain()
    screen.title(f"All {checks} checks passed in {took:.0f} s. All processes and files of the demonstration are gone.")
    return 0


async def _demonstrate_gateway(screen: Screen) -> int | None:
    """The part with the gateway: the number of its checks; None if it failed. Raises EnvironmentFailed."""
    from gpumand.bus.connection import BusConnection, BusError, BusLost
    from gpumand.cli.client import Client
    from gpumand.cli.errors import Mismatch
    from gpumand.demo.environment import DemoEnvironment
    from gpumand.demo.example_services import CHATS
    from gpumand.demo.gateway_scene import GatewayScene
    from gpumand.demo.scenario import ScenarioFailed

    screen.plain()
    screen.title("Programs that do not know gpumand talk to its gateway. Their packages and curl are not changed.")
    async with DemoEnvironment(services=CHATS, has_gateway=True) as environment:
        connection = await BusConnection.connect(environment.address)
        scene = GatewayScene(Client(connection), environment.gateway_url, screen, FIRST_GATEWAY_STEP)
        try:
            with screen:
                await scene.run()
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


async def _run(parsed: argparse.Namespace, source: str) -> int:
    from gpumand.demo.environment import EnvironmentFailed
    from gpumand.demo.interactive import run

    try:
        return await run(source, parsed.fault)
    except EnvironmentFailed as error:
        return _failed(f"{error}", [])


def _provide_dbus_daemon() -> bool:
    """Whether a dbus-daemon is installed; root on Debian and Ubuntu gets it installed, others get the command."""
    if shutil.which("dbus-daemon"):
        return True
    manager = next((name for name in PACKAGE_COMMANDS if shutil.which(name)), "")
    command = PACKAGE_COMMANDS.get(manager, "")
    if manager == "apt-get" and os.geteuid() == 0:
        print(f"demo: dbus-daemon is not installed. Installing it: {command}", file=sys.stderr, flush=True)
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(["apt-get", "update", "-q"], env=environment, stdout=subprocess.DEVNULL, check=False)
        subprocess.run(command.split(), env=environment, stdout=subprocess.DEVNULL, check=False)
        if shutil.which("dbus-daemon"):
            return True
    sudo = "" if os.geteuid() == 0 else "sudo "
    advice = f"Install it with: {sudo}{command}" if command else "Install the package that has the D-Bus daemon."
    print(f"demo: dbus-daemon is not installed. {advice}", file=sys.stderr)
    return False


if __name__ == "__main__":
    sys.exit(main())
