"""``gpumanctl --fleet top``: the table of hosts, drawn again every second until q or Ctrl-C."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace

from gpumand.cli.errors import ExitCode, Failure
from gpumand.cli.fleet.api import Fields, FleetApi
from gpumand.cli.options import GlobalOptions
from gpumand.cli.output import is_screen, paint, print_json, print_lines, screen_size, theme_for
from gpumand.cli.render.fleet import fleet_lines
from gpumand.cli.render.text import Text
from gpumand.cli.render.wrap import wrapped
from gpumand.cli.top.keys import ESCAPE, INTERRUPT
from gpumand.cli.top.terminal import Terminal

QUIT_KEYS = ("q", "Q", ESCAPE, INTERRUPT, "")


def show_top(api: FleetApi, options: GlobalOptions, interval_sec: float, *, once: bool) -> int:
    """Show the table. Raises Failure."""
    if options.json or once:
        hosts = api.hosts()
        print_json(hosts) if options.json else print_lines(_frame(hosts, options), options._replace(pager=False))
        return ExitCode.OK
    if not (is_screen(sys.stdout) and sys.stdin.isatty()):
        raise Failure(ExitCode.FAILURE, "top needs a terminal; use: gpumanctl --fleet status")
    asyncio.run(_live(api, options, interval_sec))
    return ExitCode.OK


def _frame(hosts: Fields, options: GlobalOptions) -> list[Text]:
    theme = replace(theme_for(sys.stdout, options), width=screen_size()[0], legend=True, fit_to_width=True)
    return fleet_lines(hosts, theme)


async def _live(api: FleetApi, options: GlobalOptions, interval_sec: float) -> None:
    changed, ended = asyncio.Event(), asyncio.Event()

    def on_key(key: str) -> None:
        if key in QUIT_KEYS:
            ended.set()
        changed.set()

    with Terminal(on_key, changed.set) as terminal:
        while not ended.is_set():
            changed.clear()
            terminal.show(await _lines(api, options, terminal.size))
            try:
                async with asyncio.timeout(interval_sec):
                    await changed.wait()
            except TimeoutError:
                continue


async def _lines(api: FleetApi, options: GlobalOptions, size: tuple[int, int]) -> list[str]:
    """The lines of the screen; an agent that does not answer is shown, since it may be started again."""
    columns, rows = size
    theme = replace(theme_for(sys.stdout, options), width=columns, legend=True, fit_to_width=True)
    try:
        lines = fleet_lines(await asyncio.to_thread(api.hosts), theme)
    except Failure as error:
        lines = wrapped(error.message, theme, style="bold red")
    drawn = [*lines[: rows - 1], *[Text()] * max(0, rows - 1 - len(lines)), Text(" q quit", style="bright_black")]
    for one in drawn:
        one.truncate(columns)
    return paint(drawn, theme).splitlines()
