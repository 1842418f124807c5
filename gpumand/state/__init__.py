"""The state files of the daemon: leases, running loads, and pins and times of last use of consumers.

Must not import the arbiter, the bus or the command line. Reading order: ``store`` (the Store port), ``folder`` (small
files, each replaced atomically), ``records`` (format and validation), ``worker`` (the thread that writes in order).
"""

from __future__ import annotations

from gpumand.state.store import FileStore

__all__ = ["FileStore"]
