"""The program ``gpumand-gateway``, also as ``python -m gpumand.gateway``."""

from __future__ import annotations

from collections.abc import Sequence

from gpumand.bus.dbus_fast_import import import_dbus_fast
from gpumand.http.aiohttp_import import import_aiohttp


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the gateway until it is stopped."""
    import_aiohttp()
    import_dbus_fast()
    from gpumand.gateway import service  # it imports aiohttp

    service.main(arguments)


if __name__ == "__main__":
    main()
