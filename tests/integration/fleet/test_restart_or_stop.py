"""Whether the end of gpumand-fleet is a restart or a stop, with a systemd on a bus whose answers a test sets."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from dbus_fast import Variant

from gpumand.bus.connection import BusConnection, IncomingCall, Reply
from gpumand.bus.names import PROPERTIES, SYSTEMD
from gpumand.domain.errors import ConfigInvalid
from gpumand.fleet import process
from gpumand.fleet.settings import FleetConfig
from gpumand.testing.bus import PrivateBus

UNIT, JOB = "/org/freedesktop/systemd1/unit/fleet", "/org/freedesktop/systemd1/job/7"


@dataclass
class Systemd:
    """A systemd with one unit, whose main process this is."""

    job: str = "restart"
    main_pid: int = field(default_factory=os.getpid)
    state: str = "running"
    asked: list[str] = field(default_factory=list)

    async def handle(self, call: IncomingCall) -> Reply:
        self.asked.append(call.member)
        if call.member == "GetUnitByPID":
            return Reply("o", (UNIT,))
        assert (call.interface, call.member) == (PROPERTIES, "Get")
        name = call.body[1]
        answers: dict[str, tuple[str, Any]] = {
            "MainPID": ("u", self.main_pid),
            "SystemState": ("s", self.state),
            "Job": ("(uo)", [7, JOB] if self.job else [0, "/"]),
            "JobType": ("s", self.job),
        }
        return Reply("v", (Variant(*answers[name]),))


@pytest.fixture
async def bus() -> AsyncIterator[PrivateBus]:
    async with PrivateBus() as started:
        yield started


@pytest.fixture
async def systemd(bus: PrivateBus) -> AsyncIterator[Systemd]:
    connection, made = await BusConnection.connect(bus.address), Systemd()
    connection.serve(made.handle)
    await connection.request_name(SYSTEMD)
    yield made
    await connection.close()


def config(bus: str) -> FleetConfig:
    return replace(FleetConfig(host="gpu1", url="http://127.0.0.1:0"), bus=bus)


async def test_job_of_the_unit_says_that_it_is_a_restart(bus: PrivateBus, systemd: Systemd) -> None:
    assert await process.comes_back(lambda: config(bus.address))
    assert "GetUnitByPID" in systemd.asked


@pytest.mark.parametrize(
    "change",
    [{"job": "stop"}, {"job": "start"}, {"job": ""}, {"main_pid": 1}, {"state": "stopping"}],
    ids=["stop", "another job", "a signal", "started in a terminal", "shutdown"],
)
async def test_everything_else_is_a_stop(bus: PrivateBus, systemd: Systemd, change: dict[str, Any]) -> None:
    for name, value in change.items():
        setattr(systemd, name, value)
    assert not await process.comes_back(lambda: config(bus.address))
    assert "GetUnitByPID" in systemd.asked


async def test_restart_with_a_configuration_that_no_process_can_start_with_is_a_stop(
    bus: PrivateBus, systemd: Systemd
) -> None:
    def load() -> FleetConfig:
        raise ConfigInvalid("fleet.alow: unknown table")

    assert not await process.comes_back(load)
    assert systemd.asked == []


async def test_without_systemd_or_a_bus_it_is_a_stop(bus: PrivateBus, tmp_path: Path) -> None:
    for address in (bus.address, f"unix:path={tmp_path}/no-bus"):
        assert not await process.comes_back(lambda address=address: config(address))  # type: ignore[misc]
