"""``gpumanctl calibrate``: measures a consumer and prints configuration lines for it."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import click

from gpumand.cli import completion
from gpumand.cli.client import Client
from gpumand.cli.durations import DURATION, to_usec
from gpumand.cli.options import Command, GlobalOptions, global_options
from gpumand.cli.output import is_screen, print_json
from gpumand.cli.progress import LiveLine
from gpumand.cli.session import run_with_client

if TYPE_CHECKING:
    from gpumand.cli.calibration import Calibration


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
@click.pass_context
def calibrate(ctx: click.Context, consumer: str, timeout: float) -> None:
    """Measure CONSUMER and print its configuration.

    Loads the consumer under a lease, waits until its memory is stable, then evicts it by each of its methods and loads
    it again in between. Other consumers may be evicted to make room, as for any lease. The lease ends with this
    command. If the consumer loads its model on the first request, send it one when you are asked to.
    """
    if to_usec(timeout) == 0:
        raise click.UsageError("--timeout must be more than 0")
    options = global_options(ctx)
    calibration = run_with_client(ctx, lambda client, options: _calibrate(client, consumer, timeout, options))
    if options.json:
        from gpumand.cli.render.calibration import as_json

        return print_json(as_json(calibration))
    from gpumand.cli.render.calibration import toml_lines

    print("\n".join(toml_lines(calibration)), flush=True)
    return None


async def _calibrate(client: Client, consumer: str, timeout_sec: float, options: GlobalOptions) -> Calibration:
    from gpumand.cli.calibration import Calibrator

    reporter = ProgressReporter(options)
    return await Calibrator(client, consumer, timeout_sec, reporter.log, reporter.show, options).run()
