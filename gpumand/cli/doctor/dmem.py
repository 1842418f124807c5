"""Reads what the kernel says about cards and the VRAM of units, for the doctor. Blocking code."""

from __future__ import annotations

from collections.abc import Collection

from gpumand.cli.doctor.facts import Dmem, UnreadCard
from gpumand.vram.dmem import DmemReader, regions
from gpumand.vram.sysfs import MIB, Root, cards
from gpumand.vram.xe import PROCESSOR_GPU

UNREAD_DRIVERS = ("i915", "nouveau", "radeon")
"""Drivers of cards that show no memory to unprivileged programs."""


def read_dmem(units: Collection[str], root: Root = "/") -> Dmem | None:
    """Read the controller; None if the kernel does not have it, or no driver uses it.

    Args:
        units: units of consumers; others are left out.
        root: root of the file system.
    """
    registered = regions(root)
    if not registered:
        return None
    found = DmemReader(root).read()
    uncounted = frozenset().union(*(one.blind for one in found.values()))
    held: dict[str, int] = {}
    for one in found.values():
        for unit in one.by_unit.keys() & set(units) if one.driver == "nvidia" else ():
            held[unit] = held.get(unit, 0) + one.by_unit[unit] // MIB
    return Dmem(tuple(registered), any(one.enabled for one in found.values()), uncounted & set(units), held)


def unread_cards(root: Root = "/") -> tuple[UnreadCard, ...]:
    """The cards whose driver shows no memory; without the GPU of an Intel processor, which has none of its own."""
    found = (card for card in cards(root).values() if card.driver in UNREAD_DRIVERS and card.bdf != PROCESSOR_GPU)
    return tuple(UnreadCard(card.bdf, card.driver, card.device) for card in found)
