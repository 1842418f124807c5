"""Implements ``[gpu] source = "auto"``: uses the sources that the host has, also those whose driver is loaded later."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection

from gpumand.domain.device import Devices, Reading, error_word
from gpumand.domain.driver_power import DriverPower
from gpumand.domain.gpu_settings import NamedOptions
from gpumand.ports import Clock, VramSource
from gpumand.vram.call_thread import CallHangs, CallThread, ThreadClosed
from gpumand.vram.detection import known_sources, nvidia_cards
from gpumand.vram.no_source import NoSource
from gpumand.vram.several import SeveralSources
from gpumand.vram.sysfs import Root

log = logging.getLogger(__name__)

DETECT_SEC = 60.0
"""Seconds between two searches for further drivers."""

FIRST_DETECT_SEC = 5.0
"""Seconds between two searches while no driver has been found. Each looks at all devices of the PCI bus."""

FALLBACK = "nvml"
NO_LIBRARY = "nvml-library-missing"
NO_SOURCE = "no-source: this host has neither NVIDIA's driver nor a card with the driver amdgpu or xe"


class AutoSource:
    """A VramSource that finds its sources itself.

    A source keeps its place, and its devices their indices, for as long as the daemon runs: one that is found later
    comes after those found before. While none is found, NVIDIA's library is tried, because it can say best what is
    wrong with a driver that is installed but not loaded. On a host without an NVIDIA card, its failure means nothing:
    packages of other programs bring the library along.
    """

    name: str = "auto"

    def __init__(
        self,
        make: Callable[[str], VramSource],
        supported: Collection[str],
        clock: Clock,
        *,
        root: Root = "/",
        total_mib: int | None = None,
        options: NamedOptions = (),
    ) -> None:
        """Create the source; nothing is searched yet.

        Args:
            make: creates the source of a name.
            supported: names of the sources that can be created.
            clock: current time.
            root: root of the file system that is searched.
            total_mib: configured size of device 0, for a host without any source.
            options: options of single devices.
        """
        self._make, self._supported, self._clock, self._root = make, supported, clock, root
        self._thread = CallThread("gpumand-detection", 2.0)
        self._found: list[str] = []
        self._several = SeveralSources((), clock, options)
        self._nothing = NoSource(total_mib, clock, NO_SOURCE)
        self._search_at = 0.0
        self._has_nvidia_card = True

    @property
    def busy_sec(self) -> float:
        """Seconds for which all sources have been running a call; see ThreadedSource."""
        return self._several.busy_sec

    @property
    def thread_alive(self) -> bool:
        """Whether all threads run; see ThreadedSource."""
        return self._thread.alive and self._several.thread_alive

    @property
    def needs_new_process(self) -> bool:
        """Whether a source can only be read by a new process; see LibrarySource."""
        return self._several.needs_new_process

    async def read(self, only: Devices = ()) -> Reading:
        """Read the sources that the host has; see VramSource."""
        await self._search()
        reading = await self._several.read(only)
        # A call that hangs comes from a driver, so there is one.
        is_nothing = reading.error.startswith(NO_LIBRARY) or (
            reading.error and not self._has_nvidia_card and not error_word(reading.error).endswith("-hangs")
        )
        return await self._nothing.read() if is_nothing and not self._found else reading

    async def release_driver(self) -> None:
        """Close the drivers that are kept open; see Driver. Raises DriverHangs."""
        await self._several.release_driver()

    def rest_driver(self, *, resting: bool) -> None:
        """Read only the other devices for now; see Driver."""
        self._several.rest_driver(resting=resting)

    async def power(self) -> DriverPower:
        """The power states of the cards of the drivers that are kept open; see Driver."""
        await self._search()  # before the first reading, which could wake a card
        return await self._several.power()

    def retry(self) -> None:
        """Open the sources at once that have failed; see Retrying."""
        self._search_at = 0.0
        self._several.retry()

    def reopen(self) -> None:
        """Reopen all sources, and search for drivers again; see VramSource."""
        self._search_at = 0.0
        self._several.reopen()

    async def close(self) -> None:
        """Close all sources; see VramSource."""
        self._thread.close()
        await self._several.close()

    async def _search(self) -> None:
        """Add the sources whose drivers were loaded since the last search."""
        now = self._clock.monotonic()
        if now < self._search_at:
            return
        if self._several.sources:  # before the first search has ended, every reading waits for it
            self._expect_search(now)
        try:
            available = await self._thread.call(self._detect)
        except (CallHangs, ThreadClosed) as error:
            log.debug("the search for drivers of GPUs failed: %s", error)
            available = ()
        # Other readings may have added sources during the await.
        added = [name for name in available if name not in self._found]
        if added:
            await self._add(added)
        elif not self._several.sources:
            self._several.use([self._make(FALLBACK)])
        self._expect_search(now)

    def _expect_search(self, now: float) -> None:
        self._search_at = now + (DETECT_SEC if self._found else FIRST_DETECT_SEC)

    def _detect(self) -> tuple[str, ...]:
        self._has_nvidia_card = nvidia_cards(self._root) != ()  # unknown counts as present
        return known_sources(self._root, self._supported)

    async def _add(self, names: list[str]) -> None:
        # The library that was tried while nothing was found has no devices, unless it is among the sources now.
        tried = [] if self._found else [*self._several.sources]
        kept = tried if FALLBACK in names else []
        fresh = [self._make(name) for name in names if name != FALLBACK or not kept]
        self._several.use([*(self._several.sources if self._found else kept), *fresh])
        self._found += names
        log.info("GPUs are read by: %s", ", ".join(self._found))
        for source in tried if not kept else ():
            await source.close()
