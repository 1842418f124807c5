"""gpumand-dmem.service, run by a real systemd; where dmem is missing, with another controller unknown to systemd.

The kernel treats all controllers alike in ``cgroup.subtree_control``. What dmem itself counts, only a host with a GPU
and a kernel with CONFIG_CGROUP_DMEM can show.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.host import CONFIG, UNIT_DIR, Host
from tests.e2e.machine import Machine

SERVICE = "gpumand-dmem.service"
DROP_IN = f"/run/systemd/system/{SERVICE}.d/e2e.conf"
SINCE = "/run/gpumand-dmem/since"
UNKNOWN_TO_SYSTEMD = ("dmem", "hugetlb", "rdma", "misc")
MOST_EXPOSED = 1.6
EARLY = "from gpumand.vram.dmem_early_units import EarlyUnits; print(*EarlyUnits('/').find())"
OWN_HIERARCHY = """
if [ "$(stat --file-system --format=%T /sys/fs/cgroup)" != cgroup2fs ]; then
    umount --recursive --lazy /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup
fi
cd /sys/fs/cgroup
"""


def in_hierarchy(script: str, *arguments: str) -> str:
    """Run a shell script in the root cgroup of this host, in a mount namespace of its own."""
    command = ["unshare", "--mount", "--propagation=private", "sh", "-euc", OWN_HIERARCHY + script, "sh", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="session")
def machine(each_debian: Machine) -> Machine:
    """Run on each Debian release, since systemd manages the cgroups."""
    return each_debian


@pytest.fixture
def controller(host: Host) -> Iterator[str]:
    """A controller that the machine's systemd does not know, offered to the machine."""
    offered = in_hierarchy("cat cgroup.controllers").split()
    name = next((one for one in UNKNOWN_TO_SYSTEMD if one in offered), "")
    if not name:
        pytest.skip(f"e2e: this kernel offers none of {', '.join(UNKNOWN_TO_SYSTEMD)} to cgroup v2")
    was_enabled = name in in_hierarchy("cat cgroup.subtree_control").split()
    enable = 'echo "+$1" > cgroup.subtree_control; echo "+$1" > "$2/cgroup.subtree_control"'
    in_hierarchy(enable, name, host.machine.container.name)
    yield name
    host.machine.systemctl("stop", SERVICE, check=False)
    host.machine.remove(DROP_IN, "/run/gpumand-dmem")
    host.machine.systemctl("daemon-reload")
    disable = "find /sys/fs/cgroup/$2 -name cgroup.subtree_control -depth -exec sh -c 'echo -$0 > $1' $1 {} \\;"
    in_hierarchy(f"({disable}) 2> /dev/null || true", name, host.machine.container.name)
    if not was_enabled:
        in_hierarchy('echo "-$1" > cgroup.subtree_control || true', name)


def with_controller(host: Host, controller: str, *options: str) -> None:
    """Let the service enable this controller instead of dmem."""
    command = " ".join([f"/usr/libexec/gpumand-dmem --controller={controller}", *options])
    host.machine.write_file(DROP_IN, f"[Unit]\nConditionPathExists=\n[Service]\nExecStart=\nExecStart={command}\n")
    host.machine.systemctl("daemon-reload")


def counts(host: Host, unit: str, controller: str) -> bool:
    """Whether the cgroup of a unit has files of the controller."""
    folder = f"/sys/fs/cgroup{host.machine.show(unit, 'ControlGroup')}"
    return any(name.startswith(f"{controller}.") for name in host.machine.run(["ls", folder]).stdout.split())


@pytest.fixture
def template(host: Host) -> Iterator[str]:
    """A consumer whose unit is an instance of a template, which has a slice of its own."""
    path = f"{UNIT_DIR}/e2e-llama@.service"
    host.machine.write_file(path, "[Service]\nType=exec\nExecStart=/usr/bin/sleep infinity\n")
    host.machine.systemctl("daemon-reload")
    yield "e2e-llama@a.service"
    host.machine.systemctl("stop", "e2e-llama@a.service", "system-e2e\\x2dllama.slice", check=False)
    host.machine.remove(path)


def test_units_are_counted_and_systemd_leaves_it_so(host: Host, controller: str, template: str) -> None:
    machine = host.machine
    host.unit("early", "/usr/bin/sleep infinity")
    host.unit("plain", "/usr/bin/sleep infinity")
    machine.systemctl("start", "early.service")
    machine.write_file(CONFIG, f'[consumers.llama]\nunit = "{template}"\nvram_resident_mib = 10\n')
    with_controller(host, controller)

    machine.systemctl("start", SERVICE)

    assert machine.show(SERVICE, "ActiveState") == "active"
    assert machine.show(SERVICE, "SubState") == "exited"
    machine.systemctl("start", "plain.service", template)
    for change in ((), ("daemon-reload",), ("daemon-reexec",), ("set-property", "plain.service", "CPUWeight=50")):
        machine.systemctl(*change) if change else None
        machine.systemctl("restart", "plain.service", template)
        assert all(counts(host, unit, controller) for unit in ("early.service", "plain.service", template)), change

    lines = machine.run(["cat", SINCE], user="_gpumand").stdout.splitlines()
    cgroups = [line.split(maxsplit=2)[2] for line in lines]
    assert cgroups == ["/", "/system.slice", "/system.slice/system-e2e\\x2dllama.slice"]
    started_usec = int(machine.show("early.service", "ActiveEnterTimestampMonotonic"))
    assert all(started_usec < int(line.split()[0]) for line in lines)
    found = machine.run(["python3", "-c", EARLY]).stdout.split()
    assert "early.service" in found
    assert not {"plain.service", template} & set(found)
    machine.systemctl("restart", SERVICE)
    assert machine.run(["cat", SINCE]).stdout.splitlines() == lines


def test_daemon_may_read_what_is_counted(host: Host, controller: str) -> None:
    host.unit("plain", "/usr/bin/sleep infinity")
    with_controller(host, controller)
    host.machine.systemctl("start", SERVICE, "plain.service")
    folder = f"/sys/fs/cgroup{host.machine.show('plain.service', 'ControlGroup')}"
    file = next(
        name
        for name in host.machine.run(["ls", folder]).stdout.split()
        if name.startswith(f"{controller}.") and name.endswith((".current", ".events"))
    )
    host.drop_in(f"ExecStartPre=/usr/bin/head -c 100 {SINCE} {folder}/{file} /sys/fs/cgroup/cgroup.controllers")
    host.start()
    assert host.machine.show("gpumand.service", "ActiveState") == "active"


def test_kernel_without_the_controller_leaves_the_service_inactive_without_a_failure(host: Host) -> None:
    if host.machine.run(["test", "-e", "/sys/fs/cgroup/dmem.capacity"], check=False).returncode == 0:
        pytest.skip("e2e: this kernel has the dmem controller")
    host.machine.systemctl("start", SERVICE)
    assert host.machine.show(SERVICE, "ActiveState") == "inactive"
    assert host.machine.show(SERVICE, "ConditionResult") == "no"
    assert host.machine.show(SERVICE, "Result") == "success"


def test_failure_is_visible_and_names_the_cgroup(host: Host, controller: str) -> None:
    with_controller(host, controller, "--user=4711")
    host.machine.systemctl("start", SERVICE, check=False)
    assert host.machine.show(SERVICE, "Result") == "exit-code"
    assert "could not be enabled in user.slice/user-4711.slice" in host.machine.journal(SERVICE)
    assert "/system.slice" in host.machine.run(["cat", SINCE]).stdout


def test_service_is_not_enabled_by_the_package_and_little_exposed(
    host: Host, record_exposure: Callable[[str], None]
) -> None:
    assert host.machine.systemctl("is-enabled", SERVICE, check=False).strip() == "disabled"
    assert host.machine.show(SERVICE, "ActiveState") == "inactive"
    said = host.machine.run(["systemd-analyze", "security", "--no-pager", "--offline=no", SERVICE]).stdout
    match = re.search(r"Overall exposure level for gpumand-dmem\.service: ([0-9.]+)", said)
    assert match, said
    record_exposure(f"{match[1]} (gpumand-dmem.service)")
    assert float(match[1]) <= MOST_EXPOSED, said
    fragment = host.machine.show(SERVICE, "FragmentPath")
    assert host.machine.run(["systemd-analyze", "--man=no", "verify", fragment]).stderr == ""
    assert Path(fragment).name == SERVICE
