"""What polkit is asked, and what comes of its answers, its silence and its absence."""

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
from tests.integration.bus.private_bus import PolicyBus, policy_bus, until

USER = 1000
COMFYUI = Details(consumer="comfyui", consumer_unit="comfyui.service")
LEASE = Details(consumer="comfyui", lease="a0001", lease_owner_uid=1001)
Answered = tuple[bool, bool, dict[str, str]]
YES: Answered = (True, False, {})
NO: Answered = (False, False, {})
CHALLENGE: Answered = (False, True, {})


@dataclass
class Asking:
    """An authority, and somebody without rights of its own who wants something."""

    bus: PolicyBus
    connection: BusConnection
    authority: PolkitAuthority
    caller: BusConnection

    async def ask(self, action: Action = Action.ACQUIRE, details: Details = COMFYUI, interactive: bool = False) -> None:
        await self.authority.check(Owner(self.caller.unique_name, USER), action, details, interactive)


@pytest.fixture
async def asking() -> AsyncIterator[Asking]:
    async with policy_bus(POLICY) as bus:
        connection, caller = await BusConnection.connect(bus.address), await BusConnection.connect(bus.address)
        yield Asking(bus, connection, PolkitAuthority(connection), caller)
        await caller.close()
        await connection.close()


@pytest.fixture
async def polkit(asking: Asking) -> AsyncIterator[ScriptedPolkit]:
    async with scripted_polkit(asking.bus.address) as running:
        yield running


async def test_polkit_is_asked_about_the_callers_name_and_gets_the_details(
    asking: Asking, polkit: ScriptedPolkit
) -> None:
    polkit.answer = YES
    await asking.ask()
    await asking.ask(Action.RELEASE_ANY, LEASE, interactive=True)
    (subject, action, details, flags, _), (_, other_action, other_details, other_flags, _) = polkit.questions
    assert list(subject) == ["system-bus-name", {"name": asking.caller.unique_name}]
    assert (action, details, flags) == ("org.gpumand1.acquire", {"consumer": "comfyui", "unit": "comfyui.service"}, 0)
    assert (other_action, other_flags) == ("org.gpumand1.release-any", 1)
    assert other_details == {"consumer": "comfyui", "lease": "a0001"}


async def test_nothing_that_polkit_says_is_kept(asking: Asking, polkit: ScriptedPolkit) -> None:
    polkit.answer = YES
    await asking.ask()
    polkit.answer = NO
    with pytest.raises(AccessDenied):
        await asking.ask()
    assert len({question[4] for question in polkit.questions}) == 2


async def test_refusal_says_who_may(asking: Asking, polkit: ScriptedPolkit) -> None:
    with pytest.raises(AccessDenied) as refusal:
        await asking.ask()
    assert refusal.value.message == (
        "uid 1000 may not acquire comfyui; root and the unit comfyui.service may, "
        "and whom polkit allows org.gpumand1.acquire"
    )


async def test_challenge_needs_a_call_that_allows_a_person_to_be_asked(asking: Asking, polkit: ScriptedPolkit) -> None:
    polkit.answer = CHALLENGE
    with pytest.raises(InteractiveAuthorizationRequired, match=r"authenticate to acquire comfyui \(org\.gpumand1"):
        await asking.ask(interactive=False)
    with pytest.raises(AccessDenied, match="no authentication agent runs"):
        await asking.ask(interactive=True)
    polkit.answer = (False, True, {"polkit.dismissed": "true"})
    with pytest.raises(AccessDenied, match="the question was dismissed"):
        await asking.ask(interactive=True)


@pytest.mark.parametrize(
    ("caller", "action", "details"),
    [
        (Owner(":1.1", 0), Action.CONFIGURE, Details()),
        (Owner(":1.1", 1001), Action.RELEASE_ANY, LEASE),
        (Owner(":1.1", 1001, unit="comfyui.service"), Action.ACQUIRE, COMFYUI),
    ],
    ids=["root", "owner", "own-unit"],
)
async def test_who_needs_no_permission_is_let_in_without_polkit(
    asking: Asking, caller: Owner, action: Action, details: Details
) -> None:
    await asking.authority.check(caller, action, details, interactive=False)


@pytest.mark.parametrize("action", list(Action))
async def test_without_polkit_others_may_nothing(
    asking: Asking, action: Action, caplog: pytest.LogCaptureFixture
) -> None:
    details = LEASE if action is Action.RELEASE_ANY else COMFYUI
    for _ in range(3):
        with pytest.raises(AccessDenied, match=r"root.* may.*; polkit cannot be asked: .*PolicyKit1"):
            await asking.ask(action, details, interactive=True)
    assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == 1


async def test_polkit_that_comes_later_is_asked(asking: Asking) -> None:
    with pytest.raises(AccessDenied):
        await asking.ask()
    async with scripted_polkit(asking.bus.address) as polkit:
        polkit.answer = YES
        await asking.ask()


@pytest.mark.parametrize(
    "reply", [Reply("b", (True,)), Reply("(bb)", ([True, True],)), Reply("(ssa{ss})", (["yes", "", {}],)), Reply()]
)
async def test_answer_that_makes_no_sense_allows_nothing(asking: Asking, polkit: ScriptedPolkit, reply: Reply) -> None:
    polkit.reply = reply
    with pytest.raises(AccessDenied, match="polkit cannot be asked: polkit's answer is none"):
        await asking.ask()


async def test_question_is_taken_back_when_the_caller_leaves(asking: Asking, polkit: ScriptedPolkit) -> None:
    polkit.answer = YES
    polkit.answering.clear()
    waiting = asyncio.ensure_future(asking.ask(interactive=True))
    await until(lambda: len(polkit.questions) == 1, "polkit is asked")
    await asking.caller.close()
    with pytest.raises(AccessDenied, match="the caller has left the bus"):
        await waiting
    await until(lambda: polkit.cancelled == [polkit.questions[0][4]], "the question is taken back")
    polkit.answering.set()


async def test_question_is_taken_back_when_its_call_is_cancelled(asking: Asking, polkit: ScriptedPolkit) -> None:
    polkit.answering.clear()
    waiting = asyncio.ensure_future(asking.ask())
    await until(lambda: len(polkit.questions) == 1, "polkit is asked")
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await until(lambda: polkit.cancelled == [polkit.questions[0][4]], "the question is taken back")
    polkit.answering.set()


async def test_question_that_hangs_is_given_up_and_taken_back(asking: Asking, polkit: ScriptedPolkit) -> None:
    polkit.answering.clear()
    connection = await BusConnection.connect(asking.bus.address)
    asking.authority = PolkitAuthority(connection, timeout_sec=0.05)
    with pytest.raises(AccessDenied, match=r"did not answer CheckAuthorization within 0\.05 s"):
        await asking.ask()
    await until(lambda: polkit.cancelled == [polkit.questions[0][4]], "the question is taken back")
    polkit.answering.set()
    await connection.close()


async def test_somebody_elses_leaving_ends_no_question(asking: Asking, polkit: ScriptedPolkit) -> None:
    polkit.answer = YES
    polkit.answering.clear()
    waiting = asyncio.ensure_future(asking.ask())
    await until(lambda: len(polkit.questions) == 1, "polkit is asked")
    other = await BusConnection.connect(asking.bus.address)
    await other.close()
    polkit.answering.set()
    await waiting
    assert polkit.cancelled == []


async def test_polkit_that_restarts_while_it_is_asked_is_asked_again(asking: Asking) -> None:
    async with scripted_polkit(asking.bus.address) as dying, scripted_polkit(asking.bus.address) as next_one:
        dying.answering.clear()
        next_one.answer = YES
        waiting = asyncio.ensure_future(asking.ask())
        await _die_when_asked(dying)
        await waiting
        assert len(next_one.questions) == 1


async def test_polkit_that_dies_at_every_question_allows_nothing(asking: Asking) -> None:
    async with scripted_polkit(asking.bus.address) as first, scripted_polkit(asking.bus.address) as second:
        for one in (first, second):
            one.answering.clear()
            one.answer = YES
        waiting = asyncio.ensure_future(asking.ask())
        for one in (first, second):
            await _die_when_asked(one)
        with pytest.raises(AccessDenied, match="polkit cannot be asked"):
            await waiting


async def _die_when_asked(polkit: ScriptedPolkit) -> None:
    """Leave the bus without an answer: close the socket under the connection."""
    await until(lambda: len(polkit.questions) == 1, "polkit is asked")
    polkit.connection._bus.disconnect()
    await polkit.connection.wait_lost()


def with_room_for(asking: Asking, monkeypatch: pytest.MonkeyPatch, questions: int, waiting: int) -> None:
    """Give it an authority that lets one user have so many questions asked, and so many wait in all."""
    monkeypatch.setattr(module, "MAX_QUESTIONS_A_UID", questions)
    monkeypatch.setattr(module, "MAX_WAITING_A_UID", waiting)
    asking.authority = PolkitAuthority(asking.connection)


async def test_one_user_with_many_calls_keeps_no_other_waiting(
    asking: Asking, polkit: ScriptedPolkit, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_room_for(asking, monkeypatch, questions=2, waiting=3)
    polkit.answer = YES
    polkit.answering.clear()
    waiting = [asyncio.ensure_future(asking.ask()) for _ in range(3)]
    await until(lambda: len(polkit.questions) == 2, "polkit is asked twice")
    with pytest.raises(LimitsExceeded, match="3 calls of uid 1000 are waiting already"):
        await asking.ask()
    other = asyncio.ensure_future(
        asking.authority.check(Owner(asking.caller.unique_name, 1001), Action.ACQUIRE, COMFYUI, False)
    )
    await until(lambda: len(polkit.questions) == 3, "polkit is asked about the other")
    polkit.answering.set()
    await asyncio.gather(*waiting, other)
    assert len(polkit.questions) == 4
    await asking.ask()


async def test_call_that_never_gets_its_turn_is_told_so(
    asking: Asking, polkit: ScriptedPolkit, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_room_for(asking, monkeypatch, questions=1, waiting=3)
    polkit.answer = YES
    polkit.answering.clear()
    first = asyncio.ensure_future(asking.ask())
    await until(lambda: len(polkit.questions) == 1, "polkit is asked")
    asking.authority._timeout_sec = 0.05
    with pytest.raises(LimitsExceeded, match=r"too many calls to decide; not this one in 0\.05 s"):
        await asking.ask()
    polkit.answering.set()
    await first
    assert len(polkit.questions) == 1


async def test_hundreds_of_calls_are_all_answered(asking: Asking, polkit: ScriptedPolkit) -> None:
    polkit.answer = YES
    callers = [Owner(asking.caller.unique_name, uid) for uid in range(1000, 1004) for _ in range(100)]
    checks = (asking.authority.check(one, Action.ACQUIRE, COMFYUI, False) for one in callers)
    await asyncio.gather(*checks)
    assert len(polkit.questions) == 400
