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
@click.pass_context
def top(ctx: click.Context, interval: float, once: bool, svg: Path | None) -> int:
    """Show devices, consumers, leases and the queue, live.

    The bar of a device is split by consumer and foreign process. Select a consumer with the arrow keys, then load,
    evict or pin it with a key. Press ? for the list of keys, q to quit.
    """
    options = global_options(ctx)
    if options.json:
        raise click.UsageError("--json does not work with top; use: gpumanctl status --json")
    if interval < LEAST_INTERVAL_SEC:
        raise click.UsageError(f"--interval must be {LEAST_INTERVAL_SEC:g}s or more")
    if once or svg is not None:
        _print_frame(ctx, options, svg)
        return ExitCode.OK
    if not (is_screen(sys.stdout) and sys.stdin.isatty()):
        raise Failure(ExitCode.FAILURE, "top needs a terminal; use: gpumanctl status, or gpumanctl top --once")
    ended_by = asyncio.run(_live(options, interval))
    return exit_by_signal(ended_by) if ended_by else ExitCode.OK


async def _live(options: GlobalOptions, interval_sec: float) -> int:
    """Run the live screen; return the signal that ended it, or 0."""
    from gpumand.cli.top.session import Top

    async with connected(options) as client:
        live = Top(client, options, interval_sec)
        await live.run()
    return live.ended_by


def _print_frame(ctx: click.Context, options: GlobalOptions, svg: Path | None) -> None:
    from gpumand.cli.top.frame import frame
    from gpumand.cli.top.model import Model
    from gpumand.cli.top.session import snapshot

    async def call(client: Client, _: GlobalOptions) -> Model:
        return await snapshot(client)

    model = run_with_client(ctx, call)
    columns, lines = screen_size()
    theme = replace(theme_for(sys.stdout, options), width=columns, legend=True, fit_to_width=True)
    now_usec = time.time_ns() // 1000
    if svg is None:
        return print_lines(frame(model, now_usec, theme, lines), replace(options, pager=False))
    from gpumand.cli.render.picture import svg_of

    picture = svg_of(frame(model, now_usec, replace(theme, color=True, unicode=True), lines), columns)
    try:
        svg.write_text(picture, encoding="utf-8")
    except OSError as error:
        raise Failure(ExitCode.FAILURE, f"cannot write {svg}: {error.strerror}") from None
    return None
