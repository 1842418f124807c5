"""A session whose call times out."""

from __future__ import annotations

import pytest

from gpumand.bus.connection_errors import BusError, BusTimeout
from gpumand.cli.client import Client
from gpumand.cli.errors import Failure
from gpumand.cli.options import GlobalOptions
from gpumand.cli.session import connected

TIMEOUT = BusTimeout("org.gpumand1 did not answer GetStatus within 10 s")


class UnresponsiveClient:
    """A client whose daemon does not answer."""

    def __init__(self, has_owner: bool | BusError) -> None:
        self.has_owner = has_owner
        self.is_closed = False

    async def is_running(self) -> bool:
        """Answer as the bus does, or fail as the bus does."""
        if isinstance(self.has_owner, BusError):
            raise self.has_owner
        return self.has_owner

    async def close(self) -> None:
        """Record that the connection was closed."""
        self.is_closed = True


async def error_of_session(monkeypatch: pytest.MonkeyPatch, client: UnresponsiveClient) -> Exception:
    """The exception of a session whose call times out."""

    async def connect(bus: str) -> UnresponsiveClient:
        return client

    monkeypatch.setattr(Client, "connect", connect)
    with pytest.raises((Failure, BusTimeout)) as caught:
        async with connected(GlobalOptions()):
            raise TIMEOUT
    assert client.is_closed
    return caught.value


async def test_a_timeout_without_a_daemon_is_reported_as_a_failed_start(monkeypatch: pytest.MonkeyPatch) -> None:
    failure = await error_of_session(monkeypatch, UnresponsiveClient(has_owner=False))
    assert isinstance(failure, Failure)
    assert failure.code == 3
    assert "could not be started" in failure.message
    assert "gpumanctl config-check" in failure.message


async def test_a_timeout_of_a_running_daemon_stays_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await error_of_session(monkeypatch, UnresponsiveClient(has_owner=True)) is TIMEOUT


async def test_a_timeout_stays_a_timeout_when_the_bus_cannot_name_the_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (
        await error_of_session(
            monkeypatch, UnresponsiveClient(has_owner=BusError("org.freedesktop.DBus.Error.NoReply", ""))
        )
        is TIMEOUT
    )
