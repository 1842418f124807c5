"""The program that enables the dmem controller at boot, on fake cgroup files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gpumand.root_helpers import enable_dmem
from gpumand.root_helpers.enable_dmem import (
    Enabler,
    consumer_tables,
    enable_all,
    since_lines,
    slice_path,
    user_chain,
    wanted_slices,
    write_since,
)
from gpumand.vram.dmem_early_units import enabled_since


class Cgroups:
    """A root cgroup whose ``subtree_control`` files keep what is written, as a plain file does."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.started: list[str] = []
        self.slices = {"llama@a.service": "system-llama.slice", "plain.service": "system.slice"}
        self.add("")
        (top / "cgroup.controllers").write_text("cpuset cpu dmem\n")

    def add(self, path: str, control: str = "cpu memory") -> None:
        (self.top / path).mkdir(parents=True, exist_ok=True)
        (self.top / path / "cgroup.subtree_control").write_text(control)

    def run(self, *arguments: str) -> str:
        if arguments[0] == "start":
            self.started.append(arguments[-1])
            self.add(slice_path(arguments[-1]))
            return ""
        return self.slices.get(arguments[-1], "")

    def written(self) -> list[str]:
        """The cgroups in which the controller was enabled."""
        files = sorted(self.top.rglob("cgroup.subtree_control"))
        return [str(file.parent.relative_to(self.top)) for file in files if file.read_text() == "+dmem"]


@pytest.fixture
def cgroups(tmp_path: Path) -> Cgroups:
    return Cgroups(tmp_path / "cgroup")


def config(folder: Path, text: str, mode: int = 0o644) -> Path:
    file = folder / f"{len(list(folder.iterdir()))}.toml"
    file.write_text(text)
    file.chmod(mode)
    return file


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("system.slice", "system.slice"),
        ("system-llama.slice", "system.slice/system-llama.slice"),
        ("a-b-c.slice", "a.slice/a-b.slice/a-b-c.slice"),
        ("system-my\\x2dllama.slice", "system.slice/system-my\\x2dllama.slice"),
        ("-.slice", ""),
    ],
)
def test_path_of_a_slice(name: str, path: str) -> None:
    assert slice_path(name) == path


def test_slices_come_from_systemd_and_from_the_configuration(cgroups: Cgroups, tmp_path: Path) -> None:
    file = config(
        tmp_path,
        '[consumers.a]\nunit = "llama@a.service"\n[consumers.b]\nunit = "plain.service"\n'
        '[consumers.c]\nslice = "ai-jobs.slice"\n[consumers.d]\nslice = "../evil.slice"\n'
        '[consumers.e]\nunit = "--now"\n',
    )
    slices = wanted_slices(consumer_tables([file], os.getuid()), cgroups.run)
    assert slices == ["system.slice", "ai-jobs.slice", "system-llama.slice"]


def test_containers_outside_of_units_are_in_the_slice_of_machines(cgroups: Cgroups, tmp_path: Path) -> None:
    file = config(tmp_path, '[consumers.a]\ncontainer = "comfyui"\n')
    assert wanted_slices(consumer_tables([file], os.getuid()), cgroups.run) == ["system.slice", "machine.slice"]


@pytest.mark.parametrize(
    "text", ["[consumers", "\xff", "[consumers]\na = 5\n", 'consumers = "x"', "[consumers.a]\nunit = 5\n"]
)
def test_damaged_configuration_leaves_the_slice_of_the_system(cgroups: Cgroups, tmp_path: Path, text: str) -> None:
    file = config(tmp_path, "")
    file.write_bytes(text.encode("latin-1"))
    good = config(tmp_path, '[consumers.a]\nunit = "llama@a.service"\n')
    assert wanted_slices(consumer_tables([file, good], os.getuid()), cgroups.run) == [
        "system.slice",
        "system-llama.slice",
    ]


@pytest.mark.parametrize(("mode", "owner"), [(0o664, 0), (0o646, 0), (0o644, 1)])
def test_file_that_others_could_write_is_not_used(tmp_path: Path, mode: int, owner: int) -> None:
    file = config(tmp_path, '[consumers.a]\nunit = "llama@a.service"\n', mode)
    assert consumer_tables([file], os.getuid() + owner) == []


def test_controller_is_enabled_from_the_root_down_and_missing_slices_are_started(cgroups: Cgroups) -> None:
    cgroups.add("system.slice")
    enabler = Enabler(top=cgroups.top)
    assert enabler.is_available()
    enable_all(enabler, ["system.slice", "system-llama.slice"], [], cgroups.run)
    assert cgroups.started == ["system-llama.slice"]
    assert enabler.enabled == ["", "system.slice", "system.slice/system-llama.slice"]
    assert cgroups.written() == [".", "system.slice", "system.slice/system-llama.slice"]
    assert enabler.failures == []


def test_engines_without_systemd_have_cgroups_of_their_own(cgroups: Cgroups) -> None:
    cgroups.add("system.slice")
    cgroups.add("docker")
    enabler = Enabler(top=cgroups.top)
    enable_all(enabler, ["system.slice"], [], cgroups.run)
    assert enabler.enabled == ["", "system.slice", "docker"]


def test_what_is_enabled_already_is_left_as_it_is(cgroups: Cgroups) -> None:
    (cgroups.top / "cgroup.subtree_control").write_text("cpu dmem memory\n")
    cgroups.add("system.slice")
    enabler = Enabler(top=cgroups.top)
    enable_all(enabler, ["system.slice"], [], cgroups.run)
    assert enabler.enabled == ["system.slice"]
    assert (cgroups.top / "cgroup.subtree_control").read_text() == "cpu dmem memory\n"


def test_failure_is_reported_and_other_slices_are_enabled(cgroups: Cgroups) -> None:
    cgroups.add("system.slice")
    cgroups.add("b.slice")
    (cgroups.top / "a.slice").mkdir()
    (cgroups.top / "a.slice" / "cgroup.subtree_control").mkdir()  # cannot be written
    enabler = Enabler(top=cgroups.top)
    enable_all(enabler, ["system.slice", "a.slice", "b.slice"], [], cgroups.run)
    assert [line.partition(":")[0] for line in enabler.failures] == ["a.slice"]
    assert "b.slice" in enabler.enabled


def test_programs_of_a_user_on_request(cgroups: Cgroups) -> None:
    cgroups.add("system.slice")
    for path in user_chain(1000)[:3]:
        cgroups.add(path)
    enabler = Enabler(top=cgroups.top)
    enable_all(enabler, ["system.slice"], [1000], cgroups.run)
    assert enabler.enabled[2:] == user_chain(1000)[:3]
    assert len(enabler.failures) == 1
    assert enabler.failures[0].startswith("user.slice/user-1000.slice/user@1000.service/app.slice: ")


def test_kernel_without_the_controller_is_named(
    cgroups: Cgroups, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (cgroups.top / "cgroup.controllers").write_text("cpuset cpu\n")
    monkeypatch.setattr(enable_dmem, "SINCE", tmp_path / "since")
    with pytest.raises(SystemExit, match=r"6\.14"):
        enable_dmem.main(["--controller=no_such_controller"])
    assert not (tmp_path / "since").exists()


@pytest.mark.parametrize("name", ["-dmem", "dmem +memory", "", "../x"])
def test_controller_must_be_a_name(name: str) -> None:
    with pytest.raises(SystemExit):
        enable_dmem.main([f"--controller={name}"])


def test_times_of_earlier_runs_are_kept_and_a_cgroup_that_is_new_again_gets_a_new_one() -> None:
    before = "1 2 /\n1 2 /system.slice\n1 2 /a.slice\n"
    assert list(since_lines(before, ["a.slice", "b.slice"], 8, 9)) == [
        "1 2 /",
        "1 2 /system.slice",
        "8 9 /a.slice",
        "8 9 /b.slice",
    ]


def test_daemon_reads_the_times_that_the_program_writes(tmp_path: Path) -> None:
    file = tmp_path / "run" / "gpumand-dmem" / "since"
    file.parent.parent.mkdir()
    write_since(file, ["", "system.slice"])
    write_since(file, ["system.slice/system-llama.slice"])
    found = enabled_since(tmp_path)
    assert list(found) == ["/", "/system.slice", "/system.slice/system-llama.slice"]
    uptime_sec = float(Path("/proc/uptime").read_text().split()[0])
    assert all(uptime_sec - 60 < seconds <= uptime_sec + 1 for seconds in found.values())
    assert file.stat().st_mode & 0o777 == 0o644
