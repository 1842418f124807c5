"""Published objects: introspection, properties, the object manager, and the order of change signals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from gpumand.bus.connection import BusError
from gpumand.bus.interfaces import OWN_INTERFACES, parse_interfaces
from gpumand.bus.names import BUS_NAME, CONSUMER, INTROSPECTABLE, LEASE, MANAGER, OBJECT_MANAGER, PROPERTIES, ROOT_PATH
from gpumand.domain.errors import EvictionFailed
from gpumand.domain.events import ConsumersChanged, DevicesChanged, SummaryChanged
from gpumand.domain.lease import LeaseEnd
from tests.integration.bus.conftest import Client, ServedManager
from tests.scripted_arbiter import a_consumer, a_device
from tests.waiting import until

SOURCES = Path(__file__).parents[3] / "dbus"
PATHS = {
    "org.gpumand1.Manager": "/org/gpumand1",
    "org.gpumand1.Device": "/org/gpumand1/device/0",
    "org.gpumand1.Consumer": "/org/gpumand1/consumer/ollama",
    "org.gpumand1.Lease": "/org/gpumand1/lease/a0001",
}


async def introspect(client: Client, path: str) -> str:
    (xml,) = await client.connection.call(BUS_NAME, path, INTROSPECTABLE, "Introspect")
    assert isinstance(xml, str)
    return xml


async def get_all(client: Client, path: str, interface: str) -> dict[str, object]:
    (values,) = await client.connection.call(BUS_NAME, path, PROPERTIES, "GetAll", "s", (interface,))
    assert isinstance(values, dict)
    return values


@pytest.mark.parametrize("name", OWN_INTERFACES)
async def test_introspection_equals_the_xml_file(client: Client, name: str) -> None:
    await client.call("Acquire", "sa{sv}", "ollama", {})
    source = parse_interfaces((SOURCES / f"{name}.xml").read_text())[name]
    live = parse_interfaces(await introspect(client, PATHS[name]))[name]
    assert live == source  # members, signatures, annotations and their documentation


@pytest.mark.parametrize("name", OWN_INTERFACES)
async def test_property_values_have_the_introspected_types(client: Client, served: ServedManager, name: str) -> None:
    await client.call("Acquire", "sa{sv}", "ollama", {})
    interface = parse_interfaces(await introspect(client, PATHS[name]))[name]
    answer = await served.bus.busctl("call", BUS_NAME, PATHS[name], PROPERTIES, "GetAll", "s", name)
    (values,) = json.loads(answer.out)["data"]
    assert {key: value["type"] for key, value in values.items()} == {
        entry.name: entry.signature for entry in interface.properties.values()
    }


async def test_busctl_tree_shows_all_objects(client: Client, served: ServedManager) -> None:
    await client.call("Acquire", "sa{sv}", "ollama", {})
    tree = await served.bus.busctl("tree", "--list", BUS_NAME)
    assert tree.out.split() == [
        "/",
        "/org",
        "/org/gpumand1",
        "/org/gpumand1/consumer",
        "/org/gpumand1/consumer/_c3_bcber_2fgeek",
        "/org/gpumand1/consumer/comfyui",
        "/org/gpumand1/consumer/ollama",
        "/org/gpumand1/device",
        "/org/gpumand1/device/0",
        "/org/gpumand1/lease",
        "/org/gpumand1/lease/a0001",
    ]


async def test_busctl_introspect_reads_every_property(served: ServedManager) -> None:
    shown = await served.bus.busctl("introspect", BUS_NAME, "/org/gpumand1/device/0")
    assert "UsedMib" in shown.out
    assert "8000" in shown.out


async def test_gdbus_introspects_the_whole_tree(served: ServedManager) -> None:
    shown = await served.bus.gdbus("introspect", "--session", "--recurse", "--dest", BUS_NAME, "--object-path", "/")
    assert shown.returncode == 0
    assert "interface org.gpumand1.Manager" in shown.out
    assert "node /org/gpumand1/consumer/_c3_bcber_2fgeek" in shown.out
    assert "Lends VRAM" in shown.out  # the documentation is included


async def test_every_node_lists_its_interfaces(client: Client) -> None:
    for path in ("/", "/org", "/org/gpumand1/lease"):
        interfaces = parse_interfaces(await introspect(client, path))
        assert set(interfaces) == {"org.freedesktop.DBus.Peer", INTROSPECTABLE}
    assert OBJECT_MANAGER in parse_interfaces(await introspect(client, ROOT_PATH))
    device = parse_interfaces(await introspect(client, "/org/gpumand1/device/0"))
    assert set(device) == {"org.gpumand1.Device", "org.freedesktop.DBus.Peer", INTROSPECTABLE, PROPERTIES}


async def test_child_nodes_follow_the_objects(client: Client) -> None:
    def children(xml: str) -> list[str]:
        return [node.attrib["name"] for node in ElementTree.fromstring(xml).findall("node")]

    assert children(await introspect(client, "/org/gpumand1/lease")) == []
    lease, _ = await client.call("Acquire", "sa{sv}", "ollama", {})
    assert children(await introspect(client, "/org/gpumand1/lease")) == [lease]
    await client.call("Release", "s", lease)
    assert children(await introspect(client, "/org/gpumand1/lease")) == []
    with pytest.raises(BusError) as refusal:
        await introspect(client, f"/org/gpumand1/lease/{lease}")
    assert refusal.value.name == "org.freedesktop.DBus.Error.UnknownObject"


async def test_busctl_reads_properties(served: ServedManager) -> None:
    answer = await served.bus.busctl("get-property", BUS_NAME, ROOT_PATH, MANAGER, "QueueLength", "EvictionCount")
    assert [json.loads(line) for line in answer.out.splitlines()] == [
        {"type": "u", "data": 0},
        {"type": "t", "data": 0},
    ]


async def test_live_values_are_read_on_request(client: Client, served: ServedManager) -> None:
    served.arbiter.devices[0] = replace(served.arbiter.devices[0], used_mib=1)
    assert (await get_all(client, "/org/gpumand1/device/0", "org.gpumand1.Device"))["UsedMib"] == 1


async def test_unknown_value_is_left_out_and_get_fails(client: Client, served: ServedManager) -> None:
    served.arbiter.devices[0] = replace(a_device(used_mib=None), total_mib=None)
    served.service.publish(DevicesChanged())
    path = "/org/gpumand1/device/0"
    values = await get_all(client, path, "org.gpumand1.Device")
    assert {"UsedMib", "FreeMib", "TotalMib"} & set(values) == set()
    assert values["ReservedMib"] == 0
    for name in ("UsedMib", "TotalMib"):
        with pytest.raises(BusError) as refusal:
            await client.connection.call(BUS_NAME, path, PROPERTIES, "Get", "ss", ("org.gpumand1.Device", name))
        assert refusal.value.name == "org.gpumand1.Error.DeviceUnavailable"
    (changed,) = [signal for signal in client.signals if signal.member == "PropertiesChanged"]
    assert changed.body == ("org.gpumand1.Device", {}, ["TotalMib"])
    assert "UsedMib" in (await served.bus.busctl("introspect", BUS_NAME, path)).out


async def test_managed_objects_are_all_except_the_manager(client: Client) -> None:
    await client.call("Acquire", "sa{sv}", "ollama", {})
    (objects,) = await client.connection.call(BUS_NAME, ROOT_PATH, OBJECT_MANAGER, "GetManagedObjects")
    assert {path: list(interfaces) for path, interfaces in objects.items()} == {
        "/org/gpumand1/device/0": ["org.gpumand1.Device"],
        "/org/gpumand1/consumer/ollama": [CONSUMER],
        "/org/gpumand1/consumer/comfyui": [CONSUMER],
        "/org/gpumand1/consumer/_c3_bcber_2fgeek": [CONSUMER],
        "/org/gpumand1/lease/a0001": [LEASE],
    }
    assert objects["/org/gpumand1/lease/a0001"][LEASE]["Consumer"] == "ollama"
    assert objects["/org/gpumand1/consumer/ollama"][CONSUMER]["Leases"] == 1


async def test_grant_and_release_are_announced_in_order(client: Client) -> None:
    lease, _ = await client.call("Acquire", "sa{sv}", "ollama", {})
    names = client.signal_names()
    # All signals arrived before the reply: first the changed state, then the event.
    assert names[-1] == "/ LeaseGranted"
    assert sorted(names[:-1]) == ["/ InterfacesAdded", "/ PropertiesChanged", "/consumer/ollama PropertiesChanged"]
    assert client.signals[-1].body == (lease, "ollama")
    begun = len(client.signals)
    await client.call("Release", "s", lease)
    names = client.signal_names()[begun:]
    assert names[-1] == "/ LeaseEnded"
    assert sorted(names[:-1]) == ["/ InterfacesRemoved", "/ PropertiesChanged", "/consumer/ollama PropertiesChanged"]
    ended = client.signals[-1]
    assert ended.body == (lease, "ollama", "released")


async def test_only_changed_properties_are_announced_in_one_signal(client: Client) -> None:
    await client.call("Acquire", "sa{sv}", "ollama", {})
    changes = {signal.path: signal.body for signal in client.signals if signal.member == "PropertiesChanged"}
    assert changes == {
        ROOT_PATH: (MANAGER, {"LeaseCount": 1}, []),
        "/org/gpumand1/consumer/ollama": (CONSUMER, {"Leases": 1}, []),
    }


async def test_unchanged_state_is_not_announced(client: Client, served: ServedManager) -> None:
    served.service.publish(SummaryChanged())
    served.service.publish(DevicesChanged())
    served.service.publish(ConsumersChanged(frozenset({"ollama"})))
    await client.call("GetStatus")
    assert client.signals == []


async def test_grants_do_not_compute_the_whole_status(client: Client, served: ServedManager) -> None:
    before = served.arbiter.statuses
    for _ in range(3):
        lease, _ = await client.call("Acquire", "sa{sv}", "ollama", {})
        await client.call("Release", "s", lease)
    assert served.arbiter.statuses == before


async def test_eviction_is_announced_before_the_reply(client: Client) -> None:
    await client.call("Evict", "sa{sv}", "ollama", {})
    assert client.signal_names()[-1] == "/ EvictionOccurred"
    assert client.signals[-1].body == (
        "ollama",
        "0",
        4000,
        "http",
        "manual",
        {
            "expected_mib": 4096,
            "duration_usec": 12,
            "verified": True,
            "tried": ["http"],
            "why": "by hand",
            "error": "",
        },
    )
    changed = [signal.body[1] for signal in client.signals if signal.member == "PropertiesChanged"]
    assert {"Residency": "unloaded"} in changed
    assert {"EvictionCount": 1} in changed


async def test_failed_eviction_is_announced_and_not_counted(client: Client, served: ServedManager) -> None:
    served.arbiter.errors["eviction"] = EvictionFailed("nothing worked")
    with pytest.raises(BusError, match="nothing worked"):
        await client.call("Evict", "sa{sv}", "ollama", {})
    assert client.signal_names() == ["/ EvictionFailed"]
    assert client.signals[0].body[5]["error"] == "nothing worked"


async def test_renewal_changes_a_property(client: Client) -> None:
    lease, _ = await client.call("Acquire", "sa{sv}", "ollama", {})
    client.signals.clear()
    (expires_usec,) = await client.call("Renew", "st", lease, 1_000_000)
    assert client.signal_names() == [f"/lease/{lease} PropertiesChanged"]
    assert client.signals[0].body == (LEASE, {"ExpiresUsec": expires_usec}, [])


async def test_reload_adds_and_removes_consumers(client: Client, served: ServedManager) -> None:
    del served.arbiter.consumers["comfyui"]
    served.arbiter.consumers["vllm"] = a_consumer("vllm")
    served.service.publish(ConsumersChanged(frozenset({"comfyui", "vllm"})))
    await client.call("GetStatus")
    assert sorted(client.signal_names()) == ["/ InterfacesAdded", "/ InterfacesRemoved"]
    assert {signal.body[0] for signal in client.signals} == {
        "/org/gpumand1/consumer/vllm",
        "/org/gpumand1/consumer/comfyui",
    }
    assert (await get_all(client, "/org/gpumand1/consumer/vllm", CONSUMER))["Name"] == "vllm"


async def test_devices_are_added_removed_and_sorted_by_number(client: Client, served: ServedManager) -> None:
    served.arbiter.devices += [a_device(10), a_device(2)]
    served.service.publish(DevicesChanged())
    document = ElementTree.fromstring(await introspect(client, "/org/gpumand1/device"))
    assert [node.attrib["name"] for node in document.findall("node")] == ["0", "2", "10"]
    served.arbiter.devices[:] = [replace(a_device(), error="the GPU is lost")]
    served.service.publish(DevicesChanged())
    await client.call("GetStatus")
    assert client.signal_names() == [
        "/ InterfacesAdded",
        "/ InterfacesAdded",
        "/ InterfacesRemoved",
        "/ InterfacesRemoved",
        "/device/0 PropertiesChanged",
    ]


async def test_changes_are_announced_without_a_call(client: Client, served: ServedManager) -> None:
    served.arbiter.degraded = "nvml-hangs: no answer for 5 s"
    served.service.publish(SummaryChanged())
    await until(lambda: bool(client.signals), "Degraded is announced")
    assert client.signals[0].body == (MANAGER, {"Degraded": served.arbiter.degraded}, [])


async def test_expired_lease_is_announced(client: Client, served: ServedManager) -> None:
    lease, _ = await client.call("Acquire", "sa{sv}", "ollama", {})
    served.arbiter.end(str(lease), LeaseEnd.EXPIRED)
    await until(lambda: client.signal_names()[-1:] == ["/ LeaseEnded"], "LeaseEnded")
    assert client.signals[-1].body == (lease, "ollama", "expired")
