"""The daemon process: command line, start and stop in order, watchdog, status line for systemd.

This is the composition root: it may import every other package, and no other package may import it.
"""
