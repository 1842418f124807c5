"""The hardening of gpumand.service denies everything that the daemon does not need, and the daemon works with it."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.client import MANAGER, NAME, ROOT, Client
from tests.e2e.host import DAEMON, VRAM_DIR, Host, holding, process
from tests.e2e.machine import Machine
from tests.shim import build_shim, have_compiler
from tests.shim.shimfile import Shim, ShimDevice

MOST_EXPOSED = 1.6
ELSEWHERE = "192.0.2.1"  # an address reserved for documentation; here an additional one of lo
SERVER = "e2e-elsewhere"
PROBE, FOUND = "/usr/local/lib/e2e-probe.py", "/run/gpumand/e2e-probe"
NVML = "/opt/e2e-nvml"
ADD_ADDRESS = f"""
import fcntl, socket, struct
request = struct.pack("16sHH4s16x", b"lo:e2e", socket.AF_INET, 0, socket.inet_aton("{ELSEWHERE}"))
fcntl.ioctl(socket.socket(socket.AF_INET, socket.SOCK_DGRAM), 0x8916, request)  # SIOCSIFADDR
"""
PROCESS = {"CapInh": 0, "CapPrm": 0, "CapEff": 0, "CapBnd": 0, "CapAmb": 0, "NoNewPrivs": 1, "Seccomp": 2}


@pytest.fixture(scope="session")
def machine(each_debian: Machine) -> Machine:
    """Run on each Debian release: the effect of a directive depends on the version of systemd."""
    return each_debian


def test_exposure_is_low_and_no_directive_is_unknown(host: Host, record_exposure: Callable[[str], None]) -> None:
    host.start()
    said = host.machine.run(["systemd-analyze", "security", "--no-pager", DAEMON]).stdout
    match = re.search(r"Overall exposure level for gpumand\.service: ([0-9.]+)", said)
    assert match, said
    record_exposure(f"{match[1]} by systemd {host.machine.systemctl('--version').split()[1]}")
    assert float(match[1]) <= MOST_EXPOSED, said
    fragment = host.machine.show(DAEMON, "FragmentPath")
    assert host.machine.run(["systemd-analyze", "--man=no", "verify", fragment]).stderr == ""


def test_daemon_is_a_user_of_its_own_without_any_capability(host: Host) -> None:
    host.start()
    text = host.machine.run(["cat", f"/proc/{host.machine.main_pid(DAEMON)}/status"]).stdout
    status = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
    assert {key: int(status[key], 16) for key in PROCESS} == PROCESS
    uid = host.machine.run(["id", "-u", "_gpumand"]).stdout.strip()
    assert status["Uid"].split() == [uid] * 4
    folders = ["/run/gpumand", "/run/gpumand-simulated", "/var/lib/gpumand"]
    modes = host.machine.run(["stat", "--format=%a %U", *folders]).stdout.splitlines()
    assert modes == ["700 _gpumand"] * len(folders)


@pytest.fixture
def elsewhere(host: Host) -> Iterator[Host]:
    """A host with an additional address, a web server on it, and files that the probe tries to use."""
    host.machine.run(["python3", "-c", ADD_ADDRESS])
    serve = ["python3", "-m", "http.server", f"--bind={ELSEWHERE}", "8000"]
    host.machine.run(["systemd-run", f"--unit={SERVER}", "--working-directory=/srv", *serve])
    get = ["curl", "--silent", "--fail", "--output", "/dev/null", f"http://{ELSEWHERE}:8000/"]
    host.machine.wait_until(lambda: host.machine.run(get, check=False).returncode == 0, "the web server answers")
    host.machine.run(["mkdir", "--parents", "--mode=0777", "/srv/e2e-open"])
    host.machine.run(["touch", "/tmp/e2e-common"])
    nodes = {"nvidiactl": (195, 255), "nvidia0": (195, 0), "e2e-other": (10, 200)}
    for name, (major, minor) in nodes.items():
        host.machine.run(["mknod", "--mode=0666", f"/dev/{name}", "c", str(major), str(minor)])
    yield host
    host.machine.systemctl("stop", SERVER)
    host.machine.remove(PROBE, "/srv/e2e-open", "/tmp/e2e-common", *(f"/dev/{name}" for name in nodes))


def probed(host: Host, *lines: str) -> dict[str, str]:
    """Start the daemon with the probe before it. Returns the result of each attempt."""
    host.machine.write_file(PROBE, Path(__file__).with_name("probe.py").read_text(encoding="utf-8"))
    host.drop_in(f"ExecStartPre=/usr/bin/python3 {PROBE} {FOUND}", *lines)
    host.start()
    found = json.loads(host.machine.run(["cat", FOUND]).stdout)
    assert isinstance(found, dict)
    return found


def test_confinement_denies_what_the_daemon_does_not_need_and_nothing_else(elsewhere: Host) -> None:
    found = probed(elsewhere)
    code = {found.pop("memory both writable and executable"), found.pop("memory made executable")}
    assert code <= {"EPERM", "EACCES"}  # from a filter of systemd, or from the kernel
    no_driver = {
        found.pop("nvidiactl"),
        found.pop("nvidia0"),
    }  # an error other than EPERM means that the policy allowed the access
    assert no_driver <= {"ok", "ENXIO", "ENODEV"}
    allowed = {"callback of ctypes", "unix socket", "name of this host", "own state", "null"}
    allowed |= {"name of another's process", "driver's files in /proc"}
    assert {what for what, ended in found.items() if ended == "ok"} == allowed
    exactly = {
        "own priority": "EPERM",
        "setuid file": "EPERM",
        "new user namespace": "EPERM",
        "personality": "EPERM",
        "packet socket": "EAFNOSUPPORT",
        "netlink socket": "EAFNOSUPPORT",
        "address elsewhere": "timeout",
        "folder open to all": "EROFS",
        "file in the common /tmp": "ENOENT",
        "another device": "EPERM",
    }
    assert {what: found[what] for what in exactly} == exactly


def test_consumers_with_addresses_of_their_own_are_reached_after_a_drop_in(elsewhere: Host) -> None:
    assert probed(elsewhere, "IPAddressAllow=192.0.2.0/24")["address elsewhere"] == "ok"


def metrics(host: Host, address: str) -> bool:
    get = ["curl", "--silent", "--fail", "--max-time", "3", f"http://{address}:9464/metrics"]
    return "gpumand_" in host.machine.run(get, check=False).stdout


@pytest.mark.parametrize("flag", ["--auto-start=no", "--expect-reply=no", "--allow-interactive-authorization=no"])
def test_call_of_another_user_with_unusual_flags_disconnects_no_client(host: Host, flag: str) -> None:
    host.start()
    before = host.machine.main_pid(DAEMON)
    call = ["call", NAME, ROOT, MANAGER, "GetStatus"]
    host.machine.run(["busctl", flag, *call], user="nobody")
    answer = host.machine.run(["busctl", *call], user="nobody").stdout  # the call before it was processed earlier
    assert "version" in answer
    assert host.machine.main_pid(DAEMON) == before


def test_http_is_answered_on_loopback(host: Host) -> None:
    host.configure("[http]", 'listen = "127.0.0.1:9464"')
    host.start()
    assert metrics(host, "127.0.0.1")


def test_http_is_answered_to_other_hosts_only_after_a_drop_in(elsewhere: Host) -> None:
    elsewhere.configure("[http]", f'listen = "{ELSEWHERE}:9464"', "allow_remote = true")
    elsewhere.start()
    assert not metrics(elsewhere, ELSEWHERE)
    elsewhere.drop_in("IPAddressAllow=192.0.2.0/24")
    elsewhere.machine.systemctl("restart", DAEMON)
    assert metrics(elsewhere, ELSEWHERE)


def test_consumer_at_the_name_localhost_is_reached(host: Host, client: Client) -> None:
    host.unit("alpha", f"{process('alpha', 10000)} --port=9001")
    routes = ('health = { path = "/health", loaded = "/model_loaded" }', 'load = { path = "/api/admin/load" }')
    host.consumer("alpha", 10000, 'url = "http://localhost:9001"', *routes)
    host.start()
    client.use("alpha", 10000)


def test_last_log_lines_of_a_failed_unit_are_read_from_the_journal(host: Host, client: Client) -> None:
    host.unit("broken", "/bin/sh -c 'echo no such model file >&2; exit 3'", "Type=notify")
    host.consumer("broken", 1000)
    host.start()
    name, message = client.refusal("Acquire", "broken", "{}")
    assert name == "org.gpumand1.Error.LoadFailed"
    assert "no such model file" in message


def test_simulator_works_in_its_own_folder(host: Host, client: Client) -> None:
    folder = "/run/gpumand-simulated"
    host.gpu('source = "simulated"', "sample_interval_sec = 0.2")
    host.unit("alpha", holding_in(folder))
    host.consumer("alpha", 10000)
    host.start()
    assert client.status()["degraded"] == ""
    client.use("alpha", 10000)


def holding_in(folder: str) -> str:
    return holding("alpha", 10000).replace(VRAM_DIR, folder)


@pytest.fixture
def with_nvml(host: Host) -> Iterator[Host]:
    """A host with a fake NVML library, which reports the memory that processes announce to the simulator."""
    host.machine.run(["mkdir", "--parents", NVML])
    inside = Path(f"/proc/{host.machine.container.leader}/root{NVML}")
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(build_shim(Path(folder)), inside)
    Shim(devices=[ShimDevice("GPU-shim", reserved_mib=400, processes_in=Path(VRAM_DIR))]).write(inside / "answers")
    environment = {"LD_LIBRARY_PATH": NVML, "GPUMAND_NVML_SHIM": f"{NVML}/answers"}
    host.drop_in(*(f"Environment={key}={value}" for key, value in environment.items()))
    host.gpu('source = "nvml"', "sample_interval_sec = 0.2")
    yield host
    host.machine.remove(NVML)


@pytest.mark.skipif(not have_compiler(), reason="e2e: gcc is not installed, so the fake NVML cannot be built")
def test_nvml_works_in_confinement_and_distinguishes_consumers_from_foreign_processes(
    with_nvml: Host, client: Client
) -> None:
    host = with_nvml
    host.holder("alpha", 10000, "User=nobody")
    host.holder("beta", 16000, "User=nobody")
    host.holder("big", 20000)
    host.unit("game", holding("game", 5000), "User=nobody")
    host.start()
    status = client.status()
    assert (status["degraded"], status["devices"][0]["source"]) == ("", "nvml")
    client.use("alpha", 10000)
    assert client.use("beta", 16000)["evicted"] == ["alpha"]
    host.machine.systemctl("start", "game.service")
    host.machine.wait_until(lambda: client.status()["devices"][0]["foreign_mib"] == 5000, "the game's memory is seen")
    name, message = client.refusal("Acquire", "big", "{}")
    assert name == "org.gpumand1.Error.InsufficientVram"
    assert "python3" in message
