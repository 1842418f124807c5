"""The gateway: a process of its own that holds leases for clients which know nothing of gpumand.

It listens where clients already look for a service, acquires a lease while requests are in flight, and passes the
requests on. Reading order: ``service`` is the process, ``handler`` decides about one request. ``paths``, ``headers``
and ``access`` check it, ``router`` and ``routes`` determine its consumer and its class. ``turns`` decides when requests
share a lease, ``leases`` carries that out over D-Bus, ``holding`` keeps the client while it waits, and ``forward``
passes the request on.

The package is a client of the daemon like any other: it must not import ``arbiter``, ``daemon`` or ``vram``, and no
other package imports it.
"""
