"""Implements the VramSource for Intel cards with the kernel driver xe, by the dmem cgroup controller.

The driver shows no memory in sysfs. The root cgroup has the use of the whole device (Linux 6.14 and newer), and
needs neither a privilege nor an enabled controller. The amounts of units need ``gpumand-dmem.service``.
"""

from __future__ import annotations

from dataclasses import replace

from gpumand.domain.device import Pool, Reading, Sample
from gpumand.domain.gpu_settings import DeviceOptions, NamedOptions, options_of
from gpumand.ports import Clock
from gpumand.vram.dmem import DmemReader, UnitAmounts, with_units
from gpumand.vram.power import SleepWatch
from gpumand.vram.reading_time import ReadingTime, without_readings
from gpumand.vram.sysfs import MIB, Card, Root, cards
from gpumand.vram.threaded import ThreadedSource
from gpumand.vram.unified import DEFAULT_RESERVE_MIB, read_pool

NAME = "xe"
DRIVER = "xe"
MISSING = "xe-missing: no card with the driver xe was found. Load it with: modprobe xe"
PROCESSOR_GPU = "0000:00:02.0"
"""PCI address of the GPU in every Intel processor that has one; no card can have it."""

NO_DMEM = (
    "no-dmem: the kernel reports no memory of this card. Intel cards need Linux 6.14 or newer with CONFIG_CGROUP_DMEM "
    "and cgroup v2"
)
NO_HOST_RAM = "no-host-ram: /proc/meminfo has no MemTotal or no MemAvailable"


class XeSource(ThreadedSource):
    """A VramSource for cards of the driver xe."""

    def __init__(
        self, clock: Clock, root: Root = "/", options: NamedOptions = (), *, call_timeout_sec: float = 5.0
    ) -> None:
        """Create the source; nothing is read yet.

        Args:
            clock: current time, for samples.
            root: root of the file system.
            options: the options of single devices.
            call_timeout_sec: real seconds after which a running reading counts as hanging.
        """
        super().__init__(NAME, XeSession(clock, root, options), clock, call_timeout_sec=call_timeout_sec)


class XeSession:
    """The cards known so far; all methods run in the source's thread unless noted otherwise."""

    def __init__(self, clock: Clock, root: Root, options: NamedOptions) -> None:
        self._clock, self._root, self._options = clock, root, options
        self._dmem = DmemReader(root)
        self._sleep = SleepWatch()
        self._last: dict[str, Sample] = {}

    def reopen(self) -> None:
        """The host was suspended; may be called from any thread."""
        self._sleep.expect_resume()

    def read(self) -> Reading:
        """Read every card. A card that was removed stays listed as lost."""
        reading_time = ReadingTime.now(self._clock)
        found = {bdf: card for bdf, card in cards(self._root).items() if card.driver == DRIVER}
        # A card that has vanished keeps its place and a new one comes last, so that indices do not change.
        known = (*self._last, *sorted(found.keys() - self._last.keys()))
        if not known:
            return Reading(error=MISSING)
        amounts = self._dmem.read()
        for index, bdf in enumerate(known):
            if bdf in found:
                self._last[bdf] = self._sample(index, found[bdf], amounts.get(bdf), reading_time)
            else:
                error = f"gone: the card at {bdf} is not present any more"
                self._last[bdf] = replace(without_readings(self._last[bdf], error, reading_time), lost=True)
        self._sleep.finish_reading()
        return Reading(tuple(self._last.values()))

    def _sample(self, index: int, card: Card, amounts: UnitAmounts | None, reading_time: ReadingTime) -> Sample:
        asleep = self._sleep.is_asleep(card, reading_time.monotonic)
        blank = Sample(
            index=index,
            uuid=f"PCI-{card.bdf}",
            name=f"Intel GPU {card.device:04x}" if card.device is not None else "Intel GPU",
            source=NAME,
            total_mib=None,
            used_mib=None,
            free_mib=None,
            taken_at=reading_time.monotonic,
            sampled_usec=reading_time.realtime_usec,
            aliases=(card.bdf, f"PCI-{card.bdf}"),
            integrated=card.bdf == PROCESSOR_GPU,
            asleep=asleep,
            proves_release=not asleep,
        )
        options = options_of((blank.uuid, *blank.aliases), self._options)
        if amounts is not None:
            return with_units(_measured(blank, amounts, options), amounts)
        return self._unified(blank, options) if blank.integrated else replace(blank, error=NO_DMEM)

    def _unified(self, blank: Sample, options: DeviceOptions) -> Sample:
        """The GPU of a processor, whose memory is host RAM."""
        pool = read_pool(self._root)
        reserve_mib = DEFAULT_RESERVE_MIB if options.reserve_mib is None else options.reserve_mib
        is_known = pool.total_mib is not None and pool.available_mib is not None
        return replace(
            blank,
            error="" if is_known else NO_HOST_RAM,
            total_mib=pool.total_mib,
            used_mib=pool.used_mib,
            free_mib=pool.free_mib(reserve_mib),
            pool=Pool.UNIFIED,
            proves_release=False,
        )


def _measured(blank: Sample, amounts: UnitAmounts, options: DeviceOptions) -> Sample:
    total_mib = amounts.total_bytes // MIB
    if amounts.used_bytes is None:
        return replace(blank, total_mib=total_mib, error="no-dmem: the root cgroup has no use of this card")
    used_mib = min(total_mib, -(-amounts.used_bytes // MIB))
    free_mib = max(0, total_mib - used_mib - (options.reserve_mib or 0))
    return replace(blank, total_mib=total_mib, used_mib=used_mib, free_mib=free_mib)
