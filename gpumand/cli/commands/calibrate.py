"""``calibrate``: measures a consumer, and prints what to configure."""

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
from gpumand.cli.session import ask

if TYPE_CHECKING:
    from gpumand.cli.calibration import Calibration


class Voice:
    """Tells on stderr what is being done, and shows figures that change where somebody looks at a terminal."""

    def __init__(self, options: GlobalOptions) -> None:
        self._is_quiet = options.quiet
        self._line = LiveLine() if is_screen(sys.stderr) and not options.quiet else None
        self._began = time.monotonic()

    def say(self, text: str) -> None:
        """A line that stays."""
        if self._is_quiet:
            return
        from gpumand.cli.render.format import clean

        self.show("")
        print(clean(text), file=sys.stderr, flush=True)

    def show(self, text: str) -> None:
        """A line that is written over; "" clears it."""
        if self._line is None:
            return
        if text:
            self._line.show(text, time.monotonic() - self._began)
        else:
            self._line.close()


@click.command(cls=Command)
@click.argument("consumer", shell_complete=completion.consumers)
@click.option(
    "--timeout",
    type=DURATION,
    metavar="TIME",
    default=600.0,
    help="How long each step may take: until it is granted, until its memory is there and still; default 10min.",
)
@click.pass_context
def calibrate(ctx: click.Context, consumer: str, timeout: float) -> None:
    """Measure CONSUMER, and print what to configure for it.

    Loads it under a lease, waits until its memory is still, and evicts it by each of its methods, loading it again in
    between. Others are evicted for that as for any lease, and no lease stays behind. A consumer that loads on its
    first request is to be sent one meanwhile.
    """
    if to_usec(timeout) == 0:
        raise click.UsageError("--timeout must be more than 0")
    options = global_options(ctx)
    found = ask(ctx, lambda client, options: _measured(client, consumer, timeout, options))
    if options.json:
        from gpumand.cli.render.calibration import as_json

        return print_json(as_json(found))
    from gpumand.cli.render.calibration import toml_lines

    print("\n".join(toml_lines(found)), flush=True)
    return None


async def _measured(client: Client, consumer: str, timeout_sec: float, options: GlobalOptions) -> Calibration:
    from gpumand.cli.calibration import Calibrator

    voice = Voice(options)
    return await Calibrator(client, consumer, timeout_sec, voice.say, voice.show, options).run()
