"""Calls the functions of ``libnvidia-ml.so.1`` that gpumand needs, through ctypes.

The library belongs to NVIDIA's driver. Function names, structures and constants are those of NVIDIA's header
``nvml.h`` (https://docs.nvidia.com/deploy/nvml-api/), whose ABI is kept stable by version suffixes. A function that the
installed driver does not have fails with ``FUNCTION_NOT_FOUND``, like a failure that the driver reports.

All functions block and must be called in one thread only.
"""

from __future__ import annotations

import contextlib
from _ctypes import dlclose
from collections.abc import Callable
from ctypes import CDLL, Array, Structure, byref, c_char_p, c_int, c_uint, c_ulonglong, c_void_p, create_string_buffer
from ctypes import sizeof as size_of
from typing import Any, ClassVar

from gpumand.vram.library_file import SONAME

SUCCESS = 0
UNINITIALIZED = 1
INSUFFICIENT_SIZE = 7
LIBRARY_NOT_FOUND = 12
FUNCTION_NOT_FOUND = 13
UNKNOWN = 999

UUID_BYTES = NAME_BYTES = 96
"""NVML_DEVICE_UUID_V2_BUFFER_SIZE and NVML_DEVICE_NAME_V2_BUFFER_SIZE."""

PROCESS_NAME_BYTES = 1024
DRIVER_VERSION_BYTES = 80
MAX_PROCESSES = 1 << 16
"""A driver that reports a longer list is not believed, because memory for the list would have to be allocated."""


class NvmlError(Exception):
    """A call failed; the message has the name of the function.

    Attributes:
        code: NVML's return code, nvmlReturn_t.
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Memory(Structure):
    """nvmlMemory_t: bytes; ``used`` includes the driver's reserve."""

    _fields_: ClassVar = [("total", c_ulonglong), ("free", c_ulonglong), ("used", c_ulonglong)]


class MemoryV2(Structure):
    """nvmlMemory_v2_t: bytes; ``reserved`` is the driver's."""

    _fields_: ClassVar = [
        ("version", c_uint),
        ("total", c_ulonglong),
        ("reserved", c_ulonglong),
        ("free", c_ulonglong),
        ("used", c_ulonglong),
    ]


class ProcessInfo(Structure):
    """nvmlProcessInfo_v2_t, and nvmlProcessInfo_t of version 3, which has the same layout.

    ``usedGpuMemory`` is 2**64-1 if the driver does not know it.
    """

    _fields_: ClassVar = [
        ("pid", c_uint),
        ("usedGpuMemory", c_ulonglong),
        ("gpuInstanceId", c_uint),
        ("computeInstanceId", c_uint),
    ]


class Utilization(Structure):
    """nvmlUtilization_t: percent."""

    _fields_: ClassVar = [("gpu", c_uint), ("memory", c_uint)]


MEMORY_V2 = size_of(MemoryV2) | 2 << 24
"""nvmlMemory_v2, by the macro NVML_STRUCT_VERSION: the size of the structure and its version."""


class Binding:
    """The library of NVIDIA's driver, which is loaded by ``init``. Every method that calls it raises NvmlError."""

    def __init__(self) -> None:
        self._library: CDLL | None = None

    def init(self) -> None:
        """Load the library if it is not loaded, and initialise it."""
        if self._library is None:
            try:
                self._library = CDLL(SONAME)
            except OSError as error:
                raise NvmlError(LIBRARY_NOT_FOUND, str(error)) from error
        self._call("nvmlInitWithFlags", c_uint(0))

    def shutdown(self) -> None:
        """Shut the library down; it stays loaded."""
        self._call("nvmlShutdown")

    def unload(self) -> None:
        """Unload the library, so that ``init`` loads the file that is installed then. It must not be initialised."""
        library, self._library = self._library, None
        if library is not None:
            dlclose(library._handle)

    def device_count(self) -> int:
        """Number of GPUs."""
        return self._number("nvmlDeviceGetCount_v2")

    def device(self, index: int) -> c_void_p:
        """Handle of a GPU."""
        handle = c_void_p()
        self._call("nvmlDeviceGetHandleByIndex_v2", c_uint(index), byref(handle))
        return handle

    def uuid(self, device: c_void_p) -> str:
        """UUID of a GPU or MIG device."""
        return self._text("nvmlDeviceGetUUID", device, size=UUID_BYTES)

    def name(self, device: c_void_p) -> str:
        """Name of the product."""
        return self._text("nvmlDeviceGetName", device, size=NAME_BYTES)

    def memory(self, device: c_void_p) -> Memory:
        """Memory by version 1 of the function, which every driver has."""
        found = Memory()
        self._call("nvmlDeviceGetMemoryInfo", device, byref(found))
        return found

    def memory_v2(self, device: c_void_p) -> MemoryV2:
        """Memory by version 2 of the function."""
        found = MemoryV2(version=MEMORY_V2)
        self._call("nvmlDeviceGetMemoryInfo_v2", device, byref(found))
        return found

    def processes(self, function: str, device: c_void_p) -> list[ProcessInfo]:
        """One of the driver's lists of processes.

        Args:
            function: full name of the C function, such as ``nvmlDeviceGetComputeRunningProcesses_v3``.
            device: handle.

        Raises:
            NvmlError: with INSUFFICIENT_SIZE if the list has grown between the two calls that it takes.
        """
        count = c_uint(0)
        code = self._returned(function, device, byref(count), None)
        if code == SUCCESS:
            return []
        if code != INSUFFICIENT_SIZE:
            raise self._error(code, function)
        room = count.value * 2 + 5  # processes may have been started since
        if room > MAX_PROCESSES:
            raise NvmlError(UNKNOWN, f"{function} reports {count.value} processes")
        found: Array[ProcessInfo] = (ProcessInfo * room)()
        count.value = room
        self._call(function, device, byref(count), found)
        return list(found[: min(count.value, room)])

    def driver_version(self) -> str:
        """Version of the driver, such as 580.95.05."""
        return self._text("nvmlSystemGetDriverVersion", size=DRIVER_VERSION_BYTES)

    def process_name(self, pid: int) -> str:
        """Path of the program of a process."""
        return self._text("nvmlSystemGetProcessName", c_uint(pid), size=PROCESS_NAME_BYTES)

    def mig_mode(self, device: c_void_p) -> int:
        """Whether MIG is enabled now: 1 or 0."""
        current, pending = c_uint(), c_uint()
        self._call("nvmlDeviceGetMigMode", device, byref(current), byref(pending))
        return current.value

    def max_mig_devices(self, device: c_void_p) -> int:
        """Number of slots for MIG devices of a GPU."""
        return self._number("nvmlDeviceGetMaxMigDeviceCount", device)

    def mig_device(self, device: c_void_p, slot: int) -> c_void_p:
        """Handle of the MIG device in a slot."""
        handle = c_void_p()
        self._call("nvmlDeviceGetMigDeviceHandleByIndex", device, c_uint(slot), byref(handle))
        return handle

    def gpu_instance(self, device: c_void_p) -> int:
        """Number of the GPU instance of a MIG device."""
        return self._number("nvmlDeviceGetGpuInstanceId", device)

    def utilization(self, device: c_void_p) -> int:
        """Percent of time in which the GPU computed."""
        found = Utilization()
        self._call("nvmlDeviceGetUtilizationRates", device, byref(found))
        return int(found.gpu)

    def temperature(self, device: c_void_p, sensor: int) -> int:
        """Degrees Celsius of a sensor (nvmlTemperatureSensors_t)."""
        return self._number("nvmlDeviceGetTemperature", device, c_uint(sensor))

    def temperature_threshold(self, device: c_void_p, threshold: int) -> int:
        """Degrees Celsius of a threshold (nvmlTemperatureThresholds_t)."""
        return self._number("nvmlDeviceGetTemperatureThreshold", device, c_uint(threshold))

    def power_mw(self, device: c_void_p) -> int:
        """Milliwatts in use."""
        return self._number("nvmlDeviceGetPowerUsage", device)

    def power_limit_mw(self, device: c_void_p) -> int:
        """Milliwatts that the GPU may use."""
        return self._number("nvmlDeviceGetEnforcedPowerLimit", device)

    def _number(self, function: str, *arguments: Any) -> int:
        """Call a function whose last argument receives an unsigned int."""
        value = c_uint()
        self._call(function, *arguments, byref(value))
        return value.value

    def _text(self, function: str, *arguments: Any, size: int) -> str:
        """Call a function whose last arguments receive a string. Raises UnicodeDecodeError if it is not UTF-8."""
        text = create_string_buffer(size)
        self._call(function, *arguments, text, c_uint(size))
        return text.value.decode()

    def _call(self, function: str, *arguments: Any) -> None:
        code = self._returned(function, *arguments)
        if code != SUCCESS:
            raise self._error(code, function)

    def _returned(self, function: str, *arguments: Any) -> int:
        """Call a function and return its return code. Every argument is a ctypes value, so none can be cut."""
        if self._library is None:
            raise NvmlError(UNINITIALIZED, "NVML is not loaded")
        try:
            # Without a return type ctypes assumes int, which is what nvmlReturn_t is.
            call: Callable[..., int] = getattr(self._library, function)
        except AttributeError:
            raise NvmlError(FUNCTION_NOT_FOUND, f"the driver's library has no {function}") from None
        return call(*arguments)

    def _error(self, code: int, function: str) -> NvmlError:
        return NvmlError(code, f"{function}: {self._explained(code) or 'failed'} (NVML error {code})")

    def _explained(self, code: int) -> str:
        """NVML's text for a return code; "" if it has none."""
        with contextlib.suppress(AttributeError):
            explain = getattr(self._library, "nvmlErrorString")  # noqa: B009 - there may be no library yet
            explain.argtypes, explain.restype = [c_int], c_char_p
            return (explain(code) or b"").decode("utf-8", "replace")
        return ""
