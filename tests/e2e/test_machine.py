"""The machine itself: a real systemd, apart from this host."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.container import REPOSITORY
from tests.e2e.machine import Machine
from tests.e2e.trees import tree, why_no_tree


def test_machine_has_a_settled_systemd_and_a_system_bus(machine: Machine) -> None:
    assert machine.systemctl("is-system-running").strip() == "running"
    assert machine.run(["busctl", "--no-legend", "list"]).stdout.count("org.freedesktop.systemd1") == 1


def test_files_written_inside_are_not_visible_outside(machine: Machine) -> None:
    machine.write_file("/etc/gpumand-e2e/file", "inside\n")
    assert machine.run(["cat", "/etc/gpumand-e2e/file"]).stdout == "inside\n"
    assert not Path("/etc/gpumand-e2e").exists()


def test_checkout_lies_at_the_same_path_inside(machine: Machine) -> None:
    inside = machine.run(["cat", f"{REPOSITORY}/pyproject.toml"]).stdout
    assert inside == (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")


def test_commands_belong_to_a_unit_inside(machine: Machine) -> None:
    cgroup = machine.run(["cat", "/proc/self/cgroup"]).stdout.splitlines()[-1]
    assert cgroup == "0::/system.slice/e2e-shell.service"


def test_commands_run_as_the_user_asked_for(machine: Machine) -> None:
    assert machine.run(["id", "--user", "--name"], user="nobody").stdout.strip() == "nobody"


def test_network_inside_is_its_own(machine: Machine) -> None:
    assert machine.run(["ls", "/sys/class/net"]).stdout.split() == ["lo"]


def test_killed_machine_leaves_nothing(own_machine: Machine) -> None:
    name = own_machine.container.name
    own_machine.kill()
    assert not list(Path("/sys/fs/cgroup").glob(f"**/{name}"))
    assert name not in Path("/proc/self/mountinfo").read_text(encoding="ascii")
    assert [path for path in Path("/proc").glob("[0-9]*/cmdline") if name.encode() in _read(path)] == []


def test_failed_command_reports_its_output(machine: Machine) -> None:
    with pytest.raises(AssertionError, match="no such thing"):
        machine.run(["sh", "-c", "echo no such thing >&2; exit 3"])


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


@pytest.mark.parametrize(("suite", "systemd"), [("bookworm", "252"), ("trixie", "257")])
@pytest.mark.skipif(bool(why_no_tree()), reason=f"e2e: {why_no_tree()}")
@pytest.mark.timeout(900)  # the first time, the tree is made
def test_machine_over_another_debian_has_the_checkout_too_and_leaves_the_tree_as_it_is(
    suite: str, systemd: str
) -> None:
    base = tree(suite, ("python3", "polkitd"))
    one = Machine(base)
    one.boot()
    try:
        assert one.systemctl("--version").split()[1] == systemd
        assert one.run(["cat", f"{REPOSITORY}/LICENSE"]).stdout == (REPOSITORY / "LICENSE").read_text(encoding="utf-8")
        one.write_file("/etc/e2e-file", "inside\n")
    finally:
        one.kill()
    assert not (base / "etc/e2e-file").exists()
