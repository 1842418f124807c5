"""What every D-Bus service answers: Peer, Introspectable, Properties, ObjectManager."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from dbus_fast import Variant

from gpumand.bus.connection import IncomingCall, Reply
from gpumand.bus.errors import PropertyReadOnly, UnknownInterface, UnknownProperty, shown
from gpumand.bus.interfaces import Interface, node_xml, standard_interfaces
from gpumand.bus.marshalling import variant
from gpumand.bus.names import INTROSPECTABLE, OBJECT_MANAGER, PEER, PROPERTIES, ROOT_PATH
from gpumand.bus.object_tree import ObjectTree, PublishedObject
from gpumand.domain.errors import DeviceUnavailable, HostError, InvalidArgs

Handler = Callable[[IncomingCall], Reply | Awaitable[Reply]]


class StandardInterfaces:
    """Answers the interfaces of the D-Bus specification for all objects of a tree.

    The connection answers Peer on its own wherever the interface is named; here it is for calls that do not name it.
    """

    def __init__(self, tree: ObjectTree, machine_id: str) -> None:
        self._tree = tree
        self._machine_id = machine_id
        self._interfaces = standard_interfaces()
        self._xml: dict[str, tuple[tuple[str, ...], str]] = {}
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
        """Everything the node at this path can be asked, its own interface first."""
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
        """Made anew only when the children changed; what is kept for objects that went is dropped with the rest."""
        children = self._tree.children(path)
        kept = self._xml.get(path)
        if kept is None or kept[0] != children:
            if len(self._xml) > 4096:
                self._xml.clear()
            kept = self._xml[path] = (children, node_xml(self.interfaces(path), children))
        return kept[1]

    def _get(self, call: IncomingCall) -> Reply:
        item, (interface, name) = self._object(call), call.body
        entry = item.interface.properties.get(name) if self._is_own(item, interface) else None
        if entry is None:
            raise UnknownProperty(f"no property {shown(name)} on {call.path}")
        value = item.state[name] if name in item.state else item.figures().get(name)
        if value is None:
            raise DeviceUnavailable(f"{name} of {call.path} is not known now")
        return Reply("v", (variant(entry.signature, value),))

    def _get_all(self, call: IncomingCall) -> Reply:
        item, (interface,) = self._object(call), call.body
        known: dict[str, Variant] = item.properties() if self._is_own(item, interface) else {}
        return Reply("a{sv}", (known,))

    def _set(self, call: IncomingCall) -> Awaitable[Reply]:
        item, (interface, name, value) = self._object(call), call.body
        entry = item.interface.properties.get(name) if self._is_own(item, interface) else None
        if entry is None:
            raise UnknownProperty(f"no property {shown(name)} on {call.path}")
        if name not in item.setters:
            raise PropertyReadOnly(f"property {name} cannot be set")
        if value.signature != entry.signature:
            raise InvalidArgs(f"property {name} is of type {entry.signature}, not {value.signature[:64]}")
        return _done(item.setters[name](call, value.value))

    def _get_managed_objects(self, call: IncomingCall) -> Reply:
        managed: dict[str, Any] = {item.path: {item.interface.name: item.properties()} for item in self._tree.managed()}
        return Reply("a{oa{sa{sv}}}", (managed,))

    def _object(self, call: IncomingCall) -> PublishedObject:
        item = self._tree.get(call.path)
        if item is None:
            raise UnknownInterface(f"{call.path} has no properties")
        return item

    def _is_own(self, item: PublishedObject, interface: str) -> bool:
        """Whether it is the object's own interface (the specification lets it be left empty)."""
        if interface in ("", item.interface.name):
            return True
        if any(interface == standard.name for standard in self.interfaces(item.path)):
            return False
        raise UnknownInterface(f"no interface {shown(interface)} on {item.path}")


async def _done(work: Awaitable[None]) -> Reply:
    """An answer that says no more than that it is done."""
    await work
    return Reply()
