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
    with pytest.raises(AccessDenied) as denial:
        await authority.check(caller, action, details, interactive=True)
    return denial.value.message


@pytest.mark.parametrize("action", list(Action))
@pytest.mark.parametrize("caller", [ROOT, DAEMON])
async def test_root_and_the_daemons_user_are_allowed_every_action(caller: Owner, action: Action) -> None:
    await authority.check(caller, action, OF_COMFYUI, interactive=False)


@pytest.mark.parametrize("action", list(Action))
async def test_other_users_are_refused(action: Action) -> None:
    assert "uid 1000 may not" in await denied(USER, action, OF_COMFYUI)


async def test_consumers_own_unit_may_only_acquire_it() -> None:
    await authority.check(COMFYUI, Action.ACQUIRE, OF_COMFYUI, interactive=False)
    for action in (Action.EVICT, Action.CONFIGURE, Action.RELEASE_ANY):
        await denied(COMFYUI, action, OF_COMFYUI)
    await denied(COMFYUI, Action.ACQUIRE, Details(consumer="other", consumer_unit="other.service"))


async def test_consumer_without_unit_is_refused_to_caller_without_unit() -> None:
    await denied(Owner(":1.9", 1000, unit=""), Action.ACQUIRE, Details(consumer="ollama", consumer_unit=""))


async def test_every_client_of_the_owners_uid_may_release() -> None:
    lease = Details(consumer="comfyui", lease="abc", lease_owner_uid=1000)
    await authority.check(USER, Action.RELEASE_ANY, lease, interactive=False)
    await authority.check(Owner(":1.99", 1000), Action.RELEASE_ANY, lease, interactive=False)
    message = await denied(COMFYUI, Action.RELEASE_ANY, lease)
    assert message == (
        "Permission denied: uid 1001 may not release or renew lease abc (allowed: root, its owner (uid 1000))"
    )


async def test_refusal_names_the_allowed_callers() -> None:
    message = await denied(USER, Action.ACQUIRE, OF_COMFYUI)
    assert message == ("Permission denied: uid 1000 may not acquire comfyui (allowed: root, the unit comfyui.service)")
    session = UidAuthority(own_uid=1000, system_bus=False)
    with pytest.raises(AccessDenied, match=r"uid 1001 may not configure gpumand \(allowed: uid 1000\)$"):
        await session.check(COMFYUI, Action.CONFIGURE, Details(), interactive=False)
    await session.check(USER, Action.CONFIGURE, Details(), interactive=False)


def test_polkit_details_leave_out_empty_values() -> None:
    assert OF_COMFYUI.polkit_details() == {"consumer": "comfyui", "unit": "comfyui.service"}
    assert Details(lease="a", lease_owner_uid=3).polkit_details() == {"lease": "a"}
