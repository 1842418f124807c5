"""An arbiter with in-memory fakes of all ports in virtual time, for tests and simulations."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from gpumand.arbiter import Arbiter
from gpumand.arbiter.housekeeping import Housekeeping
from gpumand.domain.consumer import UNKNOWN_MIB, ConsumerSpec, SchedulerSettings, Settings
from gpumand.domain.container import service_of
from gpumand.domain.events import Event
from gpumand.domain.gpu_settings import GpuSettings
from gpumand.domain.lease import Owner
from gpumand.ports import CpuTimes, Ports
from gpumand.testing.archive import MemoryArchive
from gpumand.testing.clock import FakeClock
from gpumand.testing.memory import FakeMemory
from gpumand.testing.owners import FakeOwners
from gpumand.testing.routes import FakeRoutes
from gpumand.testing.store import MemoryStore
from gpumand.testing.units import FakeUnit, FakeUnits
from gpumand.testing.vram import FakeVram

KindT = TypeVar("KindT")

UNKNOWN_MODEL_MIB = 4096
"""MiB that a unit holds if its consumer's configuration does not say."""


class FakeWorld:
    """One fake of each port, and a real arbiter that uses them.

    Attributes:
        clock, vram, routes, units, store, owners, archive, memory: the fakes; a test may change them.
        events: all events that the arbiter has published, in order.
        settings: the settings that a reload reads; change them and call ``arbiter.reload``.
        arbiter, housekeeping: the real objects.
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
        cpu_times: CpuTimes | None = None,
    ) -> None:
        """Create the world; pass ``store``, ``clock`` and ``archive`` of an earlier one to simulate a restart."""
        consumers = {spec.name: spec for spec in specs}
        self.settings = Settings(scheduler or SchedulerSettings(), GpuSettings(source="simulated"), consumers)
        self.clock = clock or FakeClock(autojump=True)
        self.vram = FakeVram(self.clock, *total_mib)
        self.vram.attributable |= set(consumers)
        self.routes = FakeRoutes(self.clock, self.vram, dict(enumerate(total_mib)))
        self.units = FakeUnits(self.clock, [FakeUnit(one) for spec in consumers.values() for one in _services(spec)])
        self._unit_pids = {
            spec.service: number for number, spec in enumerate(consumers.values(), 20_001) if spec.service
        }
        self._holds_before_start = 0
        self.units.before_start = lambda unit: setattr(self, "_holds_before_start", self.vram.holds)
        self.units.after_start, self.units.after_end = self._hold_model, self._release_model
        self.store = store or MemoryStore()
        self.owners = FakeOwners()
        self.archive = archive or MemoryArchive()
        self.memory = FakeMemory()
        self.memory.taken = self._parked_mib
        self.events: list[Event] = []
        world = Ports(
            self.clock,
            self.vram,
            self.units,
            self.routes,
            self.store,
            self.owners,
            self.archive,
            self.memory,
            self.vram,
            self.vram,
            cpu_times,
        )
        self.arbiter = Arbiter(self.settings, world, self.events.append, self._load_settings)
        self.housekeeping = Housekeeping(self.arbiter, self.units, self.routes)

    def _hold_model(self, unit: str) -> None:
        """Let a unit without routes hold its model while it runs, unless the test lets it hold memory itself."""
        spec = next((spec for spec in self.settings.consumers.values() if spec.service == unit), None)
        if spec is None or spec.lazy or spec.load is not None or spec.health is not None:
            return
        is_held = self.vram.is_held_by(spec.name) or self.vram.holds > self._holds_before_start
        if spec.name in self.vram.attributable and not is_held:
            mib = spec.vram_resident_mib if spec.vram_resident_mib < UNKNOWN_MIB else UNKNOWN_MODEL_MIB
            self.vram.stand_in(self._unit_pids[unit], mib, consumer=spec.name, unit=unit)

    def _release_model(self, unit: str) -> None:
        if unit in self._unit_pids:
            self.vram.release(self._unit_pids[unit])

    def _parked_mib(self) -> int:
        """Return the host RAM that parked consumers hold."""
        return sum(consumer.host_mib for consumer in self.routes.consumers.values())

    async def _load_settings(self) -> Settings:
        return self.settings

    async def start(self) -> None:
        """Restore the stored state and read the current one, as the daemon does before it owns its bus name."""
        await self.arbiter.start()
        await self.housekeeping.refresh_all()

    def named(self, kind: type[KindT]) -> list[KindT]:
        """Return the events of one type, in order."""
        return [event for event in self.events if isinstance(event, kind)]


def _services(spec: ConsumerSpec) -> list[str]:
    """The unit and the container of a consumer, as the port UnitManager names them."""
    return [one for one in (spec.unit, service_of(spec.container)) if one]


def client(number: int = 1, *, uid: int = 1000, unit: str = "", invocation_id: str = "") -> Owner:
    """Return the owner for a client on the bus."""
    return Owner(f":1.{number}", uid, 5000 + number, unit, invocation_id)
