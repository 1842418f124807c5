"""The power state of the cards of a driver, as the kernel's runtime power management reports it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum


class DriverState(StrEnum):
    """Whether gpumand holds the driver open.

    Attributes:
        OPEN: devices are read at every interval.
        RESTING: nothing needs the readings; a request opens the driver again.
        RELEASED: an administrator needs the driver; requests wait until gpumand may take it again.
    """

    OPEN = "open"
    RESTING = "resting"
    RELEASED = "released"


class CardState(StrEnum):
    """State of one card: the values of ``power/runtime_status`` that differ for gpumand."""

    ACTIVE = "active"
    ASLEEP = "suspended"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class CardPower:
    """Power state of one card.

    Attributes:
        address: PCI address, as in ``0000:01:00.0``.
        state: whether it sleeps.
        can_sleep: the kernel may suspend it while no program uses it.
    """

    address: str
    state: CardState = CardState.UNKNOWN
    can_sleep: bool = False


@dataclass(frozen=True, slots=True)
class DriverPower:
    """Power states of all cards of a driver; () where they are unknown, so that no card counts as asleep."""

    cards: tuple[CardPower, ...] = ()

    @property
    def can_sleep(self) -> bool:
        """Whether any card would sleep if no program used it. An open driver keeps it awake."""
        return any(card.can_sleep for card in self.cards)

    @property
    def is_asleep(self) -> bool:
        """Whether a card sleeps, so that opening the driver would wake it."""
        return any(card.can_sleep and card.state is CardState.ASLEEP for card in self.cards)

    def is_suspended(self, addresses: Collection[str]) -> bool:
        """Whether the card with one of these PCI addresses is suspended."""
        return any(card.state is CardState.ASLEEP and card.address in addresses for card in self.cards)


NO_POWER = DriverPower()
