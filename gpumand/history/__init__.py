"""What is remembered for longer than a boot: what happened (``gpumanctl history``), and what was learned.

``chronicle`` turns events into entries and demand, ``archive`` gathers them and hands them to one thread, ``database``
is SQLite in that thread.
"""

from __future__ import annotations

from gpumand.history.archive import SqliteArchive
from gpumand.history.chronicle import Chronicle
from gpumand.history.demand import DemandLog

__all__ = ["Chronicle", "DemandLog", "SqliteArchive"]
