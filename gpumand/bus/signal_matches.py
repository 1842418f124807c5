"""Signals: what we ask the bus for, and who gets what comes."""

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
    """A signal as it came; ``sender`` is a unique name (or the bus itself), ``body`` holds plain values."""

    sender: str
    path: str
    interface: str
    member: str
    body: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class MatchRule:
    """Which signals are wanted; an empty field matches everything."""

    sender: str = ""
    path: str = ""
    path_namespace: str = ""
    interface: str = ""
    member: str = ""
    arg0: str = ""

    def text(self) -> str:
        """As AddMatch takes it."""
        given = [(field.name, getattr(self, field.name)) for field in fields(self)]
        return ",".join(["type='signal'", *(f"{key}={_quoted(value)}" for key, value in given if value)])

    def admits(self, signal: Signal) -> bool:
        """Whether the signal is wanted, whoever sent it."""
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
    """Within quotes nothing is special but the quote, which is written outside of them."""
    return "'" + value.replace("'", "'\\''") + "'"


class Subscription:
    """A wish for signals that stands until it is cancelled."""

    def __init__(self, rule: MatchRule, callback: Callable[[Signal], None], router: SignalRouter) -> None:
        self.rule = rule
        self.callback = callback
        self._router = router

    async def cancel(self) -> None:
        """No callback comes after this was called. Harmless when repeated, or when the bus is gone."""
        self._router.unsubscribe(self)


class _Installed:
    """A match rule at the bus, shared by all who want the same."""

    def __init__(self, adding: asyncio.Future[tuple[Any, ...]]) -> None:
        self.adding = adding
        self.users = 0


class _Owner:
    """Who owns a well-known name, kept up to date by NameOwnerChanged."""

    def __init__(self) -> None:
        self.unique_name = ""
        self.heard = False
        self.users = 0
        self.asking: asyncio.Task[None] | None = None
        self.watch: Subscription | None = None


class SignalRouter:
    """Keeps the match rules of one connection, and hands signals out in the order in which they came.

    ``ask`` calls a method of the bus itself and waits for the answer; ``tell`` calls one without waiting.
    """

    def __init__(self, ask: Callable[[str, str], Awaitable[tuple[Any, ...]]], tell: Callable[[str, str], None]) -> None:
        self._ask = ask
        self._tell = tell
        self._subscriptions: dict[int, Subscription] = {}
        self._installed: dict[MatchRule, _Installed] = {}
        self._owners: dict[str, _Owner] = {}

    async def subscribe(self, rule: MatchRule, callback: Callable[[Signal], None]) -> Subscription:
        """Have signals delivered; on return the bus has the rule and the sender's owner is known."""
        subscription = Subscription(rule, callback, self)
        self._subscriptions[id(subscription)] = subscription
        installed = self._install(rule)
        owner = self._follow(rule.sender)
        try:
            await asyncio.shield(installed.adding)
            if owner is not None and owner.asking is not None:
                await asyncio.shield(owner.asking)
        except BaseException:
            self.unsubscribe(subscription)
            raise
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """Stop delivering; the last user of a rule takes it away from the bus."""
        if self._subscriptions.pop(id(subscription), None) is None:
            return
        self._uninstall(subscription.rule)
        self._unfollow(subscription.rule.sender)

    def dispatch(self, sender: str, path: str, interface: str, member: str, body: list[Any]) -> None:
        """Call back everybody who wants this signal, in the order of their subscriptions."""
        signal = Signal(sender, path, interface, member, tuple(unwrap(body)))
        for subscription in tuple(self._subscriptions.values()):
            wanted = subscription.rule.admits(signal) and self._is_from(subscription.rule.sender, sender)
            if wanted and id(subscription) in self._subscriptions:
                self._call_back(subscription, signal)

    def _call_back(self, subscription: Subscription, signal: Signal) -> None:
        try:
            subscription.callback(signal)
        except Exception:
            log.exception("a listener for %s.%s failed", signal.interface, signal.member)

    def _is_from(self, wanted: str, sender: str) -> bool:
        """A match rule alone does not tell: signals that are addressed to us come without any."""
        if wanted in ("", sender):
            return True
        owner = self._owners.get(wanted)
        return owner is not None and owner.unique_name == sender

    def _install(self, rule: MatchRule) -> _Installed:
        installed = self._installed.get(rule)
        if installed is None:
            installed = _Installed(asyncio.ensure_future(self._ask("AddMatch", rule.text())))
            installed.adding.add_done_callback(_retrieve)
            self._installed[rule] = installed
        installed.users += 1
        return installed

    def _uninstall(self, rule: MatchRule) -> None:
        """Also where adding it failed: its users leave one by one, and the bus's "no such rule" goes unheard."""
        installed = self._installed.get(rule)
        if installed is None:
            return
        installed.users -= 1
        if installed.users == 0:
            del self._installed[rule]
            self._tell("RemoveMatch", rule.text())

    def _follow(self, name: str) -> _Owner | None:
        """Start knowing who owns a well-known name; None where the name is an address of itself."""
        if not name or name.startswith(":") or name == DBUS:
            return None
        owner = self._owners.setdefault(name, _Owner())
        owner.users += 1
        if owner.asking is None:
            owner.asking = asyncio.ensure_future(self._learn(name, owner))
            owner.asking.add_done_callback(_retrieve)
        return owner

    async def _learn(self, name: str, owner: _Owner) -> None:
        """Watch first, then ask; what was heard while the answer was on its way is newer than the answer."""

        def changed(signal: Signal) -> None:
            owner.heard = True
            owner.unique_name = str(signal.body[2]) if len(signal.body) == 3 else ""

        rule = MatchRule(DBUS, DBUS_PATH, "", DBUS, "NameOwnerChanged", name)
        owner.watch = await self.subscribe(rule, changed)
        try:
            unique_name = await self._owner_now(name)
        finally:
            if owner.users == 0:
                self.unsubscribe(owner.watch)
        if not owner.heard:
            owner.unique_name = unique_name

    async def _owner_now(self, name: str) -> str:
        try:
            return str((await self._ask("GetNameOwner", name))[0])
        except BusError as error:
            if error.name.endswith(".NameHasNoOwner"):
                return ""
            raise

    def _unfollow(self, name: str) -> None:
        owner = self._owners.get(name)
        if owner is None:
            return
        owner.users -= 1
        if owner.users == 0:
            del self._owners[name]
            if owner.watch is not None:
                self.unsubscribe(owner.watch)


def _retrieve(task: asyncio.Future[Any]) -> None:
    """Whoever waits gets the exception; when nobody does any more, it is of no interest."""
    if not task.cancelled():
        task.exception()
