"""Checks of the dmem cgroup controller, by which the kernel counts the VRAM of units."""

from __future__ import annotations

from collections.abc import Iterator

from gpumand.cli.doctor.facts import Facts
from gpumand.cli.doctor.finding import Finding, note, warning

SERVICE = "gpumand-dmem.service"
USER_HELP = "sudo /usr/libexec/gpumand-dmem --user=$(id -u)"
TOLERATED_MIB = 512
"""Driver and kernel count contexts and page tables differently."""


def enabled(facts: Facts) -> Iterator[Finding]:
    """The controller counts the memory of units, where the kernel and a driver have it."""
    dmem = facts.dmem
    if dmem is None or dmem.is_enabled:
        return
    region = dmem.regions[0]
    what = f"the kernel can count VRAM by unit (cgroup controller dmem, {region}), but this is not enabled"
    why = "without it, memory of Vulkan and OpenGL on AMD cards and all memory on Intel cards belongs to no consumer"
    if dmem.is_only_nvidia:
        why = "NVIDIA's driver lists processes, so that it is useful only for containers that the driver does not name"
    fix = USER_HELP if facts.user else facts.root(f"systemctl enable --now {SERVICE}")
    yield note(what, why, f"{fix}   # then restart the units that hold VRAM")


def counted(facts: Facts) -> Iterator[Finding]:
    """Where the controller is enabled, the memory of each running consumer is charged to its unit."""
    dmem = facts.dmem
    if dmem is None or not dmem.is_enabled:
        return
    finding = note if dmem.is_only_nvidia else warning  # NVIDIA's driver names the processes as well
    restart = facts.root(f"systemctl restart {SERVICE}")
    for unit in sorted(dmem.uncounted):
        yield finding(
            f"the VRAM of {unit} is not counted as its own",
            f"it was started before its cgroup was enabled by {SERVICE}, or its slice is not enabled",
            USER_HELP if facts.user else f"{restart} && {facts.root(f'systemctl restart {unit}')}",
        )


def agreement(facts: Facts) -> Iterator[Finding]:
    """On NVIDIA cards, the kernel and the driver attribute the same memory to a consumer."""
    dmem = facts.dmem
    if dmem is None:
        return
    shared = list(facts.unit_names.values())
    for name, unit in facts.unit_names.items():
        by_driver_mib = facts.entries.get(name, {}).get("used_mib")
        by_kernel_mib = dmem.nvidia_mib.get(unit)
        if by_driver_mib is None or by_kernel_mib is None or shared.count(unit) > 1 or unit in dmem.uncounted:
            continue
        if abs(int(by_driver_mib) - by_kernel_mib) > TOLERATED_MIB:
            yield note(
                f"{name}: the driver counts {by_driver_mib} MiB for {unit}, the kernel {by_kernel_mib} MiB",
                "managed memory (cudaMallocManaged) is in neither; memory of a container may be in one of them only",
            )
