"""Decisions about devices that cannot be read at the moment. Unknown memory is never taken for free memory.

What is decided depends on why there is no reading:

- no source of readings exists: declared footprints alone decide, and the message says so;
- the driver does not answer, or nothing has been read yet: requests wait, and end with DeviceUnavailable;
- a reading failed after earlier ones: what other programs held at the last reading still counts, and nothing is
  evicted, since no reading could verify it;
- a device has only ever failed: it gets no consumer, unless it is named and ``[gpu] total_mib`` is set;
- a device is lost: nothing is loaded on it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from enum import StrEnum

from gpumand.domain import budget
from gpumand.domain.decision import Decision, refuse, wait
from gpumand.domain.device import SOURCE_STRIDE, Devices, Sample, error_word
from gpumand.domain.errors import DeviceUnavailable
from gpumand.domain.view import ConsumerState, View
from gpumand.domain.wording import describe_devices, format_mib

NO_SOURCE_WORDS = frozenset({"no-source", "nvml-library-missing"})
"""Errors of a host without any source of readings, as opposed to a source that fails."""

LASTING_WORDS = frozenset({"driver-mismatch"})
"""Errors that do not end without an administrator, so that no request waits for their end."""

MIG_STRIDE = 100
"""Indices of MIG instances are those of their GPU plus 1, times this number."""

UNCHECKED = "loads are not checked against real memory; set [gpu] total_mib"
UNCHECKED_WITH_TOTAL = "loads are not checked against real memory, only against [gpu] total_mib"


class Access(StrEnum):
    """Whether a device can be read, and if not, why."""

    READ = "read"
    NO_SOURCE = "no source"
    LOST = "lost"
    HANGS = "hangs"
    FAILS = "fails"
    NEVER_READ = "never read"


def access(sample: Sample) -> Access:
    """Whether a device can be read, and if not, why. A sample without values and without an error has no source."""
    word = error_word(sample.error)
    if sample.lost:
        return Access.LOST
    if sample.is_measured or not sample.error:
        return Access.READ if sample.is_measured else Access.NO_SOURCE
    if word.endswith("-hangs"):
        return Access.HANGS
    if sample.last is not None:
        return Access.FAILS
    return Access.NO_SOURCE if word in NO_SOURCE_WORDS else Access.NEVER_READ


def unchecked(samples: Iterable[Sample]) -> str:
    """The warning that loads are not checked against real memory, where no source of readings exists; else ""."""
    without = [sample for sample in samples if access(sample) is Access.NO_SOURCE]
    if not without or any(UNCHECKED in sample.error for sample in without):
        return ""
    return UNCHECKED if any(sample.total_mib is None for sample in without) else UNCHECKED_WITH_TOTAL


def refusal(view: View, state: ConsumerState, place: Devices, requested: Devices) -> Decision | None:
    """Refuse a load on a device that is lost, or that has only ever failed.

    Args:
        view: everything at this moment.
        state: the requested consumer.
        place: the devices that it would take.
        requested: the devices that the request names.
    """
    for device in place:
        sample = view.devices[device]
        kind = access(sample)
        if kind is Access.LOST:
            return _refuse(view, place, f"{_lost_for(state, sample)}. {_advice_for_lost(sample)}")
        is_lasting = not sample.stands_in or error_word(sample.error) in LASTING_WORDS
        if kind is Access.NEVER_READ and is_lasting and not _is_declared(state, sample, requested):
            return _refuse(view, place, _never_read(state, sample))
    return None


def waiting(view: View, state: ConsumerState, place: Devices, requested: Devices) -> Decision | None:
    """Wait while the driver does not answer, or nothing has been read yet."""
    for device in place:
        sample = view.devices[device]
        kind = access(sample)
        is_first = kind is Access.NEVER_READ and not _is_declared(state, sample, requested)
        # A request whose eviction has failed already is not kept waiting for the driver as well.
        is_over = bool(view.evict_failed) and sample.last is not None
        if is_first or (kind is Access.HANGS and not is_over):
            return _wait(view, place, f"nothing is loaded while {reason_of(view, device)}")
    return None


def waiting_to_evict(view: View, place: Devices) -> Decision | None:
    """Wait with evictions while a device cannot be read that was read before: no reading could verify them."""
    failing = [device for device in place if access(view.devices[device]) in (Access.FAILS, Access.HANGS)]
    if not failing:
        return None
    return _wait(view, place, f"nothing is evicted while {reason_of(view, failing[0])}")


def reason(view: View, place: Devices) -> str:
    """Why devices of a decision cannot be read, in one line; "" where they can, or where no source exists."""
    reasons = [
        reason_of(view, device)
        for device in place
        if access(view.devices[device]) not in (Access.READ, Access.NO_SOURCE)
    ]
    return "; ".join(reasons)


def reason_of(view: View, device: int) -> str:
    """Why a device cannot be read, and what other programs held at its last reading, in one line."""
    sample = view.devices[device]
    if sample.lost:
        return _lost(sample)
    failing = f"device {device} cannot be read ({sample.error or 'no reading'})"
    mib = budget.last_foreign_mib(view, device)
    if sample.last is None or mib is None:
        return failing
    return f"{failing}; {age(view, sample)} {format_mib(mib)} were in use outside of consumers"


def age(view: View, sample: Sample) -> str:
    """How old the last successful reading of a device is, for a message."""
    seconds = 0.0 if sample.last is None else max(0.0, view.now - sample.last.taken_at)
    return f"at the last reading, {seconds:.0f} s ago,"


def _wait(view: View, place: Devices, message: str) -> Decision:
    decision = wait(place, message, "check the driver: gpumanctl doctor")
    return replace(decision, error=DeviceUnavailable, needs_fresh_sample=True, unread=reason(view, place))


def _refuse(view: View, place: Devices, message: str) -> Decision:
    decision = refuse(DeviceUnavailable, message, place)
    return replace(decision, needs_fresh_sample=True, unread=reason(view, place))


def _lost(sample: Sample) -> str:
    return f"device {sample.index} is lost: {sample.error}"


def _advice_for_lost(sample: Sample) -> str:
    if sample.source != "nvml":
        return "Check the kernel log: journalctl -k."
    if error_word(sample.error) == "gpu-lost":
        return "Check the kernel log (journalctl -k), and reboot the host: a GPU off the bus can seldom be reset."
    command = reset_command(sample.index, sample.aliases)
    return f"Check nvidia-smi and the kernel log. To reset it: sudo gpumanctl gpu release -- {command}"


def reset_command(device: int, aliases: Iterable[str] = ()) -> str:
    """The command that resets one NVIDIA GPU. Without an id, nvidia-smi would reset all GPUs of the host.

    Args:
        device: index of the device.
        aliases: its PCI address, which stays the same when another GPU vanishes.
    """
    index = device % SOURCE_STRIDE
    # Only the whole GPU of a MIG instance can be reset.
    gpu = index if index < MIG_STRIDE else index // MIG_STRIDE - 1
    return f"nvidia-smi --gpu-reset --id={next(iter(aliases), gpu)}"


def _lost_for(state: ConsumerState, sample: Sample) -> str:
    """That a device is lost; of one that the consumer is configured for and that is not listed, that it is absent."""
    is_named = bool(sample.names & set(state.spec.devices))
    if error_word(sample.error) != "gone" or not is_named:
        return _lost(sample)
    return f"device {sample.index}, configured for {state.name}, is not present any more and counts as lost"


def _never_read(state: ConsumerState, sample: Sample) -> str:
    where = describe_devices((sample.index,))
    consumer = f"consumers.{state.name}" if state.spec.reservation is None else "the request"
    return (
        f"{where} has never been read: {sample.error}. Its memory is unknown, so that nothing is loaded on it. Repair "
        f"the driver, or name the device in {consumer} and set [gpu] total_mib to use declared footprints there."
    )


def _is_declared(state: ConsumerState, sample: Sample, requested: Devices) -> bool:
    """Whether the administrator has vouched for a device without readings: it is named, and its size is configured."""
    configured = set(state.spec.devices)
    # Before any device is known, a placeholder stands for the one that the configuration names.
    is_named = bool(sample.names & configured) or (sample.stands_in and bool(configured))
    return sample.total_mib is not None and (is_named or sample.index in requested)
