"""``gpumanctl``, the command line client of the daemon. Must not import ``gpumand.arbiter`` or ``gpumand.daemon``.

Reading order: ``app`` (the commands and the options they share), ``session`` and ``client`` (calls to the daemon),
``errors`` (every error, its message and its exit code), ``render`` (plain dictionaries in, text for people out).
A command imports heavy modules itself when it needs them: a command that prints JSON never loads rich, and a command
that needs no daemon never loads the D-Bus library.
"""

from __future__ import annotations

GC_THRESHOLD = 50_000
"""Allocations before the first garbage collection: more than a short command makes."""


def main() -> None:
    """Run ``gpumanctl`` with the arguments of this process and exit with its exit code."""
    import gc

    # Collections during the imports find nothing, and take a twentieth of the time of a short command.
    gc.set_threshold(GC_THRESHOLD)
    from gpumand.cli.app import gpumanctl

    try:
        gpumanctl.main()
    finally:
        # Python searches all objects for unused cycles once more as it ends, a tenth of the time of a short command.
        # Their memory is returned with the process anyway; frozen objects are not searched.
        gc.freeze()
