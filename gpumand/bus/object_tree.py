"""The published D-Bus objects with their last announced property values, and the signals for changes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from dbus_fast import Variant

from gpumand.bus.connection import IncomingCall
from gpumand.bus.interfaces import Interface
from gpumand.bus.marshalling import variant
from gpumand.bus.names import CONSUMER_PREFIX, DEVICE_PREFIX, LEASE_PREFIX, OBJECT_MANAGER, PROPERTIES, ROOT_PATH
from gpumand.bus.properties import Values
from gpumand.bus.send_queue import Lane

COLLECTIONS = tuple(prefix.rstrip("/") for prefix in (DEVICE_PREFIX, CONSUMER_PREFIX, LEASE_PREFIX))
"""Nodes that always exist and hold the objects of one type."""

PLAIN_NODES = ("/", "/org", *COLLECTIONS)
"""Nodes without an interface of their own."""


ADDED_SIGNATURE = "oa{sa{sv}}"
"""Signature of ``InterfacesAdded``."""

CHANGED_SIGNATURE = "sa{sv}as"
"""Signature of ``PropertiesChanged``."""


class Emitter(Protocol):
    """The part of the connection that sends signals."""

    def emit(
        self,
        path: str,
        interface: str,
        member: str,
        signature: str,
        body: tuple[Any, ...] | bytes,
        *,
        lane: Lane,
        checked: bool,
    ) -> None:
        """Queue a signal to all subscribed clients."""


def no_live_values() -> Values:
    """Return no values; for objects whose properties are all announced."""
    return {}


Setter = Callable[[IncomingCall, Any], Awaitable[None]]


@dataclass(slots=True)
class PublishedObject:
    """A D-Bus object with one interface of its own.

    Attributes:
        path: object path.
        interface: its interface, apart from the standard ones.
        state: values of the announced properties, as last announced; None = unknown.
        live_values: reads the properties that are never announced.
        setters: for each property that can be set, a function that authorizes the caller and sets the value.
    """

    path: str
    interface: Interface
    state: Values
    live_values: Callable[[], Values] = field(default=no_live_values)
    setters: Mapping[str, Setter] = field(default_factory=dict)

    def properties(self) -> dict[str, Variant]:
        """Return all properties whose value is known."""
        return self.variants(self.state) | self.variants(self.live_values())

    def variants(self, values: Values) -> dict[str, Variant]:
        """Return the known values with the types that the interface declares."""
        types = self.interface.properties
        return {name: variant(types[name].signature, value) for name, value in values.items() if value is not None}


class ChangesEncoder(Protocol):
    """Encodes the changes of properties that are announced most often."""

    def encode(self, interface: Interface, changed: Values) -> bytes | None:
        """Return the body of ``PropertiesChanged`` for these values; None for others."""


class ObjectTree:
    """All published objects by path.

    Args:
        emitter: sends the signals.
        changes: encodes changes of properties that it knows; None = dbus-fast encodes all of them.

    Attributes:
        announce: whether changes are announced with signals. False until the initial objects have been added.
    """

    def __init__(self, emitter: Emitter, changes: ChangesEncoder | None = None) -> None:
        self.announce = False
        self._changes = changes
        self._emitter = emitter
        self._objects: dict[str, PublishedObject] = {}
        self._parents: set[str] = set()
        self._child_names: dict[str, tuple[str, ...]] = {}

    def get(self, path: str) -> PublishedObject | None:
        """Return the object at this path, or None."""
        return self._objects.get(path)

    def has_node(self, path: str) -> bool:
        """Whether the path is an object or a parent of an object."""
        return path in self._objects or path in PLAIN_NODES or path in self._parents

    def managed(self) -> Iterator[PublishedObject]:
        """Return all objects below /org/gpumand1, which implements ObjectManager for them."""
        return (item for path, item in self._objects.items() if path.startswith(ROOT_PATH + "/"))

    def paths(self, prefix: str) -> list[str]:
        """Return the paths of the objects that begin with this prefix."""
        return [path for path in self._objects if path.startswith(prefix)]

    def children(self, path: str) -> tuple[str, ...]:
        """Return the names of the direct child nodes."""
        names = self._child_names.get(path)
        if names is None:
            names = self._child_names[path] = self._find_children(path)
        return names

    def add(self, item: PublishedObject, content: bytes | None = None) -> None:
        """Add an object; its path must be free.

        Args:
            item: the object.
            content: the body of its announcement as bytes, if it is encoded already.
        """
        self._objects[item.path] = item
        self._parents.add(_parent(item.path))
        # The child names of a node are cached: with many leases, building them for each Introspect would be slow.
        self._child_names.pop(_parent(item.path), None)
        if self.announce:
            body = (item.path, {item.interface.name: item.properties()}) if content is None else content
            self._emit(ROOT_PATH, OBJECT_MANAGER, "InterfacesAdded", ADDED_SIGNATURE, body)

    def remove(self, path: str) -> None:
        """Remove an object, if it exists."""
        item = self._objects.pop(path, None)
        if item is None:
            return
        self._child_names.pop(_parent(path), None)
        if self.announce:
            self._emit(ROOT_PATH, OBJECT_MANAGER, "InterfacesRemoved", "oas", (path, [item.interface.name]))

    def update(self, path: str, state: Values, touched: Collection[str] = ()) -> None:
        """Announce the values that differ from those announced last; does nothing if the object does not exist.

        Args:
            path: object path.
            state: the values now.
            touched: names of values that changed in between and may be back to what was announced last; they are
                announced in any case.
        """
        item = self._objects.get(path)
        if item is None or (not touched and item.state == state):
            return
        former = item.state.get
        changed = {name: value for name, value in state.items() if former(name) != value or name in touched}
        item.state = state
        if self.announce and changed:
            self._emit(path, PROPERTIES, "PropertiesChanged", CHANGED_SIGNATURE, self._changed_body(item, changed))

    def _changed_body(self, item: PublishedObject, changed: Values) -> tuple[Any, ...] | bytes:
        content = None if self._changes is None else self._changes.encode(item.interface, changed)
        if content is not None:
            return content
        # D-Bus has no null value: a property that became unknown is announced as invalidated, without a value.
        return item.interface.name, item.variants(changed), _unknown_names(changed)

    def _emit(self, path: str, interface: str, member: str, signature: str, body: tuple[Any, ...] | bytes) -> None:
        # No text needs another check for NULs: marshalling.variant sanitizes every value, and names are gpumand's own.
        self._emitter.emit(path, interface, member, signature, body, lane=Lane.STATE, checked=True)

    def _find_children(self, path: str) -> tuple[str, ...]:
        prefix = path.rstrip("/") + "/"
        below = (node[len(prefix) :] for node in (*PLAIN_NODES, *self._objects) if node.startswith(prefix))
        return tuple(sorted({name.split("/")[0] for name in below if name}, key=_natural_sort_key))


def _unknown_names(values: Values) -> list[str]:
    return [name for name, value in values.items() if value is None]


def _natural_sort_key(name: str) -> tuple[int, str]:
    """Sort numeric names by value, so that device 2 comes before device 10."""
    return (len(name), name) if name.isdigit() else (0, name)


def _parent(path: str) -> str:
    return path.rpartition("/")[0]
