"""HTTP routes of consumers: loads, unloads and probes them; ``presets`` contains the routes of known servers.

The package imports only ``gpumand.domain``, ``gpumand.ports`` and ``gpumand.version``; it knows nothing of the arbiter
or the bus. Starting and stopping units is the task of ``gpumand.service_manager``.
"""
