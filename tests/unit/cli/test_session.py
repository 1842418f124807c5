"""What a conversation makes of silence."""

from __future__ import annotations

import pytest

from gpumand.bus.connection_errors import BusError, BusTimeout
from gpumand.cli.client import Client
from gpumand.cli.errors import Failure
from gpumand.cli.options import GlobalOptions
from gpumand.cli.session import connected

SILENCE = BusTimeout("org.gpumand1 did not answer GetStatus within 10 s")


class Silent:
    """A client whose daemon does not answer."""

    def __init__(self, is_there: bool | BusError) -> None:
        self.is_there = is_there
        self.is_closed = False

    async def is_running(self) -> bool:
        """What the bus says."""
        if isinstance(self.is_there, BusError):
            raise self.is_there
        return self.is_there

    async def close(self) -> None:
        """Leave."""
        self.is_closed = True


async def silenced(monkeypatch: pytest.MonkeyPatch, client: Silent) -> Exception:
    """How a conversation ends that nobody answers."""

    async def connect(bus: str) -> Silent:
        return client

    monkeypatch.setattr(Client, "connect", connect)
    with pytest.raises((Failure, BusTimeout)) as caught:
        async with connected(GlobalOptions()):
            raise SILENCE
    assert client.is_closed
    return caught.value


async def test_a_daemon_that_ended_at_its_start_is_not_taken_for_a_slow_one(monkeypatch: pytest.MonkeyPatch) -> None:
    failure = await silenced(monkeypatch, Silent(is_there=False))
    assert isinstance(failure, Failure)
    assert failure.code == 3
    assert "could not be started" in failure.message
    assert "gpumanctl config-check" in failure.message


async def test_a_daemon_that_is_there_did_not_answer_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await silenced(monkeypatch, Silent(is_there=True)) is SILENCE


async def test_a_bus_that_cannot_say_who_is_there_leaves_it_at_that(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await silenced(monkeypatch, Silent(is_there=BusError("org.freedesktop.DBus.Error.NoReply", ""))) is SILENCE
