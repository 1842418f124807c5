"""Checks with polkit: their contents, and the effect of its replies, its hangs and its absence."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from gpumand.bus import polkit as module
from gpumand.bus.authorization import Action, Details
from gpumand.bus.connection import BusConnection, Reply
from gpumand.bus.polkit import PolkitAuthority
from gpumand.domain.errors import AccessDenied, InteractiveAuthorizationRequired, LimitsExceeded
from gpumand.domain.lease import Owner
from tests.integration.bus.polkit_on_bus import POLICY, ScriptedPolkit, scripted_polkit
from tests.integration.bus.private_bus import PolicyBus, policy_bus
from tests.scripted_user_names import ScriptedUserNames
from tests.waiting import until

USER = 1000
COMFYUI = Details("Acquire", consumer="comfyui", consumer_unit="comfyui.service")
EVICTION = Details("Evict", consumer="comfyui", consumer_unit="comfyui.service")
LEASE = Details("Release", consumer="comfyui", lease="a0001", owner_uid=1001)
Answered = tuple[bool, bool, dict[str, str]]
YES: Answered = (True, False, {})
NO: Answered = (False, False, {})
CHALLENGE: Answered = (False, True, {})


@dataclass
class PolkitCheck:
    """An authority, and a caller that needs polkit's authorization."""

    bus: PolicyBus
    connection: BusConnection
    authority: PolkitAuthority
    caller: BusConnection

    async def check(
        self, action: Action = Action.ACQUIRE, details: Details = COMFYUI, interactive: bool = False
    ) -> None:
        await self.authority.check(Owner(self.caller.unique_name, USER), action, details, interactive)


@pytest.fixture
async def polkit_check() -> AsyncIterator[PolkitCheck]:
    async with policy_bus(POLICY) as bus:
        connection, caller = await BusConnection.connect(bus.address), await BusConnection.connect(bus.address)
        yield PolkitCheck(bus, connection, PolkitAuthority(connection, ScriptedUserNames()), caller)
        await caller.close()
        await connection.close()


@pytest.fixture
async def polkit(polkit_check: PolkitCheck) -> AsyncIterator[ScriptedPolkit]:
    async with scripted_polkit(polkit_check.bus.address) as running:
        yield running


async def test_check_names_the_callers_bus_name_and_the_details(
    polkit_check: PolkitCheck, polkit: ScriptedPolkit
) -> None:
    polkit.answer = YES
    await polkit_check.check()
    await polkit_check.check(Action.RELEASE_ANY, LEASE, interactive=True)
    (subject, action, details, flags, _), (_, other_action, other_details, other_flags, _) = polkit.checks
    assert list(subject) == ["system-bus-name", {"name": polkit_check.caller.unique_name}]
    assert (action, details, flags) == ("org.gpumand1.acquire", {"consumer": "comfyui", "unit": "comfyui.service"}, 0)
    assert (other_action, other_flags) == ("org.gpumand1.release-any", 1)
    assert other_details == {"consumer": "comfyui", "lease": "a0001"}


async def test_results_are_not_cached(polkit_check: PolkitCheck, polkit: ScriptedPolkit) -> None:
    polkit.answer = YES
    await polkit_check.check()
    polkit.answer = NO
    with pytest.raises(AccessDenied):
        await polkit_check.check()
    assert len({question[4] for question in polkit.checks}) == 2


ADD_TO_GROUP = "dd alice to the gpumand group (sudo gpasswd --add alice gpumand, then log in again)"


async def test_refusal_names_the_user_and_the_command(polkit_check: PolkitCheck, polkit: ScriptedPolkit) -> None:
    with pytest.raises(AccessDenied) as refusal:
        await polkit_check.check()
    assert refusal.value.message == (
        f"Permission denied: user alice may not acquire comfyui. A{ADD_TO_GROUP}, or use sudo."
    )


async def test_group_is_advised_only_for_what_it_permits(polkit_check: PolkitCheck, polkit: ScriptedPolkit) -> None:
    with pytest.raises(AccessDenied) as refusal:
        await polkit_check.check(Action.EVICT, EVICTION, interactive=True)
    assert refusal.value.message == (
        "Permission denied: user alice may not evict comfyui. Use sudo: sudo gpumanctl evict comfyui"
    )


async def test_challenge_requires_interactive_authorization(polkit_check: PolkitCheck, polkit: ScriptedPolkit) -> None:
    polkit.answer = CHALLENGE
    with pytest.raises(InteractiveAuthorizationRequired) as required:
        await polkit_check.check(interactive=False)
    assert required.value.message == (
        "Authentication required: user alice must authenticate to acquire comfyui (org.gpumand1.acquire), but the call "
        "does not allow interactive authorization. Set the message flag ALLOW_INTERACTIVE_AUTHORIZATION, "
        f"a{ADD_TO_GROUP}, or use sudo."
    )
    with pytest.raises(AccessDenied) as no_agent:
        await polkit_check.check(interactive=True)
    assert no_agent.value.message == (
        "Permission denied: user alice may not acquire comfyui: no authentication agent is running that could ask for "
        f"a password. A{ADD_TO_GROUP}, or use sudo."
    )
    polkit.answer = (False, True, {"polkit.dismissed": "true"})
    with pytest.raises(AccessDenied) as dismissed:
        await polkit_check.check(Action.EVICT, EVICTION, interactive=True)
    assert dismissed.value.message == (
        "Permission denied: user alice may not evict comfyui: the password dialog was dismissed. Retry and enter the "
        "password of an administrator, or use sudo: sudo gpumanctl evict comfyui"
    )


@pytest.mark.parametrize(
    ("caller", "action", "details"),
    [
        (Owner(":1.1", 0), Action.CONFIGURE, Details("Reload")),
        (Owner(":1.1", 1001), Action.RELEASE_ANY, LEASE),
        (Owner(":1.1", 1001, unit="comfyui.service"), Action.ACQUIRE, COMFYUI),
    ],
    ids=["root", "owner", "own-unit"],
)
async def test_allowed_callers_do_not_need_polkit(
    polkit_check: PolkitCheck, caller: Owner, action: Action, details: Details
) -> None:
    await polkit_check.authority.check(caller, action, details, interactive=False)


@pytest.mark.parametrize("action", list(Action))
async def test_without_polkit_other_users_are_refused(
    polkit_check: PolkitCheck, action: Action, caplog: pytest.LogCaptureFixture
) -> None:
    details = LEASE if action is Action.RELEASE_ANY else COMFYUI
    refusal = r"polkit cannot be asked \(.*PolicyKit1.*\)\. Start polkit, or use sudo\.$"
    for _ in range(3):
        with pytest.raises(AccessDenied, match=refusal):
            await polkit_check.check(action, details, interactive=True)
    assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == 1


async def test_polkit_started_later_is_asked(polkit_check: PolkitCheck) -> None:
    with pytest.raises(AccessDenied):
        await polkit_check.check()
    async with scripted_polkit(polkit_check.bus.address) as polkit:
        polkit.answer = YES
        await polkit_check.check()


@pytest.mark.parametrize(
    "reply", [Reply("b", (True,)), Reply("(bb)", ([True, True],)), Reply("(ssa{ss})", (["yes", "", {}],)), Reply()]
)
async def test_malformed_reply_refuses_the_call(
    polkit_check: PolkitCheck, polkit: ScriptedPolkit, reply: Reply
) -> None:
    polkit.reply = reply
    with pytest.raises(AccessDenied, match=r"polkit cannot be asked \(polkit's reply is malformed\)"):
        await polkit_check.check()


async def test_check_is_cancelled_when_the_caller_leaves(polkit_check: PolkitCheck, polkit: ScriptedPolkit) -> None:
    polkit.answer = YES
    polkit.answering.clear()
    waiting = asyncio.ensure_future(polkit_check.check(interactive=True))
    await until(lambda: len(polkit.checks) == 1, "polkit is asked")
    await polkit_check.caller.close()
    with pytest.raises(AccessDenied, match="the caller has left the bus"):
        await waiting
    await until(lambda: polkit.cancelled and polkit.cancelled == [polkit.checks[0][4]], "the check is cancelled")
    polkit.answering.set()


async def test_check_is_cancelled_when_its_call_is_cancelled(polkit_check: PolkitCheck, polkit: ScriptedPolkit) -> None:
    polkit.answering.clear()
    waiting = asyncio.ensure_future(polkit_check.check())
    await until(lambda: len(polkit.checks) == 1, "polkit is asked")
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await until(lambda: polkit.cancelled and polkit.cancelled == [polkit.checks[0][4]], "the check is cancelled")
    polkit.answering.set()


async def test_hanging_check_times_out_and_is_cancelled(polkit_check: PolkitCheck, polkit: ScriptedPolkit) -> None:
    polkit.answering.clear()
    connection = await BusConnection.connect(polkit_check.bus.address)
    polkit_check.authority = PolkitAuthority(connection, ScriptedUserNames(), timeout_sec=0.05)
    with pytest.raises(AccessDenied, match=r"did not answer CheckAuthorization within 0\.05 s"):
        await polkit_check.check()
    await until(lambda: polkit.cancelled and polkit.cancelled == [polkit.checks[0][4]], "the check is cancelled")
    polkit.answering.set()
    await connection.close()


async def test_departure_of_another_client_does_not_end_the_check(
    polkit_check: PolkitCheck, polkit: ScriptedPolkit
) -> None:
    polkit.answer = YES
    polkit.answering.clear()
    waiting = asyncio.ensure_future(polkit_check.check())
    await until(lambda: len(polkit.checks) == 1, "polkit is asked")
    other = await BusConnection.connect(polkit_check.bus.address)
    await other.close()
    polkit.answering.set()
    await waiting
    assert polkit.cancelled == []


async def test_check_is_repeated_when_polkit_restarts(polkit_check: PolkitCheck) -> None:
    async with (
        scripted_polkit(polkit_check.bus.address) as dying,
        scripted_polkit(polkit_check.bus.address) as next_one,
    ):
        dying.answering.clear()
        next_one.answer = YES
        waiting = asyncio.ensure_future(polkit_check.check())
        await _die_when_asked(dying)
        await waiting
        assert len(next_one.checks) == 1


async def test_polkit_that_crashes_twice_refuses_the_call(polkit_check: PolkitCheck) -> None:
    async with scripted_polkit(polkit_check.bus.address) as first, scripted_polkit(polkit_check.bus.address) as second:
        for one in (first, second):
            one.answering.clear()
            one.answer = YES
        waiting = asyncio.ensure_future(polkit_check.check())
        for one in (first, second):
            await _die_when_asked(one)
        with pytest.raises(AccessDenied, match="polkit cannot be asked"):
            await waiting


async def _die_when_asked(polkit: ScriptedPolkit) -> None:
    """Leave the bus without a reply, by closing the socket of the connection."""
    await until(lambda: len(polkit.checks) == 1, "polkit is asked")
    polkit.connection._bus.disconnect()
    await polkit.connection.wait_lost()


def limit_checks(polkit_check: PolkitCheck, monkeypatch: pytest.MonkeyPatch, checks: int, waiting: int) -> None:
    """Set the limits of one user: concurrent checks, and checks that run or wait."""
    monkeypatch.setattr(module, "MAX_CHECKS_PER_UID", checks)
    monkeypatch.setattr(module, "MAX_WAITING_PER_UID", waiting)
    polkit_check.authority = PolkitAuthority(polkit_check.connection, ScriptedUserNames())


async def test_many_calls_of_one_user_do_not_delay_other_users(
    polkit_check: PolkitCheck, polkit: ScriptedPolkit, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_checks(polkit_check, monkeypatch, checks=2, waiting=3)
    polkit.answer = YES
    polkit.answering.clear()
    waiting = [asyncio.ensure_future(polkit_check.check()) for _ in range(3)]
    await until(lambda: len(polkit.checks) == 2, "polkit is asked twice")
    with pytest.raises(LimitsExceeded, match="uid 1000 already has 3 waiting calls"):
        await polkit_check.check()
    other = asyncio.ensure_future(
        polkit_check.authority.check(Owner(polkit_check.caller.unique_name, 1001), Action.ACQUIRE, COMFYUI, False)
    )
    await until(lambda: len(polkit.checks) == 3, "polkit is asked about the other")
    polkit.answering.set()
    await asyncio.gather(*waiting, other)
    assert len(polkit.checks) == 4
    await polkit_check.check()


async def test_call_without_a_free_slot_times_out(
    polkit_check: PolkitCheck, polkit: ScriptedPolkit, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_checks(polkit_check, monkeypatch, checks=1, waiting=3)
    polkit.answer = YES
    polkit.answering.clear()
    first = asyncio.ensure_future(polkit_check.check())
    await until(lambda: len(polkit.checks) == 1, "polkit is asked")
    polkit_check.authority._timeout_sec = 0.05
    with pytest.raises(LimitsExceeded, match=r"did not check this call within 0\.05 s: too many calls are waiting"):
        await polkit_check.check()
    polkit.answering.set()
    await first
    assert len(polkit.checks) == 1


async def test_hundreds_of_calls_are_all_answered(polkit_check: PolkitCheck, polkit: ScriptedPolkit) -> None:
    polkit.answer = YES
    callers = [Owner(polkit_check.caller.unique_name, uid) for uid in range(1000, 1004) for _ in range(100)]
    checks = (polkit_check.authority.check(one, Action.ACQUIRE, COMFYUI, False) for one in callers)
    await asyncio.gather(*checks)
    assert len(polkit.checks) == 400
