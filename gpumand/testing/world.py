"""A whole arbiter over fakes, in virtual time: what arbiter tests, simulations and curious users start from."""

from __future__ import annotations

from collections.abc import Iterable

from gpumand.arbiter import Arbiter
from gpumand.arbiter.housekeeping import Housekeeping
from gpumand.domain.consumer import ConsumerSpec, GpuSettings, SchedulerSettings, Settings
from gpumand.domain.events import Event
from gpumand.domain.lease import Owner
from gpumand.ports import World
from gpumand.testing.archive import MemoryArchive
from gpumand.testing.clock import FakeClock
from gpumand.testing.memory import FakeMemory
from gpumand.testing.owners import FakeOwners
from gpumand.testing.routes import FakeRoutes
from gpumand.testing.store import MemoryStore
from gpumand.testing.units import FakeUnit, FakeUnits
from gpumand.testing.vram import FakeVram


class FakeWorld:
    """One of each fake and an arbiter that lives in it.

    Attributes:
        clock, vram, routes, units, store, owners, archive, memory: the fakes; change them at will.
        events: everything the arbiter published, in order.
        settings: what a reload finds; change it and call ``arbiter.reload``.
        arbiter, upkeep: the real ones.
    """

    def __init__(
        self,
        specs: Iterable[ConsumerSpec],
        *,
        scheduler: SchedulerSettings | None = None,
        total_mib: tuple[int, ...] = (24564,),
        store: MemoryStore | None = None,
        clock: FakeClock | None = None,
        archive: MemoryArchive | None = None,
    ) -> None:
        """Build it; ``store``, ``clock`` and ``archive`` of an earlier world make this one its life after a restart."""
        consumers = {spec.name: spec for spec in specs}
        self.settings = Settings(scheduler or SchedulerSettings(), GpuSettings(source="simulated"), consumers)
        self.clock = clock or FakeClock(autojump=True)
        self.vram = FakeVram(self.clock, *total_mib)
        self.vram.attributable |= set(consumers)
        self.routes = FakeRoutes(self.clock, self.vram, dict(enumerate(total_mib)))
        self.units = FakeUnits(self.clock, [FakeUnit(spec.unit) for spec in consumers.values() if spec.unit])
        self.store = store or MemoryStore()
        self.owners = FakeOwners()
        self.archive = archive or MemoryArchive()
        self.memory = FakeMemory()
        self.memory.taken = self._parked_mib
        self.events: list[Event] = []
        world = World(
            self.clock, self.vram, self.units, self.routes, self.store, self.owners, self.archive, self.memory
        )
        self.arbiter = Arbiter(self.settings, world, self.events.append, self._load_settings)
        self.housekeeping = Housekeeping(self.arbiter, self.units, self.routes)

    def _parked_mib(self) -> int:
        """What consumers hold of host RAM that their routes have put there."""
        return sum(consumer.host_mib for consumer in self.routes.consumers.values())

    async def _load_settings(self) -> Settings:
        return self.settings

    async def start(self) -> None:
        """Take up what the store has, and look around, as the daemon does before it owns its name."""
        await self.arbiter.start()
        await self.housekeeping.look_around()

    def named(self, kind: type[Event]) -> list[Event]:
        """Events of one kind, in order."""
        return [event for event in self.events if isinstance(event, kind)]


def client(number: int = 1, *, uid: int = 1000, unit: str = "", invocation_id: str = "") -> Owner:
    """Somebody on the bus."""
    return Owner(f":1.{number}", uid, 5000 + number, unit, invocation_id)
