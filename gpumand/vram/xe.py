"""Implements the VramSource for Intel cards with the kernel driver xe, by the dmem cgroup controller.

The driver shows no memory in sysfs. The root cgroup has the use of the whole device (Linux 6.14 and newer), and
needs neither a privilege nor an enabled controller. The amounts of units need ``gpumand-dmem.service``.
"""

from __future__ import annotations

from dataclasses import replace

from gpumand.domain.device import Devices, Pool, Reading, Sample
from gpumand.ports import Clock
from gpumand.vram.call_thread import CallHangs, CallThread, ThreadClosed
from gpumand.vram.dmem import DmemReader, UnitAmounts, with_units
from gpumand.vram.reading_time import ReadingTime, without_readings
from gpumand.vram.sysfs import MIB, Card, Root, cards
from gpumand.vram.unified import DEFAULT_RESERVE_MIB, read_pool

DRIVER = "xe"
PROCESSOR_GPU = "0000:00:02.0"
"""PCI address of the GPU in every Intel processor that has one; no card can have it."""

NO_DMEM = (
    "no-dmem: the kernel reports no memory of this card. Intel cards need Linux 6.14 or newer with CONFIG_CGROUP_DMEM "
    "and cgroup v2"
)


class XeSource:
    """A VramSource for cards of the driver xe."""

    name: str = "xe"

    def __init__(self, clock: Clock, root: Root = "/", *, call_timeout_sec: float = 5.0) -> None:
        """Create the source; nothing is read yet.

        Args:
            clock: current time, for samples.
            root: root of the file system.
            call_timeout_sec: real seconds after which a running reading counts as hanging.
        """
        self._clock, self._root = clock, root
        self._thread = CallThread("gpumand-xe", call_timeout_sec)
        self._dmem = DmemReader(root)
        self._known: tuple[str, ...] = ()
        self._last_samples: tuple[Sample, ...] = ()

    async def read(self, only: Devices = ()) -> Reading:
        """Read every card; see VramSource."""
        try:
            reading = await self._thread.call(self._read)
        except CallHangs as hang:
            return self._without_readings(f"sysfs-hangs: reading xe cards has not returned for {hang.seconds:.0f} s")
        except ThreadClosed as error:
            return self._without_readings(f"xe-error: no thread for reading: {error}")
        if reading.devices:
            self._last_samples = reading.devices
        return reading

    def reopen(self) -> None:
        """Do nothing: no file is open between two readings."""

    async def close(self) -> None:
        """End the thread."""
        self._thread.close()

    def _read(self) -> Reading:
        reading_time = ReadingTime.now(self._clock)
        found = {bdf: card for bdf, card in cards(self._root).items() if card.driver == DRIVER}
        # A card that has vanished keeps its place and a new one comes last, so that indices do not change.
        self._known = (*self._known, *sorted(found.keys() - set(self._known)))
        if not self._known:
            return Reading(error="xe-missing: no card uses the kernel driver xe")
        amounts = self._dmem.read()
        samples = (
            self._sample(index, bdf, found.get(bdf), amounts.get(bdf), reading_time)
            for index, bdf in enumerate(self._known)
        )
        return Reading(tuple(samples))

    def _sample(
        self, index: int, bdf: str, card: Card | None, amounts: UnitAmounts | None, reading_time: ReadingTime
    ) -> Sample:
        blank = Sample(
            index=index,
            uuid=f"PCI-{bdf}",
            name=_name(card) if card else self._former_name(index),
            source=self.name,
            total_mib=None,
            used_mib=None,
            free_mib=None,
            taken_at=reading_time.monotonic,
            sampled_usec=reading_time.realtime_usec,
            aliases=(bdf,),
            integrated=bdf == PROCESSOR_GPU,
        )
        if card is None:
            return replace(blank, error=f"gone: the card {bdf} has disappeared from the PCI bus", lost=True)
        if amounts is None:
            return self._unified(blank) if blank.integrated else replace(blank, error=NO_DMEM)
        return with_units(_measured(blank, amounts), amounts)

    def _unified(self, blank: Sample) -> Sample:
        """The GPU of a processor, whose memory is host RAM."""
        pool = read_pool(self._root)
        return replace(
            blank,
            total_mib=pool.total_mib,
            used_mib=pool.used_mib,
            free_mib=pool.free_mib(DEFAULT_RESERVE_MIB),
            pool=Pool.UNIFIED,
            proves_release=False,
        )

    def _former_name(self, index: int) -> str:
        return self._last_samples[index].name if index < len(self._last_samples) else ""

    def _without_readings(self, error: str) -> Reading:
        reading_time = ReadingTime.now(self._clock)
        return Reading(tuple(without_readings(sample, error, reading_time) for sample in self._last_samples), error)


def _measured(blank: Sample, amounts: UnitAmounts) -> Sample:
    total_mib = amounts.total_bytes // MIB
    if amounts.used_bytes is None:
        return replace(blank, total_mib=total_mib, error="no-dmem: the root cgroup has no use of this card")
    used_mib = min(total_mib, -(-amounts.used_bytes // MIB))
    return replace(blank, total_mib=total_mib, used_mib=used_mib, free_mib=total_mib - used_mib)


def _name(card: Card) -> str:
    return f"Intel GPU {card.device:04x}" if card.device is not None else "Intel GPU"
