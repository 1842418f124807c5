"""The measurements of ``gpumanctl calibrate``, as plain values."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Unload:
    """The result of one eviction method.

    Attributes:
        method: the method, as in the configuration key ``evict``.
        duration_usec: time until the driver reported the memory free, in microseconds.
        freed_mib: memory that was freed, in MiB.
        residual_mib: memory that was still held some seconds later, in MiB; None when unknown.
        error: the daemon's message when the eviction failed; "" when it succeeded.
    """

    method: str
    duration_usec: int = 0
    freed_mib: int = 0
    residual_mib: int | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Calibration:
    """The measurements of one consumer.

    Attributes:
        consumer: its name.
        declared_mib: its configured footprint in MiB.
        steady_mib: memory that it holds at rest, in MiB; the largest value of several loads.
        peak_mib: the most memory that it held, in MiB.
        loads_usec: duration of each load, in microseconds.
        unloads: the result of each eviction method.
    """

    consumer: str
    declared_mib: int
    steady_mib: int = 0
    peak_mib: int = 0
    loads_usec: tuple[int, ...] = ()
    unloads: tuple[Unload, ...] = ()
