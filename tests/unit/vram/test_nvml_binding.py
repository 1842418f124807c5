"""The binding of NVIDIA's library: structures like those of NVIDIA's own binding, and drivers that misbehave."""

from __future__ import annotations

import sys
from ctypes import Structure, c_uint, c_void_p, sizeof
from typing import Any

import pynvml
import pytest

from gpumand.vram import nvml_binding
from gpumand.vram.nvml_binding import Binding, NvmlError
from gpumand.vram.nvml_library import CallFailed, Code, LibraryFailed, NvmlLibrary

PAIRS = [
    (nvml_binding.Memory, "c_nvmlMemory_t"),
    (nvml_binding.MemoryV2, "c_nvmlMemory_v2_t"),
    (nvml_binding.ProcessInfo, "c_nvmlProcessInfo_v2_t"),
    (nvml_binding.ProcessInfo, "c_nvmlProcessInfo_v3_t"),
    (nvml_binding.Utilization, "c_nvmlUtilization_t"),
]


class FakeLibrary:
    """What ctypes returns for a library; a function that was not set is missing."""

    def nvmlInitWithFlags(self, flags: c_uint) -> int:  # noqa: N802
        assert flags.value == 0
        return 0


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Any:
    fake = FakeLibrary()
    monkeypatch.setattr(nvml_binding, "CDLL", lambda name: fake)
    return fake


@pytest.fixture
def binding(library: Any) -> Binding:
    found = Binding()
    found.init()
    return found


def layout(structure: type[Structure]) -> list[tuple[str, int, int]]:
    fields = [(str(field[0]), getattr(structure, field[0])) for field in structure._fields_]
    return [(name, field.offset, field.size) for name, field in fields]


@pytest.mark.parametrize(("own", "name"), PAIRS)
def test_structures_have_the_layout_of_nvidias_own_binding(own: type[Structure], name: str) -> None:
    theirs = getattr(pynvml, name)
    assert layout(own) == layout(theirs)
    assert sizeof(own) == sizeof(theirs)


def test_version_and_sizes_are_those_of_nvidias_own_binding() -> None:
    assert pynvml.nvmlMemory_v2 == nvml_binding.MEMORY_V2
    assert pynvml.NVML_DEVICE_UUID_V2_BUFFER_SIZE == nvml_binding.UUID_BYTES
    assert pynvml.NVML_DEVICE_NAME_V2_BUFFER_SIZE == nvml_binding.NAME_BYTES


@pytest.mark.parametrize("code", list(Code))
def test_codes_are_those_of_nvidias_own_binding(code: Code) -> None:
    names = {name for name in dir(pynvml) if name.startswith("NVML_ERROR_") and getattr(pynvml, name) == code}
    assert f"NVML_ERROR_{code.name}" in names or (code is Code.LIB_RM_VERSION_MISMATCH and names)


def test_nvidias_own_binding_is_not_needed(monkeypatch: pytest.MonkeyPatch, library: Any) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)  # importing it fails
    NvmlLibrary().start()


def test_a_function_that_the_driver_lacks_is_not_found(binding: Binding) -> None:
    with pytest.raises(NvmlError) as caught:
        binding.power_mw(c_void_p(1))
    assert (caught.value.code, str(caught.value)) == (
        Code.FUNCTION_NOT_FOUND,
        "the driver's library has no nvmlDeviceGetPowerUsage",
    )


def test_a_failure_names_the_function_and_the_drivers_code_without_its_text(library: Any, binding: Binding) -> None:
    library.nvmlDeviceGetPowerUsage = lambda device, value: 3
    with pytest.raises(NvmlError, match=r"^nvmlDeviceGetPowerUsage: failed \(NVML error 3\)$"):
        binding.power_mw(c_void_p(1))


def test_a_call_before_the_library_is_loaded_is_a_failure() -> None:
    with pytest.raises(NvmlError) as caught:
        Binding().device_count()
    assert caught.value.code == Code.UNINITIALIZED


@pytest.mark.parametrize("count", [nvml_binding.MAX_PROCESSES, 2**32 - 1])
def test_a_list_of_impossible_length_allocates_nothing(library: Any, binding: Binding, count: int) -> None:
    def processes(device: c_void_p, length: Any, found: Any) -> int:
        assert found is None, "memory was allocated for the list"
        length._obj.value = count
        return Code.INSUFFICIENT_SIZE

    library.processes = processes
    with pytest.raises(NvmlError, match=f"processes reports {count} processes"):
        binding.processes("processes", c_void_p(1))


def test_a_driver_that_claims_more_entries_than_it_was_given_room_for_is_cut(library: Any, binding: Binding) -> None:
    def processes(device: c_void_p, length: Any, found: Any) -> int:
        length._obj.value = 1 if found is None else 1000
        return Code.INSUFFICIENT_SIZE if found is None else 0

    library.processes = processes
    assert len(binding.processes("processes", c_void_p(1))) == 7


def test_a_text_that_is_no_utf_8_fails_its_call_only(library: Any) -> None:
    def name(pid: c_uint, text: Any, size: c_uint) -> int:
        text.value = b"\xff\xfe"
        return 0

    library.nvmlSystemGetProcessName = name
    nvml = NvmlLibrary()
    nvml.start()
    with pytest.raises(CallFailed) as caught:
        nvml.call(nvml.nvml.process_name, 1)
    assert caught.value.code == Code.UNKNOWN


def test_a_missing_library_is_reported_by_its_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvml_binding, "SONAME", "libgpumand-absent.so.1")
    with pytest.raises(LibraryFailed, match=r"^nvml-library-missing: libnvidia-ml\.so\.1 is not installed$"):
        NvmlLibrary().start()
