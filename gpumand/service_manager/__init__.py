"""systemd for gpumand: units and logind over D-Bus, journal lines, passed sockets, and notifications (sd_notify).

This package must not import the arbiter, the daemon, the configuration or the command line. It depends on ``bus``,
``domain`` and ``ports`` only.

Reading order: ``units`` (implements the port UnitManager), ``manager`` (calls to systemd), ``jobs``, ``watcher``.
"""
