"""``gpumanctl calibrate``: measures a consumer and prints configuration lines for it."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from functools import partial
from typing import TYPE_CHECKING

import click

from gpumand.cli import completion
from gpumand.cli.client import Client
from gpumand.cli.durations import DURATION, to_usec
from gpumand.cli.options import Command, GlobalOptions, global_options
from gpumand.cli.output import is_screen, print_json
from gpumand.cli.progress import LiveLine
from gpumand.cli.session import run_with_client
from gpumand.cli.signals import exit_by_signal

if TYPE_CHECKING:
    from gpumand.cli.measurements import Calibration


class ProgressReporter:
    """Prints the steps of a measurement on stderr, and on a terminal a live line with the current readings."""

    def __init__(self, options: GlobalOptions) -> None:
        self._is_quiet = options.quiet
        self._line = LiveLine() if is_screen(sys.stderr) and not options.quiet else None
        self._started_sec = time.monotonic()

    def log(self, text: str) -> None:
        """Print a line that stays."""
        if self._is_quiet:
            return
        from gpumand.cli.render.format import clean

        self.show("")  # the live line is on stderr as well, and would be mixed with this one
        print(clean(text), file=sys.stderr, flush=True)

    def show(self, text: str) -> None:
        """Show a line that the next one overwrites; "" clears it."""
        if self._line is None:
            return
        if text:
            self._line.show(text, time.monotonic() - self._started_sec)
        else:
            self._line.close()


@click.command(cls=Command)
@click.argument("consumer", shell_complete=completion.consumers)
@click.option(
    "--timeout",
    type=DURATION,
    metavar="TIME",
    default=600.0,
    help="Maximum time of each step: grant, memory to appear, memory to be stable. Default: 10min.",
)
@click.option(
    "--while",
    "command",
    metavar="CMD",
    default="",
    help="Shell command that uses the consumer while its memory is measured, with a request as large as any.",
)
@click.pass_context
def calibrate(ctx: click.Context, consumer: str, timeout: float, command: str) -> int | None:
    """Measure CONSUMER and print its configuration.

    Loads the consumer under a lease, waits until its memory is stable and it is idle, then evicts it by each of its
    methods and loads it again in between. Other consumers may be evicted to make room, as for any lease. The lease ends
    with this command, and what ran before is restored. If the consumer loads its model on the first request, send it
    one when you are asked to, or give the command that does with --while. Without an observed load, nothing is
    printed, and the exit status is 1. CMD gets GPUMAND_ENDPOINT, GPUMAND_LEASE and GPUMAND_CONSUMER.
    """
    if to_usec(timeout) == 0:
        raise click.UsageError("--timeout must be more than 0")
    options = global_options(ctx)
    ended_by: list[int] = []
    try:
        calibration = run_with_client(
            ctx, lambda client, options: _calibrate(client, consumer, timeout, command, options, ended_by)
        )
    except asyncio.CancelledError:
        if not ended_by:  # cancelled by something else than a signal
            raise
        return exit_by_signal(ended_by[0])
    if options.json:
        from gpumand.cli.render.calibration import as_json

        print_json(as_json(calibration))
        return None
    from gpumand.cli.render.calibration import toml_lines

    print("\n".join(toml_lines(calibration)), flush=True)
    return None


async def _calibrate(
    client: Client, consumer: str, timeout_sec: float, command: str, options: GlobalOptions, ended_by: list[int]
) -> Calibration:
    """Run the measurement; a signal ends it, and with it CMD, and is added to ``ended_by``."""
    from gpumand.cli.calibration import Calibrator
    from gpumand.cli.restoring import unit_is_active
    from gpumand.cli.work_probe import WorkProbe

    _cancel_on_signal(ended_by)
    reporter = ProgressReporter(options)
    probe = await WorkProbe.create(client, consumer, options)
    try:
        return await Calibrator(
            client,
            consumer,
            timeout_sec,
            reporter.log,
            reporter.show,
            options,
            command,
            probe.is_working,
            partial(unit_is_active, client.connection),
        ).run()
    finally:
        await probe.close()


def _cancel_on_signal(ended_by: list[int]) -> None:
    """Let SIGTERM and SIGHUP cancel the current task."""
    task = asyncio.current_task()
    assert task is not None

    def cancel(number: int) -> None:
        ended_by.append(number)
        task.cancel()

    for number in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, cancel, number)
