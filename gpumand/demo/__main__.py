"""The command line of the demonstration."""

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
from typing import Any

PACKAGE_COMMANDS = {
    "apt-get": "apt-get install -y dbus",
    "dnf": "dnf install -y dbus-daemon",
    "zypper": "zypper install -y dbus-1",
    "pacman": "pacman -S --noconfirm dbus",
    "apk": "apk add dbus",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Play the story, or leave the set-up running; the exit code."""
    parsed = _parse(arguments)
    if not _provide_dbus_daemon():
        return 1
    real = Path("/dev/nvidiactl").exists() and not parsed.simulated
    work = _run(parsed, "nvml" if real else "simulated") if parsed.run else _demonstrate(parsed)
    try:
        return asyncio.run(_interruptible(work))
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("\ninterrupted; everything that was started has been ended", file=sys.stderr)
        return 0 if parsed.run else 130  # with --run that is how it is meant to end


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m gpumand.demo", description="gpumand without a GPU.")
    parser.add_argument("--run", action="store_true", help="leave everything running to play with, until Ctrl-C")
    parser.add_argument("--simulated", action="store_true", help="with --run: simulate also where there is a GPU")
    # For testing the demonstration itself: NAME:KIND, a fault of gpumand.testing.consumer.
    parser.add_argument("--fault", action="append", default=[], help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


async def _interruptible(work: Coroutine[Any, Any, int]) -> int:
    """Run it so that any polite way to end us is an orderly end."""
    task = asyncio.ensure_future(work)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    return await task


async def _demonstrate(parsed: argparse.Namespace) -> int:
    from gpumand.bus.connection import BusConnection, BusError, BusLost
    from gpumand.cli.client import Client
    from gpumand.cli.errors import Mismatch
    from gpumand.demo.environment import Stage, StageFailed
    from gpumand.demo.scenario import Story, StoryFailed
    from gpumand.demo.screen import Screen
    from gpumand.demo.service_client import ServiceFailed, Services

    began = time.monotonic()
    screen = Screen()
    screen.title(
        "gpumand lends the VRAM of one device to three services. The device is simulated; the daemon, the services, "
        "their HTTP and the bus are real."
    )
    try:
        async with Stage(faults=parsed.fault) as stage, Services(stage.urls) as services:
            connection = await BusConnection.connect(stage.address)
            story = Story(Client(connection), services, screen)
            try:
                with screen:
                    await story.play()
            except (StoryFailed, ServiceFailed, BusError, BusLost, Mismatch) as error:
                return _failed(f"{story.chapter}: {error}", stage.last_words())
            finally:
                await connection.close()
    except StageFailed as error:
        return _failed(f"{error}", [])
    took = time.monotonic() - began
    screen.plain()
    screen.title(f"All {story.checks} facts were checked and are so; it took {took:.0f} s. Nothing of it is left.")
    return 0


def _failed(why: str, last_words: Sequence[str]) -> int:
    sys.stdout.flush()
    for line in last_words:
        print(f"  gpumand said: {line}", file=sys.stderr)
    print(f"demo: FAILED: {why}", file=sys.stderr)
    return 1


async def _run(parsed: argparse.Namespace, source: str) -> int:
    from gpumand.demo.environment import StageFailed
    from gpumand.demo.interactive import run

    try:
        return await run(source, parsed.fault)
    except StageFailed as error:
        return _failed(f"{error}", [])


def _provide_dbus_daemon() -> bool:
    """Whether there is a dbus-daemon, after installing one where we may; says what it does and what to do."""
    if shutil.which("dbus-daemon"):
        return True
    manager = next((name for name in PACKAGE_COMMANDS if shutil.which(name)), "")
    command = PACKAGE_COMMANDS.get(manager, "")
    if manager == "apt-get" and os.geteuid() == 0:
        print(f"demo: there is no dbus-daemon here; installing it: {command}", file=sys.stderr, flush=True)
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(["apt-get", "update", "-q"], env=environment, stdout=subprocess.DEVNULL, check=False)
        subprocess.run(command.split(), env=environment, stdout=subprocess.DEVNULL, check=False)
        if shutil.which("dbus-daemon"):
            return True
    how = f"install it with: {'' if os.geteuid() == 0 else 'sudo '}{command}" if command else "install the D-Bus daemon"
    print(f"demo: there is no dbus-daemon here; {how}", file=sys.stderr)
    return False


if __name__ == "__main__":
    sys.exit(main())
