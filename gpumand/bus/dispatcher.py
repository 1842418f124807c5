"""Routes each method call to its handler, after checking object, interface, method and signature against the XML."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from gpumand.bus.connection import IncomingCall, Reply
from gpumand.bus.errors import UnknownInterface, UnknownMethod, UnknownObject, quoted
from gpumand.bus.interfaces import Interface, Method
from gpumand.bus.names import MANAGER, ROOT_PATH
from gpumand.bus.object_tree import ObjectTree
from gpumand.bus.standard_interfaces import StandardInterfaces
from gpumand.domain.errors import InvalidArgs

Handler = Callable[[IncomingCall], Reply | Awaitable[Reply]]


class Dispatcher:
    """Passes calls to handlers by (interface, member); a call that does not match the XML reaches no handler.

    Args:
        tree: the published objects.
        standard: answers the interfaces of the D-Bus specification.
        handlers: answer all other methods.
        flush: computes and announces pending changes of the published objects. It is called before each call that
            reads them.
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
        self._manager_handlers: dict[tuple[str, str, str], Handler] = {}
        self._handlers: dict[tuple[str, str], Handler] = {**standard.handlers, **handlers}

    def handle(self, call: IncomingCall) -> Reply | Awaitable[Reply]:
        """Check a call and let its handler answer it.

        Raises:
            UnknownObject, UnknownInterface, UnknownMethod: the called object, interface or method does not exist.
            InvalidArgs: the arguments do not have the method's signature, which the message names.
            GpumandError: any error of the handler.
        """
        # The methods of the manager read the arbiter itself, and its object always exists. So each of them is looked up
        # once for a path and a signature.
        key = (call.path, call.member, call.signature)
        if call.interface == MANAGER:
            known = self._manager_handlers.get(key)
            if known is not None:
                return known(call)
        else:
            self._flush()
        if not self._tree.has_node(call.path):
            raise UnknownObject(f"no object {quoted(call.path)}")
        interface, method = self._find(call)
        # Checked here once, so that no handler has to check the number and the types of its arguments.
        if call.signature != method.in_signature:
            expected = f"({method.in_signature})" if method.in_signature else "no arguments"
            raise InvalidArgs(f"{interface.name}.{method.name} takes {expected}, not ({call.signature[:64]})")
        handler = self._handlers[interface.name, method.name]
        if call.interface == MANAGER and call.path == ROOT_PATH:
            self._manager_handlers[key] = handler
        return handler(call)

    def _find(self, call: IncomingCall) -> tuple[Interface, Method]:
        interfaces = self._standard.interfaces(call.path)
        if not call.interface:
            return self._find_by_member(call, interfaces)
        for interface in interfaces:
            if interface.name == call.interface:
                return interface, _method(call, interface)
        raise UnknownInterface(f"no interface {quoted(call.interface)} on {call.path}")

    def _find_by_member(self, call: IncomingCall, interfaces: tuple[Interface, ...]) -> tuple[Interface, Method]:
        """Find the method of a call without an interface, which D-Bus allows."""
        found = [interface for interface in interfaces if call.member in interface.methods]
        if len(found) != 1:
            problem = "more than one interface has" if found else "no interface has"
            raise UnknownMethod(f"{problem} a method {quoted(call.member)} on {call.path}")
        return found[0], found[0].methods[call.member]


def _method(call: IncomingCall, interface: Interface) -> Method:
    method = interface.methods.get(call.member)
    if method is None:
        raise UnknownMethod(f"no method {quoted(call.member)} in {interface.name}")
    return method
