"""Which devices a consumer may be on, and what is left of one that is gone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gpumand.domain.consumer import SchedulerSettings
from gpumand.domain.device import Reading, Sample
from gpumand.domain.errors import DeviceUnavailable, InvalidArgs
from gpumand.domain.ledger import Ledger, placeholder
from gpumand.domain.planning import Decision, Requirement, decide
from gpumand.domain.request import Verdict
from gpumand.domain.view import ConsumerState, View
from tests.unit.domain.build import absent, resident, view


def two_devices(*states: ConsumerState) -> View:
    """Device 0 as told, device 1 empty."""
    base = view(*states)
    empty = replace(base.devices[0], index=1, uuid="GPU-1", used_mib=0, free_mib=24564, processes=())
    return replace(base, devices={0: base.devices[0], 1: empty})


def ask(state: View, consumer: str, device: int | None = None) -> Decision:
    return decide(state, Requirement(consumer, () if device is None else (device,)))


@pytest.mark.parametrize("wanted", ["7", "GPU-7"])
def test_a_configured_device_that_is_not_there_is_named(wanted: str) -> None:
    decision = ask(two_devices(absent("a", 1000, devices=(wanted,))), "a")

    assert (decision.error, decision.devices) == (DeviceUnavailable, ())
    assert decision.message == f"device {wanted}, configured for a, is not there"


def test_a_device_asked_for_that_is_gone_meanwhile_is_named() -> None:
    assert ask(two_devices(absent("a", 1000)), "a", device=2).message == "device 2 is not there"


def test_a_resident_is_lent_where_it_is_whatever_its_configuration_says_by_now() -> None:
    decision = ask(two_devices(resident("a", 1000, devices=("1",))), "a")

    assert (decision.verdict, decision.place, decision.resident) == (Verdict.GRANT, (0,), True)


def test_a_resident_is_not_lent_where_it_is_not() -> None:
    decision = ask(two_devices(resident("a", 1000)), "a", device=1)

    assert (decision.error, decision.message) == (InvalidArgs, "a is resident on device 0; evict it first")


def test_a_resident_of_a_device_that_is_gone_may_be_loaded_elsewhere() -> None:
    state = two_devices(replace(resident("a", 1000), devices=(2,)))

    assert (ask(state, "a").verdict, ask(state, "a").load) == (Verdict.GRANT, True)


def test_where_no_device_can_be_seen_a_configured_uuid_is_no_obstacle() -> None:
    blind = replace(view(absent("a", 1000, devices=("GPU-1234",))), devices={0: placeholder(None)})

    assert ask(blind, "a").load


def test_a_request_contests_only_devices_on_which_it_can_ever_be_served() -> None:
    base = two_devices(absent("a", 20000))
    small = replace(base.devices[1], total_mib=8192, free_mib=8192)

    assert ask(base, "a").devices == (0, 1)
    assert ask(replace(base, devices={0: base.devices[0], 1: small}), "a").devices == (0,)


# -- a card does not shrink --------------------------------------------------------------------------------------------


def size_after(*samples: Sample, total_mib: int | None = None) -> int | None:
    """What device 0 is taken to have after these readings."""
    ledger = Ledger(SchedulerSettings(), lambda name: None)
    for sample in samples:
        ledger.take_reading(Reading((sample,), sample.error), total_mib)
    return ledger.view(0.0).devices[0].total_mib


KNOWN = view().devices[0]
FAILED = replace(KNOWN, total_mib=None, used_mib=None, free_mib=None, error="nvml-hangs: x")


def test_a_card_keeps_its_size_without_figures() -> None:
    assert size_after(KNOWN, FAILED, FAILED) == KNOWN.total_mib
    assert size_after(KNOWN, FAILED, total_mib=1000) == KNOWN.total_mib, "what was seen beats what was configured"


def test_another_card_in_its_place_does_not_inherit_its_size() -> None:
    assert size_after(KNOWN, replace(FAILED, uuid="GPU-other")) is None


def test_a_card_that_was_never_seen_has_the_configured_size() -> None:
    assert size_after(FAILED) is None
    assert size_after(FAILED, total_mib=8192) == 8192
