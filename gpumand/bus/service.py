"""The D-Bus service org.gpumand1: builds its objects and handlers, and connects them with the arbiter."""

from __future__ import annotations

from gpumand.bus.arbiter_port import ArbiterPort
from gpumand.bus.authorization import Authority
from gpumand.bus.clients import Clients
from gpumand.bus.connection import BusConnection
from gpumand.bus.dispatcher import Dispatcher
from gpumand.bus.interfaces import own_interfaces
from gpumand.bus.lease_changes import LeaseChangesEncoder
from gpumand.bus.machine_id import read_machine_id
from gpumand.bus.manager import ManagerMethods
from gpumand.bus.object_tree import ObjectTree, PublishedObject
from gpumand.bus.published_objects import PublishedObjects
from gpumand.bus.standard_interfaces import StandardInterfaces
from gpumand.version import VERSION


class ManagerService:
    """The objects of org.gpumand1 on one connection.

    Start in this order: build the service, have the arbiter publish to ``publish``, load the arbiter's state,
    ``export``, then request the bus name. A client that sees the name finds every object.

    Args:
        connection: the connection to the bus.
        arbiter: serves the calls.
        clients: the registry of callers, the same that the arbiter has as its ``OwnerPresence``.
        authority: decides which calls are allowed.
        version: value of the property Version.

    Attributes:
        publish: sends the signals for an event; the arbiter calls this synchronously and in order.
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
        self._tree = tree = ObjectTree(connection, LeaseChangesEncoder())
        self._published = PublishedObjects(connection, arbiter, clients, tree, own_interfaces(), version)
        self.publish = self._published.publish
        self._manager = manager = ManagerMethods(arbiter, clients, authority)
        standard = StandardInterfaces(tree, read_machine_id())
        self._dispatcher = Dispatcher(tree, standard, manager.handlers, self._published.flush)
        clients.listen(arbiter.owner_vanished)

    def add(self, item: PublishedObject) -> None:
        """Add one more object, outside /org/gpumand1; call it before ``export``."""
        self._tree.add(item)

    def export(self) -> None:
        """Create the objects, and answer calls from now on."""
        self._published.export()
        self._connection.serve(self._dispatcher.handle)

    async def prepare_status(self) -> None:
        """Do the work of the first GetStatus in pieces; call it before clients can call."""
        await self._manager.prepare_status()

    def flush(self) -> None:
        """Announce pending property changes now instead of at the end of this iteration of the event loop."""
        self._published.flush()

    async def close(self) -> None:
        """Stop the client registry; the connection stays open, since the caller of the constructor owns it."""
        await self._clients.close()
