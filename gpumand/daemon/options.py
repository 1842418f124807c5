"""The command line of the daemon ``gpumand``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gpumand.log.logging_setup import default_level, setup_logging
from gpumand.version import VERSION

if TYPE_CHECKING:
    from argparse import Namespace


@dataclass(frozen=True, slots=True)
class Options:
    """The options of the command line.

    Attributes:
        config: configuration file or folder; None = the default.
        bus_address: "system", "session" or a D-Bus address.
        state_dir: directory for leases and history; None = the default.
    """

    config: Path | None = None
    bus_address: str = "system"
    state_dir: Path | None = None

    @property
    def user(self) -> bool:
        """Whether this is a user's daemon, which manages the units of the user's service manager."""
        return self.bus_address == "session"


def parse_arguments(arguments: Sequence[str] | None) -> Options:
    """Parse the command line and set up logging accordingly; exits the process on a wrong command line.

    Args:
        arguments: the command line without the program name; None = that of the process.
    """
    given = sys.argv[1:] if arguments is None else arguments
    # The system unit has no arguments. The modules of argparse would take 1 MiB for as long as the daemon runs.
    if not given:
        setup_logging(default_level())
        return Options()
    parsed = _parse(given)
    setup_logging(parsed.log_level)
    address = parsed.bus_address or ("session" if parsed.user else "system")
    return Options(parsed.config, address, parsed.state_dir)


def _parse(arguments: Sequence[str]) -> Namespace:
    import argparse

    parser = argparse.ArgumentParser(prog="gpumand", description="Shares the GPU memory of this host between services.")
    parser.add_argument("--version", action="version", version=f"gpumand {VERSION}")
    parser.add_argument(
        "--config", type=Path, metavar="PATH", help="configuration file or folder to use instead of /etc/gpumand"
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--user",
        action="store_true",
        help="run on the session bus, manage the user's own units and read ~/.config/gpumand",
    )
    where.add_argument("--bus-address", metavar="ADDRESS", help="run on the bus at this address")
    parser.add_argument(
        "--state-dir", type=Path, metavar="DIR", help="directory in which leases and history survive a restart"
    )
    parser.add_argument("--log-level", default=default_level(), choices=["debug", "info", "warning", "error"])
    return parser.parse_args(arguments)
