"""The standard D-Bus interfaces: Peer, Introspectable, Properties and ObjectManager."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from dbus_fast import Variant

from gpumand.bus.connection import IncomingCall, Reply
from gpumand.bus.errors import PropertyReadOnly, UnknownInterface, UnknownProperty, quoted
from gpumand.bus.interfaces import Interface, node_xml, standard_interfaces
from gpumand.bus.marshalling import variant
from gpumand.bus.names import INTROSPECTABLE, OBJECT_MANAGER, PEER, PROPERTIES, ROOT_PATH
from gpumand.bus.object_tree import ObjectTree, PublishedObject
from gpumand.domain.errors import DeviceUnavailable, HostError, InvalidArgs

Handler = Callable[[IncomingCall], Reply | Awaitable[Reply]]


class StandardInterfaces:
    """Answers the interfaces of the D-Bus specification for all objects of a tree.

    The connection itself answers calls that name the interface Peer. The handlers here serve calls that leave it out.
    """

    def __init__(self, tree: ObjectTree, machine_id: str) -> None:
        self._tree = tree
        self._machine_id = machine_id
        self._interfaces = standard_interfaces()
        self._xml_cache: dict[str, tuple[tuple[str, ...], str]] = {}
        self.handlers: dict[tuple[str, str], Handler] = {
            (PEER, "Ping"): self._ping,
            (PEER, "GetMachineId"): self._get_machine_id,
            (INTROSPECTABLE, "Introspect"): self._introspect,
            (PROPERTIES, "Get"): self._get,
            (PROPERTIES, "GetAll"): self._get_all,
            (PROPERTIES, "Set"): self._set,
            (OBJECT_MANAGER, "GetManagedObjects"): self._get_managed_objects,
        }

    def interfaces(self, path: str) -> tuple[Interface, ...]:
        """Return all interfaces of the node at this path, its own interface first."""
        item = self._tree.get(path)
        names = [PEER, INTROSPECTABLE]
        if item is not None:
            names.append(PROPERTIES)
        if path == ROOT_PATH:
            names.append(OBJECT_MANAGER)
        own = (item.interface,) if item is not None else ()
        return (*own, *(self._interfaces[name] for name in names))

    def _ping(self, call: IncomingCall) -> Reply:
        return Reply()

    def _get_machine_id(self, call: IncomingCall) -> Reply:
        if not self._machine_id:
            raise HostError("this machine has no id")
        return Reply("s", (self._machine_id,))

    def _introspect(self, call: IncomingCall) -> Reply:
        return Reply("s", (self._node_xml(call.path),))

    def _node_xml(self, path: str) -> str:
        """Return the introspection document, cached until the children change."""
        children = self._tree.children(path)
        cached = self._xml_cache.get(path)
        if cached is None or cached[0] != children:
            # Documents of removed objects, such as ended leases, stay in the cache until it is cleared here.
            if len(self._xml_cache) > 4096:
                self._xml_cache.clear()
            cached = self._xml_cache[path] = (children, node_xml(self.interfaces(path), children))
        return cached[1]

    def _get(self, call: IncomingCall) -> Reply:
        item, (interface, name) = self._object(call), call.body
        entry = item.interface.properties.get(name) if self._is_own(item, interface) else None
        if entry is None:
            raise UnknownProperty(f"no property {quoted(name)} on {call.path}")
        value = item.state[name] if name in item.state else item.live_values().get(name)
        # GetAll leaves an unknown property out. Get must return a value or an error, and 0 would be a wrong value.
        if value is None:
            raise DeviceUnavailable(f"the value of {name} of {call.path} is unknown at the moment")
        return Reply("v", (variant(entry.signature, value),))

    def _get_all(self, call: IncomingCall) -> Reply:
        item, (interface,) = self._object(call), call.body
        known: dict[str, Variant] = item.properties() if self._is_own(item, interface) else {}
        return Reply("a{sv}", (known,))

    def _set(self, call: IncomingCall) -> Awaitable[Reply]:
        item, (interface, name, value) = self._object(call), call.body
        entry = item.interface.properties.get(name) if self._is_own(item, interface) else None
        if entry is None:
            raise UnknownProperty(f"no property {quoted(name)} on {call.path}")
        if name not in item.setters:
            raise PropertyReadOnly(f"property {name} cannot be set")
        if value.signature != entry.signature:
            raise InvalidArgs(f"property {name} is of type {entry.signature}, not {value.signature[:64]}")
        return _empty_reply_after(item.setters[name](call, value.value))

    def _get_managed_objects(self, call: IncomingCall) -> Reply:
        # The standard interfaces of each object are left out: their properties are empty.
        managed: dict[str, Any] = {item.path: {item.interface.name: item.properties()} for item in self._tree.managed()}
        return Reply("a{oa{sa{sv}}}", (managed,))

    def _object(self, call: IncomingCall) -> PublishedObject:
        item = self._tree.get(call.path)
        if item is None:
            raise UnknownInterface(f"{call.path} has no properties")
        return item

    def _is_own(self, item: PublishedObject, interface: str) -> bool:
        """Whether it is the object's own interface; the specification allows it to be empty."""
        if interface in ("", item.interface.name):
            return True
        if any(interface == standard.name for standard in self.interfaces(item.path)):
            return False
        raise UnknownInterface(f"no interface {quoted(interface)} on {item.path}")


async def _empty_reply_after(work: Awaitable[None]) -> Reply:
    """Await the work, then return an empty reply."""
    await work
    return Reply()
