"""Authorization of D-Bus calls: which action each method needs, and which callers are allowed.

A test compares ``ACTIONS`` with the introspection data and fails on a method without an entry, so no new method is
callable before its action has been decided.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from shlex import quote
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
    RELEASE_GPU = "org.gpumand1.release-gpu"


GROUP = "gpumand"
"""Members of this group may perform ``GROUP_ACTIONS`` without a password (org.gpumand1.rules)."""

GROUP_ACTIONS = frozenset({Action.ACQUIRE})

UNRESTRICTED = None
"""The action of methods that every caller may use: they only read."""

ACTIONS: Mapping[tuple[str, str], Action | None] = {
    (MANAGER, "Acquire"): Action.ACQUIRE,
    (MANAGER, "Release"): Action.RELEASE_ANY,
    (MANAGER, "Renew"): Action.RELEASE_ANY,
    (MANAGER, "Cancel"): Action.RELEASE_ANY,
    (MANAGER, "GetStatus"): UNRESTRICTED,
    (MANAGER, "GetHistory"): UNRESTRICTED,
    (MANAGER, "Plan"): UNRESTRICTED,
    (MANAGER, "Load"): Action.ACQUIRE,
    (MANAGER, "Evict"): Action.EVICT,
    (MANAGER, "Pin"): Action.CONFIGURE,
    (MANAGER, "Unpin"): Action.CONFIGURE,
    (MANAGER, "Reload"): Action.CONFIGURE,
    (MANAGER, "ReleaseGpu"): Action.RELEASE_GPU,
    (MANAGER, "TakeGpu"): Action.RELEASE_GPU,
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
        method: the called method of the Manager, for error messages.
        consumer: name of the consumer, "" for actions without one.
        consumer_unit: systemd unit of that consumer, "" when it has none.
        lease: id of the lease, "" for actions without one.
        request: id of the waiting request, "" for actions without one.
        owner_uid: user id of the owner of the lease or request, None for actions without either.
        on_behalf: the user and host for which the caller says that it acts; "" = for itself.
        force: the eviction is to revoke leases, and to end work.
        fleet: "unique" for a consumer that one host of a fleet only may have loaded; "" otherwise.
    """

    method: str
    consumer: str = ""
    consumer_unit: str = ""
    lease: str = ""
    request: str = ""
    owner_uid: int | None = None
    on_behalf: str = ""
    force: bool = False
    fleet: str = ""

    def polkit_details(self) -> dict[str, str]:
        """Return the details for CheckAuthorization; polkit shows them in the password dialog."""
        details = {"consumer": self.consumer, "unit": self.consumer_unit, "lease": self.lease}
        details |= {"on_behalf": self.on_behalf, "force": "true" if self.force else "", "fleet": self.fleet}
        return {key: value for key, value in details.items() if value}


class UserNames(Protocol):
    """Finds the names of users."""

    async def name_of(self, uid: int) -> str:
        """Return the login name of a user, or "" if it is unknown or not found within a short time; never raises."""


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

    A user may release and renew its own leases, and cancel its own requests. A unit may acquire the consumer that it
    runs.
    """
    if action is Action.RELEASE_ANY:
        return caller.uid == details.owner_uid
    return action is Action.ACQUIRE and caller.unit != "" and caller.unit == details.consumer_unit


class UidAuthority:
    """Decides by user id and unit alone, without polkit.

    Root and the daemon's own user are always allowed. This is for a session bus or a private bus, where other users
    have no access.

    Args:
        own_uid: user id of the daemon.
        users: names users in error messages.
    """

    def __init__(self, own_uid: int, users: UserNames) -> None:
        self.trusted_uids = frozenset({0, own_uid})
        self._own_uid = own_uid
        self._users = users

    async def check(self, caller: Owner, action: Action, details: Details, interactive: bool) -> None:
        """Check a call as described in ``Authority``, without any dialog. Raises AccessDenied."""
        if caller.uid in self.trusted_uids or is_allowed_without_asking(caller, action, details):
            return
        denial = await describe_denial(self._users, caller, details)
        own_user = f"{await describe_user(self._users, self._own_uid)} or as " if self._own_uid != 0 else ""
        raise AccessDenied(f"{denial}. Run the command as {own_user}root.")


# -- error messages ----------------------------------------------------------------------------------------------------


async def describe_user(users: UserNames, uid: int) -> str:
    """Return a user as text: "user alice", or "uid 1001" if the name is unknown."""
    name = await users.name_of(uid)
    return f"user {name}" if name else f"uid {uid}"


async def describe_denial(users: UserNames, caller: Owner, details: Details) -> str:
    """Return what was refused, without a full stop: a reason or an advice follows."""
    return permission_denied(await describe_user(users, caller.uid), await describe_action(users, details))


def permission_denied(user: str, action: str) -> str:
    """Return the first clause of every refusal: ``user`` is a result of ``describe_user``, ``action`` a verb phrase."""
    return f"Permission denied: {user} may not {action}"


async def describe_action(users: UserNames, details: Details) -> str:
    """Return a verb phrase for the called method, such as "acquire comfyui"."""
    if details.owner_uid is not None:
        owner = await describe_user(users, details.owner_uid)
        thing = f"request {details.request}" if details.request else f"lease {details.lease}"
        return f"{details.method.lower()} {thing} of {owner}"
    if details.method in ("Acquire", "Plan") and not details.consumer:
        return "reserve VRAM"
    return f"{details.method.lower()} {details.consumer or 'the configuration'}"


async def advice_for(users: UserNames, caller: Owner, action: Action, details: Details) -> list[str]:
    """Return the ways in which a caller can get permission from polkit, as imperative clauses.

    The group permits only ``GROUP_ACTIONS``. All other actions need an administrator, so the advice is the command that
    an administrator uses.
    """
    if action not in GROUP_ACTIONS:
        return [_how_to_use_sudo(details)]
    if details.fleet:
        fleet = f"use the fleet: gpumanctl --fleet {details.method.lower()} {quote(details.consumer)}"
        return [fleet, _how_to_use_sudo(details)]
    name = await users.name_of(caller.uid)
    command = f"sudo gpasswd --add {quote(name) if name else 'USER'} {GROUP}"
    who = name or "this user"
    return [f"add {who} to the {GROUP} group ({command}, then {_how_to_get_new_groups(caller.unit)})", "use sudo"]


def _how_to_get_new_groups(unit: str) -> str:
    """Return how a caller gets the groups that its user has now; processes keep those they started with."""
    is_service = unit.endswith(".service") and not unit.startswith("user@")
    return f"restart {unit}" if is_service else "log in again"


def _how_to_use_sudo(details: Details) -> str:
    """Return the command of an administrator for the called method, as an imperative clause."""
    words = ("sudo", "gpumanctl", details.method.lower(), details.lease or details.request or details.consumer)
    return f"use sudo: {' '.join(quote(word) for word in words if word)}"


def join_advice(alternatives: list[str]) -> str:
    """Return alternatives as one sentence; a command at the end gets no full stop, so that it can be copied."""
    first, *others = alternatives
    sentence = f"{first[0].upper()}{first[1:]}"
    if others:
        sentence += "".join(f", {one}" for one in others[:-1]) + f", or {others[-1]}"
    return sentence if ": sudo" in alternatives[-1] else f"{sentence}."
