"""Containers of Docker and Podman, through the container helper: the port Containers, and containers as units.

Imports only ``domain`` and ``ports``, and never opens the socket of an engine. Reading order: ``client`` (requests to
the helper), ``answers`` (checks of what it answers), ``services`` (containers where units could stand).
"""
