"""Discovery: finds services on this host that could become consumers, and other gpumand daemons.

Must not import ``gpumand.arbiter``, ``gpumand.daemon`` or ``gpumand.cli``. Nothing here changes the host.

Reading order: ``host`` (the values), ``scan`` (reads systemd, the driver and, by ``sockets`` and ``processes``, /proc),
``matching`` (which preset fits a service), ``starter_config`` (a configuration for ``gpumanctl init``). ``daemons``
finds other gpumand daemons.
"""
