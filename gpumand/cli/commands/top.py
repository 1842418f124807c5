"""``gpumanctl top``: a live screen of the daemon's state, or one frame of it."""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import replace
from pathlib import Path

import click

from gpumand.cli.client import Client
from gpumand.cli.durations import DURATION
from gpumand.cli.errors import ExitCode, Failure
from gpumand.cli.options import Command, GlobalOptions, global_options
from gpumand.cli.output import is_screen, print_lines, screen_size, theme_for
from gpumand.cli.session import connected, run_with_client
from gpumand.cli.signals import exit_by_signal

LEAST_INTERVAL_SEC = 0.1


@click.command(cls=Command)
@click.option(
    "--interval",
    type=DURATION,
    metavar="TIME",
    default=1.0,
    help="Refresh interval while nothing changes. Default: 1s.",
)
@click.option("--once", is_flag=True, help="Print one frame and exit; its size is COLUMNS x LINES, or 80x24.")
@click.option(
    "--svg",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write one frame to a file as an SVG picture.",
)
@click.option(
    "--theme",
    type=click.Choice(("standard", "blue", "bright", "mono")),
    default="standard",
    help="Colors: standard, blue (no red and green), bright or mono. The key t changes them. Default: standard.",
)
@click.option("--no-mouse", is_flag=True, help="Leave the mouse to the terminal, to select text.")
@click.pass_context
def top(ctx: click.Context, interval: float, once: bool, svg: Path | None, theme: str, no_mouse: bool) -> int:
    """Show GPUs, consumers, leases and processes, live.

    The graphs show memory, utilisation, power and temperature. The bar of a device is split by consumer and foreign
    process. Select a row with the arrow keys or the mouse, another list with Tab. Consumers are loaded, evicted and
    pinned with a key, leases released and renewed, waiting requests cancelled. Press ? for the list of keys, q to quit.
    """
    options = global_options(ctx)
    if options.json:
        raise click.UsageError("--json does not work with top; use: gpumanctl status --json")
    if interval < LEAST_INTERVAL_SEC:
        raise click.UsageError(f"--interval must be {LEAST_INTERVAL_SEC:g}s or more")
    if once or svg is not None:
        _print_frame(ctx, options, svg, theme)
        return ExitCode.OK
    if not (is_screen(sys.stdout) and sys.stdin.isatty()):
        raise Failure(ExitCode.FAILURE, "top needs a terminal; use: gpumanctl status, or gpumanctl top --once")
    ended_by = asyncio.run(_live(options, interval, theme, mouse=not no_mouse))
    return exit_by_signal(ended_by) if ended_by else ExitCode.OK


async def _live(options: GlobalOptions, interval_sec: float, theme: str, *, mouse: bool) -> int:
    """Run the live screen; return the signal that ended it, or 0."""
    from gpumand.cli.top.session import Top

    async with connected(options) as client:
        live = Top(client, options, interval_sec, theme, mouse=mouse)
        await live.run()
    return live.ended_by


def _print_frame(ctx: click.Context, options: GlobalOptions, svg: Path | None, colors: str) -> None:
    from gpumand.cli.top import palette
    from gpumand.cli.top.frame import frame
    from gpumand.cli.top.model import Model
    from gpumand.cli.top.session import snapshot

    async def call(client: Client, _: GlobalOptions) -> Model:
        return await snapshot(client)

    model = run_with_client(ctx, call)
    columns, lines = screen_size()
    theme = replace(theme_for(sys.stdout, options), width=columns, legend=True, fit_to_width=True)
    theme = replace(theme, letters=colors == palette.MONO)
    now_usec = time.time_ns() // 1000
    if svg is None:
        shown = palette.themed(frame(model, now_usec, theme, lines), colors)
        return print_lines(shown, options._replace(pager=False))
    from gpumand.cli.render.picture import svg_of

    drawn = frame(model, now_usec, replace(theme, color=True, unicode=True), lines)
    picture = svg_of(palette.themed(drawn, colors), columns)
    try:
        svg.write_text(picture, encoding="utf-8")
    except OSError as error:
        raise Failure(ExitCode.FAILURE, f"cannot write {svg}: {error.strerror}") from None
    return None
