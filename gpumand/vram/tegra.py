"""The GPU of a Jetson or another Tegra board without NVML, such as with JetPack 5: host RAM as a whole is known.

The GPU has no memory of its own, so that /proc/meminfo has its total and what is left of it. No interface that is open
to unprivileged programs says which process uses how much of it (nvmap's list in debugfs belongs to root).
"""

from __future__ import annotations

from gpumand.domain.device import BEFORE_FIX, Pool, Reading, Sample, error_word
from gpumand.domain.gpu_settings import NamedOptions, options_of
from gpumand.vram.detection import is_tegra
from gpumand.vram.reading_time import ReadingTime
from gpumand.vram.sysfs import Root, below, read_text
from gpumand.vram.unified import DEFAULT_RESERVE_MIB, read_pool

UUID = "TEGRA"
MODEL = "/proc/device-tree/model"
MAX_NAME = 64
MISSING = "nvml-library-missing"

NO_NVML = (
    "no NVML is installed (JetPack 5 and older have none), so that only host RAM as a whole is known"
    f"{BEFORE_FIX}Declare vram_resident_mib for each consumer, and give it a unit or container, by which it is evicted"
)


def without_library(reading: Reading, root: Root, options: NamedOptions, reading_time: ReadingTime) -> Reading:
    """The GPU of the board in place of a library that is not installed; any other reading unchanged. Blocks.

    Args:
        reading: NVML's reading.
        root: root of the file system.
        options: options of single devices; the GPU has the names 0 and TEGRA.
        reading_time: the time of the reading.
    """
    if error_word(reading.error) != MISSING or not is_tegra(root):
        return reading
    pool = read_pool(root)
    reserve_mib = options_of((UUID, "0"), options).reserve_mib
    free_mib = pool.free_mib(DEFAULT_RESERVE_MIB if reserve_mib is None else reserve_mib)
    if free_mib is None or pool.total_mib is None:
        return reading
    sample = Sample(
        index=0,
        uuid=UUID,
        name=_model(root),
        source="nvml",
        total_mib=pool.total_mib,
        used_mib=pool.used_mib,
        free_mib=free_mib,
        taken_at=reading_time.monotonic,
        sampled_usec=reading_time.realtime_usec,
        attribution_gap=NO_NVML,
        pool=Pool.UNIFIED,
        integrated=True,
        proves_release=False,
    )
    return Reading((sample,))


def _model(root: Root) -> str:
    """The name of the board, which the device tree ends with a zero byte."""
    text = (read_text(below(root, MODEL)) or "").strip("\0 \n")
    return "".join(char if char.isprintable() else "?" for char in text[:MAX_NAME]) or "Tegra"
