"""Authorization of D-Bus calls: which action each method needs, and which callers are allowed.

A test compares ``ACTIONS`` with the introspection data and fails on a method without an entry, so no new method is
callable before its action has been decided.
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
    """An action that needs permission; the value is the name of the polkit action."""

    ACQUIRE = "org.gpumand1.acquire"
    EVICT = "org.gpumand1.evict"
    RELEASE_ANY = "org.gpumand1.release-any"
    CONFIGURE = "org.gpumand1.configure"


UNRESTRICTED = None
"""The action of methods that every caller may use: they only read."""

ACTIONS: Mapping[tuple[str, str], Action | None] = {
    (MANAGER, "Acquire"): Action.ACQUIRE,
    (MANAGER, "Release"): Action.RELEASE_ANY,
    (MANAGER, "Renew"): Action.RELEASE_ANY,
    (MANAGER, "GetStatus"): UNRESTRICTED,
    (MANAGER, "GetHistory"): UNRESTRICTED,
    (MANAGER, "Plan"): UNRESTRICTED,
    (MANAGER, "Load"): Action.ACQUIRE,
    (MANAGER, "Evict"): Action.EVICT,
    (MANAGER, "Pin"): Action.CONFIGURE,
    (MANAGER, "Unpin"): Action.CONFIGURE,
    (MANAGER, "Reload"): Action.CONFIGURE,
    (PEER, "Ping"): UNRESTRICTED,
    (PEER, "GetMachineId"): UNRESTRICTED,
    (INTROSPECTABLE, "Introspect"): UNRESTRICTED,
    (PROPERTIES, "Get"): UNRESTRICTED,
    (PROPERTIES, "GetAll"): UNRESTRICTED,
    # Only the log level can be set, and LogControl checks the caller itself.
    (PROPERTIES, "Set"): UNRESTRICTED,
    (OBJECT_MANAGER, "GetManagedObjects"): UNRESTRICTED,
}


@dataclass(frozen=True, slots=True)
class Details:
    """The objects that an action applies to.

    Attributes:
        consumer: name of the consumer, "" for actions without one.
        consumer_unit: systemd unit of that consumer, "" when it has none.
        lease: id of the lease, "" for actions without one.
        lease_owner_uid: user id of the lease's owner, None for actions without a lease.
    """

    consumer: str = ""
    consumer_unit: str = ""
    lease: str = ""
    lease_owner_uid: int | None = None

    def polkit_details(self) -> dict[str, str]:
        """Return the details for CheckAuthorization; polkit shows them in the password dialog."""
        details = {"consumer": self.consumer, "unit": self.consumer_unit, "lease": self.lease}
        return {key: value for key, value in details.items() if value}


class Authority(Protocol):
    """Decides whether a caller may perform an action."""

    async def check(self, caller: Owner, action: Action, details: Details, interactive: bool) -> None:
        """Return if the caller is allowed to perform the action, and raise otherwise.

        Args:
            interactive: the caller allows a password dialog.

        Raises:
            AccessDenied: the caller is not allowed.
            InteractiveAuthorizationRequired: a password would allow it, but the caller does not allow a dialog.
        """


def is_allowed_without_asking(caller: Owner, action: Action, details: Details) -> bool:
    """Whether a caller is allowed without asking polkit.

    A user may release and renew its own leases. A unit may acquire the consumer that it runs.
    """
    if action is Action.RELEASE_ANY:
        return caller.uid == details.lease_owner_uid
    return action is Action.ACQUIRE and caller.unit != "" and caller.unit == details.consumer_unit


class UidAuthority:
    """Decides by user id and unit alone, without polkit.

    Root and the daemon's own user are always allowed.

    Args:
        own_uid: user id of the daemon.
        system_bus: whether the callers are on the system bus. It only selects the name shown in error messages:
            "root", or the daemon's own uid on a session bus or a private bus, where other users have no access.
    """

    def __init__(self, own_uid: int, system_bus: bool) -> None:
        self.trusted_uids = frozenset({0, own_uid})
        self._always_allowed = "root" if system_bus else f"uid {own_uid}"

    async def check(self, caller: Owner, action: Action, details: Details, interactive: bool) -> None:
        """Check a call as described in ``Authority``, without any dialog. Raises AccessDenied."""
        if caller.uid in self.trusted_uids or is_allowed_without_asking(caller, action, details):
            return
        raise AccessDenied(denial_message(caller, action, details, self._always_allowed))


def denial_message(
    caller: Owner, action: Action, details: Details, always_allowed: str, *, by_polkit: bool = False
) -> str:
    """Return the one-line error for a caller that is refused: the action, and the callers that are allowed.

    Args:
        always_allowed: name of the user that needs no permission, such as "root".
        by_polkit: callers that polkit authorizes are allowed too.
    """
    allowed = _allowed_callers(action, details, always_allowed)
    if by_polkit:
        allowed.append(f"callers that polkit authorizes for {action}")
    return permission_denied(caller.uid, describe_action(action, details), allowed)


def permission_denied(uid: int, action: str, allowed: list[str]) -> str:
    """Return the wording of every refusal: ``action`` is a verb phrase, ``allowed`` names callers."""
    return f"Permission denied: uid {uid} may not {action} (allowed: {', '.join(allowed)})"


def _allowed_callers(action: Action, details: Details, always_allowed: str) -> list[str]:
    if action is Action.RELEASE_ANY:
        return [always_allowed, f"its owner (uid {details.lease_owner_uid})"]
    if action is Action.ACQUIRE and details.consumer_unit:
        return [always_allowed, f"the unit {details.consumer_unit}"]
    return [always_allowed]


def describe_action(action: Action, details: Details) -> str:
    """Return a verb phrase for an action, such as "acquire comfyui"."""
    phrases = {
        Action.ACQUIRE: f"acquire {details.consumer}",
        Action.EVICT: f"evict {details.consumer}",
        Action.RELEASE_ANY: f"release or renew lease {details.lease}",
        Action.CONFIGURE: "configure gpumand",
    }
    return phrases[action]
