"""The program ``gpumand``, the daemon, also as ``python -m gpumand``."""

from __future__ import annotations

from collections.abc import Sequence

from gpumand.bus.dbus_fast_import import import_dbus_fast


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the daemon and exit with its status."""
    import_dbus_fast()
    from gpumand.daemon import daemon  # it imports dbus-fast

    daemon.main(arguments)


if __name__ == "__main__":
    main()
