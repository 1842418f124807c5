"""Several VRAM sources as one: each keeps its own back-off and its own hang, and its devices their own indices."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import replace

from gpumand.domain.device import SOURCE_STRIDE, Devices, Reading, Sample, error_word
from gpumand.domain.driver_power import DriverPower
from gpumand.domain.gpu_settings import NamedOptions, options_of
from gpumand.ports import Clock, Driver, Retrying, VramSource
from gpumand.vram.reading_time import ReadingTime


class SeveralSources:
    """A VramSource made of several; the devices of the k-th one have the indices from k times 10000 on."""

    def __init__(self, sources: Sequence[VramSource], clock: Clock, options: NamedOptions = ()) -> None:
        """Combine sources.

        Args:
            sources: the sources, the one for consumers without a configured device first.
            clock: current time, for samples.
            options: options of single devices; those to be ignored are left out of the readings.
        """
        self.name = ""
        self.sources: tuple[VramSource, ...] = ()
        self._rests, self._last = False, dict[int, list[Sample]]()
        self.use(sources)
        self._clock = clock
        self._options = options

    def use(self, sources: Sequence[VramSource]) -> None:
        """Use these sources from now on; those that were used before are not closed."""
        former, self.sources = self.sources, tuple(sources)
        same = {place for place, (one, other) in enumerate(zip(former, self.sources, strict=False)) if one is other}
        self._last = {place: samples for place, samples in self._last.items() if place in same}
        self.name = ",".join(source.name for source in self.sources)

    @property
    def busy_sec(self) -> float:
        """Seconds for which every source has been running a call; 0.0 as long as one of them answers."""
        return min((float(getattr(one, "busy_sec", 0.0)) for one in self.sources), default=0.0)

    @property
    def thread_alive(self) -> bool:
        """Whether the threads of all sources run."""
        return all(getattr(one, "thread_alive", True) for one in self.sources)

    @property
    def needs_new_process(self) -> bool:
        """Whether a source can only be read by a new process."""
        return any(getattr(one, "needs_new_process", False) for one in self.sources)

    async def read(self, only: Devices = ()) -> Reading:
        """Read the sources at once; the error of one of them is that of its devices only. See VramSource.

        With ``only``, sources without any of these devices are not read. Without, a driver that rests is not.
        """
        chosen = [(place, source, _own(place, only)) for place, source in enumerate(self.sources)]
        if only:
            chosen = [one for one in chosen if one[2]] or chosen
        resting = () if only else self._resting()
        chosen = [one for one in chosen if one[0] not in resting]
        readings = await _read_all([(source, own) for _, source, own in chosen])
        any_device = bool(resting) or any(reading.devices for reading in readings)
        by_place = {
            place: list(self._placed(place, source, reading, any_device))
            for (place, source, _), reading in zip(chosen, readings, strict=True)
        }
        if not only:
            self._last |= by_place
        by_place |= {place: self._last.get(place, []) for place in resting}
        samples = [sample for place in sorted(by_place) for sample in by_place[place]]
        kept = tuple(one for one in samples if not options_of((one.uuid, *one.aliases), self._options).ignore)
        errors = [reading.error for reading in readings]
        is_complete = len(chosen) == len(self.sources)
        if is_complete and all(errors):
            return Reading(kept, "; ".join(errors))
        return Reading(kept, self._all_ignored(samples, kept) if is_complete else "")

    async def release_driver(self) -> None:
        """Close the drivers that are kept open; see Driver. Raises DriverHangs."""
        for source in self.sources:
            if isinstance(source, Driver):
                await source.release_driver()

    def rest_driver(self, *, resting: bool) -> None:
        """Read only the other devices for now; see Driver."""
        self._rests = resting

    def _resting(self) -> tuple[int, ...]:
        """The places of the sources whose driver rests: their last samples are known, and there are others to read."""
        kept = [place for place, one in enumerate(self.sources) if isinstance(one, Driver) and self._last.get(place)]
        return tuple(kept) if self._rests and len(kept) < len(self.sources) else ()

    async def power(self) -> DriverPower:
        """The power states of the cards of the drivers that are kept open; see Driver."""
        states = [await source.power() for source in self.sources if isinstance(source, Driver)]
        return DriverPower(tuple(card for one in states for card in one.cards))

    def retry(self) -> None:
        """Open the sources at once that have failed; see Retrying."""
        for source in self.sources:
            if isinstance(source, Retrying):
                source.retry()

    def reopen(self) -> None:
        """Reopen all sources; see VramSource."""
        for source in self.sources:
            source.reopen()

    async def close(self) -> None:
        """Close all sources at once; see VramSource."""
        await asyncio.gather(*(source.close() for source in self.sources))

    def _placed(self, place: int, source: VramSource, reading: Reading, any_device: bool) -> Iterable[Sample]:
        """The devices of a source in their places; a stand-in if it has none while others have."""
        first = place * SOURCE_STRIDE
        if reading.devices or not reading.error or not any_device:
            return [replace(sample, index=first + sample.index) for sample in reading.devices]
        # Without a device in its place, consumers made for this source would be placed on another one's devices. A
        # missing driver is no reason for loads by declared footprints alone, as it is on a host without any source.
        hangs = error_word(reading.error).endswith("-hangs")
        error = reading.error if hangs else f"unavailable: {reading.error}"
        return [_unreadable(first, source.name, error, ReadingTime.now(self._clock))]

    @staticmethod
    def _all_ignored(samples: Sequence[Sample], kept: Sequence[Sample]) -> str:
        return "no-devices: every device is ignored by the configuration" if samples and not kept else ""


async def _read_all(chosen: Sequence[tuple[VramSource, Devices]]) -> list[Reading]:
    """Read sources at once. Most hosts have one, which is read at every interval without a task of its own."""
    if len(chosen) == 1:
        ((source, own),) = chosen
        return [await source.read(own)]
    return await asyncio.gather(*(source.read(own) for source, own in chosen))


def _own(place: int, only: Devices) -> Devices:
    """The indices of a source's own devices among those of all sources."""
    return tuple(index % SOURCE_STRIDE for index in only if index // SOURCE_STRIDE == place)


def _unreadable(index: int, source: str, error: str, reading_time: ReadingTime) -> Sample:
    return Sample(
        index=index,
        uuid="",
        name="",
        source=source,
        total_mib=None,
        used_mib=None,
        free_mib=None,
        taken_at=reading_time.monotonic,
        sampled_usec=reading_time.realtime_usec,
        error=error,
        stands_in=True,
    )
