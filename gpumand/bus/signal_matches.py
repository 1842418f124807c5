"""Subscriptions to D-Bus signals: installs match rules on the bus, and delivers signals to callbacks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, fields
from typing import Any

from gpumand.bus.connection_errors import BusError
from gpumand.bus.names import DBUS, DBUS_PATH
from gpumand.bus.variants import unwrap

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Signal:
    """A signal as received; ``sender`` is a unique name or the bus itself, ``body`` holds plain values."""

    sender: str
    path: str
    interface: str
    member: str
    body: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class MatchRule:
    """The signals that a subscription selects; an empty field matches everything."""

    sender: str = ""
    path: str = ""
    path_namespace: str = ""
    interface: str = ""
    member: str = ""
    arg0: str = ""

    def text(self) -> str:
        """Return the rule as text for AddMatch."""
        given = [(field.name, getattr(self, field.name)) for field in fields(self)]
        return ",".join(["type='signal'", *(f"{key}={_quoted(value)}" for key, value in given if value)])

    def matches(self, signal: Signal) -> bool:
        """Whether the rule selects the signal, regardless of its sender."""
        return (
            self.member in ("", signal.member)
            and self.interface in ("", signal.interface)
            and self.path in ("", signal.path)
            and (not self.arg0 or (bool(signal.body) and signal.body[0] == self.arg0))
            and self._in_namespace(signal.path)
        )

    def _in_namespace(self, path: str) -> bool:
        space = self.path_namespace
        return not space or space in ("/", path) or path.startswith(space + "/")


def _quoted(value: str) -> str:
    """Quote a value for a match rule: within quotes only the quote itself is special, so it is written outside them."""
    return "'" + value.replace("'", "'\\''") + "'"


class Subscription:
    """A subscription to signals that lasts until it is cancelled."""

    def __init__(self, rule: MatchRule, callback: Callable[[Signal], None], router: SignalRouter) -> None:
        self.rule = rule
        self.callback = callback
        self._router = router

    async def cancel(self) -> None:
        """Stop the callbacks at once. Harmless when repeated, or when the connection is gone."""
        self._router.unsubscribe(self)


class _InstalledRule:
    """A match rule on the bus, shared by all subscriptions with the same rule."""

    def __init__(self, adding: asyncio.Future[tuple[Any, ...]]) -> None:
        self.adding = adding
        self.users = 0


class _NameOwner:
    """The current owner of a well-known name, kept up to date with NameOwnerChanged."""

    def __init__(self) -> None:
        self.unique_name = ""
        self.signal_received = False
        self.users = 0
        self.lookup: asyncio.Task[None] | None = None
        self.watch: Subscription | None = None


class SignalRouter:
    """Manages the match rules of one connection, and delivers signals in the order of their arrival.

    Args:
        call: calls a method of the bus itself with one string, and returns the reply.
        call_no_reply: the same, without waiting for a reply.
    """

    def __init__(
        self, call: Callable[[str, str], Awaitable[tuple[Any, ...]]], call_no_reply: Callable[[str, str], None]
    ) -> None:
        self._call = call
        self._call_no_reply = call_no_reply
        self._subscriptions: dict[int, Subscription] = {}
        self._installed: dict[MatchRule, _InstalledRule] = {}
        self._owners: dict[str, _NameOwner] = {}

    async def subscribe(self, rule: MatchRule, callback: Callable[[Signal], None]) -> Subscription:
        """Start delivering signals; on return the bus has the rule and the owner of the sender's name is known."""
        subscription = Subscription(rule, callback, self)
        self._subscriptions[id(subscription)] = subscription
        installed = self._install(rule)
        owner = self._track_owner(rule.sender)
        try:
            # Shielded: other subscriptions share these calls, and cancelling this one must not cancel them.
            await asyncio.shield(installed.adding)
            if owner is not None and owner.lookup is not None:
                await asyncio.shield(owner.lookup)
        except BaseException:
            # Also on cancellation: a subscription that the caller never gets could not be cancelled later.
            self.unsubscribe(subscription)
            raise
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """Stop delivering; the last subscription with a rule removes it from the bus."""
        if self._subscriptions.pop(id(subscription), None) is None:
            return
        self._uninstall(subscription.rule)
        self._untrack_owner(subscription.rule.sender)

    def dispatch(self, sender: str, path: str, interface: str, member: str, body: list[Any]) -> None:
        """Call the callbacks of all matching subscriptions, in the order in which they were made."""
        signal = Signal(sender, path, interface, member, tuple(unwrap(body)))
        # A copy, since callbacks may subscribe and unsubscribe.
        for subscription in tuple(self._subscriptions.values()):
            wanted = subscription.rule.matches(signal) and self._is_from(subscription.rule.sender, sender)
            # An earlier callback may have cancelled this subscription.
            if wanted and id(subscription) in self._subscriptions:
                self._call_back(subscription, signal)

    def _call_back(self, subscription: Subscription, signal: Signal) -> None:
        try:
            subscription.callback(signal)
        except Exception:
            log.exception("a callback for the signal %s.%s failed", signal.interface, signal.member)

    def _is_from(self, wanted: str, sender: str) -> bool:
        """Whether the signal comes from the wanted sender.

        The match rule on the bus is not enough: the bus delivers signals that are addressed to this connection without
        any rule, so any client could forge one.
        """
        if wanted in ("", sender):
            return True
        owner = self._owners.get(wanted)
        return owner is not None and owner.unique_name == sender

    def _install(self, rule: MatchRule) -> _InstalledRule:
        installed = self._installed.get(rule)
        if installed is None:
            installed = _InstalledRule(asyncio.ensure_future(self._call("AddMatch", rule.text())))
            installed.adding.add_done_callback(_consume_exception)
            self._installed[rule] = installed
        installed.users += 1
        return installed

    def _uninstall(self, rule: MatchRule) -> None:
        """Remove one user of a rule, also if adding the rule failed; the bus's error for an unknown rule is ignored."""
        installed = self._installed.get(rule)
        if installed is None:
            return
        installed.users -= 1
        if installed.users == 0:
            # Removed without waiting: a rule that is installed again is added by a later message, so the order is kept.
            del self._installed[rule]
            self._call_no_reply("RemoveMatch", rule.text())

    def _track_owner(self, name: str) -> _NameOwner | None:
        """Start tracking the owner of a well-known name; None for a unique name or the bus, whose owner is fixed."""
        if not name or name.startswith(":") or name == DBUS:
            return None
        owner = self._owners.setdefault(name, _NameOwner())
        owner.users += 1
        if owner.lookup is None:
            owner.lookup = asyncio.ensure_future(self._look_up_owner(name, owner))
            owner.lookup.add_done_callback(_consume_exception)
        return owner

    async def _look_up_owner(self, name: str, owner: _NameOwner) -> None:
        """Watch the name first, then query its owner; a signal that arrives before the reply is the newer one."""

        def changed(signal: Signal) -> None:
            owner.signal_received = True
            owner.unique_name = str(signal.body[2]) if len(signal.body) == 3 else ""

        rule = MatchRule(DBUS, DBUS_PATH, "", DBUS, "NameOwnerChanged", name)
        owner.watch = await self.subscribe(rule, changed)
        try:
            unique_name = await self._query_owner(name)
        finally:
            # The last subscription may have been cancelled meanwhile, before owner.watch was set.
            if owner.users == 0:
                self.unsubscribe(owner.watch)
        if not owner.signal_received:
            owner.unique_name = unique_name

    async def _query_owner(self, name: str) -> str:
        try:
            return str((await self._call("GetNameOwner", name))[0])
        except BusError as error:
            if error.name.endswith(".NameHasNoOwner"):
                return ""
            raise

    def _untrack_owner(self, name: str) -> None:
        owner = self._owners.get(name)
        if owner is None:
            return
        owner.users -= 1
        if owner.users == 0:
            del self._owners[name]
            if owner.watch is not None:
                self.unsubscribe(owner.watch)


def _consume_exception(task: asyncio.Future[Any]) -> None:
    """Read the exception, so that asyncio logs no warning when every waiting subscription was cancelled meanwhile."""
    if not task.cancelled():
        task.exception()
