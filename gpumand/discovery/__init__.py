"""Discovery: finds services on this host that could become consumers, and other gpumand daemons.

Must not import ``gpumand.arbiter``, ``gpumand.daemon`` or ``gpumand.cli``. Nothing here changes the host.

Reading order: ``host`` (the values), ``scan`` (reads systemd, the driver and, by ``sockets`` and ``processes``, /proc),
``matching`` and ``roles`` (which preset fits a service), ``server_models`` (the models that a server lists),
``starter_config`` and ``found_footprint`` (a configuration for ``gpumanctl init``), ``missing_keys`` (what it still
needs). ``daemons`` finds other gpumand daemons.
"""
