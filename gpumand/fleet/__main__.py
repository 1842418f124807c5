"""The program ``gpumand-fleet``, also as ``python -m gpumand.fleet``."""

from __future__ import annotations

from collections.abc import Sequence

from gpumand.bus.dbus_fast_import import import_dbus_fast
from gpumand.http.aiohttp_import import import_aiohttp


def main(arguments: Sequence[str] | None = None) -> None:
    """Run gpumand-fleet until it is stopped."""
    import_aiohttp()
    import_dbus_fast()
    from gpumand.fleet import process  # it imports aiohttp

    process.main(arguments)


if __name__ == "__main__":
    main()
