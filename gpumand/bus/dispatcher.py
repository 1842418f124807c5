"""From a call to whoever answers it: checks object, interface, method and signature against the XML."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from gpumand.bus.connection import IncomingCall, Reply
from gpumand.bus.errors import UnknownInterface, UnknownMethod, UnknownObject, shown
from gpumand.bus.interfaces import Interface, Method
from gpumand.bus.object_tree import ObjectTree
from gpumand.bus.standard_interfaces import StandardInterfaces
from gpumand.domain.errors import InvalidArgs

Handler = Callable[[IncomingCall], Reply | Awaitable[Reply]]


class Dispatcher:
    """Hands calls to handlers, by (interface, member); nothing reaches a handler that does not fit the XML.

    Args:
        tree: the objects.
        standard: answers the interfaces of the D-Bus specification.
        handlers: answer all others.
        flush: called before each call, so that nobody reads what is about to be announced as changed.
    """

    def __init__(
        self,
        tree: ObjectTree,
        standard: StandardInterfaces,
        handlers: Mapping[tuple[str, str], Handler],
        flush: Callable[[], None],
    ) -> None:
        self._tree = tree
        self._flush = flush
        self._standard = standard
        self._handlers: dict[tuple[str, str], Handler] = {**standard.handlers, **handlers}

    def handle(self, call: IncomingCall) -> Reply | Awaitable[Reply]:
        """Answer a call.

        Raises:
            UnknownObject, UnknownInterface, UnknownMethod: there is no such thing.
            InvalidArgs: the arguments are not of the method's signature, which the message names.
            GpumandError: what the handler raises.
        """
        self._flush()
        if not self._tree.has_node(call.path):
            raise UnknownObject(f"no object {shown(call.path)}")
        interface, method = self._find(call)
        if call.signature != method.takes:
            expected = f"({method.takes})" if method.takes else "no arguments"
            raise InvalidArgs(f"{interface.name}.{method.name} takes {expected}, not ({call.signature[:64]})")
        return self._handlers[interface.name, method.name](call)

    def _find(self, call: IncomingCall) -> tuple[Interface, Method]:
        interfaces = self._standard.interfaces(call.path)
        if not call.interface:
            return self._find_by_member(call, interfaces)
        for interface in interfaces:
            if interface.name == call.interface:
                return interface, _method(call, interface)
        raise UnknownInterface(f"no interface {shown(call.interface)} on {call.path}")

    def _find_by_member(self, call: IncomingCall, interfaces: tuple[Interface, ...]) -> tuple[Interface, Method]:
        """D-Bus lets callers leave the interface out."""
        found = [interface for interface in interfaces if call.member in interface.methods]
        if len(found) != 1:
            problem = "more than one interface has" if found else "no interface has"
            raise UnknownMethod(f"{problem} a method {shown(call.member)} on {call.path}")
        return found[0], found[0].methods[call.member]


def _method(call: IncomingCall, interface: Interface) -> Method:
    method = interface.methods.get(call.member)
    if method is None:
        raise UnknownMethod(f"no method {shown(call.member)} in {interface.name}")
    return method
