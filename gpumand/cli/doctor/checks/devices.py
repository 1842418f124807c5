"""Explains how the memory of each device is read: what is attributed to units, and what is not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gpumand.cli.doctor.facts import Facts
from gpumand.cli.doctor.finding import Finding, note, warning
from gpumand.domain.device import BEFORE_FIX

SOURCES = ("amdgpu", "xe")
"""Sources whose attribution depends on the kernel; NVIDIA's driver names processes itself."""

COVERAGE = {
    "dmem": "attributed to units by the kernel (dmem): all memory of each unit, with any API",
    "kfd": "attributed by the kernel's list of ROCm processes (kfd)",
    "": "known as totals only",
}
GAPS = {
    "kfd": "memory of Vulkan and OpenGL belongs to no consumer; evictions of such consumers are checked by the "
    "device's free memory",
    "": "declared footprints stand for what each consumer holds; free memory of the device is still checked",
}

UNATTRIBUTED = (
    "it is unknown which service holds how much: free memory of the device is checked, declared footprints stand for "
    "what each service holds, and evictions are checked by the device's free memory"
)

UNATTRIBUTED_RAM = (
    "it is unknown which service holds how much: what the host has available is checked, declared footprints stand for "
    "what each service holds, and only a stop of its unit or container counts as an eviction"
)


def attribution(facts: Facts) -> Iterator[Finding]:
    """The memory of each device is attributed to units; says how for AMD and Intel, and why where it is not."""
    for device in _readable(facts):
        means, gap = str(device.get("attribution") or ""), str(device.get("attribution_gap") or "")
        if gap:
            what, _, fix = gap.partition(BEFORE_FIX)
            why = UNATTRIBUTED_RAM if device.get("pool") == "unified" else UNATTRIBUTED
            yield warning(f"{_title(device)}: {what}", why, fix)
        elif device.get("source") in SOURCES and means in COVERAGE:
            yield note(f"{_title(device)}: its memory is {COVERAGE[means]}", GAPS.get(means, ""))


def drivers(facts: Facts) -> Iterator[Finding]:
    """Each card has a driver that shows its memory."""
    for card in facts.unread_cards or ():
        what = f"the memory of the card {card.bdf} cannot be read: its driver is {card.driver}"
        if card.driver == "i915":
            known = f"{card.device:04x}" if card.device is not None else "DEVICE"
            fix = f"i915.force_probe=!{known} xe.force_probe={known}   # kernel parameters, with Linux 6.14 or newer"
            yield note(what, "i915 shows it to privileged programs only; the driver xe shows it to all", fix)
        elif card.driver == "nouveau":
            yield note(what, "nouveau shows no memory; NVIDIA's own driver does")
        else:
            yield note(what, "cards of this driver are too old for amdgpu")


def pool(facts: Facts) -> Iterator[Finding]:
    """The device has memory of its own; otherwise says what follows."""
    for device in _readable(facts):
        if device.get("pool") == "unified":
            yield note(
                f"{_title(device)}: it uses host RAM",
                "free memory is bounded by what the host has available, less reserve_mib; consumers are stopped "
                "instead of parked, and an eviction is checked by the consumer's own memory",
            )


def integrated(facts: Facts) -> Iterator[Finding]:
    """Consumers can use every device; otherwise says how to use an integrated GPU."""
    devices = _readable(facts)
    others = [one for one in devices if not one.get("integrated")]
    for device in devices if others else ():
        named = {str(device.get("index")), str(device.get("uuid")), *map(str, device.get("aliases") or ())}
        if device.get("integrated") and not any(named & set(spec.devices) for spec in facts.consumers.values()):
            name = next(iter(device.get("aliases") or ()), device.get("uuid"))
            yield note(
                f"{_title(device)}: no consumer uses this integrated GPU",
                f'consumers use it only if they name it: device = "{name}"',
            )


def _readable(facts: Facts) -> list[Mapping[str, Any]]:
    return [one for one in facts.status["devices"] if not one.get("error")] if facts.status else []


def _title(device: Mapping[str, Any]) -> str:
    return f"device {device.get('index')} ({device.get('name') or device.get('uuid')})"
