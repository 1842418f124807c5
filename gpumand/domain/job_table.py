"""The running jobs by device: at most one job runs on a device."""

from __future__ import annotations

from collections.abc import Mapping

from gpumand.domain.view import Job


class JobTable:
    """Records each job on all of its devices, so that the job of a device is found without a search.

    Attributes:
        by_device: running jobs by device.
    """

    def __init__(self) -> None:
        self._by_device: dict[int, Job] = {}
        self.by_device: Mapping[int, Job] = self._by_device

    def begin(self, job: Job) -> None:
        """Start a job on all of its devices; none of them may have a job."""
        assert job.devices, "a job is somewhere"
        for device in (*job.devices, *job.extra_devices):
            assert device not in self._by_device, "one job at a time on a device"
            self._by_device[device] = job

    def replace(self, job: Job) -> None:
        """Replace a running job by its next step, which may involve other additional devices."""
        former = self._by_device[job.devices[0]]
        assert (former.consumer, former.devices) == (job.consumer, job.devices)
        self._remove(former)
        self.begin(job)

    def end(self, device: int) -> None:
        """End the job on this device, and on all other devices of the same job."""
        self._remove(self._by_device[device])

    def concerns(self, name: str) -> bool:
        """Whether a job loads or evicts this consumer."""
        return any(name == job.consumer or name in job.evicting for job in self._by_device.values())

    def is_for(self, name: str) -> bool:
        """Whether a job makes room for this consumer or loads it, and does not evict it."""
        return any(job.consumer == name and name not in job.evicting for job in self._by_device.values())

    def _remove(self, job: Job) -> None:
        for device in (*job.devices, *job.extra_devices):
            del self._by_device[device]
