"""The mode ``--run``: keeps everything running, prints commands to try, and then shows events as they happen."""

from __future__ import annotations

import asyncio
import shutil
import sys
import time
from collections.abc import Mapping, Sequence

from gpumand.bus.connection import BusConnection, Signal
from gpumand.cli.client import Client
from gpumand.cli.commands.monitor import event_of
from gpumand.cli.options import ADDRESS_VARIABLE
from gpumand.cli.render.format import clock, mib
from gpumand.cli.render.lines import signal_line
from gpumand.demo.command_names import gpumanctl
from gpumand.demo.environment import DemoEnvironment
from gpumand.demo.example_services import IMAGE, LANGUAGE, SERVICES, VOICE
from gpumand.demo.screen import Screen

REFRESH_SEC = 0.25
MANAGER_CALL = "org.gpumand1 /org/gpumand1 org.gpumand1.Manager"


async def run(faults: Sequence[str]) -> int:
    """Keep everything running until it is cancelled; returns 1 if the daemon or the bus ended unexpectedly."""
    async with DemoEnvironment(faults=faults, has_gateway=True) as environment:
        connection = await BusConnection.connect(environment.address)
        try:
            await _show(Client(connection), connection, _text(environment), Screen(verbose=True))
        finally:
            await connection.close()
        log_lines = environment.last_log_lines()
    print("\n".join([*log_lines, "gpumand or its bus ended unexpectedly"]), file=sys.stderr)
    return 1


async def _show(client: Client, connection: BusConnection, text: Sequence[str], screen: Screen) -> None:
    """Print the text, then events above bars that update; returns when gpumand or the bus is gone."""
    gone = asyncio.Event()

    def on_signal(signal: Signal) -> None:
        now_usec = time.time_ns() // 1000
        line = signal_line(signal.member, event_of(signal, now_usec))
        if line:
            screen.log_entry(f" {clock(now_usec)}  ", line)
        if signal.member == "NameOwnerChanged" and not signal.body[2]:
            gone.set()

    with screen.bars():
        for line in text:
            screen.plain(line)
        await client.listen(on_signal)
        ends = [asyncio.ensure_future(gone.wait()), asyncio.ensure_future(connection.wait_lost())]
        refresher = asyncio.ensure_future(_refresh_bars(client, screen))
        try:
            await asyncio.wait([*ends, refresher], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (*ends, refresher):
                task.cancel()


async def _refresh_bars(client: Client, screen: Screen) -> None:
    """Update the bars for as long as gpumand answers."""
    while True:
        screen.show(await client.status())
        await asyncio.sleep(REFRESH_SEC)


def _text(environment: DemoEnvironment) -> list[str]:
    """A description of the environment and commands to try."""
    services = ", ".join(f"{service.name} ({service.description}, {mib(service.mib)})" for service in SERVICES)
    lines = ["", " gpumand runs on a private bus, with three services:", f" {services}."]
    lines += [f" Web page of the gateway: {environment.gateway_url}/gateway/"]
    return [
        *lines,
        " Try these commands in another terminal; Ctrl-C here stops everything:",
        "",
        *commands(environment.address, environment.urls, environment.gateway_url),
        "",
    ]


def commands(address: str, urls: Mapping[str, str], gateway_url: str) -> list[str]:
    """Command lines to copy, which work in this order; only those whose programs are installed."""
    ctl = gpumanctl()
    where = f'"${ADDRESS_VARIABLE}"'
    lines = [f"export {ADDRESS_VARIABLE}='{address}'", f"{ctl}"]
    if shutil.which("curl"):
        lines += [
            f"curl -s -X POST {urls[IMAGE.name]}/work",
            f"{ctl} run {VOICE.name} -- sh -c 'curl -s $GPUMAND_ENDPOINT/health'",
            f"curl -s -X POST {gateway_url}/c/{VOICE.name}/work",
            f"{ctl} gateway status --address {gateway_url.removeprefix('http://')}",
        ]
    lines += [
        f"{ctl} plan {LANGUAGE.name}",
        f"lease=$({ctl} acquire {LANGUAGE.name})",
        f"{ctl} status",
        f"{ctl} release $lease",
        f"{ctl} monitor",
    ]
    if shutil.which("busctl"):
        call = f"busctl --address={where} call {MANAGER_CALL}"
        lines += [
            f"lease=$({call} Acquire 'sa{{sv}}' {VOICE.name} 1 ttl_usec t 20000000 | cut -d '\"' -f 2)",
            f'{call} Release s "$lease"',
        ]
    if shutil.which("gdbus"):
        target = "--dest org.gpumand1 --object-path /org/gpumand1"
        lines.append(f"gdbus call --address {where} {target} --method org.gpumand1.Manager.GetStatus")
    return [f"  {line}" for line in lines]
