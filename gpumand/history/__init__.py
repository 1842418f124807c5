"""What is remembered for longer than a boot: what happened (``gpumanctl history``), and what was learned.

``chronicle`` turns events into entries and demand, ``archive`` gathers them and hands them to one thread, ``database``
is SQLite in that thread.
"""

from __future__ import annotations

from gpumand.history.archive import SqliteArchive
from gpumand.history.demand_log import DemandLog
from gpumand.history.recorder import HistoryRecorder

__all__ = ["DemandLog", "HistoryRecorder", "SqliteArchive"]
