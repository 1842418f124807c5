"""What stays known of devices when a reading fails, or does not list them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gpumand.domain.device import Reading, Sample, placeholder_sample
from gpumand.domain.last_readings import GONE, complete
from gpumand.domain.unread_devices import Access, access


def sample(index: int, uuid: str, **more: object) -> Sample:
    return replace(Sample(index, uuid, f"GPU {uuid}", "nvml", 24576, 1000, 23576, taken_at=10.0), **more)  # type: ignore[arg-type]


def failed(index: int, uuid: str, error: str = "nvml-error: 999", **more: object) -> Sample:
    return sample(index, uuid, total_mib=None, used_mib=None, free_mib=None, error=error, taken_at=20.0, **more)


A, B = sample(0, "GPU-a"), sample(1, "GPU-b")
BEFORE = {0: A, 1: B}


def test_a_failed_sample_keeps_the_last_values_and_the_size() -> None:
    samples = complete(Reading((failed(0, "GPU-a"), B)), BEFORE, None)
    assert (samples[0].last, samples[0].total_mib, samples[0].lost) == (A, 24576, False)
    assert samples[1] is B
    again = complete(Reading((failed(0, "GPU-a"), B)), samples, None)
    assert again[0].last is A, "the last one with values, however many have failed since"


def test_a_good_sample_ends_a_loss() -> None:
    lost = complete(Reading((failed(0, "GPU-a", "gpu-lost: gone", lost=True), B)), BEFORE, None)
    still = complete(Reading((failed(0, "GPU-a"), B)), lost, None)
    assert (still[0].lost, still[0].error) == (True, "gpu-lost: gone")
    assert complete(Reading((A, B)), still, None) == BEFORE


def test_the_last_values_follow_the_uuid() -> None:
    samples = complete(Reading((failed(0, "GPU-b"), failed(1, "GPU-a"))), BEFORE, None)
    assert (samples[0].last, samples[1].last) == (B, A)


def test_another_device_with_the_same_index_has_no_last_values() -> None:
    samples = complete(Reading((failed(0, "GPU-c"),)), {0: A}, None)
    assert samples[0].last is None
    assert (samples[1].uuid, samples[1].lost) == ("GPU-a", True)


def test_a_device_that_cannot_be_opened_has_the_values_of_its_index() -> None:
    assert complete(Reading((failed(0, ""),)), {0: A}, None)[0].last is A


@pytest.mark.parametrize("left", [A, B, replace(B, index=0)])
def test_a_device_that_is_not_listed_is_lost(left: Sample) -> None:
    samples = complete(Reading((left,)), BEFORE, None)
    [missing] = [one for one in samples.values() if one.lost]
    assert {left.uuid, missing.uuid} == {"GPU-a", "GPU-b"}
    assert (missing.error, missing.free_mib, missing.total_mib) == (GONE, None, 24576)
    assert len(samples) == 2
    back = complete(Reading((A, B)), samples, None)
    assert back == BEFORE


def test_devices_stay_listed_when_the_source_lists_none() -> None:
    samples = complete(Reading((), "nvml-error: 999"), BEFORE, None)
    assert [(one.uuid, one.error, one.lost) for one in samples.values()] == [
        ("GPU-a", "nvml-error: 999", False),
        ("GPU-b", "nvml-error: 999", False),
    ]


def test_without_any_device_a_placeholder_has_the_configured_size() -> None:
    assert complete(Reading((), "no-source: none"), {}, 1000) == {0: placeholder_sample(1000, "no-source: none")}


def test_mig_instances_come_and_go() -> None:
    gpu, mig = A, sample(100, "MIG-1")
    assert complete(Reading((mig,)), {0: gpu}, None) == {100: mig}, "MIG was enabled"
    assert complete(Reading((gpu,)), {100: mig}, None) == {0: gpu}, "MIG was disabled"


def test_gpu_that_vanishes_beside_mig_instances_is_lost() -> None:
    """The GPU behind it moves up, so that its instances get the indices of the vanished GPU's."""
    mig = sample(200, "MIG-1")
    now = complete(Reading((replace(mig, index=100),)), {0: A, 200: mig}, None)
    assert [(one.index, one.lost) for one in now.values()] == [(100, False), (0, True)]
    assert access(now[0]) is Access.LOST


def test_devices_of_another_source_are_forgotten() -> None:
    other = replace(A, uuid="none", source="none", free_mib=None, error="no-source: none")
    assert complete(Reading((other,)), BEFORE, None) == {0: other}


def test_a_device_that_is_not_listed_gets_an_index_of_its_source() -> None:
    amd = replace(B, index=10_000, uuid="AMD-1", source="amdgpu")
    samples = complete(Reading((replace(B, index=0), amd)), {**BEFORE, 10_000: amd}, None)
    assert {index: one.uuid for index, one in samples.items()} == {0: "GPU-b", 1: "GPU-a", 10_000: "AMD-1"}
