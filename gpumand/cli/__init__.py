"""``gpumanctl``: asks the daemon over D-Bus and shows what it said.

Start at ``app`` (the commands and the options they share), then ``client`` (the asking), ``errors`` (every ending and
its exit code) and ``render`` (plain dicts in, text for people out). Everything heavy is imported by the command that
needs it: a command that prints JSON never loads rich, and one that needs no daemon never loads the binding.
"""

from __future__ import annotations


def main() -> None:
    """Run ``gpumanctl`` with the arguments of this process, and exit."""
    from gpumand.cli.app import gpumanctl

    gpumanctl.main()
