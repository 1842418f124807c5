"""A daemon that leaves during a call: waiting calls are repeated to its successor, all others fail at once."""

from __future__ import annotations

import asyncio

import pytest

from gpumand.bus.connection import IncomingCall, Reply
from gpumand.domain.errors import ShuttingDown
from gpumand.testing.bus import PrivateBus
from tests.integration.cli.ctl import LIMIT_SEC, Ctl, Screen, finished
from tests.integration.cli.manager import LEASE, ScriptedManager, failing, never


async def start_waiting_call(ctl: Ctl, manager: ScriptedManager, *command: str) -> asyncio.subprocess.Process:
    """Start gpumanctl and wait until its call has arrived, which is not answered."""
    call_arrived = asyncio.Event()

    async def wait(call: IncomingCall) -> Reply:
        call_arrived.set()
        return await never(call)

    manager.answers["Acquire"] = manager.answers["Load"] = wait
    process = await ctl.start(*command)
    async with asyncio.timeout(LIMIT_SEC):
        await call_arrived.wait()
    return process


def crash(manager: ScriptedManager) -> None:
    """Leave the bus like a killed daemon, without a reply."""
    manager.connection._disconnect("killed by the test")


async def test_a_waiting_acquire_is_repeated_to_the_restarted_daemon(
    ctl: Ctl, bus: PrivateBus, manager: ScriptedManager
) -> None:
    process = await start_waiting_call(ctl, manager, "acquire", "mvoice", "--reason", "poster", "--timeout", "1min")
    crash(manager)
    successor = await ScriptedManager.start(bus.address)
    result = await finished(process)
    assert (result.code, result.out, result.err) == (0, f"{LEASE}\n", "")
    first, again = manager.options_of("Acquire"), successor.options_of("Acquire")
    assert again.pop("timeout_usec") < first.pop("timeout_usec")
    assert again == first, "the token is the same, so that a lease whose reply was lost is returned again"
    await successor.close()


async def test_a_given_token_is_passed_on(ctl: Ctl, manager: ScriptedManager) -> None:
    await ctl("acquire", "mvoice", "--token", "mine")
    assert manager.options_of("Acquire")["token"] == "mine"


async def test_every_acquire_has_its_own_token(ctl: Ctl, manager: ScriptedManager) -> None:
    await ctl("acquire", "mvoice")
    first = manager.options_of("Acquire")["token"]
    await ctl("acquire", "mvoice")
    assert manager.options_of("Acquire")["token"] != first


async def test_a_waiting_load_is_repeated_to_the_restarted_daemon(
    ctl: Ctl, bus: PrivateBus, manager: ScriptedManager
) -> None:
    process = await start_waiting_call(ctl, manager, "load", "mvoice")
    crash(manager)
    successor = await ScriptedManager.start(bus.address)
    assert (await finished(process)).code == 0
    assert [member for member, _ in successor.calls] == ["Load"]
    await successor.close()


async def test_run_gets_its_lease_from_the_restarted_daemon(
    ctl: Ctl, bus: PrivateBus, manager: ScriptedManager
) -> None:
    process = await start_waiting_call(ctl, manager, "run", "mvoice", "--", "sh", "-c", "echo $GPUMAND_LEASE")
    crash(manager)
    successor = await ScriptedManager.start(bus.address)
    result = await finished(process)
    assert (result.code, result.out) == (0, f"{LEASE}\n")
    await successor.close()


async def test_acquire_waits_while_the_daemon_shuts_down_and_restarts(
    ctl: Ctl, bus: PrivateBus, manager: ScriptedManager
) -> None:
    refusals, refused_twice = 0, asyncio.Event()

    def refuse(call: IncomingCall) -> Reply:
        nonlocal refusals
        refusals += 1
        if refusals == 2:
            refused_twice.set()
        raise ShuttingDown("gpumand is stopping (SIGTERM)")

    manager.answers["Acquire"] = refuse
    process = await ctl.start("acquire", "mvoice")
    async with asyncio.timeout(LIMIT_SEC):
        await refused_twice.wait()  # it still owns its name
    await manager.close()
    successor = await ScriptedManager.start(bus.address)
    assert (await finished(process)).out == f"{LEASE}\n"
    await successor.close()


async def test_retries_to_a_daemon_that_keeps_refusing_become_rarer(ctl: Ctl, manager: ScriptedManager) -> None:
    manager.answers["Acquire"] = failing(ShuttingDown("the host is shutting down"))
    result = await ctl("acquire", "mvoice", "--timeout", "2s")
    assert (result.code, result.out) == (1, "")
    assert "the host is shutting down" in result.err
    assert 2 <= len(manager.calls) <= 7


async def test_a_daemon_that_does_not_return_is_reported(ctl: Ctl, manager: ScriptedManager) -> None:
    process = await start_waiting_call(ctl, manager, "acquire", "mvoice", "--timeout", "500ms")
    crash(manager)
    result = await finished(process)
    assert (result.code, result.out) == (1, "")
    assert "gpumand left the bus during the call" in result.err


async def test_no_wait_is_not_repeated_after_a_crash(ctl: Ctl, bus: PrivateBus, manager: ScriptedManager) -> None:
    process = await start_waiting_call(ctl, manager, "acquire", "mvoice", "--no-wait")
    crash(manager)
    successor = await ScriptedManager.start(bus.address)
    assert (await finished(process)).code == 1
    assert successor.calls == []
    await successor.close()


async def test_a_terminal_shows_that_the_daemon_left_and_does_not_activate_it(
    ctl: Ctl, manager: ScriptedManager
) -> None:
    manager.answers["Acquire"] = never
    screen = await Screen.start(ctl, "acquire", "mvoice", "--wait")
    async with asyncio.timeout(LIMIT_SEC):
        await manager.acquiring.wait()
    crash(manager)
    await screen.wait_for("mvoice: waiting: gpumand left the bus")
    screen.type(b"\x03")
    assert await screen.end() == 130


@pytest.mark.parametrize("word", ["release", "renew"])
async def test_a_crash_during_release_or_renew_is_reported_at_once(
    ctl: Ctl, manager: ScriptedManager, word: str
) -> None:
    call_arrived = asyncio.Event()

    async def wait(call: IncomingCall) -> Reply:
        call_arrived.set()
        return await never(call)

    manager.answers["Release"] = manager.answers["Renew"] = wait
    process = await ctl.start(word, LEASE)
    async with asyncio.timeout(LIMIT_SEC):
        await call_arrived.wait()
    crash(manager)
    assert "left the bus during the call" in (await finished(process)).err
