"""A source with a scripted reading."""

from __future__ import annotations

from gpumand.domain.device import Devices, Reading, Sample

RTX = Sample(0, "GPU-1", "RTX 4090", "nvml", 24564, 564, 24000, aliases=("0000:01:00.0", "PCI-0000:01:00.0"))
NO_LIBRARY = Reading(error="nvml-library-missing: libnvidia-ml.so.1")


class ScriptedSource:
    """A source with a scripted reading."""

    def __init__(self, name: str, reading: Reading) -> None:
        self.name = name
        self.reading = reading
        self.busy_sec = 0.0
        self.thread_alive = True
        self.needs_new_process = False
        self.reads = self.reopened = self.closed = 0
        self.only: Devices = ()

    async def read(self, only: Devices = ()) -> Reading:
        self.reads += 1
        self.only = only
        return self.reading

    def reopen(self) -> None:
        self.reopened += 1

    async def close(self) -> None:
        self.closed += 1


def nvml(reading: Reading | None = None) -> ScriptedSource:
    return ScriptedSource("nvml", reading or Reading((RTX,)))
