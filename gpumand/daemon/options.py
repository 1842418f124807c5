"""The command line of ``gpumand``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gpumand.log.logging_setup import default_level, setup_logging
from gpumand.version import VERSION


@dataclass(frozen=True, slots=True)
class Options:
    """The command line.

    Attributes:
        config: file or folder; None for /etc/gpumand.
        bus_address: "system", "session" or a D-Bus address.
        state_dir: where leases are kept; None for the usual place.
    """

    config: Path | None
    bus_address: str
    state_dir: Path | None

    @property
    def user(self) -> bool:
        """Whether units are those of the user's own service manager."""
        return self.bus_address == "session"


def parsed(arguments: Sequence[str] | None) -> Options:
    """Read the command line, and have the log as it says; ends the process where it is wrong."""
    parser = argparse.ArgumentParser(prog="gpumand", description="Lends the GPU memory of this host.")
    parser.add_argument("--version", action="version", version=f"gpumand {VERSION}")
    parser.add_argument("--config", type=Path, metavar="PATH", help="a file or folder instead of /etc/gpumand")
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--user",
        action="store_true",
        help="serve on the session bus, manage the user's own units, by ~/.config/gpumand",
    )
    where.add_argument("--bus-address", metavar="ADDRESS", help="serve on the bus at this address")
    parser.add_argument("--state-dir", type=Path, metavar="DIR", help="where leases are kept over a restart")
    parser.add_argument("--log-level", default=default_level(), choices=["debug", "info", "warning", "error"])
    given = parser.parse_args(arguments)
    setup_logging(given.log_level)
    address = given.bus_address or ("session" if given.user else "system")
    return Options(given.config, address, given.state_dir)
