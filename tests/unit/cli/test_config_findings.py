"""Findings of config-check about a valid configuration: units and sizes that this host contradicts."""

from __future__ import annotations

from typing import Any

import pytest

from gpumand.cli.config_findings import HostFacts, findings
from gpumand.domain.consumer import UNKNOWN_MIB, ConsumerSpec, SchedulerSettings, Settings

TWO = [{"index": 0, "uuid": "GPU-a", "total_mib": 8192}, {"index": 1, "uuid": "GPU-b", "total_mib": 24576}]


def found(spec: ConsumerSpec, **facts: Any) -> list[str]:
    return findings(Settings(SchedulerSettings(cushion_mib=256), consumers={spec.name: spec}), HostFacts(**facts))


def spec(mib: int = 1000, **changes: Any) -> ConsumerSpec:
    return ConsumerSpec("tts", mib, **({"unit": "tts.service"} | changes))


def test_nothing_is_found_where_nothing_can_be_asked() -> None:
    assert found(spec(10**6)) == []
    assert found(spec(), load_states={"tts.service": "loaded"}, devices=TWO) == []
    assert found(spec(), load_states={"tts.service": ""}) == []


def test_unit_that_systemd_does_not_know() -> None:
    (one,) = found(spec(), load_states={"tts.service": "not-found"})
    assert one == "tts: systemd has no unit tts.service, so gpumand cannot start or stop it. Check the name"
    (one,) = found(spec(), load_states={"tts.service": "masked"})
    assert one.startswith("tts: tts.service is masked, so gpumand cannot start it")


@pytest.mark.parametrize(
    ("mib", "changes", "message"),
    [
        (24320, {}, ""),
        (24321, {}, "more than the 24576 MiB that its largest device has"),
        (13312 * 1024, {}, "more than the 24576 MiB"),
        (7936, {"devices": ("0",)}, ""),
        (7937, {"devices": ("0",)}, "more than the 8192 MiB"),
        (7937, {"devices": ("GPU-a",)}, "more than the 8192 MiB"),
        (7936, {"device_count": 2}, ""),
        (7937, {"device_count": 2}, "more than the 8192 MiB that its 2 largest devices have"),
        (100, {"device_count": 3}, "needs 3 devices, but there are 2"),
        (100, {"devices": ("2",)}, "there is no device 2; the devices are 0, 1"),
        (UNKNOWN_MIB, {}, ""),
        (64, {}, ""),
        (13, {}, "13 MiB, which is less than any program that uses a GPU takes. Write 13312 if you mean GiB"),
    ],
)
def test_footprint_is_compared_with_the_devices_that_the_consumer_may_use(
    mib: int, changes: dict[str, Any], message: str
) -> None:
    ones = found(spec(mib, **changes), devices=TWO)
    assert len(ones) == bool(message)
    assert not message or message in ones[0]


MIXED = [
    {"index": 0, "uuid": "GPU-a", "total_mib": 24576, "integrated": False},
    {"index": 10000, "uuid": "PCI-0000:0c:00.0", "aliases": ["0000:0c:00.0"], "total_mib": 32025, "integrated": True},
]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "more than the 24576 MiB that its largest device has"),
        ({"devices": ("0000:0c:00.0",)}, ""),
        ({"devices": ("10000",)}, ""),
        ({"devices": ("0000:01:00.0",)}, "there is no device 0000:01:00.0; the devices are 0, 10000"),
        ({"device_count": 2}, "needs 2 devices, but there are 1"),
    ],
)
def test_an_integrated_gpu_counts_only_for_consumers_that_name_it(changes: dict[str, Any], message: str) -> None:
    ones = found(spec(30000, **changes), devices=MIXED)
    assert len(ones) == bool(message)
    assert not message or message in ones[0]


def test_device_of_unknown_size_proves_nothing() -> None:
    assert found(spec(10**6), devices=[*TWO, {"index": 2, "uuid": "GPU-c", "total_mib": None}]) == []


def test_consumers_that_share_a_server_are_found() -> None:
    one, two = (ConsumerSpec(name, 100, url="http://127.0.0.1:8188") for name in "ab")
    (finding,) = findings(Settings(consumers={"a": one, "b": two}), HostFacts())
    assert finding.startswith("a and b share the server http://127.0.0.1:8188")
