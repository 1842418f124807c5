"""Attributes processes in containers to consumers, for readings.

Places of processes are read from /proc in a thread, once per process. Engines are asked, and the clients of units are
looked for, only when memory appears in a container that is not known yet, and again after a while: a restarted
container has another id. A reading waits for that at most one second, and later readings use the result.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType

from gpumand.domain.cgroups import MAX_NAME, place_of, place_of_unit
from gpumand.domain.consumer import ConsumerSpec
from gpumand.domain.container import ContainerState
from gpumand.domain.container_rules import EngineContainer, LocatorRules, Names, ProcessPlace, locator_rules, undecided
from gpumand.ports import ContainerFailed, Containers
from gpumand.state.worker import Worker
from gpumand.vram.container_links import link, read_evidence
from gpumand.vram.container_places import PlaceReader
from gpumand.vram.process import ProcessIdentity

log = logging.getLogger(__name__)

WAIT_SEC = 1.0
"""How long a reading waits for engines and for the search for clients."""

INSPECT_SEC = 5.0
MAX_CONFIGURED = 256
MAX_NAMES = 32
"""Maximum number of names on command lines of clients that engines are asked for."""

NO_UNITS: Mapping[str, str] = MappingProxyType({})
MAX_PARALLEL_CALLS = 8
FIRST_RETRY_SEC, LAST_RETRY_SEC = 1.0, 60.0
"""A container that belongs to no consumer is looked at again after 1, 2, 4 … 60 seconds."""


StartCommands = Callable[[str], Awaitable[Sequence[Sequence[str]]]]
"""Unit -> command lines of its ExecStart=."""


class ContainerAttribution:
    """Finds the consumers of processes in containers, slices and cgroups."""

    def __init__(
        self,
        containers: Containers | None = None,
        reader: PlaceReader | None = None,
        *,
        start_commands: StartCommands | None = None,
        manager_uid: int | None = None,
        wait_sec: float = WAIT_SEC,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Create it without rules; ``configure`` sets them.

        Args:
            containers: container engines; None without any.
            reader: reads /proc.
            start_commands: the command lines of ExecStart= of a unit; None = they are unknown.
            manager_uid: the user whose service manager has the consumers' units; None for the system's.
            wait_sec: real seconds that a reading waits for the search.
            monotonic: the clock of retries.
        """
        self._containers = containers
        self._reader = reader or PlaceReader()
        self._wait_sec, self._monotonic = wait_sec, monotonic
        self._worker = Worker("gpumand-containers")
        self._start_commands, self._manager_uid = start_commands, manager_uid
        self._rules = LocatorRules()
        self._places: dict[ProcessIdentity, ProcessPlace] = {}
        self._unit_places: dict[str, ProcessPlace] = {}
        self._known: dict[str, EngineContainer] = {}
        self._answered: frozenset[str] = frozenset()
        self._links: dict[str, str] = {}
        self._waiting_units: frozenset[str] = frozenset()
        self._search: asyncio.Task[None] | None = None
        self._searched: frozenset[str] = frozenset()
        self._retry_at, self._retry_sec = 0.0, FIRST_RETRY_SEC

    @property
    def located(self) -> frozenset[str]:
        """Consumers that are found by container, slice or cgroup."""
        return self._rules.located

    def configure(self, specs: Iterable[ConsumerSpec]) -> None:
        """Replace the consumers; what was found for the former ones is looked for again if their keys changed."""
        rules = locator_rules(specs, self._manager_uid)
        if rules == self._rules:
            return
        self._rules = rules
        self._known, self._links, self._waiting_units, self._searched = {}, {}, frozenset(), frozenset()
        self._answered = frozenset()
        if self._search is not None:
            self._search.cancel()

    async def update(
        self,
        identities: Iterable[ProcessIdentity],
        whole_units: Mapping[str, str] = NO_UNITS,
        *,
        is_partial: bool = False,
    ) -> None:
        """Read the places of new processes, forget those of others, and look for the consumers of new containers.

        Args:
            identities: the processes that hold memory.
            whole_units: the units of which only the memory as a whole is known, with the paths of their
                cgroups; "" where a path is unknown.
            is_partial: there may be others, on devices that were not read.
        """
        listed = set(identities)
        if not is_partial:
            self._unit_places = {}
            self._places = {one: place for one, place in self._places.items() if one in listed}
        self._unit_places |= {
            unit: ProcessPlace(place_of(path) if path else place_of_unit(unit))
            for unit, path in whole_units.items()
            if unit
        }
        unread = [one for one in listed if one not in self._places]
        if unread and not self._worker.is_closed:
            places = await self._worker.run(lambda: self._read_places(unread))
            self._places |= {one: place for one, place in places.items() if place.cgroup.path}
        containers = self._listed()
        if self._is_due(containers):
            self._start_search(frozenset(containers))
        if self._search is not None and not self._search.done():
            await asyncio.wait([self._search], timeout=self._wait_sec)

    def place_of(self, identity: ProcessIdentity | None, unit: str = "") -> ProcessPlace:
        """Where a process runs, or the unit of which only the memory as a whole is known; an empty place if unknown."""
        if identity is None:
            return self._unit_places.get(unit, ProcessPlace())
        return self._places.get(identity, ProcessPlace())

    def consumers_of(self, place: ProcessPlace) -> Names:
        """The consumers that a process belongs to by its container, its cgroup, or the unit that started it.

        Several share it: stopping the unit of one would end the container of the other.
        """
        named = (*self._rules.by_container(place, self._known), *self._rules.by_cgroup(place))
        container = place.cgroup.container
        if container is None or not container.id or not self._rules.is_trusted(place.cgroup):
            return tuple(dict.fromkeys(named))
        return tuple(dict.fromkeys((*named, *self._rules.units.get(self._links.get(container.id, ""), ()))))

    def possible_in(self, unit: str) -> frozenset[str]:
        """Consumers that may run in a unit of which only the name is known, and which is no consumer's ``unit``."""
        place = ProcessPlace(place_of_unit(unit))
        if place.cgroup.container is not None:
            return frozenset(self.consumers_of(place)) or self._rules.located
        # It may be in any slice, and match any pattern.
        return self._rules.located.difference(*self._rules.containers.values())

    def name_of(self, place: ProcessPlace) -> str:
        """The name of the container of a process, or the beginning of its id; "" outside of containers."""
        container = place.cgroup.container
        if container is None:
            return ""
        names = (one.name for one in self._known.values() if one.id and one.id == container.id)
        return next(names, "") or place.container[:MAX_NAME]

    def consumers_of_slice(self, place: ProcessPlace) -> Names:
        """The consumers that a process belongs to by its slice; its unit counts before."""
        return self._rules.by_slice(place)

    def pids_of(self, consumer: str) -> tuple[int, ...] | None:
        """Processes of a consumer's containers that hold memory; () where they are not known.

        None for a consumer outside of containers.
        """
        if consumer not in self._rules.located and not self._is_started_by_client(consumer):
            return None
        places = ((one.pid, place) for one, place in self._places.items())
        return tuple(sorted(pid for pid, place in places if consumer in self.consumers_of(place)))

    def _is_started_by_client(self, consumer: str) -> bool:
        units = {*self._links.values(), *self._waiting_units}
        return any(consumer in names for unit, names in self._rules.units.items() if unit in units)

    def undecided(self, identities: Iterable[ProcessIdentity]) -> frozenset[str]:
        """Consumers that may hold memory although no process was attributed to them."""
        places = [*(self.place_of(one) for one in identities), *self._unit_places.values()]
        unlinked = [place for place in places if place.cgroup.container and not self._is_attributed(place)]
        answered = {text: one for text, one in self._known.items() if text in self._answered}
        return undecided(self._rules, places, unlinked, answered, self._waiting_units)

    async def close(self) -> None:
        """End the search and the thread."""
        if self._search is not None:
            self._search.cancel()
            await asyncio.wait([self._search])
        await self._worker.close()

    def _read_places(self, identities: Iterable[ProcessIdentity]) -> dict[ProcessIdentity, ProcessPlace]:
        """Read places; this method blocks."""
        places = {one: self._reader.place(one.pid) for one in identities}
        # The kernel may have reused a pid meanwhile. The place would then be that of another process.
        return {one: place for one, place in places.items() if self._reader.started(one.pid) == one.started}

    def _is_attributed(self, place: ProcessPlace) -> bool:
        return bool(self.consumers_of(place) or self.consumers_of_slice(place))

    def _listed(self) -> dict[str, tuple[ProcessPlace, int]]:
        """Containers that hold memory: id -> place and pid of one of their processes, 0 = unknown."""
        whole = ((place, 0) for place in self._unit_places.values())
        single = ((place, identity.pid) for identity, place in self._places.items())
        return {
            place.cgroup.container.id: (place, pid)
            for place, pid in (*whole, *single)
            if place.cgroup.container is not None and place.cgroup.container.id
        }

    def _is_due(self, containers: Mapping[str, tuple[ProcessPlace, int]]) -> bool:
        """Whether there are new containers, or it is time to look again at those that belong to no consumer."""
        is_idle = self._search is None or self._search.done()
        if not is_idle or not (self._rules.located or self._rules.units):
            return False
        is_unlinked = any(not self._is_attributed(place) for place, _ in containers.values())
        return not containers.keys() <= self._searched or (is_unlinked and self._monotonic() >= self._retry_at)

    def _start_search(self, ids: frozenset[str]) -> None:
        has_new = not ids <= self._searched
        # A new container may be one of the configuration that was created again: it has the name, but another id.
        self._answered = frozenset() if has_new else self._answered
        self._retry_sec = FIRST_RETRY_SEC if has_new else min(LAST_RETRY_SEC, self._retry_sec * 2)
        self._retry_at = self._monotonic() + self._retry_sec
        self._searched = ids
        self._search = asyncio.create_task(self._find_consumers())
        self._search.add_done_callback(_log_failure)

    async def _find_consumers(self) -> None:
        found = await self._inspect_configured()
        # An engine that does not answer for once has its containers all the same.
        self._known, self._answered = {**self._known, **found}, frozenset(found)
        containers, rules = self._listed(), self._rules
        places = {one: place for one, (place, _) in containers.items()}
        pids = {one: pid for one, (_, pid) in containers.items() if pid}
        named = {one for one, place in places.items() if self._is_attributed(place)}
        commands = await self._commands_of(rules)
        evidence = await self._worker.run(lambda: read_evidence(self._reader, rules, pids, commands))
        names = [name for client in evidence.clients for name in client.command.names][:MAX_NAMES]
        links = link(rules, places, evidence, await self._inspect(dict.fromkeys(names)), named)
        self._links = {**self._links, **links} if len(self._links) < MAX_CONFIGURED else links
        clients = {rules.unit_of(one.cgroup) for one in evidence.clients}
        self._waiting_units = frozenset(clients - set(self._links.values()))
        for one, unit in links.items():
            log.info("container %s was started by %s", places[one].container, unit)

    async def _commands_of(self, rules: LocatorRules) -> dict[str, Sequence[Sequence[str]]]:
        """Unit -> command lines of its ExecStart=, of the units of consumers; slow answers are not waited for."""
        if self._start_commands is None:
            return {}
        found: dict[str, Sequence[Sequence[str]]] = {}
        with suppress(TimeoutError):
            async with asyncio.timeout(INSPECT_SEC):
                for unit in list(rules.units)[:MAX_CONFIGURED]:
                    found[unit] = await self._start_commands(unit)
        return found

    async def _inspect_configured(self) -> dict[str, EngineContainer]:
        """The configured containers that engines have reported, also that they do not exist."""
        texts = list(self._rules.containers)[:MAX_CONFIGURED]
        found = await self._inspect(texts, missing=True)
        bases = await self._worker.run(lambda: {text: self._base(state) for text, state in found.items()})
        return {text: EngineContainer(state.id, state.name, bases[text]) for text, state in found.items()}

    def _base(self, state: ContainerState) -> str:
        """The cgroup of a container, by its main process; this method blocks."""
        container = self._reader.place(state.pid).cgroup.container if state.pid > 0 else None
        return container.base if container is not None and container.id == state.id else ""

    async def _inspect(self, names: Iterable[str], *, missing: bool = False) -> dict[str, ContainerState]:
        """Ask the engines for containers; those without an answer are left out.

        Args:
            names: as in the configuration.
            missing: include containers that do not exist, with an empty id.
        """
        slots, wanted = asyncio.Semaphore(MAX_PARALLEL_CALLS), list(names)

        async def one(name: str) -> ContainerState | None:
            async with slots:
                return await self._inspect_one(name, missing=missing)

        states = await asyncio.gather(*(one(name) for name in wanted))
        return {name: state for name, state in zip(wanted, states, strict=True) if state is not None}

    async def _inspect_one(self, name: str, *, missing: bool) -> ContainerState | None:
        if self._containers is None:
            return None
        try:
            async with asyncio.timeout(INSPECT_SEC):
                return await self._containers.inspect(name)
        except TimeoutError:
            return None
        except ContainerFailed as error:
            log.debug("container %s: %s", name, error)
            is_missing = missing and error.reason == "not-found"
            return ContainerState("", "", name, running=False) if is_missing else None


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        log.debug("the search for the consumers of containers failed: %s", error)
