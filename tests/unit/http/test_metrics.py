"""The metrics page, read by a strict parser."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gpumand.domain.events import EvictionFailed, EvictionOccurred, EvictionReport, LoadFinished, RequestGranted
from gpumand.domain.lease import Lease, LeaseLifetime, Owner
from gpumand.domain.reservation import Reservation
from gpumand.domain.status import ConsumerStatus, DeviceStatus, Stats, Status, WaitingStatus
from gpumand.domain.telemetry import Telemetry
from gpumand.http.limits import MAX_LABELLED_CONSUMERS
from gpumand.http.metrics import OTHERS, Metrics
from tests.exposition import Samples, parsed

MIB = 1024 * 1024
LEASE = Lease("abc", "tts", "0", Owner(":1.1", 0), LeaseLifetime.TTL, 1, 2, 900.0, "", "")
DEVICE = DeviceStatus(0, "GPU-1", "Card", "simulated", 24564, 8000, 16564, 512, 100, 1, "")
CONSUMER = ConsumerStatus("tts", "resident", "0", 4096, 4000, 2, 5_000_000, True, False, "tts.service", "")


def status(*consumers: ConsumerStatus, devices: tuple[DeviceStatus, ...] = (DEVICE,), degraded: str = "") -> Status:
    queue = (WaitingStatus("tts", 1, 0, 2_500_000, "room", 0), WaitingStatus("tts", 2, 0, 1_000_000, "room", 0))
    return Status("1.2.3", degraded, devices, consumers, (), queue, Stats(1, 2, 3, 4, 5, 6))


def page(metrics: Metrics | None = None, shown: Status | None = None) -> Samples:
    return parsed((metrics or Metrics()).text(shown or status(CONSUMER)))


def of(samples: Samples, metric: str, /, **labels: str) -> float:
    return samples[(metric, tuple(sorted(labels.items())))]


def test_page_of_an_empty_daemon_is_valid() -> None:
    samples = parsed(Metrics().text(Status("1", "")))
    assert of(samples, "gpumand_leases") == 0
    assert of(samples, "gpumand_consumers", residency="failed") == 0


def test_reservations_are_counted_and_share_one_label() -> None:
    metrics = Metrics()
    reservation = Reservation("abcdef", 5000)
    lease = replace(LEASE, id="abcdef", consumer=reservation.name, reservation=reservation)
    for _ in range(2):
        metrics.record(RequestGranted("", 2_000_000, lease))
    shown = replace(status(CONSUMER), leases=(LEASE, lease), reserved_used_mib={"abcdef": 300})
    samples = page(metrics, shown)
    assert of(samples, "gpumand_wait_seconds_count", consumer="_reservation") == 2
    assert (of(samples, "gpumand_leases"), of(samples, "gpumand_reservations")) == (2, 1)
    assert of(samples, "gpumand_reservations_used_bytes") == 300 * MIB


def test_memory_of_devices_is_in_bytes() -> None:
    samples = page()
    values = {name: of(samples, f"gpumand_device_{name}_bytes", device="0") / MIB for name in ("total", "used", "free")}
    assert values == {"total": 24564, "used": 8000, "free": 16564}
    assert of(samples, "gpumand_device_reserved_bytes", device="0") == 512 * MIB
    assert of(samples, "gpumand_device_foreign_bytes", device="0") == 100 * MIB
    assert of(samples, "gpumand_device_info", device="0", uuid="GPU-1", name="Card", source="simulated") == 1


def test_unknown_values_are_left_out_and_not_zero() -> None:
    unknown = replace(DEVICE, used_mib=None, free_mib=None, foreign_mib=None, error="the driver hangs")
    samples = page(shown=status(replace(CONSUMER, used_mib=None), devices=(unknown,), degraded="the driver hangs"))
    names = {name for name, _ in samples}
    assert not names & {"gpumand_device_used_bytes", "gpumand_device_free_bytes", "gpumand_consumer_used_bytes"}
    assert of(samples, "gpumand_device_total_bytes", device="0") == 24564 * MIB
    assert of(samples, "gpumand_device_failing", device="0") == 1
    assert of(samples, "gpumand_degraded") == 1


def test_telemetry_is_in_base_units() -> None:
    device = replace(DEVICE, telemetry=Telemetry(87, 71, 90, 320.5, 450.0), sampled_usec=1_700_000_000_500_000)
    samples = page(shown=status(devices=(device,)))
    names = (
        "utilization_ratio",
        "temperature_celsius",
        "temperature_limit_celsius",
        "power_watts",
        "power_limit_watts",
    )
    assert [of(samples, f"gpumand_device_{name}", device="0") for name in names] == [0.87, 71, 90, 320.5, 450]
    assert of(samples, "gpumand_device_sampled_timestamp_seconds", device="0") == 1_700_000_000.5


def test_telemetry_that_is_unknown_has_no_sample_and_an_idle_gpu_has_zero() -> None:
    devices = (DEVICE, replace(DEVICE, index=1, telemetry=Telemetry(0, 30)))
    samples = page(shown=status(devices=devices))
    names = {(name, labels) for name, labels in samples if "temperature" in name or "power" in name or "ratio" in name}
    assert {labels for _, labels in names} == {(("device", "1"),)}
    assert of(samples, "gpumand_device_utilization_ratio", device="1") == 0
    assert not any("power" in name for name, _ in names)


def test_driver_state_is_one_of_four() -> None:
    samples = page(shown=replace(status(CONSUMER), driver_state="asleep"))
    states = {
        name: of(samples, "gpumand_driver_state", state=name) for name in ("open", "resting", "asleep", "released")
    }
    assert states == {"open": 0, "resting": 0, "asleep": 1, "released": 0}


def test_consumers_queue_and_counters_are_shown() -> None:
    samples = page()
    assert of(samples, "gpumand_consumer_leases", consumer="tts") == 2
    assert of(samples, "gpumand_consumer_footprint_bytes", consumer="tts") == 4096 * MIB
    assert of(samples, "gpumand_consumer_used_bytes", consumer="tts") == 4000 * MIB
    assert of(samples, "gpumand_consumer_resident", consumer="tts") == 1
    assert of(samples, "gpumand_consumer_pinned", consumer="tts") == 1
    assert of(samples, "gpumand_consumer_last_used_timestamp_seconds", consumer="tts") == 5
    assert of(samples, "gpumand_consumers", residency="resident") == 1
    assert of(samples, "gpumand_queue_length") == 2
    assert of(samples, "gpumand_queue_longest_wait_seconds") == 2.5
    names = ("evictions", "eviction_failures", "grants", "refusals", "loads", "load_failures")
    assert [of(samples, f"gpumand_{name}_total") for name in names] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("name", ['a"b', "a\\b", "a\nb", "a\\nb", 'a"} 1', "ümläut", "a,b", "\\", '"', "a{b}"])
def test_label_values_are_escaped_without_loss(name: str) -> None:
    samples = page(shown=status(CONSUMER, devices=(replace(DEVICE, name=name),)))
    assert of(samples, "gpumand_device_info", device="0", uuid="GPU-1", name=name, source="simulated") == 1


@pytest.mark.parametrize("name", ["a\rb", "a\0b", "a\udc80b", "x" * 100_000])
def test_unsafe_characters_and_long_texts_are_replaced(name: str) -> None:
    text = Metrics().text(status(CONSUMER, devices=(replace(DEVICE, name=name),)))
    parsed(text)
    assert not set("\r\0\udc80") & set(text)
    assert len(text) < 20_000


def test_durations_are_histograms_by_consumer() -> None:
    metrics = Metrics()
    for usec in (0, 10_000, 10_001, 400_000, 299_000_000, 301_000_000):
        metrics.record(RequestGranted("tts", usec, LEASE))
    metrics.record(LoadFinished("tts", "0", 2_000_000))
    metrics.record(EvictionOccurred(EvictionReport("comfyui", "0", 100, "http", "tts", duration_usec=700_000)))
    samples = page(metrics)
    bounds = {"0.01": 2, "0.05": 3, "0.5": 4, "120.0": 4, "300.0": 5, "+Inf": 6}
    assert {le: of(samples, "gpumand_wait_seconds_bucket", consumer="tts", le=le) for le in bounds} == bounds
    assert of(samples, "gpumand_wait_seconds_sum", consumer="tts") == pytest.approx(600.420001)
    assert of(samples, "gpumand_load_seconds_count", consumer="tts") == 1
    assert of(samples, "gpumand_eviction_seconds_sum", consumer="comfyui") == 0.7


def test_failures_are_not_counted_as_durations() -> None:
    metrics = Metrics()
    metrics.record(LoadFinished("tts", "0", 2_000_000, "it crashed"))
    metrics.record(EvictionFailed(EvictionReport("tts", "0", 0, "http", "x", duration_usec=700_000, error="no")))
    assert not [name for name, _ in page(metrics) if name.endswith("_count")]


def test_consumers_above_the_limit_share_one_label() -> None:
    metrics = Metrics()
    for number in range(MAX_LABELLED_CONSUMERS + 5):
        metrics.record(RequestGranted(f"c{number}", 1, LEASE))
    metrics.record(RequestGranted("c3", 1, LEASE))
    many = [replace(CONSUMER, name=f"c{number}") for number in range(MAX_LABELLED_CONSUMERS + 5)]
    samples = page(metrics, status(*many))
    assert of(samples, "gpumand_wait_seconds_count", consumer=OTHERS) == 5
    assert of(samples, "gpumand_wait_seconds_count", consumer="c3") == 2
    assert len([name for name, _ in samples if name == "gpumand_consumer_leases"]) == MAX_LABELLED_CONSUMERS
    assert of(samples, "gpumand_consumers", residency="resident") == MAX_LABELLED_CONSUMERS + 5
