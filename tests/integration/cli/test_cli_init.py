"""``gpumanctl init`` on a host with fake units, real processes and sockets, and a fake NVML library."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gpumand.bus.connection import BusConnection
from gpumand.config import load
from gpumand.discovery.sockets import listeners
from gpumand.testing.bus import PrivateBus
from gpumand.testing.host_tree import HostTree, rx7900xtx
from gpumand.testing.ports import free_port
from tests.integration.cli.ctl import Ctl
from tests.integration.live import wait_until
from tests.integration.service_manager.host import FakeHost
from tests.shim import build_shim, have_compiler, shim_environment
from tests.shim.shimfile import Shim, ShimDevice

SERVER = """
import http.server, sys

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *args):
        pass

http.server.HTTPServer(("127.0.0.1", int(sys.argv[2])), Handler).serve_forever()
"""


@pytest.fixture
async def host(bus: PrivateBus, tmp_path: Path) -> AsyncIterator[FakeHost]:
    control = await BusConnection.connect(bus.address)
    one = FakeHost(bus, control, tmp_path)
    yield one
    await one.halt()
    await control.close()


async def started(host: FakeHost, port: int) -> int:
    """Start ComfyUI's unit, which listens, and a unit without a GPU; return the pid of the first."""
    argv = [sys.executable, "-c", SERVER, "/opt/ComfyUI/main.py", str(port)]
    await host.boot({"comfyui.service": {"argv": argv}, "cron.service": {"argv": ["sleep", "1000"]}, "off.service": {}})
    for unit in ("comfyui.service", "cron.service"):
        await host.call_manager("StartUnit", "ss", unit, "replace")
    pid = 0

    async def listens() -> bool:
        nonlocal pid
        pid = await host.main_pid("comfyui.service")
        return pid > 0 and any(one.port == port for one in listeners()[0])

    await wait_until("comfyui listens", listens)
    return pid


async def test_a_running_unit_becomes_a_consumer_with_url_and_footprint(
    ctl: Ctl, host: FakeHost, tmp_path: Path
) -> None:
    if not have_compiler():
        pytest.skip("gcc is not installed, so the fake NVML cannot be built")
    port, file, shim = free_port(), tmp_path / "made.toml", tmp_path / "shim"
    pid = await started(host, port)
    Shim([ShimDevice("GPU-1", name="Shim 4090", compute={pid: 13312, 1: 300})]).write(shim)
    ctl.environment |= shim_environment(build_shim(tmp_path / "nvml"), shim)

    made = await ctl("init", "--output", str(file), "--probe")

    assert (made.code, made.out) == (0, "")
    assert made.err.startswith(f"{file}: ")
    assert made.err.endswith(f". Check it with: gpumanctl config-check {file}\n")
    text = file.read_text()
    # A ComfyUI of this host that is not part of the test is found as well.
    (name,) = [name for name, one in tomllib.loads(text)["consumers"].items() if one.get("unit") == "comfyui.service"]
    assert tomllib.loads(text)["consumers"][name] == {
        "preset": "comfyui",
        "unit": "comfyui.service",
        "url": f"http://127.0.0.1:{port}",
        "vram_resident_mib": 13312,
    }
    assert "by its command line" in text
    assert "Health check: ok." in text
    assert "device 0: Shim 4090, 24.0 GiB" in text
    assert "300 MiB in " in text  # the process that is not ComfyUI
    assert "cron" not in text
    if len(tomllib.loads(text)["consumers"]) == 1:  # the footprints of any others are unknown
        assert (await ctl("config-check", str(file))).code == 0
        assert load(file).consumers[name].unload is not None


async def test_the_sources_that_the_host_has_are_written(ctl: Ctl, host: FakeHost, tmp_path: Path) -> None:
    port, tree, file = free_port(), rx7900xtx(HostTree(tmp_path / "root")), tmp_path / "made.toml"
    pid = await started(host, port)
    tree.kfd_use(pid, 38924, 13312 << 20)
    ctl.environment["GPUMAND_HOST_ROOT"] = str(tree.root)

    made = await ctl("init", "--output", str(file))

    assert made.code == 0, made.err
    written = tomllib.loads(file.read_text())
    assert written["gpu"] == {"source": "amdgpu"}
    assert [one["vram_resident_mib"] for one in written["consumers"].values() if "vram_resident_mib" in one] == [13312]
    assert "# device 0: AMD GPU 744c, 24.0 GiB\n" in file.read_text()
    tree.write("/proc/driver/nvidia/version", "NVRM version: 580.65.06\n")
    both = await ctl("init", "--no-probe")
    assert tomllib.loads(both.out)["gpu"] == {"source": ["nvml", "amdgpu"]}


ROUTER = """
import http.server, json, sys

ANSWERS = {
    "/props": {"role": "router", "model_path": "none"},
    "/models": {
        "data": [{"id": "tiny", "status": {"value": "unloaded"}}, {"id": "big", "status": {"value": "loaded"}}]
    },
}

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps(ANSWERS.get(self.path, {})).encode()
        self.send_response(200 if self.path in ANSWERS else 400)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass

http.server.HTTPServer(("127.0.0.1", int(sys.argv[2])), Handler).serve_forever()
"""


async def test_a_llama_server_unit_that_is_a_router_gets_the_router_preset_and_its_model(
    ctl: Ctl, host: FakeHost, tmp_path: Path
) -> None:
    """As in Debian's package: the unit's command line names no model."""
    port, file = free_port(), tmp_path / "made.toml"
    argv = [sys.executable, "-c", ROUTER, "/usr/bin/llama-server", str(port)]
    await host.boot({"llama-server.service": {"argv": argv}})
    await host.call_manager("StartUnit", "ss", "llama-server.service", "replace")

    async def listens() -> bool:
        return any(one.port == port for one in listeners()[0])

    await wait_until("the router listens", listens)
    made = await ctl("init", "--source", "none", "--output", str(file))
    unasked = await ctl("init", "--source", "none", "--no-probe")

    text = file.read_text()
    consumers = tomllib.loads(text)["consumers"]
    # A server of this host that is not part of the test is found as well.
    (name,) = [name for name, one in consumers.items() if one.get("unit") == "llama-server.service"]
    assert consumers[name] == {
        "preset": "llama-cpp-router",
        "model": "big",
        "unit": "llama-server.service",
        "url": f"http://127.0.0.1:{port}",
    }
    assert "recognised as llama.cpp server in router mode by its answer to /props (role: router)." in text
    assert f"{name}: vram_resident_mib" in made.err.partition("missing: ")[2]
    assert load(file).consumers[name].load is not None
    assert "# Guessed: it is a router" in unasked.out
    assert "big" not in unasked.out


async def test_an_unknown_footprint_is_left_to_fill_in(ctl: Ctl, host: FakeHost, tmp_path: Path) -> None:
    port, file = free_port(), tmp_path / "made.toml"
    await started(host, port)

    made = await ctl("init", "--source", "none")
    file.write_text(made.out)
    checked = await ctl("config-check", str(file))

    assert (made.code, made.err) == (0, "")
    assert "Health check" not in made.out  # no health route is called without --probe
    assert "vram_resident_mib" not in tomllib.loads(made.out)["consumers"]["comfyui"]
    assert "comfyui" in checked.out + checked.err  # config-check reports the missing footprint


async def test_an_existing_file_is_not_overwritten_without_force(ctl: Ctl, tmp_path: Path) -> None:
    file = tmp_path / "gpumand.toml"
    file.write_text("precious")

    refused = await ctl("init", "-o", str(file), "--source", "none")

    assert (refused.code, refused.err) == (
        1,
        f"gpumanctl: {file} exists already. Overwrite it with --force, or choose another file\n",
    )
    assert file.read_text() == "precious"
    assert (await ctl("init", "-o", str(file), "--source", "none", "--force", "-q")).code == 0
    assert 'source = "none"' in file.read_text()
    nowhere = await ctl("init", "-o", str(tmp_path / "no" / "x"), "--source", "none")
    assert (nowhere.code, nowhere.err.rstrip()) == (
        1,
        f"gpumanctl: cannot write {tmp_path}/no/x: No such file or directory",
    )


async def test_json_is_refused_by_init(ctl: Ctl) -> None:
    refused = await ctl("--json", "init")

    assert (refused.code, refused.out) == (2, "")
    assert "--json does not work with init" in refused.err


async def test_a_missing_bus_and_driver_become_comments_in_the_file() -> None:
    made = await Ctl("unix:path=/nonexistent/bus")("init")

    assert (made.code, made.err) == (0, "")
    assert "# The units could not be scanned: no D-Bus connection" in made.out
    assert "gpu" not in tomllib.loads(made.out)
