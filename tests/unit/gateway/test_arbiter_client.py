"""What gpumand announces reaches the leases, also where a connection was lost meanwhile."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from dbus_fast import Variant

from gpumand.gateway.arbiter_client import BusArbiter


@dataclass
class FakeNews:
    calls: list[str] = field(default_factory=list)

    def set_waiting(self, count: int) -> None:
        self.calls.append(f"waiting {count}")

    def queue_emptied(self) -> None:
        self.calls.append("emptied")


@dataclass
class FakeCalls:
    """A connection to a daemon that announces which leases are wanted."""

    length: int

    @property
    def connection(self) -> FakeCalls:
        return self

    async def call(self, *arguments: Any) -> tuple[Any, ...]:
        return ('<signal name="LeaseWanted"/>',) if "Introspect" in arguments else (Variant("u", self.length),)


@pytest.mark.parametrize(("length", "expected"), [(2, "waiting 2"), (0, "emptied")])
async def test_requests_that_wait_when_the_connection_is_made_count(length: int, expected: str) -> None:
    """Their LeaseWanted signals were sent while the connection was lost."""
    news = FakeNews()

    await BusArbiter("session", 60.0)._read_queue(cast(Any, news), cast(Any, FakeCalls(length)))

    assert news.calls == [expected]
