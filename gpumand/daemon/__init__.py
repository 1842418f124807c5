"""The daemon process: command line, start and stop in order, watchdog, status line for systemd.

This is the composition root: it imports all parts of the daemon, and no other package may import it. It must not import
programs of users and tests: ``cli``, ``client``, ``demo``, ``simulation`` and ``testing``.

Reading order: ``components`` (builds and connects everything), ``daemon`` (start, reload, end), ``watchdog``.
"""
