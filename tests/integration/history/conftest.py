"""Fixture that closes all databases opened by a test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from gpumand.history.database import Database


@pytest.fixture(autouse=True)
def close_databases(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Close all databases: Python 3.13 and newer warn about a database that the garbage collector closes."""
    databases: list[Database] = []
    original_init = Database.__init__

    def tracking_init(self: Database, path: Path) -> None:
        original_init(self, path)
        databases.append(self)

    monkeypatch.setattr(Database, "__init__", tracking_init)
    yield
    for one in databases:
        one.close()
