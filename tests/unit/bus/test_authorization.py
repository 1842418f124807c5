from __future__ import annotations

import pytest

from gpumand.bus.authorization import Action, Details, UidAuthority
from gpumand.domain.errors import AccessDenied
from gpumand.domain.lease import Owner

ROOT = Owner(":1.1", 0)
DAEMON = Owner(":1.2", 990)
USER = Owner(":1.3", 1000, unit="session-1.scope")
COMFYUI = Owner(":1.4", 1001, unit="comfyui.service")
OF_COMFYUI = Details(consumer="comfyui", consumer_unit="comfyui.service")

authority = UidAuthority(own_uid=990, system_bus=True)


async def denied(caller: Owner, action: Action, details: Details) -> str:
    with pytest.raises(AccessDenied) as refusal:
        await authority.check(caller, action, details, interactive=True)
    return refusal.value.message


@pytest.mark.parametrize("action", list(Action))
@pytest.mark.parametrize("caller", [ROOT, DAEMON])
async def test_root_and_the_daemon_itself_may_do_everything(caller: Owner, action: Action) -> None:
    await authority.check(caller, action, OF_COMFYUI, interactive=False)


@pytest.mark.parametrize("action", list(Action))
async def test_others_may_not(action: Action) -> None:
    assert "uid 1000 may not" in await denied(USER, action, OF_COMFYUI)


async def test_unit_of_the_consumer_may_acquire_it_and_nothing_else() -> None:
    await authority.check(COMFYUI, Action.ACQUIRE, OF_COMFYUI, interactive=False)
    for action in (Action.EVICT, Action.CONFIGURE, Action.RELEASE_ANY):
        await denied(COMFYUI, action, OF_COMFYUI)
    await denied(COMFYUI, Action.ACQUIRE, Details(consumer="other", consumer_unit="other.service"))


async def test_consumer_without_a_unit_is_not_open_to_callers_without_one() -> None:
    await denied(Owner(":1.9", 1000, unit=""), Action.ACQUIRE, Details(consumer="ollama", consumer_unit=""))


async def test_owner_may_release_by_uid() -> None:
    lease = Details(consumer="comfyui", lease="abc", lease_owner_uid=1000)
    await authority.check(USER, Action.RELEASE_ANY, lease, interactive=False)
    await authority.check(Owner(":1.99", 1000), Action.RELEASE_ANY, lease, interactive=False)
    message = await denied(COMFYUI, Action.RELEASE_ANY, lease)
    assert message == "uid 1001 may not release or renew lease abc; root and its owner (uid 1000) may"


async def test_refusal_says_who_may() -> None:
    message = await denied(USER, Action.ACQUIRE, OF_COMFYUI)
    assert message == "uid 1000 may not acquire comfyui; root and the unit comfyui.service may"
    session = UidAuthority(own_uid=1000, system_bus=False)
    with pytest.raises(AccessDenied, match="uid 1001 may not configure gpumand; uid 1000 may"):
        await session.check(COMFYUI, Action.CONFIGURE, Details(), interactive=False)
    await session.check(USER, Action.CONFIGURE, Details(), interactive=False)


def test_details_for_people_leave_out_what_there_is_not() -> None:
    assert OF_COMFYUI.pairs() == {"consumer": "comfyui", "unit": "comfyui.service"}
    assert Details(lease="a", lease_owner_uid=3).pairs() == {"lease": "a"}
