"""Which devices a consumer may be on, and the size of a device that is no longer read."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gpumand.domain.consumer import SchedulerSettings
from gpumand.domain.decision import Decision, Requirement
from gpumand.domain.device import Reading, Sample, placeholder_sample
from gpumand.domain.errors import DeviceUnavailable, InvalidArgs
from gpumand.domain.ledger import Ledger
from gpumand.domain.planning import decide
from gpumand.domain.request import Verdict
from gpumand.domain.view import ConsumerState, View
from tests.unit.domain.build import absent, resident, view


def two_devices(*states: ConsumerState) -> View:
    """The view with device 0 as given and device 1 empty."""
    base = view(*states)
    empty = replace(base.devices[0], index=1, uuid="GPU-1", used_mib=0, free_mib=24564, processes=())
    return replace(base, devices={0: base.devices[0], 1: empty})


def ask(state: View, consumer: str, device: int | None = None) -> Decision:
    return decide(state, Requirement(consumer, () if device is None else (device,)))


@pytest.mark.parametrize("wanted", ["7", "GPU-7"])
def test_a_missing_configured_device_is_named(wanted: str) -> None:
    decision = ask(two_devices(absent("a", 1000, devices=(wanted,))), "a")

    assert (decision.error, decision.eligible_devices) == (DeviceUnavailable, ())
    assert decision.message == (
        f"device {wanted}, configured for a, is not present (present: devices 0, 1). "
        "Correct device in consumers.a, or check the driver."
    )


def test_a_missing_requested_device_is_named() -> None:
    assert ask(two_devices(absent("a", 1000)), "a", device=2).message == (
        "device 2 is not present (present: devices 0, 1). Request a device that is present, or none."
    )


def test_a_resident_consumer_is_granted_where_it_is_even_if_configured_elsewhere() -> None:
    decision = ask(two_devices(resident("a", 1000, devices=("1",))), "a")

    assert (decision.verdict, decision.place, decision.resident) == (Verdict.GRANT, (0,), True)


def test_a_resident_consumer_is_not_granted_on_another_device() -> None:
    decision = ask(two_devices(resident("a", 1000)), "a", device=1)

    assert (decision.error, decision.message) == (
        InvalidArgs,
        "a is resident on device 0, not on device 1. Evict it first, or request device 0.",
    )


def test_a_resident_consumer_of_a_removed_device_may_be_loaded_elsewhere() -> None:
    state = two_devices(replace(resident("a", 1000), devices=(2,)))

    assert (ask(state, "a").verdict, ask(state, "a").load) == (Verdict.GRANT, True)


def test_a_configured_uuid_is_ignored_where_no_device_is_known() -> None:
    none = placeholder_sample(None, "no-source: none")
    blind = replace(view(absent("a", 1000, devices=("GPU-1234",))), devices={0: none})

    assert ask(blind, "a").load


def test_only_devices_that_can_ever_serve_a_request_are_eligible() -> None:
    base = two_devices(absent("a", 20000))
    small = replace(base.devices[1], total_mib=8192, free_mib=8192)

    assert ask(base, "a").eligible_devices == (0, 1)
    assert ask(replace(base, devices={0: base.devices[0], 1: small}), "a").eligible_devices == (0,)


# -- size of a device -------------------------------------------------------------------------------------------------


def size_after(*samples: Sample, total_mib: int | None = None) -> int | None:
    """The size of device 0 after these readings."""
    ledger = Ledger(SchedulerSettings(), lambda name: None)
    for sample in samples:
        ledger.apply_reading(Reading((sample,), sample.error), total_mib)
    return ledger.view(0.0).devices[0].total_mib


KNOWN = view().devices[0]
FAILED = replace(KNOWN, total_mib=None, used_mib=None, free_mib=None, error="nvml-hangs: x")


def test_a_device_keeps_its_size_without_readings() -> None:
    assert size_after(KNOWN, FAILED, FAILED) == KNOWN.total_mib
    assert size_after(KNOWN, FAILED, total_mib=1000) == KNOWN.total_mib, (
        "a measured size counts before a configured one"
    )


def test_another_device_at_the_same_index_does_not_inherit_the_size() -> None:
    assert size_after(KNOWN, replace(FAILED, uuid="GPU-other")) is None


def test_a_device_that_was_never_read_has_the_configured_size() -> None:
    assert size_after(FAILED) is None
    assert size_after(FAILED, total_mib=8192) == 8192
