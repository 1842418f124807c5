"""``--run``: everything stays up, the commands to try are shown, and then what happens."""

from __future__ import annotations

import asyncio
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from gpumand.bus.connection import BusConnection, Signal
from gpumand.cli.client import Client
from gpumand.cli.commands.monitor import event_of
from gpumand.cli.options import ADDRESS_VARIABLE
from gpumand.cli.render.format import clock, mib
from gpumand.cli.render.lines import signal_line
from gpumand.demo.environment import Stage
from gpumand.demo.example_services import CAST, IMAGE, LANGUAGE, VOICE
from gpumand.demo.screen import Screen

PICTURE_SEC = 0.25
MANAGER_CALL = "org.gpumand1 /org/gpumand1 org.gpumand1.Manager"


async def run(source: str, faults: Sequence[str]) -> int:
    """Keep everything up until we are told to stop; 1 when the daemon or the bus is gone by itself."""
    async with Stage(source=source, faults=faults) as stage:
        connection = await BusConnection.connect(stage.address)
        try:
            await _show(Client(connection), connection, _text(source, stage), Screen())
        finally:
            await connection.close()
        words = stage.last_words()
    print("\n".join([*words, "gpumand or its bus ended by itself"]), file=sys.stderr)
    return 1


async def _show(client: Client, connection: BusConnection, text: Sequence[str], screen: Screen) -> None:
    """The text, then what happens above a picture that moves; returns when gpumand or the bus is gone."""
    gone = asyncio.Event()

    def tell(signal: Signal) -> None:
        now_usec = time.time_ns() // 1000
        line = signal_line(signal.member, event_of(signal, now_usec))
        if line:
            screen.entry(f" {clock(now_usec)}  ", line)
        if signal.member == "NameOwnerChanged" and not signal.body[2]:
            gone.set()

    with screen:
        for line in text:
            screen.plain(line)
        await client.listen(tell)
        ends = [asyncio.ensure_future(gone.wait()), asyncio.ensure_future(connection.wait_lost())]
        painter = asyncio.ensure_future(_paint(client, screen))
        try:
            await asyncio.wait([*ends, painter], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (*ends, painter):
                task.cancel()


async def _paint(client: Client, screen: Screen) -> None:
    """Keep the picture moving, as long as gpumand answers."""
    while True:
        screen.show(await client.status())
        await asyncio.sleep(PICTURE_SEC)


def _text(source: str, stage: Stage) -> list[str]:
    """What is here, and what to try."""
    services = ", ".join(f"{role.name} ({role.what}, {mib(role.mib)})" for role in CAST)
    lines = ["", " gpumand runs on a bus of its own, with three services:", f" {services}."]
    if source == "nvml":
        lines += [
            " VRAM is that of the real device, which is only looked at: these services do not use it, so that what",
            " they load and free does not show, and evictions cannot be seen to succeed. --simulated simulates.",
        ]
    return [*lines, " In another terminal (Ctrl-C here ends everything):", "", *commands(stage.address, stage.urls), ""]


def commands(address: str, urls: Mapping[str, str]) -> list[str]:
    """Lines to copy, that work one after the other; only for programs that are here."""
    ctl = gpumanctl()
    where = f'"${ADDRESS_VARIABLE}"'
    lines = [f"export {ADDRESS_VARIABLE}='{address}'", f"{ctl}"]
    if shutil.which("curl"):
        lines += [
            f"curl -s -X POST {urls[IMAGE.name]}/work",
            f"{ctl} run {VOICE.name} -- sh -c 'curl -s $GPUMAND_ENDPOINT/health'",
        ]
    lines += [
        f"{ctl} plan {LANGUAGE.name}",
        f"lease=$({ctl} acquire {LANGUAGE.name})",
        f"{ctl} status",
        f"{ctl} release $lease",
        f"{ctl} monitor",
    ]
    if shutil.which("busctl"):
        ttl = "1 ttl_usec t 20000000"
        lines.append(f"busctl --address={where} call {MANAGER_CALL} Acquire 'sa{{sv}}' {VOICE.name} {ttl}")
    if shutil.which("gdbus"):
        target = "--dest org.gpumand1 --object-path /org/gpumand1"
        lines.append(f"gdbus call --address {where} {target} --method org.gpumand1.Manager.GetStatus")
    return [f"  {line}" for line in lines]


def gpumanctl() -> str:
    """How to call it from here."""
    beside = Path(sys.executable).with_name("gpumanctl")
    if not beside.exists():
        return f"{sys.executable} -m gpumand.cli"
    here = Path.cwd()
    return str(beside.relative_to(here) if beside.is_relative_to(here) else beside)
