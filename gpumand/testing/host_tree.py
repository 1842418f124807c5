"""A tree of files that looks like the sysfs, procfs and cgroup folders of a host with graphics cards, for tests."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

READER_SEC = 30.0
"""How long a FIFO waits for its reader."""


@dataclass(frozen=True, slots=True)
class FakeCard:
    """One card of a fake host.

    Attributes:
        bdf: PCI address.
        files: files of its PCI folder, with their text.
        number: its card number; the render node is 128 higher.
        bridges: PCI bridges above it, as a path below /sys/devices.
    """

    bdf: str
    files: Mapping[str, str]
    number: int = 0
    bridges: str = "pci0000:00/0000:00:01.1"


class HostTree:
    """Creates the files of a fake host below a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, path: str, text: str | bytes | int) -> Path:
        """Write a file with everything above it; a number gets a line's end, as the kernel writes it."""
        file = self.path(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(text, int):
            text = f"{text}\n"
        # Written beside and renamed, so that a reader never finds half of it.
        beside = file.with_name(f".{file.name}.new")
        beside.write_bytes(text if isinstance(text, bytes) else text.encode())
        beside.rename(file)
        return file

    def remove(self, path: str) -> None:
        """Remove a file or a link."""
        self.path(path).unlink()

    def path(self, path: str) -> Path:
        """A path of the host, below the root of the tree."""
        return self.root / path.lstrip("/")

    def fifo(self, path: str) -> Path:
        """A FIFO in place of a file: opening it for reading hangs until ``release`` is called."""
        file = self.path(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
        os.mkfifo(file)
        return file

    def release(self, path: str) -> None:
        """Let a reader that hangs at a FIFO go on; it reads an empty file. Raises OSError if there is none in time."""
        deadline = time.monotonic() + READER_SEC
        while True:
            try:
                return os.close(os.open(self.path(path), os.O_WRONLY | os.O_NONBLOCK))
            except OSError as error:  # the reader was started, but has not opened the FIFO yet
                if error.errno != errno.ENXIO or time.monotonic() > deadline:
                    raise
            time.sleep(0.01)

    # -- cards ---------------------------------------------------------------------------------------------------

    def add_card(self, card: FakeCard) -> str:
        """Create a card; returns its PCI folder as a path of the host."""
        folder = f"/sys/devices/{card.bridges}/{card.bdf}"
        files = {"power/runtime_status": "active\n", **card.files}
        for name, text in files.items():
            self.write(f"{folder}/{name}", text)
        for name in (f"card{card.number}", f"renderD{128 + card.number}"):
            drm = self.path(f"{folder}/drm/{name}")
            drm.mkdir(parents=True, exist_ok=True)
            self._link(f"{folder}/drm/{name}/device", self.path(folder))
            self._link(f"/sys/class/drm/{name}", drm)
        self._link(f"/sys/bus/pci/devices/{card.bdf}", self.path(folder))
        return folder

    def add_nvidia_card(self, bdf: str = "0000:01:00.0", driver: str = "") -> str:
        """An NVIDIA card on the PCI bus, with the driver that has it; returns its PCI folder as a path of the host."""
        folder = f"/sys/devices/pci0000:00/0000:00:01.0/{bdf}"
        self.write(f"{folder}/vendor", "0x10de\n")
        self.write(f"{folder}/class", "0x030000\n")
        if driver:
            self.path(f"/sys/bus/pci/drivers/{driver}").mkdir(parents=True, exist_ok=True)
            self._link(f"{folder}/driver", self.path(f"/sys/bus/pci/drivers/{driver}"))
        self._link(f"/sys/bus/pci/devices/{bdf}", self.path(folder))
        return folder

    def remove_card(self, card: FakeCard) -> None:
        """Remove a card as an unplug does; its PCI folder is gone too."""
        for name in (f"card{card.number}", f"renderD{128 + card.number}"):
            self.remove(f"/sys/class/drm/{name}")
        self.remove(f"/sys/bus/pci/devices/{card.bdf}")

    def _link(self, path: str, target: Path) -> None:
        link = self.path(path)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(os.path.relpath(target, link.parent))

    # -- KFD, host RAM --------------------------------------------------------------------------------------------

    def add_kfd_node(self, number: int, gpu_id: int, properties: Mapping[str, int], bank_bytes: int = 0) -> None:
        """A node of KFD's topology; the id 0 is a processor's."""
        folder = f"/sys/class/kfd/kfd/topology/nodes/{number}"
        self.write(f"{folder}/gpu_id", gpu_id)
        self.write(f"{folder}/properties", "".join(f"{name} {value}\n" for name, value in properties.items()))
        if bank_bytes:
            self.write(f"{folder}/mem_banks/0/properties", f"heap_type 1\nsize_in_bytes {bank_bytes}\nflags 0\n")
        self.path("/sys/class/kfd/kfd/proc").mkdir(parents=True, exist_ok=True)

    def kfd_use(self, pid: int, gpu_id: int, held_bytes: int) -> None:
        """Memory of a process as KFD shows it."""
        self.write(f"/sys/class/kfd/kfd/proc/{pid}/vram_{gpu_id}", held_bytes)

    def kfd_gone(self, pid: int) -> None:
        """The process has ended, and KFD has removed its folder."""
        folder = self.path(f"/sys/class/kfd/kfd/proc/{pid}")
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()

    def meminfo(self, total_kib: int, available_kib: int, *more: str) -> None:
        """/proc/meminfo, with further lines."""
        lines = (
            f"MemTotal:       {total_kib} kB",
            "MemFree:          123456 kB",
            f"MemAvailable:   {available_kib} kB",
        )
        self.write("/proc/meminfo", "\n".join((*lines, *more, "")))


def amdgpu_files(device: str, vram: tuple[int, int], gtt: tuple[int, int], **more: str) -> dict[str, str]:
    """Files of an amdgpu card: its PCI device id, and total and used bytes of VRAM and GTT."""
    return {
        "vendor": "0x1002\n",
        "device": f"{device}\n",
        "uevent": f"DRIVER=amdgpu\nPCI_ID=1002:{device.removeprefix('0x').upper()}\n",
        "mem_info_vram_total": f"{vram[0]}\n",
        "mem_info_vram_used": f"{vram[1]}\n",
        "mem_info_gtt_total": f"{gtt[0]}\n",
        "mem_info_gtt_used": f"{gtt[1]}\n",
        **more,
    }


RX7900XTX = FakeCard(
    "0000:03:00.0",
    amdgpu_files(
        "0x744c",
        (25753026560, 15569256448),
        (33581285376, 214958080),
        mem_info_vram_vendor="hynix\n",
        board_info="type : cem\n",
        unique_id="5e1f0c3a9b7d2468\n",
    ),
    number=1,
)
STRIX_HALO = FakeCard(
    "0000:c6:00.0",
    amdgpu_files("0x1586", (536870912, 507244544), (128849018880, 25348505600)),
    bridges="pci0000:00/0000:00:08.1",
)
RYZEN_IGPU = FakeCard(
    "0000:0c:00.0",
    amdgpu_files("0x164e", (536870912, 41943040), (33581285376, 62914560)),
    number=2,
    bridges="pci0000:00/0000:00:08.1",
)
ARC_B580 = FakeCard(
    "0000:03:00.0",
    {"vendor": "0x8086\n", "device": "0xe20b\n", "uevent": "DRIVER=xe\nPCI_ID=8086:E20B\n"},
    number=0,
    bridges="pci0000:00/0000:00:01.0/0000:01:00.0/0000:02:01.0",
)
MI300X = FakeCard(
    "0000:05:00.0",
    amdgpu_files(
        "0x74a1",
        (206141652992, 60129542144),
        (67108864000, 0),
        mem_info_vram_vendor="hynix\n",
        board_info="type : oam\n",
        current_compute_partition="CPX\n",
        current_memory_partition="NPS4\n",
        available_compute_partition="SPX, DPX, QPX, CPX\n",
    ),
)


def rx7900xtx(tree: HostTree) -> HostTree:
    """A desktop with a Radeon RX 7900 XTX, on which ollama holds a model by ROCm."""
    tree.add_card(RX7900XTX)
    properties = {"simd_count": 192, "vendor_id": 4098, "device_id": 29772, "location_id": 768, "domain": 0}
    tree.add_kfd_node(0, 0, {"simd_count": 0, "location_id": 0})
    tree.add_kfd_node(1, 38924, {**properties, "drm_render_minor": 128, "gfx_target_version": 110000})
    tree.kfd_use(4711, 38924, 13736345600)
    tree.meminfo(65586148, 42000000)
    return tree


def strix_halo(tree: HostTree) -> HostTree:
    """A Strix Halo with 128 GB and a carve-out of 512 MiB, on which llama@qwen holds a model by ROCm."""
    tree.add_card(STRIX_HALO)
    properties = {"simd_count": 80, "location_id": 50688, "domain": 0, "drm_render_minor": 128}
    tree.add_kfd_node(1, 35911, {**properties, "gfx_target_version": 110501}, 128849018880)
    tree.kfd_use(5200, 35911, 25864175616)
    tree.meminfo(130986440, 97517568)
    return tree


def mi300x(tree: HostTree) -> HostTree:
    """An MI300X in eight partitions, two of which one process uses together."""
    tree.add_card(MI300X)
    for number in range(7):
        xcp = tree.path(f"/sys/devices/platform/amdgpu_xcp_{number}")
        (xcp / f"drm/renderD{129 + number}").mkdir(parents=True)
        (xcp / f"drm/renderD{129 + number}/device").symlink_to("../..")
        link = tree.path(f"/sys/class/drm/renderD{129 + number}")
        link.symlink_to(os.path.relpath(xcp / f"drm/renderD{129 + number}", link.parent))
    for number, gpu_id in enumerate((28851, 51499, 57603, 22683, 53458, 26954, 16738, 63738)):
        properties = {"simd_count": 152, "location_id": 1280 + number, "domain": 0, "drm_render_minor": 128 + number}
        tree.add_kfd_node(2 + number, gpu_id, properties, 25767706624)
    tree.kfd_use(7001, 28851, 20971520000)
    tree.kfd_use(7002, 51499, 18874368000)
    tree.kfd_use(7002, 57603, 18874368000)
    tree.meminfo(1584000000, 1500000000)
    return tree


def mixed_igpu(tree: HostTree) -> HostTree:
    """The AMD half of a host with a Ryzen processor and an NVIDIA card."""
    tree.add_card(RYZEN_IGPU)
    tree.meminfo(65586148, 48000000)
    return tree
