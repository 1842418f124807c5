"""Which objects there are on the bus, what was last said of them, and what to say when that changes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from dbus_fast import Variant

from gpumand.bus.connection import IncomingCall
from gpumand.bus.interfaces import Interface
from gpumand.bus.marshalling import variant
from gpumand.bus.names import CONSUMER_PREFIX, DEVICE_PREFIX, LEASE_PREFIX, OBJECT_MANAGER, PROPERTIES, ROOT_PATH
from gpumand.bus.properties import Values

COLLECTIONS = tuple(prefix.rstrip("/") for prefix in (DEVICE_PREFIX, CONSUMER_PREFIX, LEASE_PREFIX))
"""Nodes that are always there and hold the objects of one kind."""

BARE_NODES = ("/", "/org", *COLLECTIONS)
"""Nodes without an interface of their own."""


class Emitter(Protocol):
    """The part of the connection that sends signals."""

    def emit(self, path: str, interface: str, member: str, signature: str, body: tuple[Any, ...]) -> None:
        """Queue a signal to all who listen."""


def no_figures() -> Values:
    """For objects whose every property is announced."""
    return {}


Setter = Callable[[IncomingCall, Any], Awaitable[None]]


@dataclass(slots=True)
class PublishedObject:
    """One object with its own interface.

    Attributes:
        path: where it is.
        interface: what it is.
        state: its announced properties, as last announced; None = unknown.
        figures: asks for the properties that are never announced.
        setters: for properties that can be set: check who sets it to what, and do so.
    """

    path: str
    interface: Interface
    state: Values
    figures: Callable[[], Values] = field(default=no_figures)
    setters: Mapping[str, Setter] = field(default_factory=dict)

    def properties(self) -> dict[str, Variant]:
        """All properties that are known now."""
        return self.variants(self.state) | self.variants(self.figures())

    def variants(self, values: Values) -> dict[str, Variant]:
        """The known ones of these values, typed as the interface says."""
        types = self.interface.properties
        return {name: variant(types[name].signature, value) for name, value in values.items() if value is not None}


class ObjectTree:
    """All objects, by path; changes are announced as they are made, once ``announce`` is set."""

    def __init__(self, emitter: Emitter) -> None:
        self.announce = False
        self._emitter = emitter
        self._objects: dict[str, PublishedObject] = {}
        self._parents: set[str] = set()
        self._child_names: dict[str, tuple[str, ...]] = {}

    def get(self, path: str) -> PublishedObject | None:
        """The object at this path, or None."""
        return self._objects.get(path)

    def has_node(self, path: str) -> bool:
        """Whether anything is at this path, be it only on the way to an object."""
        return path in self._objects or path in BARE_NODES or path in self._parents

    def managed(self) -> Iterator[PublishedObject]:
        """All objects below the root, which manages them."""
        return (item for path, item in self._objects.items() if path.startswith(ROOT_PATH + "/"))

    def paths(self, prefix: str) -> list[str]:
        """The paths that begin so."""
        return [path for path in self._objects if path.startswith(prefix)]

    def children(self, path: str) -> tuple[str, ...]:
        """Names of the nodes right below this one."""
        names = self._child_names.get(path)
        if names is None:
            names = self._child_names[path] = self._find_children(path)
        return names

    def add(self, item: PublishedObject) -> None:
        """Put an object there; it must not be there yet."""
        self._objects[item.path] = item
        self._parents.add(_parent(item.path))
        self._child_names.pop(_parent(item.path), None)
        if self.announce:
            added = {item.interface.name: item.properties()}
            self._emitter.emit(ROOT_PATH, OBJECT_MANAGER, "InterfacesAdded", "oa{sa{sv}}", (item.path, added))

    def remove(self, path: str) -> None:
        """Take an object away, if it is there."""
        item = self._objects.pop(path, None)
        if item is None:
            return
        self._child_names.pop(_parent(path), None)
        if self.announce:
            self._emitter.emit(ROOT_PATH, OBJECT_MANAGER, "InterfacesRemoved", "oas", (path, [item.interface.name]))

    def update(self, path: str, state: Values) -> None:
        """Announce what differs from what was said last; does nothing for an object that is not there."""
        item = self._objects.get(path)
        if item is None or item.state == state:
            return
        changed = {name: value for name, value in state.items() if item.state.get(name) != value}
        item.state = state
        if self.announce:
            body = (item.interface.name, item.variants(changed), _unknown(changed))
            self._emitter.emit(path, PROPERTIES, "PropertiesChanged", "sa{sv}as", body)

    def _find_children(self, path: str) -> tuple[str, ...]:
        prefix = path.rstrip("/") + "/"
        below = (node[len(prefix) :] for node in (*BARE_NODES, *self._objects) if node.startswith(prefix))
        return tuple(sorted({name.split("/")[0] for name in below if name}, key=_natural))


def _unknown(values: Values) -> list[str]:
    return [name for name, value in values.items() if value is None]


def _natural(name: str) -> tuple[int, str]:
    """Devices in the order of their numbers: 2 before 10."""
    return (len(name), name) if name.isdigit() else (0, name)


def _parent(path: str) -> str:
    return path.rpartition("/")[0]
