"""What the processes of reservations hold, and how it counts: against their reservations first, as foreign beyond them.

A program may hold several reservations. Its processes are attributed to the first of them, and their memory fills the
reservations in the order in which they were made, so that the same MiB never counts twice.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from gpumand.domain.device import ProcessUse, Sample
from gpumand.domain.reservation import Holder
from gpumand.domain.view import ConsumerState, View


def filled_mib(sample: Sample, claims: Iterable[ConsumerState]) -> dict[str, int | None]:
    """MiB of each reservation that its program uses on a device, by name; None where the sample cannot say.

    Args:
        sample: the device's reading.
        claims: consumers whose footprint is reserved there, in the order of their claims; others are left out.
    """
    filled: dict[str, int | None] = {}
    for states in _by_holder(claims).values():
        held = [sample.held_by(state.name) for state in states]
        if any(mib is None for mib in held):
            filled |= {state.name: None for state in states}
            continue
        total_mib = sum(mib or 0 for mib in held)
        for state in states:
            filled[state.name] = min(state.footprint_mib, total_mib)
            total_mib -= filled[state.name] or 0
    return filled


def excess_mib(view: View, device: int) -> dict[str, int]:
    """MiB on a device that programs hold beyond their reservations, by the name of their first reservation."""
    sample, excess = view.devices[device], dict[str, int]()
    for states in _by_holder(_claims(view, device)).values():
        held_mib = sum(sample.held_by(state.name) or 0 for state in states)
        beyond_mib = held_mib - sum(state.footprint_mib for state in states)
        if beyond_mib > 0 and not any(is_whole_device(state) for state in states):
            excess[states[0].name] = beyond_mib
    return excess


def excess_processes(view: View, device: int) -> list[ProcessUse]:
    """The processes of programs that hold more than they reserved, each with the amount beyond the reservation."""
    found = []
    for name, mib in excess_mib(view, device).items():
        ours = [process for process in view.devices[device].processes if process.consumer == name]
        largest = max(ours, key=lambda process: process.used_mib or 0, default=None)
        if largest is not None:
            found.append(replace(largest, used_mib=mib))
    return found


def _claims(view: View, device: int) -> list[ConsumerState]:
    there = (state for state in view.claimed if device in state.devices)
    return sorted(there, key=lambda state: (state.claimed_at or 0.0, state.name))


def _by_holder(claims: Iterable[ConsumerState]) -> dict[object, list[ConsumerState]]:
    by_holder: dict[object, list[ConsumerState]] = {}
    for state in claims:
        if state.spec.reservation is not None:
            by_holder.setdefault(_holder_key(state, state.spec.reservation.holder), []).append(state)
    return by_holder


def _holder_key(state: ConsumerState, holder: Holder) -> object:
    """Equal for the reservations of one program; a program that could not be identified shares with no other."""
    return holder.unit or (holder.process if holder.process.pid else state.name)


def is_whole_device(state: ConsumerState) -> bool:
    """Whether it is a reservation of everything on its devices."""
    return state.spec.reservation is not None and state.spec.reservation.whole_device
