"""Reads the memory of ROCm processes from the kernel's KFD folder in sysfs, which every user may read.

KFD numbers GPUs by ids and nodes of its own, which are neither DRM card numbers nor HIP ordinals. Only the PCI address
joins them. KFD lists memory that was allocated through it (HIP, ROCm); memory of Vulkan and OpenGL is not in it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gpumand.vram.sysfs import Root, below, parse_number, read_number, read_pairs

FOLDER = "/sys/class/kfd/kfd"
MAX_NODES = 256
MAX_PROCESSES = 4096
MAX_DEPTH = 2
"""Newer kernels have folders ``context_N`` below that of a process; nothing lies deeper."""

_VRAM_FILE = re.compile(r"vram_([0-9]{1,10})")


@dataclass(frozen=True, slots=True)
class Node:
    """A GPU, or a partition of one, as KFD knows it.

    Attributes:
        bdf: PCI address of the function; several partitions of a card have the same.
        bank_bytes: size of its memory banks.
    """

    bdf: str
    bank_bytes: int


def exists(root: Root = "/") -> bool:
    """Whether the kernel has KFD, so that processes of ROCm are listed."""
    return os.path.isdir(below(root, f"{FOLDER}/proc"))


def nodes(root: Root = "/") -> dict[int, Node]:
    """The GPUs of KFD's topology by their gpu_id. Processors, which have the id 0, are left out.

    Function numbers of a partitioned card are those of its partitions, so that the PCI address is the one of function
    0 unless the device has that function itself; see ``bdf_of``.
    """
    folder = below(root, f"{FOLDER}/topology/nodes")
    found: dict[int, Node] = {}
    for name in _listed(folder)[:MAX_NODES]:
        gpu_id = read_number(folder / name / "gpu_id")
        if gpu_id:
            found[gpu_id] = _node(folder / name)
    return found


def _node(folder: Path) -> Node:
    properties = read_pairs(folder / "properties")
    location = parse_number(properties.get("location_id", "")) or 0
    domain = parse_number(properties.get("domain", "")) or 0
    return Node(bdf_of(domain, location), _bank_bytes(folder / "mem_banks"))


def _bank_bytes(folder: Path) -> int:
    sizes = (read_pairs(folder / bank / "properties").get("size_in_bytes", "") for bank in _listed(folder)[:16])
    return sum(parse_number(size) or 0 for size in sizes)


def bdf_of(domain: int, location_id: int) -> str:
    """The PCI address of a ``location_id``, which is ``bus << 8 | device << 3 | function``."""
    bus, slot, function = location_id >> 8 & 0xFF, location_id >> 3 & 0x1F, location_id & 7
    return f"{domain:04x}:{bus:02x}:{slot:02x}.{function}"


def use(root: Root = "/") -> dict[tuple[int, int], int | None]:
    """Bytes that each process has allocated on each GPU, by (pid, gpu_id). Processes without memory are left out.

    An amount that cannot be read is None: the process may hold anything.

    ROCm opens every GPU of the host, so that most files hold 0.
    """
    folder = below(root, f"{FOLDER}/proc")
    found: dict[tuple[int, int], int | None] = {}
    for name in _listed(folder)[:MAX_PROCESSES]:
        pid = parse_number(name)
        for gpu_id, held in _held(folder / name).items() if pid else ():
            if pid and held != 0:
                found[pid, gpu_id] = held
    return found


def _held(folder: Path) -> dict[int, int | None]:
    """Bytes by gpu_id in the folder of a process, with those of its contexts; None where one cannot be read."""
    held: dict[int, int | None] = {}
    for path in _vram_files(folder, MAX_DEPTH):
        gpu_id, amount = int(path.name.removeprefix("vram_")), read_number(path)
        # A process may end at any moment: a file that is gone has nothing any more.
        if amount is not None or path.exists():
            so_far = held.get(gpu_id, 0)
            held[gpu_id] = None if amount is None or so_far is None else so_far + amount
    return held


def _vram_files(folder: Path, depth: int) -> Iterator[Path]:
    for name in _listed(folder):
        if _VRAM_FILE.fullmatch(name):
            yield folder / name
        elif depth > 1 and name.startswith("context_"):
            yield from _vram_files(folder / name, depth - 1)


def _listed(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []
