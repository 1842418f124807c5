"""Databases that are closed with the test that opened them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from gpumand.history.database import Database


@pytest.fixture(autouse=True)
def closes_databases(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Python 3.13 and newer warn of a database that is left to the garbage collector."""
    made: list[Database] = []
    begin = Database.__init__

    def begin_and_note(self: Database, path: Path) -> None:
        begin(self, path)
        made.append(self)

    monkeypatch.setattr(Database, "__init__", begin_and_note)
    yield
    for one in made:
        one.close()
