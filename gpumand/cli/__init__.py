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

    _open_missing_streams()
    # Collections during the imports find nothing, and take a twentieth of the time of a short command.
    gc.set_threshold(GC_THRESHOLD)
    from gpumand.cli.app import gpumanctl

    try:
        gpumanctl.main()
    finally:
        # Python searches all objects for unused cycles once more as it ends, a tenth of the time of a short command.
        # Their memory is returned with the process anyway; frozen objects are not searched.
        gc.freeze()


def _open_missing_streams() -> None:
    """Replace standard streams that the caller has closed: a connection would get their number, and be written to."""
    import os
    import sys

    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - it stays open until the process ends
