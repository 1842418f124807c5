"""The HTTP face: status, events and metrics for tools that do not speak D-Bus. Read-only.

``front`` is what the daemon has; the rest, and aiohttp with it, is imported only where there is something to listen on.
"""
