from __future__ import annotations

from pathlib import Path
from typing import cast
from xml.etree import ElementTree

import pytest

from gpumand.bus.authorization import ACTIONS, Action, UidAuthority
from gpumand.bus.clients import Clients
from gpumand.bus.connection import BusConnection
from gpumand.bus.interfaces import (
    OWN_INTERFACES,
    log_control_interface,
    node_xml,
    own_interfaces,
    parse_interfaces,
    standard_interfaces,
)
from gpumand.bus.manager import ManagerMethods
from gpumand.bus.names import CONSUMER, DEVICE, LEASE, MANAGER
from gpumand.bus.object_tree import ObjectTree
from gpumand.bus.properties import (
    Values,
    consumer_live_values,
    consumer_state,
    device_live_values,
    device_state,
    lease_state,
    manager_state,
)
from gpumand.bus.standard_interfaces import StandardInterfaces
from gpumand.domain.lease import Lease, LeaseLifetime, Owner
from gpumand.domain.status import Summary
from gpumand.ports import UnitManager
from tests.scripted_arbiter import ScriptedArbiter, a_consumer, a_device
from tests.scripted_user_names import ScriptedUserNames

SOURCES = Path(__file__).parents[3] / "dbus"
DOC = "org.gtk.GDBus.DocString"

READS = {"GetStatus", "GetHistory", "Plan", "Ping", "GetMachineId", "Introspect", "Get", "GetAll", "GetManagedObjects"}
"""Methods that only read, listed a second time on purpose."""


def every_method() -> list[tuple[str, str]]:
    interfaces = [*own_interfaces().values(), *standard_interfaces().values()]
    return [(interface.name, method) for interface in interfaces for method in interface.methods]


def test_action_table_lists_exactly_the_methods_of_the_interfaces() -> None:
    assert set(every_method()) == set(ACTIONS)


def test_every_method_has_a_handler() -> None:
    connection = cast(BusConnection, object())  # never used, since no method is called
    clients = Clients(connection, cast(UnitManager, object()), frozenset())
    manager = ManagerMethods(ScriptedArbiter(), clients, UidAuthority(0, ScriptedUserNames()))
    standard = StandardInterfaces(ObjectTree(connection), "")
    assert {*manager.handlers, *standard.handlers} == set(every_method())


def test_only_reading_methods_are_unrestricted() -> None:
    is_open = {member for (_, member), action in ACTIONS.items() if action is None}
    assert is_open - READS == {"Set"}  # the handler itself refuses or authorizes every call
    assert {member for (_, member), action in ACTIONS.items() if action is not None} & READS == set()


def test_evict_reload_and_release_have_separate_actions() -> None:
    assert ACTIONS[MANAGER, "Evict"] is Action.EVICT
    assert ACTIONS[MANAGER, "Reload"] is Action.CONFIGURE
    assert ACTIONS[MANAGER, "Release"] is Action.RELEASE_ANY


def test_manager_has_the_designed_members() -> None:
    manager = own_interfaces()[MANAGER]
    assert {name: (method.in_signature, method.out_signature) for name, method in manager.methods.items()} == {
        "Acquire": ("sa{sv}", "sa{sv}"),
        "Release": ("s", ""),
        "Renew": ("st", "t"),
        "Cancel": ("s", ""),
        "GetStatus": ("", "a{sv}"),
        "GetHistory": ("a{sv}", "aa{sv}"),
        "Plan": ("sa{sv}", "a{sv}"),
        "Load": ("sa{sv}", "a{sv}"),
        "Evict": ("sa{sv}", "a{sv}"),
        "Pin": ("s", ""),
        "Unpin": ("s", ""),
        "Reload": ("", ""),
        "ReleaseGpu": ("a{sv}", "a{sv}"),
        "TakeGpu": ("", "b"),
    }
    assert manager.signals == {
        "EvictionOccurred": "sstssa{sv}",
        "EvictionFailed": "sstssa{sv}",
        "EvictionDeferred": "sstssa{sv}",
        "LeaseGranted": "ss",
        "LeaseEnded": "sss",
        "LeaseDegraded": "sss",
        "LeaseRestored": "ss",
        "LeaseWanted": "sst",
        "LeaseYielded": "ss",
        "LeaseReturned": "ss",
    }
    properties = manager.properties.values()
    assert {entry.name: (entry.signature, entry.emits) for entry in properties} == {
        "Version": ("s", "const"),
        "Degraded": ("s", "true"),
        "QueueLength": ("u", "true"),
        "LeaseCount": ("u", "true"),
        "EvictionCount": ("t", "true"),
    }


LEASE_VALUES = lease_state(Lease("a", "b", "0", Owner(":1.1", 0), LeaseLifetime.TTL, 1))


@pytest.mark.parametrize(
    ("name", "state", "live_values"),
    [
        (MANAGER, manager_state("1", Summary()), {}),
        (DEVICE, device_state(a_device()), device_live_values(a_device())),
        (CONSUMER, consumer_state(a_consumer("a")), consumer_live_values(a_consumer("a"))),
        (LEASE, LEASE_VALUES, {}),
    ],
)
def test_property_values_match_the_xml(name: str, state: Values, live_values: Values) -> None:
    properties = own_interfaces()[name].properties
    assert set(state) | set(live_values) == set(properties)
    assert {name for name, entry in properties.items() if entry.emits == "false"} == set(live_values)


@pytest.mark.parametrize("name", OWN_INTERFACES)
def test_every_member_and_argument_is_documented(name: str) -> None:
    interface = ElementTree.parse(SOURCES / f"{name}.xml").find("interface")
    assert interface is not None
    members = [interface]
    for kind in ("method", "signal", "property", "arg"):
        members += list(interface.iter(kind))
    undocumented = [member.attrib["name"] for member in members if not _documentation(member)]
    assert undocumented == []
    arguments = [argument.attrib["name"] for argument in interface.iter("arg")]
    assert [argument for argument in arguments if argument != argument.lower() or not argument.isidentifier()] == []


def _documentation(member: ElementTree.Element) -> str:
    return "".join(note.attrib["value"] for note in member.findall("annotation") if note.attrib["name"] == DOC)


@pytest.mark.parametrize("name", OWN_INTERFACES)
def test_package_contains_the_xml_of_the_dbus_folder(name: str) -> None:
    shipped = SOURCES.parent / "gpumand" / "bus" / f"{name}.xml"
    assert shipped.read_bytes() == (SOURCES / f"{name}.xml").read_bytes()


def test_introspection_contains_the_parsed_interfaces() -> None:
    own = own_interfaces()
    document = node_xml((own[MANAGER], own[LEASE]), ("device", "lease"))
    again = parse_interfaces(document)
    assert again[MANAGER].methods == own[MANAGER].methods
    assert again[MANAGER].signals == own[MANAGER].signals
    assert again[LEASE].properties == own[LEASE].properties
    assert [node.attrib["name"] for node in ElementTree.fromstring(document).findall("node")] == ["device", "lease"]
    assert DOC in document


def test_policy_file_allows_only_gpumands_interfaces_without_descriptors() -> None:
    root = ElementTree.parse(SOURCES / "org.gpumand1.conf").getroot()
    owners = {policy.attrib["user"] for policy in root.findall("policy") if policy.find("allow[@own]") is not None}
    assert owners == {"_gpumand", "root"}
    sends = [rule.attrib for rule in root.findall("policy[@context='default']/allow")]
    assert {rule["send_destination"] for rule in sends} == {"org.gpumand1"}
    assert {rule["max_fds"] for rule in sends} == {"0"}
    expected = {*own_interfaces(), *standard_interfaces(), log_control_interface().name}
    assert {rule["send_interface"] for rule in sends} == expected


def test_activation_file_starts_the_systemd_unit() -> None:
    lines = (SOURCES / "org.gpumand1.service").read_text().splitlines()
    assert lines[1:] == [
        "[D-BUS Service]",
        "Name=org.gpumand1",
        "Exec=/bin/false",
        "User=_gpumand",
        "SystemdService=gpumand.service",
    ]
