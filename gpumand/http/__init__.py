"""Read-only HTTP endpoints for status, events and metrics, for tools that do not use D-Bus.

The daemon uses only ``listener``, which imports the other modules, and aiohttp with them, when there is a socket to
listen on. The package must not import the arbiter: it gets a function that returns the status, and the events.
"""
