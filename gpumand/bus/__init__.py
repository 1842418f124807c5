"""D-Bus for gpumand: the adapter over the dbus-fast library, and the service org.gpumand1 that clients call.

This package must not import the arbiter, the daemon or the command line: it knows the arbiter only as ``arbiter_port``.
No other package but gpumand.testing imports dbus-fast.

Reading order: ``connection`` (calls, signals and names on one bus), ``interfaces`` (the XML), ``dispatcher``,
``manager`` (the methods of org.gpumand1.Manager), ``published_objects`` (objects and signals), ``service`` (connects
them).
"""
