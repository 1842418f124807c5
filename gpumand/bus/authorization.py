"""Who may do what: one table, and one seam for who decides.

A test walks the introspection data and fails on any method that is missing from the table: a new method is closed
until somebody has thought about it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from gpumand.bus.names import INTROSPECTABLE, MANAGER, OBJECT_MANAGER, PEER, PROPERTIES
from gpumand.domain.errors import AccessDenied
from gpumand.domain.lease import Owner


class Action(StrEnum):
    """What is asked for; the names are those of the polkit actions."""

    ACQUIRE = "org.gpumand1.acquire"
    EVICT = "org.gpumand1.evict"
    RELEASE_ANY = "org.gpumand1.release-any"
    CONFIGURE = "org.gpumand1.configure"


OPEN = None
"""Reads, open to all who may talk to us at all."""

ACTIONS: Mapping[tuple[str, str], Action | None] = {
    (MANAGER, "Acquire"): Action.ACQUIRE,
    (MANAGER, "Release"): Action.RELEASE_ANY,
    (MANAGER, "Renew"): Action.RELEASE_ANY,
    (MANAGER, "GetStatus"): OPEN,
    (MANAGER, "GetHistory"): OPEN,
    (MANAGER, "Plan"): OPEN,
    (MANAGER, "Load"): Action.ACQUIRE,
    (MANAGER, "Evict"): Action.EVICT,
    (MANAGER, "Pin"): Action.CONFIGURE,
    (MANAGER, "Unpin"): Action.CONFIGURE,
    (MANAGER, "Reload"): Action.CONFIGURE,
    (PEER, "Ping"): OPEN,
    (PEER, "GetMachineId"): OPEN,
    (INTROSPECTABLE, "Introspect"): OPEN,
    (PROPERTIES, "Get"): OPEN,
    (PROPERTIES, "GetAll"): OPEN,
    (PROPERTIES, "Set"): OPEN,  # no property of gpumand can be set; the log's level, which can, asks who it is itself
    (OBJECT_MANAGER, "GetManagedObjects"): OPEN,
}


@dataclass(frozen=True, slots=True)
class Details:
    """What an action is about.

    Attributes:
        consumer: its name, "" where there is none.
        consumer_unit: that consumer's unit, "" where there is none.
        lease: id of the lease, "" where there is none.
        lease_owner_uid: whose it is, None where there is no lease.
    """

    consumer: str = ""
    consumer_unit: str = ""
    lease: str = ""
    lease_owner_uid: int | None = None

    def pairs(self) -> dict[str, str]:
        """What a person who is asked gets to see, as polkit takes it."""
        named = {"consumer": self.consumer, "unit": self.consumer_unit, "lease": self.lease}
        return {key: value for key, value in named.items() if value}


class Authority(Protocol):
    """Decides; what it lets pass without raising is allowed."""

    async def check(self, caller: Owner, action: Action, details: Details, interactive: bool) -> None:
        """Return when the caller may do this.

        Args:
            interactive: the caller allows that a person is asked.

        Raises:
            AccessDenied: it may not.
            InteractiveAuthorizationRequired: a person could be asked, but the caller does not allow it.
        """


def needs_no_permission(caller: Owner, action: Action, details: Details) -> bool:
    """What a caller may do by what it is, whoever else decides: its own leases, and its own unit's consumer."""
    if action is Action.RELEASE_ANY:
        return caller.uid == details.lease_owner_uid
    return action is Action.ACQUIRE and caller.unit != "" and caller.unit == details.consumer_unit


class UidAuthority:
    """Decides by uid and unit alone.

    Args:
        own_uid: the daemon's.
        system_bus: whether callers are those of the system bus. Elsewhere (a session, ``--user``, a private address)
            nobody but the daemon's own user has business with it.
    """

    def __init__(self, own_uid: int, system_bus: bool) -> None:
        self.trusted_uids = frozenset({0, own_uid})
        self._who = "root" if system_bus else f"uid {own_uid}"

    async def check(self, caller: Owner, action: Action, details: Details, interactive: bool) -> None:
        """See ``Authority``; never asks a person. Raises AccessDenied."""
        if caller.uid in self.trusted_uids or needs_no_permission(caller, action, details):
            return
        raise AccessDenied(refusal(caller, action, details, self._who))


def refusal(caller: Owner, action: Action, details: Details, who: str) -> str:
    """One line for whoever is refused: what it may not, and who may; ``who`` may always."""
    return f"uid {caller.uid} may not {deed(action, details)}; {_who_may(action, details, who)}"


def _who_may(action: Action, details: Details, who: str) -> str:
    if action is Action.RELEASE_ANY:
        return f"{who} and its owner (uid {details.lease_owner_uid}) may"
    if action is Action.ACQUIRE and details.consumer_unit:
        return f"{who} and the unit {details.consumer_unit} may"
    return f"{who} may"


def deed(action: Action, details: Details) -> str:
    """What an action would do, as people say it."""
    deeds = {
        Action.ACQUIRE: f"acquire {details.consumer}",
        Action.EVICT: f"evict {details.consumer}",
        Action.RELEASE_ANY: f"release or renew lease {details.lease}",
        Action.CONFIGURE: "configure gpumand",
    }
    return deeds[action]
