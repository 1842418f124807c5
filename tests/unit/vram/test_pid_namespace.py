"""Processes that a driver lists while gpumand runs in a PID namespace of its own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from gpumand.domain.device import BEFORE_FIX, Pool, ProcessUse, Sample
from gpumand.testing.clock import FakeClock
from gpumand.testing.host_tree import HostTree, rx7900xtx
from gpumand.vram.amdgpu import AmdgpuSource
from gpumand.vram.nvml_library import CallFailed, Code
from gpumand.vram.nvml_namespace import FIX, NamespaceGuard
from gpumand.vram.pid_namespace import INITIAL, exists, is_initial

CONTAINER = "pid:[4026532573]"
NO_PID = 1 << 22
HERE = os.getpid()


def namespace(root: Path, target: str) -> Path:
    link = root / "proc/self/ns/pid"
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(target)
    return root


class Library:
    """NVML of one driver version."""

    def __init__(self, version: str) -> None:
        self.version, self.calls = version, 0
        self.nvml = self

    def driver_version(self) -> str:
        self.calls += 1
        if not self.version:
            raise CallFailed(Code.NOT_SUPPORTED, "nvmlSystemGetDriverVersion: Not Supported")
        return self.version

    def call(self, function: Any) -> Any:
        return function()


def sample(*processes: ProcessUse, used_mib: int = 9000, pool: Pool = Pool.VRAM) -> Sample:
    return Sample(
        index=0,
        uuid="GPU-a",
        name="RTX 4090",
        source="nvml",
        total_mib=24576,
        used_mib=used_mib,
        free_mib=24576 - used_mib,
        processes=processes,
        attributed=True,
        attribution="nvml",
        pool=pool,
    )


def checked(root: Path, version: str, given: Sample) -> Sample:
    library: Any = Library(version)
    return NamespaceGuard(library, namespace(root, CONTAINER)).checked(given)


def test_the_namespace_of_the_host_is_recognised_by_its_number(tmp_path: Path) -> None:
    assert is_initial(tmp_path)  # a kernel without namespaces
    assert is_initial(namespace(tmp_path / "host", INITIAL))
    assert not is_initial(namespace(tmp_path / "lxc", CONTAINER))


def test_a_namespace_that_cannot_be_read_is_not_taken_for_that_of_the_host(tmp_path: Path) -> None:
    link = tmp_path / "proc/self/ns/pid"
    link.parent.mkdir(parents=True)
    link.write_text("not a link")
    assert not is_initial(tmp_path)


def test_a_process_exists_or_not() -> None:
    assert exists(HERE)
    assert exists(1)
    assert not exists(NO_PID)


@pytest.mark.parametrize("version", ["470.256.02", "535.104.05", "", "unreadable"])
def test_numbers_of_the_host_are_not_attributed_even_if_such_a_process_exists_here(
    tmp_path: Path, version: str, caplog: pytest.LogCaptureFixture
) -> None:
    found = checked(tmp_path, version, sample(ProcessUse(HERE, 9000, "llama-server")))
    assert (found.processes, found.attributed, found.attribution) == ((), False, "")
    assert (found.total_mib, found.used_mib, found.free_mib) == (24576, 9000, 15576)
    assert "numbers processes as the host does. Update the driver to version 565 or newer" in found.attribution_gap
    assert found.attribution_gap in caplog.text
    assert found.attribution_gap.partition(BEFORE_FIX)[2] == FIX


@pytest.mark.parametrize("version", ["535.113.01", "550.54.14", "560.35.03"])
def test_a_driver_with_local_numbers_but_foreign_amounts_names_processes_only(tmp_path: Path, version: str) -> None:
    found = checked(tmp_path, version, sample(ProcessUse(HERE, 9000, "llama-server")))
    assert found.processes == (ProcessUse(HERE, None, "llama-server"),)
    assert not found.attributed
    assert "does not report the memory of processes. Update the driver" in found.attribution_gap
    assert found.attribution_gap.partition(BEFORE_FIX)[2] == FIX


@pytest.mark.parametrize("version", ["565.57.01", "580.95.05", "615.71.09"])
def test_a_driver_that_answers_for_the_callers_namespace_is_believed(tmp_path: Path, version: str) -> None:
    given = sample(ProcessUse(HERE, 8800, "llama-server"))
    assert checked(tmp_path, version, given) == given


def test_memory_that_no_listed_process_explains_may_be_a_consumers(tmp_path: Path) -> None:
    given = sample(ProcessUse(HERE, 2000, "llama-server"))
    found = checked(tmp_path, "580.95.05", given)
    assert (found.processes, found.attributed, found.attribution_gap) == (given.processes, False, "")


def test_a_listed_process_that_does_not_exist_here_spoils_the_list(tmp_path: Path) -> None:
    found = checked(tmp_path, "580.95.05", sample(ProcessUse(HERE, 8000), ProcessUse(NO_PID, 1000)))
    assert (found.processes, found.attributed, found.attribution) == ((), False, "nvml")


def test_whole_units_are_known_by_their_cgroups_and_stay(tmp_path: Path) -> None:
    unit = ProcessUse(0, 9000, unit="ollama.service")
    found = checked(tmp_path, "470.256.02", sample(ProcessUse(HERE, 9000), unit))
    assert (found.processes, found.attribution, found.attributed) == ((unit,), "nvml", False)


def test_wsl_does_not_name_processes_whatever_the_version_says(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/dxg").touch()
    found = checked(tmp_path, "580.95.05", sample(ProcessUse(HERE, 9000)))
    assert found.processes == ()
    assert found.attribution_gap.startswith("in WSL")


def test_on_the_host_nothing_is_asked_and_nothing_changes(tmp_path: Path) -> None:
    library: Any = Library("470.256.02")
    guard = NamespaceGuard(library, namespace(tmp_path, INITIAL))
    given = sample(ProcessUse(NO_PID, 100))
    assert guard.checked(given) is given
    assert library.calls == 0


def test_the_version_is_asked_once_for_each_session(tmp_path: Path) -> None:
    library: Any = Library("470.256.02")
    guard = NamespaceGuard(library, namespace(tmp_path, CONTAINER))
    guard.checked(sample())
    guard.checked(sample())
    assert library.calls == 1
    guard.forget()
    library.version = "580.95.05"
    assert guard.checked(sample(ProcessUse(HERE, 9000))).attributed
    assert library.calls == 2


async def test_numbers_of_rocm_processes_are_those_of_the_host(tmp_path: Path) -> None:
    tree = HostTree(tmp_path)
    rx7900xtx(tree)
    namespace(tmp_path, CONTAINER)
    source = AmdgpuSource(FakeClock(), tmp_path)
    [found] = (await source.read()).devices
    await source.close()
    assert all(not one.pid for one in found.processes)
    assert found.used_mib is not None
    assert "numbers processes of ROCm as the host does. Run gpumand on the host" in found.attribution_gap
    assert (found.attribution, found.attributed) == ("", False)
