"""Runs the gateway as its system unit does, without a command line to parse: ``… CONFIG ADDRESS``."""

from __future__ import annotations

import sys
from pathlib import Path

from gpumand.bus.dbus_fast_import import import_dbus_fast
from gpumand.http.aiohttp_import import import_aiohttp
from gpumand.log.logging_setup import setup_logging


def main() -> None:
    """Serve until SIGTERM."""
    import_aiohttp()
    import_dbus_fast()
    from gpumand.gateway import service

    setup_logging("info")
    service.run(service.Options(Path(sys.argv[1]), sys.argv[2]))


if __name__ == "__main__":
    main()
