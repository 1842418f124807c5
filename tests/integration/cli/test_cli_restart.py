"""A daemon that goes away in the middle of a call: who waits is served by the one that comes back, or told."""

from __future__ import annotations

import asyncio

import pytest

from gpumand.bus.connection import IncomingCall, Reply
from gpumand.domain.errors import ShuttingDown
from gpumand.testing.bus import PrivateBus
from tests.integration.cli.ctl import LIMIT_SEC, Ctl, Screen, finished
from tests.integration.cli.manager import LEASE, ScriptedManager, failing, never


async def asking(ctl: Ctl, manager: ScriptedManager, *command: str) -> asyncio.subprocess.Process:
    """gpumanctl, whose call has arrived and waits."""
    asked = asyncio.Event()

    async def wait(call: IncomingCall) -> Reply:
        asked.set()
        return await never(call)

    manager.answers["Acquire"] = manager.answers["Load"] = wait
    process = await ctl.start(*command)
    async with asyncio.timeout(LIMIT_SEC):
        await asked.wait()
    return process


def crash(manager: ScriptedManager) -> None:
    """Leave the bus as a killed daemon does: no reply, no goodbye."""
    manager.connection._break("killed by the test")


async def test_who_waits_is_served_by_the_daemon_that_comes_back(
    ctl: Ctl, bus: PrivateBus, manager: ScriptedManager
) -> None:
    process = await asking(ctl, manager, "acquire", "mvoice", "--reason", "poster", "--timeout", "1min")
    crash(manager)
    successor = await ScriptedManager.start(bus.address)
    result = await finished(process)
    assert (result.code, result.out, result.err) == (0, f"{LEASE}\n", "")
    first, again = manager.options_of("Acquire"), successor.options_of("Acquire")
    assert again.pop("timeout_usec") < first.pop("timeout_usec")
    assert again == first, "the same token: a lease whose answer was lost is the one that is given"
    await successor.close()


async def test_a_token_that_was_given_is_the_one_that_is_used(ctl: Ctl, manager: ScriptedManager) -> None:
    await ctl("acquire", "mvoice", "--token", "mine")
    assert manager.options_of("Acquire")["token"] == "mine"


async def test_two_callers_never_have_the_same_token(ctl: Ctl, manager: ScriptedManager) -> None:
    await ctl("acquire", "mvoice")
    first = manager.options_of("Acquire")["token"]
    await ctl("acquire", "mvoice")
    assert manager.options_of("Acquire")["token"] != first


async def test_load_by_hand_outlasts_a_restart_too(ctl: Ctl, bus: PrivateBus, manager: ScriptedManager) -> None:
    process = await asking(ctl, manager, "load", "mvoice")
    crash(manager)
    successor = await ScriptedManager.start(bus.address)
    assert (await finished(process)).code == 0
    assert [member for member, _ in successor.asked] == ["Load"]
    await successor.close()


async def test_a_command_runs_once_its_lease_was_had_from_the_next_daemon(
    ctl: Ctl, bus: PrivateBus, manager: ScriptedManager
) -> None:
    process = await asking(ctl, manager, "run", "mvoice", "--", "sh", "-c", "echo $GPUMAND_LEASE")
    crash(manager)
    successor = await ScriptedManager.start(bus.address)
    result = await finished(process)
    assert (result.code, result.out) == (0, f"{LEASE}\n")
    await successor.close()


async def test_a_daemon_that_shuts_down_is_waited_for_until_it_owns_its_name_again(
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


async def test_one_that_refuses_all_the_while_is_asked_less_and_less_often(ctl: Ctl, manager: ScriptedManager) -> None:
    manager.answers["Acquire"] = failing(ShuttingDown("the host is shutting down"))
    result = await ctl("acquire", "mvoice", "--timeout", "2s")
    assert (result.code, result.out) == (1, "")
    assert "the host is shutting down" in result.err
    assert 2 <= len(manager.asked) <= 7


async def test_one_that_does_not_come_back_is_told(ctl: Ctl, manager: ScriptedManager) -> None:
    process = await asking(ctl, manager, "acquire", "mvoice", "--timeout", "500ms")
    crash(manager)
    result = await finished(process)
    assert (result.code, result.out) == (1, "")
    assert "gpumand left the bus while it was asked" in result.err


async def test_now_or_not_at_all_is_not_asked_again(ctl: Ctl, bus: PrivateBus, manager: ScriptedManager) -> None:
    process = await asking(ctl, manager, "acquire", "mvoice", "--no-wait")
    crash(manager)
    successor = await ScriptedManager.start(bus.address)
    assert (await finished(process)).code == 1
    assert successor.asked == []
    await successor.close()


async def test_a_screen_says_that_it_went_away_and_nobody_calls_it_back(ctl: Ctl, manager: ScriptedManager) -> None:
    manager.answers["Acquire"] = never
    screen = await Screen.start(ctl, "acquire", "mvoice", "--wait")
    async with asyncio.timeout(LIMIT_SEC):
        await manager.acquiring.wait()
    crash(manager)
    await screen.wait_for("mvoice: waiting: gpumand left the bus")
    screen.type(b"\x03")
    assert await screen.end() == 130


@pytest.mark.parametrize("word", ["release", "renew"])
async def test_what_does_not_wait_is_told_at_once(ctl: Ctl, manager: ScriptedManager, word: str) -> None:
    asked = asyncio.Event()

    async def wait(call: IncomingCall) -> Reply:
        asked.set()
        return await never(call)

    manager.answers["Release"] = manager.answers["Renew"] = wait
    process = await ctl.start(word, LEASE)
    async with asyncio.timeout(LIMIT_SEC):
        await asked.wait()
    crash(manager)
    assert "left the bus while it was asked" in (await finished(process)).err
