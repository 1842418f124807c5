"""What runs on this host and might want to be a consumer: looked at once, for ``gpumanctl init``.

``host`` has the values, ``sockets`` and ``processes`` read /proc, ``looking`` asks systemd and the driver, ``matching``
tells which preset fits what was found, ``starter`` writes a first configuration. Nothing here changes anything.
"""
