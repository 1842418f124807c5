"""What runs on this host and might want to be a consumer, or is another gpumand: looked at once, mostly for ``init``.

``host`` has the values, ``sockets`` and ``processes`` read /proc, ``looking`` asks systemd and the driver, ``matching``
tells which preset fits what was found, ``starter`` writes a first configuration. ``daemons``
finds other daemons. Nothing here changes anything.
"""
