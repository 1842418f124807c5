"""The router's table of the fleet: the newest row of every host, intents, drains, and which hosts cannot be reached.

It is fed by one watch of the store. While the store is away it keeps what it knew last: requests are then placed by an
old table, which the local daemons correct, since each of them has the last word about its own memory.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

from gpumand.fleet.absences import Absences
from gpumand.fleet.json_fields import InvalidJson, one_line
from gpumand.fleet.keys import Keys, is_consumer_name, is_machine_id, last_part
from gpumand.fleet.lease_rows import PublishedLeases
from gpumand.fleet.placement import FleetView
from gpumand.fleet.row_json import parse_host, parse_intent
from gpumand.fleet.rows import HostRow, Intent
from gpumand.fleet.store import Change, Entry, Interrupted, Listing, Removed
from gpumand.fleet.unique_holders import UniqueHolders

LOST_SEC = 5.0
"""A host that could not be reached gets no requests for this long, and until it has published another row."""

MAX_HOSTS = 256
MAX_INTENTS = 4096
MAX_FORGOTTEN = 256
MAX_KEPT = 4096
"""Drains and pins, which stay in the store until they are removed."""


log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class KnownRow:
    """A row and the revision of the store that wrote it."""

    row: HostRow
    revision: int


_BEFORE_ALL = (-1, -1)


@dataclass(frozen=True, slots=True)
class KnownIntent:
    """An intent and the revision of the store that wrote it."""

    intent: Intent
    revision: int


@dataclass(frozen=True, slots=True)
class _Loss:
    """The moment at which a host could not be reached, and the last row that it had published."""

    at: float
    order: tuple[int, int]
    reason: str


class HostTable:
    """The known state of the fleet. Create it inside a running event loop.

    Args:
        keys: the keys of the fleet.
        clock: monotonic seconds.

    Attributes:
        interruption: why the store gives no news; "" while it does.
        leases: the leases that the hosts publish.
        holders: the hosts that hold unique consumers.
        absences: the hosts that were in the table a moment ago.
    """

    def __init__(self, keys: Keys, clock: Callable[[], float]) -> None:
        self.interruption = "the store was not read yet"
        self.leases = PublishedLeases(keys)
        self.holders = UniqueHolders(keys)
        self.absences = Absences(clock)
        self._keys, self._clock = keys, clock
        self._rows: dict[str, KnownRow] = {}
        self._intents: dict[str, KnownIntent] = {}
        self._drains: set[str] = set()
        self._pins: dict[str, str] = {}
        self._losses: dict[str, _Loss] = {}
        self._revision = self._watched = 0
        self._forgotten: deque[str] = deque(maxlen=MAX_FORGOTTEN)
        self._changed = asyncio.Event()

    # -- reading -------------------------------------------------------------------------------------------------

    @property
    def revision(self) -> int:
        """The newest revision of the store that the table contains."""
        return self._revision

    @property
    def rows(self) -> Mapping[str, KnownRow]:
        """The row of each host, by machine id."""
        return self._rows

    @property
    def drained(self) -> frozenset[str]:
        """Machine ids of the hosts that an administrator drains."""
        return frozenset(self._drains | {name for name, one in self._rows.items() if one.row.draining})

    def has_drain(self, machine_id: str) -> bool:
        """Whether an administrator drains a host; a row also says that it drains while its agent stops."""
        return machine_id in self._drains

    def view(self) -> FleetView:
        """What placement needs, at this moment."""
        intents: dict[str, tuple[Intent, ...]] = {}
        for key, known in self._intents.items():
            name = _consumer_of(last_part(key, self._keys.intents))
            intents[name] = (*intents.get(name, ()), known.intent)
        rows = {name: one.row for name, one in self._rows.items()}
        return FleetView(rows, frozenset(self.losses()), self.drained, intents, dict(self._pins))

    def has_intent(self, consumer: str, host: str, revision: int) -> bool:
        """Whether the intent that was created at a revision, or a later one, to load a consumer on a host, stands.

        Each extension writes the intent again, so its revision rises while a request waits.
        """
        wanted = self._keys.intent(consumer)
        return any(
            one.revision >= revision and one.intent.host == host
            for key, one in self._intents.items()
            if key == wanted or key.startswith(f"{wanted}/")
        )

    async def wait_watched(self, revision: int, timeout_sec: float) -> bool:
        """Wait until the watch has reported a revision; False if it has not in time."""
        deadline = self._clock() + timeout_sec
        while self._watched < revision:
            if not await self.wait_changed(deadline - self._clock()):
                return False
        return True

    def losses(self) -> dict[str, str]:
        """Why each host that cannot be reached counts as lost, by machine id."""
        return {name: loss.reason for name, loss in self._losses.items() if self._is_lost(name, loss)}

    def find(self, host: str) -> KnownRow | None:
        """The host of this name or machine id."""
        if host in self._rows:
            return self._rows[host]
        return next((one for one in self._rows.values() if one.row.name == host), None)

    def named(self, name: str) -> list[HostRow]:
        """All hosts of a name: nothing prevents two hosts from having the same."""
        return [one.row for one in self._rows.values() if one.row.name == name]

    async def wait_changed(self, timeout_sec: float) -> bool:
        """Wait for a change of the table; False if there was none in time."""
        try:
            async with asyncio.timeout(max(0.0, timeout_sec)):
                await self._changed.wait()
        except TimeoutError:
            return False
        return True

    # -- changes -------------------------------------------------------------------------------------------------

    def apply(self, change: Change) -> None:
        """Take over what the watch reports."""
        if isinstance(change, Interrupted):
            if not self.interruption:
                log.warning("the store gives no news, requests are placed by the last table: %s", change.reason)
            self.interruption = change.reason or "the store gives no news"
        elif isinstance(change, Listing):
            self._replace(change)
        elif isinstance(change, Removed):
            self._remove(change.key)
            self._revision = self._watched = max(self._revision, change.revision)
        else:
            self._write(change.entry)
            self._watched = max(self._watched, change.entry.revision)
        self._announce()

    def learn(self, entry: Entry) -> None:
        """Take over an entry that a call of the store returned, unless the watch has passed it already."""
        if entry.revision > self._watched:
            self._write(entry)
            self._announce()

    def note_own(self, row: HostRow) -> None:
        """Take over this host's own row while the store gives no news: a host alone still serves its own users."""
        known = self._rows.get(row.machine_id)
        if self.interruption and (known is None or row.order > known.row.order):
            self._keep(KnownRow(row, 0 if known is None else known.revision))
            self._announce()

    def forget_intent(self, key: str, value: str) -> None:
        """An intent of this router is being removed: the watch may report it still, which counts no more."""
        self._forgotten.append(value)
        if key in self._intents and self._intents[key].intent == parse_intent(value):
            del self._intents[key]
            self._announce()

    def note_lost(self, machine_id: str, reason: str) -> None:
        """A host could not be reached, or stopped to answer."""
        if (known := self._rows.get(machine_id)) is not None:
            log.warning("%s is lost: %s", known.row.name or machine_id, reason)
            self._losses[machine_id] = _Loss(self._clock(), known.row.order, reason)
            self._announce()

    def note_reached(self, machine_id: str) -> None:
        """A host has answered."""
        self._losses.pop(machine_id, None)

    def _announce(self) -> None:
        # All that wait for this event continue; a later wait is for the next change.
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _is_lost(self, name: str, loss: _Loss) -> bool:
        known = self._rows.get(name)
        # A new row proves only that the host reaches the store, so it is not tried more often than every few seconds.
        return known is not None and (self._clock() - loss.at < LOST_SEC or known.row.order <= loss.order)

    def _replace(self, listing: Listing) -> None:
        """A listing is complete: what is not in it is gone."""
        if self.interruption:
            log.info("the store gives news")
        self.interruption = ""
        if listing.revision < self._watched:
            # A store never goes back: its data was lost, and it was set up again.
            log.warning("the store was set up again: revision %d after %d", listing.revision, self._watched)
            self._revision = 0
        keys = {entry.key for entry in listing.entries}
        for key in self._all_keys() - keys:
            self._remove(key)
        for entry in listing.entries:
            self._write(entry)
        self._revision = max(self._revision, listing.revision)
        self._watched = listing.revision

    def _all_keys(self) -> set[str]:
        hosts = {self._keys.host(name) for name in self._rows}
        drains = {self._keys.drain(name) for name in self._drains}
        pins = {self._keys.pin(name) for name in self._pins}
        return hosts | drains | set(self._intents) | pins | self.leases.keys | self.holders.keys

    def _write(self, entry: Entry) -> None:
        self._revision = max(self._revision, entry.revision)
        try:
            self._parse(entry)
        except (InvalidJson, ValueError) as error:
            log.warning("%s in the store is ignored: %s", one_line(entry.key, 200), error)

    def _parse(self, entry: Entry) -> None:
        keys, key = self._keys, entry.key
        if machine_id := last_part(key, keys.hosts):
            self._write_row(machine_id, parse_host(entry.value), entry.revision)
        elif name := last_part(key, keys.intents):
            self._write_intent(entry, name)
        elif self.leases.holds(key):
            self.leases.write(entry)
        elif self.holders.has_key(key):
            self.holders.write(entry)
        elif (name := last_part(key, keys.drains)) and is_machine_id(name):
            _check_room(self._drains, name, MAX_KEPT, "drains")
            self._drains.add(name)
        elif (name := last_part(key, keys.pins)) and is_consumer_name(name) and is_machine_id(entry.value):
            _check_room(self._pins, name, MAX_KEPT, "pins")
            self._pins[name] = entry.value

    def _write_intent(self, entry: Entry, name: str) -> None:
        if is_consumer_name(_consumer_of(name)) and entry.value not in self._forgotten:
            _check_room(self._intents, entry.key, MAX_INTENTS, "intents")
            self._intents[entry.key] = KnownIntent(parse_intent(entry.value), entry.revision)

    def _write_row(self, machine_id: str, row: HostRow, revision: int) -> None:
        if row.machine_id != machine_id:
            raise InvalidJson(f"it is the row of another host, {row.machine_id}")
        _check_room(self._rows, machine_id, MAX_HOSTS, "hosts")
        known = self._rows.get(machine_id)
        # Rows can arrive in another order than they were written, from peers and after an interruption.
        if known is None or row.order >= known.row.order:
            self._keep(KnownRow(row, revision))

    def _keep(self, known: KnownRow) -> None:
        before = self._rows.get(known.row.machine_id)
        self.absences.note_replaced(None if before is None else before.row, known.row)
        self._rows[known.row.machine_id] = known

    def _remove_row(self, machine_id: str) -> None:
        """Forget a row. If the host was lost, any row that it publishes later is a new one, whatever its order."""
        if (known := self._rows.pop(machine_id, None)) is None:
            return
        self.absences.note_removed(known.row)
        if (loss := self._losses.get(machine_id)) is not None:
            self._losses[machine_id] = replace(loss, order=_BEFORE_ALL)

    def _remove(self, key: str) -> None:
        keys = self._keys
        self._remove_row(last_part(key, keys.hosts))
        self._intents.pop(key, None)
        self.leases.remove(key)
        self.holders.remove(key)
        self._drains.discard(last_part(key, keys.drains))
        self._pins.pop(last_part(key, keys.pins), None)


def _check_room(kept: Collection[str], key: str, at_most: int, what: str) -> None:
    """Raise InvalidJson where an entry is one too many: it has no effect, which must be in the log."""
    if key not in kept and len(kept) >= at_most:
        raise InvalidJson(f"there are {at_most} {what}, which is the limit")


def _consumer_of(name: str) -> str:
    """The consumer of the last part of an intent's key, which may have the number of a copy behind it."""
    return name.partition("/")[0]
