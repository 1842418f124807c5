"""Parsing demand and hosts from files, and one-line errors for invalid input."""

from __future__ import annotations

import json

import pytest

from gpumand.domain.consumer import EvictionMethod
from gpumand.simulation import demand, host
from gpumand.simulation.demand import Use

HOST = """
devices = [24576, 8192]
external_mib = 600
groups = [["stt", "llm"]]
[consumers.stt]
vram_resident_mib = 4600
load_sec = 5
[consumers.llm]
vram_resident_mib = 6000
load_sec = 4
unload_sec = 0.5
wake_sec = 0.8
priority = 5
device = 1
"""


def test_demand_is_sorted_and_starts_at_time_zero() -> None:
    lines = ['{"t": 105.5, "consumer": "b", "hold_sec": 1}\n', "\n", '{"t": 100, "consumer": "a", "hold_sec": 2.5}']

    assert demand.parse(lines) == [Use(0.0, "a", 2.5), Use(5.5, "b", 1.0)]


def test_formatted_demand_parses_to_the_same_uses() -> None:
    uses = [Use(0.0, "a", 2.5, "user", 7), Use(1.25, "b", 0.5), Use(2.0, "b", 0.5, priority=0)]

    assert demand.parse(demand.to_json_lines(uses)) == uses


def test_line_of_the_demand_log_of_the_daemon_is_accepted() -> None:
    line = json.dumps({"t": 1.7e9, "consumer": "a", "hold_sec": 3.0, "client": "1000", "priority": -5})

    assert demand.parse([line]) == [Use(0.0, "a", 3.0, "1000", -5)]
    assert demand.parse([line.replace("-5", "0")])[0].priority == 0
    assert demand.parse([line.replace(', "priority": -5', "")])[0].priority is None


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        "null",
        "[" * 100_000,
        '{"t": 1, "hold_sec": 1}',
        '{"t": -1, "consumer": "a", "hold_sec": 1}',
        '{"t": NaN, "consumer": "a", "hold_sec": 1}',
        '{"t": true, "consumer": "a", "hold_sec": 1}',
        '{"t": 1, "consumer": "a", "hold_sec": 1e300}',
        '{"t": 1, "consumer": "a", "hold_sec": "1"}',
        '{"t": 1, "consumer": 5, "hold_sec": 1}',
        '{"t": 1, "consumer": "a", "hold_sec": 1, "priority": 101}',
        '{"t": 1, "consumer": "a", "hold_sec": 1, "priority": true}',
        '{"t": 1, "consumer": "' + "a" * 300 + '", "hold_sec": 1}',
    ],
)
def test_invalid_line_is_rejected_with_its_number(line: str) -> None:
    with pytest.raises(ValueError, match=r"^week:2: [^\n]+$"):
        demand.parse(['{"t": 1, "consumer": "a", "hold_sec": 1}', line], "week")


def test_parked_memory_and_device_count_are_parsed() -> None:
    keys = "load_sec = 1\nwake_sec = 0.5\nresidual_mib = 300\nparked_host_mib = 900\ndevice = [0, 1]"
    parsed = host.parse(f"host_ram_mib = 65536\ndevices = [10, 10]\n[consumers.a]\nvram_resident_mib = 800\n{keys}")

    spec = parsed.consumers["a"].spec
    assert (parsed.host_ram_mib, spec.residual_mib, spec.parked_host_mib) == (65536, 300, 900)
    assert (spec.devices, spec.device_count) == (("0", "1"), 2)


def test_host_is_parsed() -> None:
    parsed = host.parse(HOST)

    assert (parsed.total_mib, parsed.external_mib) == ((24576, 8192), 600)
    stt, llm = parsed.consumers["stt"], parsed.consumers["llm"]
    assert (stt.load_sec, stt.unload_sec, stt.wake_sec) == (5.0, 1.0, None)
    assert (llm.load_sec, llm.unload_sec, llm.wake_sec) == (4.0, 0.5, 0.8)
    assert stt.spec.can_coexist_with == {"llm"}
    assert (llm.spec.priority, llm.spec.devices) == (5, ("1",))
    assert (stt.spec.evict, stt.spec.parks) == ((EvictionMethod.UNIT_STOP,), False)
    assert (llm.spec.evict, llm.spec.parks) == ((EvictionMethod.HTTP, EvictionMethod.UNIT_STOP), True)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("devices = [24576, 8192]", "devices = []"),
        ("devices = [24576, 8192]", "devices = [0]"),
        ("devices = [24576, 8192]", 'devices = "24 GiB"'),
        ("external_mib = 600", "external_mib = -1"),
        ("external_mib = 600", "external = 600"),
        ('["stt", "llm"]', '["stt", "unknown"]'),
        ('[["stt", "llm"]]', "7"),
        ("load_sec = 5", ""),
        ("load_sec = 5", "load_sec = inf"),
        ("load_sec = 5", "load_sec = true"),
        ("vram_resident_mib = 4600", "vram_resident_mib = 0"),
        ("vram_resident_mib = 4600", "vram_resident_mib = 4.5"),
        ("priority = 5", "priority = 500"),
        ("wake_sec = 0.8", "wakes = 1"),
        ("wake_sec = 0.8", "wake_sec = 0.8\nresidual_mib = 6000"),
        ("wake_sec = 0.8", 'can_coexist_with = "stt"'),
        ("[consumers.stt]", "[consumers.stt"),
    ],
)
def test_invalid_host_is_rejected_with_a_one_line_message(old: str, new: str) -> None:
    assert old in HOST
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        host.parse(HOST.replace(old, new))


@pytest.mark.parametrize("text", ["", "consumers = 5", "[consumers]", "consumers = { a = 1 }"])
def test_host_without_consumers_is_rejected(text: str) -> None:
    with pytest.raises(ValueError, match="consumers"):
        host.parse(text)
