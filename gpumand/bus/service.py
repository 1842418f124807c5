"""gpumand on the bus: everything under /org/gpumand1, tied together."""

from __future__ import annotations

from gpumand.bus.arbiter_port import ArbiterPort
from gpumand.bus.authorization import Authority
from gpumand.bus.clients import Clients
from gpumand.bus.connection import BusConnection
from gpumand.bus.dispatcher import Dispatcher
from gpumand.bus.interfaces import own_interfaces
from gpumand.bus.machine_id import read_machine_id
from gpumand.bus.manager import ManagerMethods
from gpumand.bus.object_tree import ObjectTree, PublishedObject
from gpumand.bus.published_objects import PublishedObjects
from gpumand.bus.standard_interfaces import StandardInterfaces
from gpumand.domain.events import Event
from gpumand.version import VERSION


class ManagerService:
    """The objects of org.gpumand1 on one connection.

    Start order: build it, have the arbiter publish to ``publish``, load the arbiter's state, ``export``, and only then
    own the name.

    Args:
        connection: to the bus.
        arbiter: who decides.
        clients: the registry of callers, the same that the arbiter has as its ``Owners``.
        authority: who says what a caller may do.
        version: what the property Version says.
    """

    def __init__(
        self,
        connection: BusConnection,
        arbiter: ArbiterPort,
        clients: Clients,
        authority: Authority,
        version: str = VERSION,
    ) -> None:
        self._connection = connection
        self._clients = clients
        self._tree = tree = ObjectTree(connection)
        self._mirror = PublishedObjects(connection, arbiter, clients, tree, own_interfaces(), version)
        manager = ManagerMethods(arbiter, clients, authority, self._mirror.flush)
        standard = StandardInterfaces(tree, read_machine_id())
        self._dispatcher = Dispatcher(tree, standard, manager.handlers, self._mirror.flush)
        clients.listen(arbiter.owner_vanished)

    def add(self, item: PublishedObject) -> None:
        """Have one more object, outside /org/gpumand1; before ``export``."""
        self._tree.add(item)

    def export(self) -> None:
        """Make the objects, and answer calls from now on."""
        self._mirror.export()
        self._connection.serve(self._dispatcher.handle)

    def publish(self, event: Event) -> None:
        """Tell the bus what happened: synchronously and in order, for the arbiter to call."""
        self._mirror.publish(event)

    def flush(self) -> None:
        """Announce at once what changed and was to be announced at the end of this turn of the loop."""
        self._mirror.flush()

    async def close(self) -> None:
        """End what is under way in the registry; the connection is its owner's to close."""
        await self._clients.close()
