"""Data that survives a reboot: the history (``gpumanctl history``), learned values, and the demand log.

Must not import the arbiter, the bus or the command line. Reading order: ``recorder`` (turns events into entries),
``archive`` (collects entries and passes them to a thread), ``database`` (SQLite in that thread), ``demand_log``.
"""

from __future__ import annotations

from gpumand.history.archive import SqliteArchive
from gpumand.history.demand_log import DemandLog
from gpumand.history.recorder import HistoryRecorder

__all__ = ["DemandLog", "HistoryRecorder", "SqliteArchive"]
