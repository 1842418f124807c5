"""Implements the VramSource for AMD cards: sysfs files of the driver amdgpu, and processes from KFD.

The files are readable for every user, so that no privilege, library or device access is needed. Cards are known by
their unique id, else by their PCI address; card numbers change with the probe order.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace

from gpumand.domain.device import BEFORE_FIX, Devices, Pool, ProcessUse, Reading, Sample
from gpumand.domain.gpu_settings import NamedOptions, options_of
from gpumand.domain.telemetry import NO_TELEMETRY
from gpumand.ports import Clock
from gpumand.vram import kfd, pid_namespace, sysfs
from gpumand.vram.amd_memory import AmdMemory, device_memory, uses_gtt
from gpumand.vram.amd_names import product_name
from gpumand.vram.amd_telemetry import AmdTelemetry, UsedCard
from gpumand.vram.dmem import DmemReader, with_units
from gpumand.vram.power import SleepWatch
from gpumand.vram.process import command_name
from gpumand.vram.reading_time import ReadingTime, without_readings
from gpumand.vram.sysfs import MIB, Card, Root, read_number, read_word
from gpumand.vram.threaded import ThreadedSource
from gpumand.vram.unified import HostPool, read_pool

NAME = "amdgpu"
DRIVER = "amdgpu"
HOST_PIDS = (
    "gpumand runs in a container, and the kernel numbers processes of ROCm as the host does"
    f"{BEFORE_FIX}Run gpumand on the host"
)
MISSING = "amdgpu-missing: no card with the driver amdgpu was found. Load it with: modprobe amdgpu"

UNSEEN_MIB = 512
UNSEEN_PART = 100
"""Memory of the driver itself (page tables, scan-out) that KFD does not list: 512 MiB, or 1 % of a large card. More
than that is memory of Vulkan or OpenGL, whose processes are unknown."""


class AmdgpuSource(ThreadedSource):
    """A VramSource for AMD cards."""

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
        self._amd_session = AmdgpuSession(clock, root, options)
        super().__init__(NAME, self._amd_session, clock, call_timeout_sec=call_timeout_sec)
        self._sensors = AmdTelemetry()

    async def read(self, only: Devices = ()) -> Reading:
        """Take a fresh sample of every card, with its telemetry; see VramSource."""
        reading = await super().read(only)
        if reading.error:
            return reading
        telemetry = await self._sensors.read(self._amd_session.used_cards, is_quick=bool(only))
        samples = (replace(one, telemetry=telemetry.get(one.uuid, NO_TELEMETRY)) for one in reading.devices)
        return replace(reading, devices=tuple(samples))

    async def close(self) -> None:
        """End the threads; a reading that hangs is abandoned."""
        self._sensors.close()
        await super().close()


@dataclass(frozen=True, slots=True)
class _Known:
    """A card that was present once: its index stays its own while the source exists."""

    index: int
    uuid: str
    name: str
    bdf: str
    discrete: bool = False
    has_vram: bool = False
    shares_ram: bool = False
    device: int | None = None


class AmdgpuSession:
    """The cards known so far; all methods run in the source's thread unless noted otherwise."""

    def __init__(self, clock: Clock, root: Root, options: NamedOptions) -> None:
        self._clock = clock
        self._root = root
        self._options = options
        self._known: dict[str, _Known] = {}
        self._last: dict[str, Sample] = {}
        self._sleep = SleepWatch()
        self._dmem = DmemReader(root)
        self._has_host_pids = pid_namespace.is_initial(root)
        self.used_cards: dict[str, UsedCard] = {}

    def reopen(self) -> None:
        """The host was suspended; may be called from any thread."""
        self._sleep.expect_resume()

    def read(self) -> Reading:
        """Read every card. A card that was removed stays listed as lost."""
        reading_time = ReadingTime.now(self._clock)
        cards = {bdf: card for bdf, card in sysfs.cards(self._root).items() if card.driver == DRIVER}
        present = self._identify(cards)
        if not self._known:
            return Reading(error=MISSING)
        self.used_cards = {}
        ram, holders, amounts = read_pool(self._root), self._holders(cards), self._dmem.read()
        for uuid, card in present.items():
            sample = self._sample(self._known[uuid], card, ram, holders, reading_time)
            shares_ram = self._known[uuid].shares_ram or (sample.pool is Pool.UNIFIED and sample.is_measured)
            self._known[uuid] = replace(self._known[uuid], shares_ram=shares_ram)
            # The dmem controller counts memory of the card only: where host RAM is the pool, it sees nearly nothing.
            is_counted = sample.pool is Pool.VRAM
            self.used_cards[uuid] = UsedCard(card, bool(sample.processes))
            self._last[uuid] = self._explained(with_units(sample, amounts.get(card.bdf)) if is_counted else sample)
        self._sleep.finish_reading()
        for uuid in (self._known.keys() & self._last.keys()) - present.keys():  # one may never have been read
            self._last[uuid] = self._gone(self._known[uuid], reading_time)
        return Reading(tuple(sorted(self._last.values(), key=lambda sample: sample.index)))

    def _holders(self, cards: Mapping[str, Card]) -> _Holders | None:
        """The processes of ROCm; None where their numbers are those of another PID namespace, or unknown."""
        return _holders(self._root, cards) if self._has_host_pids else None

    def _explained(self, sample: Sample) -> Sample:
        """The sample with the reason why processes of ROCm are not in it."""
        is_hidden = not self._has_host_pids and not sample.attribution and kfd.exists(self._root)
        return replace(sample, attribution_gap=HOST_PIDS) if is_hidden else sample

    def _identify(self, cards: Mapping[str, Card]) -> dict[str, Card]:
        """The present cards by UUID; new ones get the next index, in the order of their PCI addresses."""
        present: dict[str, Card] = {}
        for bdf, card in cards.items():
            uuid = self._uuid(card)
            # Two cards with one unique id are distinguished by their addresses.
            uuid = uuid if uuid not in present else f"PCI-{bdf}"
            present[uuid] = card
            former = self._known.get(uuid)
            known = former or _Known(len(self._known), uuid, product_name(card, self._root), bdf)
            # Files that vanish while a card is removed do not turn it into an integrated GPU.
            self._known[uuid] = replace(
                known,
                bdf=bdf,
                discrete=known.discrete or _is_discrete(card),
                has_vram=known.has_vram or os.path.exists(card.path / "mem_info_vram_total"),
                device=card.device if card.device is not None else known.device,
            )
        return present

    def _uuid(self, card: Card) -> str:
        unique_id = read_word(card.path / "unique_id")
        if unique_id.strip("0") and len(unique_id) <= 32 and unique_id.isalnum():
            return f"AMD-{unique_id}"
        # A file that cannot be read for once does not make it another card.
        here = (one.uuid for one in self._known.values() if one.bdf == card.bdf and card.device in (None, one.device))
        return next(here, f"PCI-{card.bdf}")

    def _sample(
        self, known: _Known, card: Card, ram: HostPool, holders: _Holders | None, reading_time: ReadingTime
    ) -> Sample:
        memory = _memory(card, known)
        aliases = _aliases(card.bdf)
        options = options_of((known.uuid, *aliases), self._options)
        own = holders.on(card.bdf) if holders else {}
        seen_bytes = sum(held or 0 for held in own.values())
        found = device_memory(memory, seen_bytes, ram, options)
        asleep = self._sleep.is_asleep(card, reading_time.monotonic)
        unseen_mib = max(UNSEEN_MIB, (found.total_mib or 0) // UNSEEN_PART)
        unnamed_mib = (found.used_mib or 0) - seen_bytes // MIB
        is_complete = holders is not None and found.used_mib is not None and None not in own.values()
        return Sample(
            index=known.index,
            uuid=known.uuid,
            name=known.name,
            source=NAME,
            total_mib=found.total_mib,
            used_mib=found.used_mib,
            free_mib=found.free_mib,
            processes=tuple(ProcessUse(pid, _mib(own[pid]), command_name(pid)) for pid in sorted(own)),
            attributed=is_complete and unnamed_mib <= unseen_mib,
            taken_at=reading_time.monotonic,
            sampled_usec=reading_time.realtime_usec,
            error=found.error,
            aliases=aliases,
            pool=found.pool,
            integrated=uses_gtt(memory) or not memory.discrete,
            attribution="kfd" if holders is not None else "",
            asleep=asleep,
            proves_release=not asleep,
        )

    def _gone(self, known: _Known, reading_time: ReadingTime) -> Sample:
        error = f"gone: the card at {known.bdf} is not present any more"
        return replace(without_readings(self._last[known.uuid], error, reading_time), lost=True)


class _Holders:
    """The memory of the processes in KFD, by PCI address of the card."""

    def __init__(self, held: Mapping[str, Mapping[int, int | None]]) -> None:
        self._held = held

    def on(self, bdf: str) -> Mapping[int, int | None]:
        """Bytes by pid on a card; None = unknown."""
        return self._held.get(bdf, {})


def _holders(root: Root, cards: Mapping[str, Card]) -> _Holders | None:
    """Read KFD; None on a kernel without it."""
    if not kfd.exists(root):
        return None
    nodes = kfd.nodes(root)
    held: dict[str, dict[int, int | None]] = defaultdict(dict)
    for (pid, gpu_id), amount in kfd.use(root).items():
        if (node := nodes.get(gpu_id)) is not None:
            on_card = held[_card_of(node.bdf, cards)]
            so_far = on_card.get(pid, 0)
            on_card[pid] = None if amount is None or so_far is None else so_far + amount
    return _Holders(held)


def _card_of(bdf: str, cards: Mapping[str, Card]) -> str:
    """The card of a KFD node: partitions have function numbers of their own, but belong to function 0."""
    return bdf if bdf in cards else f"{bdf.rpartition('.')[0]}.0"


def _is_discrete(card: Card) -> bool:
    """Whether the card has a board or memory chips of its own; the presence of the files decides."""
    return any(os.path.exists(card.path / name) for name in ("board_info", "mem_info_vram_vendor"))


def _memory(card: Card, known: _Known) -> AmdMemory:
    def number(name: str) -> int | None:
        return read_number(card.path / f"mem_info_{name}")

    return AmdMemory(
        number("vram_total"),
        number("vram_used"),
        number("gtt_total"),
        number("gtt_used"),
        discrete=known.discrete,
        has_vram=known.has_vram,
        shares_ram=known.shares_ram,
    )


def _mib(held: int | None) -> int | None:
    return None if held is None else -(-held // MIB)


def _aliases(bdf: str) -> tuple[str, ...]:
    return (bdf, f"PCI-{bdf}")
