from __future__ import annotations

import pytest

from gpumand.bus.authorization import Action, Details, UidAuthority, advice_for, describe_denial, join_advice
from gpumand.domain.errors import AccessDenied
from gpumand.domain.lease import Owner
from tests.scripted_user_names import ScriptedUserNames

ROOT = Owner(":1.1", 0)
DAEMON = Owner(":1.2", 990)
USER = Owner(":1.3", 1000, unit="session-1.scope")
COMFYUI = Owner(":1.4", 1001, unit="comfyui.service")
OF_COMFYUI = Details("Acquire", consumer="comfyui", consumer_unit="comfyui.service")
USERS = ScriptedUserNames()

authority = UidAuthority(own_uid=990, users=USERS)


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
    assert "user alice may not" in await denied(USER, action, OF_COMFYUI)


async def test_consumers_own_unit_may_only_acquire_it() -> None:
    await authority.check(COMFYUI, Action.ACQUIRE, OF_COMFYUI, interactive=False)
    for action in (Action.EVICT, Action.CONFIGURE, Action.RELEASE_ANY):
        await denied(COMFYUI, action, OF_COMFYUI)
    await denied(COMFYUI, Action.ACQUIRE, Details("Acquire", consumer="other", consumer_unit="other.service"))


async def test_consumer_without_unit_is_refused_to_caller_without_unit() -> None:
    await denied(Owner(":1.9", 1000, unit=""), Action.ACQUIRE, Details("Acquire", consumer="ollama"))


async def test_refusal_of_a_reservation_says_what_was_requested() -> None:
    assert "user alice may not reserve VRAM" in await denied(USER, Action.ACQUIRE, Details("Acquire"))
    assert "user alice may not reload the configuration" in await denied(USER, Action.CONFIGURE, Details("Reload"))


async def test_every_client_of_the_owners_uid_may_release() -> None:
    lease = Details("Release", consumer="comfyui", lease="abc", owner_uid=1000)
    await authority.check(USER, Action.RELEASE_ANY, lease, interactive=False)
    await authority.check(Owner(":1.99", 1000), Action.RELEASE_ANY, lease, interactive=False)
    message = await denied(COMFYUI, Action.RELEASE_ANY, lease)
    assert message.startswith("Permission denied: user bob may not release lease abc of user alice. ")


async def test_without_polkit_the_refusal_names_the_users_that_are_allowed() -> None:
    session = UidAuthority(own_uid=1000, users=USERS)
    with pytest.raises(AccessDenied) as denial:
        await session.check(COMFYUI, Action.CONFIGURE, Details("Reload"), interactive=False)
    expected = "user bob may not reload the configuration. Run the command as user alice or as root."
    assert denial.value.message == f"Permission denied: {expected}"
    await session.check(USER, Action.CONFIGURE, Details("Reload"), interactive=False)


async def test_daemon_of_root_names_only_root() -> None:
    with pytest.raises(AccessDenied) as denial:
        await UidAuthority(0, USERS).check(USER, Action.ACQUIRE, OF_COMFYUI, interactive=False)
    assert denial.value.message == "Permission denied: user alice may not acquire comfyui. Run the command as root."


@pytest.mark.parametrize(
    ("caller", "action", "details", "message"),
    [
        (
            USER,
            Action.ACQUIRE,
            OF_COMFYUI,
            "user alice may not acquire comfyui. Add alice to the gpumand group (sudo gpasswd --add alice gpumand, "
            "then log in again), or use sudo.",
        ),
        (
            Owner(":1.9", 4242),
            Action.ACQUIRE,
            Details("Load", "comfyui"),
            "uid 4242 may not load comfyui. Add this user to the gpumand group (sudo gpasswd --add USER gpumand, "
            "then log in again), or use sudo.",
        ),
        (
            Owner(":1.9", 1000, unit="render.service"),
            Action.ACQUIRE,
            OF_COMFYUI,
            "user alice may not acquire comfyui. Add alice to the gpumand group (sudo gpasswd --add alice gpumand, "
            "then restart render.service), or use sudo.",
        ),
        (
            Owner(":1.9", 1000, unit="user@1000.service"),
            Action.ACQUIRE,
            OF_COMFYUI,
            "user alice may not acquire comfyui. Add alice to the gpumand group (sudo gpasswd --add alice gpumand, "
            "then log in again), or use sudo.",
        ),
        (
            USER,
            Action.ACQUIRE,
            Details("Acquire", "licensed", fleet="unique"),
            "user alice may not acquire licensed. Use the fleet: gpumanctl --fleet acquire licensed, or "
            "use sudo: sudo gpumanctl acquire licensed",
        ),
        (
            USER,
            Action.EVICT,
            Details("Evict", "comfyui"),
            "user alice may not evict comfyui. Use sudo: sudo gpumanctl evict comfyui",
        ),
        (
            USER,
            Action.CONFIGURE,
            Details("Unpin", "my voice"),
            "user alice may not unpin my voice. Use sudo: sudo gpumanctl unpin 'my voice'",
        ),
        (
            USER,
            Action.CONFIGURE,
            Details("Reload"),
            "user alice may not reload the configuration. Use sudo: sudo gpumanctl reload",
        ),
        (
            USER,
            Action.RELEASE_ANY,
            Details("Renew", "comfyui", lease="a0001", owner_uid=4242),
            "user alice may not renew lease a0001 of uid 4242. Use sudo: sudo gpumanctl renew a0001",
        ),
        (
            USER,
            Action.RELEASE_ANY,
            Details("Cancel", request="b0002", owner_uid=1001),
            "user alice may not cancel request b0002 of user bob. Use sudo: sudo gpumanctl cancel b0002",
        ),
    ],
)
async def test_refusal_names_the_user_and_the_command_that_gets_permission(
    caller: Owner, action: Action, details: Details, message: str
) -> None:
    advice = join_advice(await advice_for(USERS, caller, action, details))
    assert f"{await describe_denial(USERS, caller, details)}. {advice}" == f"Permission denied: {message}"


async def test_user_name_is_quoted_in_the_command() -> None:
    users = ScriptedUserNames({1000: "DOM\\al ice;"})
    (first, _) = await advice_for(users, USER, Action.ACQUIRE, OF_COMFYUI)
    assert "(sudo gpasswd --add 'DOM\\al ice;' gpumand, then" in first


def test_alternatives_are_joined_to_one_sentence() -> None:
    assert join_advice(["retry", "add bob", "use sudo"]) == "Retry, add bob, or use sudo."
    assert join_advice(["retry", "use sudo: sudo x"]) == "Retry, or use sudo: sudo x"


def test_polkit_details_leave_out_empty_values() -> None:
    assert OF_COMFYUI.polkit_details() == {"consumer": "comfyui", "unit": "comfyui.service"}
    assert Details("Release", lease="a", owner_uid=3).polkit_details() == {"lease": "a"}
    assert Details("Acquire", "a", on_behalf="alice@gpu2").polkit_details() == {
        "consumer": "a",
        "on_behalf": "alice@gpu2",
    }
    assert Details("Evict", "a", force=True, fleet="unique").polkit_details() == {
        "consumer": "a",
        "force": "true",
        "fleet": "unique",
    }
