"""The polkit files match the table of actions."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
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


def test_users_of_services_may_perform_the_actions_of_their_rule_only() -> None:
    text = (SHIPPED / "org.gpumand1-gateway.rules").read_text()
    code = "\n".join(line for line in text.splitlines() if not line.startswith("//"))
    assert re.findall(r'"(org\.gpumand1\.[\w-]+)"', code) == [Action.ACQUIRE.value]
    assert ('subject.user == "_gpumand-gateway"' in code, code.count("Result.YES")) == (True, 1)


def test_rule_of_the_fleet_comes_before_that_of_the_group() -> None:
    # polkit asks the files in the order of their names, and the first answer counts.
    names = sorted(one.name for one in SHIPPED.glob("*.rules"))
    assert names.index("org.gpumand1-fleet.rules") < names.index("org.gpumand1.rules")


RUN = """
const polkit = {Result: {YES: "yes", NO: "no", AUTH_ADMIN: "auth", NOT_HANDLED: ""}, addRule: (one) => rules.push(one)};
const rules = [];
eval(require("fs").readFileSync(process.argv[1], "utf8"));
const answers = JSON.parse(process.argv[2]).map(([user, id, details]) =>
    rules[0]({id: id, lookup: (name) => details[name]}, {user: user, isInGroup: () => false}));
console.log(JSON.stringify(answers));
"""

UNIQUE, FORCED = {"fleet": "unique"}, {"force": "true"}


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed (Debian: nodejs)")
def test_user_of_the_fleet_may_evict_unique_consumers_without_force_and_others_go_through_it() -> None:
    agent, gateway, alice = "_gpumand-fleet", "_gpumand-gateway", "alice"
    acquire, evict = Action.ACQUIRE.value, Action.EVICT.value
    cases = [
        (agent, acquire, {}, "yes"),
        (agent, acquire, UNIQUE, "yes"),
        (agent, evict, UNIQUE, "yes"),
        (agent, evict, UNIQUE | FORCED, ""),
        (agent, evict, {}, ""),
        (agent, evict, FORCED, ""),
        (agent, Action.RELEASE_ANY.value, UNIQUE, ""),
        (agent, Action.CONFIGURE.value, UNIQUE, ""),
        (agent, Action.RELEASE_GPU.value, {}, ""),
        (agent, "org.freedesktop.systemd1.manage-units", {}, ""),
        (gateway, acquire, UNIQUE, ""),
        (gateway, evict, UNIQUE, ""),
        (alice, acquire, UNIQUE, "auth"),
        (alice, acquire, {}, ""),
        (alice, evict, UNIQUE, ""),
    ]
    command = ["node", "-e", RUN, str(SHIPPED / "org.gpumand1-fleet.rules"), json.dumps([one[:3] for one in cases])]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    answers = json.loads(done.stdout)
    assert [(*one[:3], answer) for one, answer in zip(cases, answers, strict=True)] == cases


def test_unit_rule_applies_to_the_daemons_user_and_runs_the_helper() -> None:
    code = (SHIPPED / "org.gpumand1-units.rules").read_text()
    assert 'subject.user != "_gpumand"' in code
    assert '["start", "stop", "restart"]' in code
    assert 'polkit.spawn(["/usr/libexec/gpumand-unit-allowed", verb, unit])' in code
    helper = SHIPPED / "gpumand-unit-allowed"
    assert helper.stat().st_mode & 0o111 == 0o111
    assert helper.read_text().startswith("#!/usr/bin/python3 -I\n")
