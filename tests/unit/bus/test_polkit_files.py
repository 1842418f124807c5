"""The polkit files match the table of actions."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from gpumand.bus.authorization import ACTIONS, Action, Details

SHIPPED = Path(__file__).parents[3] / "dbus"
EVERY_DETAIL = Details("Release", consumer="comfyui", consumer_unit="comfyui.service", lease="a0001", owner_uid=1000)


def policy() -> dict[str, ElementTree.Element]:
    root = ElementTree.parse(SHIPPED / "org.gpumand1.policy").getroot()
    return {action.attrib["id"]: action for action in root.findall("action")}


def test_policy_defines_exactly_the_actions_of_the_table() -> None:
    asked_for = {action.value for action in ACTIONS.values() if action is not None}
    assert set(policy()) == asked_for == {action.value for action in Action}


@pytest.mark.parametrize("action", list(Action))
def test_every_action_requires_an_administrators_password(action: Action) -> None:
    defaults = {rule.tag: rule.text for rule in policy()[action].findall("defaults/*")}
    assert defaults == {"allow_any": "auth_admin", "allow_inactive": "auth_admin", "allow_active": "auth_admin_keep"}


@pytest.mark.parametrize("action", list(Action))
def test_every_action_is_owned_by_the_daemons_user(action: Action) -> None:
    notes = {note.attrib["key"]: note.text for note in policy()[action].findall("annotate")}
    assert notes == {"org.freedesktop.policykit.owner": "unix-user:_gpumand"}


@pytest.mark.parametrize("action", list(Action))
def test_messages_use_only_details_passed_to_polkit(action: Action) -> None:
    entry = policy()[action]
    message, description = entry.findtext("message", ""), entry.findtext("description", "")
    assert message.startswith("Authentication is required to ")
    assert description
    named = set(re.findall(r"\$\((\w+)\)", message))
    # Reload and the release of the driver are actions without a consumer.
    given = set() if action in (Action.CONFIGURE, Action.RELEASE_GPU) else set(EVERY_DETAIL.polkit_details())
    assert named <= given
    assert "$" not in description


def test_group_may_only_acquire() -> None:
    text = (SHIPPED / "org.gpumand1.rules").read_text()
    code = "\n".join(line for line in text.splitlines() if not line.startswith("//"))
    assert re.findall(r'"(org\.gpumand1\.[\w-]+)"', code) == [Action.ACQUIRE.value]
    assert 'subject.isInGroup("gpumand")' in code
    assert code.count("Result.YES") == 1


@pytest.mark.parametrize(
    ("name", "user", "actions"),
    [
        ("fleet", "_gpumand-fleet", [Action.ACQUIRE, Action.EVICT]),
        ("gateway", "_gpumand-gateway", [Action.ACQUIRE]),
    ],
)
def test_users_of_services_may_perform_the_actions_of_their_rule_only(
    name: str, user: str, actions: list[Action]
) -> None:
    text = (SHIPPED / f"org.gpumand1-{name}.rules").read_text()
    code = "\n".join(line for line in text.splitlines() if not line.startswith("//"))
    assert re.findall(r'"(org\.gpumand1\.[\w-]+)"', code) == [action.value for action in actions]
    assert (f'subject.user == "{user}"' in code, code.count("Result.YES")) == (True, 1)


def test_unit_rule_applies_to_the_daemons_user_and_runs_the_helper() -> None:
    code = (SHIPPED / "org.gpumand1-units.rules").read_text()
    assert 'subject.user != "_gpumand"' in code
    assert '["start", "stop", "restart"]' in code
    assert 'polkit.spawn(["/usr/libexec/gpumand-unit-allowed", verb, unit])' in code
    helper = SHIPPED / "gpumand-unit-allowed"
    assert helper.stat().st_mode & 0o111 == 0o111
    assert helper.read_text().startswith("#!/usr/bin/python3 -I\n")
