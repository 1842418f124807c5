"""Memory that stays in use after an eviction although the processes of the consumer are gone.

A driver may keep memory of a process that has ended, and managed memory or a container is never named as a process's
own. A consumer whose memory stays was not evicted, whatever its unit and the process list say.
"""

from __future__ import annotations

from collections.abc import Mapping

from gpumand.domain import budget
from gpumand.domain.device import Sample
from gpumand.domain.eviction_check import SLACK_MIB, EvictionCheck, MultiDeviceEvictionCheck
from gpumand.domain.name_lists import join_names
from gpumand.domain.wording import describe_process, format_mib


def describe(check: MultiDeviceEvictionCheck, now: Mapping[int, Sample]) -> str:
    """What stays in use on each device, as a clause that follows an error; "" where nothing does.

    Args:
        check: the memory before the eviction.
        now: the last sample of each device.
    """
    left = {device: left_mib(one, now[device]) for device, one in check.checks.items()}
    parts = [
        f"{mib} MiB stay in use on device {device} by processes that the driver does not name"
        for device, mib in left.items()
        if mib
    ]
    return ", ".join(parts)


def describe_users(check: MultiDeviceEvictionCheck, now: Mapping[int, Sample]) -> str:
    """What uses the devices where the victim's own memory cannot be told apart, as a clause; "" elsewhere."""
    parts = [
        f"device {device} is in use by {join_names(users)}"
        for device, one in check.checks.items()
        if one.held_before_mib is None and (users := _users(now[device]))
    ]
    return f"; {', '.join(parts)}" if parts else ""


def _users(sample: Sample) -> list[str]:
    unnamed_mib = budget.unnamed_mib(sample) or 0
    named = [one for one in budget.foreign_processes(sample) if one.used_mib]
    users = [f"{describe_process(one)} with {format_mib(one.used_mib or 0)}" for one in named[:3]]
    if unnamed_mib > budget.UNNAMED_NOISE_MIB:
        users.append(f"processes that the driver does not name with {format_mib(unnamed_mib)}")
    return users


def left_mib(check: EvictionCheck, now: Sample) -> int:
    """MiB that ended processes of the victim should have freed, and that no process in the driver's list has taken.

    0 where its processes still hold memory, since the driver names that, and where free memory proves nothing.
    """
    device_mib = check.device_mib(now)
    if device_mib is None or not check.released_by_processes(now):
        return 0
    # Another process may have taken the freed memory meanwhile; the driver names that one.
    taken_mib = max(0, _others_mib(check, now) - _others_mib(check, check.before))
    found_mib = max(0, device_mib) + taken_mib
    is_found = found_mib >= check.must_show_mib // 2 - SLACK_MIB
    return 0 if is_found else check.must_show_mib - found_mib


def _others_mib(check: EvictionCheck, sample: Sample) -> int:
    return sum(process.used_mib or 0 for process in sample.processes if process.consumer != check.spec.name)
